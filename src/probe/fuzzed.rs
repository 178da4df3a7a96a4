//! What fuzzing asks of a whole run: whatever a server says, the run ends as a record that is true, and no credential
//! leaves in clear text where TLS was asked for.
//!
//! `fuzz/` calls this with what it makes up, the tests below with what the corpus and proptest have. In no build but those
//! two. The server knows bytes, not IMAP: after each `FF` it listens for a line, and `FE` is that line's tag.

use std::{cell::RefCell, collections::BTreeMap, net::SocketAddr, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use imaptrace_imap::{Condition, Secret};
use imaptrace_record::{Run, RunOutcome, Seconds, SpanId, StepOutcome, TraceId};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::watch,
};

use super::{Ids, Job, Prober, TargetContext};
use crate::{
    net::Family,
    plan::{
        Account, AddressChoice, Auth, Deadlines, Dns, Endpoint, Host, Journey, Limits, Mailbox, Open, Propagation,
        Security, TagStyle, Target, Timing, TlsOptions, UserName, Window,
    },
    secret::SecretSource,
};

const USER: &str = "wV9someone3Jm";
const PASSWORD: &str = "qZ4planted7Xk";
/// The server listens for so long; then it goes on, for the client may have nothing to say.
const READ_TIMEOUT: Duration = Duration::from_millis(2);
/// It listens so often; a run has half as many steps.
const TURNS: usize = 32;
/// No run waits longer: a server that has said all hangs up.
const DEADLINE: Duration = Duration::from_secs(5);

/// A byte that chooses, then what the server says.
pub fn journey(input: &[u8]) {
    let (choice, script) = input.split_first().map_or((0, input), |(choice, script)| (*choice, script));
    thread_local!(static RUNTIME: Option<Runtime> =
        tokio::runtime::Builder::new_current_thread().enable_all().build().ok());
    RUNTIME.with(|runtime| {
        let Some(runtime) = runtime else { panic!("there is no runtime") };
        runtime.block_on(run_session(choice, script));
    });
}

async fn run_session(choice: u8, script: &[u8]) {
    let Ok(listener) = TcpListener::bind("127.0.0.1:0").await else { panic!("no port is free") };
    let Ok(Ok(prepared)) = listener.local_addr().map(|address| TargetContext::new(target(choice, address))) else {
        panic!("the target cannot be made ready")
    };
    let prober = Prober::new(Dns::default());
    let (_keep, cancel) = watch::channel(false);
    let Some(account) = prepared.target().accounts.first() else { panic!("there is no account") };
    let ids = Ids { trace: TraceId::random(), root: SpanId::random(), parent: None };
    let secret = Ok(Secret::new(PASSWORD.to_owned()));
    let job = Job {
        target: &prepared,
        account,
        family: Family::Any,
        ids,
        start_lag: None,
        secret,
        usual_messages: None,
        hold_login: None,
    };
    let received = RefCell::new(Vec::new());
    let run = tokio::select! {
        run = prober.run(job, cancel) => run,
        () = serve(&listener, script, &received) => panic!("the server never ends by itself"),
    };
    check(&run, &received.borrow());
}

fn target(choice: u8, address: SocketAddr) -> Target {
    let user = UserName::new(USER).into_iter();
    let password = SecretSource::Given(Secret::new(PASSWORD.to_owned()));
    let Ok(mailbox) = Mailbox::new("INBOX") else { panic!("INBOX is a mailbox") };
    let security = if choice & 1 == 0 { Security::StartTls } else { Security::None };
    let auth = [Auth::Auto, Auth::Login, Auth::Plain, Auth::ScramSha256][usize::from(choice >> 1 & 3)];
    let tag = if choice & 8 == 0 { TagStyle::SpanId } else { TagStyle::Short };
    let propagate = if choice & 16 == 0 { Propagation::Off } else { Propagation::SessionId };
    Target {
        name: "t".to_owned(),
        group: None,
        endpoint: Endpoint { host: Host::Address(address.ip()), port: address.port() },
        security,
        tls: TlsOptions::default(),
        accounts: user
            .map(|user| Account {
                alias: "default".to_owned(),
                user,
                master_user: None,
                password: password.clone(),
                own: None,
            })
            .collect(),
        labels: BTreeMap::new(),
        journey: Journey {
            mailbox,
            open: Open::Select,
            newest: 20,
            window: Window::Newest,
            allow_empty: false,
            cold: false,
            auth,
            tag,
            propagate,
        },
        interval: Duration::from_secs(60),
        deadlines: Deadlines {
            run: DEADLINE,
            resolve: DEADLINE,
            connect: DEADLINE,
            tls: DEADLINE,
            greeting: DEADLINE,
            command: DEADLINE,
            write: DEADLINE,
            logout: Duration::from_millis(100),
        },
        limits: Limits::default(),
        timing: Timing::default(),
        address: AddressChoice::Any,
        source_address: None,
        proxy_protocol: None,
    }
}

/// Each connection plays the script from its beginning.
async fn serve(listener: &TcpListener, script: &[u8], received: &RefCell<Vec<u8>>) {
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            // A client that goes away in the middle is how it has to be.
            let _ended = respond(stream, script, received).await.is_ok();
        }
    }
}

async fn respond(mut stream: TcpStream, script: &[u8], received: &RefCell<Vec<u8>>) -> std::io::Result<()> {
    let mut tag = Vec::new();
    for (number, part) in script.split(|byte| *byte == 0xff).take(TURNS).enumerate() {
        if number > 0 {
            let mut line = Vec::new();
            let mut bytes = [0; 2048];
            while !line.ends_with(b"\n") {
                match tokio::time::timeout(READ_TIMEOUT, stream.read(&mut bytes)).await {
                    Ok(Ok(count)) if count > 0 => line.extend_from_slice(bytes.get(..count).unwrap_or_default()),
                    _ => break,
                }
            }
            received.borrow_mut().extend_from_slice(&line);
            if let Some(word) = line.split(|byte| *byte == b' ').next().filter(|word| !word.is_empty()) {
                tag = word.to_vec();
            }
        }
        let response: Vec<&[u8]> = part.split(|byte| *byte == 0xfe).collect();
        stream.write_all(&response.join(&tag[..])).await?;
    }
    stream.shutdown().await?;
    let mut rest = Vec::new();
    // Whatever it sends when nobody answers any more.
    let read = tokio::time::timeout(READ_TIMEOUT, stream.read_to_end(&mut rest)).await;
    received.borrow_mut().extend_from_slice(&rest);
    read.map(drop).map_err(std::io::Error::other)
}

fn check(run: &Run, received: &[u8]) {
    let text = serde_json::to_string(run).unwrap_or_default();
    assert_eq!(serde_json::from_str::<Run>(&text).ok().as_ref(), Some(run), "it is read back otherwise: {text}");
    let lower = text.to_ascii_lowercase();
    for secret in [USER, PASSWORD] {
        assert!(!lower.contains(&secret.to_ascii_lowercase()), "a secret is in the record: {text}");
    }
    let secured = run.server.security == Security::StartTls;
    if secured {
        let blob = STANDARD.encode(format!("\0{USER}\0{PASSWORD}"));
        let scram = STANDARD.encode(format!("n,,n={USER}"));
        for credential in [USER, PASSWORD, &blob, &scram] {
            let credential = credential.as_bytes();
            let leaked = received.windows(credential.len()).any(|window| window == credential);
            assert!(!leaked, "a credential left in clear text: {text}");
        }
        assert!(run.outcome != RunOutcome::Passed, "nobody here speaks TLS: {text}");
    }
    let failing = run.failing_step();
    if run.outcome == RunOutcome::Passed {
        assert!(run.error_type.is_none() && run.failed_step.is_none() && failing.is_none(), "{text}");
        assert!(run.first_loading_latency_s.is_some(), "it never got there: {text}");
        for name in ["LIST", "SELECT"] {
            let done =
                |step: &imaptrace_record::Step| step.name == name && step.status.map(Condition::as_str) == Some("OK");
            assert!(run.steps.iter().any(done), "passed without {name}: {text}");
        }
    } else {
        assert!(run.error_type.is_some(), "it failed and nothing says why: {text}");
        assert_eq!(failing.and_then(|step| step.error_type), run.error_type, "{text}");
    }
    let mut end = Seconds::ZERO;
    for step in &run.steps {
        assert!(step.start_s >= end || step.connection.is_some(), "steps overlap: {text}");
        end = step.end_s();
        assert!(end <= run.duration_s || step.outcome == StepOutcome::Skipped, "a step outlasts the run: {text}");
    }
    let received: u64 = run.steps.iter().filter_map(|step| step.received_bytes).sum();
    assert!(received <= run.wire_received_bytes, "more than came over the wire: {text}");
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use proptest::prelude::*;

    use super::*;

    const PIECES: &[&[u8]] = &[
        b"* OK [CAPABILITY IMAP4rev1 STARTTLS ID AUTH=PLAIN] hi\r\n\xff",
        b"* PREAUTH [CAPABILITY IMAP4rev1 STARTTLS] in\r\n\xff",
        b"* OK hi\r\n\xff",
        b"\xfe OK done\r\n\xff",
        b"\xfe OK done\r\n* BYE\r\n",
        b"\xfe OK [CAPABILITY IMAP4rev1] in\r\n\xff",
        b"* CAPABILITY IMAP4rev1 STARTTLS\r\n\xfe OK\r\n\xff",
        b"* 3 EXISTS\r\n\xfe OK\r\n\xff",
        b"* 1 FETCH (BODY[HEADER] {3}\r\nabc)\r\n\xfe OK\r\n\xff",
        b"+ go\r\n\xff",
        b"\xfe NO [AUTHENTICATIONFAILED] who is wV9someone3Jm with qZ4planted7Xk\r\n\xff",
        b"* BYE qz4PLANTED7xk\r\n",
        b"* ID (\"name\" \"wV9someone3Jm\")\r\n\xfe OK\r\n\xff",
        b"\x16\x03\x03\x00\x02\x02\x28",
        b"\r",
    ];

    #[test]
    fn what_was_found_by_fuzzing_holds() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/journey");
        let files: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.len() > 3, "{} holds next to nothing", directory.display());
        for path in files {
            journey(&fs::read(path).unwrap());
        }
    }

    #[test]
    fn the_scripted_server_can_let_a_run_pass() {
        let script = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/journey/passed")).unwrap();
        journey(&script);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_record_is_true_whatever_a_server_sends(
            choice in any::<u8>(), pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..9),
        ) {
            journey(&[&[choice][..], &pieces.concat()].concat());
        }
    }
}

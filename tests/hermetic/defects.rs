//! Ten defects of an older exporter with the same aim, each with a test that shows that imaptrace does not have it.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use imaptrace::plan::{Dns, Security, TlsOptions};
use imaptrace_imap::Condition;
use imaptrace_record::{ErrorType, Run, RunOutcome, Step, StepName, StepOutcome};
use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::metrics::v1::{metric::Data, number_data_point};

use crate::{
    agent::{otlp, roots, runtime, start, stop, target as listed},
    command_line::{GOOD, Listener, heard},
    support::{
        otlp::{Inbox, Receiver, block_on},
        program::Program,
        run::{hasty, prepare, run, run_with, steps, target},
        script::{Pem, Script},
    },
};

fn step<'a>(run: &'a Run, name: &str) -> &'a Step {
    run.steps.iter().find(|step| step.name == name).unwrap_or_else(|| panic!("no {name}: {}", steps(run)))
}

/// A tagged NO or BAD ended a command like an OK: a wrong password gave a quick latency and an account that was up.
#[tokio::test]
async fn defect_01_a_refusal_is_a_failure_and_gives_no_latency() {
    for (command, last) in [("LOGIN", "LIST"), ("LIST", "SELECT"), ("SELECT", "FETCH"), ("FETCH", "LOGOUT")] {
        for word in ["NO", "BAD"] {
            let (before, _) = GOOD.split_once(&format!("C: {last}")).unwrap();
            let before =
                before.strip_suffix("S: {tag} OK\n").unwrap_or_else(|| before.rsplit_once("S: {tag} OK").unwrap().0);
            let server = Script::play(&format!("{before}S: {{tag}} {word} refused\nC: LOGOUT\nS: {{tag}} OK\n")).await;
            let run = run(target(server.address, Security::None)).await;
            assert_eq!(run.outcome, RunOutcome::Failed, "{word} to {command}: {}", steps(&run));
            assert_eq!(run.failed_step.as_ref().map(StepName::as_str), Some(command));
            assert_eq!(
                (run.first_loading_latency_s, step(&run, command).status.map(Condition::as_str)),
                (None, Some(word))
            );
        }
    }
}

/// After an error the series of the account was no longer written, and after a recovery it stayed down.
#[test]
fn defect_02_up_is_0_after_an_error_and_1_again_after_a_recovery() {
    let receiver = Receiver::http();
    let runtime = runtime();
    let agent = runtime.block_on(async {
        let server = Script::play(&["close\n", GOOD, GOOD, GOOD, GOOD, GOOD].join("next\n")).await;
        start(&(otlp(&receiver.url(), "http/protobuf") + &listed("mail", server.address, "2s", "1900ms")))
    });
    receiver.wait(|inbox| ups(inbox).contains(&1));
    runtime.block_on(stop(agent, Signal::SIGTERM));
    let ups = receiver.look(ups);
    let recovery = ups.iter().position(|up| *up == 1).unwrap();
    assert!(recovery > 0 && ups[..recovery].iter().all(|up| *up == 0), "{ups:?}");
}

/// `imaptrace.probe.up` in each export that had it.
fn ups(inbox: &Inbox) -> Vec<i64> {
    let metrics = inbox.metrics.iter().flat_map(|got| &got.body.resource_metrics).flat_map(|one| &one.scope_metrics);
    let ups = metrics.flat_map(|scope| &scope.metrics).filter(|metric| metric.name == "imaptrace.probe.up");
    let points = ups.filter_map(|metric| match &metric.data {
        Some(Data::Gauge(gauge)) => gauge.data_points.first()?.value,
        _ => None,
    });
    points
        .map(|value| match value {
            number_data_point::Value::AsInt(number) => number,
            number_data_point::Value::AsDouble(number) => i64::from(number > 0.5),
        })
        .collect()
}

/// Connection, TLS handshake and greeting were one number.
#[tokio::test]
async fn defect_03_connect_tls_and_greeting_have_a_time_each() {
    let pem = Pem::self_signed(&["127.0.0.1"], 2020, 2040);
    let ca = pem.ca_file();
    let server = Script::play_with(&format!("pause 80\ntls\npause 60\n{GOOD}"), &pem).await;
    let mut target = target(server.address, Security::Tls);
    target.tls = TlsOptions { ca_file: Some(ca.path().to_owned()), ..TlsOptions::default() };
    let run = run(target).await;
    assert!(steps(&run).starts_with("connect tls greeting LOGIN "), "{}", steps(&run));
    // The server thinks before each: that much at least belongs there, and each begins when the last has ended.
    let (connect, tls, greeting) = (step(&run, "connect"), step(&run, "tls"), step(&run, "greeting"));
    assert!(tls.duration_s.as_micros() >= 80_000 && greeting.duration_s.as_micros() >= 60_000);
    assert!(connect.end_s() <= tls.start_s && tls.end_s() <= greeting.start_s);
}

/// FETCH 1:20 read the oldest messages, and was refused, unseen, in an empty mailbox.
#[tokio::test]
async fn defect_04_the_newest_messages_are_fetched_and_none_of_an_empty_mailbox() {
    for (exists, set) in [(30, Some("11:30")), (21, Some("2:21")), (20, Some("1:20")), (7, Some("1:7")), (0, None)] {
        let script = GOOD.replace("* 30 EXISTS", &format!("* {exists} EXISTS"));
        let mut script = script.replace("* 30 FETCH", &format!("* {exists} FETCH"));
        if set.is_none() {
            script = script.replace("C: FETCH\nS: * 0 FETCH (UID 3)\nS: {tag} OK\n", "");
        }
        let server = Script::play(&script).await;
        let run = run(target(server.address, Security::None)).await;
        assert_eq!(run.outcome, RunOutcome::Passed, "{exists}: {}", steps(&run));
        let heard = heard(server).await;
        let fetch = heard.iter().find_map(|line| line.split_once(" FETCH ")).map(|(_, rest)| rest);
        assert_eq!(fetch.and_then(|rest| rest.split(' ').next()), set, "{heard:?}");
        let expected = if set.is_some() { StepOutcome::Passed } else { StepOutcome::Skipped };
        assert_eq!(step(&run, "FETCH").outcome, expected);
    }
}

/// LOGOUT and CAPABILITY ended with their first line, and a new reader for each command could lose what had come.
#[tokio::test]
async fn defect_05_every_command_is_read_to_its_tagged_line_and_no_byte_is_lost() {
    let script = "S: * OK hi
C: CAPABILITY
s: * CAPABILITY IMAP4rev1\\r\\n
pause 40
S: {tag} OK done
C: LOGIN
S: {tag} OK [CAPABILITY IMAP4rev1] in
C: LIST
s: {tag} OK done\\r\\n* 5 EX
C: SELECT
s: ISTS\\r\\n{tag} OK done\\r\\n
C: FETCH
S: * 5 FETCH (UID 3)
S: {tag} OK done
C: LOGOUT
s: * BYE\\r\\n
pause 40
S: {tag} OK done
";
    let server = Script::play(script).await;
    let run = run(target(server.address, Security::None)).await;
    assert_eq!(steps(&run), "connect greeting CAPABILITY LOGIN LIST SELECT FETCH LOGOUT");
    let tagged = 16 + " OK done\r\n".len() as u64;
    for (name, untagged) in [("CAPABILITY", "* CAPABILITY IMAP4rev1\r\n"), ("LOGOUT", "* BYE\r\n")] {
        let step = step(&run, name);
        assert_eq!(
            (step.status.map(Condition::as_str), step.received_bytes),
            (Some("OK"), Some(untagged.len() as u64 + tagged))
        );
        assert!(step.duration_s.as_micros() >= 40_000, "{name} ends with its tagged line");
    }
    assert_eq!(step(&run, "SELECT").mailbox_messages, Some(5), "half of the line came before SELECT was sent");
    let sum: u64 = run.steps.iter().filter_map(|step| step.received_bytes).sum();
    assert_eq!(run.wire_received_bytes, sum);
}

/// Without a deadline one server that fell silent held up its own probe and, by a lock, all others.
#[tokio::test]
async fn defect_06_a_silent_server_ends_at_its_deadline_and_delays_no_other_run() {
    let silent = "S: * OK [CAPABILITY IMAP4rev1] hi\nC: LOGIN\nsilence\n";
    let server = Script::play(silent).await;
    let mut limited = target(server.address, Security::None);
    limited.deadlines = hasty();
    let stopped = tokio::time::timeout(Duration::from_secs(30), run(limited)).await.expect("it waits for ever");
    assert_eq!(
        (stopped.error_type, stopped.failed_step.as_ref().map(StepName::as_str)),
        (Some(ErrorType::TimeoutCommand), Some("LOGIN"))
    );

    let (stuck, good) = (Listener::silent_at("LOGIN").await, Script::play(GOOD).await);
    let (cancel, cancelled) = tokio::sync::watch::channel(false);
    let prepared = prepare(target(stuck.address, Security::None));
    let waiting = tokio::spawn(async move { run_with(&prepared, Dns::default(), cancelled).await });
    let mut stuck = stuck;
    stuck.wait_for_command("LOGIN", 1).await;
    assert_eq!(run(target(good.address, Security::None)).await.outcome, RunOutcome::Passed);
    assert!(!waiting.is_finished(), "the other one passed while this one stood still");
    cancel.send(true).unwrap();
    assert_eq!(waiting.await.unwrap().outcome, RunOutcome::Void);
}

/// Literals were not parsed: a header line that began with the tag ended the command.
#[tokio::test]
async fn defect_07_a_header_that_looks_like_the_end_of_the_command_does_not_end_it() {
    let header = " OK that is all\r\n";
    let size = 16 + header.len();
    let row = |number: u32| {
        let header = header.replace("\r\n", "\\r\\n");
        format!(
            "s: * {number} FETCH (UID {number} BODY[HEADER] {{{size}}}\\r\\n{{tag}}{header}\npause 40\ns: )\\r\\n\n"
        )
    };
    let script = GOOD.replace("S: * 30 FETCH (UID 3)\n", &(row(29) + &row(30)));
    let server = Script::play(&script).await;
    let run = run(target(server.address, Security::None)).await;
    assert_eq!(steps(&run), "connect greeting LOGIN LIST SELECT FETCH LOGOUT");
    let fetch = step(&run, "FETCH");
    assert_eq!((fetch.messages, fetch.literal_bytes), (Some(2), Some(2 * size as u64)));
    assert!(fetch.duration_s.as_micros() >= 80_000, "it ends with its own tagged line");
}

/// Users were labels of metrics, and neither user nor password was quoted: a space or a quote broke LOGIN.
#[test]
fn defect_08_no_telemetry_names_the_user_and_login_is_quoted() {
    let receiver = Receiver::http();
    let refused = "S: * OK [CAPABILITY IMAP4rev1] hi\nC: LOGIN\nS: {tag} NO user=ca\"nary \\\\one@example.org CA\"NARY \\\\ONE@EXAMPLE.ORG\nC: LOGOUT\nS: {tag} OK\n";
    let (login, output) = block_on(async {
        let server = Script::play(&[GOOD, refused].join("next\n")).await;
        let url = format!("imap://{}", server.address);
        let flags = ["--security", "none", "--output", "json", "--count", "2", "--every", "0", "--metrics"];
        let who = ["probe", &url, "--user", "ca\"nary \\one@example.org"];
        let output = Program::new(who.iter().chain(&flags))
            .env("IMAPTRACE_PASSWORD", "nary \"\\ {5}")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url())
            .env("RUST_LOG", "trace")
            .run()
            .await;
        (heard(server).await.swap_remove(0), output)
    });
    assert_eq!(
        login.split_once(' ').unwrap().1,
        r#"LOGIN "ca\"nary \\one@example.org" "nary \"\\ {5}""#,
        "RFC 9051 §9: quoted"
    );
    assert_eq!((output.code, output.stdout.lines().count()), (Some(1), 2), "{output:?}");
    let sent = receiver.look(|inbox| format!("{:?} {:?}", inbox.traces, inbox.metrics));
    assert!(sent.contains("probe first-load") && sent.contains("imaptrace.probe.up"), "nothing was sent");
    for text in [&output.stdout, &output.stderr, &sent] {
        let text = text.to_ascii_lowercase();
        assert!(!text.contains("nary") && !text.contains("one@example"), "{text}");
    }
}

/// Every scrape probed, so two Prometheus servers doubled the logins.
#[test]
fn defect_09_nothing_can_ask_the_agent_to_probe_and_exports_cost_no_login() {
    let receiver = Receiver::http();
    let runtime = runtime();
    let (agent, server) = runtime.block_on(async {
        let mut server = Listener::willing().await;
        let config = otlp(&receiver.url(), "http/protobuf").replace("500ms", "100ms")
            + &listed("mail", server.address, "1s", "900ms");
        let agent = start(&config);
        server.wait_for_command("LOGOUT", 1).await;
        (agent, server)
    });
    assert_eq!(listening(agent.id().unwrap()), Vec::<String>::new());
    receiver.wait(|inbox| inbox.metrics.len() >= 10);
    runtime.block_on(stop(agent, Signal::SIGTERM));
    let (runs, exports) = receiver.look(|inbox| (roots(inbox).len(), inbox.metrics.len()));
    assert_eq!(server.count("LOGIN"), runs, "a login for each run");
    assert!(runs < exports, "{runs} runs, {exports} exports of metrics");
}

/// The local addresses on which a process listens for TCP.
fn listening(pid: u32) -> Vec<String> {
    // To nobody but root does it show what it has open.
    let list = ["sudo", "-n", "ls", "-l", &format!("/proc/{pid}/fd")].map(str::to_owned);
    let list = if nix::unistd::geteuid().is_root() { &list[2..] } else { &list[..] };
    let list = std::process::Command::new(&list[0]).args(&list[1..]).output().unwrap();
    let sockets: Vec<String> = String::from_utf8(list.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| Some(line.rsplit_once("socket:[")?.1.strip_suffix(']')?.to_owned()))
        .collect();
    assert!(!sockets.is_empty(), "the agent has sockets of its own, if only for signals");
    let mut found = Vec::new();
    for table in ["tcp", "tcp6"] {
        let Ok(table) = fs::read_to_string(format!("/proc/{pid}/net/{table}")) else { continue };
        for line in table.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // Field 3 is the state, 0A is LISTEN; field 9 is the inode.
            if fields[3] == "0A" && sockets.iter().any(|socket| socket == fields[9]) {
                found.push(fields[1].to_owned());
            }
        }
    }
    found
}

/// Its tests needed somebody else's live server.
#[test]
fn defect_10_no_test_and_no_script_names_a_host_that_could_be_somebodys() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let (mut found, mut strange) = (0, Vec::new());
    for directory in ["tests", "scripts"] {
        for path in files(&root.join(directory)) {
            let Ok(text) = fs::read_to_string(&path) else { continue };
            for host in hosts(&text) {
                found += 1;
                if !is_ours(&host) {
                    strange.push(format!("{}: {host}", path.strip_prefix(&root).unwrap().display()));
                }
            }
        }
    }
    assert!(strange.is_empty(), "use loopback, or names of RFC 2606 and addresses of RFC 5737: {strange:#?}");
    assert!(found > 20, "only {found} URLs: are they looked for in the right place?");
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The hosts of all URLs of IMAP in a text; one that is put together at run time is none.
fn hosts(text: &str) -> Vec<String> {
    let ends = |character: char| character.is_whitespace() || "/\"'`()<>,;\\…".contains(character);
    let mut found = Vec::new();
    for scheme in ["imap:", "imaps:"] {
        for part in text.split(&format!("{scheme}//")).skip(1) {
            let authority = part.split(ends).next().unwrap_or_default();
            let host = authority.rsplit('@').next().unwrap_or_default();
            let host = match host.strip_prefix('[') {
                Some(host) => host.split(']').next().unwrap_or_default(),
                None => host.split(':').next().unwrap_or_default(),
            };
            if !host.is_empty() && !host.contains(['{', '$', '%']) {
                found.push(host.to_ascii_lowercase());
            }
        }
    }
    found
}

/// Loopback, an address or a name kept for documentation, or a word that stands for a host and has no domain.
fn is_ours(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => {
            let octets = address.octets();
            address.is_loopback()
                || [[192, 0, 2], [198, 51, 100], [203, 0, 113]].iter().any(|net| octets.starts_with(net))
        }
        Ok(IpAddr::V6(address)) => address.is_loopback() || address.segments().starts_with(&[0x2001, 0xdb8]),
        Err(_) => {
            let domain = |name: &str| host == name || host.ends_with(&format!(".{name}"));
            let reserved = ["localhost", "test", "example", "invalid", "example.org", "example.com", "example.net"];
            !host.contains('.') || reserved.into_iter().any(domain)
        }
    }
}

#[test]
fn the_search_for_hosts_sees_them() {
    let scheme = "imaps:";
    let text = format!("{scheme}//a:b@c@mail.live.com:993/INBOX {scheme}//[2001:db8::1]/ \"{scheme}//192.0.2.7\"");
    assert_eq!(hosts(&text), ["mail.live.com", "2001:db8::1", "192.0.2.7"]);
    assert!(!is_ours("mail.live.com") && !is_ours("8.8.8.8") && !is_ours("example.org.live.com"));
    assert!(is_ours("mail.example.org") && is_ours("127.0.0.1") && is_ours("::1") && is_ours("mail.invalid"));
}

//! Logins: what is said for which choice, and servers that break a mechanism's rules.

use std::net::SocketAddr;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use imaptrace::{
    config::Sources,
    plan::{Auth, Security, Target, UserName},
    secret::SecretSource,
    terminal::Style,
};
use imaptrace_imap::{Condition, LoginMethod, ResponseCode, Secret};
use imaptrace_record::{ErrorType, Run, RunOutcome, StepName};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
    task::JoinHandle,
};

use imaptrace_testkit::ScramPeer as Peer;

use crate::support::{
    run::{account, hasty, prepare, run, run_prepared, steps, target},
    script::{Pem, Script},
};

const GREETING: &str = "* OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL+ AUTH=PLAIN AUTH=SCRAM-SHA-256] hi\r\n";
const PASSWORD: &str = "secret";

/// A server that knows SCRAM-SHA-256, LOGOUT and nothing else, and where it strays from the rules. `TAG` is the tag of
/// AUTHENTICATE, `PROOF` the client's last message as it came.
#[derive(Clone, Copy)]
struct Server {
    iterations: u32,
    /// The line in place of its first message.
    first: Option<&'static str>,
    /// The line in place of its last.
    last: Option<&'static str>,
    /// The line that ends the exchange.
    end: &'static str,
    /// The line that answers a `*`.
    cancelled: &'static str,
}

const RIGHT: Server = Server {
    iterations: 4096,
    first: None,
    last: None,
    end: "TAG OK [CAPABILITY IMAP4rev1] in",
    cancelled: "TAG BAD cancelled",
};

impl Server {
    /// Plays one connection; ends with the lines that it heard, those of the exchange decoded, without tags.
    async fn play(self) -> (SocketAddr, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let playing = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            stream.write_all(GREETING.as_bytes()).await.unwrap();
            let (mut heard, mut line) = (Vec::new(), String::new());
            let (mut login, mut proof, mut peer) = (String::new(), String::new(), None);
            while stream.read_line(&mut line).await.unwrap_or_default() > 0 {
                let text = line.trim_end();
                let (tag, command) = text.split_once(' ').unwrap_or(("", text));
                let challenge = |text: &str| format!("+ {}", STANDARD.encode(text));
                let answer = if let Some(first) = command.strip_prefix("AUTHENTICATE SCRAM-SHA-256 ") {
                    tag.clone_into(&mut login);
                    heard.push(decoded(first));
                    let mut begun = Peer::new(&decoded(first));
                    let first = challenge(&begun.first("theirs", b"salt", self.iterations));
                    peer = Some(begun);
                    self.first.map_or(first, str::to_owned)
                } else if command == "*" {
                    heard.push(command.to_owned());
                    self.cancelled.to_owned()
                } else if command == "LOGOUT" {
                    heard.push(command.to_owned());
                    format!("* BYE\r\n{tag} OK")
                } else if command.is_empty() {
                    heard.push(String::new());
                    self.end.to_owned()
                } else if let (Some(peer), "") = (&peer, proof.as_str()) {
                    text.clone_into(&mut proof);
                    heard.push(decoded(text));
                    let right = || challenge(&peer.last(&decoded(text), PASSWORD).expect("the proof of the password"));
                    self.last.map_or_else(right, str::to_owned)
                } else {
                    heard.push(command.to_owned());
                    format!("{tag} BAD what")
                };
                let answer = answer.replace("TAG", &login).replace("PROOF", &proof);
                stream.write_all(format!("{answer}\r\n").as_bytes()).await.unwrap();
                line.clear();
            }
            heard
        });
        (address, playing)
    }
}

fn decoded(text: &str) -> String {
    String::from_utf8(STANDARD.decode(text).unwrap()).unwrap()
}

async fn against(server: Server) -> (Run, Vec<String>) {
    against_changed(server, |_| {}).await
}

async fn against_changed(server: Server, change: impl FnOnce(&mut Target)) -> (Run, Vec<String>) {
    let (address, playing) = server.play().await;
    let mut target = target(address, Security::None);
    change(&mut target);
    let run = run(target).await;
    (run, playing.await.unwrap())
}

/// The words beside the failure.
fn why(run: &Run) -> &str {
    run.failing_step().and_then(|step| step.text.as_ref()).map_or("", |text| text.as_str())
}

#[tokio::test]
async fn an_exchange_by_the_rules_logs_in_and_says_no_password() {
    let (run, heard) = against(RIGHT).await;
    // It knows no other command.
    assert!(steps(&run).starts_with("connect greeting AUTHENTICATE LIST!bad"), "{} {heard:?}", steps(&run));
    assert!(heard[0].starts_with("n,,n=someone,r="), "{heard:?}");
    assert!(heard[1].starts_with("c=biws,r=") && heard[2].is_empty(), "{heard:?}");
    assert!(heard.iter().all(|line| !line.contains(PASSWORD)), "{heard:?}");
}

#[tokio::test]
async fn what_breaks_the_rules_is_cancelled_and_called_by_its_name() {
    let first = |line| Server { first: Some(line), ..RIGHT };
    let last = |line| Server { last: Some(line), ..RIGHT };
    let iterations = |iterations| Server { iterations, ..RIGHT };
    for (server, because, proven) in [
        (iterations(2_147_483_648), "asks for 2147483648 SCRAM iterations", false),
        (iterations(600_001), "asks for 600001 SCRAM iterations", false),
        (iterations(4_095), "asks for 4095 SCRAM iterations", false),
        (iterations(0), "asks for 0 SCRAM iterations", false),
        // r=other,s=c2FsdA==,i=4096
        (first("+ cj1vdGhlcixzPWMyRnNkQT09LGk9NDA5Ng=="), "nonce does not go on from ours", false),
        // m=x
        (first("+ bT14"), "demands a SCRAM extension", false),
        (first("+ \u{1b}]0;\u{fffd}"), "is not base64", false),
        (first("+"), "does not begin with a nonce", false),
        // v= and 32 times nothing
        (
            last("+ dj1BQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBPQ=="),
            "does not have the password",
            true,
        ),
        // v=%%%
        (last("+ dj0lJSU="), "signature is not base64", true),
        // x
        (last("+ eA=="), "there is no signature", true),
        (Server { end: "+ cj1tb3Jl", ..RIGHT }, "a challenge that the mechanism does not have", true),
    ] {
        let (run, heard) = against(server).await;
        assert_eq!(run.error_type, Some(ErrorType::AuthProtocol), "{because}: {heard:?}");
        assert_eq!(run.failed_step.as_ref().map(StepName::as_str), Some("AUTHENTICATE"));
        assert!(why(&run).contains(because), "{because}: {}", why(&run));
        assert_eq!(heard.iter().any(|line| line.contains(",p=")), proven, "{because}: {heard:?}");
        assert!(heard.ends_with(&["*".to_owned(), "LOGOUT".to_owned()]), "{because}: {heard:?}");
    }
}

#[tokio::test]
async fn success_without_the_servers_proof_ends_the_conversation() {
    for server in [
        Server { first: Some("TAG OK in"), ..RIGHT },
        Server { last: Some("TAG OK in"), ..RIGHT },
        // e=invalid-proof
        Server { last: Some("+ ZT1pbnZhbGlkLXByb29m"), end: "TAG OK in", ..RIGHT },
        Server { iterations: 1, cancelled: "TAG OK in", ..RIGHT },
    ] {
        let (run, heard) = against(server).await;
        assert_eq!(run.error_type, Some(ErrorType::AuthProtocol), "{heard:?}");
        assert!(steps(&run).ends_with("AUTHENTICATE!auth_protocol LOGOUT-"), "{}", steps(&run));
        assert!(!heard.iter().any(|line| line.contains("LIST")), "{heard:?}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_a_cancel_as_it_should_changes_nothing_of_the_class() {
    for cancelled in ["* OK wait", "+ more", "other OK"] {
        let server = Server { iterations: 1, cancelled, ..RIGHT };
        let (run, heard) = against_changed(server, |target| target.deadlines = hasty()).await;
        assert_eq!(run.error_type, Some(ErrorType::AuthProtocol), "{cancelled}: {heard:?}");
        assert!(steps(&run).ends_with("AUTHENTICATE!auth_protocol LOGOUT-"), "{}", steps(&run));
    }
}

#[tokio::test]
async fn a_refused_proof_is_a_wrong_password_and_other_errors_are_the_servers_own() {
    let error = |last, end| Server { last: Some(last), end, ..RIGHT };
    for (server, class) in [
        // e=invalid-proof, e=unknown-user, e=other-error, e=no-resources
        (error("+ ZT1pbnZhbGlkLXByb29m", "TAG NO no"), ErrorType::AuthFailed),
        (error("+ ZT11bmtub3duLXVzZXI=", "TAG NO no"), ErrorType::AuthFailed),
        (error("+ ZT1vdGhlci1lcnJvcg==", "TAG NO no"), ErrorType::AuthProtocol),
        (error("+ ZT1vdGhlci1lcnJvcg==", "TAG NO [AUTHENTICATIONFAILED] no"), ErrorType::AuthFailed),
        (error("+ ZT1uby1yZXNvdXJjZXM=", "TAG NO [UNAVAILABLE] later"), ErrorType::Unavailable),
        (error("+ ZT1uby1yZXNvdXJjZXM=", "TAG BAD what"), ErrorType::AuthProtocol),
        (error("TAG NO no", ""), ErrorType::AuthFailed),
        (error("TAG NO [EXPIRED] no", ""), ErrorType::AuthExpired),
        (Server { first: Some("TAG NO no"), ..RIGHT }, ErrorType::AuthFailed),
    ] {
        let (run, heard) = against(server).await;
        assert_eq!(run.error_type, Some(class), "{heard:?} {}", why(&run));
        assert!(!heard.contains(&"*".to_owned()) && steps(&run).ends_with(" LOGOUT"), "{heard:?} {}", steps(&run));
    }
    let (run, _) = against(error("+ ZT1vdGhlci1lcnJvcg==", "TAG NO no")).await;
    assert_eq!(why(&run), "the server ended SCRAM with the error other-error");
}

#[tokio::test]
async fn what_a_server_says_back_of_the_exchange_is_cut_out() {
    let (run, heard) = against(Server { last: Some("TAG NO [AUTHENTICATIONFAILED] you said PROOF"), ..RIGHT }).await;
    assert_eq!(why(&run), "you said [redacted]");
    let proof = heard.iter().find_map(|line| line.rsplit_once(",p=")).unwrap().1;
    let json = imaptrace::terminal::json(&run).unwrap();
    assert!(!json.contains(proof) && !json.contains(&STANDARD.encode(proof)), "{json}");
}

#[tokio::test]
async fn what_was_said_in_an_exchange_that_was_given_up_is_cut_out_as_well() {
    let alert = "* OK [ALERT] you said PROOF\r\n+ dj1BQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBPQ==";
    let (run, heard) = against(Server { last: Some(alert), ..RIGHT }).await;
    assert_eq!(run.error_type, Some(ErrorType::AuthProtocol));
    let json = imaptrace::terminal::json(&run).unwrap();
    assert!(json.contains("you said [redacted]"), "{json}");
    let proof = heard.iter().find_map(|line| line.rsplit_once(",p=")).unwrap().1;
    assert!(!json.contains(proof), "{json}");
}

#[tokio::test]
async fn a_mechanism_that_has_said_all_answers_no_more_challenges() {
    let greeting = "S: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hi\nC: AUTHENTICATE PLAIN AHNvbWVvbmUAc2VjcmV0\n";
    for script in [
        format!("{greeting}S: + \nC: *\nsilence"),
        format!("{greeting}s: {}\nC: *\nsilence", "+ \\r\\n".repeat(1000)),
        format!("{greeting}S: + {}\nC: *\nsilence", "A".repeat(60_000)),
    ] {
        let server = Script::play(&script).await;
        let mut target = target(server.address, Security::None);
        target.deadlines = hasty();
        let run = run(target).await;
        assert_eq!(run.error_type, Some(ErrorType::AuthProtocol));
        assert!(steps(&run).ends_with("AUTHENTICATE!auth_protocol LOGOUT-"), "{}", steps(&run));
        let heard = server.heard().await;
        assert_eq!(heard.len(), 2, "nothing but the * follows: {heard:?}");
    }
}

/// The last line of a login at a server that offers these, with the user `owner` and the password `secret`.
async fn says(capabilities: &str, auth: Auth, master: Option<&str>, script: &str) -> Vec<String> {
    let script =
        format!("S: * OK [CAPABILITY IMAP4rev1 {capabilities}] hi\n{script}S: {{tag}} NO no\nC: LOGOUT\nS: * BYE");
    let server = Script::play(&script).await;
    let mut target = target(server.address, Security::None);
    target.accounts = vec![account("owner", PASSWORD)];
    target.accounts[0].master_user = master.and_then(UserName::new);
    target.journey.auth = auth;
    run(target).await;
    let mut heard = server.heard().await;
    for line in &mut heard {
        *line = line.split_once(' ').map_or_else(|| line.clone(), |(_, rest)| rest.to_owned());
    }
    heard
}

#[tokio::test]
async fn a_master_user_logs_in_for_the_user_by_every_mechanism() {
    let command = "C: A\n";
    let plain = says("SASL-IR AUTH=PLAIN", Auth::Auto, Some("overseer"), command).await;
    assert_eq!(plain[0], format!("AUTHENTICATE PLAIN {}", STANDARD.encode("owner\0overseer\0secret")));
    let waiting = says("AUTH=PLAIN", Auth::Plain, Some("overseer"), "C: A\nS: + \nC: b3\n").await;
    assert_eq!(waiting[..2], ["AUTHENTICATE PLAIN".to_owned(), STANDARD.encode("owner\0overseer\0secret")]);
    let scram = says("SASL-IR AUTH=SCRAM-SHA-256", Auth::Auto, Some("over,seer"), command).await;
    let scram = scram[0].strip_prefix("AUTHENTICATE SCRAM-SHA-256 ").unwrap();
    assert!(decoded(scram).starts_with("n,a=owner,n=over=2Cseer,r="), "{}", decoded(scram));
    assert_eq!(says("", Auth::Login, Some("overseer"), "C: L\n").await[0], "LOGIN \"owner*overseer\" \"secret\"");
}

#[tokio::test]
async fn the_choice_goes_by_what_is_offered_and_a_pinned_one_by_nothing_else() {
    let all = "SASL-IR AUTH=EXTERNAL AUTH=PLAIN AUTH=SCRAM-SHA-256 AUTH=LOGIN";
    for (capabilities, auth, name) in [
        (all, Auth::Auto, "AUTHENTICATE SCRAM-SHA-256 "),
        ("SASL-IR AUTH=PLAIN AUTH=LOGIN LOGINDISABLED", Auth::Auto, "AUTHENTICATE PLAIN "),
        ("SASL-IR AUTH=LOGIN", Auth::Auto, "LOGIN "),
        (all, Auth::Plain, "AUTHENTICATE PLAIN "),
        (all, Auth::Login, "LOGIN "),
        (all, Auth::External, "AUTHENTICATE EXTERNAL b3duZXI="),
    ] {
        let heard = says(capabilities, auth, None, "C: \n").await;
        assert!(heard[0].starts_with(name), "{capabilities} {auth:?}: {heard:?}");
    }
    for (capabilities, auth) in [
        ("AUTH=LOGIN LOGINDISABLED", Auth::Auto),
        ("AUTH=PLAIN LOGINDISABLED", Auth::Login),
        ("AUTH=PLAIN", Auth::ScramSha256),
        ("AUTH=PLAIN AUTH=SCRAM-SHA-256", Auth::External),
        ("AUTH=SCRAM-SHA-256", Auth::Plain),
    ] {
        let script = format!("S: * OK [CAPABILITY IMAP4rev1 {capabilities}] hi\nC: LOGOUT\nS: * BYE\nS: {{tag}} OK");
        let server = Script::play(&script).await;
        let mut target = target(server.address, Security::None);
        target.journey.auth = auth;
        let run = run(target).await;
        assert_eq!(run.error_type, Some(ErrorType::AuthMechanism), "{capabilities}");
        assert!(why(&run).contains("the server offers "), "{}", why(&run));
        assert_eq!(server.heard().await.len(), 1, "{capabilities}: nothing but LOGOUT was said");
    }
}

/// What the configuration comes to, for one target with these lines.
fn planned(lines: &str) -> (imaptrace::config::Config, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("[[targets]]\nname = \"a\"\nurl = \"imaps://a.example\"\n{lines}")).unwrap();
    let sources = Sources { file: Some(file.path().to_owned()), ..Sources::default() };
    let config = imaptrace::config::load(&sources).unwrap_or_else(|problems| panic!("{problems}"));
    let text = imaptrace::config::describe(&config);
    assert!(!text.contains("planted"), "{text}");
    (config, text)
}

#[test]
fn master_users_stand_at_targets_groups_and_accounts_and_are_never_shown() {
    let password = "password = { env = \"PASSWORD\" }\n";
    let (config, text) = planned(&format!(
        "user = \"planted-user\"\nmaster_user = \"planted-master\"\n{password}auth = \"scram-sha-256\"\n\
         [[targets.accounts]]\nname = \"own\"\nuser = \"planted-own\"\n{password}\
         [[groups]]\nname = \"fleet\"\ntargets = [\"b.example\"]\nuser = \"planted\"\nmaster_user = \"planted-{{name}}\"\n{password}"
    ));
    let masters = |index: usize| {
        let accounts = config.targets[index].accounts.iter();
        accounts.map(|account| account.master_user.as_ref().map(UserName::expose)).collect::<Vec<_>>()
    };
    assert_eq!(masters(0), [Some("planted-master"), None]);
    assert_eq!(masters(1), [Some("planted-b.example")]);
    assert!(text.contains("account     default, password of a master user from variable PASSWORD"), "{text}");
    assert!(text.contains("account     own, password from variable PASSWORD"), "{text}");
    assert!(text.contains("auth scram-sha-256"), "{text}");
}

#[test]
fn a_login_by_certificate_needs_no_password() {
    let (config, text) = planned(
        "user = \"planted\"\nauth = \"external\"\nclient_cert = \"/c.pem\"\nclient_key = \"/c.key\"\n\
         [[targets.accounts]]\nname = \"more\"\nuser = \"planted\"\n",
    );
    assert_eq!(config.targets[0].journey.auth, Auth::External);
    assert_eq!(config.targets[0].accounts.len(), 2);
    assert!(text.contains("account     default, password not needed"), "{text}");
}

/// A run against a server that says these lines to LOGIN, and then does that.
async fn refused_by(lines: &str, then: &str) -> Run {
    let answer = format!("S: {}\n", lines.replace('\n', "\nS: "));
    let script = format!("S: * OK [CAPABILITY IMAP4rev1] hi\nC: LOGIN\n{answer}{then}");
    let server = Script::play(&script).await;
    let mut target = target(server.address, Security::None);
    target.deadlines = hasty();
    run(target).await
}

#[tokio::test]
async fn a_refused_login_has_its_codes_class_however_it_is_said_and_keeps_the_words() {
    for (code, class) in [
        ("AUTHENTICATIONFAILED", ErrorType::AuthFailed),
        ("AUTHORIZATIONFAILED", ErrorType::AuthFailed),
        ("CONTACTADMIN", ErrorType::AuthFailed),
        ("EXPIRED", ErrorType::AuthExpired),
        ("PRIVACYREQUIRED", ErrorType::AuthPrivacy),
        ("UNAVAILABLE", ErrorType::Unavailable),
        ("LIMIT", ErrorType::LimitServer),
        ("INUSE", ErrorType::LimitServer),
    ] {
        for (said, then, status) in [
            ("{tag} NO", "C: LOGOUT\nclose", "NO"),
            ("{tag} BAD", "C: LOGOUT\nclose", "BAD"),
            ("{tag} BYE", "close", "BYE"),
            ("* BYE", "close", "BYE"),
            ("* NO", "close", "NO"),
            ("* BAD", "close", "BAD"),
            ("* NO", "S: * BYE gone\nclose", "NO"),
            ("* BAD", "S: * BYE [ALERT] gone\nclose", "BAD"),
            ("* NO", "silence", "NO"),
        ] {
            let run = refused_by(&format!("{said} [{code}] not like this"), then).await;
            let place = format!("{said} {code}, then {then}");
            assert_eq!(run.error_type, Some(class), "{place}: {}", why(&run));
            assert!(why(&run).starts_with("not like this"), "{place}: {}", why(&run));
            let step = run.failing_step().unwrap();
            assert_eq!(
                (step.code.map(ResponseCode::as_str), step.status.map(Condition::as_str)),
                (Some(code), Some(status)),
                "{place}"
            );
        }
    }
}

#[tokio::test]
async fn an_untagged_refusal_is_a_warning_and_the_tagged_line_alone_counts() {
    let warning = "* NO [AUTHENTICATIONFAILED] wait";
    for (end, class, words) in [
        ("{tag} NO [UNAVAILABLE] later", ErrorType::Unavailable, "later"),
        ("{tag} NO [EXPIRED] too old", ErrorType::AuthExpired, "too old"),
        ("{tag} BAD what", ErrorType::Bad, "what"),
        ("* BYE [LIMIT] too many", ErrorType::LimitServer, "wait | too many"),
    ] {
        let run = refused_by(&format!("{warning}\n{end}"), "close").await;
        assert_eq!((run.error_type, why(&run)), (Some(class), words), "{end}");
    }
    let run =
        refused_by(&format!("{warning}\n{{tag}} OK [CAPABILITY IMAP4rev1] in"), "C: LIST\nS: {tag} NO no\n").await;
    assert!(steps(&run).starts_with("connect greeting LOGIN LIST!no"), "{}", steps(&run));
    // Without a code it says nothing of the login; the first whose code says something is kept.
    let run = refused_by("* NO hm", "S: * BYE gone\nclose").await;
    assert_eq!((run.error_type, why(&run)), (Some(ErrorType::Bye), "hm | gone"));
    let run = refused_by("* NO hm\n* BAD [ALERT] look\n* NO [EXPIRED] old\n* NO [LIMIT] many", "close").await;
    assert_eq!((run.error_type, why(&run)), (Some(ErrorType::AuthExpired), "old"));
}

#[tokio::test]
async fn what_is_said_outside_a_login_is_no_answer_to_it() {
    for (lines, class, words) in [
        // Before the login was sent.
        (
            "C: CAPABILITY\nS: * CAPABILITY IMAP4rev1\ns: {tag} OK\\r\\n* BYE [AUTHENTICATIONFAILED] no\\r\\n\nclose",
            ErrorType::Bye,
            "no",
        ),
        // After its OK.
        (
            "C: CAPABILITY\nS: * CAPABILITY IMAP4rev1\nS: {tag} OK\nC: LOGIN\ns: {tag} OK [CAPABILITY IMAP4rev1] in\\r\\n* NO [AUTHENTICATIONFAILED] no\\r\\n\nC: LIST\nclose",
            ErrorType::Eof,
            "",
        ),
        (
            "C: CAPABILITY\nS: * CAPABILITY IMAP4rev1\nS: {tag} OK\nC: LOGIN\nS: {tag} OK [CAPABILITY IMAP4rev1] in\nC: LIST\nS: {tag} NO [AUTHENTICATIONFAILED] no\nclose",
            ErrorType::No,
            "no",
        ),
        (
            "C: CAPABILITY\nS: * CAPABILITY IMAP4rev1\nS: {tag} OK\nC: LOGIN\nS: {tag} OK [CAPABILITY IMAP4rev1] in\nC: LIST\nS: * BYE [EXPIRED] no\nclose",
            ErrorType::Bye,
            "no",
        ),
        (
            "C: CAPABILITY\nS: * CAPABILITY IMAP4rev1\nS: {tag} OK\nC: LOGIN\nS: {tag} OK [CAPABILITY IMAP4rev1] in\nC: LIST\nS: * BAD [UNAVAILABLE] no\nsilence",
            ErrorType::TimeoutCommand,
            "no",
        ),
    ] {
        let server = Script::play(&format!("S: * OK hi\n{lines}")).await;
        let mut target = target(server.address, Security::None);
        target.deadlines = hasty();
        let run = run(target).await;
        assert_eq!((run.error_type, why(&run)), (Some(class), words), "{lines}: {}", steps(&run));
    }
}

#[tokio::test]
async fn a_refusal_that_means_not_now_blames_no_password_whatever_the_command() {
    let throttled = "Request is throttled. Suggested Backoff Time: 89117 milliseconds";
    let many = "Too many simultaneous connections. (Failure)";
    for (said, class) in [
        (format!("BAD {throttled}"), ErrorType::LimitServer),
        (format!("NO [ALERT] {many}"), ErrorType::LimitServer),
        (format!("NO [AUTHENTICATIONFAILED] {many}"), ErrorType::AuthFailed),
        ("BAD [UNAVAILABLE] Service temporarily unavailable".to_owned(), ErrorType::Unavailable),
        (
            "NO Maximum number of connections from user+IP exceeded (mail_max_userip_connections=10)".to_owned(),
            ErrorType::LimitServer,
        ),
        ("BAD User is authenticated but not connected.".to_owned(), ErrorType::Unavailable),
        ("NO someone: Too many connections".to_owned(), ErrorType::AuthFailed),
    ] {
        let refused = refused_by(&format!("{{tag}} {said}"), "C: LOGOUT\nclose").await;
        assert_eq!(refused.error_type, Some(class), "{said}");
        let line = imaptrace::terminal::failure(&refused, Style { width: 80, colour: false, ascii: true }).unwrap();
        assert_eq!(line.contains("password"), class == ErrorType::AuthFailed, "{line}");
    }
    for said in [format!("BAD {throttled}"), format!("NO {throttled}"), "NO [LIMIT] rate".to_owned()] {
        let script = format!("S: * PREAUTH [CAPABILITY IMAP4rev1] hi\nC: LIST\nS: {{tag}} {said}\nC: LOGOUT\nclose");
        let run = run(target(Script::play(&script).await.address, Security::None)).await;
        assert_eq!(run.error_type, Some(ErrorType::LimitServer), "{said}");
    }
}

/// A server that offers SCRAM-SHA-256 and more, and refuses it with this line; what it says to what follows.
fn refuses_scram(offers: &str, said: &str, then: &str) -> String {
    format!(
        "tls\nS: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=SCRAM-SHA-256{offers}] hi\nC: AUTHENTICATE SCRAM-SHA-256 \n\
         S: {{tag}} {said}\n{then}"
    )
}

const MAILBOX: &str = "C: LIST\nS: {tag} OK done\nC: SELECT\nS: * 0 EXISTS\nS: {tag} OK done\nC: LOGOUT\nS: * BYE\n\
                       S: {tag} OK bye\nclose\n";
const IN: &str = "S: {tag} OK [CAPABILITY IMAP4rev1] in\n";
const NO: &str = "S: {tag} NO [AUTHENTICATIONFAILED] no\nC: LOGOUT\nS: * BYE\nS: {tag} OK\nclose\n";
const NO_LOGIN: &str = "C: LOGOUT\nS: * BYE\nS: {tag} OK\nclose\n";

/// Runs one after the other against a script over TLS that can be verified; what it received, without tags.
async fn over_tls(script: &str, passwords: &[&str], change: impl FnOnce(&mut Target)) -> (Vec<Run>, Vec<String>) {
    let pem = Pem::self_signed(&["127.0.0.1"], 2020, 2040);
    let server = Script::play_with(script, &pem).await;
    let ca = pem.ca_file();
    let mut target = target(server.address, Security::Tls);
    target.tls.ca_file = Some(ca.path().to_owned());
    change(&mut target);
    let mut prepared = prepare(target);
    let mut runs = Vec::new();
    for password in passwords {
        let mut next = prepared.target().clone();
        next.accounts[0].password = SecretSource::Given(Secret::new((*password).into()));
        // As at a reload.
        prepared = prepare(next).following(&prepared);
        runs.push(run_prepared(&prepared).await);
    }
    let mut heard = server.heard().await;
    for line in &mut heard {
        let words: Vec<_> = line.split(' ').skip(1).take(2).collect();
        *line = words.join(" ");
    }
    (runs, heard)
}

#[tokio::test]
async fn an_account_that_cannot_use_scram_gets_in_by_plain_and_by_plain_alone_from_then_on() {
    let plain = |line: &str| format!("C: AUTHENTICATE PLAIN AHNvbWVvbmUAc2VjcmV0\n{IN}{line}{MAILBOX}");
    let greeting = "next\ntls\nS: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=SCRAM-SHA-256 AUTH=PLAIN] hi\n";
    let first = refuses_scram(" AUTH=PLAIN", "NO [AUTHENTICATIONFAILED] no SCRAM for someone", &plain(""));
    let script = format!("{first}{greeting}{}", plain(""));
    let (runs, heard) = over_tls(&script, &["secret", "secret"], |_| {}).await;
    let [first, second] = &runs[..] else { panic!() };
    assert_eq!(
        steps(first),
        "connect tls greeting AUTHENTICATE!auth_failed AUTHENTICATE LIST SELECT FETCH- LOGOUT",
        "{heard:?}"
    );
    assert_eq!((first.outcome, first.error_type, &first.failed_step), (RunOutcome::Passed, None, &None));
    let refused = &first.steps[3];
    assert_eq!(
        (refused.mechanism.map(LoginMethod::as_str), refused.code.map(ResponseCode::as_str)),
        (Some("SCRAM-SHA-256"), Some("AUTHENTICATIONFAILED"))
    );
    assert_eq!(refused.text.as_ref().map(imaptrace_record::ServerText::as_str), Some("no SCRAM for [default]"));
    assert_eq!(first.steps[4].mechanism.map(LoginMethod::as_str), Some("PLAIN"));
    // The user waits for both.
    let loaded = first.steps.iter().find(|step| step.name == "SELECT").unwrap().end_s();
    assert_eq!(first.first_loading_latency_s, Some(loaded));
    assert!(
        refused.end_s() <= first.steps[4].start_s && first.loading_steps().any(|step| step.span_id == refused.span_id)
    );
    // It goes through JSON and back, and is drawn.
    let again: Run = serde_json::from_str(&imaptrace::terminal::json(first).unwrap()).unwrap();
    assert_eq!(&again, first);
    let drawn = imaptrace::terminal::waterfall(first, Style { width: 100, colour: false, ascii: true });
    assert!(drawn.contains("auth_failed: NO [AUTHENTICATIONFAILED] no SCRAM for [default]"), "{drawn}");
    assert_eq!(steps(second), "connect tls greeting AUTHENTICATE LIST SELECT FETCH- LOGOUT", "{heard:?}");
    assert_eq!(heard.iter().filter(|line| line.contains("SCRAM")).count(), 1, "{heard:?}");
}

#[tokio::test]
async fn only_a_refusal_that_the_mechanism_may_explain_is_followed_by_another_try() {
    for (said, class) in [
        ("NO [AUTHENTICATIONFAILED] no", None),
        ("NO [CONTACTADMIN] no", None),
        ("NO [CANNOT] no", None),
        ("NO no", None),
        ("NO [UNAVAILABLE] no", Some(ErrorType::Unavailable)),
        ("NO [LIMIT] no", Some(ErrorType::LimitServer)),
        ("NO [INUSE] no", Some(ErrorType::LimitServer)),
        ("NO Too many connections", Some(ErrorType::LimitServer)),
        ("NO [EXPIRED] no", Some(ErrorType::AuthExpired)),
        ("NO [PRIVACYREQUIRED] no", Some(ErrorType::AuthPrivacy)),
        ("NO [REFERRAL imap://other.example.org/] no", Some(ErrorType::Referral)),
        ("BAD what", Some(ErrorType::Bad)),
        ("BAD [AUTHENTICATIONFAILED] no", Some(ErrorType::AuthFailed)),
        ("OK in", Some(ErrorType::AuthProtocol)),
    ] {
        let then = if class.is_some() { NO_LOGIN.to_owned() } else { format!("C: AUTHENTICATE PLAIN\n{IN}{MAILBOX}") };
        let (runs, heard) = over_tls(&refuses_scram(" AUTH=PLAIN", said, &then), &["secret"], |_| {}).await;
        assert_eq!(runs[0].error_type, class, "{said}: {heard:?}");
        assert_eq!(heard.iter().any(|line| line == "AUTHENTICATE PLAIN"), class.is_none(), "{said}: {heard:?}");
    }
    // e=other-error: SCRAM says itself that the password is not the reason.
    let failed = "NO no\n";
    let script = refuses_scram(" AUTH=PLAIN", failed, NO_LOGIN)
        .replace("S: {tag} NO no\n", "S: + ZT1vdGhlci1lcnJvcg==\nC: \nS: {past} NO no\n");
    let (runs, heard) = over_tls(&script, &["secret"], |_| {}).await;
    assert_eq!(runs[0].error_type, Some(ErrorType::AuthProtocol), "{heard:?}");
    assert!(!heard.iter().any(|line| line == "AUTHENTICATE PLAIN"), "{heard:?}");
}

#[tokio::test]
async fn login_is_the_other_try_where_plain_is_not_offered_and_none_where_it_is_disabled() {
    let login = format!("C: LOGIN\n{IN}{MAILBOX}");
    let (runs, _) = over_tls(&refuses_scram("", "NO no", &login), &["secret"], |_| {}).await;
    assert!(steps(&runs[0]).contains("AUTHENTICATE!auth_failed LOGIN LIST"), "{}", steps(&runs[0]));
    let (runs, _) = over_tls(&refuses_scram(" LOGINDISABLED", "NO no", NO_LOGIN), &["secret"], |_| {}).await;
    assert_eq!(steps(&runs[0]), "connect tls greeting AUTHENTICATE!auth_failed LOGOUT");
}

#[tokio::test]
async fn a_password_is_sent_after_a_refused_proof_under_verified_tls_alone_and_where_nothing_is_pinned() {
    type Change = fn(&mut Target);
    let changes: [(Change, bool); 4] = [
        (|target| target.tls.insecure = true, true),
        (|target| target.journey.auth = Auth::ScramSha256, true),
        (|target| target.security = Security::None, false),
        (|_| {}, true),
    ];
    for (number, (change, tls)) in changes.into_iter().enumerate() {
        let allowed = number == 3;
        let then = if allowed { &format!("C: AUTHENTICATE PLAIN\n{IN}{MAILBOX}") } else { NO_LOGIN };
        let script = refuses_scram(" AUTH=PLAIN", "NO no", then);
        let script = if tls { &script } else { script.trim_start_matches("tls\n") };
        let (runs, heard) = over_tls(script, &["secret"], change).await;
        assert_eq!(runs[0].error_type, (!allowed).then_some(ErrorType::AuthFailed), "{number}: {heard:?}");
        assert_eq!(heard.iter().any(|line| line == "AUTHENTICATE PLAIN"), allowed, "{number}: {heard:?}");
    }
    // A password that was refused is not said in another way.
    let script = format!("tls\nS: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hi\nC: AUTHENTICATE PLAIN\n{NO}");
    let (runs, heard) = over_tls(&script, &["secret"], |_| {}).await;
    assert_eq!(steps(&runs[0]), "connect tls greeting AUTHENTICATE!auth_failed LOGOUT", "{heard:?}");
}

#[tokio::test]
async fn the_other_try_is_made_once_for_a_secret_and_again_for_a_new_one() {
    let both = refuses_scram(" AUTH=PLAIN", "NO no", &format!("C: AUTHENTICATE PLAIN\n{NO}"));
    let alone = refuses_scram(" AUTH=PLAIN", "NO no", NO_LOGIN);
    let expired = refuses_scram(" AUTH=PLAIN", "NO no", "C: AUTHENTICATE PLAIN\nS: {tag} NO [EXPIRED] old\nclose\n");
    let gone = refuses_scram(" AUTH=PLAIN", "NO no", "C: AUTHENTICATE PLAIN\nS: * BYE enough\nclose\n");
    let later = refuses_scram(
        " AUTH=PLAIN",
        "NO no",
        &format!("C: AUTHENTICATE PLAIN\nS: {{tag}} NO [UNAVAILABLE] later\n{NO_LOGIN}"),
    );
    let works = refuses_scram(" AUTH=PLAIN", "NO no", &format!("C: AUTHENTICATE PLAIN\n{IN}{MAILBOX}"));
    let script =
        [&both, &alone, &alone, &expired, &alone, &gone, &alone, &later, &works].map(String::as_str).join("next\n");
    let passwords = ["one", "one", "one", "two", "two", "three", "three", "four", "four"];
    let (runs, heard) = over_tls(&script, &passwords, |_| {}).await;
    let logins: Vec<_> =
        runs.iter().map(|run| steps(run).split_whitespace().filter(|step| step.starts_with("AUTH")).count()).collect();
    assert_eq!(logins, [2, 1, 1, 2, 1, 2, 1, 2, 2], "{heard:?}");
    let classes: Vec<_> = runs.iter().map(|run| run.error_type).collect();
    let refused = Some(ErrorType::AuthFailed);
    assert_eq!(
        classes,
        [
            refused,
            refused,
            refused,
            Some(ErrorType::AuthExpired),
            refused,
            Some(ErrorType::Bye),
            refused,
            Some(ErrorType::Unavailable),
            None
        ]
    );
    // The step that failed the run is the last one that was tried.
    assert_eq!(runs[0].failing_step().unwrap().mechanism.map(LoginMethod::as_str), Some("PLAIN"));
}

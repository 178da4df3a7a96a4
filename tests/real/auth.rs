//! Every way to log in, against a real Dovecot: mechanisms, master users, client certificates, and what is refused.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use imaptrace::{
    plan::{AddressChoice, Auth, Host, Security, Target, UserName},
    secret::SecretSource,
};
use imaptrace_imap::{LoginMethod, Mechanism};
use imaptrace_record::{ErrorType, EventName, Run, RunOutcome, Step};

use crate::support::{
    dovecot::{Dovecot, Options, USER1, USER2, USER3},
    proxy::Proxy,
    run::{account, prepare, run, run_prepared, steps, target},
};

const SASL: [Auth; 2] = [Auth::Plain, Auth::ScramSha256];
const ALL: [Auth; 3] = [Auth::Login, Auth::Plain, Auth::ScramSha256];
const SCRAM: &str = "auth_mechanisms = plain login scram-sha-256\n";
/// A user whose password the server itself does not know.
const HASHED: (&str, &str) = ("hashed", "pass, word=1 ü");

fn at(server: &Dovecot, user: (&str, &str), auth: Auth) -> Target {
    let mut target = target(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), server.tls), Security::Tls);
    target.endpoint.host = Host::parse("localhost").unwrap();
    target.address = AddressChoice::V4;
    target.tls.ca_file = Some(server.ca.clone());
    target.accounts = vec![account(user.0, user.1)];
    target.journey.auth = auth;
    target
}

fn start(settings: &str) -> Dovecot {
    Dovecot::start(&Options { settings: settings.to_owned(), ..Options::default() })
}

/// A file that Dovecot's own user can read.
fn public(directory: &Path, name: &str, content: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn login(run: &Run) -> &Step {
    let login = run.steps.iter().find(|step| matches!(step.name.as_str(), "LOGIN" | "AUTHENTICATE"));
    login.unwrap_or_else(|| panic!("no login in {}", steps(run)))
}

fn mechanism(auth: Auth) -> &'static str {
    match auth {
        Auth::Login => "LOGIN",
        Auth::Plain => "PLAIN",
        Auth::External => "EXTERNAL",
        Auth::Auto | Auth::ScramSha256 => "SCRAM-SHA-256",
    }
}

fn assert_passed(run: &Run, auth: Auth) {
    assert_eq!(run.outcome, RunOutcome::Passed, "{auth:?}: {} {:?}", steps(run), run.failing_step());
    assert_eq!(login(run).mechanism.map(LoginMethod::as_str), Some(mechanism(auth)));
}

#[tokio::test]
async fn every_mechanism_takes_every_password_and_the_strongest_comes_first() {
    let directory = tempfile::tempdir().unwrap();
    let hash = Command::new("doveadm").args(["pw", "-s", "SCRAM-SHA-256", "-p", HASHED.1]).output().unwrap();
    let hash = String::from_utf8(hash.stdout).unwrap();
    assert!(hash.starts_with("{SCRAM-SHA-256}"), "{hash}");
    let users = public(directory.path(), "users", &format!("{}:{hash}", HASHED.0));
    let server = start(&format!("{SCRAM}passdb {{\n  driver = passwd-file\n  args = {}\n}}\n", users.display()));
    for auth in [Auth::Auto, Auth::ScramSha256, Auth::Plain, Auth::Login] {
        for user in [USER1, USER2, USER3, HASHED] {
            assert_passed(&run(at(&server, user, auth)).await, auth);
        }
    }
    // Where no TLS is asked for, the proof alone goes over the line.
    let proxy = Proxy::start(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), server.plain)).await;
    let mut clear = at(&server, USER2, Auth::Auto);
    (clear.security, clear.endpoint.port) = (Security::None, proxy.address.port());
    assert_passed(&run(clear).await, Auth::Auto);
    let sent = String::from_utf8(proxy.conversations()[0].sent.clone()).unwrap();
    assert!(sent.contains(" AUTHENTICATE SCRAM-SHA-256 "), "{sent}");
    assert!(!sent.contains("two words") && !sent.contains(&base64(USER2.1)), "{sent}");
}

fn base64(text: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(text)
}

#[tokio::test]
async fn an_exchange_is_one_step_with_a_turn_for_each_plus_with_and_without_sasl_ir() {
    let with = start(SCRAM);
    let without = start(&format!("{SCRAM}imap_capability = IMAP4rev1 ID ENABLE IDLE LITERAL+ NAMESPACE\n"));
    for (server, auth, turns) in [
        (&with, Auth::Login, 0),
        (&with, Auth::Plain, 0),
        (&with, Auth::ScramSha256, 2),
        (&without, Auth::Plain, 1),
        (&without, Auth::ScramSha256, 3),
    ] {
        let proxy = Proxy::start(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), server.plain)).await;
        let mut target = at(server, USER1, auth);
        (target.security, target.endpoint.port) = (Security::None, proxy.address.port());
        let run = run(target).await;
        assert_passed(&run, auth);
        let step = login(&run);
        assert_eq!(step.events.iter().filter(|event| event.name == EventName::Continuation).count(), turns, "{auth:?}");
        assert_eq!(run.steps.iter().filter(|step| step.name == "AUTHENTICATE" || step.name == "LOGIN").count(), 1);
        // Its bytes are those that crossed the line, and the times add up.
        let sent = String::from_utf8(proxy.conversations()[0].sent.clone()).unwrap();
        let tag = step.span_id.unwrap().to_string();
        let next = run.steps.iter().skip_while(|step| step.span_id != login(&run).span_id).nth(1).unwrap();
        let whole = sent.split_once(&tag).unwrap().1;
        let whole = whole.split_once(&next.span_id.unwrap().to_string()).unwrap().0;
        assert_eq!(step.sent_bytes, Some((tag.len() + whole.len()) as u64), "{whole}");
        let received: u64 = run.steps.iter().filter_map(|step| step.received_bytes).sum();
        assert_eq!(run.wire_received_bytes, received, "the steps add up to the connection");
        let parts = [step.server_s, step.network_s, step.transfer_s].map(Option::unwrap);
        let sum = parts.into_iter().reduce(imaptrace_record::Seconds::saturating_add);
        assert_eq!(sum, Some(step.duration_s));
    }
}

#[tokio::test]
async fn a_master_user_opens_another_users_mailbox_by_every_mechanism() {
    let directory = tempfile::tempdir().unwrap();
    let masters = public(directory.path(), "masters", "overseer:{PLAIN}sees all\n");
    let server = start(&format!(
        "{SCRAM}auth_verbose = yes\nauth_master_user_separator = *\npassdb {{\n  driver = passwd-file\n  args = {}\n  master = yes\n}}\n",
        masters.display()
    ));
    for auth in ALL {
        let mut target = at(&server, (USER1.0, "sees all"), auth);
        target.accounts[0].master_user = UserName::new("overseer");
        let run = run(target).await;
        assert_passed(&run, auth);
        let found = run.steps.iter().find(|step| step.name == "FETCH").and_then(|step| step.messages);
        assert_eq!(found, Some(20), "it is the mailbox of user1");
    }
    let log = server.log();
    assert_eq!(log.matches("Master user logging in as user1").count(), 3, "{log}");
    // The user's own password is not the master's.
    let mut wrong = at(&server, USER1, Auth::Plain);
    wrong.accounts[0].master_user = UserName::new("overseer");
    assert_eq!(run(wrong).await.error_type, Some(ErrorType::AuthFailed));
}

#[tokio::test]
async fn a_wrong_password_is_refused_by_every_mechanism_and_the_session_goes_on_to_logout() {
    let server = start(&format!("{SCRAM}auth_failure_delay = 0\n"));
    for (number, auth) in ALL.into_iter().enumerate() {
        // Dovecot holds back an address after a wrong password: each has its own.
        let mut target = at(&server, (USER1.0, "wrong"), auth);
        target.source_address = Some(Ipv4Addr::new(127, 0, 1, 1 + u8::try_from(number).unwrap()).into());
        let run = run(target).await;
        assert_eq!(run.error_type, Some(ErrorType::AuthFailed), "{auth:?}: {:?}", run.failing_step());
        assert_eq!(login(&run).mechanism.map(LoginMethod::as_str), Some(mechanism(auth)));
        assert!(steps(&run).ends_with("!auth_failed LOGOUT"), "{}", steps(&run));
        assert_eq!(run.first_loading_latency_s, None);
    }
}

#[tokio::test]
async fn what_is_pinned_and_not_offered_is_not_replaced() {
    let server = start("");
    let run = run(at(&server, USER1, Auth::ScramSha256)).await;
    assert_eq!(run.error_type, Some(ErrorType::AuthMechanism));
    assert!(steps(&run).ends_with("AUTHENTICATE!auth_mechanism LOGOUT"), "{}", steps(&run));
    let text = login(&run).text.as_ref().unwrap().as_str();
    assert_eq!(text, "auth is \"scram-sha-256\", and the server offers LOGIN, PLAIN");
}

/// A certificate authority, and a client's certificate from it with its key.
struct Identities {
    directory: tempfile::TempDir,
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Identities {
    fn new(common_name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "clients");
        let ca_pem = parameters.self_signed(&authority).unwrap().pem();
        let issuer = rcgen::Issuer::new(parameters, authority);
        let pair = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, common_name);
        let certificate = parameters.signed_by(&pair, &issuer).unwrap();
        let ca = public(directory.path(), "ca.pem", &ca_pem);
        let key = public(directory.path(), "client.key", &pair.serialize_pem());
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        let certificate = public(directory.path(), "client.pem", &certificate.pem());
        Self { directory, ca, certificate, key }
    }

    fn settings(&self) -> String {
        format!(
            "ssl_ca = <{}\nssl_verify_client_cert = yes\nssl_require_crl = no\nauth_ssl_require_client_cert = yes\n",
            self.ca.display()
        )
    }

    fn shown_by(&self, mut target: Target) -> Target {
        target.tls.client_cert = Some(self.certificate.clone());
        target.tls.client_key = Some(self.key.clone());
        target
    }
}

#[tokio::test]
async fn a_server_that_wants_a_client_certificate_gets_it_and_refuses_who_has_none() {
    let identities = Identities::new("prober");
    let server = start(&format!("{SCRAM}{}", identities.settings()));
    for auth in SASL {
        assert_passed(&run(identities.shown_by(at(&server, USER1, auth))).await, auth);
    }
    let mut by_starttls = identities.shown_by(at(&server, USER1, Auth::Plain));
    (by_starttls.security, by_starttls.endpoint.port) = (Security::StartTls, server.plain);
    assert_passed(&run(by_starttls).await, Auth::Plain);
    let none = run(at(&server, USER1, Auth::Plain)).await;
    assert_eq!(none.error_type, Some(ErrorType::AuthFailed), "{:?}", none.failing_step());
    assert!(login(&none).text.as_ref().unwrap().as_str().contains("valid SSL certificate"), "{:?}", login(&none));
    // One that another authority made.
    let other = run(Identities::new("prober").shown_by(at(&server, USER1, Auth::Plain))).await;
    assert_eq!(other.outcome, RunOutcome::Failed, "{}", steps(&other));
}

#[tokio::test]
async fn a_certificate_alone_logs_in_by_external() {
    let identities = Identities::new("user1");
    let users = public(identities.directory.path(), "users", "user1:::::::nopassword\n");
    let mut settings = format!("auth_mechanisms = plain external\n{}", identities.settings());
    write!(
        settings,
        "auth_ssl_username_from_cert = yes\nssl_cert_username_field = commonName\n\
         passdb {{\n  driver = passwd-file\n  mechanisms = external\n  args = {}\n}}\n",
        users.display()
    )
    .unwrap();
    let server = start(&settings);
    let mut target = identities.shown_by(at(&server, ("user1", "x"), Auth::External));
    target.accounts[0].password = SecretSource::Nowhere;
    assert_passed(&run(target.clone()).await, Auth::External);
    // Somebody else's mailbox is not to be had with it.
    target.accounts[0].user = UserName::new("user2").unwrap();
    assert_eq!(run(target).await.error_type, Some(ErrorType::AuthFailed));
}

#[tokio::test]
async fn an_account_whose_password_is_stored_for_no_scram_gets_in_by_plain_and_the_next_time_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let hash = Command::new("doveadm").args(["pw", "-s", "SHA512-CRYPT", "-p", HASHED.1]).output().unwrap();
    let hash = String::from_utf8(hash.stdout).unwrap();
    assert!(hash.starts_with("{SHA512-CRYPT}"), "{hash}");
    let users = public(directory.path(), "users", &format!("{}:{hash}", HASHED.0));
    let server = start(&format!(
        "{SCRAM}auth_failure_delay = 0\npassdb {{\n  driver = passwd-file\n  args = {}\n}}\n",
        users.display()
    ));
    let prepared = prepare(at(&server, HASHED, Auth::Auto));
    let first = run_prepared(&prepared).await;
    assert_eq!(first.outcome, RunOutcome::Passed, "{} {:?}", steps(&first), first.failing_step());
    let logins: Vec<_> = first.steps.iter().filter(|step| step.name == "AUTHENTICATE").collect();
    let ended = |step: &&Step| (step.mechanism.unwrap(), step.error_type);
    assert_eq!(
        logins.iter().map(ended).collect::<Vec<_>>(),
        [
            (LoginMethod::Sasl(Mechanism::ScramSha256), Some(ErrorType::AuthFailed)),
            (LoginMethod::Sasl(Mechanism::Plain), None)
        ]
    );
    let second = run_prepared(&prepared).await;
    assert_passed(&second, Auth::Plain);
    // Others of the same server go on to use SCRAM, and where the certificate is not checked no password is said.
    assert_passed(&run(at(&server, USER1, Auth::Auto)).await, Auth::Auto);
    let mut unchecked = at(&server, HASHED, Auth::Auto);
    (unchecked.tls.insecure, unchecked.tls.ca_file) = (true, None);
    let unchecked = run(unchecked).await;
    assert_eq!(unchecked.error_type, Some(ErrorType::AuthFailed), "{}", steps(&unchecked));
    assert_eq!(login(&unchecked).mechanism.map(LoginMethod::as_str), Some("SCRAM-SHA-256"));
    assert_eq!(unchecked.steps.iter().filter(|step| step.name == "AUTHENTICATE").count(), 1);
}

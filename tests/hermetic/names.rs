//! What name servers can answer, rightly and wrongly, and where a run goes from there.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use imaptrace::plan::{AddressKind, Dns, Host, Security, Target};
use imaptrace_record::{ErrorType, ResolveFacts, Run, RunOutcome};
use tokio::sync::watch;

use crate::support::{
    names::{self, NO_ERROR, NXDOMAIN, NameServer, Question, REFUSED, SERVFAIL},
    run::{prepare, run_with, steps, target},
    script::Script,
};

/// The shortest conversation that passes: an empty mailbox, already logged in.
pub(crate) const GOOD: &str = "S: * PREAUTH [CAPABILITY IMAP4rev1] in
C: LIST
S: {tag} OK
C: SELECT
S: * 0 EXISTS
S: {tag} OK
C: LOGOUT
S: * BYE
S: {tag} OK
";

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn named(server: SocketAddr) -> Target {
    let mut target = target(server, Security::None);
    target.endpoint.host = Host::parse("mail.example.test").unwrap();
    target.deadlines.resolve = Duration::from_millis(900);
    target
}

async fn run_by(names: &NameServer, target: Target) -> Run {
    let (_keep, cancel) = watch::channel(false);
    run_with(&prepare(target), names.dns(), cancel).await
}

/// How a run ended whose name is answered like this while a server waits at 127.0.0.1, and what was asked.
async fn answered(
    answering: impl Fn(&Question) -> Vec<Vec<u8>> + Send + Sync + 'static,
) -> (Option<ErrorType>, Run, Vec<Question>) {
    let server = Script::play(GOOD).await;
    let names = NameServer::start(answering).await;
    let run = run_by(&names, named(server.address)).await;
    match run.error_type {
        None => assert!(steps(&run).starts_with("resolve connect greeting"), "{}", steps(&run)),
        Some(class) => assert_eq!(steps(&run), format!("resolve!{}", class.as_str()), "nothing is connected to"),
    }
    (run.error_type, run, names.asked())
}

fn answers(run: &Run) -> &[IpAddr] {
    &run.steps[0].dns.as_ref().unwrap().answers
}

/// An address where nobody is: whoever believes a forged answer ends there.
fn forged() -> Vec<IpAddr> {
    ips(&["127.66.66.66"])
}

fn good() -> Vec<IpAddr> {
    ips(&["127.0.0.1"])
}

#[tokio::test]
async fn a_family_that_has_no_answer_does_not_cost_the_other() {
    for code in [NO_ERROR, SERVFAIL, NXDOMAIN, REFUSED] {
        let (class, run, _) = answered(move |question| {
            let code = if question.is_v4() { NO_ERROR } else { code };
            vec![question.answer(code, &good())]
        })
        .await;
        assert_eq!((class, answers(&run)), (None, good().as_slice()), "AAAA with RCODE {code}");
    }
}

#[tokio::test]
async fn an_answer_under_another_id_or_to_another_question_is_no_answer() {
    for forge in [names::with_wrong_id, names::with_wrong_name] {
        let (class, run, _) = answered(move |question| {
            vec![forge(question.answer(NO_ERROR, &forged())), question.answer(NO_ERROR, &good())]
        })
        .await;
        assert_eq!((class, answers(&run)), (None, good().as_slice()), "the right one came second");
        let (class, run, _) = answered(move |question| vec![forge(question.answer(NO_ERROR, &forged()))]).await;
        assert_eq!((class, answers(&run)), (Some(ErrorType::TimeoutResolve), [].as_slice()), "it came alone");
    }
    let (class, run, _) = answered(|question| vec![question.answer_of("other.example.test", &forged())]).await;
    assert_eq!((class, answers(&run)), (Some(ErrorType::DnsNodata), [].as_slice()), "of another name");
}

#[tokio::test]
async fn a_name_that_leads_in_a_circle_or_ever_further_ends_after_some_questions() {
    let circle = |question: &Question| {
        let to = if question.name.starts_with("mail") { "post" } else { "mail" };
        vec![question.alias(&format!("{to}.example.test"))]
    };
    let (class, _, asked) = answered(circle).await;
    assert_eq!(class, Some(ErrorType::DnsNodata));
    assert!(asked.len() <= 40, "{} questions", asked.len());
    let (class, _, asked) = answered(|question| vec![question.alias(&question.name)]).await;
    assert_eq!(class, Some(ErrorType::DnsNodata));
    assert!(asked.len() <= 40, "{} questions", asked.len());
    let (class, _, asked) = answered(|question| vec![question.alias(&format!("a{}", question.name))]).await;
    assert_eq!(class, Some(ErrorType::DnsNodata));
    assert!(asked.len() <= 40, "{} questions", asked.len());
}

#[tokio::test]
async fn an_alias_that_leads_somewhere_is_followed() {
    let (class, run, _) = answered(|question| {
        let alias = question.name.starts_with("mail");
        vec![if alias { question.alias("post.example.test") } else { question.answer(NO_ERROR, &good()) }]
    })
    .await;
    assert_eq!((class, answers(&run)), (None, good().as_slice()));
    assert_eq!(run.steps[0].dns.as_ref().unwrap().question, "mail.example.test");
}

#[tokio::test]
async fn an_answer_that_did_not_fit_is_asked_for_again_over_tcp() {
    let cut = |question: &Question| {
        vec![if question.tcp { question.answer(NO_ERROR, &good()) } else { names::truncated(question) }]
    };
    let (class, run, asked) = answered(cut).await;
    assert_eq!((class, answers(&run)), (None, good().as_slice()));
    assert!(asked.iter().any(|question| question.tcp) && asked.iter().any(|question| !question.tcp));
    let (class, ..) =
        answered(|question| if question.tcp { Vec::new() } else { vec![names::truncated(question)] }).await;
    assert_eq!(class, Some(ErrorType::TimeoutResolve), "TCP that says nothing");
}

#[tokio::test]
async fn what_is_no_message_is_a_failed_name_server() {
    let (class, ..) = answered(|question| vec![question.answer(NO_ERROR, &[])[..7].to_vec()]).await;
    assert_eq!(class, Some(ErrorType::DnsServfail), "half a header");
    let (class, ..) = answered(|question| {
        let mut message = question.answer(NO_ERROR, &good());
        message.truncate(message.len() - usize::from(question.is_v4()));
        vec![message]
    })
    .await;
    assert_eq!(class, Some(ErrorType::DnsServfail), "half an address");
    let (class, ..) = answered(|_| vec![Vec::new()]).await;
    assert_eq!(class, Some(ErrorType::TimeoutResolve), "an empty packet");
}

#[tokio::test]
async fn of_a_thousand_addresses_eight_are_tried_and_32_are_on_record() {
    // Nobody listens at this port of any of them, and loopback refuses at once.
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let many: Vec<IpAddr> = (0..1000_u32).map(|number| IpAddr::from((0x7f10_0000 + number).to_be_bytes())).collect();
    let all = many.clone();
    let names = NameServer::start(move |question| {
        vec![if question.tcp { question.answer(NO_ERROR, &all) } else { names::truncated(question) }]
    })
    .await;
    let run = run_by(&names, named(closed)).await;
    assert_eq!(
        (run.error_type, steps(&run).as_str()),
        (Some(ErrorType::ConnectRefused), "resolve connect!connect_refused")
    );
    assert_eq!(answers(&run).len(), ResolveFacts::KEPT);
    assert!(answers(&run).iter().all(|address| many.contains(address)));
    let attempts = &run.failing_step().unwrap().connect.as_ref().unwrap().attempts;
    let tried: Vec<IpAddr> = attempts.iter().map(|attempt| attempt.peer.ip()).collect();
    assert_eq!(tried, answers(&run)[..8]);
}

/// A run with addresses forbidden, of a name with these addresses.
async fn with_denied(deny: &[AddressKind], addresses: &[&str]) -> Run {
    let server = Script::play(GOOD).await;
    let addresses = ips(addresses);
    let names = NameServer::start(move |question| vec![question.answer(NO_ERROR, &addresses)]).await;
    let (_keep, cancel) = watch::channel(false);
    run_with(&prepare(named(server.address)), Dns { deny: deny.to_vec(), ..names.dns() }, cancel).await
}

#[tokio::test]
async fn a_name_that_leads_only_to_forbidden_addresses_makes_the_run_void_and_nothing_is_connected_to() {
    use AddressKind::{LinkLocal, Loopback, Private};
    for (deny, address) in [
        (Loopback, "127.0.0.1"),
        (Loopback, "::1"),
        (Loopback, "::ffff:127.0.0.1"),
        (LinkLocal, "169.254.169.254"),
        (LinkLocal, "fe80::1"),
        (Private, "10.0.0.1"),
        (Private, "fd00::1"),
    ] {
        let run = with_denied(&[deny], &[address]).await;
        assert_eq!((run.outcome, steps(&run).as_str()), (RunOutcome::Void, "resolve!address_denied"), "{address}");
        assert_eq!(answers(&run), ips(&[address]), "what it would have been is told");
        assert!(run.failing_step().unwrap().text.as_ref().unwrap().as_str().contains("[dns] deny"));
    }
}

#[tokio::test]
async fn forbidden_addresses_are_left_out_where_there_are_others_and_by_default_none_is_forbidden() {
    let run =
        with_denied(&[AddressKind::LinkLocal, AddressKind::Private], &["169.254.169.254", "127.0.0.1", "10.0.0.1"])
            .await;
    assert_eq!(run.outcome, RunOutcome::Passed, "{}", steps(&run));
    let attempts = &run.steps[1].connect.as_ref().unwrap().attempts;
    assert_eq!(attempts.iter().map(|attempt| attempt.peer.ip()).collect::<Vec<_>>(), good());
    assert_eq!(answers(&run).len(), 3);
    let run = with_denied(&[], &["127.0.0.1"]).await;
    assert_eq!(run.outcome, RunOutcome::Passed, "{}", steps(&run));
}

#[tokio::test]
async fn an_address_in_the_configuration_is_the_operators_own_word() {
    let server = Script::play(GOOD).await;
    let (_keep, cancel) = watch::channel(false);
    let dns = Dns { deny: vec![AddressKind::Loopback], ..Dns::default() };
    let run = run_with(&prepare(target(server.address, Security::None)), dns, cancel).await;
    assert_eq!(run.outcome, RunOutcome::Passed, "{}", steps(&run));
}

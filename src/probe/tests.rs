//! Whole runs against a server in the same thread, whose clocks the tests move. What servers can do wrong is tested in
//! `tests/hermetic`, where the clocks cannot be reached.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use imaptrace_imap::{CommandName, Secret};
use imaptrace_record::{ErrorType, Run, RunOutcome, Seconds, SpanId, Step, TraceId};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
    sync::watch,
};

use super::{recorder::Recorder, uncertainty::Uncertainty, *};
use crate::{
    clock::{self, Anchor, injected},
    net::Family,
    plan::{
        Account, AddressChoice, Auth, Deadlines, Dns, Endpoint, Host, Journey, Limits, Mailbox, Open, Propagation,
        Security, TagStyle, Target, Timing, TlsOptions, UserName, Window,
    },
    secret::SecretSource,
};

const PAUSE: Duration = Duration::from_millis(60);
const MILLISECOND: Duration = Duration::from_millis(1);

fn target(address: SocketAddr) -> Target {
    Target {
        name: "test".into(),
        group: None,
        endpoint: Endpoint { host: Host::Address(address.ip()), port: address.port() },
        security: Security::None,
        tls: TlsOptions::default(),
        accounts: vec![Account {
            alias: "default".into(),
            user: UserName::new("someone").unwrap(),
            master_user: None,
            password: SecretSource::Given(Secret::new("secret".into())),
            own: None,
        }],
        labels: BTreeMap::new(),
        journey: Journey {
            mailbox: Mailbox::new("INBOX").unwrap(),
            open: Open::Select,
            newest: 20,
            window: Window::Newest,
            allow_empty: false,
            cold: false,
            auth: Auth::Login,
            tag: TagStyle::SpanId,
            propagate: Propagation::Off,
        },
        interval: Duration::from_secs(60),
        deadlines: Deadlines::default(),
        limits: Limits::default(),
        timing: Timing::default(),
        address: AddressChoice::Any,
        source_address: None,
        proxy_protocol: None,
    }
}

/// What the server saw of SELECT: it took us no less than the first, and no more than the second.
type Witness = (Duration, Duration);

/// Answers every command; SELECT after a pause, in the middle of which `meanwhile` happens. `behind` is called with the name
/// of each command when its answer is on the line and has not been read yet.
async fn serve(listener: TcpListener, meanwhile: impl Fn(), behind: impl Fn(&str)) -> Witness {
    // When each command was received, and answered.
    let (mut received, mut answered) = (Vec::new(), Vec::new());
    let (stream, _) = listener.accept().await.unwrap();
    let mut stream = BufReader::new(stream);
    stream.write_all(b"* OK [CAPABILITY IMAP4rev1] hi\r\n").await.unwrap();
    let mut line = String::new();
    while stream.read_line(&mut line).await.unwrap() > 0 {
        received.push(clock::now());
        let mut words = line.split_whitespace();
        let (tag, name) = (words.next().unwrap(), words.next().unwrap());
        let before = match name {
            "LOGIN" => "* CAPABILITY IMAP4rev1\r\n",
            "LOGOUT" => "* BYE\r\n",
            "SELECT" => "* 0 EXISTS\r\n",
            _ => "",
        };
        if name == "SELECT" {
            tokio::time::sleep(PAUSE / 2).await;
            meanwhile();
            tokio::time::sleep(PAUSE / 2).await;
        }
        let answer = format!("{before}{tag} OK done\r\n");
        answered.push(clock::now());
        stream.write_all(answer.as_bytes()).await.unwrap();
        let name = name.to_owned();
        line.clear();
        if name == "LOGOUT" {
            stream.shutdown().await.unwrap();
        }
        behind(&name);
    }
    // LOGIN, LIST, SELECT, LOGOUT: SELECT came after LIST was answered, and was over before LOGOUT was received.
    (answered[2] - received[2], received[3] - answered[1])
}

/// The run, how long it took from outside, and what the server saw.
async fn run(meanwhile: impl Fn() + 'static) -> (Run, Seconds, Witness) {
    run_with(meanwhile, |_| ()).await
}

async fn run_with(meanwhile: impl Fn() + 'static, behind: impl Fn(&str) + 'static) -> (Run, Seconds, Witness) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let prepared = TargetContext::new(target(listener.local_addr().unwrap())).unwrap();
    let prober = Prober::new(Dns::default());
    let (_keep, cancel) = watch::channel(false);
    let account = &prepared.target().accounts[0];
    let ids = Ids { trace: TraceId::random(), root: SpanId::random(), parent: None };
    let secret = account.password.load().await;
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
    let before = clock::now();
    let (run, witness) = tokio::join!(prober.run(job, cancel), serve(listener, meanwhile, behind));
    (run, clock::now().duration_since(before).into(), witness)
}

/// SELECT took as long as the server saw it take, to 1 ms.
fn assert_right(run: &Run, (least, most): Witness) {
    let taken = select(run).duration_s.to_duration();
    assert!(taken + MILLISECOND >= least && taken <= most + MILLISECOND, "{least:?} {taken:?} {most:?}");
}

fn select(run: &Run) -> &Step {
    run.steps.iter().find(|step| step.name == "SELECT").unwrap()
}

#[tokio::test]
async fn a_wall_clock_that_is_set_in_the_middle_of_a_run_bends_no_duration() {
    for step in [3600, -3600, 1, -1] {
        let (run, outside, witness) = run(move || injected::step(step)).await;
        assert_eq!(run.outcome, RunOutcome::Passed, "{step}: {run:?}");
        assert_right(&run, witness);
        let taken = select(&run);
        assert!(taken.duration_s >= Seconds::from(PAUSE) && taken.duration_s <= outside, "{step}: {taken:?}");
        assert!(
            taken.server_s >= Some(Seconds::from(PAUSE / 2)) && taken.server_s <= Some(outside),
            "{step}: {taken:?}"
        );
        let sum = run.steps.iter().fold(Seconds::ZERO, |sum, step| sum.saturating_add(step.duration_s));
        assert!(run.duration_s <= outside && sum <= run.duration_s, "{step}: {run:?}");
        for pair in run.steps.windows(2) {
            assert!(pair[0].end_s() <= pair[1].start_s, "{step}: {pair:?}");
        }
    }
}

#[tokio::test]
async fn a_run_over_which_the_machine_slept_is_void_and_its_durations_are_those_of_the_waking() {
    let (run, outside, witness) = run(|| {
        injected::sleep(Duration::from_secs(3600));
        injected::step(3600);
    })
    .await;
    assert_right(&run, witness);
    assert_eq!((run.outcome, run.error_type), (RunOutcome::Void, Some(ErrorType::Suspended)));
    assert_eq!(run.failing_step().unwrap().error_type, Some(ErrorType::Suspended));
    assert_eq!((run.first_loading_latency_s, run.agent_s), (None, None));
    assert!(select(&run).duration_s >= Seconds::from(PAUSE) && run.duration_s <= outside, "{run:?}");
}

/// A processor that is busy for so long with something else than the probe: both run in this thread.
const BUSY: Duration = Duration::from_millis(40);

fn busy() {
    let since = clock::now();
    while clock::now().duration_since(since) < BUSY {
        std::hint::spin_loop();
    }
}

/// A run on a machine that is busy when the answer to this command is on the line.
async fn run_busy_behind(command: &'static str) -> (Run, Seconds, Witness) {
    let behind = move |name: &str| {
        if name == command {
            busy();
        }
    };
    run_with(|| (), behind).await
}

#[tokio::test]
async fn a_machine_that_is_busy_between_two_steps_makes_the_latency_uncertain_by_as_much_and_no_step() {
    let (run, _, witness) = run_busy_behind("LIST").await;
    assert_eq!(run.outcome, RunOutcome::Passed, "{run:?}");
    // The answer to LIST bears the stamp of its arrival, and so does that to SELECT.
    assert_right(&run, witness);
    let list = run.steps.iter().find(|step| step.name == "LIST").unwrap();
    assert!(list.duration_s < Seconds::from(BUSY / 2), "{list:?}");
    assert!(run.uncertain == Some(true) && run.is_latency_uncertain() && run.paused(), "{run:?}");
    assert!(run.uncertainty_s >= Some(Seconds::from(BUSY * 9 / 10)) && run.uncertainty_s >= run.agent_s, "{run:?}");
    assert!(run.steps.iter().all(|step| step.uncertain.is_none() && step.uncertainty_s.is_none()), "{run:?}");
}

#[tokio::test]
async fn a_logout_that_is_read_long_after_the_server_has_closed_puts_nothing_in_doubt() {
    let (run, _, witness) = run_busy_behind("LOGOUT").await;
    assert_right(&run, witness);
    assert_eq!(run.steps.last().unwrap().name, CommandName::Logout);
    assert!(run.steps.iter().all(|step| step.uncertain.is_none()), "{run:?}");
    // What this machine did meanwhile is its own affair.
    assert_eq!(run.uncertain.is_some(), run.uncertainty_s.is_some(), "{run:?}");
}

/// A run of these steps of 10 ms each, with how far off its duration is, in microseconds.
fn recorded(steps: &[(&str, u64)]) -> Run {
    let prepared = TargetContext::new(target(([127, 0, 0, 1], 1).into())).unwrap();
    let ids = Ids { trace: TraceId::random(), root: SpanId::random(), parent: None };
    let job = Job {
        target: &prepared,
        account: &prepared.target().accounts[0],
        family: Family::Any,
        ids,
        start_lag: None,
        secret: Ok(Secret::new("secret".into())),
        usual_messages: None,
        hold_login: None,
    };
    let mut recorder = Recorder::new(&job, Anchor::now());
    let mut at = recorder.start();
    for (name, micros) in steps {
        if *name == "LOGOUT" {
            recorder.loaded();
        }
        let mut step = recorder.open(*name);
        recorder.time(&mut step, at, at + 10 * MILLISECOND);
        at += 10 * MILLISECOND;
        let duration = Duration::from_micros(*micros);
        recorder.note_uncertainty(&mut step, Uncertainty { duration, ..Uncertainty::default() });
        recorder.push(step);
    }
    recorder.finish()
}

#[test]
fn a_run_is_uncertain_by_what_all_its_steps_are_though_none_alone_is_and_never_by_logout() {
    let run = recorded(&[("LOGIN", 900), ("LIST", 900), ("SELECT", 900), ("FETCH", 0), ("LOGOUT", 9_000)]);
    assert!(run.steps.iter().all(|step| step.uncertain.is_none()), "{run:?}");
    assert_eq!((run.uncertain, run.uncertainty_s), (Some(true), Some(Seconds::from_micros(2_700))));
    let run = recorded(&[("LOGIN", 900), ("LIST", 900), ("SELECT", 0), ("FETCH", 0), ("LOGOUT", 9_000)]);
    assert_eq!((run.uncertain, run.uncertainty_s), (None, None), "1.8 ms of 40 ms");
    // A step can be uncertain where the whole is not.
    let run = recorded(&[("LOGIN", 0), ("LIST", 0), ("SELECT", 0), ("FETCH", 1_700), ("LOGOUT", 0)]);
    assert_eq!(run.steps[3].uncertainty_s, Some(Seconds::from_micros(1_700)));
    assert_eq!((run.uncertain, run.uncertainty_s), (Some(true), None));
    assert!(!run.is_latency_uncertain());
}

#[tokio::test]
async fn a_run_holds_little_while_it_waits() {
    let prepared = TargetContext::new(target(([127, 0, 0, 1], 1).into())).unwrap();
    let prober = Prober::new(Dns::default());
    let (_keep, cancel) = watch::channel(false);
    let account = &prepared.target().accounts[0];
    let ids = Ids { trace: TraceId::random(), root: SpanId::random(), parent: None };
    let secret = account.password.load().await;
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
    let run = prober.run(job, cancel);
    let (whole, step) = (size_of_val(&run) + size_of::<conversation::Conversation<'_>>(), size_of::<Step>());
    assert!(whole <= 7 << 10, "the future of a run, and what it keeps in a box: {whole} bytes");
    assert!(step <= 640, "a step: {step} bytes");
}

#[tokio::test]
async fn a_run_that_never_ends_still_has_its_record() {
    let prepared = TargetContext::new(target(([127, 0, 0, 1], 143).into())).unwrap();
    let ids = Ids { trace: TraceId::random(), root: SpanId::random(), parent: None };
    let job = Job {
        target: &prepared,
        account: &prepared.target().accounts[0],
        family: Family::Any,
        ids,
        start_lag: Some(MILLISECOND),
        secret: Ok(Secret::new("secret".into())),
        usual_messages: None,
        hold_login: None,
    };
    let run = job.stub().end(ErrorType::Internal);
    assert_eq!((run.trace_id, run.span_id, run.outcome), (ids.trace, ids.root, RunOutcome::Void));
    assert_eq!((run.error_type, run.start_lag_s), (Some(ErrorType::Internal), Some(Seconds::from(MILLISECOND))));
    assert_eq!((run.target.as_str(), run.account.as_str(), run.steps.len()), ("test", "default", 0));
}

#[test]
fn the_record_has_the_address_family_where_the_target_has_a_run_for_each() {
    use imaptrace_record::AddressFamily::{Ipv4, Ipv6};

    let mut target = target(SocketAddr::from(([127, 0, 0, 1], 143)));
    for (address, families) in [
        (AddressChoice::Each, [Some(Ipv4), Some(Ipv6)]),
        (AddressChoice::Any, [None; 2]),
        (AddressChoice::V6, [None; 2]),
    ] {
        target.address = address;
        assert_eq!([Family::V4, Family::V6].map(|family| recorded_family(&target, family)), families);
    }
}

//! Where a command's time went, shown by causes that the test puts in: a long line, a lossy one, a narrow one, and a
//! Dovecot whose index is locked. Pauses of a scripted server are tests/hermetic/attribution.rs's.
//!
//! Each line lives in network namespaces of its own, for which a test must be root. A noisy machine adds time to every
//! part: each cause is large beside what noise there is, and what is asserted is where it went.

use std::{os::unix::fs::MetadataExt as _, time::Duration};

use imaptrace::plan::{Security, Target};
use imaptrace_record::{Run, RunOutcome, Seconds, ServerWait, Step};

use crate::support::{
    dovecot::{Dovecot, Options, USER1},
    net::{
        line::{Line, SERVER, Way},
        namespace::Namespace,
    },
    parts::{Parts as _, add_up, command, commands, details, ms},
    run::{account, run, target},
    script::{Pem, Script},
};

const BOTH: [Security; 2] = [Security::None, Security::Tls];

// === a line of twenty milliseconds each way ===

const DELAY: Duration = Duration::from_millis(20);
const ROUND_TRIP: Seconds = Seconds::from_micros(40_000);

/// A run whose FETCH is of some ten segments. The two lines more stand before the answers to SELECT and FETCH.
fn script(before_select_is_answered: &str, before_fetch_is_answered: &str) -> String {
    format!(
        "S: * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] hi
C: AUTHENTICATE PLAIN
S: + go
c: 22
S: {{tag}} OK [CAPABILITY IMAP4rev1] in
C: LIST
S: * LIST () \"/\" INBOX
S: {{tag}} OK
C: SELECT
{before_select_is_answered}
s: * 30 EXISTS\\r\\n{{tag}} OK\\r\\n
C: FETCH
{before_fetch_is_answered}
s: * 30 FETCH (BODY[] {{14000}}\\r\\n{})\\r\\n{{tag}} OK\\r\\n
C: LOGOUT
S: * BYE
S: {{tag}} OK",
        "x".repeat(14_000)
    )
}

/// One run over a line; what the script calls may harm it.
fn over_a_line(script: &str, security: Security) -> Run {
    let line = Line::new(DELAY);
    let pem = Pem::self_signed(&[SERVER], 2020, 2040);
    let script = if security == Security::Tls { format!("tls\n{script}") } else { script.to_owned() };
    let listener = line.server.listen(SERVER);
    let hazard = line.hazard.clone();
    let run = line.client.wait_for(|| async {
        let server = Script::play_on(
            listener,
            &script,
            Some(pem.clone()),
            Box::new(move |word| match word {
                "lose our next" => hazard.lose_next(Way::ToServer),
                "lose the server's next" => hazard.lose_next(Way::ToClient),
                "overtake the server's next" => hazard.overtake_next(Way::ToClient),
                _ => panic!("no such harm: {word}"),
            }),
        );
        let mut target = target(server.address, security);
        let ca = pem.ca_file();
        target.tls.ca_file = (security == Security::Tls).then(|| ca.path().to_owned());
        let run = run(target).await;
        drop(server.heard().await);
        run
    });
    assert_eq!(run.outcome, RunOutcome::Passed, "{:?}", run.failing_step());
    add_up(&run);
    run
}

#[test]
fn a_long_line_is_network_and_not_server() {
    for security in BOTH {
        let runs = [(); 3].map(|()| over_a_line(&script("", ""), security));
        let run = runs.iter().min_by_key(|run| run.duration_s).unwrap();
        let details = details(run);
        assert!(run.server.rtt_min_s.unwrap() >= ROUND_TRIP, "{details}");
        // The handshake of TLS 1.2 has two turns, and its last bytes are the server's: the greeting follows at once.
        let turns = |name: &str| match name {
            "AUTHENTICATE" | "tls" => 2,
            "greeting" if security == Security::Tls => 0,
            _ => 1,
        };
        for step in run.steps.iter().filter(|step| step.was_started()) {
            let network = step.network_s.unwrap();
            let round_trip = run.server.rtt_min_s.unwrap().as_micros();
            // The round trip is known by the end alone, and the kernel's figure for it moves by some microseconds.
            let least = turns(step.name.as_str()) * round_trip;
            assert!(network.as_micros() + 100 >= least, "{}: {details}", step.name);
            assert!(turns(step.name.as_str()) > 0 || network == Seconds::ZERO, "{}: {details}", step.name);
        }
        // A round trip is no wait for the server.
        let quick = run.steps.iter().filter(|step| step.server_s.unwrap_or_default() < ServerWait::SHORTEST);
        assert_eq!(quick.map(|step| step.waits.len()).sum::<usize>(), 0, "{details}");
        for step in commands(run) {
            let turns = turns(step.name.as_str());
            let [server, network, _] = step.parts().map(|part| part.as_micros() / turns);
            assert!((36_000..80_000).contains(&network), "{security:?} {}: {details}", step.name);
            assert!(server < 20_000, "{security:?} {}: {details}", step.name);
        }
    }
}

fn uncertain(run: &Run) -> Vec<&str> {
    let uncertain = |step: &&Step| step.uncertain == Some(true);
    run.steps.iter().filter(uncertain).map(|step| step.name.as_str()).collect()
}

/// FETCH could be off by this or more, and by no more than all of it but a round trip. The run could, too.
fn in_doubt_by(run: &Run, least: Seconds) {
    let fetch = command(run, "FETCH");
    let by = fetch.uncertainty_s.unwrap();
    assert!(by >= least && by <= fetch.duration_s.saturating_sub(ROUND_TRIP), "{by:?}: {}", details(run));
    assert!(run.uncertainty_s >= Some(by), "{:?}: {}", run.uncertainty_s, details(run));
}

#[test]
fn a_segment_that_the_server_has_to_send_again_makes_that_step_uncertain_and_no_other() {
    for security in BOTH {
        let run = over_a_line(&script("", "call lose the server's next"), security);
        assert!(command(&run, "FETCH").out_of_order > Some(0), "{}", details(&run));
        assert_eq!((uncertain(&run), run.uncertain), (vec!["FETCH"], Some(true)), "{}", details(&run));
        // The round trip in which it was sent again.
        in_doubt_by(&run, ms(30));
    }
}

#[test]
fn a_segment_that_we_have_to_send_again_makes_that_step_uncertain_and_no_other() {
    for security in BOTH {
        let run = over_a_line(&script("call lose our next", ""), security);
        assert!(command(&run, "FETCH").retransmits > Some(0), "{}", details(&run));
        assert_eq!((uncertain(&run), run.uncertain), (vec!["FETCH"], Some(true)), "{}", details(&run));
        // TCP waits for no less than 200 ms before it sends the only segment again.
        in_doubt_by(&run, ms(190));
    }
}

#[test]
fn segments_out_of_order_make_a_step_uncertain_only_if_they_were_late_enough_to_matter() {
    for security in BOTH {
        let run = over_a_line(&script("", "call overtake the server's next"), security);
        let fetch = command(&run, "FETCH");
        assert!(fetch.out_of_order > Some(0), "{}", details(&run));
        // The one that was overtaken came right behind the other; a busy machine may have held it up.
        assert!(uncertain(&run).iter().all(|name| *name == "FETCH"), "{}", details(&run));
        let figures = [Some(fetch.duration_s), fetch.server_s, fetch.transfer_s].into_iter().flatten();
        let enough = fetch.uncertainty_s.is_some_and(|by| figures.into_iter().any(|it| it.is_uncertain_by(by)));
        assert_eq!(fetch.uncertain == Some(true), enough, "{}", details(&run));
    }
}

// === Dovecot ===

fn at(server: &Dovecot, security: Security, (user, password): (&str, &str)) -> Target {
    let port = if security == Security::Tls { server.tls } else { server.plain };
    let mut target = target(([127, 0, 0, 1], port).into(), security);
    target.tls.ca_file = Some(server.ca.clone());
    target.accounts = vec![account(user, password)];
    target
}

#[test]
fn a_narrow_line_is_transfer_and_not_server() {
    let inside = Namespace::new();
    let server = inside.enter(|| Dovecot::start(&Options { messages: 1250, ..Options::default() }));
    let fetch = |security| {
        let run = inside.wait_for(|| {
            let mut target = at(&server, security, USER1);
            target.journey.newest = 1250;
            run(target)
        });
        assert_eq!(run.outcome, RunOutcome::Passed, "{:?}", run.failing_step());
        add_up(&run);
        run
    };
    // Dovecot reads the messages once, and then has what FETCH asks for in its index.
    fetch(Security::None);
    inside.command("ip link set lo mtu 1500 gso_max_segs 1");
    let mut shaping = "add";
    for burst in ["5kb", "32kb"] {
        inside.command(&format!("tc qdisc {shaping} dev lo root tbf rate 8mbit burst {burst} latency 2s"));
        shaping = "change";
        for security in BOTH {
            let run = fetch(security);
            let details = format!("{burst} {security:?}: {}", details(&run));
            let fetch = command(&run, "FETCH");
            let [server, _, transfer] = fetch.parts();
            assert!(transfer >= ms(400), "{details}");
            assert!(transfer.as_micros() * 10 > fetch.duration_s.as_micros() * 8, "{details}");
            assert!(server.as_micros() * 5 < fetch.duration_s.as_micros(), "{details}");
        }
    }
}

#[test]
fn a_held_lock_on_the_index_is_server() {
    let server = Dovecot::start(&Options { messages: 5, ..Options::default() });
    let maildir = server.maildir(USER1.0);
    let (lock, new) = (maildir.join("dovecot-uidlist.lock"), maildir.join("new"));
    let owner = std::fs::metadata(&maildir).unwrap();
    let make = |path: &std::path::Path, text: &str| {
        std::fs::write(path, text).unwrap();
        std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid())).unwrap();
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    // The first LIST of a mailbox makes its index.
    runtime.block_on(run(at(&server, Security::None, USER1)));
    for (number, security) in BOTH.into_iter().enumerate() {
        make(&lock, "");
        // Only a mailbox with something new in it needs the lock.
        make(&new.join(format!("17.M{number}P1.example")), "Subject: new\r\n\r\nnew\r\n");
        let (run, ()) = runtime.block_on(async {
            tokio::join!(run(at(&server, security, USER1)), async {
                tokio::time::sleep(Duration::from_millis(2500)).await;
                std::fs::remove_file(&lock).unwrap();
            })
        });
        assert_eq!(run.outcome, RunOutcome::Passed, "{:?}", run.failing_step());
        add_up(&run);
        let details = format!("{security:?}: {}", details(&run));
        let select = command(&run, "SELECT");
        let [server, network, transfer] = select.parts();
        assert!(server >= ms(1000), "{details}");
        // By its own clock, in steps of a millisecond that it rounds up.
        let reported = select.reported_s.unwrap();
        assert!(reported >= ms(1000) && reported <= select.duration_s.saturating_add(ms(4)), "{reported:?}: {details}");
        let [wait] = &select.waits[..] else { panic!("{select:?}") };
        assert!(wait.server_s >= ms(1000) && wait.server_s <= server, "{wait:?}: {details}");
        assert!(network.saturating_add(transfer) < ms(200), "{details}");
        for other in commands(&run).filter(|other| other.name != "SELECT") {
            assert!(other.parts()[0] < server, "{details}");
        }
    }
}

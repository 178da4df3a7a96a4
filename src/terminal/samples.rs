//! Runs to draw in tests: the cases that users meet, and a generator of those that they should not.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use imaptrace_imap::{Condition, ResponseCode};
use imaptrace_record::{
    AddressFamily, ConnectAttempt, ConnectFacts, ErrorType, JourneyName, Note, NoteLevel, Run, RunOutcome, SCHEMA,
    Seconds, Security, Server, ServerText, SpanId, Step, StepOutcome, Timestamp, TlsFacts, TraceId, Verified,
};
use proptest::{collection, option, prelude::*, sample};

use super::server_samples::{any_reports, reported};

pub(super) fn us(micros: u64) -> Seconds {
    Seconds::from_micros(micros)
}

fn at(epoch: u64) -> Timestamp {
    Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_secs(epoch))
}

fn peer(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The round trip of the sample's network.
const RTT: u64 = 310;

/// Divides a step: a twentieth is transfer.
fn divide(step: &mut Step, round_trip: u64) {
    let micros = step.duration_s.as_micros();
    let (network, transfer) = (round_trip.min(micros), micros / 20);
    let server = micros.saturating_sub(network + transfer);
    (step.server_s, step.network_s) = (Some(us(server)), Some(us(network)));
    step.transfer_s = Some(us(micros - network - server));
}

/// Steps laid end to end: name, duration, bytes. Commands, `tls` and `greeting` are divided.
fn steps(list: &[(&str, u64, u64, u64)]) -> Vec<Step> {
    let mut start = us(0);
    let mut steps = Vec::new();
    for (name, micros, sent, received) in list {
        let command = name.chars().all(char::is_uppercase);
        let mut step = Step {
            name: (*name).into(),
            mailbox: matches!(*name, "SELECT" | "FETCH").then(|| "INBOX".to_owned()),
            span_id: SpanId::from_bytes([7; 8]),
            start_s: start,
            duration_s: us(*micros),
            first_byte_s: command.then(|| us(micros * 9 / 10)),
            status: (command || *name == "greeting").then_some(Condition::Ok),
            sent_bytes: command.then_some(*sent),
            received_bytes: (*received > 0).then_some(*received),
            ..Step::default()
        };
        match *name {
            "resolve" => {}
            "connect" => step.network_s = Some(us(RTT.min(*micros))),
            _ => divide(&mut step, RTT),
        }
        steps.push(step);
        start = start.saturating_add(us(*micros + 37));
    }
    steps
}

/// A passed run over TLS.
pub(super) fn passed() -> Run {
    let mut steps = steps(&[
        ("resolve", 1_200, 0, 0),
        ("connect", 310, 0, 0),
        ("tls", 2_900, 0, 0),
        ("greeting", 910, 0, 161),
        ("ID", 340, 72, 98),
        ("LOGIN", 12_400, 61, 402),
        ("LIST", 1_800, 31, 733),
        ("SELECT", 9_600, 33, 442),
        ("FETCH", 23_300, 143, 48_211),
        ("LOGOUT", 820, 25, 71),
    ]);
    steps[7].code = Some(ResponseCode::ReadWrite);
    steps[7].mailbox_messages = Some(10_000);
    steps[8].messages = Some(20);
    steps[1].connect = Some(ConnectFacts {
        attempts: vec![ConnectAttempt {
            peer: peer("192.0.2.7:993"),
            start_s: us(1_237),
            duration_s: us(310),
            outcome: StepOutcome::Passed,
            error_type: None,
        }],
    });
    steps[2].tls = Some(Box::new(TlsFacts {
        version: Some("1.3".to_owned()),
        cipher: Some("TLS_AES_256_GCM_SHA384".to_owned()),
        server_hello_s: Some(us(1_380)),
        verified: Verified::Yes,
        server_name: "mail01.example.org".to_owned(),
        not_after: Some(at(1_801_353_600)),
        key: Some("EC 256".to_owned()),
        ..TlsFacts::default()
    }));
    Run {
        schema: SCHEMA,
        trace_id: TraceId::from_bytes([0x4b; 16]).unwrap(),
        span_id: SpanId::from_bytes([7; 8]).unwrap(),
        parent_span_id: None,
        target: "mail01".to_owned(),
        account: "default".to_owned(),
        journey: JourneyName::FIRST_LOAD,
        labels: std::collections::BTreeMap::default(),
        started_at: at(1_795_434_160),
        outcome: RunOutcome::Passed,
        error_type: None,
        failed_step: None,
        first_loading_latency_s: Some(us(53_412)),
        first_row_s: Some(us(51_901)),
        duration_s: us(54_120),
        uncertain: None,
        uncertainty_s: None,
        delayed_s: None,
        agent_s: Some(us(412)),
        slowest_step: Some("FETCH".into()),
        slow: None,
        ratio: None,
        baseline_s: None,
        ratio_day: None,
        baseline_day_s: None,
        usual: None,
        start_lag_s: None,
        auth_backoff: None,
        suggested_mailbox: None,
        family: None,
        server: Server {
            address: "mail01.example.org".to_owned(),
            port: 993,
            peer: Some(peer("192.0.2.7:993")),
            local: Some(peer("192.0.2.20:51234")),
            security: Security::Tls,
            tls_version: Some("1.3".to_owned()),
            tls_cipher: Some("TLS_AES_256_GCM_SHA384".to_owned()),
            certificate_not_after: Some(at(1_801_353_600)),
            id_name: Some(ServerText::new(b"Dovecot", ServerText::ID)),
            id_version: Some(ServerText::new(b"2.3.19", ServerText::ID)),
            protocol: None,
            hierarchy_separator: None,
            capability_hash: None,
            oauth_only: None,
            preauth: None,
            deviations: None,
            referral_host: None,
            rtt_min_s: Some(us(RTT)),
            retransmits: None,
            out_of_order: None,
            quickack: None,
            clock_source: None,
        },
        wire_sent_bytes: 2_311,
        wire_received_bytes: 61_022,
        steps,
        notes: Vec::new(),
        server_events: None,
        verdict: None,
    }
}

/// SELECT finds nothing; FETCH is skipped.
pub(super) fn empty_mailbox() -> Run {
    let mut run = passed();
    let fetch = &mut run.steps[8];
    *fetch = Step {
        name: "FETCH".into(),
        mailbox: Some("INBOX".to_owned()),
        start_s: fetch.start_s,
        outcome: StepOutcome::Skipped,
        ..Step::default()
    };
    run.steps[7].mailbox_messages = Some(0);
    run.steps[9].start_s = run.steps[7].end_s();
    run.first_loading_latency_s = Some(run.steps[7].end_s());
    run.first_row_s = None;
    run.slowest_step = Some("LOGIN".into());
    run.duration_s = run.steps[9].end_s();
    run
}

/// The server refuses the password.
pub(super) fn login_refused() -> Run {
    let mut run = passed();
    run.steps.drain(6..9);
    let login = &mut run.steps[5];
    login.duration_s = us(2_004_000);
    login.first_byte_s = Some(us(2_003_900));
    divide(login, RTT);
    login.outcome = StepOutcome::Failed;
    login.status = Some(Condition::No);
    login.code = Some(ResponseCode::AuthenticationFailed);
    login.text = Some(ServerText::new(b"Authentication failed.", ServerText::STATUS));
    login.error_type = Some(ErrorType::AuthFailed);
    let end = login.end_s();
    run.steps[6].start_s = end;
    run.duration_s = run.steps[6].end_s();
    run.outcome = RunOutcome::Failed;
    run.error_type = Some(ErrorType::AuthFailed);
    run.failed_step = Some("LOGIN".into());
    (run.first_loading_latency_s, run.first_row_s, run.agent_s, run.slowest_step) = (None, None, None, None);
    run
}

/// Nothing listens, on neither family.
pub(super) fn connect_refused() -> Run {
    let mut run = login_refused();
    run.steps.truncate(2);
    let attempt = |to: &str, start, took| ConnectAttempt {
        peer: peer(to),
        start_s: us(start),
        duration_s: us(took),
        outcome: StepOutcome::Failed,
        error_type: Some(ErrorType::ConnectRefused),
    };
    let connect = &mut run.steps[1];
    connect.connect = Some(ConnectFacts {
        attempts: vec![attempt("[2001:db8::7]:993", 1_237, 240), attempt("192.0.2.7:993", 1_490, 310)],
    });
    connect.outcome = StepOutcome::Failed;
    connect.error_type = Some(ErrorType::ConnectRefused);
    connect.duration_s = us(563);
    let facts = &mut run.server;
    (facts.peer, facts.tls_version, facts.tls_cipher, facts.certificate_not_after) = (None, None, None, None);
    (facts.id_name, facts.id_version, facts.rtt_min_s) = (None, None, None);
    run.duration_s = us(1_800);
    run.error_type = Some(ErrorType::ConnectRefused);
    run.failed_step = Some("connect".into());
    run
}

/// ID made the server hang up; the run started again without it.
pub(super) fn second_connection() -> Run {
    let mut run = passed();
    let mut again = run.steps.clone();
    run.steps.truncate(5);
    let id = &mut run.steps[4];
    id.outcome = StepOutcome::Failed;
    id.error_type = Some(ErrorType::Eof);
    id.status = None;
    let offset = id.end_s().saturating_sub(us(1_200));
    again.remove(4);
    again.remove(0);
    for step in &mut again {
        step.start_s = step.start_s.saturating_add(offset);
        step.connection = Some(2);
    }
    run.steps.extend(again);
    run.duration_s = run.steps.last().unwrap().end_s();
    run
}

/// FETCH takes far longer than it used to, and so does LOGIN.
pub(super) fn slow_fetch() -> Run {
    let mut run = passed();
    let more = us(412_000);
    let fetch = &mut run.steps[8];
    fetch.duration_s = fetch.duration_s.saturating_add(more);
    fetch.first_byte_s = Some(us(2_100));
    fetch.slow = Some(true);
    fetch.ratio = Some(18.68);
    fetch.server_s = fetch.server_s.map(|server| server.saturating_add(more));
    fetch.reported_s = Some(us(434_000));
    (run.steps[5].slow, run.steps[5].ratio) = (Some(true), Some(3.42));
    run.steps[9].start_s = run.steps[9].start_s.saturating_add(more);
    run.duration_s = run.duration_s.saturating_add(more);
    run.first_loading_latency_s = run.first_loading_latency_s.map(|latency| latency.saturating_add(more));
    run.slow = Some(true);
    run
}

/// Segments were lost in FETCH, imaptrace read SELECT's response late, and the mailbox is nearly empty.
pub(super) fn uncertain() -> Run {
    let mut run = passed();
    (run.steps[7].uncertain, run.steps[7].uncertainty_s) = (Some(true), Some(us(2_600)));
    run.steps[7].mailbox_messages = Some(3);
    let fetch = &mut run.steps[8];
    (fetch.uncertain, fetch.uncertainty_s) = (Some(true), Some(us(14_200)));
    (fetch.retransmits, fetch.out_of_order) = (Some(2), Some(1));
    (run.server.retransmits, run.server.out_of_order) = (Some(2), Some(1));
    (run.uncertain, run.uncertainty_s) = (Some(true), Some(us(14_612)));
    let text = "the mailbox holds only 3 messages".to_owned();
    run.notes.push(Note { at_s: us(29_000), level: NoteLevel::Warn, text });
    run
}

/// The same server from the other side of the world.
pub(super) fn far_away() -> Run {
    let mut run = passed();
    let trip = 140_000;
    let mut start = us(0);
    for step in &mut run.steps {
        step.start_s = start;
        if step.name != "resolve" {
            step.duration_s = step.duration_s.saturating_add(us(trip));
        }
        if let Some(hello) = step.tls.as_mut().and_then(|facts| facts.server_hello_s.as_mut()) {
            *hello = hello.saturating_add(us(trip));
        }
        if step.network_s.is_some() {
            step.network_s = Some(us(trip + RTT));
            step.first_byte_s = step.first_byte_s.map(|time| time.saturating_add(us(trip)));
        }
        start = step.end_s().saturating_add(us(37));
    }
    run.server.rtt_min_s = Some(us(trip + RTT));
    run.first_loading_latency_s = Some(run.steps[8].end_s());
    run.first_row_s = run.steps[8].first_byte_s.map(|time| run.steps[8].start_s.saturating_add(time));
    run.duration_s = run.steps[9].end_s();
    run
}

pub(super) fn all() -> [(&'static str, Run); 9] {
    [
        ("passed", passed()),
        ("empty_mailbox", empty_mailbox()),
        ("login_refused", login_refused()),
        ("connect_refused", connect_refused()),
        ("second_connection", second_connection()),
        ("slow_fetch", slow_fetch()),
        ("uncertain", uncertain()),
        ("far_away", far_away()),
        ("reported", reported(slow_fetch())),
    ]
}

/// Any text: controls, right-to-left, combining and wide characters, emoji sequences.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        sample::select(vec![
            "",
            "FETCH",
            "LOGOUT",
            "resolve",
            "ID",
            "日本語日本語日本語",
            "❤\u{fe0f}",
            "👩‍👩‍👧‍👦",
            "a\u{301}",
            "\u{fe0f}\u{20e3}"
        ])
        .prop_map(str::to_owned),
    ]
}

fn time() -> impl Strategy<Value = Seconds> {
    prop_oneof![Just(0), 0..1_000_u64, 0..100_000_000_u64, any::<u64>()].prop_map(us)
}

fn step() -> impl Strategy<Value = Step> {
    let (status, code) = (sample::select(Condition::ALL), sample::select(ResponseCode::ALL));
    let words = (text(), option::of(text()), option::of(status), option::of(code), option::of(text()));
    let times = (time(), time(), option::of(time()));
    let outcome = (0..3_u8, option::of(sample::select(ErrorType::ALL)), option::of(any::<f64>()), any::<bool>());
    let counts = (option::of(any::<u64>()), option::of(any::<u64>()), option::of(1..4_u32), any::<bool>());
    // They need not add up to the duration.
    let doubt = (option::of(any::<bool>()), option::of(time()));
    let parts = (option::of(time()), option::of(time()), option::of(time()), doubt);
    (words, times, outcome, counts, parts).prop_map(|(words, times, outcome, counts, parts)| Step {
        name: words.0.as_str().into(),
        mailbox: words.1,
        status: words.2,
        code: words.3,
        text: words.4.map(|text| ServerText::new(text.as_bytes(), ServerText::STATUS)),
        start_s: times.0,
        duration_s: times.1,
        first_byte_s: times.2,
        outcome: [StepOutcome::Passed, StepOutcome::Failed, StepOutcome::Skipped][usize::from(outcome.0)],
        error_type: outcome.1,
        ratio: outcome.2,
        slow: Some(outcome.3),
        sent_bytes: counts.0,
        received_bytes: counts.1,
        messages: counts.0,
        mailbox_messages: counts.1,
        connection: counts.2,
        server_s: parts.0,
        network_s: parts.1,
        transfer_s: parts.2,
        uncertain: parts.3.0,
        uncertainty_s: parts.3.1,
        delayed_s: None,
        retransmits: counts.0,
        out_of_order: counts.1,
        span_id: counts.3.then(|| SpanId::from_bytes([9; 8])).flatten(),
        ..Step::default()
    })
}

/// Runs as no probe builds them but a replayed file may hold.
pub(super) fn any_run() -> impl Strategy<Value = Run> {
    let head = (text(), text(), text(), option::of(any::<bool>()), 0..3_u8, option::of(sample::select(ErrorType::ALL)));
    let names = (option::of(text()), option::of(text()), option::of(text()));
    let times = (time(), option::of(time()), option::of(time()), -30_000_000_000_i64..200_000_000_000);
    let marks = (option::of(any::<bool>()), option::of(any::<bool>()), option::of(time()));
    let kept = (any::<bool>(), option::of(any_reports(time, text)));
    let timing = (option::of(time()), option::of(time()), marks);
    (
        sample::select(all().map(|(_, run)| run).to_vec()),
        head,
        names,
        times,
        timing,
        collection::vec(step(), 0..12),
        kept,
    )
        .prop_map(|(base, head, names, times, timing, steps, (keep, server))| {
            let mut run = base;
            run.server_events = server.map(Box::new);
            (run.target, run.account, run.server.address) = (head.0, head.1, head.2);
            run.family = head.3.map(|six| if six { AddressFamily::Ipv6 } else { AddressFamily::Ipv4 });
            run.outcome = [RunOutcome::Passed, RunOutcome::Failed, RunOutcome::Void][usize::from(head.4)];
            run.error_type = head.5;
            (run.failed_step, run.slowest_step) =
                (names.0.as_deref().map(Into::into), names.1.as_deref().map(Into::into));
            run.server.tls_version = names.2;
            (run.duration_s, run.first_loading_latency_s, run.first_row_s) = (times.0, times.1, times.2);
            (run.agent_s, run.server.rtt_min_s, (run.uncertain, run.slow, run.uncertainty_s)) = timing;
            run.server.certificate_not_after = Timestamp::from_epoch_seconds(times.3);
            if keep {
                run.steps.extend(steps);
            } else {
                run.steps = steps;
            }
            run
        })
}

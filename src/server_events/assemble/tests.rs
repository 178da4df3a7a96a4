use super::*;
use crate::server_events::parse;

/// A run with LOGIN, SELECT and FETCH at known times.
fn run() -> Run {
    serde_json::from_str(imaptrace_testkit::PASSED_RUN).unwrap()
}

/// An event that begins and ends so many microseconds after the run began, on a server whose clock is right.
fn event(name: &str, (from, until): (i64, i64), fields: &str) -> ReportedEvent {
    on_host("mail01", name, (from, until), fields)
}

fn on_host(host: &str, name: &str, (from, until): (i64, i64), fields: &str) -> ReportedEvent {
    let at = |micros: i64| {
        let text = serde_json::to_string(&run().started_at).unwrap();
        let base = serde_json::from_str::<imaptrace_record::Timestamp>(&text).unwrap().epoch_micros() + micros;
        format!("{}.{:06}", base / 1_000_000, base % 1_000_000)
    };
    let comma = if fields.is_empty() { "" } else { "," };
    let body = format!(
        r#"{{"event":"{name}","hostname":"{host}","start_time":{},"end_time":{},"fields":{{"session":"s1"{comma}{fields}}}}}"#,
        at(from),
        at(until)
    );
    parse(body.as_bytes()).unwrap_or_else(|| panic!("{body}"))
}

fn select(tag: &str) -> String {
    format!(
        r#""cmd_tag":"{tag}","cmd_name":"SELECT","tagged_reply_state":"OK","running_usecs":15000,"lock_wait_usecs":4000"#
    )
}

#[test]
fn a_command_hangs_under_the_step_with_its_tag_in_either_form() {
    for tag in ["1000000000000006", "T100000"] {
        let events = [event("imap_command_finished", (13_000, 29_000), &select(tag))];
        let server = assemble(&events, &run()).unwrap();
        let span = &server.events[0];
        // A short tag stands for the first step that it fits.
        let expected = if tag.len() == 16 { "1000000000000006" } else { "1000000000000005" };
        assert_eq!(span.parent_span_id.to_string(), expected, "{tag}");
        assert_eq!(
            (span.running_s, span.lock_wait_s),
            (Some(Seconds::from_micros(15_000)), Some(Seconds::from_micros(4_000)))
        );
        assert_eq!(span.command, Some(CommandName::Select));
    }
}

#[test]
fn a_command_without_a_known_tag_hangs_under_the_step_of_its_name() {
    let events = [event("imap_command_finished", (13_000, 29_000), &select("other"))];
    assert_eq!(assemble(&events, &run()).unwrap().events[0].parent_span_id.to_string(), "1000000000000006");
    let list = select("other").replace("SELECT", "LIST");
    let events = [event("imap_command_finished", (13_000, 29_000), &list)];
    assert_eq!(assemble(&events, &run()).unwrap().events[0].parent_span_id, run().span_id, "no step of this name");
}

#[test]
fn the_authentication_is_nested_and_the_session_hangs_under_the_root() {
    let events = [
        event("mail_user_session_finished", (12_100, 56_000), ""),
        event("auth_passdb_request_finished", (9_000, 10_000), r#""result":"ok""#),
        event("auth_request_finished", (8_000, 10_500), r#""success":"yes""#),
        event("auth_client_request_finished", (7_500, 11_000), ""),
        event("auth_userdb_request_finished", (11_200, 11_300), r#""result":"ok""#),
    ];
    let server = assemble(&events, &run()).unwrap();
    let of = |name: ServerEventName| server.named(name).next().unwrap();
    let (client, request) = (of(ServerEventName::AuthClientRequestFinished), of(ServerEventName::AuthRequestFinished));
    let login = "1000000000000005";
    assert_eq!(client.parent_span_id.to_string(), login);
    assert_eq!(request.parent_span_id, client.span_id);
    assert_eq!(of(ServerEventName::AuthPassdbRequestFinished).parent_span_id, request.span_id);
    assert_eq!(of(ServerEventName::AuthUserdbRequestFinished).parent_span_id.to_string(), login);
    assert_eq!(of(ServerEventName::MailUserSessionFinished).parent_span_id, run().span_id);
    assert_eq!(request.success, Some(true));
    assert!(server.events.is_sorted_by_key(|event| event.started_at), "by start");
}

#[test]
fn the_clock_of_a_host_is_found_and_one_that_fits_nothing_is_uncertain() {
    let select_span = |from: i64| event("imap_command_finished", (from, from + 15_000), &select("1000000000000006"));
    let fetch = |from: i64| {
        let fields = select("1000000000000007").replace("SELECT", "FETCH");
        event("imap_command_finished", (from, from + 20_000), &fields)
    };
    let offset = |events: &[ReportedEvent]| {
        let host = assemble(events, &run()).unwrap().hosts[0].clone();
        (host.clock_offset_s.map(SignedSeconds::as_micros), host.uncertain)
    };
    assert_eq!(offset(&[select_span(13_500), fetch(31_000)]), (Some(0), None));
    let (found, uncertain) = offset(&[select_span(2_013_500), fetch(2_031_000)]);
    assert!((1_997_000..2_002_000).contains(&found.unwrap()) && uncertain.is_none(), "{found:?}");
    assert_eq!(offset(&[select_span(2_013_500), fetch(31_000)]), (None, Some(true)));
}

#[test]
fn mails_that_were_opened_are_counted_with_their_command() {
    let opened = |at: i64, reason: &str| event("mail_opened", (at, at), &format!(r#""reason":"{reason}""#));
    let mut events = vec![
        event("imap_command_finished", (13_000, 29_000), &select("1000000000000006")),
        opened(14_000, "header date"),
        opened(15_000, "header date"),
        opened(40_000, "after it"),
    ];
    events.extend((0..20).map(|at| opened(16_000 + at, &format!("reason {at}"))));
    let span = &assemble(&events, &run()).unwrap().events[0];
    assert_eq!((span.mail_opened, span.reasons.len()), (Some(22), ServerEvents::MAX_REASONS));
    assert_eq!(span.reasons[0].as_str(), "header date");
}

#[test]
fn each_host_has_spans_of_its_own() {
    let events = [
        on_host("proxy", "auth_client_request_finished", (7_500, 11_000), ""),
        on_host("backend", "imap_command_finished", (13_000, 29_000), &select("1000000000000006")),
    ];
    let server = assemble(&events, &run()).unwrap();
    let names: Vec<_> = server.hosts.iter().map(|host| host.name.as_str()).collect();
    assert_eq!(names, ["proxy", "backend"]);
    assert_eq!(server.events.iter().map(|event| event.host).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn a_run_has_few_hosts_and_what_others_sent_is_counted() {
    let of_host = |number: i64| {
        let times = (13_000 + number, 29_000);
        on_host(&format!("mail{number}"), "imap_command_finished", times, &select("1000000000000006"))
    };
    let server = assemble(&(0..100).map(of_host).collect::<Vec<_>>(), &run()).unwrap();
    assert_eq!((server.hosts.len(), server.events.len()), (ServerEvents::MAX_HOSTS, ServerEvents::MAX_HOSTS));
    assert_eq!(server.dropped, Some(100 - ServerEvents::MAX_HOSTS as u64));
}

#[test]
fn a_flood_of_events_is_cut_to_the_bounds_and_counted() {
    let many: Vec<_> = (0..200)
        .map(|at| event("imap_command_finished", (13_000 + at, 29_000 + 2 * at), &select("1000000000000006")))
        .collect();
    let server = assemble(&many, &run()).unwrap();
    let json = serde_json::to_string(&server.events).unwrap();
    assert!(
        server.events.len() <= ServerEvents::MAX_EVENTS && json.len() <= ServerEvents::MAX_BYTES + 2,
        "{}",
        json.len()
    );
    assert_eq!(server.events.len() as u64 + server.dropped.unwrap(), 200);
    // The longest ones are kept.
    assert_eq!(server.events.last().unwrap().duration_s, Seconds::from_micros(16_199));
}

#[test]
fn nothing_comes_of_no_events_and_of_mails_alone() {
    assert_eq!(assemble(&[], &run()), None);
    assert_eq!(assemble(&[event("mail_opened", (1, 1), "")], &run()), None);
}

#[test]
fn no_event_takes_more_json_than_is_reckoned() {
    let most = Seconds::from_micros(u64::MAX);
    let number = Some(u64::MAX);
    let event = ServerEvent {
        host: u32::MAX,
        name: ServerEventName::AuthClientRequestFinished,
        span_id: SpanId::random(),
        parent_span_id: SpanId::random(),
        started_at: imaptrace_record::Timestamp::from_epoch_seconds(7_258_118_399).unwrap(),
        duration_s: most,
        reported_s: Some(most),
        command: Some(CommandName::Authenticate),
        status: Some(imaptrace_imap::Condition::Preauth),
        running_s: Some(most),
        lock_wait_s: Some(most),
        in_bytes: number,
        out_bytes: number,
        mail_opened: number,
        reasons: Vec::new(),
        success: Some(false),
    };
    let json = |event: &ServerEvent| serde_json::to_string(event).unwrap().len() + 1;
    assert!(json(&event) <= EVENT_JSON, "{}", json(&event));
    let reason = ServerText::new(&[1; 64], 64);
    let reasons = vec![reason.clone(); ServerEvents::MAX_REASONS];
    let most = EVENT_JSON + REASON_JSON * reasons.iter().map(|reason| reason.as_str().len() + 1).sum::<usize>();
    let full = ServerEvent { reasons, ..event };
    assert!(json(&full) <= most, "{} {most}", json(&full));
}

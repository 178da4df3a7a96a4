//! What a mail server reported, to draw in tests: beside a run, and as no server reports it but a replayed file may hold.

use imaptrace_record::{
    Run, Seconds, ServerEvent, ServerEventName, ServerEvents, ServerHost, ServerText, SignedSeconds, SpanId, Timestamp,
};
use proptest::{collection, option, prelude::*, sample};

/// A run with a slow FETCH, of which its server has reported: FETCH opened mails on a slow disk.
pub(super) fn reported(mut run: Run) -> Run {
    for (index, step) in (1..).zip(&mut run.steps) {
        step.span_id = SpanId::from_bytes([index; 8]);
    }
    let waits = r#"[{"span_id":"2020202020202020","start_s":0.054,"duration_s":0.36,"server_s":0.35},
        {"span_id":"2121212121212121","start_s":0.43,"duration_s":0.03,"server_s":0.03}]"#;
    run.steps[8].waits = serde_json::from_str(waits).unwrap();
    let event = |id: u8, parent: u8, name: &str, at_ms: u64, took_s: f64, more: &str| {
        let (id, parent) = (format!("{id:02x}").repeat(8), format!("{parent:02x}").repeat(8));
        format!(
            r#"{{"host":0,"name":"{name}","span_id":"{id}","parent_span_id":"{parent}",
            "started_at":"2026-11-23T11:42:41.{at_ms:03}Z","duration_s":{took_s}{more}}}"#
        )
    };
    let events = [
        event(0x30, 6, "auth_client_request_finished", 206, 0.009, r#","success":true"#),
        event(0x32, 0x31, "auth_passdb_request_finished", 208, 0.003, ""),
        event(0x31, 0x30, "auth_request_finished", 207, 0.005, r#","success":true"#),
        event(0x33, 6, "auth_userdb_request_finished", 216, 0.001, ""),
        event(0x34, 0x0f, "mail_user_session_finished", 218, 0.25, ""),
        event(0x35, 8, "imap_command_finished", 221, 0.008, r#","command":"SELECT","status":"OK","running_s":0.0079"#),
        event(
            0x36,
            9,
            "imap_command_finished",
            230,
            0.43,
            r#","command":"FETCH","status":"OK","running_s":0.421,"lock_wait_s":0.02,"mail_opened":20,
            "reasons":["9/9 headers not cached"]"#,
        ),
    ];
    let server = format!(
        r#"{{"hosts":[{{"name":"mail01","clock_offset_s":1.2}}],"events":[{}],"dropped":2,"processes":[
        {{"host":0,"process":"imap","span_id":"0909090909090909","sampled_s":0.43,"cpu_s":0.0041,"run_queue_s":0.0022,
        "rest_s":0.395}},
        {{"host":0,"process":"imap","sampled_s":0.47,"cpu_s":0.0093,"run_queue_s":0.004}},
        {{"host":0,"process":"auth","sampled_s":0.2,"cpu_s":0.001,"run_queue_s":0,"block_wait_s":0.01}},
        {{"host":0,"process":"auth","sampled_s":0.2,"cpu_s":0.0005,"run_queue_s":0}}]}}"#,
        events.join(",")
    );
    // The clock is 1.2 s ahead.
    run.server_events = Some(serde_json::from_str(&server).unwrap());
    run.span_id = SpanId::from_bytes([0x0f; 8]).unwrap();
    run
}

/// Any events, some of them below each other, and processes.
pub(super) fn any_reports<S: Strategy<Value = Seconds>, T: Strategy<Value = String>>(
    time: fn() -> S,
    text: fn() -> T,
) -> impl Strategy<Value = ServerEvents> {
    let ids = (1..12_u8, 1..12_u8, 0..3_u32, any::<i32>());
    let words = (sample::select(ServerEventName::ALL), option::of(any::<bool>()), collection::vec(text(), 0..3));
    let figures = (time(), option::of(time()), option::of(time()), option::of(any::<u64>()));
    let event = (ids, words, figures).prop_map(|(ids, words, figures)| ServerEvent {
        host: ids.2,
        name: words.0,
        span_id: SpanId::from_bytes([ids.0; 8]).unwrap(),
        parent_span_id: SpanId::from_bytes([ids.1; 8]).unwrap(),
        started_at: Timestamp::from_epoch_seconds(ids.3.into()).unwrap(),
        duration_s: figures.0,
        reported_s: figures.1,
        command: None,
        status: None,
        running_s: figures.2,
        lock_wait_s: figures.1,
        in_bytes: figures.3,
        out_bytes: None,
        mail_opened: figures.3,
        reasons: words.2.iter().map(|reason| ServerText::new(reason.as_bytes(), ServerText::STATUS)).collect(),
        success: words.1,
    });
    let host = (text(), option::of(any::<i64>()), option::of(any::<bool>())).prop_map(|(name, offset, uncertain)| {
        let name = ServerText::new(name.as_bytes(), ServerText::STATUS);
        ServerHost { name, clock_offset_s: offset.map(SignedSeconds::from_micros), uncertain }
    });
    (collection::vec(host, 0..3), collection::vec(event, 0..8), option::of(any::<u64>()))
        .prop_map(|(hosts, events, dropped)| ServerEvents { hosts, events, dropped, processes: Vec::new() })
}

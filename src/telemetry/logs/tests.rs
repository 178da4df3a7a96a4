use std::{
    io,
    sync::{Arc, Mutex},
};

use super::*;
use crate::telemetry::LiveRoot;

#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl io::Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn logged(settings: &LogSettings, what: impl FnOnce()) -> String {
    let paper = Paper::default();
    let writer = paper.clone();
    let subscriber = subscriber(settings, move || writer.clone()).unwrap();
    tracing::subscriber::with_default(subscriber, what);
    let bytes = paper.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

fn json(filter: Option<&str>) -> LogSettings {
    LogSettings { format: LogFormat::Json, filter: filter.map(Into::into), ..Default::default() }
}

#[test]
fn an_event_is_one_json_line_with_the_ids_of_the_live_root() {
    let mut root = None;
    let text = logged(&json(Some("warn")), || {
        let live = LiveRoot::open("first-load", None);
        live.span().in_scope(|| tracing::warn!(count = 2, name = "x\u{1b}[0m\ny", "two\nlines"));
        root = Some((live.trace_id.to_string(), live.span_id.to_string()));
    });
    let line: Value = serde_json::from_str(text.trim_end()).unwrap();
    let (trace_id, span_id) = root.unwrap();
    assert_eq!(text.lines().count(), 1);
    assert_eq!(line["level"], "warn");
    assert_eq!(line["message"], "two\\x0alines");
    assert_eq!(line["name"], "x\\x1b[0m\\x0ay");
    assert_eq!(line["count"], 2);
    assert_eq!(line["trace_id"], trace_id);
    assert_eq!(line["span_id"], span_id);
}

#[test]
fn an_event_has_at_most_a_kilobyte_of_text_and_what_is_short_stays_whole() {
    let said = "ä\u{1b}".repeat(1_500_000);
    let text = logged(&json(None), || {
        tracing::warn!(target = "mail", text = said, "{} says: {said}", "there");
    });
    let line: Value = serde_json::from_str(text.trim_end()).unwrap();
    let (message, text) = (line["message"].as_str().unwrap(), line["text"].as_str().unwrap());
    assert!(message.starts_with("there says: ä\\x1bä") && message.ends_with('…'), "{message}");
    assert!(text.starts_with("ä\\x1bä") && text.ends_with('…'), "{text}");
    assert_eq!(line["target"], "mail");
    let total = message.len() + text.len() + "mail".len();
    assert!((MOST_TEXT - 20..=MOST_TEXT).contains(&total), "{total}");
    assert!(text.len() < 2 * MOST_TEXT, "{}", text.len());
}

#[test]
fn outside_a_run_there_are_no_ids_and_text_has_no_colour_by_default() {
    let tell = || tracing::info!(reason = "two words", "hello");
    let plain = logged(&LogSettings::default(), tell);
    assert!(plain.ends_with(" INFO  imaptrace::telemetry::logs::tests: hello reason=\"two words\"\n"), "{plain}");
    let color = logged(&LogSettings { color: true, ..Default::default() }, tell);
    assert!(color.contains("\u{1b}[32mINFO \u{1b}[0m"), "{color}");
}

#[test]
fn rust_log_hides_lines_but_never_the_notes_of_a_run() {
    let mut notes = Vec::new();
    let text = logged(&json(Some("off")), || {
        let live = LiveRoot::open("first-load", None);
        live.span().in_scope(|| tracing::info!("kept"));
        notes = live.close();
    });
    assert_eq!(text, "");
    assert_eq!(notes.len(), 1);
}

#[test]
fn the_crates_that_carry_telemetry_are_quiet_unless_named() {
    let noise = || {
        tracing::error!(target: "opentelemetry", "telemetry data will be lost");
        tracing::error!(target: "opentelemetry_sdk", "export failed");
        tracing::info!(target: "h2", "frame");
    };
    assert_eq!(logged(&json(None), noise), "");
    assert_eq!(logged(&json(Some("opentelemetry_sdk=error")), noise).lines().count(), 1);
}

#[test]
fn an_invalid_filter_is_an_error_that_contains_it() {
    let settings = LogSettings { filter: Some("imaptrace=loud".into()), ..Default::default() };
    let error = subscriber(&settings, io::sink).err().unwrap().to_string();
    assert!(error.starts_with("cannot read the log filter \"imaptrace=loud\""), "{error}");
}

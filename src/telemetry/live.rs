//! The root span of a run in progress, opened through tracing-opentelemetry.
//!
//! It provides the run's ids (or takes the trace id from TRACEPARENT), every log line inside it has them, and what is logged
//! at INFO and above becomes the run's notes. It is never exported: the trace is made from the finished `Run`. Its tracer
//! always samples, and its filter is its own, so `RUST_LOG` cannot switch a trace off. The caller wraps the run in
//! [`LiveRoot::span`] and calls [`LiveRoot::close`] after it.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use imaptrace_record::{Note, NoteLevel, Seconds, SpanId, TraceId, escape};
use opentelemetry::{
    Context,
    propagation::TextMapPropagator as _,
    trace::{SpanContext, TraceContextExt as _, TracerProvider as _},
};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    propagation::TraceContextPropagator,
    trace::{RandomIdGenerator, Sampler, SdkTracerProvider, SpanData, SpanProcessor},
};
use tracing::{Level, Metadata, Span, Subscriber, level_filters::LevelFilter};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{Layer, filter::filter_fn, registry::LookupSpan};

use super::names;

/// The target of the spans of [`LiveRoot`], and of no others.
const TARGET: &str = "imaptrace::live";

/// The most notes of a run (docs/telemetry.md).
const MOST_NOTES: usize = 64;

/// The longest note, in bytes before escaping.
const LONGEST_NOTE: usize = 1024;

/// Crates whose log lines during a run are no findings about the server.
const NOISE: &[&str] = &["opentelemetry", "h2", "tonic", "hyper", "reqwest", "rustls", "tower"];

/// The notes of every open live root, by span id.
static OPEN_NOTES: Mutex<Option<HashMap<[u8; 8], Vec<Note>>>> = Mutex::new(None);

fn open_notes() -> MutexGuard<'static, Option<HashMap<[u8; 8], Vec<Note>>>> {
    OPEN_NOTES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A span outside imaptrace that is the parent of runs.
#[derive(Debug, Clone)]
pub struct RemoteParent(SpanContext);

impl RemoteParent {
    /// Reads a `traceparent` (W3C Trace Context §3.2); none when it is invalid.
    pub fn parse(traceparent: &str) -> Option<Self> {
        let traceparent = traceparent.trim();
        // The propagator accepts ids that are too short.
        if !traceparent.split('-').map(str::len).take(4).eq([2, 32, 16, 2]) {
            return None;
        }
        let carrier = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
        let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier);
        let parent = context.span().span_context().clone();
        parent.is_valid().then_some(Self(parent))
    }
}

/// The live root span of one run.
#[derive(Debug)]
pub struct LiveRoot {
    /// The run's trace.
    pub trace_id: TraceId,
    /// The run's root span.
    pub span_id: SpanId,
    /// The remote span above it.
    pub parent_span_id: Option<SpanId>,
    span: Span,
    context: Context,
}

impl LiveRoot {
    /// Opens the root of a run of `journey`. Without a subscriber the ids are drawn here, and there are no notes.
    pub fn open(journey: &str, parent: Option<&RemoteParent>) -> Self {
        let span = tracing::info_span!(target: TARGET, parent: None, "probe", journey);
        if let Some(RemoteParent(parent)) = parent {
            // Without a layer, or with a disabled span, the ids are drawn below.
            let _ = span.set_parent(Context::new().with_remote_span_context(parent.clone()));
        }
        let context = span.context();
        let live = context.span().span_context().clone();
        let parent_ids = parent.and_then(|RemoteParent(parent)| ids(parent));
        let (trace_id, span_id) = ids(&live)
            .unwrap_or_else(|| (parent_ids.map_or_else(TraceId::random, |(trace, _)| trace), SpanId::random()));
        open_notes().get_or_insert_default().insert(span_id.to_bytes(), Vec::new());
        Self { trace_id, span_id, parent_span_id: parent_ids.map(|(_, span)| span), span, context }
    }

    /// The span to run the probe in (`tracing::Instrument`).
    pub fn span(&self) -> Span {
        self.span.clone()
    }

    /// Ends the root and returns what was logged inside it at INFO and above, at most 64 entries.
    pub fn close(self) -> Vec<Note> {
        self.context.span().end();
        open_notes().as_mut().and_then(|all| all.remove(&self.span_id.to_bytes())).unwrap_or_default()
    }
}

impl Drop for LiveRoot {
    fn drop(&mut self) {
        open_notes().as_mut().map(|all| all.remove(&self.span_id.to_bytes()));
    }
}

fn ids(context: &SpanContext) -> Option<(TraceId, SpanId)> {
    Some((TraceId::from_bytes(context.trace_id().to_bytes())?, SpanId::from_bytes(context.span_id().to_bytes())?))
}

/// The layer of live roots, for any subscriber.
pub(super) fn layer<S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync>() -> impl Layer<S> + Send + Sync {
    let provider = SdkTracerProvider::builder()
        .with_sampler(Sampler::AlwaysOn)
        .with_id_generator(RandomIdGenerator::default())
        .with_max_events_per_span(u32::try_from(MOST_NOTES).unwrap_or(u32::MAX))
        .with_span_processor(NoteProcessor)
        .build();
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(names::SCOPE))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_error_fields_to_exceptions(false)
        .with_error_events_to_exceptions(false)
        .with_error_records_to_exceptions(false)
        .with_filter(filter_fn(wanted).with_max_level_hint(LevelFilter::INFO))
}

fn wanted(metadata: &Metadata<'_>) -> bool {
    if metadata.is_span() {
        return metadata.target() == TARGET;
    }
    let origin = metadata.target().split([':', '-', '_']).next().unwrap_or_default();
    *metadata.level() <= Level::INFO && !NOISE.contains(&origin)
}

/// Keeps the events of an ended root for its [`LiveRoot`].
#[derive(Debug)]
struct NoteProcessor;

impl SpanProcessor for NoteProcessor {
    fn on_start(&self, _span: &mut opentelemetry_sdk::trace::Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        let mut notes_of = open_notes();
        let id = span.span_context.span_id().to_bytes();
        let Some(notes) = notes_of.as_mut().and_then(|all| all.get_mut(&id)) else { return };
        notes.extend(span.events.iter().take(MOST_NOTES).map(|event| {
            let since = event.timestamp.duration_since(span.start_time).unwrap_or_default();
            let mut level = NoteLevel::Info;
            let mut text = event.name.to_string();
            for field in &event.attributes {
                match (field.key.as_str(), field.value.as_str().as_ref()) {
                    ("level", "ERROR") => level = NoteLevel::Error,
                    ("level", "WARN") => level = NoteLevel::Warn,
                    ("level" | "target", _) => {}
                    (key, value) => {
                        let _ = write!(text, " {key}={value}");
                    }
                }
            }
            let end = (0..=LONGEST_NOTE.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
            text.truncate(end.unwrap_or_default());
            Note { at_s: Seconds::from(since), level, text: escape(&text) }
        }));
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tracing::Instrument as _;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

    fn with_layer<T>(run: impl FnOnce() -> T) -> T {
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer()), run)
    }

    #[test]
    fn a_root_has_new_ids_and_returns_what_was_logged_in_it() {
        with_layer(|| {
            let root = LiveRoot::open("first-load", None);
            let other = LiveRoot::open("first-load", None);
            assert_ne!((root.trace_id, root.span_id), (other.trace_id, other.span_id));
            assert_eq!(root.parent_span_id, None);
            root.span().in_scope(|| {
                tracing::info!(count = 3, "first");
                tracing::debug!("never");
                tracing::warn!(server = "a\u{1b}[2Jb", "second");
                tracing::warn!(target: "h2::client", "noise");
            });
            other.span().in_scope(|| tracing::info!("elsewhere"));
            let notes = root.close();
            let text: Vec<_> = notes.iter().map(|note| (note.level, note.text.as_str())).collect();
            assert_eq!(text, [(NoteLevel::Info, "first count=3"), (NoteLevel::Warn, "second server=a\\x1b[2Jb")]);
            assert_eq!(other.close().len(), 1);
        });
    }

    #[test]
    fn a_remote_parent_gives_the_trace_even_when_it_is_not_sampled() {
        with_layer(|| {
            let parent = RemoteParent::parse(TRACEPARENT).unwrap();
            let root = LiveRoot::open("first-load", Some(&parent));
            assert_eq!(root.trace_id.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
            assert_eq!(root.parent_span_id.unwrap().to_string(), "00f067aa0ba902b7");
            assert_ne!(Some(root.span_id), root.parent_span_id);
            root.span().in_scope(|| tracing::info!("kept"));
            assert_eq!(root.close().len(), 1);
        });
    }

    #[test]
    fn without_a_subscriber_there_are_ids_too() {
        let parent = RemoteParent::parse(TRACEPARENT).unwrap();
        let root = LiveRoot::open("first-load", Some(&parent));
        assert_eq!(root.trace_id.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(root.close().is_empty());
    }

    #[test]
    fn an_invalid_traceparent_is_no_parent() {
        for wrong in
            ["", "x", "00-0-0-01", "00-beef-cafe-01", "00-00000000000000000000000000000000-00f067aa0ba902b7-01"]
        {
            assert!(RemoteParent::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn at_most_64_notes_are_kept() {
        with_layer(|| {
            let root = LiveRoot::open("first-load", None);
            root.span().in_scope(|| (0..100).for_each(|number| tracing::info!(number, "again")));
            let notes = root.close();
            assert_eq!(notes.len(), 64);
            assert_eq!(notes[0].text, "again number=0");
        });
    }

    #[test]
    fn an_instrumented_future_logs_into_its_root_and_the_ids_are_current_there() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        with_layer(|| {
            let root = LiveRoot::open("first-load", None);
            let seen = runtime.block_on(
                async {
                    tokio::task::yield_now().await;
                    tracing::info!("inside");
                    Context::current().span().span_context().span_id().to_bytes()
                }
                .instrument(root.span()),
            );
            assert_eq!(seen, root.span_id.to_bytes());
            assert_eq!(root.close().len(), 1);
        });
    }

    #[test]
    fn what_is_logged_in_a_span_below_the_root_is_kept_too() {
        with_layer(|| {
            let root = LiveRoot::open("first-load", None);
            root.span().in_scope(|| {
                tracing::info_span!("below").in_scope(|| tracing::info!("deep"));
                tracing::info_span!(target: "h2", "noise").in_scope(|| tracing::info!("deep again"));
            });
            assert_eq!(root.close().len(), 2);
        });
    }

    #[test]
    fn a_long_note_is_cut() {
        with_layer(|| {
            let root = LiveRoot::open("first-load", None);
            root.span().in_scope(|| tracing::info!("{}", "ä".repeat(2000)));
            assert_eq!(root.close()[0].text.len(), LONGEST_NOTE);
        });
    }

    #[test]
    fn a_root_that_is_dropped_leaves_nothing_behind() {
        with_layer(|| {
            let root = LiveRoot::open("first-load", None);
            let id = root.span_id.to_bytes();
            drop(root);
            assert!(!open_notes().as_ref().unwrap().contains_key(&id));
        });
    }
}

//! What the exporters say only in their own log, and nowhere in their result.
//!
//! opentelemetry-otlp tells its caller Ok or a text. That a receiver took a batch in part, and how long it asks to be left
//! alone, it writes to the log alone: at WARN and at DEBUG, as fields. A layer beside the log, with a filter of its own,
//! hears it whatever `RUST_LOG` says, and hands it to whoever is in [`listen`] on the same task. Called by `delivery`.

use std::{cell::RefCell, fmt, time::Duration};

use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_subscriber::{Layer, filter::filter_fn, layer::Context, registry::LookupSpan};

/// The crate that speaks.
const TARGET: &str = "opentelemetry-otlp";
/// The events that say something of traces.
const EVENTS: &[&str] =
    &["TonicTracesClient.PartialSuccess", "HttpTraceClient.PartialSuccess", "TonicTracesClient.ExportFailed"];

/// What was heard of one export.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Heard {
    /// Spans that the receiver refused of a batch that it took.
    pub rejected_spans: u64,
    /// What it said to that.
    pub message: String,
    /// How long it asks to be left alone.
    pub retry_after: Option<Duration>,
}

tokio::task_local! {
    static EAR: RefCell<Heard>;
}

/// Runs an export to its end, and gives what was heard meanwhile beside its result.
pub async fn listen<T>(export: impl Future<Output = T>) -> (T, Heard) {
    EAR.scope(RefCell::default(), async {
        let result = export.await;
        (result, EAR.with(RefCell::take))
    })
    .await
}

/// Notes how long a receiver asks to be left alone, for whoever is in [`listen`].
pub fn retry_after(asked: Duration) {
    note(|heard| heard.retry_after = Some(asked));
}

fn note(what: impl FnOnce(&mut Heard)) {
    // Outside of an export nobody listens.
    let _heard = EAR.try_with(|ear| ear.try_borrow_mut().map(|mut heard| what(&mut heard)).is_ok()).is_ok();
}

/// The layer that hears.
pub(super) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
    let ours = filter_fn(|metadata| metadata.target() == TARGET && EVENTS.contains(&metadata.name()));
    Ears.with_filter(ours.with_max_level_hint(LevelFilter::DEBUG))
}

struct Ears;

impl<S: Subscriber> Layer<S> for Ears {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        note(|heard| event.record(heard));
    }
}

impl Visit for Heard {
    fn record_i64(&mut self, field: &Field, value: i64) {
        if field.name() == "rejected_spans" {
            self.rejected_spans = u64::try_from(value).unwrap_or(0);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "error_message" => value.clone_into(&mut self.message),
            // The bytes of a `google.rpc.Status`, written as a list of numbers.
            "grpc_details" => {
                let numbers = value.trim_matches(['[', ']']).split(", ").map(str::parse);
                let bytes: Result<Vec<u8>, _> = numbers.collect();
                self.retry_after = bytes.ok().and_then(|bytes| retry_info(&bytes)).or(self.retry_after);
            }
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// The delay in a `google.rpc.Status` (`google/rpc/status.proto`) whose `details` hold a `google.rpc.RetryInfo`
/// (`google/rpc/error_details.proto`).
fn retry_info(status: &[u8]) -> Option<Duration> {
    let details = fields(status).filter(|(number, _)| *number == 3);
    details.filter_map(|(_, any)| any.bytes()).find_map(|any| {
        let of = |wanted: u64| fields(any).find(|(number, _)| *number == wanted).and_then(|(_, value)| value.bytes());
        let info = of(1).is_some_and(|kind| kind.ends_with(b"/google.rpc.RetryInfo")).then(|| of(2)).flatten()?;
        let delay = fields(info).find(|(number, _)| *number == 1)?.1.bytes()?;
        let part = |wanted: u64| {
            fields(delay).find(|(number, _)| *number == wanted).map_or(0, |(_, value)| value.number().unwrap_or(0))
        };
        // A negative delay (its number is past every sensible one) is none.
        let nanos = u32::try_from(part(2)).ok().filter(|nanos| *nanos < 1_000_000_000)?;
        i64::try_from(part(1))
            .ok()
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map(|seconds| Duration::new(seconds, nanos))
    })
}

/// A field of a protobuf message, as far as it matters here.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    fn bytes(&self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Number(_) => None,
        }
    }

    fn number(&self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Bytes(_) => None,
        }
    }
}

/// The fields of a protobuf message (protobuf.dev/programming-guides/encoding), up to the first that is malformed or of
/// fixed width, of which the messages here have none.
fn fields(message: &[u8]) -> impl Iterator<Item = (u64, Value<'_>)> {
    let mut rest = message;
    std::iter::from_fn(move || {
        let key = varint(&mut rest)?;
        let value = match key & 7 {
            0 => Value::Number(varint(&mut rest)?),
            2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                let (bytes, after) = rest.split_at_checked(length)?;
                rest = after;
                Value::Bytes(bytes)
            }
            _ => return None,
        };
        Some((key >> 3, value))
    })
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// `RESOURCE_EXHAUSTED`, "slow down", with a `RetryInfo` of 90.5 s behind some other detail.
    fn throttled() -> Vec<u8> {
        let field = |number: u8, bytes: &[u8]| [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat();
        let delay = [&[1 << 3, 90, 2 << 3][..], &[0x80, 0xca, 0xb5, 0xee, 0x01]].concat();
        let any = |kind: &str, value: &[u8]| {
            let kind = format!("type.googleapis.com/google.rpc.{kind}");
            field(3, &[field(1, kind.as_bytes()), field(2, value)].concat())
        };
        let message = field(2, b"slow down");
        [&[1 << 3, 8][..], &message, &any("DebugInfo", b"\x12\x01x"), &any("RetryInfo", &field(1, &delay))].concat()
    }

    #[test]
    fn a_delay_is_found_among_the_details_of_a_status() {
        assert_eq!(retry_info(&throttled()), Some(Duration::from_millis(90_500)));
        assert_eq!(retry_info(b""), None);
        assert_eq!(retry_info(&throttled()[..20]), None);
    }

    #[tokio::test]
    async fn what_the_exporter_logs_during_an_export_is_heard_by_its_task_alone() {
        let _log = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer()));
        let details = format!("{:?}", throttled());
        let (told, heard) = listen(async {
            tracing::debug!(name: "TonicTracesClient.ExportFailed", target: TARGET, grpc_details = details);
            tracing::warn!(name: "TonicTracesClient.PartialSuccess", target: TARGET, rejected_spans = 3_i64, error_message = "old");
            tracing::warn!(name: "TonicMetricsClient.PartialSuccess", target: TARGET, rejected_spans = 4_i64);
            7
        })
        .await;
        let expected =
            Heard { rejected_spans: 3, message: "old".into(), retry_after: Some(Duration::from_millis(90_500)) };
        assert_eq!((told, heard), (7, expected));
        tracing::warn!(name: "TonicTracesClient.PartialSuccess", target: TARGET, rejected_spans = 3_i64);
        assert_eq!(listen(async {}).await.1, Heard::default());
    }

    proptest! {
        #[test]
        fn no_details_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..100), cut in 0..200_usize) {
            let status = throttled();
            retry_info(&[&status[..cut.min(status.len())], &bytes].concat());
        }
    }
}

//! How long a receiver asks to wait before the next request.
//!
//! Reads Retry-After (RFC 9110 §10.2.3) over HTTP, and `RetryInfo` in the status details of gRPC. Does not wait. Called by
//! `client`.

use std::time::{Duration, SystemTime};

use base64::{Engine as _, engine::GeneralPurposeConfig, engine::general_purpose::GeneralPurpose};
use http::{HeaderValue, header::RETRY_AFTER};
use jiff::fmt::rfc2822::DateTimeParser;
use prost::Message as _;
use tonic_types::pb::{RetryInfo, Status};

use super::response::HttpReply;
use crate::clock;

pub(super) fn retry_after(reply: &HttpReply) -> Option<Duration> {
    let details =
        reply.trailers.get("grpc-status-details-bin").or_else(|| reply.headers.get("grpc-status-details-bin"));
    let padding = GeneralPurposeConfig::new().with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent);
    let base64 = GeneralPurpose::new(&base64::alphabet::STANDARD, padding);
    let info = details.and_then(|value| retry_info(&base64.decode(value.as_bytes()).ok()?));
    info.or_else(|| reply.headers.get(RETRY_AFTER).and_then(header))
}

/// A number of seconds, or a point in time.
fn header(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    let until = || DateTimeParser::new().relaxed_weekday(true).parse_timestamp(text).ok();
    let left = || Some(SystemTime::try_from(until()?).ok()?.duration_since(clock::wall()).unwrap_or_default());
    text.parse().map(Duration::from_secs).ok().or_else(left)
}

fn retry_info(status: &[u8]) -> Option<Duration> {
    let details = Status::decode(status).ok()?.details;
    let info = details.iter().find(|detail| detail.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(&*info.value).ok()?.retry_delay?;
    let nanos = u32::try_from(delay.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(u64::try_from(delay.seconds).ok()?, nanos))
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use proptest::prelude::*;

    use super::*;

    fn with_header(name: &'static str, value: &str) -> HttpReply {
        HttpReply {
            headers: HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]),
            ..HttpReply::default()
        }
    }

    /// `RESOURCE_EXHAUSTED`, "slow down", with a `RetryInfo` of 90.5 s behind some other detail.
    fn throttled() -> Vec<u8> {
        // google/rpc/status.proto: code, message, details; each of these a google.protobuf.Any.
        let any = |kind: &str, value: &[u8]| {
            let url = format!("type.googleapis.com/google.rpc.{kind}");
            let field =
                |number: u8, bytes: &[u8]| [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()][..], bytes].concat();
            field(3, &[field(1, url.as_bytes()), field(2, value)].concat())
        };
        let delay = b"\x0a\x08\x08\x5a\x10\x80\xca\xb5\xee\x01";
        [b"\x08\x08\x12\x09slow down".to_vec(), any("DebugInfo", b"\x12\x01x"), any("RetryInfo", delay)].concat()
    }

    #[test]
    fn a_delay_is_found_in_the_details_of_a_status_and_in_retry_after() {
        assert_eq!(retry_info(&throttled()), Some(Duration::from_millis(90_500)));
        for engine in [base64::engine::general_purpose::STANDARD, base64::engine::general_purpose::STANDARD_NO_PAD] {
            let details = engine.encode(throttled());
            let in_headers = with_header("grpc-status-details-bin", &details);
            let in_trailers = HttpReply { trailers: in_headers.headers.clone(), ..HttpReply::default() };
            for reply in [in_headers, in_trailers] {
                assert_eq!(retry_after(&reply), Some(Duration::from_millis(90_500)));
            }
        }
        assert_eq!(retry_info(b""), None);
        let asks = |text: &str| retry_after(&with_header("retry-after", text));
        assert_eq!(asks("120"), Some(Duration::from_secs(120)));
        assert_eq!(asks("Fri, 31 Dec 1999 23:59:59 GMT"), Some(Duration::ZERO));
        let far = asks("Fri, 31 Dec 2049 23:59:59 GMT").unwrap();
        assert!(far > Duration::from_secs(86_400), "{far:?}");
        assert_eq!(asks("soon"), None);
    }

    proptest! {
        #[test]
        fn no_status_is_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..100), cut in 0..200_usize) {
            let status = throttled();
            retry_info(&[&status[..cut.min(status.len())], &bytes].concat());
        }
    }
}

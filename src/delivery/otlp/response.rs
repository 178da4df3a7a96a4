//! Whether a response accepts an export, in whole or in part, or comes from something else than an OTLP receiver.
//!
//! Proxies, sign-in pages and other services send status 2xx too. Accepted means an empty body, an export response, or JSON
//! with no key but `partialSuccess` (OTLP specification, "OTLP/HTTP Response"); over gRPC the content type `application/grpc`
//! and the status `OK` (gRPC over HTTP/2, "Responses"). After anything else the batch is sent again. Called by `client`.

use std::io::Read as _;

use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message as _;
use serde_json::Value;

use super::error::{ExportError, grpc_error, http_error};

/// The largest export response, in bytes; more is not read.
pub(super) const LARGEST_BODY: usize = 1 << 20;

/// Characters that are kept of a receiver's message.
const LONGEST_MESSAGE: usize = 1000;

/// The response to one request.
#[derive(Debug, Default)]
pub(super) struct HttpReply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// At most [`LARGEST_BODY`].
    pub(super) body: Vec<u8>,
    /// Whether `body` is all of it.
    pub(super) complete: bool,
    pub(super) trailers: HeaderMap,
}

/// An accepted export.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::delivery) struct Accepted {
    /// Spans or data points that the receiver rejected.
    pub(in crate::delivery) rejected: u64,
    /// Why, or a warning.
    pub(in crate::delivery) message: String,
}

/// The outcome of a response over HTTP.
pub(super) fn http(reply: &HttpReply) -> Result<Accepted, ExportError> {
    if !reply.status.is_success() {
        return Err(if wants_tls(reply) {
            ExportError::Retryable(format!("HTTP {}: {WANTS_TLS}", reply.status.as_u16()))
        } else {
            http_error(reply.status.as_u16())
        });
    }
    let body = reply.complete.then(|| unpacked(&reply.body, reply.headers.get(CONTENT_ENCODING))).flatten();
    body.and_then(|body| acceptance(&reply.headers, &body)).ok_or_else(|| foreign(reply, "an OTLP"))
}

/// The mistake when the port of an `http://` endpoint speaks TLS.
pub(super) const WANTS_TLS: &str = "the port speaks TLS: write https:// in the endpoint";

/// What servers send in clear text, with status 400, when they require TLS: Go (the Collector), nginx, Apache, Tomcat.
const TLS_WORDS: &[&str] = &[
    "http request to an https server",
    "plain http request was sent to https port",
    "speaking plain http to an ssl-enabled",
    "combination of host and port requires tls",
];

fn wants_tls(reply: &HttpReply) -> bool {
    let text = String::from_utf8_lossy(&reply.body).to_ascii_lowercase();
    reply.status == StatusCode::BAD_REQUEST && TLS_WORDS.iter().any(|words| text.contains(words))
}

fn acceptance(headers: &HeaderMap, body: &[u8]) -> Option<Accepted> {
    if body.is_empty() {
        return Some(Accepted::default());
    }
    if body.trim_ascii_start().starts_with(b"{") {
        return json(body);
    }
    let response = ExportTraceServiceResponse::decode(body).ok()?;
    // Protobuf ignores unknown fields, and some text can be decoded as such fields.
    let is_protobuf = content_type(headers).is_some_and(|kind| kind.contains("protobuf"));
    (is_protobuf || response.encode_to_vec() == body).then(|| accepted(response))
}

/// The response for metrics has the same fields under other names.
fn accepted(response: ExportTraceServiceResponse) -> Accepted {
    let part = response.partial_success.unwrap_or_default();
    Accepted { rejected: part.rejected_spans.try_into().unwrap_or(0), message: short(&part.error_message) }
}

/// JSON as Protobuf maps it: a number of 64 bits is a string, or a number.
fn json(body: &[u8]) -> Option<Accepted> {
    let Value::Object(response) = serde_json::from_slice(body).ok()? else { return None };
    if response.keys().any(|key| key != "partialSuccess") {
        return None;
    }
    let part = match response.get("partialSuccess") {
        None | Some(Value::Null) => return Some(Accepted::default()),
        Some(Value::Object(part)) => part,
        Some(_) => return None,
    };
    let rejected = ["rejectedSpans", "rejectedDataPoints"].into_iter().find_map(|key| part.get(key));
    let rejected = match rejected {
        None | Some(Value::Null) => 0,
        Some(Value::String(number)) => number.parse::<i64>().ok()?,
        Some(number) => number.as_i64()?,
    };
    let message = short(part.get("errorMessage").and_then(Value::as_str).unwrap_or_default());
    Some(Accepted { rejected: rejected.try_into().unwrap_or(0), message })
}

fn short(message: &str) -> String {
    message.chars().take(LONGEST_MESSAGE).collect()
}

/// The outcome of a response over gRPC.
pub(super) fn grpc(reply: &HttpReply) -> Result<Accepted, ExportError> {
    let kind = content_type(&reply.headers);
    let rest = kind.as_deref().and_then(|kind| kind.strip_prefix("application/grpc"));
    let is_grpc = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('+'));
    let status = [&reply.trailers, &reply.headers].into_iter().find_map(|map| map.get("grpc-status"));
    // A status without a message may be in headers alone ("Trailers-Only"), from some proxies without a content type.
    let is_bare_status = kind.is_none() && status.is_some() && reply.body.is_empty();
    if reply.status != StatusCode::OK {
        // Not about the batch: the receiver's own errors have a gRPC status and HTTP status 200.
        return Err(ExportError::Retryable(http_error(reply.status.as_u16()).into_reason()));
    }
    if !is_grpc && !is_bare_status {
        return Err(foreign(reply, "a gRPC"));
    }
    let Some(code) = status.and_then(|status| status.to_str().ok()?.parse().ok()) else {
        return Err(ExportError::Retryable("the answer ends without a gRPC status".to_owned()));
    };
    if code != 0 {
        return Err(grpc_error(code));
    }
    let broken = || ExportError::Retryable("gRPC Ok with something else than an export response".to_owned());
    message(reply).and_then(|body| ExportTraceServiceResponse::decode(&*body).ok()).map(accepted).ok_or_else(broken)
}

/// The one message of a response ("Length-Prefixed-Message").
fn message(reply: &HttpReply) -> Option<Vec<u8>> {
    let (compressed, rest) = reply.body.split_first()?;
    let (length, message) = rest.split_first_chunk()?;
    let is_one = reply.complete && usize::try_from(u32::from_be_bytes(*length)).is_ok_and(|it| it == message.len());
    match compressed {
        0 if is_one => Some(message.to_vec()),
        1 if is_one => unpacked(message, Some(reply.headers.get("grpc-encoding")?)),
        _ => None,
    }
}

/// The decompressed body; none when it is damaged, too large, or compressed otherwise.
fn unpacked(body: &[u8], encoding: Option<&HeaderValue>) -> Option<Vec<u8>> {
    match encoding.map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Some(body.to_vec()),
        Some(b"gzip") => {
            let mut plain = Vec::new();
            let mut unpacking = flate2::read::MultiGzDecoder::new(body).take(LARGEST_BODY as u64 + 1);
            unpacking.read_to_end(&mut plain).ok()?;
            (plain.len() <= LARGEST_BODY).then_some(plain)
        }
        Some(_) => None,
    }
}

/// A response that no receiver sends: the batch has not arrived, and may be sent again.
fn foreign(reply: &HttpReply, expected: &str) -> ExportError {
    let kind = content_type(&reply.headers).map_or_else(|| "no content type".to_owned(), |kind| shown(&kind));
    let size = if reply.complete { String::new() } else { format!(" and more than {} KiB", LARGEST_BODY >> 10) };
    ExportError::Retryable(format!(
        "HTTP {} with {kind}{size} is no answer of {expected} receiver: a proxy, a sign-in page or another service answers \
         at this address; check the endpoint's host, port and path, and the protocol",
        reply.status.as_u16()
    ))
}

/// In lower case, without parameters.
fn content_type(headers: &HeaderMap) -> Option<String> {
    let text = String::from_utf8_lossy(headers.get(CONTENT_TYPE)?.as_bytes()).to_ascii_lowercase();
    Some(text.split(';').next().unwrap_or_default().trim().to_owned())
}

/// A content type for the log; it is the peer's text.
fn shown(kind: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/+-._".contains(c);
    if kind.contains('/') && kind.len() <= 60 && kind.chars().all(is_plain) {
        kind.to_owned()
    } else {
        "an unreadable content type".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;
    use proptest::prelude::*;

    use super::*;

    fn reply(status: u16, headers: &[(&'static str, &str)], body: &[u8]) -> HttpReply {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        HttpReply {
            status: StatusCode::from_u16(status).unwrap(),
            headers: headers.collect(),
            body: body.to_vec(),
            complete: true,
            trailers: HeaderMap::new(),
        }
    }

    fn partial(rejected_spans: i64, error_message: &str) -> Vec<u8> {
        let part = ExportTracePartialSuccess { rejected_spans, error_message: error_message.to_owned() };
        ExportTraceServiceResponse { partial_success: Some(part) }.encode_to_vec()
    }

    fn packed(plain: &[u8]) -> Vec<u8> {
        let mut gzip = flate2::read::GzEncoder::new(plain, flate2::Compression::fast());
        let mut packed = Vec::new();
        gzip.read_to_end(&mut packed).unwrap();
        packed
    }

    /// The reason why it is kept.
    fn kept(outcome: Result<Accepted, ExportError>) -> String {
        match outcome {
            Err(ExportError::Retryable(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");
    const JSON: (&str, &str) = ("content-type", "application/json; charset=utf-8");
    const TEXT: (&str, &str) = ("content-type", "text/plain; charset=utf-8");
    const HTML: (&str, &str) = ("content-type", "text/html");

    #[test]
    fn delivered_is_an_empty_body_an_export_response_or_json_without_another_key() {
        let old = Accepted { rejected: 3, message: "old".to_owned() };
        let text = partial(3, "old");
        let gzip = packed(&text);
        for (status, headers, body, accepted) in [
            (200, &[][..], &b""[..], Accepted::default()),
            (204, &[], b"", Accepted::default()),
            (202, &[HTML], b"", Accepted::default()),
            (200, &[PROTOBUF], b"\x0a\x00", Accepted::default()),
            (200, &[PROTOBUF], &text, old.clone()),
            (200, &[], &text, old.clone()),
            (200, &[PROTOBUF, ("content-encoding", "gzip")], &gzip, old.clone()),
            // A later version's field.
            (200, &[PROTOBUF], b"\x12\x01x", Accepted::default()),
            (200, &[JSON], b"{}", Accepted::default()),
            (200, &[TEXT], b" {}\n", Accepted::default()),
            (200, &[JSON], br#"{"partialSuccess":{}}"#, Accepted::default()),
            (200, &[JSON], br#"{"partialSuccess":null}"#, Accepted::default()),
            (200, &[JSON], br#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"old"}}"#, old.clone()),
            (200, &[JSON], br#"{"partialSuccess":{"rejectedDataPoints":3,"errorMessage":"old"}}"#, old.clone()),
            (200, &[JSON], br#"{"partialSuccess":{"rejectedSpans":-3}}"#, Accepted::default()),
        ] {
            assert_eq!(http(&reply(status, headers, body)), Ok(accepted), "{status} {headers:?} {body:?}");
        }
    }

    #[test]
    fn of_a_long_message_the_beginning_is_kept() {
        for body in [
            partial(0, &"ü".repeat(5000)),
            format!(r#"{{"partialSuccess":{{"errorMessage":"{}"}}}}"#, "ü".repeat(5000)).into_bytes(),
        ] {
            assert_eq!(http(&reply(200, &[PROTOBUF], &body)).unwrap().message, "ü".repeat(LONGEST_MESSAGE));
        }
    }

    #[test]
    fn other_responses_with_2xx_are_kept_and_reported_with_their_content_type() {
        for (headers, body, kind) in [
            (&[HTML][..], &b"<!DOCTYPE html><title>Sign in</title>"[..], "text/html"),
            (&[TEXT], b"It works!\n", "text/plain"),
            // These can be read as protobuf of unknown fields.
            (&[TEXT], b"accepted\n", "text/plain"),
            (&[], b"00", "no content type"),
            (&[TEXT], b"\n", "text/plain"),
            (&[JSON], br#"{"status":"error","message":"no such tenant"}"#, "application/json"),
            (&[JSON], br#"{"error":"unauthorised"}"#, "application/json"),
            (&[JSON], br#"{"code":16,"message":"no token"}"#, "application/json"),
            (&[JSON], br#"{"partialSuccess":{},"error":"x"}"#, "application/json"),
            (&[JSON], br#"{"partialSuccess":"yes"}"#, "application/json"),
            (&[JSON], br#"{"partialSuccess":{"rejectedSpans":"some"}}"#, "application/json"),
            (&[JSON], b"[]", "application/json"),
            (&[JSON], b"null", "application/json"),
            (&[JSON], b"\"ok\"", "application/json"),
            (&[JSON], b"{", "application/json"),
            // A google.rpc.Status: its first field is a number.
            (&[PROTOBUF], b"\x08\x03\x12\x02no", "application/x-protobuf"),
            (&[PROTOBUF], b"\xff\xff\xff", "application/x-protobuf"),
            (&[PROTOBUF, ("content-encoding", "gzip")], b"not packed", "application/x-protobuf"),
            (&[PROTOBUF, ("content-encoding", "br")], b"\x0a\x00", "application/x-protobuf"),
            (&[("content-type", "text/html\u{9b}31m")], b"x", "an unreadable content type"),
        ] {
            let reason = kept(http(&reply(200, headers, body)));
            assert!(reason.starts_with(&format!("HTTP 200 with {kind} is no answer of an OTLP")), "{reason} {body:?}");
        }
        let endless = HttpReply { complete: false, ..reply(200, &[PROTOBUF], &[0x0a; 10]) };
        assert!(kept(http(&endless)).contains("application/x-protobuf and more than 1024 KiB"));
        let bomb = packed(&vec![0; LARGEST_BODY + 1]);
        kept(http(&reply(200, &[PROTOBUF, ("content-encoding", "gzip")], &bomb)));
    }

    #[test]
    fn a_server_that_requires_tls_may_respond_in_clear_text_and_the_batch_is_kept() {
        for words in [
            "Client sent an HTTP request to an HTTPS server.\n",
            "<center>The plain HTTP request was sent to HTTPS port</center>",
            "Reason: You're speaking plain HTTP to an SSL-enabled server port.<br />",
            "Bad Request\nThis combination of host and port requires TLS.\n",
        ] {
            let reason = kept(http(&reply(400, &[TEXT], words.as_bytes())));
            assert_eq!(reason, "HTTP 400: the port speaks TLS: write https:// in the endpoint");
        }
        let batch = http(&reply(400, &[TEXT], b"the attribute tls.cipher is too long"));
        assert!(matches!(batch, Err(ExportError::Permanent(_))), "{batch:?}");
    }

    const GRPC: (&str, &str) = ("content-type", "application/grpc");
    const OK: &[(&str, &str)] = &[("grpc-status", "0")];

    fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
        [&[flag][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
    }

    fn with_trailers(mut reply: HttpReply, trailers: &[(&'static str, &str)]) -> HttpReply {
        reply.trailers = trailers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        reply
    }

    #[test]
    fn delivered_over_grpc_is_one_message_with_status_ok_under_its_content_type() {
        let old = Accepted { rejected: 3, message: "old".to_owned() };
        let gzip = framed(1, &packed(&partial(3, "old")));
        for (headers, body, accepted) in [
            (&[GRPC][..], framed(0, b""), Accepted::default()),
            (&[("content-type", "application/grpc+proto")], framed(0, b"\x0a\x00"), Accepted::default()),
            (&[("content-type", "Application/GRPC; x=y")], framed(0, &partial(3, "old")), old.clone()),
            (&[GRPC, ("grpc-encoding", "gzip")], gzip.clone(), old.clone()),
        ] {
            let answer = with_trailers(reply(200, headers, &body), OK);
            assert_eq!(grpc(&answer), Ok(accepted), "{headers:?}");
        }
    }

    #[test]
    fn a_batch_is_kept_after_a_response_that_is_not_grpc() {
        let empty = framed(0, b"");
        for (headers, body, trailers, says) in [
            (&[HTML][..], &b"<html>"[..], &[][..], "HTTP 200 with text/html is no answer of a gRPC"),
            (&[HTML], &empty, OK, "HTTP 200 with text/html"),
            (&[JSON], b"{}", &[], "HTTP 200 with application/json"),
            (&[], b"", &[], "HTTP 200 with no content type"),
            (&[("content-type", "application/grpc-web")], &empty, OK, "HTTP 200 with application/grpc-web"),
            (&[GRPC], &empty, &[], "without a gRPC status"),
            (&[GRPC], b"", &[], "without a gRPC status"),
            (&[GRPC], &empty, &[("grpc-status", "fine")], "without a gRPC status"),
            // Trailers-Only with Ok has no message, and a call of this kind has one.
            (&[GRPC, ("grpc-status", "0")], b"", &[], "gRPC Ok with something else"),
            (&[GRPC], b"", OK, "gRPC Ok with something else"),
            (&[GRPC], &empty[..3], OK, "gRPC Ok with something else"),
            (&[GRPC], b"<html>", OK, "gRPC Ok with something else"),
            (&[GRPC], &[&empty[..], &empty].concat(), OK, "gRPC Ok with something else"),
            (&[GRPC], &framed(1, b""), OK, "gRPC Ok with something else"),
            (&[GRPC], &framed(0, b"\x08\x03"), OK, "gRPC Ok with something else"),
        ] {
            let reason = kept(grpc(&with_trailers(reply(200, headers, body), trailers)));
            assert!(reason.contains(says), "{reason}");
        }
        // HTTP's own status is a proxy's, whatever it is.
        for status in [301, 400, 401, 404, 413, 415, 500, 502, 503] {
            kept(grpc(&reply(status, &[HTML], b"<html>")));
        }
    }

    #[test]
    fn a_status_of_grpc_counts_wherever_it_stands() {
        let refused = [("grpc-status", "3")];
        for answer in [
            reply(200, &[GRPC, refused[0]], b""),
            reply(200, &[refused[0]], b""),
            with_trailers(reply(200, &[GRPC], b""), &refused),
            with_trailers(reply(200, &[GRPC], &framed(0, b"")), &refused),
        ] {
            assert_eq!(grpc(&answer), Err(ExportError::Permanent("gRPC InvalidArgument".to_owned())));
        }
        kept(grpc(&reply(200, &[GRPC, ("grpc-status", "14")], b"")));
    }

    proptest! {
        #[test]
        fn no_answer_is_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let answer = with_trailers(reply(200, &[GRPC, ("grpc-encoding", "gzip")], &bytes), OK);
            drop((http(&answer), grpc(&answer)));
        }

        /// After any page the batch is kept.
        #[test]
        fn no_text_is_a_delivery(text in "[ -z|~\r\n\t]{1,40}") {
            kept(http(&reply(200, &[TEXT], text.as_bytes())));
        }
    }
}

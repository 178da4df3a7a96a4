//! What a failed export means: the same batch again, a part of it, or never.
//!
//! Knows the answers of HTTP and gRPC, and nothing of how they came; that is `wire`'s, which calls it. `sender`, `meter` and
//! `replay` act on it.

/// An export that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The same batch may be taken another time.
    Later(String),
    /// This batch is too much; a part of it may be taken.
    TooMuch(String),
    /// This batch never will.
    Refused(String),
}

impl Failure {
    pub(super) fn into_reason(self) -> String {
        match self {
            Self::Later(reason) | Self::TooMuch(reason) | Self::Refused(reason) => reason,
        }
    }
}

/// The OTLP specification says which answers mean "again later". Beside those we keep what a wrong set-up brings about
/// (address, credentials): it is the operator's to mend, and no fault of the batch.
pub(super) fn http_failure(status: u16) -> Failure {
    match status {
        401 | 403 => Failure::Later(format!("HTTP {status}: check the OTLP headers")),
        300..=399 | 404 | 405 => Failure::Later(format!("HTTP {status}: check the OTLP endpoint and protocol")),
        408 | 429 | 502..=504 => Failure::Later(format!("HTTP {status}")),
        _ => Failure::Refused(format!("HTTP {status}")),
    }
}

/// Adds what is most likely wrong when one protocol met the other.
pub(super) fn mistaken(reason: String) -> String {
    let grpc = ["invalid HTTP version parsed", "received unexpected message from connection"];
    if grpc.iter().any(|words| reason.contains(words)) {
        format!("{reason}: it may speak gRPC (protocol = \"grpc\")")
    } else if reason.contains("frame with invalid size") {
        format!("{reason}: it may speak HTTP (protocol = \"http/protobuf\")")
    } else {
        reason
    }
}

/// What tonic puts in front of the cause.
const WRAPPERS: &[&str] = &["transport error", "connection error", "tcp connect error", "client error (Connect)"];

/// The exporter's error ends in `gRPC code: NAME`, followed by `: CAUSE` when no answer came at all.
pub(super) fn grpc_failure(error: &str) -> Failure {
    let Some((_, told)) = error.split_once("gRPC code: ") else {
        return Failure::Later(error.to_owned());
    };
    let (code, cause) = told.split_once(": ").map_or((told, None), |(code, cause)| (code, Some(cause)));
    if let Some(cause) = cause {
        // A chain of wrappers that repeat each other; what is left of it is the cause.
        let mut told: Vec<_> = cause.split(": ").filter(|link| !WRAPPERS.contains(link)).collect();
        told.dedup();
        let half = told.len() / 2;
        let told = if told.len() % 2 == 0 && told[..half] == told[half..] { &told[..half] } else { &told[..] };
        return Failure::Later(mistaken(told.join(": ")));
    }
    match code {
        "Unauthenticated" | "PermissionDenied" => Failure::Later(format!("gRPC {code}: check the OTLP headers")),
        "Unimplemented" => Failure::Later(format!("gRPC {code}: check the OTLP endpoint and protocol")),
        // What a message over the receiver's limit meets, in Go and in Rust.
        "ResourceExhausted" | "OutOfRange" => Failure::TooMuch(format!("gRPC {code}")),
        "Cancelled" | "DeadlineExceeded" | "Aborted" | "Unavailable" | "DataLoss" => {
            Failure::Later(format!("gRPC {code}"))
        }
        _ => Failure::Refused(format!("gRPC {code}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grpc(told: &str) -> Failure {
        grpc_failure(&format!("Operation failed: TonicTracesClient export failed with gRPC code: {told}"))
    }

    #[test]
    fn what_was_never_answered_is_sent_again_and_the_cause_is_told_once() {
        for (told, reason) in [
            (
                "Unavailable: transport error: tcp connect error: tcp connect error: Connection refused (os error 111)",
                "Connection refused (os error 111)",
            ),
            (
                "Unavailable: transport error: invalid peer certificate: UnknownIssuer: invalid peer certificate: UnknownIssuer",
                "invalid peer certificate: UnknownIssuer",
            ),
            ("Internal: protocol error: not HTTP/2", "protocol error: not HTTP/2"),
        ] {
            assert_eq!(grpc(told), Failure::Later(reason.to_owned()));
        }
    }

    #[test]
    fn a_receiver_of_the_other_protocol_is_guessed_at() {
        assert_eq!(mistaken("away".to_owned()), "away");
        assert!(
            mistaken("invalid HTTP version parsed".to_owned()).ends_with("it may speak gRPC (protocol = \"grpc\")")
        );
        let Failure::Later(reason) = grpc("Unavailable: http2 error: connection error: frame with invalid size") else {
            panic!("it is not to be kept");
        };
        assert!(reason.ends_with("it may speak HTTP (protocol = \"http/protobuf\")"), "{reason}");
    }

    #[test]
    fn only_what_is_the_batchs_own_fault_is_refused() {
        for code in ["InvalidArgument", "Internal", "FailedPrecondition"] {
            assert!(matches!(grpc(code), Failure::Refused(_)), "{code}");
        }
        for code in ["Unavailable", "Unauthenticated", "Unimplemented"] {
            assert!(matches!(grpc(code), Failure::Later(_)), "{code}");
        }
        for code in ["ResourceExhausted", "OutOfRange"] {
            assert!(matches!(grpc(code), Failure::TooMuch(_)), "{code}");
        }
        for status in [400, 413, 422, 500] {
            assert!(matches!(http_failure(status), Failure::Refused(_)), "{status}");
        }
        for status in [301, 401, 403, 404, 429, 502, 503, 504] {
            assert!(matches!(http_failure(status), Failure::Later(_)), "{status}");
        }
    }
}

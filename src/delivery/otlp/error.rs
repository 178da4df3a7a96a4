//! What a failed export means: the same batch again, a part of it, or never.
//!
//! Maps the status codes of HTTP and gRPC; `response` and `client` find them. The sender, the exporter of metrics and
//! [`Replay`](crate::delivery::Replay) act on the result.

/// An export that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::delivery) enum Failure {
    /// The same batch may be taken another time.
    Later(String),
    /// This batch is too much; a part of it may be taken.
    TooMuch(String),
    /// This batch never will.
    Refused(String),
}

impl Failure {
    pub(in crate::delivery) fn into_reason(self) -> String {
        match self {
            Self::Later(reason) | Self::TooMuch(reason) | Self::Refused(reason) => reason,
        }
    }

    /// The same with another reason.
    pub(super) fn map(self, change: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::Later(reason) => Self::Later(change(reason)),
            Self::TooMuch(reason) => Self::TooMuch(change(reason)),
            Self::Refused(reason) => Self::Refused(change(reason)),
        }
    }
}

/// The OTLP specification says which answers mean "again later". Beside those we keep what a wrong set-up brings about
/// (address, credentials, format), which is the operator's to mend, and what only an intermediary says: neither is a
/// judgement of the batch.
pub(super) fn http_failure(status: u16) -> Failure {
    let advice = match status {
        401..=403 => ": check the OTLP headers",
        300..=399 | 404 | 405 | 410 | 421 => ": check the OTLP endpoint and protocol",
        406 | 415 => ": check the OTLP protocol and compression",
        407 => ": a proxy on the way asks for credentials",
        426 => ": check the OTLP protocol, and whether the endpoint needs https://",
        511 => ": the network requires a sign-in (RFC 6585 §6)",
        // The last are those of content networks, whose origin does not answer as it should.
        408 | 425 | 429 | 502..=504 | 520..=599 => "",
        _ => return Failure::Refused(format!("HTTP {status}")),
    };
    Failure::Later(format!("HTTP {status}{advice}"))
}

/// The codes of gRPC by number ("Status codes and their use in gRPC").
const CODES: [&str; 17] = [
    "Ok",
    "Cancelled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// What a status of gRPC means that is not Ok.
pub(super) fn grpc_failure(code: usize) -> Failure {
    let Some(name) = CODES.get(code) else {
        return Failure::Later(format!(
            "gRPC status {code}, which does not exist: check the OTLP endpoint and protocol"
        ));
    };
    match *name {
        "Unauthenticated" | "PermissionDenied" => Failure::Later(format!("gRPC {name}: check the OTLP headers")),
        "Unimplemented" => Failure::Later(format!("gRPC {name}: check the OTLP endpoint and protocol")),
        // What a message over the receiver's limit meets, in Go and in Rust.
        "ResourceExhausted" | "OutOfRange" => Failure::TooMuch(format!("gRPC {name}")),
        "Cancelled" | "DeadlineExceeded" | "Aborted" | "Unavailable" | "DataLoss" => {
            Failure::Later(format!("gRPC {name}"))
        }
        _ => Failure::Refused(format!("gRPC {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_the_batchs_own_fault_is_refused() {
        let number = |name: &str| CODES.iter().position(|code| *code == name).unwrap();
        for code in ["InvalidArgument", "Internal", "FailedPrecondition"] {
            assert_eq!(grpc_failure(number(code)), Failure::Refused(format!("gRPC {code}")));
        }
        for code in ["Unavailable", "Unauthenticated", "Unimplemented"] {
            assert!(matches!(grpc_failure(number(code)), Failure::Later(_)), "{code}");
        }
        for code in ["ResourceExhausted", "OutOfRange"] {
            assert!(matches!(grpc_failure(number(code)), Failure::TooMuch(_)), "{code}");
        }
        assert!(matches!(grpc_failure(17), Failure::Later(_)));
        assert_eq!((number("DeadlineExceeded"), number("Unauthenticated")), (4, 16));
        for status in [400, 413, 422, 431, 500, 501] {
            assert!(matches!(http_failure(status), Failure::Refused(_)), "{status}");
        }
        // Of proxies, sign-in pages and content networks, and of what an operator can mend.
        for status in [402, 406, 407, 410, 415, 421, 425, 426, 511, 520, 522, 530, 598] {
            assert!(matches!(http_failure(status), Failure::Later(_)), "{status}");
        }
        for status in [301, 401, 403, 404, 429, 502, 503, 504] {
            assert!(matches!(http_failure(status), Failure::Later(_)), "{status}");
        }
    }
}

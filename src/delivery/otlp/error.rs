//! What may be sent again after a failed export: the same batch, a part of it, or nothing.
//!
//! Maps the status codes of HTTP and gRPC, which `response` finds. The sender, the exporter of metrics and
//! [`Replay`](crate::delivery::Replay) act on the result.

/// Why an export did not succeed, and what may be sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::delivery) enum ExportError {
    /// The same batch may be accepted later.
    Retryable(String),
    /// The batch is too large; a part of it may be accepted.
    TooLarge(String),
    /// The batch will never be accepted.
    Permanent(String),
}

impl ExportError {
    pub(in crate::delivery) fn into_reason(self) -> String {
        match self {
            Self::Retryable(reason) | Self::TooLarge(reason) | Self::Permanent(reason) => reason,
        }
    }

    /// Replaces the reason.
    pub(super) fn map(self, change: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::Retryable(reason) => Self::Retryable(change(reason)),
            Self::TooLarge(reason) => Self::TooLarge(change(reason)),
            Self::Permanent(reason) => Self::Permanent(change(reason)),
        }
    }
}

/// Besides the status codes of the OTLP specification, those are retried that mean a wrong set-up (address, credentials,
/// format), which the operator can correct, or come from an intermediary.
pub(super) fn http_error(status: u16) -> ExportError {
    let advice = match status {
        // As for gRPC: a part of the batch may be accepted.
        413 => return ExportError::TooLarge(format!("HTTP {status}")),
        401..=403 => ": check the OTLP headers",
        300..=399 | 404 | 405 | 410 | 421 => ": check the OTLP endpoint and protocol",
        406 | 415 => ": check the OTLP protocol and compression",
        407 => ": a proxy on the way asks for credentials",
        426 => ": check the OTLP protocol, and whether the endpoint needs https://",
        511 => ": the network requires a sign-in (RFC 6585 §6)",
        // From 520 on: content delivery networks whose origin fails.
        408 | 425 | 429 | 502..=504 | 520..=599 => "",
        _ => return ExportError::Permanent(format!("HTTP {status}")),
    };
    ExportError::Retryable(format!("HTTP {status}{advice}"))
}

/// The status codes of gRPC by number ("Status codes and their use in gRPC").
const CODES: &str = "Ok Cancelled Unknown InvalidArgument DeadlineExceeded NotFound AlreadyExists PermissionDenied \
                     ResourceExhausted FailedPrecondition Aborted OutOfRange Unimplemented Internal Unavailable DataLoss \
                     Unauthenticated";

/// The error of a gRPC status code other than Ok.
pub(super) fn grpc_error(code: usize) -> ExportError {
    let Some(name) = CODES.split(' ').nth(code) else {
        return ExportError::Retryable(format!(
            "gRPC status {code}, which does not exist: check the OTLP endpoint and protocol"
        ));
    };
    match name {
        "Unauthenticated" | "PermissionDenied" => {
            ExportError::Retryable(format!("gRPC {name}: check the OTLP headers"))
        }
        "Unimplemented" => ExportError::Retryable(format!("gRPC {name}: check the OTLP endpoint and protocol")),
        // A message over the receiver's limit, in Go and in Rust.
        "ResourceExhausted" | "OutOfRange" => ExportError::TooLarge(format!("gRPC {name}")),
        "Cancelled" | "DeadlineExceeded" | "Aborted" | "Unavailable" | "DataLoss" => {
            ExportError::Retryable(format!("gRPC {name}"))
        }
        _ => ExportError::Permanent(format!("gRPC {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_about_the_batch_are_permanent() {
        let number = |name: &str| CODES.split(' ').position(|code| code == name).unwrap();
        for code in ["InvalidArgument", "Internal", "FailedPrecondition"] {
            assert_eq!(grpc_error(number(code)), ExportError::Permanent(format!("gRPC {code}")));
        }
        for code in ["Unavailable", "Unauthenticated", "Unimplemented"] {
            assert!(matches!(grpc_error(number(code)), ExportError::Retryable(_)), "{code}");
        }
        for code in ["ResourceExhausted", "OutOfRange"] {
            assert!(matches!(grpc_error(number(code)), ExportError::TooLarge(_)), "{code}");
        }
        assert!(matches!(grpc_error(17), ExportError::Retryable(_)));
        assert_eq!((number("DeadlineExceeded"), number("Unauthenticated")), (4, 16));
        assert!(matches!(http_error(413), ExportError::TooLarge(_)));
        for status in [400, 422, 431, 500, 501] {
            assert!(matches!(http_error(status), ExportError::Permanent(_)), "{status}");
        }
        // Of proxies, sign-in pages and content networks, and of what an operator can mend.
        for status in [402, 406, 407, 410, 415, 421, 425, 426, 511, 520, 522, 530, 598] {
            assert!(matches!(http_error(status), ExportError::Retryable(_)), "{status}");
        }
        for status in [301, 401, 403, 404, 429, 502, 503, 504] {
            assert!(matches!(http_error(status), ExportError::Retryable(_)), "{status}");
        }
    }
}

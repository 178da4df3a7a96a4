//! What an answer or a cause means: the one place where things become an `error.type` (contract §6).

use std::io;

use crate::{
    imap::{Breach, Condition, Syntax},
    net::{ConnectCause, ResolveCause, TlsCause, Trouble, trouble},
    record::ErrorType,
};

pub(super) fn of_resolve(cause: &ResolveCause) -> ErrorType {
    match cause {
        ResolveCause::NxDomain => ErrorType::DnsNxdomain,
        ResolveCause::NoData => ErrorType::DnsNodata,
        ResolveCause::Timeout => ErrorType::TimeoutResolve,
        ResolveCause::Exhausted(_) => ErrorType::OverloadFd,
        ResolveCause::NoPort(_) => ErrorType::OverloadPort,
        ResolveCause::Local(_) => ErrorType::Internal,
        ResolveCause::Failed(_) => ErrorType::DnsServfail,
    }
}

pub(super) fn of_connect(cause: ConnectCause) -> ErrorType {
    match cause {
        ConnectCause::Refused => ErrorType::ConnectRefused,
        ConnectCause::Unreachable => ErrorType::ConnectUnreachable,
        ConnectCause::Timeout => ErrorType::TimeoutConnect,
        ConnectCause::Reset => ErrorType::Reset,
        ConnectCause::Exhausted => ErrorType::OverloadFd,
        ConnectCause::NoPort => ErrorType::OverloadPort,
        ConnectCause::Source => ErrorType::AddressDenied,
        ConnectCause::Local(_) => ErrorType::Internal,
    }
}

pub(super) fn of_tls(cause: TlsCause) -> ErrorType {
    match cause {
        TlsCause::Expired => ErrorType::TlsCertExpired,
        TlsCause::NotYetValid => ErrorType::TlsCertNotYetValid,
        TlsCause::Name => ErrorType::TlsCertName,
        TlsCause::Untrusted => ErrorType::TlsCertUntrusted,
        TlsCause::Weak => ErrorType::TlsCertWeak,
        TlsCause::Protocol => ErrorType::TlsProtocol,
        TlsCause::Alert => ErrorType::TlsAlert,
        TlsCause::Reset => ErrorType::Reset,
        TlsCause::Eof => ErrorType::Eof,
        TlsCause::Timeout => ErrorType::TimeoutTls,
        TlsCause::Exhausted => ErrorType::OverloadFd,
        TlsCause::Local => ErrorType::Internal,
        TlsCause::Handshake => ErrorType::TlsHandshake,
    }
}

pub(super) fn of_breach(breach: Breach) -> ErrorType {
    match breach {
        Breach::Syntax(Syntax::Literal | Syntax::BareCr) | Breach::OutOfPlace | Breach::Status => {
            ErrorType::ProtocolSyntax
        }
        Breach::Syntax(Syntax::Line) => ErrorType::LimitLine,
        Breach::Syntax(Syntax::Depth) => ErrorType::LimitDepth,
        Breach::Greeting => ErrorType::ProtocolGreeting,
        Breach::Tag => ErrorType::ProtocolTag,
        Breach::Continuation => ErrorType::ProtocolContinuation,
        Breach::Unproven => ErrorType::AuthProtocol,
        Breach::Bytes => ErrorType::LimitBytes,
        Breach::Responses => ErrorType::LimitResponses,
    }
}

/// An error of a connection that stood.
pub(super) fn of_io(error: &io::Error) -> ErrorType {
    match trouble(error) {
        Some(Trouble::Line) => return ErrorType::Reset,
        // It says nothing of the server.
        Some(Trouble::Exhausted) => return ErrorType::OverloadFd,
        Some(Trouble::Local) => return ErrorType::Internal,
        None => {}
    }
    let text = error.to_string().to_ascii_lowercase();
    match error.kind() {
        io::ErrorKind::UnexpectedEof => ErrorType::Eof,
        _ if text.contains("unexpected eof") => ErrorType::Eof,
        _ if text.contains("alert") => ErrorType::TlsAlert,
        _ if text.contains("ssl routines") => ErrorType::TlsProtocol,
        _ => ErrorType::Reset,
    }
}

/// A tagged NO or BAD, or BYE, to the command of this name.
pub(super) fn of_refusal(command: &str, condition: Condition, code: Option<&str>) -> ErrorType {
    let login = matches!(command, "LOGIN" | "AUTHENTICATE");
    match (condition, code) {
        (Condition::No | Condition::Bye, Some("REFERRAL")) => ErrorType::Referral,
        (Condition::Bye, _) => ErrorType::Bye,
        (Condition::No | Condition::Bad, _) if command == "STARTTLS" => ErrorType::StarttlsRefused,
        (Condition::Bad, _) => ErrorType::Bad,
        (_, Some("UNAVAILABLE")) => ErrorType::Unavailable,
        (_, Some("LIMIT" | "INUSE")) => ErrorType::LimitServer,
        (_, Some("EXPIRED")) if login => ErrorType::AuthExpired,
        (_, Some("PRIVACYREQUIRED")) if login => ErrorType::AuthPrivacy,
        // An alert is a wish to be read, no reason of its own.
        (_, None | Some("AUTHENTICATIONFAILED" | "AUTHORIZATIONFAILED" | "ALERT")) if login => ErrorType::AuthFailed,
        _ => ErrorType::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_by_command_and_code() {
        use Condition::{Bad, Bye, No};
        for (command, condition, code, class) in [
            ("LOGIN", No, None, ErrorType::AuthFailed),
            ("AUTHENTICATE", No, Some("AUTHENTICATIONFAILED"), ErrorType::AuthFailed),
            ("LOGIN", No, Some("EXPIRED"), ErrorType::AuthExpired),
            ("LOGIN", No, Some("PRIVACYREQUIRED"), ErrorType::AuthPrivacy),
            ("LOGIN", No, Some("UNAVAILABLE"), ErrorType::Unavailable),
            ("LOGIN", No, Some("LIMIT"), ErrorType::LimitServer),
            ("SELECT", No, Some("INUSE"), ErrorType::LimitServer),
            ("LOGIN", No, Some("CONTACTADMIN"), ErrorType::No),
            ("LOGIN", Bad, None, ErrorType::Bad),
            ("SELECT", No, None, ErrorType::No),
            ("SELECT", No, Some("NONEXISTENT"), ErrorType::No),
            ("FETCH", Bad, Some("CLIENTBUG"), ErrorType::Bad),
            ("LOGIN", No, Some("REFERRAL"), ErrorType::Referral),
            ("LIST", Bye, Some("UNAVAILABLE"), ErrorType::Bye),
            ("STARTTLS", Bad, None, ErrorType::StarttlsRefused),
        ] {
            assert_eq!(of_refusal(command, condition, code), class, "{command} {condition:?} {code:?}");
        }
    }
}

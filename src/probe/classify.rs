//! Responses and causes as classes: the one place that makes an `error.type` (docs/telemetry.md). Pure functions; called by
//! `conversation`, `driver`, `reach` and `sasl`.

use std::io;

use imaptrace_imap::{CommandName, Condition, ProtocolViolation, ResponseCode, StatusResponse, Syntax};
use imaptrace_record::{CloseNotify, ErrorType, TlsFault, not_now};

use super::exchange::Fault;
use crate::{
    clock::{self, OwnDelay},
    net::{ConnectCause, RefusedCertificate, ResolveCause, TlsCause, TlsFailure, Trouble, trouble},
    secret::SecretError,
};

/// The class of a step that imaptrace itself was too slow for: it says nothing of the server.
pub(super) fn of_own_delay(delay: OwnDelay) -> ErrorType {
    match delay {
        OwnDelay::Stopped => ErrorType::Suspended,
        OwnDelay::Slow => ErrorType::OverloadCpu,
    }
}

pub(super) fn of_resolve(cause: &ResolveCause) -> ErrorType {
    match cause {
        ResolveCause::NxDomain => ErrorType::DnsNxdomain,
        ResolveCause::NoData => ErrorType::DnsNodata,
        ResolveCause::Timeout => ErrorType::TimeoutResolve,
        ResolveCause::Late => ErrorType::OverloadCpu,
        ResolveCause::Exhausted(_) => ErrorType::OverloadFd,
        ResolveCause::NoPort(_) => ErrorType::OverloadPort,
        ResolveCause::Local(_) => ErrorType::Internal,
        ResolveCause::Failed(_) => ErrorType::DnsServfail,
    }
}

pub(super) fn of_secret(error: &SecretError) -> ErrorType {
    if error.is_descriptor_shortage() { ErrorType::OverloadFd } else { ErrorType::SecretUnavailable }
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
        ConnectCause::Local => ErrorType::Internal,
    }
}

pub(super) fn of_tls(cause: TlsCause) -> ErrorType {
    match cause {
        TlsCause::Expired => ErrorType::TlsCertExpired,
        TlsCause::NotYetValid => ErrorType::TlsCertNotYetValid,
        TlsCause::Name => ErrorType::TlsCertName,
        TlsCause::Untrusted => ErrorType::TlsCertUntrusted,
        TlsCause::Weak => ErrorType::TlsCertWeak,
        TlsCause::ClearText | TlsCause::Http | TlsCause::NoTls | TlsCause::Version => ErrorType::TlsProtocol,
        TlsCause::Alert
        | TlsCause::Alpn
        | TlsCause::UnknownName
        | TlsCause::ClientCertificateRequired
        | TlsCause::ClientCertificateRefused
        | TlsCause::HandshakeRefused
        | TlsCause::ServerFault => ErrorType::TlsAlert,
        TlsCause::Reset => ErrorType::Reset,
        TlsCause::Eof => ErrorType::Eof,
        TlsCause::Timeout => ErrorType::TimeoutTls,
        TlsCause::Exhausted => ErrorType::OverloadFd,
        TlsCause::Local => ErrorType::Internal,
        TlsCause::SmallDhGroup
        | TlsCause::LegacyRenegotiation
        | TlsCause::NoCommonParameters
        | TlsCause::SignatureAlgorithm
        | TlsCause::MalformedCertificate
        | TlsCause::Altered
        | TlsCause::RefusedAfterCertificate
        | TlsCause::Handshake => ErrorType::TlsHandshake,
    }
}

/// What an operator has to mend, as far as the handshake or the connection itself tells.
pub(super) fn tls_fault(failure: &TlsFailure) -> Option<TlsFault> {
    Some(match failure.cause {
        TlsCause::ClearText => TlsFault::ClearText,
        TlsCause::Http => TlsFault::Http,
        TlsCause::NoTls => TlsFault::NoTls,
        TlsCause::Version => TlsFault::Version,
        TlsCause::SmallDhGroup => TlsFault::SmallDhGroup,
        TlsCause::LegacyRenegotiation => TlsFault::LegacyRenegotiation,
        TlsCause::NoCommonParameters => TlsFault::NoCommonParameters,
        TlsCause::SignatureAlgorithm => TlsFault::SignatureAlgorithm,
        TlsCause::MalformedCertificate => TlsFault::MalformedCertificate,
        TlsCause::Altered => TlsFault::Altered,
        TlsCause::Alpn => TlsFault::Alpn,
        TlsCause::UnknownName => TlsFault::UnknownName,
        TlsCause::ClientCertificateRequired => TlsFault::ClientCertificateRequired,
        TlsCause::RefusedAfterCertificate => TlsFault::RefusedAfterCertificate,
        TlsCause::ClientCertificateRefused => TlsFault::ClientCertificateRefused,
        TlsCause::HandshakeRefused => TlsFault::HandshakeRefused,
        TlsCause::ServerFault => TlsFault::ServerFault,
        TlsCause::Eof | TlsCause::Reset if failure.answered => TlsFault::ClosedInHandshake,
        TlsCause::Eof | TlsCause::Reset => TlsFault::ClosedBeforeHello,
        TlsCause::Expired
        | TlsCause::NotYetValid
        | TlsCause::Name
        | TlsCause::Untrusted
        | TlsCause::Weak
        | TlsCause::Alert
        | TlsCause::Timeout
        | TlsCause::Exhausted
        | TlsCause::Local
        | TlsCause::Handshake => return None,
    })
}

/// The same of a certificate that was refused, by its place in the chain.
pub(super) fn certificate_fault(refused: &RefusedCertificate) -> Option<TlsFault> {
    // Results of OpenSSL's verification (x509_vfy.h).
    const SELF_SIGNED: i32 = 18;
    const SELF_SIGNED_IN_CHAIN: i32 = 19;
    const NO_ISSUER: [i32; 3] = [2, 20, 21];
    let leaf = refused.depth == 0;
    Some(match refused.cause {
        TlsCause::Expired if leaf => TlsFault::LeafExpired,
        TlsCause::Expired if refused.certificate.is_self_issued() => TlsFault::RootExpired,
        TlsCause::Expired => TlsFault::IntermediateExpired,
        TlsCause::NotYetValid if leaf => TlsFault::LeafNotYetValid,
        TlsCause::NotYetValid => TlsFault::IssuerNotYetValid,
        TlsCause::Weak if leaf => TlsFault::LeafWeak,
        TlsCause::Weak => TlsFault::IssuerWeak,
        TlsCause::Untrusted if refused.number == SELF_SIGNED => TlsFault::SelfSigned,
        TlsCause::Untrusted if refused.number == SELF_SIGNED_IN_CHAIN => TlsFault::RootUntrusted,
        TlsCause::Untrusted if NO_ISSUER.contains(&refused.number) && leaf => TlsFault::IssuerMissing,
        TlsCause::Untrusted if NO_ISSUER.contains(&refused.number) => TlsFault::RootUntrusted,
        _ => return None,
    })
}

pub(super) fn of_violation(violation: ProtocolViolation) -> ErrorType {
    match violation {
        ProtocolViolation::Syntax(Syntax::Literal | Syntax::BareCr)
        | ProtocolViolation::OutOfPlace
        | ProtocolViolation::Status => ErrorType::ProtocolSyntax,
        ProtocolViolation::Syntax(Syntax::Line) => ErrorType::LimitLine,
        ProtocolViolation::Syntax(Syntax::Depth) => ErrorType::LimitDepth,
        ProtocolViolation::Greeting => ErrorType::ProtocolGreeting,
        ProtocolViolation::Tag => ErrorType::ProtocolTag,
        ProtocolViolation::Continuation => ErrorType::ProtocolContinuation,
        ProtocolViolation::Unproven => ErrorType::AuthProtocol,
        ProtocolViolation::Bytes => ErrorType::LimitBytes,
        ProtocolViolation::Responses => ErrorType::LimitResponses,
    }
}

/// An error of a connection that stood, under TLS (with what TLS says of it, if it is TLS's own) or not.
pub(super) fn of_io(error: &io::Error, tls: Option<&TlsFailure>) -> ErrorType {
    match (trouble(error), tls) {
        // It says nothing of the server.
        (Some(Trouble::Exhausted), _) => ErrorType::OverloadFd,
        (Some(Trouble::Local), _) => ErrorType::Internal,
        (None, Some(failure)) => match of_tls(failure.cause) {
            // There is no handshake any more.
            ErrorType::TlsHandshake => ErrorType::TlsProtocol,
            class => class,
        },
        (None, None) if error.kind() == io::ErrorKind::UnexpectedEof => ErrorType::Eof,
        (Some(Trouble::Line), _) | (None, None) => ErrorType::Reset,
    }
}

/// The fault that an error of the connection is.
pub(super) fn fault_of_io(error: &io::Error) -> Fault {
    let tls = TlsFailure::of_session(error);
    let class = of_io(error, tls.as_ref());
    let fault = Fault::new(class, clock::now());
    if matches!(class, ErrorType::Reset | ErrorType::Eof) {
        // Without the alert that announces an end: with it, the stream just ends.
        let close_notify = tls.filter(|_| class == ErrorType::Eof).map(|_| CloseNotify::False);
        return Fault { close_notify, ..fault };
    }
    let (tls, text) = match tls {
        Some(failure) => (tls_fault(&failure), failure.text),
        None => (None, error.to_string()),
    };
    Fault {
        tls,
        response: Some(StatusResponse { condition: Condition::Bad, code: None, text: text.into_bytes() }),
        ..fault
    }
}

/// A tagged NO or BAD, or BYE, to this command; none when it was not sent.
pub(super) fn of_refusal(command: Option<CommandName>, response: &StatusResponse) -> ErrorType {
    let login = command.is_some_and(CommandName::is_login);
    match (response.condition, response.code) {
        (Condition::No | Condition::Bye, Some(ResponseCode::Referral)) => return ErrorType::Referral,
        (Condition::No | Condition::Bad, _) if command == Some(CommandName::StartTls) => {
            return ErrorType::StarttlsRefused;
        }
        (Condition::Bye, _) if !login => return ErrorType::Bye,
        _ => {}
    }
    if let Some(class) = of_code(command, response.code) {
        return class;
    }
    // A standard code that is there and gives no class is the server's own word; a wording is no better.
    let no_reason = response.code.is_none_or(|code| matches!(reason(code), Reason::None));
    let by_wording = || not_now(command, &response.text).filter(|_| no_reason);
    match response.condition {
        Condition::Bye => ErrorType::Bye,
        Condition::Bad => by_wording().unwrap_or(ErrorType::Bad),
        Condition::Ok | Condition::No | Condition::Preauth => {
            by_wording().unwrap_or(if login && no_reason { ErrorType::AuthFailed } else { ErrorType::No })
        }
    }
}

/// The class that a response code gives a refusal of this command (RFC 5530 §3), in NO, BAD or BYE.
pub(super) fn of_code(command: Option<CommandName>, code: Option<ResponseCode>) -> Option<ErrorType> {
    match reason(code?) {
        Reason::Class(class) => Some(class),
        Reason::Login(class) => command.is_some_and(CommandName::is_login).then_some(class),
        Reason::Unclassified | Reason::None => None,
    }
}

/// What a response code says of a refusal.
enum Reason {
    /// This class, whatever the command.
    Class(ErrorType),
    /// This class for a login: only its answer is about the account.
    Login(ErrorType),
    /// A reason without a class of its own.
    Unclassified,
    /// Nothing: a wish to be read (ALERT), data (CAPABILITY), or a code that is to be ignored since it is not known (RFC 9051
    /// §7.1).
    None,
}

fn reason(code: ResponseCode) -> Reason {
    match code {
        ResponseCode::Unavailable => Reason::Class(ErrorType::Unavailable),
        ResponseCode::Limit | ResponseCode::InUse => Reason::Class(ErrorType::LimitServer),
        ResponseCode::AuthenticationFailed | ResponseCode::AuthorizationFailed | ResponseCode::ContactAdmin => {
            Reason::Login(ErrorType::AuthFailed)
        }
        ResponseCode::Expired => Reason::Login(ErrorType::AuthExpired),
        ResponseCode::PrivacyRequired => Reason::Login(ErrorType::AuthPrivacy),
        ResponseCode::Alert | ResponseCode::Capability | ResponseCode::Other => Reason::None,
        ResponseCode::AlreadyExists
        | ResponseCode::AppendUid
        | ResponseCode::BadCharset
        | ResponseCode::Cannot
        | ResponseCode::ClientBug
        | ResponseCode::Closed
        | ResponseCode::CompressionActive
        | ResponseCode::CopyUid
        | ResponseCode::Corruption
        | ResponseCode::ExpungeIssued
        | ResponseCode::HasChildren
        | ResponseCode::HighestModSeq
        | ResponseCode::InProgress
        | ResponseCode::MailboxId
        | ResponseCode::MessageLimit
        | ResponseCode::Modified
        | ResponseCode::NewName
        | ResponseCode::NoModSeq
        | ResponseCode::NonExistent
        | ResponseCode::NoPerm
        | ResponseCode::NotSaved
        | ResponseCode::OverQuota
        | ResponseCode::Parse
        | ResponseCode::PermanentFlags
        | ResponseCode::ReadOnly
        | ResponseCode::ReadWrite
        | ResponseCode::Referral
        | ResponseCode::ServerBug
        | ResponseCode::TooBig
        | ResponseCode::TryCreate
        | ResponseCode::UidNext
        | ResponseCode::UidNotSticky
        | ResponseCode::UidValidity
        | ResponseCode::UnknownCte
        | ResponseCode::Unseen => Reason::Unclassified,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(command: &str, condition: Condition, code: Option<&str>, text: &str) -> ErrorType {
        let code = code.map(|code| code.parse().unwrap());
        of_refusal(Some(command.parse().unwrap()), &StatusResponse { condition, code, text: text.as_bytes().to_vec() })
    }

    #[test]
    fn refusals_by_command_and_code() {
        use Condition::{Bad, Bye, No};
        for (command, condition, code, expected) in [
            ("LOGIN", No, None, ErrorType::AuthFailed),
            ("SELECT", No, Some("INUSE"), ErrorType::LimitServer),
            ("SELECT", Bad, Some("INUSE"), ErrorType::LimitServer),
            ("LIST", Bad, Some("UNAVAILABLE"), ErrorType::Unavailable),
            ("LOGIN", Bad, None, ErrorType::Bad),
            ("LOGIN", Bad, Some("ALERT"), ErrorType::Bad),
            ("LOGIN", Bye, None, ErrorType::Bye),
            ("LOGIN", Bye, Some("ALERT"), ErrorType::Bye),
            // What is not known is no reason, and data is none either.
            ("LOGIN", No, Some("_OTHER"), ErrorType::AuthFailed),
            ("LOGIN", No, Some("CAPABILITY"), ErrorType::AuthFailed),
            ("LOGIN", No, Some("SERVERBUG"), ErrorType::No),
            ("SELECT", No, None, ErrorType::No),
            ("SELECT", No, Some("NONEXISTENT"), ErrorType::No),
            ("FETCH", Bad, Some("CLIENTBUG"), ErrorType::Bad),
            ("LOGIN", No, Some("REFERRAL"), ErrorType::Referral),
            ("AUTHENTICATE", Bye, Some("REFERRAL"), ErrorType::Referral),
            ("LIST", Bye, Some("UNAVAILABLE"), ErrorType::Bye),
            ("STARTTLS", Bad, None, ErrorType::StarttlsRefused),
            ("STARTTLS", No, Some("UNAVAILABLE"), ErrorType::StarttlsRefused),
        ] {
            assert_eq!(class(command, condition, code, ""), expected, "{command} {condition:?} {code:?}");
        }
    }

    #[test]
    fn at_a_login_the_code_gives_the_class_however_it_is_said_and_at_no_other_command() {
        use Condition::{Bad, Bye, No};
        for (code, expected) in [
            ("AUTHENTICATIONFAILED", ErrorType::AuthFailed),
            ("AUTHORIZATIONFAILED", ErrorType::AuthFailed),
            ("CONTACTADMIN", ErrorType::AuthFailed),
            ("EXPIRED", ErrorType::AuthExpired),
            ("PRIVACYREQUIRED", ErrorType::AuthPrivacy),
            ("UNAVAILABLE", ErrorType::Unavailable),
            ("LIMIT", ErrorType::LimitServer),
            ("INUSE", ErrorType::LimitServer),
        ] {
            for condition in [No, Bad, Bye] {
                for command in ["LOGIN", "AUTHENTICATE"] {
                    assert_eq!(class(command, condition, Some(code), "x"), expected, "{command} {condition:?} {code}");
                }
                let elsewhere = class("LIST", condition, Some(code), "x");
                assert_ne!(elsewhere.blame(), imaptrace_record::Blame::Credentials, "{condition:?} {code}");
            }
        }
    }

    #[test]
    fn a_wording_counts_where_no_standard_code_stands_beside_it() {
        use Condition::{Bad, Bye, No};
        let throttled = "Request is throttled. Suggested Backoff Time: 300 milliseconds";
        for (command, condition, code, text, expected) in [
            ("SELECT", Bad, None, throttled, ErrorType::LimitServer),
            ("FETCH", No, None, throttled, ErrorType::LimitServer),
            ("NAMESPACE", Bad, None, "User is authenticated but not connected.", ErrorType::Unavailable),
            ("LOGIN", No, Some("ALERT"), "Too many simultaneous connections. (Failure)", ErrorType::LimitServer),
            ("LOGIN", No, Some("_OTHER"), "Too many simultaneous connections. (Failure)", ErrorType::LimitServer),
            ("LOGIN", No, Some("AUTHENTICATIONFAILED"), throttled, ErrorType::AuthFailed),
            ("LOGIN", No, Some("SERVERBUG"), "Server Unavailable", ErrorType::No),
            ("LOGIN", No, Some("UNAVAILABLE"), throttled, ErrorType::Unavailable),
            ("SELECT", No, Some("NONEXISTENT"), "Server Unavailable", ErrorType::No),
            ("LOGIN", Bye, None, throttled, ErrorType::Bye),
            ("LOGIN", No, None, "no: Too many connections", ErrorType::AuthFailed),
        ] {
            assert_eq!(class(command, condition, code, text), expected, "{command} {condition:?} {code:?} {text}");
        }
    }
}

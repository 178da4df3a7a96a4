//! Responses and causes as classes: the only place that makes an `error.type` (docs/telemetry.md). Pure functions.

use std::io;

use imaptrace_imap::{CommandName, Condition, ProtocolViolation, ResponseCode, StatusResponse, Syntax};
use imaptrace_record::{CloseNotify, ErrorType, TlsFault, not_now};

use super::exchange::Fault;
use crate::{
    clock::OwnDelay,
    net::{ConnectCause, ErrnoKind, RefusedCertificate, ResolveCause, TlsCause, TlsFailure, errno_kind},
    secret::SecretError,
};

/// The class of a step for which imaptrace itself was too slow.
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

/// The class of a TLS failure, and what an operator has to mend, as far as the handshake or the connection itself shows it.
pub(super) fn of_tls(failure: &TlsFailure) -> (ErrorType, Option<TlsFault>) {
    let (class, fault) = match failure.cause {
        TlsCause::Expired => return (ErrorType::TlsCertExpired, None),
        TlsCause::NotYetValid => return (ErrorType::TlsCertNotYetValid, None),
        TlsCause::Name => return (ErrorType::TlsCertName, None),
        TlsCause::Untrusted => return (ErrorType::TlsCertUntrusted, None),
        TlsCause::Weak => return (ErrorType::TlsCertWeak, None),
        TlsCause::Alert => return (ErrorType::TlsAlert, None),
        TlsCause::Timeout => return (ErrorType::TimeoutTls, None),
        TlsCause::Exhausted => return (ErrorType::OverloadFd, None),
        TlsCause::Local => return (ErrorType::Internal, None),
        TlsCause::Handshake => return (ErrorType::TlsHandshake, None),
        TlsCause::ClearText => (ErrorType::TlsProtocol, TlsFault::ClearText),
        TlsCause::Http => (ErrorType::TlsProtocol, TlsFault::Http),
        TlsCause::NoTls => (ErrorType::TlsProtocol, TlsFault::NoTls),
        TlsCause::Version => (ErrorType::TlsProtocol, TlsFault::Version),
        TlsCause::Alpn => (ErrorType::TlsAlert, TlsFault::Alpn),
        TlsCause::UnknownName => (ErrorType::TlsAlert, TlsFault::UnknownName),
        TlsCause::ClientCertificateRequired => (ErrorType::TlsAlert, TlsFault::ClientCertificateRequired),
        TlsCause::ClientCertificateRefused => (ErrorType::TlsAlert, TlsFault::ClientCertificateRefused),
        TlsCause::HandshakeRefused => (ErrorType::TlsAlert, TlsFault::HandshakeRefused),
        TlsCause::ServerFault => (ErrorType::TlsAlert, TlsFault::ServerFault),
        TlsCause::SmallDhGroup => (ErrorType::TlsHandshake, TlsFault::SmallDhGroup),
        TlsCause::LegacyRenegotiation => (ErrorType::TlsHandshake, TlsFault::LegacyRenegotiation),
        TlsCause::NoCommonParameters => (ErrorType::TlsHandshake, TlsFault::NoCommonParameters),
        TlsCause::SignatureAlgorithm => (ErrorType::TlsHandshake, TlsFault::SignatureAlgorithm),
        TlsCause::MalformedCertificate => (ErrorType::TlsHandshake, TlsFault::MalformedCertificate),
        TlsCause::Altered => (ErrorType::TlsHandshake, TlsFault::Altered),
        TlsCause::RefusedAfterCertificate => (ErrorType::TlsHandshake, TlsFault::RefusedAfterCertificate),
        TlsCause::Reset if failure.answered => (ErrorType::Reset, TlsFault::ClosedInHandshake),
        TlsCause::Reset => (ErrorType::Reset, TlsFault::ClosedBeforeHello),
        TlsCause::Eof if failure.answered => (ErrorType::Eof, TlsFault::ClosedInHandshake),
        TlsCause::Eof => (ErrorType::Eof, TlsFault::ClosedBeforeHello),
    };
    (class, Some(fault))
}

/// The same for a refused certificate, by its place in the chain.
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

/// An error of an established connection; with that of TLS, if TLS reports it.
pub(super) fn of_io(error: &io::Error, tls: Option<&TlsFailure>) -> ErrorType {
    match (errno_kind(error), tls) {
        (Some(ErrnoKind::Exhausted), _) => ErrorType::OverloadFd,
        (Some(ErrnoKind::Local), _) => ErrorType::Internal,
        (None, Some(failure)) => match of_tls(failure).0 {
            // The handshake is over.
            ErrorType::TlsHandshake => ErrorType::TlsProtocol,
            class => class,
        },
        (None, None) if error.kind() == io::ErrorKind::UnexpectedEof => ErrorType::Eof,
        (Some(ErrnoKind::Network), _) | (None, None) => ErrorType::Reset,
    }
}

/// The fault of an error of the connection.
pub(super) fn fault_of_io(error: &io::Error) -> Fault {
    let tls = TlsFailure::of_session(error);
    let class = of_io(error, tls.as_ref());
    let fault = Fault::now(class);
    if matches!(class, ErrorType::Reset | ErrorType::Eof) {
        // Without close_notify: with it, the stream just ends.
        let close_notify = tls.filter(|_| class == ErrorType::Eof).map(|_| CloseNotify::False);
        return Fault { close_notify, ..fault };
    }
    let (tls, text) = match tls {
        Some(failure) => (of_tls(&failure).1, failure.text),
        None => (None, error.to_string()),
    };
    Fault { tls, ..fault.with_text(text.into_bytes()) }
}

/// A tagged NO or BAD, or BYE, to this command; none if it was not sent.
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
    // A standard code is more exact than a wording, also if it has no class.
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

/// The reason that a response code gives for a refusal.
enum Reason {
    /// This class, for any command.
    Class(ErrorType),
    /// This class for a login: only its response is about the account.
    Login(ErrorType),
    /// A reason without a class of its own.
    Unclassified,
    /// None: text to be shown (ALERT), data (CAPABILITY), or an unknown code, which is ignored (RFC 9051 §7.1).
    None,
}

fn reason(code: ResponseCode) -> Reason {
    use ResponseCode::{
        Alert, AlreadyExists, AppendUid, AuthenticationFailed, AuthorizationFailed, BadCharset, Cannot, Capability,
        ClientBug, Closed, CompressionActive, ContactAdmin, CopyUid, Corruption, Expired, ExpungeIssued, HasChildren,
        HighestModSeq, InProgress, InUse, Limit, MailboxId, MessageLimit, Modified, NewName, NoModSeq, NoPerm,
        NonExistent, NotSaved, Other, OverQuota, Parse, PermanentFlags, PrivacyRequired, ReadOnly, ReadWrite, Referral,
        ServerBug, TooBig, TryCreate, UidNext, UidNotSticky, UidValidity, Unavailable, UnknownCte, Unseen,
    };
    match code {
        Unavailable => Reason::Class(ErrorType::Unavailable),
        Limit | InUse => Reason::Class(ErrorType::LimitServer),
        AuthenticationFailed | AuthorizationFailed | ContactAdmin => Reason::Login(ErrorType::AuthFailed),
        Expired => Reason::Login(ErrorType::AuthExpired),
        PrivacyRequired => Reason::Login(ErrorType::AuthPrivacy),
        Alert | Capability | Other => Reason::None,
        AlreadyExists | AppendUid | BadCharset | Cannot | ClientBug | Closed | CompressionActive | CopyUid
        | Corruption | ExpungeIssued | HasChildren | HighestModSeq | InProgress | MailboxId | MessageLimit
        | Modified | NewName | NoModSeq | NonExistent | NoPerm | NotSaved | OverQuota | Parse | PermanentFlags
        | ReadOnly | ReadWrite | Referral | ServerBug | TooBig | TryCreate | UidNext | UidNotSticky | UidValidity
        | UnknownCte | Unseen => Reason::Unclassified,
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
    fn the_code_gives_the_class_of_a_login_for_each_condition_and_of_no_other_command() {
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

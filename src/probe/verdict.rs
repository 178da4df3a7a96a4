//! What an answer or a cause means: the one place where things become an `error.type` (contract §6).

use std::io;

use crate::{
    imap::{Breach, Condition, Syntax},
    net::{ConnectCause, Refused, ResolveCause, TlsCause, TlsFailure, Trouble, trouble},
    record::{ErrorType, TlsFault},
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
pub(super) fn certificate_fault(refused: &Refused) -> Option<TlsFault> {
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

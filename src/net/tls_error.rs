//! Maps errors of the TLS library to causes, by numbers: OpenSSL's reason codes, alerts (RFC 8446 §6), and results of
//! verification. No cause depends on a part of a text. Called by `tls` for handshakes and by `probe`, which maps causes to
//! classes, for established connections.
//!
//! Other systems have another library, and only errors of the connection itself are distinguished.

use std::{error::Error, io};

use super::{ErrnoKind, StampedStream, descriptors, errno_kind};

/// Why a handshake failed, or a TLS connection broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsCause {
    /// A certificate of the chain has expired.
    Expired,
    /// A certificate of the chain is not valid yet.
    NotYetValid,
    /// The certificate is for another name.
    Name,
    /// No chain to a trusted root.
    Untrusted,
    /// The key or the signature of a certificate is too weak.
    Weak,
    /// IMAP in clear text.
    ClearText,
    /// HTTP in clear text.
    Http,
    /// No TLS.
    NoTls,
    /// No protocol version in common.
    Version,
    /// The server's Diffie-Hellman group is too small.
    SmallDhGroup,
    /// The server lacks secure renegotiation (RFC 5746).
    LegacyRenegotiation,
    /// No cipher suite, group or signature algorithm in common.
    NoCommonParameters,
    /// The server signed by an algorithm that is not allowed.
    SignatureAlgorithm,
    /// A certificate or key of the server's cannot be read.
    MalformedCertificate,
    /// A signature or checksum is wrong.
    Altered,
    /// The server sent `no_application_protocol`.
    Alpn,
    /// The server sent `unrecognized_name`.
    UnknownName,
    /// The server requires a client certificate.
    ClientCertificateRequired,
    /// The server sent `handshake_failure` after its ServerHello, which chose the parameters.
    RefusedAfterCertificate,
    /// The server refused the client certificate.
    ClientCertificateRefused,
    /// The server rejected a message of the handshake.
    HandshakeRefused,
    /// The server sent `internal_error`.
    ServerFault,
    /// The server sent another fatal alert.
    Alert,
    /// The connection was reset.
    Reset,
    /// The connection ended.
    Eof,
    /// The deadline has passed.
    Timeout,
    /// This process or machine has no file descriptor left, or no memory for sockets.
    Exhausted,
    /// Another fault of the local system.
    Local,
    /// Any other failure.
    Handshake,
}

impl TlsCause {
    /// Whether a certificate of the server was refused.
    pub fn is_of_certificate(self) -> bool {
        matches!(self, Self::Expired | Self::NotYetValid | Self::Name | Self::Untrusted | Self::Weak)
    }
}

/// A handshake that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFailure {
    /// Why.
    pub cause: TlsCause,
    /// For people, with the TLS library's text. Untrusted: it may quote the server.
    pub text: String,
    /// The server had sent a record before.
    pub answered: bool,
    /// The server's own certificate, as DER, if the library reported it.
    pub(super) leaf: Option<Vec<u8>>,
}

impl TlsFailure {
    /// A failure before the server answered.
    pub fn new(cause: TlsCause, text: String) -> Self {
        Self { cause, text, answered: false, leaf: None }
    }

    /// A handshake over `wire` with the server `name` failed with this error.
    pub(super) fn of_handshake(error: &native_tls::Error, wire: &StampedStream, name: &str) -> Self {
        let answered = wire.last_record().is_some();
        let failure = match wire.non_tls_prefix() {
            Some(first) => not_tls(&first),
            None => library(error, wire, name),
        };
        Self { answered, ..failure }
    }

    /// An error of an established connection; none if it is the kernel's.
    pub fn of_session(error: &io::Error) -> Option<Self> {
        session(error)
    }
}

/// The server did not send a TLS record first.
fn not_tls(first: &[u8]) -> TlsFailure {
    let cause = if first.starts_with(b"* ") {
        TlsCause::ClearText
    } else if first.starts_with(b"HTTP/") {
        TlsCause::Http
    } else {
        TlsCause::NoTls
    };
    let first = String::from_utf8_lossy(first);
    TlsFailure::new(cause, format!("the server did not answer in TLS; its first bytes were {first:?}"))
}

fn library(error: &native_tls::Error, wire: &StampedStream, name: &str) -> TlsFailure {
    // Of the connection below TLS.
    let broken = std::iter::successors(error.source(), |&inner| inner.source()).find_map(<dyn Error>::downcast_ref);
    let kernel = broken.and_then(|broken: &io::Error| {
        let cause = match errno_kind(broken)? {
            ErrnoKind::Network => TlsCause::Reset,
            ErrnoKind::Exhausted => TlsCause::Exhausted,
            ErrnoKind::Local => TlsCause::Local,
        };
        let is_begun = wire.last_record().is_some();
        let when = if is_begun { "in the handshake" } else { "before the server's first byte of TLS" };
        Some(TlsFailure::new(cause, format!("the connection broke {when}: {broken}")))
    });
    let failure = match (kernel, broken) {
        (Some(failure), _) => failure,
        (None, Some(broken)) if broken.kind() == io::ErrorKind::UnexpectedEof => ended(wire),
        _ => handshake(error, wire, name),
    };
    // Roots are read when they are needed; to OpenSSL one that cannot be opened does not exist.
    if matches!(failure.cause, TlsCause::Untrusted | TlsCause::Handshake) && descriptors::are_exhausted() {
        let text = "no file descriptor is left to read the trusted roots with".to_owned();
        return TlsFailure::new(TlsCause::Exhausted, text);
    }
    failure
}

fn ended(wire: &StampedStream) -> TlsFailure {
    const ALERT: u8 = 21;
    let text = match wire.last_record() {
        None => "the server closed the connection before its first byte of TLS",
        Some(last) if last.whole && last.kind == ALERT => "the server ended the handshake with close_notify",
        Some(_) => "the server closed the connection in the handshake, without close_notify",
    };
    TlsFailure::new(TlsCause::Eof, text.to_owned())
}

/// Alerts (IANA's TLS Alert Registry): number, name, and cause in a handshake.
const ALERTS: &[(i32, &str, TlsCause)] = &[
    (10, "unexpected_message", TlsCause::HandshakeRefused),
    (20, "bad_record_mac", TlsCause::Alert),
    (21, "decryption_failed", TlsCause::Alert),
    (22, "record_overflow", TlsCause::HandshakeRefused),
    (30, "decompression_failure", TlsCause::Alert),
    (40, "handshake_failure", TlsCause::NoCommonParameters),
    (41, "no_certificate", TlsCause::ClientCertificateRequired),
    (42, "bad_certificate", TlsCause::ClientCertificateRefused),
    (43, "unsupported_certificate", TlsCause::ClientCertificateRefused),
    (44, "certificate_revoked", TlsCause::ClientCertificateRefused),
    (45, "certificate_expired", TlsCause::ClientCertificateRefused),
    (46, "certificate_unknown", TlsCause::ClientCertificateRefused),
    (47, "illegal_parameter", TlsCause::HandshakeRefused),
    (48, "unknown_ca", TlsCause::ClientCertificateRefused),
    (49, "access_denied", TlsCause::ClientCertificateRefused),
    (50, "decode_error", TlsCause::HandshakeRefused),
    (51, "decrypt_error", TlsCause::HandshakeRefused),
    (60, "export_restriction", TlsCause::NoCommonParameters),
    (70, "protocol_version", TlsCause::Version),
    (71, "insufficient_security", TlsCause::NoCommonParameters),
    (80, "internal_error", TlsCause::ServerFault),
    (86, "inappropriate_fallback", TlsCause::Version),
    (90, "user_canceled", TlsCause::Alert),
    (100, "no_renegotiation", TlsCause::Alert),
    (109, "missing_extension", TlsCause::HandshakeRefused),
    (110, "unsupported_extension", TlsCause::HandshakeRefused),
    (111, "certificate_unobtainable", TlsCause::Alert),
    (112, "unrecognized_name", TlsCause::UnknownName),
    (113, "bad_certificate_status_response", TlsCause::Alert),
    (114, "bad_certificate_hash_value", TlsCause::Alert),
    (115, "unknown_psk_identity", TlsCause::Alert),
    (116, "certificate_required", TlsCause::ClientCertificateRequired),
    (120, "no_application_protocol", TlsCause::Alpn),
];

fn alert(number: i32) -> (&'static str, TlsCause) {
    let known = ALERTS.iter().find(|(known, _, _)| *known == number);
    known.map_or(("of no known name", TlsCause::Alert), |(_, name, cause)| (*name, *cause))
}

#[cfg(target_os = "linux")]
use self::openssl_errors::{handshake, session};

#[cfg(not(target_os = "linux"))]
fn handshake(error: &native_tls::Error, _: &StampedStream, _: &str) -> TlsFailure {
    TlsFailure::new(TlsCause::Handshake, error.to_string())
}

#[cfg(not(target_os = "linux"))]
fn session(_: &io::Error) -> Option<TlsFailure> {
    None
}

#[cfg(target_os = "linux")]
pub(super) use self::openssl_errors::of_verification;
#[cfg(all(test, target_os = "linux"))]
use self::openssl_errors::verification_text;

#[cfg(target_os = "linux")]
mod openssl_errors {
    use std::{error::Error as _, io};

    use openssl::{
        error::ErrorStack,
        ssl::{self, ErrorCode},
        x509::X509VerifyResult,
    };

    use super::{StampedStream, TlsCause, TlsFailure, alert, ended};

    /// `ERR_LIB_SSL`, and the libraries that parse certificates: `ERR_LIB_X509`, `ERR_LIB_ASN1`.
    const SSL: i32 = 20;
    const READS: &[i32] = &[11, 13];
    /// `SSL_AD_REASON_OFFSET`: the reason of an alert is this and its number.
    const ALERT: i32 = 1000;
    const VERIFY_FAILED: i32 = 134;
    const UNEXPECTED_EOF: i32 = 294;

    /// Reasons of `ERR_LIB_SSL` by number (OpenSSL's `sslerr.h`).
    const REASONS: &[(TlsCause, &str, &[i32])] = &[
        (
            TlsCause::NoTls,
            "what the server sent is not TLS",
            // http request, https proxy request, packet length too long, wrong version number, bad record type
            &[156, 155, 198, 267, 443],
        ),
        (
            TlsCause::Version,
            "the server has no protocol version from TLS 1.2 on",
            // bad protocol version number, version too high, no protocols available, unknown protocol, unknown SSL version,
            // unsupported protocol, unsupported SSL version, wrong SSL version, inappropriate fallback, version too low
            &[116, 166, 191, 252, 254, 258, 259, 266, 373, 396],
        ),
        (TlsCause::SmallDhGroup, "the server's Diffie-Hellman group is too small", &[394]),
        (TlsCause::LegacyRenegotiation, "the server lacks secure renegotiation (RFC 5746)", &[338]),
        (
            TlsCause::NoCommonParameters,
            "the server and imaptrace have no cipher suite or group in common",
            // no suitable key share, no ciphers available, no cipher match, no shared cipher, unknown cipher returned,
            // wrong cipher returned, no suitable groups, unsupported elliptic curve, wrong curve, no shared groups
            &[101, 181, 185, 193, 248, 261, 295, 315, 378, 410],
        ),
        (
            TlsCause::SignatureAlgorithm,
            "the server signed the handshake by an algorithm that is not allowed",
            // no suitable signature algorithm, no suitable digest algorithm, legacy sigalg disallowed or unsupported,
            // signature algorithms error, unknown digest, wrong signature type, no shared signature algorithms
            &[118, 297, 333, 360, 368, 370, 376],
        ),
        (
            TlsCause::MalformedCertificate,
            UNREADABLE,
            // cert length mismatch, no certificates returned, signature for non signing certificate, invalid certificate or
            // alg, unable to find public key parameters, unknown certificate type, unknown pkey type, bad ecc cert, ecc cert
            // not for signing, wrong certificate type
            &[135, 176, 220, 238, 239, 247, 251, 304, 318, 383],
        ),
        (
            TlsCause::Altered,
            "a signature or checksum of the server's is wrong",
            // bad signature, block cipher pad is wrong, decryption failed, digest check failed, wrong signature length, wrong
            // signature size, decryption failed or bad record mac
            &[123, 129, 147, 149, 264, 265, 281],
        ),
        // ca key too small, ca md too weak, ee key too small
        (TlsCause::Weak, "a certificate is too weak", &[397, 398, 399]),
    ];
    const UNREADABLE: &str = "the server's certificate cannot be read";

    pub(super) fn handshake(error: &native_tls::Error, wire: &StampedStream, name: &str) -> TlsFailure {
        let Some(stack) = error.source().and_then(|source| source.downcast_ref::<ErrorStack>()) else {
            // Without a connection the set-up failed. Later, only an end has no reason.
            return match wire.tcp_info() {
                Some(_) => ended(wire),
                None => TlsFailure::new(TlsCause::Handshake, error.to_string()),
            };
        };
        if ssl_reasons(stack).any(|reason| reason == VERIFY_FAILED) {
            let result = refused(&error.to_string(), stack);
            let cause = result.map_or(TlsCause::Untrusted, of_verification);
            let why = result.map_or("no reason is given", verification_text);
            return TlsFailure::new(cause, format!("certificate refused for {name}: {why}"));
        }
        if ssl_reasons(stack).any(|reason| reason == UNEXPECTED_EOF) {
            return ended(wire);
        }
        let (cause, text) = reason(stack).unwrap_or_else(|| (TlsCause::Handshake, error.to_string()));
        match cause {
            TlsCause::NoCommonParameters if is_alert(stack) && wire.server_hello().is_some() => TlsFailure::new(
                TlsCause::RefusedAfterCertificate,
                format!("{text}, after it had shown its certificate"),
            ),
            cause => TlsFailure::new(cause, text),
        }
    }

    pub(super) fn session(error: &io::Error) -> Option<TlsFailure> {
        let error = error.get_ref()?.downcast_ref::<ssl::Error>()?;
        let is_end = |stack| ssl_reasons(stack).any(|reason| reason == UNEXPECTED_EOF);
        if error.code() == ErrorCode::ZERO_RETURN || error.ssl_error().is_some_and(is_end) {
            return Some(TlsFailure::new(TlsCause::Eof, String::new()));
        }
        let (cause, text) = reason(error.ssl_error()?).unwrap_or_else(|| (TlsCause::Handshake, error.to_string()));
        Some(TlsFailure::new(cause, text))
    }

    /// The reasons of `ERR_LIB_SSL`, in order.
    fn ssl_reasons(stack: &ErrorStack) -> impl Iterator<Item = i32> {
        stack.errors().iter().filter(|error| error.library_code() == SSL).map(openssl::error::Error::reason_code)
    }

    fn is_alert(stack: &ErrorStack) -> bool {
        ssl_reasons(stack).any(|reason| reason > ALERT)
    }

    /// The cause of the first known error on the stack, and its text.
    fn reason(stack: &ErrorStack) -> Option<(TlsCause, String)> {
        if let Some(number) = ssl_reasons(stack).find(|reason| (ALERT..ALERT + 256).contains(reason)) {
            let (name, cause) = alert(number - ALERT);
            return Some((cause, format!("the server sent the fatal alert {} ({name})", number - ALERT)));
        }
        let of =
            |libraries: &'static [i32]| stack.errors().iter().filter(|error| libraries.contains(&error.library_code()));
        let known = of(&[SSL]).find_map(|error| {
            let known = REASONS.iter().find(|(_, _, numbers)| numbers.contains(&error.reason_code()));
            known.map(|(cause, text, _)| (*cause, *text, error))
        });
        let unread = || of(READS).next().map(|error| (TlsCause::MalformedCertificate, UNREADABLE, error));
        let other = || of(&[SSL]).next().map(|error| (TlsCause::Handshake, "the server broke the handshake", error));
        let (cause, text, error) = known.or_else(unread).or_else(other)?;
        let theirs = error.reason().map(|reason| format!(" ({reason})")).unwrap_or_default();
        Some((cause, format!("{text}{theirs}")))
    }

    /// The result of verification. native-tls reports it only in its text: OpenSSL's text for the number, in parentheses after the
    /// text of the stack.
    fn refused(text: &str, stack: &ErrorStack) -> Option<i32> {
        let words = text.strip_prefix(&stack.to_string())?.strip_prefix(" (")?.strip_suffix(')')?;
        (1..256).find(|number| verification_text(*number) == words)
    }

    #[expect(unsafe_code, reason = "OpenSSL has a text for every number")]
    pub(crate) fn verification_text(number: i32) -> &'static str {
        // SAFETY: the number is only looked up in a table, with a default.
        unsafe { X509VerifyResult::from_raw(number) }.error_string()
    }

    /// The cause of a result of verification (`X509_V_ERR_…` in OpenSSL's `x509_vfy.h`).
    pub(crate) fn of_verification(number: i32) -> TlsCause {
        match number {
            10 => TlsCause::Expired,
            9 => TlsCause::NotYetValid,
            // hostname, email and IP address mismatch
            62..=64 => TlsCause::Name,
            // EE key too small, CA key too small, CA signature digest too weak
            66..=68 => TlsCause::Weak,
            _ => TlsCause::Untrusted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_tls_is_known_by_its_first_bytes() {
        for (first, cause) in [
            (b"* OK Dovecot".as_slice(), TlsCause::ClearText),
            (b"* BYE too many", TlsCause::ClearText),
            (b"HTTP/1.1 400", TlsCause::Http),
            (b"SSH-2.0-OpenSSH", TlsCause::NoTls),
            (b"220 HTTP/", TlsCause::NoTls),
            (b"*", TlsCause::NoTls),
        ] {
            assert_eq!(not_tls(first).cause, cause, "{}", String::from_utf8_lossy(first));
        }
    }

    #[test]
    fn alerts_are_in_order_and_each_is_named_once() {
        assert!(ALERTS.is_sorted_by(|one, other| one.0 < other.0));
        assert_eq!(alert(120), ("no_application_protocol", TlsCause::Alpn));
        assert_eq!(alert(255).1, TlsCause::Alert);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn each_result_of_a_verification_has_a_text_of_its_own_and_a_cause() {
        let texts: Vec<_> = (1..=79).map(verification_text).collect();
        for (number, cause) in [
            (10, TlsCause::Expired),
            (9, TlsCause::NotYetValid),
            (62, TlsCause::Name),
            (64, TlsCause::Name),
            (66, TlsCause::Weak),
            (67, TlsCause::Weak),
            (68, TlsCause::Weak),
            (18, TlsCause::Untrusted),
            (19, TlsCause::Untrusted),
            (20, TlsCause::Untrusted),
            (22, TlsCause::Untrusted),
            (12, TlsCause::Untrusted),
        ] {
            let text = verification_text(number);
            assert_eq!(texts.iter().filter(|other| **other == text).count(), 1, "{text}");
            assert_eq!(of_verification(number), cause, "{text}");
        }
    }
}

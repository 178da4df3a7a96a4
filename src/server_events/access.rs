//! Authenticates requests: by the name and secret of a request, and the address that it comes from. Compares; reads no file.
//! Called by `receiver`; the agent makes the [`SenderCredentials`] and replaces them when a file or the configuration has changed.

use std::{fmt, net::IpAddr, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderMap, header::AUTHORIZATION};
use imaptrace_imap::Secret;
use sha2::{Digest as _, Sha256};
use tokio_native_tls::TlsAcceptor;
use zeroize::Zeroizing;

use super::SenderSettings;
use crate::plan::Network;

/// What connections and requests are checked against. One value has all senders, so that a change of several applies at once.
pub struct SenderCredentials {
    senders: Vec<KnownSender>,
    tls: TransportSecurity,
}

struct KnownSender {
    name: Arc<str>,
    /// The digest of `NAME:SECRET`; none while the secret cannot be read.
    digest: Option<[u8; 32]>,
    /// The networks it sends from; empty: any.
    from: Vec<Network>,
}

/// Why a request is of no sender.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum AccessError {
    /// The address is in no sender's `from`.
    AddressNotAllowed,
    /// The `Authorization` header is missing, or names no configured sender.
    UnknownSender,
    /// The secret is not that of this sender.
    WrongSecret(Arc<str>),
    /// The address is not in this sender's `from`.
    WrongAddress(Arc<str>),
}

impl fmt::Display for AccessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddressNotAllowed => write!(f, "the address is in no sender's `from`"),
            Self::UnknownSender => write!(f, "the Authorization header is missing or names no configured sender"),
            Self::WrongSecret(name) => write!(f, "wrong secret for the sender {name}"),
            Self::WrongAddress(name) => write!(f, "the address is not in the `from` of the sender {name}"),
        }
    }
}

/// What a connection begins with.
#[derive(Clone)]
pub enum TransportSecurity {
    /// Clear text.
    ClearText,
    /// A TLS handshake.
    Tls(TlsAcceptor),
    /// A TLS handshake, but the files for it cannot be read: connections are closed.
    Unready,
}

impl fmt::Debug for SenderCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SenderCredentials").finish_non_exhaustive()
    }
}

impl SenderCredentials {
    /// The credentials of these senders; a sender without a secret cannot send.
    pub fn new<'a>(
        senders: impl Iterator<Item = (&'a SenderSettings, Option<Secret>)>,
        tls: TransportSecurity,
    ) -> Self {
        let known = |(sender, secret): (&SenderSettings, Option<Secret>)| {
            let digest = secret.map(|secret| {
                let pair = Zeroizing::new(format!("{}:{}", sender.name, secret.expose()));
                Sha256::digest(pair.as_bytes()).into()
            });
            KnownSender { name: sender.name.as_str().into(), digest, from: sender.from.clone() }
        };
        Self { senders: senders.map(known).collect(), tls }
    }

    pub(super) fn tls(&self) -> &TransportSecurity {
        &self.tls
    }

    /// Whether any sender may send from this address.
    pub(super) fn is_admitted(&self, peer: IpAddr) -> bool {
        self.senders.iter().any(|sender| sender.may_send_from(peer))
    }

    /// The name of the sender whose request has these headers and comes from `peer`.
    pub(super) fn authenticate(&self, headers: &HeaderMap, peer: IpAddr) -> Result<Arc<str>, AccessError> {
        let pair = name_and_secret(headers).ok_or(AccessError::UnknownSender)?;
        let digest: [u8; 32] = Sha256::digest(&pair).into();
        // All are compared, so that the time does not depend on which one is close.
        let found = self.senders.iter().fold(None, |found, sender| {
            let same = sender.digest.as_ref().is_some_and(|known| is_same(known, &digest));
            if same { Some(sender) } else { found }
        });
        match found {
            Some(found) if found.may_send_from(peer) => Ok(found.name.clone()),
            Some(found) => Err(AccessError::WrongAddress(found.name.clone())),
            None => {
                let is_named = |sender: &&KnownSender| {
                    pair.strip_prefix(sender.name.as_bytes()).is_some_and(|rest| rest.first() == Some(&b':'))
                };
                let named = self.senders.iter().find(is_named);
                Err(named.map_or(AccessError::UnknownSender, |sender| AccessError::WrongSecret(sender.name.clone())))
            }
        }
    }
}

/// What a request has in its one `Authorization: Basic`.
fn name_and_secret(headers: &HeaderMap) -> Option<Zeroizing<Vec<u8>>> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    Some(Zeroizing::new(BASE64_STANDARD.decode(token.trim()).ok()?))
}

impl KnownSender {
    fn may_send_from(&self, peer: IpAddr) -> bool {
        self.from.is_empty() || self.from.iter().any(|network| network.contains(peer))
    }
}

/// Whether the two are equal, in a time that depends on neither.
fn is_same(one: &[u8; 32], other: &[u8; 32]) -> bool {
    one.iter().zip(other).fold(0, |difference, (one, other)| difference | (one ^ other)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{plan::Glob, secret::SecretSource};

    fn senders() -> Vec<SenderSettings> {
        let sender = |name: &str, from: &[&str]| SenderSettings {
            name: name.to_owned(),
            secret: SecretSource::Nowhere,
            from: from.iter().map(|network| network.parse().unwrap()).collect(),
            targets: vec![Glob::new("*")],
        };
        vec![sender("one", &[]), sender("two", &["192.0.2.0/24"]), sender("three", &[])]
    }

    fn credentials() -> SenderCredentials {
        let secrets = [Some("first"), Some("se:cond"), None].map(|secret| secret.map(|it| Secret::new(it.to_owned())));
        SenderCredentials::new(senders().iter().zip(secrets), TransportSecurity::ClearText)
    }

    fn asked(values: &[&str], peer: &str) -> Option<Arc<str>> {
        authenticate(values, peer).ok()
    }

    fn authenticate(values: &[&str], peer: &str) -> Result<Arc<str>, AccessError> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, value.parse().unwrap());
        }
        credentials().authenticate(&headers, peer.parse().unwrap())
    }

    fn basic(pair: &str) -> String {
        format!("Basic {}", BASE64_STANDARD.encode(pair))
    }

    #[test]
    fn a_sender_is_known_by_name_secret_and_address() {
        let (one, two) = (basic("one:first"), basic("two:se:cond"));
        assert_eq!(asked(&[&one], "203.0.113.1"), Some("one".into()));
        assert_eq!(asked(&[&one.replace("Basic", "basic")], "2001:db8::1"), Some("one".into()));
        assert_eq!(asked(&[&two], "192.0.2.9"), Some("two".into()));
        assert_eq!(asked(&[&two], "::ffff:192.0.2.9"), Some("two".into()));
        assert_eq!(asked(&[&two], "203.0.113.1"), None);
    }

    #[test]
    fn what_is_wrong_with_a_request_is_known() {
        let error = |pair: &str| authenticate(&[&basic(pair)], "203.0.113.1").unwrap_err();
        assert_eq!(error("one:second"), AccessError::WrongSecret("one".into()));
        assert_eq!(error("two:se:cond"), AccessError::WrongAddress("two".into()));
        assert_eq!(
            [error("on:first"), error("one"), error("planted:first")],
            [const { AccessError::UnknownSender }; 3]
        );
        assert_eq!(authenticate(&[], "203.0.113.1"), Err(AccessError::UnknownSender));
    }

    #[test]
    fn nothing_else_is_a_sender() {
        for value in
            ["one:second", "two:first", "one:", ":first", "one", "", "three:", "three", "one:first ", "One:first"]
        {
            assert_eq!(asked(&[&basic(value)], "192.0.2.9"), None, "{value}");
        }
        for value in ["Basic", "Basic ?", "Bearer b25lOmZpcnN0", "b25lOmZpcnN0"] {
            assert_eq!(asked(&[value], "192.0.2.9"), None, "{value}");
        }
        assert_eq!(asked(&[], "192.0.2.9"), None);
        let twice = basic("one:first");
        assert_eq!(asked(&[&twice, &twice], "192.0.2.9"), None);
    }
}

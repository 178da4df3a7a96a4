//! Where a server is and how to get there.

use std::{fmt, net::IpAddr};

use imaptrace_record::Security;

/// A host: an address, or a name in its A-label form (RFC 5891 §4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// No look-up needed.
    Address(IpAddr),
    /// To be looked up anew for every run.
    Name(String),
}

/// Text that is no host or port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Nothing stands where the host should.
    #[error("the host is empty")]
    Empty,
    /// Neither an address nor a name that DNS can hold.
    #[error("{0:?} is neither a host name nor an IP address")]
    Host(String),
}

impl Host {
    /// Reads a name, an IPv4 address, or an IPv6 address with or without brackets.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        if text.is_empty() {
            return Err(EndpointError::Empty);
        }
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse() {
            return Ok(Self::Address(address));
        }
        let wrong = || EndpointError::Host(text.to_owned());
        let name = idna::domain_to_ascii(text).map_err(|_| wrong())?;
        let labels = name.strip_suffix('.').unwrap_or(&name).split('.');
        let fits = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        if name.len() > 253 || !labels.into_iter().all(fits) {
            return Err(wrong());
        }
        Ok(Self::Name(name))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Host and port of an IMAP service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Name or address.
    pub host: Host,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

impl Endpoint {
    /// The port that IANA assigned to IMAP over a connection that is secured like this.
    pub fn default_port(security: Security) -> u16 {
        match security {
            Security::Tls => 993,
            Security::StartTls | Security::None => 143,
        }
    }
}

/// Which addresses of a name are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressChoice {
    /// All, raced as RFC 8305 says.
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// A run for each family.
    Each,
}

impl AddressChoice {
    /// The word in configuration and flags.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::V4 => "v4",
            Self::V6 => "v6",
            Self::Each => "each",
        }
    }
}

/// A header that tells a server behind a proxy who is calling; sent before TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// The text form.
    V1,
    /// The binary form.
    V2,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_addresses_or_names_in_a_labels() {
        assert_eq!(Host::parse("192.0.2.7"), Ok(Host::Address("192.0.2.7".parse().unwrap())));
        assert_eq!(Host::parse("[2001:db8::7]"), Ok(Host::Address("2001:db8::7".parse().unwrap())));
        assert_eq!(Host::parse("Mail01.Example.ORG"), Ok(Host::Name("mail01.example.org".into())));
        assert_eq!(Host::parse("bücher.example"), Ok(Host::Name("xn--bcher-kva.example".into())));
        for wrong in ["", "a b", "mail..example", "a/b", "x\r\ny"] {
            assert!(Host::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_ipv6_endpoint_is_written_with_brackets() {
        let endpoint = Endpoint { host: Host::parse("::1").unwrap(), port: 993 };
        assert_eq!(endpoint.to_string(), "[::1]:993");
    }
}

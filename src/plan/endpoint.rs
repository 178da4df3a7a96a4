//! A server's host and port, and the addresses to try.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use imaptrace_record::Security;

use super::Choice;

/// A host: an address, or a name in its A-label form (RFC 5891 §4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// Needs no resolution.
    Address(IpAddr),
    /// Resolved for each run.
    Name(String),
}

/// Text that is not a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// The text is empty.
    #[error("the host is empty")]
    Empty,
    /// Neither an address nor a name that DNS can hold.
    #[error("{0:?} is neither a host name nor an IP address")]
    Host(String),
}

/// Text that is not a host with or without a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostPortError {
    /// There is no host.
    #[error("it has no host")]
    NoHost,
    /// The host is not valid.
    #[error("its host is neither a name nor an IP address (an IPv6 address with a port needs brackets)")]
    Host,
    /// Not 1 to 65535.
    #[error("its port is not a number from 1 to 65535")]
    Port,
}

impl Host {
    /// Reads `HOST`, `HOST:PORT`, `[IPv6]`, `[IPv6]:PORT`, or an IPv6 address alone.
    pub fn with_port(text: &str) -> Result<(Self, Option<u16>), HostPortError> {
        let (host, port) = if text.parse::<Ipv6Addr>().is_ok() {
            (text, None)
        } else if let Some((address, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            if address.parse::<Ipv6Addr>().is_err() {
                return Err(HostPortError::Host);
            }
            let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or(HostPortError::Host)?) };
            (address, port)
        } else {
            text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
        };
        if host.is_empty() {
            return Err(HostPortError::NoHost);
        }
        let host = Self::parse(host).map_err(|_| HostPortError::Host)?;
        let number = |port: &str| {
            let digits = port.bytes().all(|byte| byte.is_ascii_digit());
            port.parse().ok().filter(|number| digits && *number != 0).ok_or(HostPortError::Port)
        };
        Ok((host, port.map(number).transpose()?))
    }

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

    /// The host as in a URL: an IPv6 address in brackets.
    pub fn bracketed(&self) -> String {
        match self {
            Self::Address(IpAddr::V6(address)) => format!("[{address}]"),
            host => host.to_string(),
        }
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
        write!(f, "{}:{}", self.host.bracketed(), self.port)
    }
}

impl Endpoint {
    /// IANA's port for IMAP with this security.
    pub fn default_port(security: Security) -> u16 {
        match security {
            Security::Tls => 993,
            Security::StartTls | Security::None => 143,
        }
    }
}

/// The addresses of a name to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressChoice {
    /// All, raced by RFC 8305.
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// A run for each family.
    Each,
}

impl Choice for AddressChoice {
    const WORDS: &'static [(&'static str, Self)] =
        &[("any", Self::Any), ("v4", Self::V4), ("v6", Self::V6), ("each", Self::Each)];
}

/// The version of the PROXY protocol header, which gives a server behind a proxy the client's address; sent before TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// The text form.
    V1,
    /// The binary form.
    V2,
}

/// `off` overrides a lower level.
impl Choice for Option<ProxyProtocol> {
    const WORDS: &'static [(&'static str, Self)] =
        &[("off", None), ("v1", Some(ProxyProtocol::V1)), ("v2", Some(ProxyProtocol::V2))];
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

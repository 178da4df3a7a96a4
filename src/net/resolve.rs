//! Names to addresses, by hickory-resolver: asynchronous, so that slow names stall nobody, and without a cache unless
//! told, so that every run asks DNS anew (contract §1).

use std::{net::IpAddr, sync::OnceLock};

use hickory_resolver::{
    Resolver as Library,
    config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig},
    net::{DnsError, NetError},
    proto::op::ResponseCode,
};

use super::{Trouble, descriptors, sockets::Sockets, trouble};
use crate::plan::Dns;

/// Which addresses are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Both.
    Any,
    /// A records.
    V4,
    /// AAAA records.
    V6,
}

/// Why there is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveCause {
    /// The name does not exist.
    #[error("the name does not exist")]
    NxDomain,
    /// The name exists, but has no address of the family asked for.
    #[error("the name has no address of the family asked for")]
    NoData,
    /// No answer in time.
    #[error("no answer from the name servers in time")]
    Timeout,
    /// This process or machine has no file descriptor left, or no memory for sockets, to ask with.
    #[error("the name servers cannot be asked: {0}")]
    Exhausted(String),
    /// The name servers failed, refused, or could not be asked.
    #[error("the name servers failed: {0}")]
    Failed(String),
}

/// Looks names up. One for the life of the process.
#[derive(Debug)]
pub struct Resolver {
    dns: Dns,
    sockets: Sockets,
    // One for each family, since the family is an option of the whole.
    any: OnceLock<Library<Sockets>>,
    v4: OnceLock<Library<Sockets>>,
    v6: OnceLock<Library<Sockets>>,
}

impl Resolver {
    /// A resolver that has not yet read the system's configuration: a run to an address needs none.
    pub fn new(dns: Dns) -> Self {
        Self { dns, sockets: Sockets::default(), any: OnceLock::new(), v4: OnceLock::new(), v6: OnceLock::new() }
    }

    /// Whether the configuration lets a name lead there.
    pub fn allows(&self, address: IpAddr) -> bool {
        self.dns.allows(address)
    }

    /// Asks for the addresses of `name`. They come in the order in which they are to be tried: families in turn, IPv6
    /// first (RFC 8305 §4). The caller sets the deadline.
    pub async fn lookup(&self, name: &str, family: Family) -> Result<Vec<IpAddr>, ResolveCause> {
        let (slot, strategy) = match family {
            Family::Any => (&self.any, LookupIpStrategy::Ipv4AndIpv6),
            Family::V4 => (&self.v4, LookupIpStrategy::Ipv4Only),
            Family::V6 => (&self.v6, LookupIpStrategy::Ipv6Only),
        };
        let resolver = if let Some(resolver) = slot.get() {
            resolver
        } else {
            // What cannot be built now is tried again by the next run: the file may be back then, or a descriptor free.
            let built = build(&self.dns, self.sockets.clone(), strategy)?;
            slot.get_or_init(|| built)
        };
        let short = self.sockets.short();
        let answer = resolver.lookup_ip(name).await.map_err(|error| match cause(&error) {
            // The resolver does not always tell why it could ask nobody.
            ResolveCause::Failed(text) if self.sockets.short() > short || descriptors::are_spent() => {
                ResolveCause::Exhausted(text)
            }
            cause => cause,
        })?;
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in answer.iter() {
            let wanted = match family {
                Family::Any => true,
                Family::V4 => address.is_ipv4(),
                Family::V6 => address.is_ipv6(),
            };
            if wanted && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() { Err(ResolveCause::NoData) } else { Ok(interleave(addresses)) }
    }
}

fn build(dns: &Dns, sockets: Sockets, strategy: LookupIpStrategy) -> Result<Library<Sockets>, ResolveCause> {
    let mut builder = if dns.servers.is_empty() {
        Library::builder(sockets).map_err(|error| unbuilt(&error, "cannot read the system's resolver configuration"))?
    } else {
        let servers = dns.servers.iter().map(|server| {
            let (mut udp, mut tcp) = (ConnectionConfig::udp(), ConnectionConfig::tcp());
            (udp.port, tcp.port) = (server.port(), server.port());
            NameServerConfig::new(server.ip(), true, vec![udp, tcp])
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        Library::builder_with_config(config, sockets)
    };
    let options = builder.options_mut();
    options.ip_strategy = strategy;
    if !dns.cache {
        options.cache_size = 0;
    }
    builder.build().map_err(|error| unbuilt(&error, "cannot start the resolver"))
}

fn unbuilt(error: &NetError, what: &str) -> ResolveCause {
    let text = format!("{what}: {error}");
    if is_short(error) || descriptors::are_spent() { ResolveCause::Exhausted(text) } else { ResolveCause::Failed(text) }
}

/// Whether something of this machine's has run out.
fn is_short(error: &NetError) -> bool {
    matches!(error, NetError::Io(error) if trouble(error) == Some(Trouble::Exhausted))
}

fn cause(error: &NetError) -> ResolveCause {
    match error {
        NetError::Timeout => ResolveCause::Timeout,
        NetError::Dns(DnsError::NoRecordsFound(none)) => code(none.response_code),
        NetError::Dns(DnsError::ResponseCode(response)) => code(*response),
        short if is_short(short) => ResolveCause::Exhausted(short.to_string()),
        other => ResolveCause::Failed(other.to_string()),
    }
}

fn code(code: ResponseCode) -> ResolveCause {
    match code {
        ResponseCode::NXDomain => ResolveCause::NxDomain,
        ResponseCode::NoError => ResolveCause::NoData,
        other => ResolveCause::Failed(other.to_string()),
    }
}

fn interleave(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let (v6, v4): (Vec<_>, Vec<_>) = addresses.into_iter().partition(IpAddr::is_ipv6);
    let mut order = Vec::with_capacity(v6.len() + v4.len());
    let (mut v6, mut v4) = (v6.into_iter(), v4.into_iter());
    loop {
        let pair = (v6.next(), v4.next());
        if pair == (None, None) {
            return order;
        }
        order.extend(pair.0);
        order.extend(pair.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns_with_ipv6_first() {
        let ips = |list: &[&str]| list.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
        assert_eq!(
            interleave(ips(&["1.1.1.1", "2.2.2.2", "::1", "3.3.3.3"])),
            ips(&["::1", "1.1.1.1", "2.2.2.2", "3.3.3.3"])
        );
    }

    #[tokio::test]
    async fn localhost_needs_no_name_server() {
        let resolver = Resolver::new(Dns::default());
        assert!(resolver.lookup("localhost", Family::V4).await.unwrap().contains(&"127.0.0.1".parse().unwrap()));
    }
}

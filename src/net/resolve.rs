//! Names to addresses, by hickory-resolver: asynchronous, so that slow names stall nobody, and without a cache unless
//! told, so that every run asks DNS anew (contract §1).

use std::{net::IpAddr, sync::OnceLock};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::op::ResponseCode,
};

use super::descriptors;
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
    /// This process or machine has no file descriptor left to ask with.
    #[error("no file descriptor is left to ask a name server with")]
    NoDescriptor,
    /// The name servers failed, refused, or could not be asked.
    #[error("the name servers failed: {0}")]
    Failed(String),
}

/// Looks names up. One for the life of the process.
#[derive(Debug)]
pub struct Resolver {
    dns: Dns,
    // One for each family, since the family is an option of the whole.
    any: OnceLock<TokioResolver>,
    v4: OnceLock<TokioResolver>,
    v6: OnceLock<TokioResolver>,
}

impl Resolver {
    /// A resolver that has not yet read the system's configuration: a run to an address needs none.
    pub fn new(dns: Dns) -> Self {
        Self { dns, any: OnceLock::new(), v4: OnceLock::new(), v6: OnceLock::new() }
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
            // What cannot be read now may be there for the next run.
            let built = build(&self.dns, strategy).map_err(failed)?;
            slot.get_or_init(|| built)
        };
        let answer = resolver.lookup_ip(name).await.map_err(|error| cause(&error))?;
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

fn build(dns: &Dns, strategy: LookupIpStrategy) -> Result<TokioResolver, String> {
    let mut builder = if dns.servers.is_empty() {
        TokioResolver::builder_tokio()
            .map_err(|error| format!("cannot read the system's resolver configuration: {error}"))?
    } else {
        let servers = dns.servers.iter().map(|server| {
            let (mut udp, mut tcp) = (ConnectionConfig::udp(), ConnectionConfig::tcp());
            (udp.port, tcp.port) = (server.port(), server.port());
            NameServerConfig::new(server.ip(), true, vec![udp, tcp])
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options = builder.options_mut();
    options.ip_strategy = strategy;
    if !dns.cache {
        options.cache_size = 0;
    }
    builder.build().map_err(|error| format!("cannot start the resolver: {error}"))
}

fn cause(error: &NetError) -> ResolveCause {
    match error {
        NetError::Timeout => ResolveCause::Timeout,
        NetError::Dns(DnsError::NoRecordsFound(none)) => code(none.response_code),
        NetError::Dns(DnsError::ResponseCode(response)) => code(*response),
        other => failed(other.to_string()),
    }
}

/// The resolver does not tell why it could ask nobody.
fn failed(reason: String) -> ResolveCause {
    if descriptors::are_spent() { ResolveCause::NoDescriptor } else { ResolveCause::Failed(reason) }
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

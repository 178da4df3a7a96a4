//! Names to addresses. By `dns.resolver` either a resolver of our own, which does what the C library does but blocks no thread
//! and respects the deadline of its step; or the C library itself.
//!
//! ```text
//! files     /etc/resolv.conf and /etc/hosts, followed by a thread
//! conf      parses resolv.conf
//! hosts     parses the hosts file
//! ask       the servers in their order, search domains, both families
//! exchange  one question to one server
//! services  the servers of a service of a domain (SRV)
//! cache     answers kept between runs (`dns.cache`)
//! family    IPv4, IPv6 or both
//! cause     why there is no address
//! system    getaddrinfo
//! ```
//!
//! Faults of this machine (no descriptor, no thread, an unreadable file) have causes of their own. Called by `probe`, and by
//! `discovery` for services.

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use crate::{
    clock,
    plan::{Dns, NameResolver},
};

mod ask;
mod cache;
mod cause;
mod conf;
mod exchange;
mod family;
mod files;
mod hosts;
mod services;
mod system;

pub use cause::ResolveCause;
pub use family::Family;
pub use services::{ServiceAnswer, ServiceHost};

use ask::LookUp;
use conf::ResolvConf;
use files::{Follower, Paths};

/// Looks names up. One for the process.
#[derive(Debug)]
pub struct Resolver {
    dns: Dns,
    paths: Paths,
    /// Started by the first look-up that needs it; a run to an address needs none.
    files: Mutex<Option<Follower>>,
    /// Where `rotate` begins next.
    first: AtomicUsize,
}

impl Resolver {
    /// A resolver that has not read the system's configuration yet.
    pub fn new(dns: Dns) -> Self {
        let resolv_conf = dns.servers.is_empty().then(|| "/etc/resolv.conf".into());
        let paths = Paths { resolv_conf, hosts: "/etc/hosts".into() };
        // Random, so that programs that make one run do not all ask the same server.
        let first = AtomicUsize::new(usize::from(rand::random::<u16>()));
        Self { dns, paths, files: Mutex::default(), first }
    }

    /// Whether the configuration allows a name to resolve to this address.
    pub fn allows(&self, address: IpAddr) -> bool {
        self.dns.allows(address)
    }

    /// The addresses of `name`, in the order in which they are to be tried: families in turn (RFC 8305 §4), IPv6 first or the
    /// first family of the system's resolver.
    pub async fn lookup(&self, name: &str, family: Family, deadline: Instant) -> Result<Vec<IpAddr>, ResolveCause> {
        let (mut addresses, v6_first) = match self.dns.resolver {
            NameResolver::Builtin => (self.builtin(name, family, deadline).await?, true),
            NameResolver::System => {
                let addresses = system::lookup(name, family, deadline).await?;
                let v6_first = addresses.first().is_none_or(IpAddr::is_ipv6);
                (addresses, v6_first)
            }
        };
        let mut seen = HashSet::new();
        addresses.retain(|address| seen.insert(*address));
        if addresses.is_empty() { Err(ResolveCause::NoData) } else { Ok(interleave(addresses, v6_first)) }
    }

    /// The hosts and ports of a service: the SRV records of `name`, such as `_imaps._tcp.example.org` (RFC 2782). Asks name
    /// servers whatever `dns.resolver` is, since `getaddrinfo` has no such question; adds no search domain, and keeps nothing.
    pub async fn services(&self, name: &str, deadline: Instant) -> Result<ServiceAnswer, ResolveCause> {
        let system = self.files()?.current(deadline).await?;
        services::look_up(&system.conf, name, deadline).await
    }

    async fn builtin(&self, name: &str, family: Family, deadline: Instant) -> Result<Vec<IpAddr>, ResolveCause> {
        let system = self.files()?.current(deadline).await?;
        let local = family.of(system.hosts.addresses(name));
        if !local.is_empty() {
            return Ok(local);
        }
        if is_localhost(name) {
            return Ok(family.of(&[IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])]));
        }
        if self.dns.cache
            && let Some(known) = system.cache.get(name, family, clock::now())
        {
            return known;
        }
        // Used by `rotate` alone.
        let first = self.first.fetch_add(1, Ordering::Relaxed);
        let found = LookUp::new(&system.conf, family, deadline, first).search(name).await;
        if self.dns.cache {
            system.cache.put(name, family, &found, clock::now());
        }
        found.result
    }

    /// The follower of the files. If its thread cannot be started, the next run tries again.
    fn files(&self) -> Result<Follower, ResolveCause> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(follower) = &*files {
            return Ok(follower.clone());
        }
        let given = (!self.dns.servers.is_empty()).then(|| ResolvConf::of_servers(&self.dns.servers));
        let started = Follower::start(self.paths.clone(), given)
            .map_err(|error| ResolveCause::Local(format!("cannot start the thread that reads /etc/hosts: {error}")))?;
        Ok(files.insert(started).clone())
    }
}

/// A name that is never asked for (RFC 6761 §6.3).
fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

fn interleave(addresses: Vec<IpAddr>, v6_first: bool) -> Vec<IpAddr> {
    let (first, second): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv6() == v6_first);
    let pairs = (0..first.len().max(second.len())).map(|at| [first.get(at), second.get(at)]);
    pairs.flatten().flatten().copied().collect()
}

#[cfg(test)]
mod tests;

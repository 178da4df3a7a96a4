//! The hosts of a service of a domain: SRV records (RFC 2782). Called by `resolve`.
//!
//! Asks the servers in their order, `attempts` times, until one settles the question. The caller decides what priority and weight
//! mean: they are not read.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{DNSClass, Name, RData, RecordType},
};

use super::{
    ask::{Failures, encode},
    cause::ResolveCause,
    conf::{NameServer, ResolvConf},
    exchange::{self, Unsettled, UnsettledKind},
};
use crate::clock;

/// Aliases that are followed one after the other; more are treated as a loop.
const ALIASES: usize = 8;

/// A host of a service, without a dot at its end, and its port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceHost {
    /// The name, as text that may not be a valid host.
    pub host: String,
    /// The port; 0 is invalid, and some domains have it.
    pub port: u16,
}

/// What the records of a service are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceAnswer {
    /// Each host and port once, in their order: servers change the order of records from one answer to the next.
    pub hosts: Vec<ServiceHost>,
    /// A record has the target ".": the domain declares that it does not have this service (RFC 2782, RFC 6186 §3.4).
    pub is_declined: bool,
}

/// What one server answered.
enum SrvOutcome {
    Settled(Result<ServiceAnswer, ResolveCause>),
    /// The name is an alias of this one.
    Alias(Name),
}

/// The hosts of a service.
pub(super) async fn look_up(conf: &ResolvConf, name: &str, deadline: Instant) -> Result<ServiceAnswer, ResolveCause> {
    let bare = name.strip_suffix('.').unwrap_or(name);
    let too_long = || ResolveCause::Local(format!("{name:?} is longer than a name may be"));
    let mut name = encode(bare).ok_or_else(too_long)?;
    let wait = Duration::from_secs(conf.options.timeout.into());
    let mut failures = Failures::default();
    let mut aliases = 0;
    for _ in 0..conf.options.attempts {
        for (number, server) in conf.servers.iter().enumerate() {
            loop {
                let now = clock::now();
                if now >= deadline {
                    return Err(failures.cause(conf));
                }
                match ask(server, &name, conf, (now + wait).min(deadline)).await {
                    Ok(SrvOutcome::Settled(settled)) => return settled,
                    Ok(SrvOutcome::Alias(_)) if aliases == ALIASES => return Err(ResolveCause::NoData),
                    Ok(SrvOutcome::Alias(to)) => {
                        aliases += 1;
                        name = to;
                    }
                    Err(unsettled) => {
                        failures.note(number, unsettled);
                        break;
                    }
                }
            }
        }
    }
    Err(failures.cause(conf))
}

async fn ask(server: &NameServer, name: &Name, conf: &ResolvConf, until: Instant) -> Result<SrvOutcome, Unsettled> {
    let address = server.address().map_err(|error| Unsettled::new(UnsettledKind::Unusable, error.to_string()))?;
    read(&*exchange::message(address, name, RecordType::SRV, conf, until).await?, name)
}

fn read(message: &Message, name: &Name) -> Result<SrvOutcome, Unsettled> {
    match message.metadata.response_code {
        ResponseCode::NXDomain => return Ok(SrvOutcome::Settled(Err(ResolveCause::NxDomain))),
        ResponseCode::NoError => {}
        code => return Err(Unsettled::code(code)),
    }
    let mut end = name;
    for _ in 0..=ALIASES {
        let mut alias = None;
        let (mut hosts, mut is_declined) = (BTreeSet::new(), false);
        for record in message.answers.iter().filter(|record| record.dns_class == DNSClass::IN && record.name == *end) {
            match &record.data {
                RData::SRV(service) if service.target.is_root() => is_declined = true,
                RData::SRV(service) => {
                    let host = service.target.to_ascii();
                    let host = host.strip_suffix('.').unwrap_or(&host).to_ascii_lowercase();
                    hosts.insert(ServiceHost { host, port: service.port });
                }
                RData::CNAME(target) => alias = Some(&target.0),
                _ => {}
            }
        }
        if !hosts.is_empty() || is_declined {
            let hosts = hosts.into_iter().collect();
            return Ok(SrvOutcome::Settled(Ok(ServiceAnswer { hosts, is_declined })));
        }
        match alias {
            Some(target) => end = target,
            None if end == name && is_referral(message) => {
                return Err(Unsettled::new(UnsettledKind::Failed, "referral in place of an answer"));
            }
            None if end == name => return Ok(SrvOutcome::Settled(Err(ResolveCause::NoData))),
            None => return Ok(SrvOutcome::Alias(end.clone())),
        }
    }
    Ok(SrvOutcome::Settled(Err(ResolveCause::NoData)))
}

/// Whether a server without recursion names other servers, or nothing at all.
fn is_referral(message: &Message) -> bool {
    let metadata = &message.metadata;
    message.answers.is_empty() && !metadata.authoritative && !metadata.recursion_available
}

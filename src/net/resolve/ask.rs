//! A name's addresses from name servers, by the rules of the C library's resolver: the servers in their order, one at a
//! time, `attempts` times; on to the next one when an answer settles nothing; search domains by `ndots`.
//!
//! docs/journey.md lists the differences from the C library, with reasons. Called by `resolve`.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use hickory_proto::rr::{Name, RecordType};

use super::{
    cause::ResolveCause,
    conf::{NameServer, ResolvConf},
    exchange::{self, DnsAnswer, Resolved, Unsettled, UnsettledKind},
    family::Family,
};
use crate::clock;

/// Aliases that are followed one after the other; more are treated as a loop.
const ALIASES: usize = 8;

#[derive(Debug)]
pub(super) struct LookUp<'a> {
    conf: &'a ResolvConf,
    family: Family,
    wait: Duration,
    deadline: Instant,
    begun: Instant,
    waited: Duration,
    /// For `rotate`: the server that is asked first; each question begins with the next one.
    first: usize,
    /// Servers that left a question of this look-up unanswered: they are asked last from then on.
    silent: Vec<bool>,
}

/// What the servers answered about one name, and whether the search goes on with the next domain if that is no address: not
/// after a failure, except SERVFAIL, as with the C library.
type NameOutcome = (Resolved, bool);

struct FamilyQuery {
    kind: RecordType,
    /// The name asked for, or the alias that it led to.
    name: Name,
    aliases: usize,
    ttl: u32,
    settled: Option<Resolved>,
}

impl<'a> LookUp<'a> {
    /// A look-up that ends by `deadline` and begins with the server of this number.
    pub(super) fn new(conf: &'a ResolvConf, family: Family, deadline: Instant, first: usize) -> Self {
        let begun = clock::now();
        let left = deadline.saturating_duration_since(begun);
        let share = left / u32::try_from(conf.servers.len()).unwrap_or(u32::MAX).max(1);
        let wait = Duration::from_secs(conf.options.timeout.into()).min(share);
        let silent = vec![false; conf.servers.len()];
        Self { conf, family, wait, deadline, begun, waited: Duration::ZERO, first, silent }
    }

    /// The result at the deadline. If this process spent a tenth of the time or more without waiting for a server, silence is
    /// not attributed to the servers.
    fn cut(&self, failures: &Failures) -> NameOutcome {
        let all = self.deadline.saturating_duration_since(self.begun);
        let cause = match failures.cause(self.conf) {
            ResolveCause::Timeout if self.waited + all / 10 < all => ResolveCause::Late,
            cause => cause,
        };
        (Resolved::none(cause, None), false)
    }

    /// Asks for a name by resolv.conf's `search` and `ndots`. No domain is added to a name that ends with a dot.
    pub(super) async fn search(mut self, name: &str) -> Resolved {
        let (bare, whole) = name.strip_suffix('.').map_or((name, false), |bare| (bare, true));
        let Some(itself) = encode(bare) else {
            return Resolved::none(ResolveCause::Local(format!("{name:?} is longer than a name may be")), None);
        };
        let dots = bare.matches('.').count();
        let mut before = None;
        if whole || dots >= self.conf.options.ndots as usize {
            let (found, _) = self.ask(&itself).await;
            if found.result.is_ok() || whole {
                return found;
            }
            before = Some(found);
        }
        let (mut no_data, mut failed, mut last, mut root) = (None, None, None, false);
        for domain in &self.conf.search {
            let domain = domain.trim_matches('.');
            root |= domain.is_empty();
            let candidate = if domain.is_empty() { Some(itself.clone()) } else { encode(&format!("{bare}.{domain}")) };
            let Some(candidate) = candidate else { continue };
            let (found, goes_on) = self.ask(&candidate).await;
            match &found.result {
                Ok(_) => return found,
                Err(ResolveCause::NoData) => no_data = Some(found),
                Err(ResolveCause::NxDomain) => last = Some(found),
                Err(_) if goes_on => failed = Some(found),
                Err(_) => {
                    last = Some(found);
                    break;
                }
            }
        }
        if before.is_none() && !root && (dots > 0 || !self.conf.options.no_tld_query || self.conf.search.is_empty()) {
            let (found, _) = self.ask(&itself).await;
            if found.result.is_ok() {
                return found;
            }
            last = Some(found);
        }
        // What is wrong on this machine comes before what is wrong with the name.
        let ours = last.take_if(|last| last.result.as_ref().is_err_and(ResolveCause::is_local));
        let found = ours.or(before).or(no_data).or(failed).or(last);
        found.unwrap_or_else(|| Resolved::none(ResolveCause::NxDomain, None))
    }

    async fn ask(&mut self, name: &Name) -> NameOutcome {
        let mut queries = self.queries(name);
        if queries.is_empty() {
            return (Resolved::none(ResolveCause::NoData, None), true);
        }
        let order = self.order();
        let mut failures = Failures::default();
        for _ in 0..self.conf.options.attempts {
            for number in &order {
                let now = clock::now();
                if now >= self.deadline {
                    return self.cut(&failures);
                }
                let Some(server) = self.conf.servers.get(*number) else { continue };
                let until = (now + self.wait).min(self.deadline);
                let turn = self.turn(&mut queries, server, until).await;
                self.waited += clock::now().min(until).saturating_duration_since(now);
                let mut unanswered = false;
                for unsettled in turn {
                    unanswered |= unsettled.kind == UnsettledKind::Silent;
                    if matches!(unsettled.kind, UnsettledKind::Exhausted | UnsettledKind::NoPort) {
                        let failures = Failures(vec![(*number, unsettled)]);
                        return (Resolved::none(failures.cause(self.conf), None), false);
                    }
                    failures.note(*number, unsettled);
                }
                if unanswered && let Some(silent) = self.silent.get_mut(*number) {
                    *silent = true;
                }
                let found = queries.iter().any(|query| query.settled.as_ref().is_some_and(|it| it.result.is_ok()));
                // As with the C library one family's addresses are enough when the other's question was refused.
                if queries.iter().all(|query| query.settled.is_some()) || found && !unanswered {
                    return conclude(queries, &failures, self.conf);
                }
            }
        }
        if clock::now() >= self.deadline {
            return self.cut(&failures);
        }
        conclude(queries, &failures, self.conf)
    }

    /// Asks one server what is not settled yet. Returns why it did not settle that.
    async fn turn(&self, queries: &mut [FamilyQuery], server: &NameServer, until: Instant) -> Vec<Unsettled> {
        let open = queries.iter_mut().filter(|query| query.settled.is_none());
        if !self.conf.options.single_request {
            let asked = join_all(open.map(|query| query.ask(server, self.conf, until))).await;
            return asked.into_iter().filter_map(Result::err).collect();
        }
        let mut left = Vec::new();
        for query in open {
            left.extend(query.ask(server, self.conf, until).await.err());
        }
        left
    }

    fn queries(&self, name: &Name) -> Vec<FamilyQuery> {
        let kinds: &[RecordType] = match self.family {
            Family::Any => &[RecordType::A, RecordType::AAAA],
            Family::V4 => &[RecordType::A],
            Family::V6 => &[RecordType::AAAA],
        };
        let wanted = kinds.iter().filter(|kind| **kind == RecordType::A || !self.conf.options.no_aaaa);
        wanted.map(|&kind| FamilyQuery { kind, name: name.clone(), aliases: 0, ttl: u32::MAX, settled: None }).collect()
    }

    fn order(&mut self) -> Vec<usize> {
        let count = self.conf.servers.len();
        let first = if self.conf.options.rotate { self.first % count.max(1) } else { 0 };
        self.first = self.first.wrapping_add(1);
        let mut order: Vec<usize> = (0..count).map(|number| (first + number) % count).collect();
        order.sort_by_key(|number| self.silent.get(*number).copied());
        order
    }
}

impl FamilyQuery {
    /// Asks one server, for aliases too.
    async fn ask(&mut self, server: &NameServer, conf: &ResolvConf, until: Instant) -> Result<(), Unsettled> {
        let address = server.address().map_err(|error| Unsettled::new(UnsettledKind::Unusable, error.to_string()))?;
        loop {
            let settled = match exchange::ask(address, &self.name, self.kind, conf, until).await? {
                DnsAnswer::Alias(name, ttl) if self.aliases < ALIASES => {
                    self.aliases += 1;
                    (self.name, self.ttl) = (name, self.ttl.min(ttl));
                    continue;
                }
                DnsAnswer::Alias(..) => Resolved::none(ResolveCause::NoData, None),
                DnsAnswer::Settled(Resolved { result: Ok(addresses), ttl }) => {
                    Resolved { result: Ok(addresses), ttl: shorter(ttl, Some(self.ttl)) }
                }
                DnsAnswer::Settled(none) => none,
            };
            self.settled = Some(settled);
            return Ok(());
        }
    }
}

fn conclude(queries: Vec<FamilyQuery>, failures: &Failures, conf: &ResolvConf) -> NameOutcome {
    let is_open = queries.iter().any(|query| query.settled.is_none());
    let (mut addresses, mut ttl): (Vec<IpAddr>, _) = (Vec::new(), None);
    let (mut cause, mut negative) = (ResolveCause::NxDomain, None);
    for settled in queries.into_iter().filter_map(|query| query.settled) {
        match settled.result {
            Ok(found) => {
                addresses.extend(found);
                ttl = shorter(ttl, settled.ttl);
            }
            Err(none) => {
                negative = shorter(negative, settled.ttl);
                if none == ResolveCause::NoData {
                    cause = none;
                }
            }
        }
    }
    if !addresses.is_empty() {
        return (Resolved { result: Ok(addresses), ttl }, true);
    }
    if is_open {
        return (Resolved::none(failures.cause(conf), None), failures.has_servfail());
    }
    (Resolved::none(cause, negative), true)
}

fn shorter(one: Option<u32>, other: Option<u32>) -> Option<u32> {
    one.into_iter().chain(other).min()
}

/// Why the servers did not settle a name: one reason for each server.
#[derive(Default)]
pub(super) struct Failures(Vec<(usize, Unsettled)>);

impl Failures {
    /// Of several reasons of one server, keeps the first by [`UnsettledKind`], and the last of that kind.
    pub(super) fn note(&mut self, server: usize, unsettled: Unsettled) {
        match self.0.iter_mut().find(|(number, _)| *number == server) {
            Some((_, kept)) if kept.kind >= unsettled.kind => *kept = unsettled,
            Some(_) => {}
            None => self.0.push((server, unsettled)),
        }
    }

    fn has_servfail(&self) -> bool {
        self.0.iter().any(|(_, unsettled)| unsettled.is_servfail())
    }

    /// The cause by the first kind, with the reasons of all servers.
    pub(super) fn cause(&self, conf: &ResolvConf) -> ResolveCause {
        let all = || {
            let one = |(number, unsettled): &(usize, Unsettled)| {
                let server = conf.servers.get(*number).map(ToString::to_string).unwrap_or_default();
                format!("{}, server {server}", unsettled.text)
            };
            self.0.iter().map(one).collect::<Vec<_>>().join("; ")
        };
        match self.0.iter().map(|(_, unsettled)| unsettled.kind).min() {
            Some(UnsettledKind::Exhausted) => ResolveCause::Exhausted(all()),
            Some(UnsettledKind::NoPort) => ResolveCause::NoPort(all()),
            Some(UnsettledKind::Local | UnsettledKind::Unusable) => ResolveCause::Local(all()),
            Some(UnsettledKind::Failed | UnsettledKind::Unreachable) => ResolveCause::Failed(all()),
            Some(UnsettledKind::Silent) | None => ResolveCause::Timeout,
        }
    }
}

/// A name as DNS has it: labels of at most 63 bytes, 255 in all (RFC 1035 §2.3.4). None for one that does not fit.
pub(super) fn encode(name: &str) -> Option<Name> {
    Name::from_labels(name.split('.').map(str::as_bytes)).ok()
}

//! A name's addresses from name servers, by the rules of the C library's resolver: the servers in their order, one at a
//! time, as often as resolv.conf says; on to the next one when an answer settles nothing; search domains by `ndots`.
//!
//! What differs from the C library, and why, is in docs/journey.md. Nothing is kept from one look-up to
//! the next but where `rotate` begins. Called by `resolve`.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RecordType},
};

use super::{
    cause::ResolveCause,
    conf::{NameServer, ResolvConf},
    exchange::{self, DnsAnswer, How, Unsettled},
    family::Family,
};
use crate::clock;

/// What came of a look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resolved {
    pub(super) result: Result<Vec<IpAddr>, ResolveCause>,
    /// For how many seconds it holds; none when it was not said, or nothing was settled.
    pub(super) ttl: Option<u32>,
}

/// Aliases that are asked for, one after the other, before they are taken for a circle.
const ALIASES: usize = 8;

/// One look-up.
#[derive(Debug)]
pub(super) struct LookUp<'a> {
    conf: &'a ResolvConf,
    family: Family,
    /// The longest that a server is waited for.
    wait: Duration,
    deadline: Instant,
    begun: Instant,
    /// For how long answers were waited for.
    waited: Duration,
    /// Where `rotate` stands: the server that is asked first, and each question begins with the next.
    first: usize,
    /// Servers that left a question of this look-up unanswered: they are asked last from then on.
    silent: Vec<bool>,
}

/// What the servers say of one name.
enum NameOutcome {
    Found(Vec<IpAddr>, Option<u32>),
    NoData(Option<u32>),
    NxDomain(Option<u32>),
    Unsettled(ResolveCause, SearchStep),
}

/// Whether the search goes on with the next domain after a name that was not settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SearchStep {
    /// It does after SERVFAIL, as with the C library.
    GoesOn,
    Stops,
}

/// The question for one family.
struct Leg {
    kind: RecordType,
    /// The name asked for, or the alias that it led to.
    name: Name,
    aliases: usize,
    ttl: u32,
    settled: Option<Settled>,
}

enum Settled {
    Addresses(Vec<IpAddr>),
    NoData(Option<u32>),
    NxDomain(Option<u32>),
}

impl<'a> LookUp<'a> {
    /// A look-up that ends by `deadline` and begins with the server of this number.
    pub(super) fn new(conf: &'a ResolvConf, family: Family, deadline: Instant, first: usize) -> Self {
        let begun = clock::now();
        let left = deadline.saturating_duration_since(begun);
        let share = left / u32::try_from(conf.servers.len()).unwrap_or(u32::MAX).max(1);
        let silent = vec![false; conf.servers.len()];
        Self { conf, family, wait: conf.timeout.min(share), deadline, begun, waited: Duration::ZERO, first, silent }
    }

    /// What it comes to when its time is up. Servers that were not waited for while the time went by did not leave anything
    /// unanswered.
    fn cut(&self, failures: &Failures) -> NameOutcome {
        let all = self.deadline.saturating_duration_since(self.begun);
        match failures.outcome(self.conf, true) {
            NameOutcome::Unsettled(ResolveCause::Timeout, stop) if self.waited + all / 10 < all => {
                NameOutcome::Unsettled(ResolveCause::Late, stop)
            }
            outcome => outcome,
        }
    }

    /// Asks for a name as resolv.conf's `search` and `ndots` say. A dot at its end says that it is whole.
    pub(super) async fn search(mut self, name: &str) -> Resolved {
        let (bare, whole) = name.strip_suffix('.').map_or((name, false), |bare| (bare, true));
        let Some(itself) = encode(bare) else {
            return Resolved::unsettled(ResolveCause::Local(format!("{name:?} is longer than a name may be")));
        };
        let dots = bare.matches('.').count();
        let mut before = None;
        if whole || dots >= self.conf.ndots {
            match self.ask(&itself).await {
                NameOutcome::Found(addresses, ttl) => return Resolved { result: Ok(addresses), ttl },
                other if whole => return other.into(),
                other => before = Some(other),
            }
        }
        let (mut no_data, mut failed, mut last, mut root) = (None, None, None, false);
        for domain in &self.conf.search {
            let domain = domain.trim_matches('.');
            root |= domain.is_empty();
            let candidate = if domain.is_empty() { Some(itself.clone()) } else { encode(&format!("{bare}.{domain}")) };
            let Some(candidate) = candidate else { continue };
            match self.ask(&candidate).await {
                NameOutcome::Found(addresses, ttl) => return Resolved { result: Ok(addresses), ttl },
                NameOutcome::NoData(ttl) => no_data = Some(NameOutcome::NoData(ttl)),
                NameOutcome::NxDomain(ttl) => last = Some(NameOutcome::NxDomain(ttl)),
                NameOutcome::Unsettled(cause, SearchStep::GoesOn) => {
                    failed = Some(NameOutcome::Unsettled(cause, SearchStep::GoesOn));
                }
                stop @ NameOutcome::Unsettled(_, SearchStep::Stops) => {
                    last = Some(stop);
                    break;
                }
            }
        }
        if before.is_none() && !root && (dots > 0 || !self.conf.no_tld || self.conf.search.is_empty()) {
            match self.ask(&itself).await {
                NameOutcome::Found(addresses, ttl) => return Resolved { result: Ok(addresses), ttl },
                other => last = Some(other),
            }
        }
        // What is wrong on this machine comes before what is wrong with the name.
        if let Some(NameOutcome::Unsettled(cause, _)) = last.take_if(|last| last.is_own()) {
            return Resolved::unsettled(cause);
        }
        before
            .or(no_data)
            .or(failed)
            .or(last)
            .map_or_else(|| Resolved::unsettled(ResolveCause::NxDomain), Resolved::from)
    }

    /// Asks for one name.
    async fn ask(&mut self, name: &Name) -> NameOutcome {
        let mut legs = self.legs(name);
        if legs.is_empty() {
            return NameOutcome::NoData(None);
        }
        let how = How { edns: self.conf.edns, tcp: self.conf.tcp };
        let order = self.order();
        let mut failures = Failures::default();
        for _ in 0..self.conf.attempts {
            for number in &order {
                let now = clock::now();
                if now >= self.deadline {
                    return self.cut(&failures);
                }
                let Some(server) = self.conf.servers.get(*number) else { continue };
                let until = (now + self.wait).min(self.deadline);
                let mut unanswered = false;
                let turn = self.turn(&mut legs, server, how, until).await;
                self.waited += clock::now().min(until).saturating_duration_since(now);
                for unsettled in turn {
                    unanswered |= matches!(unsettled, Unsettled::Silent);
                    if matches!(unsettled, Unsettled::Exhausted(_) | Unsettled::NoPort(_)) {
                        failures = Failures::default();
                        failures.note(*number, unsettled);
                        return failures.outcome(self.conf, false);
                    }
                    failures.note(*number, unsettled);
                }
                if unanswered && let Some(silent) = self.silent.get_mut(*number) {
                    *silent = true;
                }
                let found = legs.iter().any(|leg| matches!(leg.settled, Some(Settled::Addresses(_))));
                // As with the C library one family's addresses are enough when the other's question was turned down.
                if legs.iter().all(|leg| leg.settled.is_some()) || found && !unanswered {
                    return conclude(legs, &failures, self.conf);
                }
            }
        }
        if clock::now() >= self.deadline {
            return self.cut(&failures);
        }
        conclude(legs, &failures, self.conf)
    }

    /// Asks one server whatever is not settled yet. Gives what it left unsettled.
    async fn turn(&self, legs: &mut [Leg], server: &NameServer, how: How, until: Instant) -> Vec<Unsettled> {
        let open = legs.iter_mut().filter(|leg| leg.settled.is_none());
        let mut left = Vec::new();
        if self.conf.sequential {
            for leg in open {
                left.extend(leg.ask(server, how, until).await.err());
            }
        } else {
            left.extend(
                join_all(open.map(|leg| leg.ask(server, how, until))).await.into_iter().filter_map(Result::err),
            );
        }
        left
    }

    fn legs(&self, name: &Name) -> Vec<Leg> {
        let kinds: &[RecordType] = match self.family {
            Family::Any => &[RecordType::A, RecordType::AAAA],
            Family::V4 => &[RecordType::A],
            Family::V6 => &[RecordType::AAAA],
        };
        let wanted = kinds.iter().filter(|kind| **kind == RecordType::A || !self.conf.no_aaaa);
        wanted.map(|kind| Leg { kind: *kind, name: name.clone(), aliases: 0, ttl: u32::MAX, settled: None }).collect()
    }

    /// The servers by number, in the order in which they are asked now.
    fn order(&mut self) -> Vec<usize> {
        let count = self.conf.servers.len();
        let first = if self.conf.rotate { self.first % count.max(1) } else { 0 };
        self.first = self.first.wrapping_add(1);
        let mut order: Vec<usize> = (0..count).map(|number| (first + number) % count).collect();
        order.sort_by_key(|number| self.silent.get(*number).copied());
        order
    }
}

impl Leg {
    /// Asks one server, for aliases too.
    async fn ask(&mut self, server: &NameServer, how: How, until: Instant) -> Result<(), Unsettled> {
        let address = server.address().map_err(Unsettled::Unusable)?;
        loop {
            let settled = match exchange::ask(address, &self.name, self.kind, how, until).await? {
                DnsAnswer::Addresses(addresses, ttl) => {
                    self.ttl = self.ttl.min(ttl);
                    Settled::Addresses(addresses)
                }
                DnsAnswer::Alias(name, ttl) if self.aliases < ALIASES => {
                    self.aliases += 1;
                    (self.name, self.ttl) = (name, self.ttl.min(ttl));
                    continue;
                }
                DnsAnswer::Alias(..) => Settled::NoData(None),
                DnsAnswer::NoData(ttl) => Settled::NoData(ttl),
                DnsAnswer::NxDomain(ttl) => Settled::NxDomain(ttl),
            };
            self.settled = Some(settled);
            return Ok(());
        }
    }
}

/// What all families together come to.
fn conclude(legs: Vec<Leg>, failures: &Failures, conf: &ResolvConf) -> NameOutcome {
    let open = legs.iter().any(|leg| leg.settled.is_none());
    let (mut addresses, mut ttl) = (Vec::new(), u32::MAX);
    let (mut no_data, mut negative) = (false, None::<u32>);
    for leg in legs {
        match leg.settled {
            Some(Settled::Addresses(found)) => {
                addresses.extend(found);
                ttl = ttl.min(leg.ttl);
            }
            Some(Settled::NoData(time)) => {
                no_data = true;
                negative = shorter(negative, time);
            }
            Some(Settled::NxDomain(time)) => negative = shorter(negative, time),
            None => {}
        }
    }
    if !addresses.is_empty() {
        return NameOutcome::Found(addresses, Some(ttl));
    }
    match (open, no_data) {
        (true, _) => failures.outcome(conf, false),
        (false, true) => NameOutcome::NoData(negative),
        (false, false) => NameOutcome::NxDomain(negative),
    }
}

fn shorter(one: Option<u32>, other: Option<u32>) -> Option<u32> {
    one.into_iter().chain(other).min()
}

impl NameOutcome {
    /// Whether it says something of this machine and not of the name.
    fn is_own(&self) -> bool {
        use ResolveCause::{Exhausted, Late, Local, NoPort};
        matches!(self, Self::Unsettled(Exhausted(_) | Late | Local(_) | NoPort(_), _))
    }
}

impl From<NameOutcome> for Resolved {
    fn from(outcome: NameOutcome) -> Self {
        match outcome {
            NameOutcome::Found(addresses, ttl) => Self { result: Ok(addresses), ttl },
            NameOutcome::NoData(ttl) => Self { result: Err(ResolveCause::NoData), ttl },
            NameOutcome::NxDomain(ttl) => Self { result: Err(ResolveCause::NxDomain), ttl },
            NameOutcome::Unsettled(cause, _) => Self::unsettled(cause),
        }
    }
}

impl Resolved {
    fn unsettled(cause: ResolveCause) -> Self {
        Self { result: Err(cause), ttl: None }
    }
}

/// What kept the servers from settling a name: the last of each server.
#[derive(Default)]
struct Failures(Vec<(usize, Unsettled)>);

impl Failures {
    fn note(&mut self, server: usize, unsettled: Unsettled) {
        // Of two questions to one server the silence says less than a word.
        match self.0.iter_mut().find(|(number, _)| *number == server) {
            Some((_, kept)) if rank(kept) >= rank(&unsettled) => *kept = unsettled,
            Some(_) => {}
            None => self.0.push((server, unsettled)),
        }
    }

    /// The cause that says most: a fault of our own, then what a server or the network says, then silence.
    fn outcome(&self, conf: &ResolvConf, cut: bool) -> NameOutcome {
        let all = || {
            let one = |(number, unsettled): &(usize, Unsettled)| {
                let server = conf.servers.get(*number).map(ToString::to_string).unwrap_or_default();
                format!("{}, server {server}", describe(unsettled))
            };
            self.0.iter().map(one).collect::<Vec<_>>().join("; ")
        };
        let servfail = self.0.iter().any(|(_, unsettled)| matches!(unsettled, Unsettled::Code(ResponseCode::ServFail)));
        let stop = if servfail && !cut { SearchStep::GoesOn } else { SearchStep::Stops };
        let cause = match self.0.iter().map(|(_, unsettled)| unsettled).min_by_key(|unsettled| rank(unsettled)) {
            Some(Unsettled::Exhausted(_)) => ResolveCause::Exhausted(all()),
            Some(Unsettled::NoPort(_)) => ResolveCause::NoPort(all()),
            Some(Unsettled::Local(_) | Unsettled::Unusable(_)) => ResolveCause::Local(all()),
            Some(Unsettled::Code(_) | Unsettled::Malformed | Unsettled::Referral | Unsettled::Unreachable(_)) => {
                ResolveCause::Failed(all())
            }
            Some(Unsettled::Silent) | None => ResolveCause::Timeout,
        };
        NameOutcome::Unsettled(cause, stop)
    }
}

fn rank(unsettled: &Unsettled) -> u8 {
    match unsettled {
        Unsettled::Exhausted(_) => 0,
        Unsettled::NoPort(_) => 1,
        Unsettled::Local(_) => 2,
        Unsettled::Code(_) | Unsettled::Malformed | Unsettled::Referral => 3,
        Unsettled::Unreachable(_) => 4,
        Unsettled::Silent => 5,
        // A server that this host can never ask says nothing of the others.
        Unsettled::Unusable(_) => 6,
    }
}

fn describe(unsettled: &Unsettled) -> String {
    match unsettled {
        Unsettled::Code(code) => match code {
            ResponseCode::ServFail => "SERVFAIL".to_owned(),
            ResponseCode::Refused => "REFUSED".to_owned(),
            ResponseCode::NotImp => "NOTIMP".to_owned(),
            ResponseCode::FormErr => "FORMERR".to_owned(),
            other => format!("RCODE {}", u16::from(*other)),
        },
        Unsettled::Malformed => "malformed answer".to_owned(),
        Unsettled::Referral => "referral in place of an answer".to_owned(),
        Unsettled::Silent => "no answer in time".to_owned(),
        Unsettled::Unreachable(error)
        | Unsettled::Unusable(error)
        | Unsettled::NoPort(error)
        | Unsettled::Exhausted(error)
        | Unsettled::Local(error) => error.to_string(),
    }
}

/// A name as DNS has it: labels of at most 63 bytes, 255 in all (RFC 1035 §2.3.4). None for one that does not fit.
fn encode(name: &str) -> Option<Name> {
    Name::from_labels(name.split('.').map(str::as_bytes)).ok()
}

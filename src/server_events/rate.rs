//! How many things may happen a second, in total and per peer. Reads no clock. Called by `receiver`.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Permits that come back at a fixed rate.
#[derive(Debug)]
pub(super) struct TokenBucket {
    a_second: f64,
    most: f64,
    left: f64,
    at: Option<Instant>,
}

/// The number of peers from which on those that are not limited now are forgotten.
const PEERS: usize = 1_024;

impl TokenBucket {
    /// Permits `a_second` in the long run, and `most` at once.
    pub(super) fn new(a_second: u32, most: u32) -> Self {
        Self { a_second: a_second.into(), most: most.into(), left: most.into(), at: None }
    }

    /// Whether one more may happen at this time.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.at.replace(now).unwrap_or(now));
        self.left = (since.as_secs_f64().mul_add(self.a_second, self.left)).min(self.most);
        let may = self.left >= 1.0;
        self.left -= f64::from(u8::from(may));
        may
    }

    /// Whether it has been unused for so long that it is as a new one.
    fn is_full(&self, now: Instant) -> bool {
        let unused = self.at.map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        unused.as_secs_f64().mul_add(self.a_second, self.left) >= self.most
    }

    #[cfg(test)]
    pub(super) fn exhaust(&mut self, now: Instant) {
        while self.take(now) {}
    }
}

/// Permits of each peer, and of all of them together: one peer cannot use all permits.
#[derive(Debug)]
pub(super) struct PeerRates {
    all: TokenBucket,
    by_peer: HashMap<IpAddr, TokenBucket>,
}

impl PeerRates {
    /// Permits `a_second` in the long run, and `most` at once; to one peer three fifths of that.
    pub(super) fn new(a_second: u32, most: u32) -> Self {
        Self { all: TokenBucket::new(a_second, most), by_peer: HashMap::new() }
    }

    /// Whether one more of this peer may happen at this time.
    pub(super) fn take(&mut self, peer: IpAddr, now: Instant) -> bool {
        if self.by_peer.len() >= PEERS && !self.by_peer.contains_key(&peer) {
            self.by_peer.retain(|_, bucket| !bucket.is_full(now));
        }
        let TokenBucket { a_second, most, .. } = self.all;
        let share = |all: f64| 0.6 * all;
        let new = || TokenBucket { a_second: share(a_second), most: share(most), left: share(most), at: None };
        self.by_peer.entry(peer).or_insert_with(new).take(now) && self.all.take(now)
    }

    #[cfg(test)]
    pub(super) fn exhaust(&mut self, now: Instant) {
        self.all.exhaust(now);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::clock;

    #[test]
    fn as_many_as_it_holds_at_once_and_then_its_rate() {
        let mut bucket = TokenBucket::new(10, 5);
        let begin = clock::now();
        assert_eq!((0..20).filter(|_| bucket.take(begin)).count(), 5);
        let taken = (1..=20).filter(|tenth| bucket.take(begin + Duration::from_millis(100 * tenth))).count();
        assert_eq!(taken, 20);
        // It never holds more than that.
        assert_eq!((0..20).filter(|_| bucket.take(begin + Duration::from_secs(3600))).count(), 5);
    }

    #[test]
    fn one_peer_cannot_use_all_permits() {
        let mut rates = PeerRates::new(10, 5);
        let (one, other) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv4Addr::BROADCAST));
        let begin = clock::now();
        let taken = |rates: &mut PeerRates, peer, at| (0..20).filter(|_| rates.take(peer, at)).count();
        assert_eq!((taken(&mut rates, one, begin), taken(&mut rates, other, begin)), (3, 2));
        // In the long run, too: six a second of the ten.
        let all = (1..=100).map(|tenth| {
            let now = begin + Duration::from_millis(100 * tenth);
            [taken(&mut rates, one, now), usize::from(rates.take(other, now))]
        });
        let sums = all.fold([0, 0], |sums, taken| [sums[0] + taken[0], sums[1] + taken[1]]);
        assert!((59..=60).contains(&sums[0]) && (39..=41).contains(&sums[1]), "{sums:?}");
    }

    #[test]
    fn peers_that_are_not_limited_are_forgotten() {
        let mut rates = PeerRates::new(10, 5);
        let begin = clock::now();
        let peer = |number: u32| IpAddr::from(Ipv4Addr::from_bits(number));
        for number in 0..2_000 {
            rates.take(peer(number), begin + Duration::from_millis(u64::from(number)));
        }
        // One permit is back after a sixth of a second.
        assert!(rates.by_peer.len() <= PEERS, "{}", rates.by_peer.len());
        assert!(rates.by_peer.contains_key(&peer(1_999)));
    }
}

//! The keys of runs whose wait is over: an event with one of them is late. Bounded. Called by `store`.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

/// The most keys that are kept: those of some 1,300 runs.
const KEYS: usize = 32_768;

/// Hashes of tags and of names of sessions.
#[derive(Debug, Default)]
pub(super) struct TakenKeys {
    order: VecDeque<(Instant, u64)>,
    /// How often each is in `order`.
    known: HashMap<u64, u32>,
}

impl TakenKeys {
    /// Adds a key. Over the limit the oldest goes.
    pub(super) fn add(&mut self, key: u64, now: Instant) {
        if self.order.len() >= KEYS {
            self.forget_oldest();
        }
        self.order.push_back((now, key));
        *self.known.entry(key).or_default() += 1;
    }

    pub(super) fn contains(&self, key: u64) -> bool {
        self.known.contains_key(&key)
    }

    /// Removes what is older than `age`.
    pub(super) fn expire(&mut self, now: Instant, age: Duration) {
        while self.order.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > age) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((_, key)) = self.order.pop_front() else { return };
        if let Some(count) = self.known.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.known.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn keys_go_by_age_and_by_number_and_one_that_is_there_twice_goes_with_the_last() {
        let (begin, age) = (clock::now(), Duration::from_secs(30));
        let mut keys = TakenKeys::default();
        keys.add(1, begin);
        keys.add(2, begin);
        keys.add(1, begin + age);
        keys.expire(begin + age + Duration::from_secs(1), age);
        assert!(keys.contains(1) && !keys.contains(2));
        for key in 0..KEYS {
            keys.add(1_000 + key as u64, begin + age);
        }
        assert!(!keys.contains(1) && keys.contains(1_000) && keys.order.len() == KEYS && keys.known.len() == KEYS);
    }
}

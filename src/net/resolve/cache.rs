//! Answers of name servers, kept for their time to live if `dns.cache` is on. Called by `resolve`.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{cause::ResolveCause, exchange::Resolved, family::Family};

const MOST: usize = 65_536;
/// Upper bound of the time to live.
const LONGEST: Duration = Duration::from_secs(86_400);

type CachedAnswer = Result<Vec<IpAddr>, ResolveCause>;

#[derive(Debug, Default)]
pub(super) struct Cache(Mutex<HashMap<(String, Family), (Instant, CachedAnswer)>>);

impl Cache {
    pub(super) fn get(&self, name: &str, family: Family, now: Instant) -> Option<CachedAnswer> {
        let answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (end, answer) = answers.get(&(name.to_owned(), family))?;
        (now < *end).then(|| answer.clone())
    }

    /// Keeps an answer that has a time to live.
    pub(super) fn put(&self, name: &str, family: Family, found: &Resolved, now: Instant) {
        let Some(ttl) = found.ttl.filter(|ttl| *ttl > 0) else { return };
        let end = now + Duration::from_secs(ttl.into()).min(LONGEST);
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= MOST {
            answers.retain(|_, (end, _)| now < *end);
        }
        if answers.len() < MOST {
            answers.insert((name.to_owned(), family), (end, found.result.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn an_answer_holds_for_its_time_and_one_without_is_not_kept() {
        let (cache, now) = (Cache::default(), clock::now());
        let found = |ttl| Resolved { result: Err(ResolveCause::NxDomain), ttl };
        cache.put("a", Family::Any, &found(Some(10)), now);
        cache.put("b", Family::Any, &found(None), now);
        cache.put("c", Family::Any, &found(Some(0)), now);
        let after = |name, seconds| cache.get(name, Family::Any, now + Duration::from_secs(seconds));
        assert_eq!(after("a", 9), Some(Err(ResolveCause::NxDomain)));
        assert_eq!((after("a", 10), after("b", 0), after("c", 0)), (None, None, None));
        assert_eq!(cache.get("a", Family::V4, now), None);
    }
}

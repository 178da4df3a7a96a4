//! The inspections of a target in the last hour. Called by `inspect`.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use imaptrace_record::{ErrorType, Timestamp};

use crate::net::Chain;

/// Time between two inspections of a target for the same class of failure.
const PAUSE: Duration = Duration::from_secs(3600);

/// The last inspection for each class of failure: when it was begun, and its result.
#[derive(Debug, Default)]
pub(super) struct Inspections(Mutex<Entries>);

type Entries = HashMap<ErrorType, (Instant, Option<Arc<ChainFound>>)>;

#[derive(Debug)]
pub(super) struct ChainFound {
    pub(super) chain: Chain,
    pub(super) peer: SocketAddr,
    pub(super) at: Timestamp,
}

impl Inspections {
    /// The same times without results, for a target that has changed.
    pub(super) fn carried_over(&self) -> Self {
        Self(Mutex::new(self.lock().iter().map(|(class, (begun, _))| (*class, (*begun, None))).collect()))
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The result of the last hour. If none was begun in that time, one begins now, if it `may`.
    pub(super) fn claim(&self, class: ErrorType, now: Instant, may: bool) -> Claim {
        let mut entries = self.lock();
        match entries.get(&class) {
            Some((begun, found)) if now.saturating_duration_since(*begun) < PAUSE => Claim::Known(found.clone()),
            _ if !may => Claim::Known(None),
            _ => {
                entries.insert(class, (now, None));
                Claim::Begun
            }
        }
    }

    pub(super) fn end(&self, class: ErrorType, chain: &Arc<ChainFound>) {
        if let Some((_, found)) = self.lock().get_mut(&class) {
            *found = Some(Arc::clone(chain));
        }
    }
}

pub(super) enum Claim {
    Known(Option<Arc<ChainFound>>),
    Begun,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_class_is_due_again_after_an_hour_and_has_nothing_to_do_with_another() {
        let inspections = Inspections::default();
        let begin = clock::now();
        let claim = |class, after, may| matches!(inspections.claim(class, begin + after, may), Claim::Begun);
        let (expired, name) = (ErrorType::TlsCertExpired, ErrorType::TlsCertName);
        assert!(!claim(expired, Duration::ZERO, false), "a claim without time is none");
        assert!(claim(expired, Duration::ZERO, true));
        assert!(!claim(expired, Duration::from_secs(3599), true));
        assert!(claim(name, Duration::from_secs(3599), true));
        assert!(claim(expired, PAUSE, true));
        assert_eq!(inspections.lock().len(), 2);
    }
}

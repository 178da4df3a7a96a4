//! What inspections of one target found, and when. Kept for an hour; called by `inspect`.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use imaptrace_record::{ErrorType, Timestamp};

use crate::net::Chain;

/// For so long a target is not asked again for the same class of failure.
const PAUSE: Duration = Duration::from_secs(3600);

/// What inspections of one target found, and when.
#[derive(Debug, Default)]
pub(super) struct Inspections(Mutex<Vec<Inspection>>);

/// The last one for a class of failure. There are no more of them than classes of refused certificates.
#[derive(Debug, Clone)]
struct Inspection {
    class: ErrorType,
    begun: Instant,
    found: Option<Arc<ChainFound>>,
}

#[derive(Debug)]
pub(super) struct ChainFound {
    pub(super) chain: Chain,
    pub(super) peer: SocketAddr,
    pub(super) at: Timestamp,
}

impl Inspections {
    /// The same without what was found: when a target has changed it may mean something else, but is no younger.
    pub(super) fn carried_over(&self) -> Self {
        let forgotten = self.lock().iter().map(|known| Inspection { found: None, ..known.clone() }).collect();
        Self(Mutex::new(forgotten))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Inspection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was found within the last hour. Where none was begun in that time, one begins now, if it `may`.
    pub(super) fn claim(&self, class: ErrorType, now: Instant, may: bool) -> Claim {
        let mut all = self.lock();
        let is_due = |known: &Inspection| now.saturating_duration_since(known.begun) >= PAUSE;
        if let Some(known) = all.iter().find(|known| known.class == class && !is_due(known)) {
            return Claim::Known(known.found.clone());
        }
        if !may {
            return Claim::Known(None);
        }
        all.retain(|known| known.class != class);
        all.push(Inspection { class, begun: now, found: None });
        Claim::Begun
    }

    pub(super) fn end(&self, class: ErrorType, found: &Arc<ChainFound>) {
        if let Some(known) = self.lock().iter_mut().find(|known| known.class == class) {
            known.found = Some(Arc::clone(found));
        }
    }
}

/// What is known of a class of failure.
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

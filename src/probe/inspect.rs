//! One more connection after a run whose handshake was refused over a certificate that is not on record: TLS 1.3 encrypts it, and
//! the TLS library hands out no certificate of a handshake that failed.
//!
//! It is made when the run has ended and outside its times, to the address that the run spoke to, at most once an hour for
//! a target and a class of failure. It sends no credential, no client certificate, and no command but STARTTLS; what it
//! reads changes nothing about whether the run passed. What was read is kept for the runs of that hour that fail in the
//! same way at the same address. Called by `agent` and `cli`, which give the time that is left before the next run.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use imaptrace_imap::Secret;
use imaptrace_imap::{Command, Condition, Limits};
use imaptrace_record::{ErrorType, Run, SetupStep, SpanId, Timestamp};
use tokio::time::timeout_at;

use super::{Cancel, TargetContext, certificates, driver::Driver, redact::Redactor, wait::cancelled};
use crate::{
    clock::{self, Deadline},
    net::{self, Chain, ConnectOptions, StampedStream, TlsCause},
    plan::{Account, Security, TagStyle, Timing},
};

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
struct ChainFound {
    chain: Chain,
    peer: SocketAddr,
    at: Timestamp,
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
    fn claim(&self, class: ErrorType, now: Instant, may: bool) -> Claim {
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

    fn end(&self, class: ErrorType, found: &Arc<ChainFound>) {
        if let Some(known) = self.lock().iter_mut().find(|known| known.class == class) {
            known.found = Some(Arc::clone(found));
        }
    }
}

enum Claim {
    Known(Option<Arc<ChainFound>>),
    Begun,
}

/// Adds to a run that failed over a certificate what is not in its record, from a connection that is made for it, if need
/// be and if that takes no longer than `within`.
pub async fn inspect(
    run: &mut Run,
    (target, account, secret): (&TargetContext, &Account, Option<&Secret>),
    within: Duration,
    mut cancel: Cancel,
) {
    let Some((class, cause, peer)) = wanting(run) else { return };
    let now = clock::now();
    let may = within >= SHORTEST && !*cancel.borrow();
    let found = match target.inspections.claim(class, now, may) {
        Claim::Known(found) => found.filter(|found| found.peer == peer),
        Claim::Begun => {
            let deadline = Deadline::after(now, within.min(LONGEST));
            let looking = timeout_at(deadline.end().into(), Box::pin(look(target, peer, deadline, cancel.clone())));
            let chain = tokio::select! {
                biased;
                chain = looking => chain.ok().flatten(),
                () = cancelled(&mut cancel) => None,
            };
            let found = chain.map(|chain| Arc::new(ChainFound { chain, peer, at: Timestamp::from(clock::wall()) }));
            if let Some(found) = &found {
                target.inspections.end(class, found);
            }
            found
        }
    };
    if let Some(found) = found {
        describe(run, &found, cause, &Redactor::new(account, secret));
    }
}

/// A connection that has less time than this is not begun.
const SHORTEST: Duration = Duration::from_millis(250);
/// A server that takes longer than this is left.
const LONGEST: Duration = Duration::from_secs(5);

/// Whether a run failed over a certificate that is not on record: [`inspect`] may add it.
pub fn lacks_certificate(run: &Run) -> bool {
    wanting(run).is_some()
}

/// Whether a certificate was refused that is not on record, and where.
fn wanting(run: &Run) -> Option<(ErrorType, TlsCause, SocketAddr)> {
    let class = run.error_type?;
    let cause = match class {
        ErrorType::TlsCertExpired => TlsCause::Expired,
        ErrorType::TlsCertNotYetValid => TlsCause::NotYetValid,
        ErrorType::TlsCertName => TlsCause::Name,
        ErrorType::TlsCertUntrusted => TlsCause::Untrusted,
        ErrorType::TlsCertWeak => TlsCause::Weak,
        _ => return None,
    };
    let step = run.failing_step().filter(|step| step.name == SetupStep::Tls)?;
    let unseen = step.tls.as_ref().is_some_and(|facts| facts.sha256.is_none());
    unseen.then_some((class, cause, run.server.peer?))
}

/// Has the server show its certificates.
async fn look(context: &TargetContext, peer: SocketAddr, deadline: Deadline, cancel: Cancel) -> Option<Chain> {
    let target = context.target();
    let wire = StampedStream::default();
    // These times are not used.
    let timing = Timing { kernel_stamps: false, quickack: false };
    let options = ConnectOptions { source: target.source_address, proxy: target.proxy_protocol, timing, deadline };
    net::connect(&wire, &[peer], options).await.result.ok()?;
    if target.security == Security::StartTls {
        starttls(context, &wire, deadline, cancel).await?;
    }
    context.tls.inspect(&wire).await
}

/// Waits for the greeting and sends STARTTLS. None when the server does not agree, or says more than that.
async fn starttls(context: &TargetContext, wire: &StampedStream, deadline: Deadline, cancel: Cancel) -> Option<()> {
    let mut driver = Driver::new(wire.clone(), None, LIMITS, cancel);
    let (greeting, _) = driver.greeting(deadline).await.ok()?;
    if greeting.condition != Condition::Ok {
        return None;
    }
    let id = SpanId::random().to_string();
    let tag = match context.target().journey.tag {
        TagStyle::SpanId => id,
        TagStyle::Short => format!("T{}", id.get(..6).unwrap_or_default()),
    };
    let exchange = driver.exchange(&tag, &Command::StartTls, deadline, LONGEST).await;
    let agreed = exchange.result.ok()?.condition == Condition::Ok && !driver.has_unread();
    agreed.then_some(())
}

/// A greeting and an answer are short.
const LIMITS: Limits = Limits {
    line: 8 << 10,
    command_bytes: 64 << 10,
    session_bytes: 64 << 10,
    responses: 100,
    depth: 8,
    literal_kept: 0,
};

fn describe(run: &mut Run, found: &ChainFound, cause: TlsCause, redactor: &Redactor) {
    // A certificate that is believed by now is not the one that was refused.
    if found.chain.refused.as_ref().is_none_or(|refused| refused.cause != cause) {
        return;
    }
    let Some(name) = &run.failed_step else { return };
    let Some(step) = run.steps.iter_mut().rev().find(|step| step.name == *name) else { return };
    certificates::describe(step, &found.chain, cause, redactor);
    if let Some(facts) = &mut step.tls {
        facts.read_at = Some(found.at);
        run.server.certificate_not_after = facts.not_after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

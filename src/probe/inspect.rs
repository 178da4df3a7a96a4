//! One more connection after a run that refused a certificate of TLS 1.3, which the TLS library does not give out.
//!
//! It is made after the run and outside its times, to the run's address, at most once an hour for a target and a class of
//! failure. It sends no credential, no client certificate, and no command but STARTTLS, and does not change the run's outcome.
//! The result is kept for the runs of that hour that fail in the same way at the same address. Called by `agent` and `cli`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use imaptrace_imap::{Command, Condition, Limits, Secret};
use imaptrace_record::{ErrorType, Run, SetupStep, SpanId, Timestamp};
use tokio::time::timeout_at;

use super::{
    certificates,
    conversation::tag,
    driver::Driver,
    inspections::{ChainFound, Claim},
    job::Cancel,
    redact::Redactor,
    target_context::TargetContext,
    wait::cancelled,
};
use crate::{
    clock::{self, Deadline},
    net::{self, Chain, ConnectOptions, StampedStream, TlsCause},
    plan::{Account, Security, Timing},
};

/// Adds the certificates to a run that failed over one, from an earlier inspection, or a new one that ends `within` this time.
pub async fn inspect(
    run: &mut Run,
    (target, account, secret): (&TargetContext, &Account, Option<&Secret>),
    within: Duration,
    mut cancel: Cancel,
) {
    let Some((class, cause, peer)) = missing(run) else { return };
    let now = clock::now();
    let may = within >= SHORTEST && !*cancel.borrow();
    let found = match target.inspections.claim(class, now, may) {
        Claim::Known(found) => found.filter(|found| found.peer == peer),
        Claim::Begun => {
            let deadline = Deadline::after(now, within.min(LONGEST));
            let reading = timeout_at(deadline.end().into(), Box::pin(read(target, peer, deadline, cancel.clone())));
            let chain = tokio::select! {
                biased;
                chain = reading => chain.ok().flatten(),
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

/// With less time than this no connection is begun.
const SHORTEST: Duration = Duration::from_millis(250);
/// The longest inspection.
const LONGEST: Duration = Duration::from_secs(5);

/// Whether a run failed over a certificate that is not on record: [`inspect`] may add it.
pub fn lacks_certificate(run: &Run) -> bool {
    missing(run).is_some()
}

/// The refusal of a certificate that is not on record, and the server's address.
fn missing(run: &Run) -> Option<(ErrorType, TlsCause, SocketAddr)> {
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

/// Reads the server's certificates.
async fn read(context: &TargetContext, peer: SocketAddr, deadline: Deadline, cancel: Cancel) -> Option<Chain> {
    let target = context.target();
    let wire = StampedStream::default();
    let timing = Timing { kernel_stamps: false, quickack: false };
    let options = ConnectOptions { source: target.source_address, proxy: target.proxy_protocol, timing, deadline };
    net::connect(&wire, &[peer], options).await.result.ok()?;
    if target.security == Security::StartTls {
        starttls(context, &wire, deadline, cancel).await?;
    }
    context.tls.inspect(&wire).await
}

/// Waits for the greeting and sends STARTTLS. None if the server refuses, or sends anything behind its OK.
async fn starttls(context: &TargetContext, wire: &StampedStream, deadline: Deadline, cancel: Cancel) -> Option<()> {
    let mut driver = Driver::new(wire.clone(), None, LIMITS, cancel);
    let (greeting, _) = driver.greeting(deadline).await.ok()?;
    if greeting.condition != Condition::Ok {
        return None;
    }
    let tag = tag(context.target().journey.tag, Some(SpanId::random()));
    let exchange = driver.exchange(&tag, &Command::StartTls, deadline, LONGEST).await;
    (exchange.result.ok()?.condition == Condition::Ok && !driver.has_unread()).then_some(())
}

/// A greeting and a tagged line are short.
const LIMITS: Limits = Limits {
    line: 8 << 10,
    command_bytes: 64 << 10,
    session_bytes: 64 << 10,
    responses: 100,
    depth: 8,
    literal_kept: 0,
};

fn describe(run: &mut Run, found: &ChainFound, cause: TlsCause, redactor: &Redactor) {
    // A certificate that is trusted now is not the one that was refused.
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

//! What a run is compared with, as it is in the record. Called by the rules.

use imaptrace_record::{Run, Seconds, Step};

/// The usual time of a step.
pub(super) fn usual_step(step: &Step) -> Option<Seconds> {
    step.lower_baseline()
}

/// The usual First Loading Latency of the account.
pub(super) fn usual_latency(run: &Run) -> Option<Seconds> {
    run.lower_baseline()
}

/// What imaptrace usually takes between the steps: the usual latency less that of the steps.
pub(super) fn usual_pauses(run: &Run) -> Seconds {
    let steps = run.loading_steps().filter_map(usual_step).fold(Seconds::ZERO, Seconds::saturating_add);
    usual_latency(run).unwrap_or_default().saturating_sub(steps)
}

/// The usual round trip.
pub(super) fn usual_round_trip(run: &Run) -> Option<Seconds> {
    run.usual.as_ref()?.rtt_min_s
}

/// The usual number of messages in the mailbox.
pub(super) fn usual_messages(run: &Run) -> Option<u64> {
    run.usual.as_ref()?.messages
}

/// Whether the server's certificate is newer than the baselines.
pub(super) fn has_new_certificate(run: &Run) -> bool {
    run.usual.as_ref().is_some_and(|usual| usual.certificate_changed == Some(true))
}

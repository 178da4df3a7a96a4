//! Whether a run gets a verdict: it was slow, failed by a timeout or a limit, or pauses of imaptrace make its latency
//! doubtful. Called by `diagnose`.

use imaptrace_record::{ErrorType, Run, RunOutcome, Seconds};

use super::usual::{usual_latency, usual_pauses};

/// Whether the run gets a verdict.
pub(super) fn is_due(run: &Run) -> bool {
    match run.outcome {
        RunOutcome::Void => run.error_type.is_some_and(is_of_this_machine),
        RunOutcome::Failed => run.error_type.is_some_and(is_timeout) || run.error_type == Some(ErrorType::LimitServer),
        RunOutcome::Passed => {
            let slow = run.slow == Some(true) || run.steps.iter().any(|step| step.slow == Some(true));
            slow || run.is_latency_delayed() || is_doubtful(run)
        }
    }
}

/// Pauses between the steps of this many usual latencies make a latency doubtful in any case …
const MANY: u64 = 2;
/// … and those of three quarters of one, if they are at least this long.
const NOTICED: Seconds = Seconds::from_micros(75_000);

/// Whether what imaptrace took between the steps makes First Loading Latency doubtful.
fn is_doubtful(run: &Run) -> bool {
    let Some((pauses, usual)) = run.agent_s.zip(usual_latency(run)) else { return false };
    let pauses = pauses.saturating_sub(usual_pauses(run));
    let (pauses_us, usual_us) = (pauses.as_micros(), usual.as_micros());
    pauses_us >= usual_us.saturating_mul(MANY) || (pauses_us >= usual_us / 4 * 3 && pauses >= NOTICED)
}

fn is_timeout(class: ErrorType) -> bool {
    matches!(
        class,
        ErrorType::TimeoutResolve
            | ErrorType::TimeoutConnect
            | ErrorType::TimeoutTls
            | ErrorType::TimeoutGreeting
            | ErrorType::TimeoutCommand
            | ErrorType::TimeoutWrite
            | ErrorType::TimeoutRun
    )
}

/// Whether a void run was so by the machine of imaptrace, and not because it was stopped.
fn is_of_this_machine(class: ErrorType) -> bool {
    matches!(class, ErrorType::OverloadFd | ErrorType::OverloadPort | ErrorType::OverloadCpu | ErrorType::Suspended)
}

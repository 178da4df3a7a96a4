//! What each step of each account usually takes, and which step of a run was slow (docs/measurement.md).
//!
//! No clock, no input or output. `agent` keeps a [`History`] and saves it; [`share`] applies to runs of one-shot commands, too.
//!
//! ```text
//! slow_rule       when a time is slow
//! running_median  the median of the last 63 values
//! day_baseline    the median of the medians of 24 hours
//! baseline        both for one step, or for First Loading Latency
//! certificates    whether a certificate is newer than the baselines
//! usual           messages, round trip and certificate of an account
//! history         the series of all accounts; a run is compared with them
//!   saved         the history as lines of text
//! waits           which waits inside commands stay in a run's record
//! slow_period     the runs of an account from the first slow one to the first that is not
//! ```

mod baseline;
mod certificates;
mod day_baseline;
mod history;
mod running_median;
mod slow_period;
mod slow_rule;
mod usual;
mod waits;

use imaptrace_record::{Run, Seconds};

pub use self::{
    history::{HEAD, History, HistoryKey, Shift, UnknownFormat},
    slow_period::{BaselineMoved, SlowPeriod, SlowPeriodChange},
    slow_rule::Settings,
    waits::{keep_waits_of_longest, keep_waits_of_slow},
};

/// Sets the share of each step in First Loading Latency, if the run has one.
pub fn share(run: &mut Run) {
    let Some(all) = run.first_loading_latency_s.filter(|all| *all > Seconds::ZERO) else { return };
    let loading: Vec<_> = run.loading_steps().filter(|step| step.was_started()).map(|step| step.span_id).collect();
    for step in run.steps.iter_mut().filter(|step| loading.contains(&step.span_id)) {
        step.share = Some((step.duration_s.as_f64() / all.as_f64() * 1e4).round() / 1e4);
    }
}

#[cfg(test)]
mod tests;

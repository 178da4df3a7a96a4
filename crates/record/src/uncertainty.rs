//! When a time counts as uncertain: the one rule, for steps and runs, in the record and everywhere it is shown.
//!
//! How far off a time can be is found out by the probe.

use super::{Run, Seconds};

/// A figure that can be off by no more is good enough, whatever it is.
const LEAST: Seconds = Seconds::from_micros(1_000);
/// So is one that can be off by no more than this part of it: a twentieth is 5 %.
const PART: u64 = 20;
/// A run that our own pauses delayed by no more is as good as any.
const DELAY: Seconds = Seconds::from_micros(10_000);

impl Seconds {
    /// Whether a figure that can be off by this much is uncertain: by more than 1 ms, and by more than 5 % of it.
    pub fn is_uncertain_by(self, by: Self) -> bool {
        by > LEAST && by.as_micros().saturating_mul(PART) > self.as_micros()
    }
}

impl Seconds {
    /// Whether a run that took this long was delayed by so much that its time says little of the server: by more than 10 ms,
    /// and by more than 5 % of it.
    pub fn is_delayed_by(self, by: Self) -> bool {
        by > DELAY && self.is_uncertain_by(by)
    }
}

impl Run {
    /// First Loading Latency where it may be compared with others and held against limits: not of a run that our own pauses
    /// delayed.
    pub fn counted_latency(&self) -> Option<Seconds> {
        self.first_loading_latency_s.filter(|_| !self.is_latency_delayed())
    }

    /// Whether First Loading Latency (without one, the run's duration) is delayed itself: a pause that came when the mailbox was
    /// loaded, before LOGOUT or in it, makes the run longer and nothing else.
    pub fn is_latency_delayed(&self) -> bool {
        let Some(all) = self.delayed_s else { return false };
        let Some(latency) = self.first_loading_latency_s else { return true };
        let after = self.steps.iter().filter(|step| step.is_logout()).filter_map(|step| step.delayed_s);
        latency.is_delayed_by(after.fold(all, Seconds::saturating_sub))
    }

    /// Whether First Loading Latency (without one, the run's duration) is uncertain itself, and not only a step of the run.
    pub fn is_latency_uncertain(&self) -> bool {
        // Records of earlier versions do not say by how much, and for a run not whether it is a step's alone.
        let unknown = || self.loading_steps().all(|step| step.uncertainty_s.is_none());
        self.uncertain == Some(true) && (self.uncertainty_s.is_some() || unknown())
    }

    /// Whether imaptrace's own pauses between the steps are enough to make First Loading Latency uncertain. One of the
    /// reasons for [`Run::uncertain`]; the others stand on the steps.
    pub fn paused(&self) -> bool {
        self.agent_s.zip(self.first_loading_latency_s).is_some_and(|(agent, latency)| latency.is_uncertain_by(agent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_uncertain_past_a_twentieth_of_it_and_past_a_millisecond() {
        for (figure, by, expected) in [
            (100_000, 5_000, false),
            (100_000, 5_001, true),
            (2_000, 1_000, false),
            (2_000, 1_001, true),
            (0, 1_000, false),
            (0, 1_001, true),
            (20_020, 1_001, false),
            (20_019, 1_001, true),
            (u64::MAX, u64::MAX / 2, false),
        ] {
            let [figure, by] = [figure, by].map(Seconds::from_micros);
            assert_eq!(figure.is_uncertain_by(by), expected, "{figure:?} by {by:?}");
        }
    }
}

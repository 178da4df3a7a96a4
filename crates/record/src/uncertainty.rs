//! When a time counts as uncertain: the rule for steps and runs. `probe` computes the error bounds.

use super::{Run, Seconds};

/// An error bound up to this never makes a figure uncertain.
const LEAST: Seconds = Seconds::from_micros(1_000);
/// Nor does one up to this part of the figure: a twentieth is 5 %.
const PART: u64 = 20;
/// A delay by our own pauses up to this does not count.
const DELAY: Seconds = Seconds::from_micros(10_000);

impl Seconds {
    /// Whether a figure that can be off by this much is uncertain: by more than 1 ms, and by more than 5 % of it.
    pub fn is_uncertain_by(self, by: Self) -> bool {
        by > LEAST && by.as_micros().saturating_mul(PART) > self.as_micros()
    }

    /// Whether a run that took this long was delayed by too much to measure the server: by more than 10 ms, and by more than 5 %.
    pub fn is_delayed_by(self, by: Self) -> bool {
        by > DELAY && self.is_uncertain_by(by)
    }
}

impl Run {
    /// First Loading Latency if it may be compared with others and with limits: not that of a run that our own pauses delayed.
    pub fn counted_latency(&self) -> Option<Seconds> {
        self.first_loading_latency_s.filter(|_| !self.is_latency_delayed())
    }

    /// Whether First Loading Latency (without one, the run's duration) is delayed: not by a pause before or in LOGOUT.
    pub fn is_latency_delayed(&self) -> bool {
        let Some(all) = self.delayed_s else { return false };
        let Some(latency) = self.first_loading_latency_s else { return true };
        let after = self.steps.iter().filter(|step| step.is_logout()).filter_map(|step| step.delayed_s);
        latency.is_delayed_by(after.fold(all, Seconds::saturating_sub))
    }

    /// Whether First Loading Latency (without one, the run's duration) is uncertain itself, and not only a step of the run.
    pub fn is_latency_uncertain(&self) -> bool {
        // Records of earlier versions have no bounds, and do not distinguish a run from its steps.
        let unknown = || self.loading_steps().all(|step| step.uncertainty_s.is_none());
        self.uncertain == Some(true) && (self.uncertainty_s.is_some() || unknown())
    }

    /// Whether imaptrace's own pauses between the steps make First Loading Latency uncertain: a reason for [`Run::uncertain`].
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

    #[test]
    fn a_latency_is_uncertain_by_its_own_bound_or_in_a_record_without_any_bounds() {
        let bound = Some(Seconds::from_micros(7_000));
        for (uncertain, of_run, of_step, expected) in [
            (None, None, None, false),
            (None, bound, None, false),
            (Some(false), bound, None, false),
            (Some(true), None, None, true),
            (Some(true), bound, bound, true),
            (Some(true), None, bound, false),
        ] {
            let mut run: Run = serde_json::from_str(imaptrace_testkit::PASSED_RUN).unwrap();
            (run.uncertain, run.uncertainty_s) = (uncertain, of_run);
            for step in &mut run.steps {
                step.uncertainty_s = None;
            }
            run.steps[2].uncertainty_s = of_step;
            assert_eq!(run.is_latency_uncertain(), expected, "{uncertain:?} {of_run:?} {of_step:?}");
        }
    }

    #[test]
    fn pauses_between_the_steps_count_where_they_make_the_latency_uncertain() {
        for (agent, latency, expected) in [
            (Some(5_000), Some(100_000), false),
            (Some(5_001), Some(100_000), true),
            (Some(5_001), None, false),
            (None, Some(100_000), false),
        ] {
            let mut run: Run = serde_json::from_str(imaptrace_testkit::PASSED_RUN).unwrap();
            run.agent_s = agent.map(Seconds::from_micros);
            run.first_loading_latency_s = latency.map(Seconds::from_micros);
            assert_eq!(run.paused(), expected, "{agent:?} {latency:?}");
        }
    }

    #[test]
    fn a_latency_is_delayed_by_pauses_of_ours_before_logout() {
        let run = |delayed: Option<u64>, in_logout: Option<u64>| {
            let mut run: Run = serde_json::from_str(imaptrace_testkit::PASSED_RUN).unwrap();
            run.first_loading_latency_s = Some(Seconds::from_micros(100_000));
            run.delayed_s = delayed.map(Seconds::from_micros);
            for step in run.steps.iter_mut().filter(|step| step.is_logout()) {
                step.delayed_s = in_logout.map(Seconds::from_micros);
            }
            run
        };
        for (delayed, in_logout, expected) in [
            (None, None, false),
            (Some(1), None, false),
            (Some(10_000), None, false),
            (Some(10_001), None, true),
            (Some(90_000), None, true),
            (Some(90_000), Some(90_000), false),
            (Some(90_000), Some(80_000), false),
            (Some(90_000), Some(79_999), true),
        ] {
            let run = run(delayed, in_logout);
            assert_eq!(run.is_latency_delayed(), expected, "{delayed:?} {in_logout:?}");
            assert_eq!(run.counted_latency().is_none(), expected);
        }
        let without = Run { first_loading_latency_s: None, ..run(Some(1), None) };
        assert!(without.is_latency_delayed());
    }
}

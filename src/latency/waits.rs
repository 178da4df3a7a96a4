//! Which waits of a finished run stay in its record: those of commands that stand out.
//!
//! The probe notes the long waits of every command, since it has no history that shows which are slow. Called by `agent`
//! when the slow steps are marked, and by `cli` for a single run, which has no history.

use imaptrace_record::{Run, Step, StepOutcome};

/// Keeps the waits of the commands that failed or were slow, and drops the others.
pub fn keep_waits_of_slow(run: &mut Run) {
    keep(run, |step| step.slow == Some(true));
}

/// Keeps the waits of the commands that failed, and of the one that took longest for First Loading Latency, and drops the others.
pub fn keep_waits_of_longest(run: &mut Run) {
    let commands = run.loading_steps().filter(|step| step.is_command() && step.was_started());
    let longest = commands.max_by_key(|step| step.duration_s).and_then(|step| step.span_id);
    keep(run, |step| step.span_id == longest);
}

fn keep(run: &mut Run, stands_out: impl Fn(&Step) -> bool) {
    for step in &mut run.steps {
        if step.outcome != StepOutcome::Failed && !stands_out(step) {
            step.waits = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use imaptrace_record::{Seconds, ServerWait, SpanId};

    use super::*;

    /// A run whose commands all have a wait.
    fn run() -> Run {
        let mut run: Run = serde_json::from_str(imaptrace_testkit::PASSED_RUN).unwrap();
        for step in run.steps.iter_mut().filter(|step| step.is_command()) {
            let (start_s, duration_s) = (step.start_s, Seconds::from_micros(10_000));
            step.slow = None;
            step.waits = vec![ServerWait { span_id: SpanId::random(), start_s, duration_s, server_s: duration_s }];
        }
        run
    }

    fn kept(run: &Run) -> Vec<&str> {
        run.steps.iter().filter(|step| !step.waits.is_empty()).map(|step| step.name.as_str()).collect()
    }

    fn step<'a>(run: &'a mut Run, name: &str) -> &'a mut Step {
        run.steps.iter_mut().find(|step| step.name == name).unwrap()
    }

    #[test]
    fn a_run_without_a_slow_or_failed_command_keeps_no_wait() {
        let mut quiet = run();
        keep_waits_of_slow(&mut quiet);
        assert_eq!(kept(&quiet), Vec::<&str>::new());
        let mut some = run();
        step(&mut some, "SELECT").slow = Some(true);
        step(&mut some, "LOGOUT").outcome = StepOutcome::Failed;
        keep_waits_of_slow(&mut some);
        assert_eq!(kept(&some), ["SELECT", "LOGOUT"]);
    }

    #[test]
    fn a_single_run_keeps_those_of_the_command_that_took_longest_and_of_one_that_failed() {
        let mut single = run();
        keep_waits_of_longest(&mut single);
        assert_eq!(kept(&single), ["FETCH"]);
        let mut failed = run();
        // No user waits for LOGOUT, and a handshake is no command.
        step(&mut failed, "LOGOUT").duration_s = Seconds::from_micros(9_000_000);
        step(&mut failed, "tls").duration_s = Seconds::from_micros(9_000_000);
        step(&mut failed, "LOGIN").outcome = StepOutcome::Failed;
        keep_waits_of_longest(&mut failed);
        assert_eq!(kept(&failed), ["LOGIN", "FETCH"]);
    }
}

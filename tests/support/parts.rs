//! The three parts of a command's duration, for tests of where the time went.

use imaptrace_record::{Run, Seconds, Step};

/// A number of milliseconds.
pub fn ms(millis: u64) -> Seconds {
    Seconds::from_micros(millis * 1_000)
}

/// What tests ask of a command's step.
pub trait Parts {
    /// Server, network, transfer.
    fn parts(&self) -> [Seconds; 3];
}

impl Parts for Step {
    fn parts(&self) -> [Seconds; 3] {
        [self.server_s, self.network_s, self.transfer_s]
            .map(|part| part.unwrap_or_else(|| panic!("{} is not split", self.name)))
    }
}

/// The run's commands, in order.
pub fn commands(run: &Run) -> impl Iterator<Item = &Step> {
    run.steps.iter().filter(|step| step.is_command() && step.was_started())
}

/// The command of this name.
pub fn command<'a>(run: &'a Run, name: &str) -> &'a Step {
    commands(run).find(|step| step.name == name).unwrap_or_else(|| panic!("no {name}: {}", details(run)))
}

/// The run's commands and their parts in one line, for a test that fails.
pub fn details(run: &Run) -> String {
    commands(run)
        .map(|step| {
            let [server, network, transfer] = step.parts().map(|part| part.as_f64() * 1e3);
            let doubt = if step.uncertain == Some(true) { "?" } else { "" };
            format!("{}{doubt} {server:.3} + {network:.3} + {transfer:.3} ms", step.name)
        })
        .collect::<Vec<_>>()
        .join(", ")
}

/// The parts of every command add up to its duration, to the microsecond.
pub fn add_up(run: &Run) {
    for step in commands(run) {
        let sum = step.parts().into_iter().fold(Seconds::ZERO, Seconds::saturating_add);
        assert_eq!(sum, step.duration_s, "{}: {}", step.name, details(run));
    }
}

/// The middle one.
pub fn median(mut values: Vec<Seconds>) -> Seconds {
    values.sort();
    values[values.len() / 2]
}

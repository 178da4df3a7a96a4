//! What `probe` prints when its runs have ended: a summary, or a plug-in's line. Neither takes more memory for more runs.

use std::time::Duration;

use imaptrace_record::{Run, RunOutcome, Seconds};

use super::{
    args::{OutputFormat, ProbeArgs},
    exit_code::{FAILED, PASSED},
    output::Output,
};
use crate::terminal::{self, Nagios, Style, Summary, Thresholds};

/// What is kept of runs until all have ended: nothing where each was printed in JSON, or the only one was.
pub(super) enum Conclusion {
    Nothing,
    Nagios(Box<Nagios>),
    /// With the last void run, to be drawn if there is no other.
    Text(Box<Summary>, Option<Box<Run>>),
}

impl Conclusion {
    pub(super) fn new(args: &ProbeArgs, several: bool) -> Self {
        match args.output {
            OutputFormat::Nagios => {
                let seconds = |limit: Option<f64>| limit.map(|limit| Seconds::from(Duration::from_secs_f64(limit)));
                let limits = Thresholds { warning: seconds(args.warning), critical: seconds(args.critical) };
                Self::Nagios(Box::new(Nagios::new(limits)))
            }
            OutputFormat::Text if several => Self::Text(Box::default(), None),
            OutputFormat::Text | OutputFormat::Json => Self::Nothing,
        }
    }

    pub(super) fn add(&mut self, run: &Run, style: Style) {
        match self {
            Self::Nothing => {}
            Self::Nagios(nagios) => nagios.add(run),
            Self::Text(summary, void) => {
                summary.add(run, style);
                if run.outcome == RunOutcome::Void {
                    *void = Some(Box::new(run.clone()));
                }
            }
        }
    }

    /// What is shown when all runs have ended, and the exit code.
    pub(super) fn conclude(&self, passed: bool, output: &mut Output) -> u8 {
        match self {
            Self::Nothing => {}
            Self::Nagios(nagios) => {
                let (text, code) = nagios.conclude();
                output.print(&text);
                return code;
            }
            Self::Text(summary, void) => {
                // Who ends the first run, which hangs, wants to see where it hung.
                if let Some(drawn) = summary.slowest().or(void.as_deref()) {
                    output.print(&format!("\n{}", terminal::waterfall(drawn, output.style())));
                }
                if summary.runs() > 1 {
                    output.print(&format!("\n{}", summary.text(output.style())));
                }
            }
        }
        if passed { PASSED } else { FAILED }
    }
}

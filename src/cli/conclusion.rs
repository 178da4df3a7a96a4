//! What `probe` prints when its runs have ended: a summary, or a plug-in's line, in memory that does not grow with the runs.

use std::time::Duration;

use imaptrace_record::{Run, RunOutcome, Seconds};

use super::{
    args::{OutputFormat, ProbeArgs},
    exit_code::{FAILED, PASSED},
    output::Output,
};
use crate::terminal::{self, Nagios, Style, Summary};

/// What is kept of runs until all have ended. Nothing of runs in JSON, or of a single one, which are printed as they end.
pub(super) enum Conclusion {
    Nothing,
    Nagios(Box<Nagios>),
    /// With the last void run, which is drawn if there is no other.
    Text(Box<Summary>, Option<Box<Run>>),
}

impl Conclusion {
    pub(super) fn new(args: &ProbeArgs, several: bool) -> Self {
        match args.output {
            OutputFormat::Nagios => {
                let seconds = |limit: Option<f64>| limit.map(|limit| Seconds::from(Duration::from_secs_f64(limit)));
                Self::Nagios(Box::new(Nagios::new(seconds(args.warning), seconds(args.critical))))
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

    /// Prints it when all runs have ended, and returns the exit code.
    pub(super) fn conclude(&self, passed: bool, output: &mut Output) -> u8 {
        match self {
            Self::Nothing => {}
            Self::Nagios(nagios) => {
                let (text, code) = nagios.conclude();
                output.print(&text);
                return code;
            }
            Self::Text(summary, void) => {
                // A first run that hangs and is stopped is void: its waterfall shows where it hung.
                if let Some(drawn) = summary.slowest.as_ref().or(void.as_deref()) {
                    output.print(&format!("\n{}", terminal::waterfall(drawn, output.style)));
                }
                if summary.runs > 1 {
                    output.print(&format!("\n{}", summary.text(output.style)));
                }
            }
        }
        if passed { PASSED } else { FAILED }
    }
}

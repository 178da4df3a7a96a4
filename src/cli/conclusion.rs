//! What `probe` prints when its runs have ended: a summary, or a plug-in's line, in memory that does not grow with the runs.

use std::time::Duration;

use imaptrace_record::{Run, Seconds};

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
    Text(Box<Summary>),
}

impl Conclusion {
    pub(super) fn new(args: &ProbeArgs, several: bool) -> Self {
        match args.output {
            OutputFormat::Nagios => {
                let seconds = |limit: Option<f64>| limit.map(|limit| Seconds::from(Duration::from_secs_f64(limit)));
                Self::Nagios(Box::new(Nagios::new(seconds(args.warning), seconds(args.critical))))
            }
            OutputFormat::Text if several => Self::Text(Box::default()),
            OutputFormat::Text | OutputFormat::Json => Self::Nothing,
        }
    }

    pub(super) fn add(&mut self, run: &Run, style: Style) {
        match self {
            Self::Nothing => {}
            Self::Nagios(nagios) => nagios.add(run),
            Self::Text(summary) => summary.add(run, style),
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
            Self::Text(summary) => {
                // A first run that hangs and is stopped is void: its waterfall shows where it hung.
                if let Some(drawn) = summary.slowest.as_ref().or(summary.void_run.as_ref()) {
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

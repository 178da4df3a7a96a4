//! One remembered run, in 40 bytes.

use std::time::{Duration, SystemTime};

use imaptrace_imap::{CommandName, ResponseCode};
use imaptrace_record::{AddressFamily, ErrorType, Run, RunOutcome, Seconds, SetupStep, StepName, Timestamp, TraceId};

/// The parts of a run that `/status.json` shows.
#[derive(Debug, Clone, Copy)]
pub(super) struct CompactRun {
    /// Microseconds since the epoch.
    started: u64,
    trace_id: [u8; 16],
    /// Microseconds. [`ABSENT`] when there is none.
    latency: u32,
    duration: u32,
    pub(super) outcome: RunOutcome,
    pub(super) error_type: Option<ErrorType>,
    pub(super) failed_step: Option<CompactStep>,
    pub(super) code: Option<ResponseCode>,
    pub(super) slowest_step: Option<CompactStep>,
    flags: u8,
}

/// No duration. One of more than 71 minutes is shown as 71 minutes.
const ABSENT: u32 = u32::MAX;

pub(super) const SLOW: u8 = 1;
pub(super) const UNCERTAIN: u8 = 2;
pub(super) const BACKOFF: u8 = 4;
const IPV4: u8 = 8;
const IPV6: u8 = 16;

impl CompactRun {
    pub(super) fn of(run: &Run) -> Self {
        let mut flags = 0;
        for (flag, set) in [
            (SLOW, run.slow == Some(true)),
            (UNCERTAIN, run.uncertain == Some(true)),
            (BACKOFF, run.auth_backoff == Some(true)),
            (IPV4, run.family == Some(AddressFamily::Ipv4)),
            (IPV6, run.family == Some(AddressFamily::Ipv6)),
        ] {
            flags |= if set { flag } else { 0 };
        }
        let code = run.failing_step().and_then(|step| step.code);
        Self {
            started: u64::try_from(since_epoch(run.started_at).as_micros()).unwrap_or(u64::MAX),
            trace_id: run.trace_id.to_bytes(),
            latency: run.first_loading_latency_s.map_or(ABSENT, micros),
            duration: micros(run.duration_s),
            outcome: run.outcome,
            error_type: run.error_type,
            failed_step: run.failed_step.as_ref().map(CompactStep::of),
            code,
            slowest_step: run.slowest_step.as_ref().map(CompactStep::of),
            flags,
        }
    }

    pub(super) fn trace_id(&self) -> Option<TraceId> {
        TraceId::from_bytes(self.trace_id)
    }

    pub(super) fn started_at(&self) -> Timestamp {
        (SystemTime::UNIX_EPOCH + Duration::from_micros(self.started)).into()
    }

    pub(super) fn first_loading_latency(&self) -> Option<Seconds> {
        (self.latency != ABSENT).then(|| Seconds::from_micros(self.latency.into()))
    }

    pub(super) fn duration(&self) -> Seconds {
        Seconds::from_micros(self.duration.into())
    }

    /// True or absent.
    pub(super) fn has(&self, flag: u8) -> Option<bool> {
        (self.flags & flag != 0).then_some(true)
    }

    pub(super) fn family(&self) -> Option<AddressFamily> {
        match self.flags & (IPV4 | IPV6) {
            IPV4 => Some(AddressFamily::Ipv4),
            IPV6 => Some(AddressFamily::Ipv6),
            _ => None,
        }
    }
}

/// The time since the epoch; zero for a time before it.
pub(super) fn since_epoch(at: Timestamp) -> Duration {
    at.to_system_time().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn micros(seconds: Seconds) -> u32 {
    u32::try_from(seconds.as_micros()).unwrap_or(ABSENT).min(ABSENT - 1)
}

/// The name of a step, in two bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CompactStep {
    Setup(SetupStep),
    Command(CommandName),
    /// A name unknown to this version.
    Other,
}

impl CompactStep {
    fn of(name: &StepName) -> Self {
        match name {
            StepName::Setup(step) => Self::Setup(*step),
            StepName::Command(command) => Self::Command(*command),
            StepName::Other(_) => Self::Other,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Setup(step) => step.as_str(),
            Self::Command(command) => command.as_str(),
            Self::Other => "_OTHER",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compact_run_has_the_documented_size() {
        assert_eq!(size_of::<CompactRun>(), 40);
    }

    #[test]
    fn a_duration_that_does_not_fit_is_shown_as_the_longest_and_never_as_none() {
        assert_eq!(micros(Seconds::from_micros(u64::from(u32::MAX))), ABSENT - 1);
        assert_eq!(micros(Seconds::from_micros(u64::MAX)), ABSENT - 1);
    }
}

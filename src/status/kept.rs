//! One run as the board keeps it: 40 bytes, whatever the run had to say.

use std::time::{Duration, SystemTime};

use imaptrace_record::{ErrorType, Run, RunOutcome, Seconds, Timestamp, TraceId};

/// What is kept of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    /// Microseconds since the epoch.
    started: u64,
    trace_id: [u8; 16],
    /// Microseconds. [`ABSENT`] when there is none.
    latency: u32,
    duration: u32,
    pub(super) outcome: RunOutcome,
    pub(super) error_type: Option<ErrorType>,
    pub(super) failed_step: Word,
    pub(super) code: Word,
    pub(super) slowest_step: Word,
    flags: u8,
}

/// A duration that does not apply. One that takes longer than 71 minutes is told as that.
const ABSENT: u32 = u32::MAX;

const SLOW: u8 = 1;
const UNCERTAIN: u8 = 2;
const BACKOFF: u8 = 4;
const IPV4: u8 = 8;
const IPV6: u8 = 16;

impl Kept {
    pub(super) fn of(run: &Run, words: &mut Words) -> Self {
        let mut flags = 0;
        for (flag, set) in [
            (SLOW, run.slow == Some(true)),
            (UNCERTAIN, run.uncertain == Some(true)),
            (BACKOFF, run.auth_backoff == Some(true)),
            (IPV4, run.family.as_deref() == Some("ipv4")),
            (IPV6, run.family.as_deref() == Some("ipv6")),
        ] {
            flags |= if set { flag } else { 0 };
        }
        let code = run.failing_step().and_then(|step| step.code.as_deref());
        Self {
            started: u64::try_from(since_epoch(run.started_at).as_micros()).unwrap_or(u64::MAX),
            trace_id: run.trace_id.to_bytes(),
            latency: run.first_loading_latency_s.map_or(ABSENT, micros),
            duration: micros(run.duration_s),
            outcome: run.outcome,
            error_type: run.error_type,
            failed_step: words.word(run.failed_step.as_deref()),
            code: words.word(code),
            slowest_step: words.word(run.slowest_step.as_deref()),
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

    pub(super) fn is_slow(&self) -> bool {
        self.flags & SLOW != 0
    }

    pub(super) fn is_uncertain(&self) -> bool {
        self.flags & UNCERTAIN != 0
    }

    pub(super) fn was_held_back(&self) -> bool {
        self.flags & BACKOFF != 0
    }

    pub(super) fn family(&self) -> Option<&'static str> {
        match self.flags & (IPV4 | IPV6) {
            IPV4 => Some("ipv4"),
            IPV6 => Some("ipv6"),
            _ => None,
        }
    }
}

/// Since the epoch; what lies before it is the epoch.
pub(super) fn since_epoch(at: Timestamp) -> Duration {
    at.to_system_time().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn micros(seconds: Seconds) -> u32 {
    u32::try_from(seconds.as_micros()).unwrap_or(ABSENT).min(ABSENT - 1)
}

/// The names of steps and response codes that were met: closed lists, so each is kept once and known by its number.
#[derive(Default)]
pub(super) struct Words(Vec<Box<str>>);

/// The number of a word. 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word(u8);

/// What every further word becomes when there are too many, which closed lists never come to.
const OTHER: &str = "_OTHER";

impl Words {
    fn word(&mut self, text: Option<&str>) -> Word {
        let Some(text) = text else { return Word(0) };
        let known = self.0.iter().position(|word| **word == *text).unwrap_or_else(|| {
            let last = usize::from(u8::MAX) - 1;
            if self.0.len() <= last {
                self.0.push(if self.0.len() == last { OTHER } else { text }.into());
            }
            self.0.len() - 1
        });
        Word(u8::try_from(known + 1).unwrap_or(u8::MAX))
    }

    pub(super) fn text(&self, word: Word) -> Option<&str> {
        self.0.get(usize::from(word.0).checked_sub(1)?).map(AsRef::as_ref)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_run_has_the_size_that_the_page_of_operations_tells() {
        assert_eq!(size_of::<Kept>(), 40);
    }

    #[test]
    fn words_keep_their_numbers_and_too_many_become_one() {
        let mut words = Words::default();
        let (fetch, none) = (words.word(Some("FETCH")), words.word(None));
        let many: Vec<_> = (0..300).map(|number| words.word(Some(&format!("W{number}")))).collect();
        assert_eq!((words.text(fetch), words.text(none)), (Some("FETCH"), None));
        assert_eq!(words.word(Some("FETCH")), fetch);
        assert_eq!(words.text(many[200]), Some("W200"));
        assert_eq!(words.text(many[299]), Some(OTHER));
        assert_eq!(words.0.len(), 255);
    }

    #[test]
    fn a_duration_that_does_not_fit_is_told_as_the_longest_and_never_as_none() {
        assert_eq!(micros(Seconds::from_micros(u64::from(u32::MAX))), ABSENT - 1);
        assert_eq!(micros(Seconds::from_micros(u64::MAX)), ABSENT - 1);
    }
}

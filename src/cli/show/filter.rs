//! Which runs are shown: by target, account, trace id, outcome and time.
//!
//! Reads no clock: the present is an argument. Used by [`selection`](super::selection).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use imaptrace_record::{Run, RunOutcome, Timestamp};

use crate::{cli::args::ShowArgs, config::units, plan::Glob};

const DAY: u64 = 24 * 3600;

/// What a run has to be to be shown.
#[derive(Debug, Default)]
pub(super) struct RunFilter {
    targets: Vec<Glob>,
    accounts: Vec<Glob>,
    /// The first digits of trace ids.
    pub(super) trace_ids: Vec<String>,
    slow: bool,
    failed: bool,
    pub(super) since: Option<SystemTime>,
    until: Option<SystemTime>,
}

impl RunFilter {
    pub(super) fn new(args: &ShowArgs, now: SystemTime) -> Result<Self, String> {
        let globs = |texts: &[String]| texts.iter().map(|text| Glob::new(text)).collect();
        let time = |flag: &str, text: &Option<String>| {
            let text = text.as_deref();
            text.map(|text| time(text, now).map_err(|problem| format!("error: {flag}: {problem}"))).transpose()
        };
        let (since, until) = (time("--since", &args.since)?, time("--until", &args.until)?);
        if since.is_some_and(|since| until.is_some_and(|until| until <= since)) {
            return Err(
                "error: --until: it is not after --since, so no run is between them\n  help: give --until the \
                        later of the two"
                    .to_owned(),
            );
        }
        Ok(Self {
            targets: globs(&args.target),
            accounts: globs(&args.account),
            trace_ids: args.trace_id.clone(),
            slow: args.slow,
            failed: args.failed,
            since,
            until,
        })
    }

    /// Whether a run is shown.
    pub(super) fn matches(&self, run: &Run) -> bool {
        let one_of =
            |patterns: &[Glob], text: &str| patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(text));
        let kind = !(self.slow || self.failed)
            || (self.slow && run.slow == Some(true))
            || (self.failed && run.outcome != RunOutcome::Passed);
        let at = run.started_at.to_system_time();
        kind && self.since.is_none_or(|since| at >= since)
            && self.until.is_none_or(|until| at < until)
            && one_of(&self.targets, &run.target)
            && one_of(&self.accounts, &run.account)
            && (self.trace_ids.is_empty() || self.trace_id_of(run).is_some())
    }

    /// The index of the trace id that is the run's.
    pub(super) fn trace_id_of(&self, run: &Run) -> Option<usize> {
        let id = run.trace_id.to_string();
        self.trace_ids.iter().position(|digits| id.starts_with(digits))
    }
}

/// A time before now, a time of day in UTC, or a point in time.
fn time(text: &str, now: SystemTime) -> Result<SystemTime, String> {
    if let Ok(before) = units::parse_duration(text) {
        return now
            .checked_sub(before)
            .ok_or_else(|| "it is longer ago than any run can be: give a shorter time, such as 2h".to_owned());
    }
    if let Some(of_day) = time_of_day(text) {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let today = now - now % DAY + of_day;
        let last = if today > now { today.saturating_sub(DAY) } else { today };
        return Ok(UNIX_EPOCH + Duration::from_secs(last));
    }
    let point = serde_json::from_value::<Timestamp>(text.into()).map(Timestamp::to_system_time);
    point.map_err(|_| {
        "expected a time before now, such as 2h, a time of day in UTC, such as 03:10, or a point in time, such as \
         2026-11-30T03:10:00Z"
            .to_owned()
    })
}

/// `HH:MM` or `HH:MM:SS`, in seconds.
fn time_of_day(text: &str) -> Option<u64> {
    let parts: Vec<_> = text.split(':').collect();
    let number = |part: &str, most: u64| -> Option<u64> {
        let is_number = part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_digit());
        part.parse().ok().filter(|number| is_number && *number <= most)
    };
    match parts[..] {
        [hours, minutes] => Some(number(hours, 23)? * 3600 + number(minutes, 59)? * 60),
        [hours, minutes, seconds] => Some(number(hours, 23)? * 3600 + number(minutes, 59)? * 60 + number(seconds, 59)?),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn run() -> Run {
        serde_json::from_str(imaptrace_testkit::PASSED_RUN).unwrap()
    }

    #[test]
    fn a_time_is_before_now_or_of_the_day_or_a_point() {
        // 2026-11-30T03:20:00Z
        let now = at(1_796_008_800);
        for (text, expected) in [
            ("20m", 1_796_007_600),
            ("2h", 1_796_001_600),
            ("03:10", 1_796_008_200),
            ("03:20:00", 1_796_008_800),
            // Yesterday's: today's is to come.
            ("03:20:01", 1_796_008_801 - DAY),
            ("23:59", 1_795_996_740),
            ("2026-11-30T03:10:00Z", 1_796_008_200),
            ("2026-11-30T04:10:00+01:00", 1_796_008_200),
        ] {
            assert_eq!(time(text, now), Ok(at(expected)), "{text}");
        }
        for text in ["", "soon", "3:10", "24:00", "03:60", "2026-11-30", "-2h", "1:2:3:4", "+3:10", "999999999h"] {
            assert!(time(text, now).is_err(), "{text}");
        }
    }

    #[test]
    fn slow_and_failed_together_are_either_and_all_others_are_both() {
        let passed = Run { slow: None, ..run() };
        let slow = Run { slow: Some(true), ..run() };
        let failed: Run = serde_json::from_str(imaptrace_testkit::FAILED_RUN).unwrap();
        let matched = |filter: &RunFilter| [&passed, &slow, &failed].map(|run| filter.matches(run));
        assert_eq!(matched(&RunFilter::default()), [true, true, true]);
        assert_eq!(matched(&RunFilter { slow: true, ..RunFilter::default() }), [false, true, false]);
        assert_eq!(matched(&RunFilter { failed: true, ..RunFilter::default() }), [false, false, true]);
        let either = RunFilter { failed: true, slow: true, ..RunFilter::default() };
        assert_eq!(matched(&either), [false, true, true]);
        let target = RunFilter { targets: vec![Glob::new("none"), Glob::new(&failed.target)], ..either };
        assert!(target.matches(&failed));
        let account = RunFilter { accounts: vec![Glob::new("none")], ..target };
        assert!(!account.matches(&failed));
    }

    #[test]
    fn a_trace_id_is_found_by_its_first_digits_and_times_are_from_and_before() {
        let run = run();
        let id = run.trace_id.to_string();
        let by =
            |digits: &str| RunFilter { trace_ids: vec!["0000".to_owned(), digits.to_owned()], ..RunFilter::default() };
        assert_eq!(by(id.get(..4).unwrap()).trace_id_of(&run), Some(1));
        assert!(by(&id).matches(&run) && !by(id.get(1..8).unwrap()).matches(&run));
        let at = run.started_at.to_system_time();
        let time = |since: i64, until: i64| {
            let moved = |by: i64| {
                Some(if by < 0 { at - Duration::from_secs(1) } else { at + Duration::from_secs(by.unsigned_abs()) })
            };
            RunFilter { since: moved(since), until: moved(until), ..RunFilter::default() }.matches(&run)
        };
        assert!(time(0, 1) && time(-1, 1) && !time(1, 1) && !time(-1, 0));
    }
}

//! Maintenance windows: times at which targets are not probed.
//!
//! The time is an argument: nothing here reads a clock. Made by `config`, read by `agent` for `schedule`.

use std::{collections::BTreeMap, time::SystemTime};

use jiff::{
    Timestamp,
    civil::{Time, Weekday},
    tz::TimeZone,
};

use super::Target;

/// A maintenance window: when, and for which targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maintenance {
    /// Its name in the log.
    pub name: String,
    /// The times.
    pub hours: Hours,
    /// The targets.
    pub scope: Scope,
}

/// The times of a maintenance window. The end is exclusive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hours {
    /// Weekly, in the local time of a zone: an hour that daylight saving time skips has no window, one that it repeats has it
    /// twice.
    Weekly {
        /// Days on which it begins, at least one.
        days: Vec<Weekday>,
        /// Beginning.
        from: Time,
        /// End; on the next day when it is not later than the beginning. None is the end of the day.
        to: Option<Time>,
        /// The time zone.
        zone: TimeZone,
    },
    /// Once.
    Once {
        /// Beginning.
        from: Timestamp,
        /// End, later than the beginning.
        to: Timestamp,
    },
}

impl Hours {
    /// Whether the window is open at this time.
    pub fn contain(&self, at: SystemTime) -> bool {
        let Ok(at) = Timestamp::try_from(at) else { return false };
        match self {
            Self::Once { from, to } => (*from..*to).contains(&at),
            Self::Weekly { days, from, to, zone } => {
                let local = zone.to_datetime(at);
                let (time, today) = (local.time(), local.date().weekday());
                let begins = |day: Weekday| days.contains(&day);
                match *to {
                    None => begins(today) && time >= *from,
                    Some(to) if to > *from => begins(today) && (*from..to).contains(&time),
                    Some(to) => (begins(today) && time >= *from) || (begins(today.previous()) && time < to),
                }
            }
        }
    }
}

/// A set of targets: those that match every list here that is not empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scope {
    /// Names of targets; one must match.
    pub targets: Vec<Glob>,
    /// Names of groups; one must be the target's.
    pub groups: Vec<String>,
    /// Labels; the target must have all.
    pub labels: BTreeMap<String, Glob>,
}

impl Scope {
    /// Whether the target is in the set.
    pub fn contains(&self, target: &Target) -> bool {
        let group = |known: &String| target.group.as_ref() == Some(known);
        let label = |(key, value): (&String, &Glob)| target.labels.get(key).is_some_and(|found| value.matches(found));
        (self.targets.is_empty() || self.targets.iter().any(|glob| glob.matches(&target.name)))
            && (self.groups.is_empty() || self.groups.iter().any(group))
            && self.labels.iter().all(label)
    }
}

impl Maintenance {
    /// Whether the target is in maintenance at this time.
    pub fn covers(&self, target: &Target, at: SystemTime) -> bool {
        self.hours.contain(at) && self.scope.contains(target)
    }
}

/// A pattern in which each `*` matches any text, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    /// Any text is valid.
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The text as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the pattern matches the whole of `text`.
    pub fn matches(&self, text: &str) -> bool {
        let Some((first, rest)) = self.0.split_once('*') else { return self.0 == text };
        let Some(mut left) = text.strip_prefix(first) else { return false };
        // A part between two stars is matched at its first occurrence: this leaves the most for the parts that follow.
        let (between, last) = rest.rsplit_once('*').map_or(("", rest), |(between, last)| (between, last));
        for part in between.split('*') {
            match left.split_once(part) {
                Some((_, behind)) => left = behind,
                None => return false,
            }
        }
        left.ends_with(last)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::civil::time;

    use super::*;

    fn at(text: &str) -> SystemTime {
        SystemTime::try_from(text.parse::<Timestamp>().unwrap()).unwrap()
    }

    fn weekly(days: &[Weekday], from: Time, to: Option<Time>, zone: &str) -> Hours {
        Hours::Weekly { days: days.to_vec(), from, to, zone: TimeZone::get(zone).unwrap() }
    }

    const ALL: [Weekday; 7] = [
        Weekday::Monday,
        Weekday::Tuesday,
        Weekday::Wednesday,
        Weekday::Thursday,
        Weekday::Friday,
        Weekday::Saturday,
        Weekday::Sunday,
    ];

    #[test]
    fn a_window_of_one_day_begins_on_the_minute_and_ends_before_the_minute() {
        // 2026-11-28 is a Saturday.
        let hours = weekly(&[Weekday::Saturday], time(2, 0, 0, 0), Some(time(4, 30, 0, 0)), "UTC");
        assert!(!hours.contain(at("2026-11-28T01:59:59.999Z")));
        assert!(hours.contain(at("2026-11-28T02:00:00Z")));
        assert!(hours.contain(at("2026-11-28T04:29:59.999Z")));
        assert!(!hours.contain(at("2026-11-28T04:30:00Z")));
        assert!(!hours.contain(at("2026-11-29T03:00:00Z")));
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
        let hours = weekly(&[Weekday::Sunday], time(22, 0, 0, 0), Some(time(6, 0, 0, 0)), "UTC");
        for (moment, expected) in [
            ("2026-11-29T05:00:00Z", false),
            ("2026-11-29T21:59:59Z", false),
            ("2026-11-29T22:00:00Z", true),
            ("2026-11-30T05:59:59Z", true),
            ("2026-11-30T06:00:00Z", false),
            ("2026-11-30T23:00:00Z", false),
        ] {
            assert_eq!(hours.contain(at(moment)), expected, "{moment}");
        }
    }

    #[test]
    fn a_whole_day_ends_with_the_day_of_its_own_zone() {
        let hours = weekly(&[Weekday::Sunday], Time::midnight(), None, "America/New_York");
        assert!(!hours.contain(at("2026-11-29T04:59:59Z")));
        assert!(hours.contain(at("2026-11-29T05:00:00Z")));
        assert!(hours.contain(at("2026-11-30T04:59:59Z")));
        assert!(!hours.contain(at("2026-11-30T05:00:00Z")));
    }

    #[test]
    fn an_hour_that_is_skipped_opens_nothing_and_one_that_is_repeated_opens_it_twice() {
        // Berlin: 2026-03-29 01:00Z, 02:00 becomes 03:00; 2026-10-25 01:00Z, 03:00 becomes 02:00.
        let left_out = weekly(&ALL, time(2, 0, 0, 0), Some(time(3, 0, 0, 0)), "Europe/Berlin");
        let minutes = |hours: &Hours, day: &str| {
            let start = at(day);
            (0..24 * 60).filter(|minute| hours.contain(start + Duration::from_secs(60 * minute))).count()
        };
        assert_eq!(minutes(&left_out, "2026-03-28T00:00:00Z"), 60);
        assert_eq!(minutes(&left_out, "2026-03-29T00:00:00Z"), 0);
        assert_eq!(minutes(&left_out, "2026-10-25T00:00:00Z"), 120);
        // One that begins in the hour that is left out begins when that is over.
        let partly = weekly(&ALL, time(2, 30, 0, 0), Some(time(4, 0, 0, 0)), "Europe/Berlin");
        assert_eq!(minutes(&partly, "2026-03-29T00:00:00Z"), 60);
        // The same time of day all year, whatever that is in UTC.
        let noon = weekly(&ALL, time(12, 0, 0, 0), Some(time(13, 0, 0, 0)), "Europe/Berlin");
        assert!(noon.contain(at("2026-01-05T11:30:00Z")) && noon.contain(at("2026-07-06T10:30:00Z")));
    }

    #[test]
    fn a_window_of_one_time_is_not_repeated() {
        let moment = |text: &str| text.parse::<Timestamp>().unwrap();
        let hours = Hours::Once { from: moment("2026-12-01T22:00:00+01:00"), to: moment("2026-12-02T04:00:00+01:00") };
        assert!(!hours.contain(at("2026-12-01T20:59:59Z")));
        assert!(hours.contain(at("2026-12-01T21:00:00Z")));
        assert!(!hours.contain(at("2026-12-02T03:00:00Z")));
        assert!(!hours.contain(at("2027-12-01T22:00:00Z")));
    }

    #[test]
    fn stars_stand_for_anything_in_between() {
        for (glob, fitting, other) in [
            ("mail01", &["mail01"][..], &["mail011", "amail01", ""][..]),
            ("mail*", &["mail", "mail01"], &["imail"]),
            ("*.example.org", &["a.example.org", ".example.org"], &["a.example.org."]),
            ("m*a*l", &["mal", "mxaxl", "maall"], &["ml", "mla"]),
            ("ab*ba", &["abba", "abxba"], &["aba"]),
            ("a*b*b", &["abb", "axbxb"], &["ab"]),
            ("*", &["", "x"], &[]),
            ("", &[""], &["x"]),
        ] {
            let glob = Glob::new(glob);
            assert!(fitting.iter().all(|text| glob.matches(text)), "{glob:?}");
            assert!(!other.iter().any(|text| glob.matches(text)), "{glob:?}");
        }
        // Such a pattern must not be matched by backtracking.
        assert!(!Glob::new(&"*a".repeat(200)).matches(&"b".repeat(200_000)));
    }
}

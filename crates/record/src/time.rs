//! Durations and points in time as the record holds them: whole microseconds.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::Error as _};
use time::{OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};

/// A duration in seconds, rounded to 1 µs. In JSON a number of seconds.
///
/// It is rounded here and not when printed, so that a run that was queued and read back is the run that was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Seconds(u64);

impl Seconds {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// This many microseconds.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Whole microseconds.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// The duration in seconds, for telemetry.
    #[expect(clippy::cast_precision_loss, reason = "exact below 285 years")]
    pub fn as_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// The same as the standard library's type.
    pub const fn to_duration(self) -> Duration {
        Duration::from_micros(self.0)
    }

    /// The difference, zero when `other` is the larger.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The sum.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl From<Duration> for Seconds {
    fn from(duration: Duration) -> Self {
        let micros = (duration.as_nanos() + 500) / 1_000;
        Self(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.as_f64())
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(seconds).map(Self::from).map_err(D::Error::custom)
    }
}

/// A point in time, to 1 µs. In JSON an RFC 3339 time in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(OffsetDateTime);

impl Timestamp {
    /// Seconds since the Unix epoch, for telemetry.
    #[expect(clippy::cast_precision_loss, reason = "exact to 1 µs until the year 2255")]
    pub fn epoch_seconds(self) -> f64 {
        (self.0.unix_timestamp_nanos() / 1_000) as f64 / 1e6
    }

    /// The same as the standard library's type.
    pub fn to_system_time(self) -> SystemTime {
        self.0.into()
    }

    /// This many whole seconds after the Unix epoch, or none when no calendar has that day.
    pub fn from_epoch_seconds(seconds: i64) -> Option<Self> {
        OffsetDateTime::from_unix_timestamp(seconds).ok().map(Self)
    }

    /// `2026-11-23` in UTC.
    pub fn date(self) -> String {
        self.0.format(format_description!("[year]-[month]-[day]")).unwrap_or_default()
    }

    /// `11:42:40` in UTC.
    pub fn time_of_day(self) -> String {
        self.0.format(format_description!("[hour]:[minute]:[second]")).unwrap_or_default()
    }
}

impl From<SystemTime> for Timestamp {
    fn from(at: SystemTime) -> Self {
        let at = OffsetDateTime::from(at);
        Self(at.replace_nanosecond(at.nanosecond() / 1_000 * 1_000).unwrap_or(at))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let whole = self.0.microsecond() == 0;
        let text = if whole {
            self.0.format(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z"))
        } else {
            self.0.format(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z"))
        };
        serializer.serialize_str(&text.map_err(S::Error::custom)?)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        OffsetDateTime::parse(&text, &Rfc3339)
            .map(|at| Self(at.to_offset(time::UtcOffset::UTC)))
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_round_to_the_nearest_microsecond_and_survive_json() {
        let seconds = Seconds::from(Duration::from_nanos(53_412_499));
        assert_eq!(serde_json::to_string(&seconds).ok().as_deref(), Some("0.053412"));
        assert_eq!(serde_json::from_str::<Seconds>("0.053412").ok(), Some(seconds));
        assert_eq!(Seconds::from(Duration::from_nanos(1_500)).as_micros(), 2);
        assert!(serde_json::from_str::<Seconds>("-1.0").is_err());
    }

    #[test]
    fn a_timestamp_is_utc_to_the_microsecond() {
        let at = Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_nanos(1_795_434_160_201_869_777));
        let text = serde_json::to_string(&at).unwrap_or_default();
        assert!(text.ends_with(".201869Z\""), "{text}");
        assert_eq!(serde_json::from_str::<Timestamp>(&text).ok(), Some(at));
    }
}

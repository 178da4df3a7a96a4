//! Durations and points in time as the record holds them: whole microseconds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::{SignedDuration, civil::DateTime, fmt::temporal::DateTimeParser};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::Error as _};

/// A duration in seconds, rounded to 1 µs. In JSON a number of seconds.
///
/// Rounded here and not when printed, so that a run read back from the queue equals the run that was measured.
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

/// A difference of two times in seconds, rounded to 1 µs. In JSON a number of seconds, which may be negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct SignedSeconds(i64);

impl SignedSeconds {
    /// This many microseconds.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Whole microseconds.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// The difference in seconds, for telemetry.
    #[expect(clippy::cast_precision_loss, reason = "exact below 285 years")]
    pub fn as_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

impl Serialize for SignedSeconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.as_f64())
    }
}

impl<'de> Deserialize<'de> for SignedSeconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        let distance = Duration::try_from_secs_f64(seconds.abs()).map(Seconds::from).map_err(D::Error::custom)?;
        let micros = i64::try_from(distance.as_micros()).map_err(D::Error::custom)?;
        Ok(Self(if seconds < 0.0 { -micros } else { micros }))
    }
}

/// A point in time, to 1 µs. In JSON an RFC 3339 time in UTC.
///
/// Microseconds since the Unix epoch: `jiff::Timestamp` ends before the year 9999 does, and with it certificates without an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(i64);

const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

impl Timestamp {
    /// Seconds since the Unix epoch, for telemetry.
    #[expect(clippy::cast_precision_loss, reason = "exact to 1 µs until the year 2255")]
    pub fn epoch_seconds(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// Whole microseconds since the Unix epoch.
    pub const fn epoch_micros(self) -> i64 {
        self.0
    }

    /// The same as the standard library's type.
    pub fn to_system_time(self) -> SystemTime {
        let distance = Duration::from_micros(self.0.unsigned_abs());
        if self.0 < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
    }

    /// This many whole seconds after the Unix epoch, or none when no calendar has that day.
    pub fn from_epoch_seconds(seconds: i64) -> Option<Self> {
        let at = Self(seconds.checked_mul(1_000_000)?);
        at.civil().map(|_| at)
    }

    /// `2026-11-23` in UTC.
    pub fn date(self) -> String {
        self.format("%Y-%m-%d").unwrap_or_default()
    }

    /// `11:42:40` in UTC.
    pub fn time_of_day(self) -> String {
        self.format("%H:%M:%S").unwrap_or_default()
    }

    fn format(self, format: &str) -> Option<String> {
        Some(self.civil()?.strftime(format).to_string())
    }

    /// In UTC; none when no calendar has that day.
    fn civil(self) -> Option<DateTime> {
        EPOCH.checked_add(SignedDuration::from_micros(self.0)).ok()
    }

    /// Rounds down to 1 µs.
    fn of_nanos(nanos: i128) -> Option<Self> {
        i64::try_from(nanos.div_euclid(1_000)).ok().map(Self)
    }
}

impl From<SystemTime> for Timestamp {
    fn from(at: SystemTime) -> Self {
        let (before, distance) = match at.duration_since(UNIX_EPOCH) {
            Ok(since) => (false, since),
            Err(error) => (true, error.duration()),
        };
        let nanos = i128::try_from(distance.as_nanos()).unwrap_or(i128::MAX);
        let nanos = if before { -nanos } else { nanos };
        Self::of_nanos(nanos).unwrap_or(Self(if before { i64::MIN } else { i64::MAX }))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let whole = self.0 % 1_000_000 == 0;
        let text = self.format(if whole { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S.%6fZ" });
        serializer.serialize_str(&text.ok_or_else(|| S::Error::custom("no calendar has this day"))?)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        rfc3339(&text).ok_or_else(|| D::Error::custom("this is no time in RFC 3339"))
    }
}

/// A date, a time and an offset from UTC.
fn rfc3339(text: &str) -> Option<Timestamp> {
    // The parser takes other forms of ISO 8601, too.
    let marks = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if !marks.iter().all(|(at, mark)| text.as_bytes().get(*at) == Some(mark)) {
        return None;
    }
    let pieces = DateTimeParser::new().parse_pieces(text).ok()?;
    if pieces.time_zone_annotation().is_some() {
        return None;
    }
    let local = DateTime::from_parts(pieces.date(), pieces.time()?);
    let offset = SignedDuration::from_secs(pieces.to_numeric_offset()?.seconds().into());
    let since = local.duration_since(EPOCH).checked_sub(offset)?;
    let at = Timestamp::of_nanos(since.as_nanos())?;
    at.civil().map(|_| at)
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
    fn a_difference_keeps_its_sign() {
        for (micros, json) in [(-250_000, "-0.25"), (1, "1e-6"), (0, "0.0"), (-1_500_000, "-1.5")] {
            let seconds = SignedSeconds::from_micros(micros);
            assert_eq!(serde_json::to_string(&seconds).unwrap(), json);
            assert_eq!(serde_json::from_str::<SignedSeconds>(json).unwrap(), seconds);
        }
        for wrong in ["1e300", "-1e300", "1e13"] {
            assert!(serde_json::from_str::<SignedSeconds>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_timestamp_is_utc_to_the_microsecond() {
        let at = Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_nanos(1_795_434_160_201_869_777));
        let text = serde_json::to_string(&at).unwrap_or_default();
        assert!(text.ends_with(".201869Z\""), "{text}");
        assert_eq!(serde_json::from_str::<Timestamp>(&text).ok(), Some(at));
        let microseconds = at.epoch_seconds() * 1e6;
        assert!((microseconds - 1_795_434_160_201_869.0).abs() < 1.0, "{microseconds}");
    }

    #[test]
    fn a_timestamp_before_and_after_the_epoch_is_the_same_as_a_system_time() {
        for distance in [Duration::ZERO, Duration::from_micros(1), Duration::from_secs(951_782_400)] {
            for at in [UNIX_EPOCH + distance, UNIX_EPOCH - distance] {
                assert_eq!(Timestamp::from(at).to_system_time(), at);
            }
        }
    }

    #[test]
    fn a_timestamp_has_six_digits_of_a_second_or_none_and_all_days_of_four_digits() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (-62_135_596_800, "0001-01-01T00:00:00Z"),
            // The end of a certificate that has none (RFC 5280 §4.1.2.5).
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            let at = Timestamp::from_epoch_seconds(seconds).unwrap();
            assert_eq!(serde_json::to_string(&at).unwrap(), format!("{text:?}"));
            assert_eq!(rfc3339(text), Some(at));
            assert_eq!(Timestamp::from(at.to_system_time()), at);
            assert_eq!(format!("{}T{}Z", at.date(), at.time_of_day()), text);
        }
        assert_eq!(Timestamp::from_epoch_seconds(253_402_300_800), None);
        let before = Timestamp::from(UNIX_EPOCH - Duration::from_nanos(1));
        assert_eq!(serde_json::to_string(&before).unwrap(), "\"1969-12-31T23:59:59.999999Z\"");
        assert!(serde_json::to_string(&Timestamp::from(UNIX_EPOCH + Duration::from_secs(1 << 40))).is_err());
    }

    #[test]
    fn a_timestamp_is_read_with_any_offset_and_not_without() {
        let at = rfc3339("2026-11-23T11:42:40.201869Z");
        assert_eq!(rfc3339("2026-11-23T12:42:40.201869+01:00"), at);
        assert_eq!(rfc3339("2026-11-23T12:42:40.201869999+01:00"), at);
        for text in [
            "2026-11-23T11:42:40",
            "2026-11-23",
            "",
            "11:42:40Z",
            "2026-11-23T11:42:40Z[UTC]",
            "10000-01-01T00:00:00Z",
            "20261123T114240Z",
            "2026-11-23T11:42Z",
            "-002026-11-23T11:42:40Z",
        ] {
            assert_eq!(rfc3339(text), None, "{text}");
        }
    }
}

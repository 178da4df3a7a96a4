//! Numbers, durations, sizes, and `true` and `false`: each error has the value, what is accepted, and an example.
//!
//! Called by every reader of such a key.

use std::{ops::RangeInclusive, str::FromStr, time::Duration};

use figment::value::Value;

use super::Field;
use crate::config::sources::units::{self, UnitError};

/// The example of a number, if it is within bounds.
const EXAMPLE: u64 = 20;

impl Field<'_> {
    pub(crate) fn bool(&self) -> Option<bool> {
        let value = self.value.to_bool().or_else(|| self.raw());
        if value.is_none() {
            self.not_a::<bool>("known: expected true or false");
        }
        value
    }

    /// A whole number within bounds.
    pub(crate) fn number<T: TryFrom<u64>>(&self, bounds: RangeInclusive<u64>) -> Option<T> {
        let (least, most) = bounds.into_inner();
        let top = if most < u64::from(u32::MAX) { format!(" to {most}") } else { " or more".to_owned() };
        let expected = format!("expected {least}{top}, such as {}", EXAMPLE.clamp(least, most));
        let number: Option<i128> = self.value.to_i128().or_else(|| self.raw());
        let Some(number) = number else {
            self.not_a::<u64>(&format!("a whole number: {expected}"));
            return None;
        };
        let fitting = u64::try_from(number).ok().filter(|number| (least..=most).contains(number));
        if fitting.is_none() {
            self.unfit(format!("out of bounds: {expected}"), "");
        }
        fitting?.try_into().ok()
    }

    /// A finite number above 1.
    pub(crate) fn ratio(&self) -> Option<f64> {
        const EXPECTED: &str = "expected more than 1, such as 1.5";
        let number = match self.value {
            Value::Num(_, number) => number.to_f64().or_else(|| Some(i32::try_from(number.to_i128()?).ok()?.into())),
            _ => self.raw(),
        };
        let Some(number) = number else {
            self.not_a::<f64>(&format!("a number: {EXPECTED}"));
            return None;
        };
        let fitting = Some(number).filter(|number| number.is_finite() && *number > 1.0);
        if fitting.is_none() {
            self.unfit(format!("out of bounds: {EXPECTED}"), "");
        }
        fitting
    }

    /// The value of raw text.
    fn raw<T: FromStr>(&self) -> Option<T> {
        self.as_text().filter(|_| self.is_raw())?.parse().ok()
    }

    /// Notes that the value is not what was expected; it may be a `T` in quotes.
    fn not_a<T: FromStr>(&self, expected: &str) {
        let quoted = self.as_text().is_some_and(|text| text.parse::<T>().is_ok());
        self.unfit(format!("not {expected}"), if quoted { "write it without quotes" } else { "" });
    }

    /// A duration above zero.
    pub(crate) fn duration(&self) -> Option<Duration> {
        self.duration_within(Duration::from_millis(1)..=units::LONGEST)
    }

    pub(crate) fn duration_within(&self, bounds: RangeInclusive<Duration>) -> Option<Duration> {
        let (least, most) = (units::print_duration(*bounds.start()), units::print_duration(*bounds.end()));
        let example = units::print_duration(Duration::from_secs(30).clamp(*bounds.start(), *bounds.end()));
        let expected = format!("expected {least} to {most}, such as \"{example}\"");
        self.unit(units::parse_duration, units::meant_duration, &bounds, (&expected, "too long"))
    }

    /// A size in bytes, within bounds.
    pub(crate) fn size(&self, bounds: RangeInclusive<u64>) -> Option<u64> {
        let least = units::print_size(*bounds.start());
        let most = match *bounds.end() {
            u64::MAX => " or more".to_owned(),
            most => format!(" to {}", units::print_size(most)),
        };
        let example = units::print_size((16 << 20).clamp(*bounds.start(), *bounds.end()));
        let expected = format!("expected {least}{most}, such as \"{example}\"");
        self.unit(units::parse_size, units::meant_size, &bounds, (&expected, "too large"))
    }

    fn unit<T: PartialOrd + Copy>(
        &self,
        parse: impl Fn(&str) -> Result<T, UnitError>,
        meant: impl Fn(&str) -> Option<String>,
        bounds: &RangeInclusive<T>,
        (expected, beyond): (&str, &str),
    ) -> Option<T> {
        // Any other type is an empty text, which is no unit.
        match parse(self.as_text().unwrap_or_default()) {
            Ok(value) if bounds.contains(&value) => return Some(value),
            Ok(_) => self.unfit(format!("out of bounds: {expected}"), ""),
            Err(UnitError::TooLarge) => self.unfit(format!("{beyond}: {expected}"), ""),
            Err(error) => {
                let text = self.as_text().map_or_else(|| self.given(), str::to_owned);
                let meant = meant(&text).filter(|meant| parse(meant).is_ok_and(|value| bounds.contains(&value)));
                let help = meant.map(|meant| format!("did you mean \"{meant}\"?"));
                self.unfit(error, help.unwrap_or_default());
            }
        }
        None
    }
}

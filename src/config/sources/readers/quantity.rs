//! Numbers, durations, sizes, and `true` and `false`: each error says what was given, what is accepted, and an example.
//!
//! Called by every reader of such a key.

use std::{ops::RangeInclusive, time::Duration};

use figment::value::Value;

use super::Field;
use crate::config::sources::units::{self, UnitError};

/// The number in a sentence about numbers, where it fits.
const EXAMPLE: u64 = 20;
const UNQUOTE: &str = "write it without quotes";

impl Field<'_> {
    /// `true` or `false`.
    pub(crate) fn bool(&self) -> Option<bool> {
        let value = match self.value {
            Value::Bool(_, value) => Some(*value),
            Value::String(_, text) if self.is_raw() => text.parse().ok(),
            _ => None,
        };
        if value.is_none() {
            let quoted = self.as_text().is_some_and(|text| text.parse::<bool>().is_ok());
            self.unfit("not known: expected true or false", if quoted { UNQUOTE } else { "" });
        }
        value
    }

    /// A whole number within bounds.
    pub(crate) fn number(&self, least: u64, most: u64) -> Option<u64> {
        let number = match self.value {
            Value::Num(_, number) => number.to_i128(),
            Value::String(_, text) if self.is_raw() => text.parse().ok(),
            _ => None,
        };
        let top = if most < u64::from(u32::MAX) { format!(" to {most}") } else { " or more".to_owned() };
        let expected = format!("expected {least}{top}, such as {}", EXAMPLE.clamp(least, most));
        let Some(number) = number else {
            let quoted = self.as_text().is_some_and(|text| text.parse::<u64>().is_ok());
            self.unfit(format!("not a whole number: {expected}"), if quoted { UNQUOTE } else { "" });
            return None;
        };
        let fitting = u64::try_from(number).ok().filter(|number| (least..=most).contains(number));
        if fitting.is_none() {
            self.unfit(format!("out of bounds: {expected}"), "");
        }
        fitting
    }

    /// A finite number above 1.
    pub(crate) fn ratio(&self) -> Option<f64> {
        const EXPECTED: &str = "expected more than 1, such as 1.5";
        let number = match self.value {
            Value::Num(_, number) => number.to_f64().or_else(|| Some(i32::try_from(number.to_i128()?).ok()?.into())),
            Value::String(_, text) if self.is_raw() => text.parse().ok(),
            _ => None,
        };
        let Some(number) = number else {
            let quoted = self.as_text().is_some_and(|text| text.parse::<f64>().is_ok());
            self.unfit(format!("not a number: {EXPECTED}"), if quoted { UNQUOTE } else { "" });
            return None;
        };
        let fitting = Some(number).filter(|number| number.is_finite() && *number > 1.0);
        if fitting.is_none() {
            self.unfit(format!("out of bounds: {EXPECTED}"), "");
        }
        fitting
    }

    /// A duration above zero.
    pub(crate) fn duration(&self) -> Option<Duration> {
        self.duration_within(&(Duration::from_millis(1)..=units::LONGEST))
    }

    /// A size in bytes, at least one.
    pub(crate) fn size(&self) -> Option<u64> {
        self.size_within(&(1..=u64::MAX))
    }

    /// A duration within bounds.
    pub(crate) fn duration_within(&self, bounds: &RangeInclusive<Duration>) -> Option<Duration> {
        let (least, most) = (units::print_duration(*bounds.start()), units::print_duration(*bounds.end()));
        let example = units::print_duration(Duration::from_secs(30).clamp(*bounds.start(), *bounds.end()));
        let expected = format!("expected {least} to {most}, such as \"{example}\"");
        self.unit(units::parse_duration, units::meant_duration, bounds, (&expected, "too long"))
    }

    /// A size within bounds.
    pub(crate) fn size_within(&self, bounds: &RangeInclusive<u64>) -> Option<u64> {
        let least = units::print_size(*bounds.start());
        let most = match *bounds.end() {
            u64::MAX => " or more".to_owned(),
            most => format!(" to {}", units::print_size(most)),
        };
        let example = units::print_size((16 << 20).clamp(*bounds.start(), *bounds.end()));
        let expected = format!("expected {least}{most}, such as \"{example}\"");
        self.unit(units::parse_size, units::meant_size, bounds, (&expected, "too large"))
    }

    fn unit<T: PartialOrd + Copy>(
        &self,
        parse: impl Fn(&str) -> Result<T, UnitError>,
        meant: impl Fn(&str) -> Option<String>,
        bounds: &RangeInclusive<T>,
        (expected, beyond): (&str, &str),
    ) -> Option<T> {
        // What is no text is none of the two whatever it holds.
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

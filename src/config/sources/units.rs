//! Durations and sizes with units: `"900ms"`, `"30s"`, `"5m"`, `"1h"`, `"16MiB"`.
//!
//! No input or output. Called by `readers` for every such key, by `describe` to print them, and by `cli` for its options.

use std::time::Duration;

/// Text that is not a duration or not a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a whole number with one of the units of time.
    #[error("not a duration: expected a whole number with a unit, such as \"900ms\", \"30s\", \"5m\" or \"1h\"")]
    Duration,
    /// Not a whole number with one of the units of size.
    #[error("not a size: expected a whole number with a unit, such as \"512B\", \"64KiB\" or \"16MiB\"")]
    Size,
    /// Over a year, or over what a 64-bit number holds.
    #[error("out of bounds: it is too long, or too large")]
    TooLarge,
}

/// The longest duration of a configuration: adding it to a clock's value does not overflow.
pub const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

const TIME: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
const SIZE: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// Reads a duration; `"0"` needs no unit.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let millis = parse(text, &TIME, UnitError::Duration)?;
    Some(Duration::from_millis(millis)).filter(|duration| *duration <= LONGEST).ok_or(UnitError::TooLarge)
}

/// The message for a text that is not a duration, with a suggestion on a line of its own.
pub fn explain_duration(text: &str, error: UnitError) -> String {
    let longest = print_duration(LONGEST);
    match (error, meant_duration(text)) {
        (UnitError::TooLarge, _) => format!("{text:?} is out of bounds: expected 0 to {longest}, such as \"30s\""),
        (_, Some(meant)) => format!("{text:?} is {error}\n  help: did you mean {meant:?}?"),
        (_, None) => format!("{text:?} is {error}"),
    }
}

/// Prints a duration in the largest exact unit, without fractions of a millisecond.
pub fn print_duration(duration: Duration) -> String {
    print(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), &TIME, "0s")
}

/// Reads a size in bytes.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    parse(text, &SIZE, UnitError::Size)
}

/// The duration that a text of another form means, in our form: `30s` for `30`, `30 sec` and `0.5 min`.
pub fn meant_duration(text: &str) -> Option<String> {
    meant(text, &OTHER_TIMES, ("s", 1_000), |millis| {
        let duration = Duration::from_millis(millis);
        (duration <= LONGEST).then(|| print_duration(duration))
    })
}

/// The size that a text of another form means, in our form: `16B` for `16`, `16 b` and `16 bytes`. A unit in powers of ten is
/// replaced by the nearest in powers of two.
pub fn meant_size(text: &str) -> Option<String> {
    meant(text, &OTHER_SIZES, ("B", 1), |bytes| Some(print_size(bytes)))
}

/// Prints a size in bytes in the largest exact unit.
pub fn print_size(bytes: u64) -> String {
    print(bytes, &SIZE, "0B")
}

/// Units in other forms, in lower case; in milliseconds.
const OTHER_TIMES: [(&[&str], u64); 6] = [
    (&["ms", "msec", "msecs", "millis", "millisecond", "milliseconds"], 1),
    (&["s", "sec", "secs", "second", "seconds"], 1_000),
    (&["m", "min", "mins", "minute", "minutes"], 60_000),
    (&["h", "hr", "hrs", "hour", "hours"], 3_600_000),
    (&["d", "day", "days"], 86_400_000),
    (&["w", "week", "weeks"], 604_800_000),
];
const OTHER_SIZES: [(&[&str], u64); 4] = [
    (&["b", "byte", "bytes"], 1),
    (&["k", "kb", "kib"], 1 << 10),
    (&["m", "mb", "mib"], 1 << 20),
    (&["g", "gb", "gib"], 1 << 30),
];

/// A decimal number with a unit, `bare` by default, if it is whole and above zero in the smallest unit.
fn meant(
    text: &str,
    units: &[(&[&str], u64)],
    bare: (&str, u64),
    print: impl Fn(u64) -> Option<String>,
) -> Option<String> {
    let text = text.trim().to_ascii_lowercase();
    let number = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let (number, unit) = (text.get(..number)?, text.get(number..)?.trim());
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let factor = match unit {
        "" => bare.1,
        _ => units.iter().find(|(names, _)| names.contains(&unit))?.1,
    };
    let places = 10_u64.checked_pow(fraction.len().try_into().ok()?)?;
    let fraction = fraction.parse::<u64>().ok()?.checked_mul(factor)?;
    let value = whole.parse::<u64>().ok()?.checked_mul(factor)?.checked_add(fraction / places)?;
    if value == 0 || !fraction.is_multiple_of(places) {
        return None;
    }
    // A number without a unit is kept as it was written.
    print(value).map(|printed| if unit.is_empty() && number == whole { format!("{whole}{}", bare.0) } else { printed })
}

fn parse(text: &str, units: &[(&str, u64)], wrong: UnitError) -> Result<u64, UnitError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (Some(number), Some(unit)) = (text.get(..digits), text.get(digits..)) else { return Err(wrong) };
    let (_, factor) = units.iter().find(|(name, _)| *name == unit).ok_or(wrong)?;
    if number.is_empty() {
        return Err(wrong);
    }
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(*factor)).ok_or(UnitError::TooLarge)
}

fn print(value: u64, units: &[(&str, u64)], zero: &str) -> String {
    let exact = units.iter().rev().find(|(_, factor)| value != 0 && value.is_multiple_of(*factor));
    exact.map_or_else(|| zero.to_owned(), |(unit, factor)| format!("{}{unit}", value / factor))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_need_a_whole_number_and_a_unit() {
        assert_eq!(parse_duration("900ms"), Ok(Duration::from_millis(900)));
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        for wrong in ["", "30", "s", "1.5s", "-1s", "30 s", "30S", "1d", "٣s"] {
            assert_eq!(parse_duration(wrong), Err(UnitError::Duration), "{wrong}");
        }
        for large in ["99999999999999999999s", "18446744073709551615h", "8785h"] {
            assert_eq!(parse_duration(large), Err(UnitError::TooLarge), "{large}");
        }
    }

    #[test]
    fn sizes_are_binary() {
        assert_eq!(parse_size("16MiB"), Ok(16 << 20));
        assert_eq!(parse_size("512B"), Ok(512));
        for wrong in ["16MB", "16", "MiB", "1.5GiB"] {
            assert_eq!(parse_size(wrong), Err(UnitError::Size), "{wrong}");
        }
        assert_eq!(parse_size("99999999999GiB"), Err(UnitError::TooLarge));
    }

    #[test]
    fn what_others_write_is_understood_and_what_is_not_exact_is_not() {
        for (text, meant) in [
            ("30", "30s"),
            ("60", "60s"),
            ("30 s", "30s"),
            ("30S", "30s"),
            ("30sec", "30s"),
            (" 5 Minutes ", "5m"),
            ("1.5s", "1500ms"),
            ("1.5", "1500ms"),
            ("0.5h", "30m"),
            ("1d", "24h"),
            ("2 weeks", "336h"),
        ] {
            assert_eq!(meant_duration(text).as_deref(), Some(meant), "{text}");
            assert!(parse_duration(meant).is_ok(), "{meant}");
        }
        for text in ["", "s", "soon", "-5s", "0", "0.0005s", "1.s", ".5s", "1.2.3s", "400d", "99999999999999999999s"] {
            assert_eq!(meant_duration(text), None, "{text}");
        }
        for (text, meant) in
            [("16MB", "16MiB"), ("16 mib", "16MiB"), ("65536", "65536B"), ("1.5G", "1536MiB"), ("7", "7B")]
        {
            assert_eq!(meant_size(text).as_deref(), Some(meant), "{text}");
        }
        for text in ["", "MB", "16MX", "0", "99999999999999GB"] {
            assert_eq!(meant_size(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back_the_same(millis in 0..=31_622_400_000u64, bytes: u64) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&print_duration(duration)), Ok(duration));
            prop_assert_eq!(parse_size(&print_size(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_makes_the_readers_panic(text: String) {
            let known = TIME.iter().any(|(unit, _)| text.ends_with(unit)) || text == "0";
            prop_assert!(known || parse_duration(&text).is_err());
            prop_assert!(SIZE.iter().any(|(unit, _)| text.ends_with(unit)) || parse_size(&text).is_err());
            let readable = |meant: Option<String>, reads: fn(&str) -> bool| meant.is_none_or(|meant| reads(&meant));
            prop_assert!(readable(meant_duration(&text), |text| parse_duration(text).is_ok()));
            prop_assert!(readable(meant_size(&text), |text| parse_size(text).is_ok()));
        }
    }
}

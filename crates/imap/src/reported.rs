//! The time that a server reports for a command in the text of its tagged OK. Not part of IMAP: a habit of some servers.
//!
//! Dovecot ends its text with `(0.036 + 0.000 + 0.035 secs).`: the time in the command (running, blocked, or waiting for a lock),
//! waiting for the client, and since the command last ran, which overlaps the first. Only the first is the server's own; the
//! second is reported beside it, and the third is checked and dropped. Cyrus has `(0.004 sec)` or `(3 msgs in 0.004 secs)`. Any
//! other text is ignored.
//!
//! Reads text; the caller decides whether a time can be true.

use std::time::Duration;

/// The time that a server reports for a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reported {
    /// The time spent in the command: the first, or only, term.
    pub time: Duration,
    /// The time spent waiting for the client inside it, to send more or to take what was sent; none without a second term.
    pub waited: Option<Duration>,
    /// The smallest time that it can name.
    pub resolution: Duration,
}

/// More terms, or digits, than any server writes.
const MOST: usize = 9;

/// Reads the times at the end of `text`, the human part of a status response (RFC 9051 §7.1).
pub fn reported(text: &[u8]) -> Option<Reported> {
    let text = std::str::from_utf8(text).ok()?.trim_end_matches(['.', ' ']).strip_suffix(')')?;
    let (_, inside) = text.rsplit_once('(')?;
    let terms = inside.strip_suffix(" secs").or_else(|| inside.strip_suffix(" sec"))?;
    let terms = terms.rsplit_once(" in ").map_or(terms, |(_, terms)| terms);
    let mut terms = terms.split(" + ").take(MOST).map(term);
    // Text that only begins like such times has none.
    let (time, resolution) = terms.next()??;
    let mut others = terms.collect::<Option<Vec<_>>>()?.into_iter();
    let waited = others.next().map(|(waited, _)| waited);
    Some(Reported { time, waited, resolution })
}

/// One term, such as `0.036`: its time, and the smallest that its digits can name.
fn term(text: &str) -> Option<(Duration, Duration)> {
    let (whole, fraction) = text.split_once('.')?;
    let digits = |text: &str| !text.is_empty() && text.len() <= MOST && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let unit = 10_u32.pow(u32::try_from(MOST - fraction.len()).ok()?);
    let time = Duration::new(whole.parse().ok()?, fraction.parse::<u32>().ok()? * unit);
    Some((time, Duration::from_nanos(unit.into())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_servers_say_of_their_own_time() {
        let millis = |text: &str| {
            reported(text.as_bytes()).map(|details| (details.time.as_micros(), details.resolution.as_micros()))
        };
        for (text, expected) in [
            ("Fetch completed (0.036 + 0.000 + 0.035 secs).", Some((36_000, 1_000))),
            ("Select completed (1.020 + 0.000 + 1.019 secs).", Some((1_020_000, 1_000))),
            ("List completed (0.001 + 0.000 secs).", Some((1_000, 1_000))),
            ("Completed (0.004 sec)", Some((4_000, 1_000))),
            ("Completed (3 msgs in 1.250 secs)", Some((1_250_000, 1_000))),
            ("Completed (0.1234 secs)", Some((123_400, 100))),
            ("Fetch completed.", None),
            ("(secs)", None),
            ("( secs)", None),
            ("(1 secs)", None),
            ("(-1.000 secs)", None),
            ("(0.001 + secs)", None),
            ("(0.001 + x secs)", None),
            ("( + 0.001 secs)", None),
            ("(0.0000000001 secs)", None),
            ("(9999999999.1 secs)", None),
            ("(0.001 + 0.000 secs) and more", None),
            ("", None),
        ] {
            assert_eq!(millis(text), expected, "{text}");
        }
    }

    #[test]
    fn the_second_term_is_the_wait_for_the_client() {
        let waited = |text: &str| reported(text.as_bytes()).unwrap().waited.map(|time| time.as_millis());
        assert_eq!(waited("Fetch completed (0.036 + 0.412 + 0.447 secs)."), Some(412));
        assert_eq!(waited("List completed (0.001 + 0.000 secs)."), Some(0));
        assert_eq!(waited("Completed (3 msgs in 1.250 secs)"), None);
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(text in ".{0,40}", terms in "[0-9.+ a-z()]{0,40}") {
            reported(text.as_bytes());
            reported(format!("({terms} secs)").as_bytes());
        }
    }
}

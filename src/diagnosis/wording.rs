//! How times are written in evidence. Called by the rules.

/// A time in seconds with two or three digits: `2.54 s`, `64 ms`, `1.2 ms`.
pub(super) fn time(seconds: f64) -> String {
    let millis = seconds * 1e3;
    if millis >= 999.5 {
        format!("{seconds:.2} s")
    } else if millis >= 9.95 {
        format!("{millis:.0} ms")
    } else {
        format!("{millis:.1} ms")
    }
}

/// An excess: over the usual, where that is known.
pub(super) fn excess(seconds: f64, usual: f64) -> String {
    if usual > 0.0 { format!("{} over the usual", time(seconds)) } else { time(seconds) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_two_or_three_digits() {
        for (seconds, text) in [
            (2.5432, "2.54 s"),
            (0.064, "64 ms"),
            (0.0012, "1.2 ms"),
            (0.0, "0.0 ms"),
            (0.9996, "1.00 s"),
            (0.00996, "10 ms"),
        ] {
            assert_eq!(time(seconds), text);
        }
        assert_eq!((excess(0.5, 0.1), excess(0.5, 0.0)), ("500 ms over the usual".to_owned(), "500 ms".to_owned()));
    }
}

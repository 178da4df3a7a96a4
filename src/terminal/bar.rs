//! Bars and the ruler on the one time axis of a waterfall.
//!
//! A bar is drawn plain over the whole of a step. Should it once show the server's, the network's and the transfer's
//! part, this is the only file that changes.

use super::Style;
use crate::record::Seconds;

/// The axis: so many columns for so much time, from 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    pub(super) columns: usize,
    pub(super) end: Seconds,
}

/// Parts that a column divides into: Unicode has blocks of eighths.
const PARTS: usize = 8;
const LEFT: [char; PARTS + 1] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];
const RIGHT_HALF: char = '▐';
const RIGHT_EIGHTH: char = '▕';

impl Axis {
    /// Where `at` is, in eighths of a column.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a position on a screen, between 0 and its width"
    )]
    fn position(self, at: Seconds) -> usize {
        if self.end == Seconds::ZERO {
            return 0;
        }
        let share = (at.as_micros() as f64 / self.end.as_micros() as f64).min(1.0);
        (share * (self.columns * PARTS) as f64).round() as usize
    }

    /// A bar over the axis, as wide as the axis. Whatever took any time shows at least a sliver; what took none shows
    /// nothing.
    pub(super) fn bar(self, start: Seconds, end: Seconds, style: Style) -> String {
        if self.columns == 0 || end <= start {
            return " ".repeat(self.columns);
        }
        let from = self.position(start).min(self.columns * PARTS - 1);
        let to = self.position(end).max(from + 1);
        if style.ascii {
            // How long it is decides the mark, not where it happens to fall between two columns.
            let (mark, first) =
                if to - from < PARTS / 2 { ('-', from / PARTS) } else { ('#', (from + PARTS / 2) / PARTS) };
            let first = first.min(self.columns - 1);
            let last = ((to + PARTS / 2) / PARTS).max(first + 1);
            return (0..self.columns).map(|column| if (first..last).contains(&column) { mark } else { ' ' }).collect();
        }
        let filled = |column: usize| {
            let within = |at: usize| at.saturating_sub(column * PARTS).min(PARTS);
            block(within(from), within(to))
        };
        (0..self.columns).map(filled).collect()
    }

    /// A line from 0 to `end`, with a tick at `tick` and an end mark.
    pub(super) fn ruler(self, tick: Option<Seconds>, end: Seconds, style: Style) -> String {
        if self.columns == 0 {
            return String::new();
        }
        let column = |at| self.position(at).div_ceil(PARTS).clamp(1, self.columns) - 1;
        let (last, tick) = (column(end), tick.map(column));
        let (line, mark, stop) = if style.ascii { ('=', '+', '|') } else { ('━', '┿', '┫') };
        (0..self.columns)
            .map(|at| match at {
                at if at == last => stop,
                at if at > last => ' ',
                at if Some(at) == tick => mark,
                _ => line,
            })
            .collect()
    }
}

/// The block for a column that is filled from `begin` to `finish` eighths. Unicode has all eighths only from the left,
/// so a bar's left end is rounded to what there is.
fn block(begin: usize, finish: usize) -> char {
    match (begin, finish - begin) {
        (_, 0) => ' ',
        (0, filled) => LEFT[filled],
        (1, 7) => LEFT[PARTS],
        (_, 3..) if finish == PARTS => RIGHT_HALF,
        (0..4, filled) if finish < PARTS => LEFT[filled],
        _ => RIGHT_EIGHTH,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UNICODE: Style = Style { width: 80, colour: false, ascii: false };
    const ASCII: Style = Style { width: 80, colour: false, ascii: true };

    fn us(micros: u64) -> Seconds {
        Seconds::from_micros(micros)
    }

    #[test]
    fn bars_are_drawn_to_the_eighth_of_a_column() {
        let axis = Axis { columns: 4, end: us(32) };
        let cases =
            [(0, 32, "████"), (0, 1, "▏   "), (8, 19, " █▍ "), (12, 24, " ▐█ "), (7, 8, "▕   "), (10, 12, " ▎  ")];
        for (start, end, expected) in cases {
            assert_eq!(axis.bar(us(start), us(end), UNICODE), expected, "{start} to {end}");
        }
    }

    #[test]
    fn in_ascii_a_bar_is_of_whole_columns_and_a_sliver_is_a_dash() {
        let axis = Axis { columns: 4, end: us(32) };
        for (start, end, expected) in [(0, 32, "####"), (0, 1, "-   "), (8, 20, " ## "), (31, 32, "   -")] {
            assert_eq!(axis.bar(us(start), us(end), ASCII), expected, "{start} to {end}");
        }
    }

    #[test]
    fn the_ruler_ends_where_the_latency_ends_and_ticks_at_the_first_row() {
        let axis = Axis { columns: 10, end: us(100) };
        assert_eq!(axis.ruler(Some(us(60)), us(90), UNICODE), "━━━━━┿━━┫ ");
        assert_eq!(axis.ruler(None, us(100), ASCII), "=========|");
        assert_eq!(axis.ruler(Some(us(90)), us(90), ASCII), "========| ");
    }

    proptest! {
        #[test]
        fn whatever_took_time_shows_and_the_bar_fills_the_axis(
            columns in 1_usize..200, end in 1..=u64::MAX, start in any::<u64>(), took in 1..=u64::MAX, ascii in any::<bool>(),
        ) {
            let axis = Axis { columns, end: us(end) };
            let start = us(start.min(u64::MAX - 1));
            let bar = axis.bar(start, start.saturating_add(us(took)), if ascii { ASCII } else { UNICODE });
            prop_assert_eq!(bar.chars().count(), columns);
            prop_assert!(!bar.trim().is_empty());
        }
    }
}

//! Bars and the ruler on the one time axis of a waterfall.
//!
//! The bar of a command shows its parts: how large they are, not when they were (see [`parts`](super::parts)).

use imaptrace_record::Seconds;

use super::{
    Style,
    parts::{TimePart, TimeParts},
};

/// The axis: its columns, and the time at its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    pub(super) columns: usize,
    pub(super) end: Seconds,
}

/// The parts of a column: Unicode has blocks of eighths.
const EIGHTHS: usize = 8;
const LEFT: [char; EIGHTHS + 1] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];
const RIGHT_HALF: char = '▐';
const RIGHT_EIGHTH: char = '▕';
/// In ASCII: a bar that is not divided, and one shorter than half a column.
const WHOLE: char = '#';
const SLIVER: char = '-';

/// A part of a bar, or none, and how it is drawn.
pub(super) type BarPiece = (Option<TimePart>, String);

impl Axis {
    /// The position of `at`, in eighths of a column.
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
        (share * (self.columns * EIGHTHS) as f64).round() as usize
    }

    /// A bar as wide as the axis, in pieces: each of one part, or of none beside the bar and in that of a step that is not
    /// divided. A step without any time has no bar, and every other one at least a sliver.
    ///
    /// The ends are exact to an eighth of a column if there is such a block, else to half a column: shades and ASCII have whole
    /// columns only. A sliver, shorter than half a column, shows the largest part.
    pub(super) fn bar(self, start: Seconds, end: Seconds, parts: Option<TimeParts>, style: Style) -> Vec<BarPiece> {
        if self.columns == 0 || end <= start {
            return vec![(None, " ".repeat(self.columns))];
        }
        let from = self.position(start).min(self.columns * EIGHTHS - 1);
        let to = self.position(end).max(from + 1);
        let sliver = to - from < EIGHTHS / 2;
        // The columns that are divided among the parts. Their number depends on the bar's length, not on its position.
        let first = ((from + EIGHTHS / 2) / EIGHTHS).min((to - 1) / EIGHTHS);
        let first = if sliver { from / EIGHTHS } else { first };
        let last = ((to + EIGHTHS / 2) / EIGHTHS).max(first + 1);
        let cells = match parts {
            Some(parts) if sliver => vec![Some(parts.largest()); last - first],
            Some(parts) => parts.cells(last - first).into_iter().map(Some).collect(),
            None => vec![None; last - first],
        };
        let mut pieces: Vec<BarPiece> = Vec::new();
        for column in 0..self.columns {
            let within = |at: usize| at.saturating_sub(column * EIGHTHS).min(EIGHTHS);
            // A fraction of a column at an end belongs to the part at that end.
            let part = cells[column.clamp(first, last - 1) - first];
            let block = block(within(from), within(to));
            let inside = (first..last).contains(&column);
            let cell = match part {
                None | Some(TimePart::Server) if !style.ascii => block,
                _ if sliver && !style.ascii => block,
                _ if !inside => ' ',
                _ if sliver => SLIVER,
                None => WHOLE,
                Some(part) => part.mark(style),
            };
            let part = part.filter(|_| cell != ' ');
            match pieces.last_mut() {
                Some((same, text)) if *same == part => text.push(cell),
                _ => pieces.push((part, cell.into())),
            }
        }
        pieces
    }

    /// A line from 0 to `end`, with a tick at `tick` and an end mark.
    pub(super) fn ruler(self, tick: Option<Seconds>, end: Seconds, style: Style) -> String {
        if self.columns == 0 {
            return String::new();
        }
        let column = |at| self.position(at).div_ceil(EIGHTHS).clamp(1, self.columns) - 1;
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

/// The block for a column filled from `begin` to `finish` eighths, rounded if Unicode has none: it has all eighths from the left.
fn block(begin: usize, finish: usize) -> char {
    match (begin, finish - begin) {
        (_, 0) => ' ',
        (0, filled) => LEFT[filled],
        (1, 7) => LEFT[EIGHTHS],
        (_, 3..) if finish == EIGHTHS => RIGHT_HALF,
        (0..4, filled) if finish < EIGHTHS => LEFT[filled],
        _ => RIGHT_EIGHTH,
    }
}

#[cfg(test)]
mod tests {
    use imaptrace_record::Step;
    use proptest::prelude::*;

    use super::*;

    const UNICODE: Style = Style { width: 80, colour: false, ascii: false };
    const ASCII: Style = Style { width: 80, colour: false, ascii: true };

    fn us(micros: u64) -> Seconds {
        Seconds::from_micros(micros)
    }

    fn drawn(pieces: &[BarPiece]) -> String {
        pieces.iter().map(|(_, text)| text.as_str()).collect()
    }

    fn whole(axis: Axis, start: u64, end: u64, style: Style) -> String {
        drawn(&axis.bar(us(start), us(end), None, style))
    }

    fn parts(server: u64, network: u64, transfer: u64) -> Option<TimeParts> {
        TimeParts::of(&Step {
            server_s: Some(us(server)),
            network_s: Some(us(network)),
            transfer_s: Some(us(transfer)),
            ..Step::default()
        })
    }

    #[test]
    fn bars_are_drawn_to_the_eighth_of_a_column() {
        let axis = Axis { columns: 4, end: us(32) };
        let cases =
            [(0, 32, "████"), (0, 1, "▏   "), (8, 19, " █▍ "), (12, 24, " ▐█ "), (7, 8, "▕   "), (10, 12, " ▎  ")];
        for (start, end, expected) in cases {
            assert_eq!(whole(axis, start, end, UNICODE), expected, "{start} to {end}");
        }
    }

    #[test]
    fn in_ascii_a_bar_is_of_whole_columns_and_a_sliver_is_a_dash() {
        let axis = Axis { columns: 4, end: us(32) };
        for (start, end, expected) in
            [(0, 32, "####"), (0, 1, "-   "), (8, 20, " ## "), (4, 8, "#   "), (31, 32, "   -")]
        {
            assert_eq!(whole(axis, start, end, ASCII), expected, "{start} to {end}");
        }
    }

    #[test]
    fn a_command_is_drawn_in_its_parts_and_only_the_servers_ends_are_finer_than_half_a_column() {
        let axis = Axis { columns: 8, end: us(64) };
        for (start, end, times, unicode, ascii) in [
            (0, 64, (40, 16, 8), "█████▒▒░", "#####::."),
            (0, 64, (62, 1, 1), "████████", "########"),
            (11, 45, (34, 0, 0), " ▐███▋  ", " #####  "),
            (11, 45, (20, 0, 14), " ▐██░░  ", " ###..  "),
            (13, 47, (0, 8, 26), "  ▒░░░  ", "  :...  "),
            (4, 8, (1, 9, 2), "▒       ", ":       "),
            (60, 64, (1, 2, 9), "       ░", "       ."),
            (8, 11, (1, 2, 9), " ▍      ", " -      "),
        ] {
            let parts = parts(times.0, times.1, times.2);
            let draw = |style| drawn(&axis.bar(us(start), us(end), parts, style));
            assert_eq!([draw(UNICODE), draw(ASCII)], [unicode, ascii], "{start} to {end}, {times:?}");
        }
    }

    #[test]
    fn the_pieces_of_a_bar_have_their_part_and_a_sliver_is_of_its_largest() {
        let axis = Axis { columns: 8, end: us(64) };
        let bar = axis.bar(us(8), us(48), parts(24, 8, 8), UNICODE);
        let texts: Vec<_> = bar.iter().map(|(part, text)| (*part, text.as_str())).collect();
        let [server, network, transfer] = TimePart::ALL.map(Some);
        assert_eq!(texts, [(None, " "), (server, "███"), (network, "▒"), (transfer, "░"), (None, "  ")]);
        let sliver = axis.bar(us(63), us(64), parts(1, 7, 3), UNICODE);
        assert_eq!(sliver.last(), Some(&(network, "▕".to_owned())));
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
            columns in 1_usize..200, end in 1..=u64::MAX, start in any::<u64>(), took in 1..=u64::MAX,
            times in any::<[u64; 3]>(), ascii in any::<bool>(),
        ) {
            let axis = Axis { columns, end: us(end) };
            let start = us(start.min(u64::MAX - 1));
            let parts = parts(times[0], times[1], times[2]);
            let pieces = axis.bar(start, start.saturating_add(us(took)), parts, if ascii { ASCII } else { UNICODE });
            let bar = drawn(&pieces);
            prop_assert_eq!(bar.chars().count(), columns);
            prop_assert!(!bar.trim().is_empty());
            prop_assert!(!bar.trim().contains(' '), "{}", bar);
            let shown: Vec<_> = pieces.iter().filter_map(|(part, _)| *part).collect();
            prop_assert!(shown.is_sorted(), "{:?}", shown);
            if let Some(parts) = parts {
                prop_assert!(shown.contains(&parts.largest()), "{:?}", shown);
            }
        }

        #[test]
        fn a_bar_in_parts_is_where_a_whole_one_would_be(
            from in 0_u64..800, took in 1_u64..800, times in any::<[u64; 3]>(), ascii in any::<bool>(),
        ) {
            let axis = Axis { columns: 100, end: us(800) };
            let style = if ascii { ASCII } else { UNICODE };
            let bar = drawn(&axis.bar(us(from), us(from + took), parts(times[0], times[1], times[2]), style));
            let drawn: Vec<usize> = bar.chars().enumerate().filter(|(_, cell)| *cell != ' ').map(|(at, _)| at).collect();
            // Nowhere off by a column.
            let (begin, finish) = (drawn[0] * EIGHTHS, (drawn[drawn.len() - 1] + 1) * EIGHTHS);
            let (from, to) = (usize::try_from(from).unwrap(), usize::try_from(from + took).unwrap().min(800));
            prop_assert!(begin.abs_diff(from) < EIGHTHS && finish.abs_diff(to) < EIGHTHS, "{bar}");
        }
    }
}

//! The server's, the network's and the transfer's part of steps: their marks, and the cells of a bar.
//!
//! A command can have several times of each part, so a bar shows the size of the parts in the order of the record, not their
//! place in time.

use imaptrace_record::{Seconds, Step};

use super::{Style, text::Tone};

/// A part of a command's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TimePart {
    Server,
    Network,
    Transfer,
}

impl TimePart {
    pub(super) const ALL: [Self; 3] = [Self::Server, Self::Network, Self::Transfer];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Network => "network",
            Self::Transfer => "transfer",
        }
    }

    /// The character of a bar's cell. Parts differ by more than their colour.
    pub(super) fn mark(self, style: Style) -> char {
        match (self, style.ascii) {
            (Self::Server, false) => '█',
            (Self::Network, false) => '▒',
            (Self::Transfer, false) => '░',
            (Self::Server, true) => '#',
            (Self::Network, true) => ':',
            (Self::Transfer, true) => '.',
        }
    }

    pub(super) fn tone(self) -> Tone {
        match self {
            Self::Server => Tone::Server,
            Self::Network => Tone::Network,
            Self::Transfer => Tone::Transfer,
        }
    }
}

/// The time of each part of one command or several. Not all are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TimeParts([Seconds; 3]);

impl TimeParts {
    /// None if all are zero.
    fn new(parts: [Seconds; 3]) -> Option<Self> {
        parts.iter().any(|part| *part > Seconds::ZERO).then_some(Self(parts))
    }

    /// The parts of a step; none if it is not divided.
    pub(super) fn of(step: &Step) -> Option<Self> {
        Self::new([step.server_s?, step.network_s?, step.transfer_s?])
    }

    /// The sums over `steps`, with those of which the network's part alone is known (`connect`); none if there is none.
    pub(super) fn sum<'a>(steps: impl IntoIterator<Item = &'a Step>) -> Option<Self> {
        let parts = |step: &Step| [step.server_s, step.network_s, step.transfer_s].map(Option::unwrap_or_default);
        let add = |sum: [Seconds; 3], parts: [Seconds; 3]| [0, 1, 2].map(|part| sum[part].saturating_add(parts[part]));
        let known = steps.into_iter().filter(|step| step.network_s.is_some());
        Self::new(known.map(parts).fold([Seconds::ZERO; 3], add))
    }

    pub(super) fn get(self, part: TimePart) -> Seconds {
        self.0[part as usize]
    }

    /// The longest part; among equals the first.
    pub(super) fn largest(self) -> TimePart {
        TimePart::ALL.into_iter().rev().max_by_key(|part| self.get(*part)).unwrap_or(TimePart::Server)
    }

    /// Divides `count` cells by largest remainders, so the largest part has at least one. Only the ratio of the parts counts:
    /// in a replayed record their sum may differ from the duration.
    pub(super) fn cells(self, count: usize) -> Vec<TimePart> {
        let whole: u128 = self.0.iter().map(|part| u128::from(part.as_micros())).sum();
        let shares = TimePart::ALL.map(|part| (part, u128::from(self.get(part).as_micros()) * count as u128));
        let floor = |share: u128| usize::try_from(share / whole).unwrap_or(count);
        let mut cells: Vec<TimePart> =
            shares.iter().flat_map(|(part, share)| std::iter::repeat_n(*part, floor(*share))).collect();
        let mut by_remainder = shares;
        by_remainder.sort_by_key(|(_, share)| std::cmp::Reverse(share % whole));
        let left = count - cells.len();
        cells.extend(by_remainder.into_iter().map(|(part, _)| part).take(left));
        cells.sort_unstable();
        cells
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(server: u64, network: u64, transfer: u64) -> Option<TimeParts> {
        TimeParts::new([server, network, transfer].map(Seconds::from_micros))
    }

    #[test]
    fn cells_go_by_largest_remainders_in_the_order_of_the_record() {
        let cells = |(server, network, transfer), count| {
            let cells = parts(server, network, transfer).unwrap().cells(count);
            TimePart::ALL.map(|part| cells.iter().filter(|cell| **cell == part).count())
        };
        for (times, count, expected) in [
            ((50, 30, 20), 10, [5, 3, 2]),
            ((98, 1, 1), 10, [10, 0, 0]),
            ((5, 90, 5), 10, [1, 9, 0]),
            ((1, 1, 2), 1, [0, 0, 1]),
            ((1, 1, 1), 2, [1, 1, 0]),
            ((0, 0, 7), 3, [0, 0, 3]),
            ((9, 9, 9), 0, [0, 0, 0]),
        ] {
            assert_eq!(cells(times, count), expected, "{times:?} in {count}");
        }
    }

    #[test]
    fn a_step_is_divided_only_when_all_three_parts_are_known_and_one_is_not_zero() {
        let of = |server: u64| Step {
            server_s: Some(Seconds::from_micros(server)),
            network_s: Some(Seconds::ZERO),
            transfer_s: Some(Seconds::ZERO),
            ..Step::default()
        };
        assert_eq!(TimeParts::of(&of(4)), parts(4, 0, 0));
        assert_eq!(TimeParts::of(&of(0)), None);
        assert_eq!(TimeParts::of(&Step { network_s: None, ..of(4) }), None);
        assert_eq!(TimeParts::sum(&[of(4), Step::default(), of(3)]), parts(7, 0, 0));
        assert_eq!(TimeParts::sum(&[Step::default()]), None);
        let connect = Step { network_s: Some(Seconds::from_micros(5)), ..Step::default() };
        assert_eq!((TimeParts::of(&connect), TimeParts::sum(&[of(4), connect])), (None, parts(4, 5, 0)));
    }

    proptest! {
        #[test]
        fn all_cells_are_distributed_in_order_and_the_largest_part_has_one(
            server in any::<u64>(), network in any::<u64>(), transfer in 1..=u64::MAX, count in 0_usize..300,
        ) {
            let parts = parts(server, network, transfer).unwrap();
            let cells = parts.cells(count);
            prop_assert_eq!(cells.len(), count);
            prop_assert!(cells.is_sorted());
            prop_assert!(count == 0 || cells.contains(&parts.largest()));
        }
    }
}

//! How far a server's clock is from ours, by the overlap bound: what the server did for a command lies within the command's time.
//!
//! Pure arithmetic. Called by `assemble`.

use imaptrace_record::SignedSeconds;

/// A span of the server and the span of ours that it lies in; all in microseconds since the Unix epoch, each by its own clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair {
    pub(super) server: (i64, i64),
    pub(super) client: (i64, i64),
}

/// What stamps of two clocks may be apart without a meaning.
const TOLERANCE: i64 = 1_000;

/// The offset of the server's clock: 0 if that fits, else the middle of what fits all pairs. None if nothing does, or without
/// a pair.
pub(super) fn clock_offset(pairs: &[Pair]) -> Option<SignedSeconds> {
    let most = pairs.iter().map(|pair| pair.server.0.saturating_sub(pair.client.0)).min()?.saturating_add(TOLERANCE);
    let least = pairs.iter().map(|pair| pair.server.1.saturating_sub(pair.client.1)).max()?.saturating_sub(TOLERANCE);
    let fits = if least <= 0 && most >= 0 {
        0
    } else if least <= most {
        least.midpoint(most)
    } else {
        return None;
    };
    Some(SignedSeconds::from_micros(fits))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pair(server: (i64, i64), client: (i64, i64)) -> Pair {
        Pair { server, client }
    }

    #[test]
    fn a_clock_that_fits_is_left_as_it_is() {
        assert_eq!(clock_offset(&[pair((20_000, 80_000), (0, 100_000))]), Some(SignedSeconds::default()));
        assert_eq!(clock_offset(&[]), None);
    }

    #[test]
    fn one_that_is_off_is_moved_into_the_middle_and_two_that_disagree_have_none() {
        let late = [pair((1_020_000, 1_080_000), (0, 100_000))];
        assert_eq!(clock_offset(&late), Some(SignedSeconds::from_micros(1_000_000)));
        let early = [pair((-980_000, -920_000), (0, 100_000))];
        assert_eq!(clock_offset(&early), Some(SignedSeconds::from_micros(-1_000_000)));
        assert_eq!(clock_offset(&[late[0], early[0]]), None);
    }

    proptest! {
        #[test]
        fn what_was_shifted_lies_in_its_parent(
            pairs in prop::collection::vec((0i64..1_000_000, 2_500i64..90_000, 1_200i64..90_000), 1..12), by in -5_000_000i64..5_000_000,
        ) {
            let pairs: Vec<_> = pairs.iter().map(|(start, length, before)| {
                let client = (*start, start + length + 2 * before);
                pair((start + before + by, start + before + length + by), client)
            }).collect();
            let offset = clock_offset(&pairs).unwrap().as_micros();
            for pair in pairs {
                prop_assert!(pair.server.0 - offset >= pair.client.0 - TOLERANCE);
                prop_assert!(pair.server.1 - offset <= pair.client.1 + TOLERANCE);
            }
        }
    }
}

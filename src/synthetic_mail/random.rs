//! `SplitMix64` (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014). A generator of the crate
//! `rand` may change with its version, but a fill that continues after an upgrade must make the same mailbox. Not for secrets.

/// The use of the numbers. Each has its own sequence, so a message's thread does not depend on how much its body draws.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    Time = 1,
    Thread,
    Person,
    Size,
    Header,
    Body,
    Flags,
}

#[derive(Debug)]
pub(super) struct Random(u64);

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Random {
    /// The numbers of one message for one purpose.
    pub(super) fn new(number: u32, purpose: Purpose) -> Self {
        Self((u64::from(number) << 8 | purpose as u64).wrapping_mul(STEP))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 when that is 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.next()) * u128::from(bound);
        u64::try_from(wide >> 64).unwrap_or_default()
    }

    /// True in `percent` of a hundred cases.
    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One element of a slice that is not empty.
    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap_or_default()]
    }

    pub(super) fn bytes(&mut self, count: usize) -> Vec<u8> {
        std::iter::repeat_with(|| self.next().to_le_bytes()).take(count.div_ceil(8)).flatten().take(count).collect()
    }

    /// Nearly a sample of the standard normal distribution: the sum of twelve uniform ones, less six.
    pub(super) fn normal(&mut self) -> f64 {
        let uniform = |number: u64| f64::from(u32::try_from(number >> 32).unwrap_or_default()) / f64::from(u32::MAX);
        (0..12).map(|_| uniform(self.next())).sum::<f64>() - 6.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_paper() {
        // The first of seed 0, as every implementation gives them.
        let mut random = Random(0);
        assert_eq!([random.next(), random.next()], [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4]);
    }

    #[test]
    fn messages_and_purposes_have_numbers_of_their_own() {
        let first = |number, purpose| Random::new(number, purpose).next();
        let all =
            [first(1, Purpose::Body), first(2, Purpose::Body), first(1, Purpose::Size), first(257, Purpose::Body)];
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), all.len());
        assert_eq!(first(7, Purpose::Header), first(7, Purpose::Header));
    }

    #[test]
    fn numbers_stay_below_their_bound_and_reach_it() {
        let mut random = Random::new(1, Purpose::Time);
        let drawn: Vec<u64> = (0..500).map(|_| random.below(5)).collect();
        assert_eq!((drawn.iter().min(), drawn.iter().max()), (Some(&0), Some(&4)));
        assert_eq!(random.below(0), 0);
        let sum: f64 = (0..2000).map(|_| random.normal()).sum();
        assert!((sum / 2000.0).abs() < 0.1, "{sum}");
    }
}

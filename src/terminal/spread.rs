//! Minimum, median and maximum of any number of values, in bounded memory.
//!
//! Up to [`EXACT`] values are kept; more are counted in a histogram, whose median has an error of at most a thousandth. Minimum
//! and maximum are exact. Called by `summary`.

use hdrhistogram::Histogram;

/// The most values that are kept.
const EXACT: usize = 1000;
/// Significant digits of a value in a histogram.
const DIGITS: u8 = 3;

/// The values.
#[derive(Debug, Default)]
pub(super) struct Spread {
    values: Vec<u64>,
    counted: Option<Histogram<u32>>,
    pub(super) count: u64,
    least: u64,
    most: u64,
}

impl Spread {
    pub(super) fn add(&mut self, value: u64) {
        self.least = if self.count == 0 { value } else { self.least.min(value) };
        self.most = self.most.max(value);
        self.count += 1;
        self.values.push(value);
        if self.count == EXACT as u64 + 1 {
            self.counted = Histogram::new(DIGITS).ok();
        }
        if let Some(counted) = &mut self.counted {
            for value in std::mem::take(&mut self.values) {
                // Fails for a time of more than a hundred thousand years.
                let _ = counted.record(value);
            }
        }
    }

    /// Minimum, median and maximum; all 0 without values.
    pub(super) fn figures(&self) -> [u64; 3] {
        let middle = match &self.counted {
            Some(counted) => counted.value_at_quantile(0.5).clamp(self.least, self.most),
            None => median(&self.values),
        };
        [self.least, middle, self.most]
    }
}

fn median(values: &[u64]) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let middle = |at: usize| sorted.get(at).copied().unwrap_or_default();
    let (low, high) = (middle(sorted.len().saturating_sub(1) / 2), middle(sorted.len() / 2));
    low + (high - low) / 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: impl IntoIterator<Item = u64>) -> Spread {
        let mut spread = Spread::default();
        for value in values {
            spread.add(value);
        }
        spread
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!(of([9, 1, 3]).figures(), [1, 3, 9]);
        assert_eq!(of([9, 1, 30, 3]).figures(), [1, 6, 30]);
        assert_eq!(of([]).figures(), [0; 3]);
    }

    proptest! {
        #[test]
        fn of_many_values_the_median_is_off_by_a_thousandth(
            values in proptest::collection::vec(0..100_000_000_u64, 1001..3000),
        ) {
            let [least, middle, most] = of(values.iter().copied()).figures();
            let mut sorted = values;
            sorted.sort_unstable();
            prop_assert_eq!((least, most), (sorted[0], sorted[sorted.len() - 1]));
            let exact = sorted[(sorted.len() - 1) / 2];
            prop_assert!(middle.abs_diff(exact) <= exact / 1000 + 1, "{middle} for {exact}");
        }
    }

    #[test]
    fn its_memory_is_bounded_however_many_and_odd_the_values() {
        let spread = of((0..200_000_u64).map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 2));
        assert_eq!((spread.values.capacity(), spread.count), (0, 200_000));
        // Two thousand for each of the 64 sizes that a number can have.
        assert!(spread.counted.unwrap().distinct_values() <= 64 * 2048);
    }
}

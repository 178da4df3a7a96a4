//! The median of the last [`WINDOW`] values.
//!
//! Running medians as a smoother are Tukey's (*Exploratory Data Analysis*, 1977, chapter 7). For wide windows a double heap is
//! quickest (Härdle and Steiger, "Algorithm AS 296: Optimal median smoothing", *Applied Statistics* 44(2), 1995, pp. 258–264,
//! doi:10.2307/2986349); at 63 values its heaps need more memory than the values, and sorting a copy takes about a microsecond.
//!
//! The breakdown point is one half: with up to 31 of the 63 values arbitrary, the median stays within the range of the other
//! 32. Called by `baseline` and `usual`.

/// The number of values kept for each series.
pub(super) const WINDOW: usize = LEN as usize;
pub(super) const LEN: u8 = 63;

/// The newest values, in a ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RunningMedian {
    values: [u32; WINDOW],
    /// Where the next value goes.
    next: u8,
    len: u8,
}

impl RunningMedian {
    pub(super) const fn new() -> Self {
        Self { values: [0; WINDOW], next: 0, len: 0 }
    }

    /// Of these values, oldest first.
    pub(super) fn of(values: &[u32]) -> Self {
        let mut all = Self::new();
        for value in values {
            all.push(*value);
        }
        all
    }

    pub(super) fn push(&mut self, value: u32) {
        self.values[usize::from(self.next)] = value;
        self.next = (self.next + 1) % LEN;
        self.len = (self.len + 1).min(LEN);
    }

    pub(super) fn len(&self) -> usize {
        self.len.into()
    }

    /// The values kept, newest first.
    pub(super) fn newest_first(&self) -> impl Iterator<Item = u32> + '_ {
        let next = usize::from(self.next);
        (1..=self.len()).map(move |back| self.values[(next + WINDOW - back) % WINDOW])
    }

    /// The values kept, oldest first.
    pub(super) fn oldest_first(&self) -> Vec<u32> {
        let mut values = Vec::with_capacity(self.len());
        values.extend(self.newest_first());
        values.reverse();
        values
    }

    /// The median of the values kept; none without values.
    pub(super) fn median(&self) -> Option<u32> {
        let mut values = self.values;
        median(&mut values[..self.len.into()])
    }

    /// The median of this many of the newest values, or of all if there are fewer.
    pub(super) fn median_of_newest(&self, many: usize) -> Option<u32> {
        let (mut values, mut len) = ([0; WINDOW], 0);
        for value in self.newest_first().take(many) {
            values[len] = value;
            len += 1;
        }
        median(&mut values[..len])
    }
}

/// The median: of an even number the mean of the middle two, rounded down. None without values.
pub(super) fn median(values: &mut [u32]) -> Option<u32> {
    values.sort_unstable();
    let len = values.len();
    (len > 0).then(|| values[(len - 1) / 2].midpoint(values[len / 2]))
}

//! Deviations in nanoseconds, and what is printed of them.

/// How far our times lie from another witness's, in nanoseconds; above zero is later, or longer.
#[derive(Debug, Default)]
pub struct Deviations(Vec<i64>);

impl Deviations {
    pub fn push(&mut self, deviation: i64) {
        self.0.push(deviation);
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The middle one, with its sign.
    pub fn median(&self) -> i64 {
        rank(self.0.clone(), 50)
    }

    /// As far off as this, or less, are 99 of 100, in either direction.
    pub fn p99(&self) -> i64 {
        rank(self.sizes(), 99)
    }

    pub fn max(&self) -> i64 {
        rank(self.sizes(), 100)
    }

    fn sizes(&self) -> Vec<i64> {
        self.0.iter().map(|deviation| deviation.abs()).collect()
    }

    /// `median / p99 / max` in microseconds.
    pub fn cell(&self) -> String {
        if self.0.is_empty() {
            return "–".to_owned();
        }
        let median = self.median();
        format!(
            "{}{} / {} / {}",
            if median < 0 { "−" } else { "+" },
            micros(median),
            micros(self.p99()),
            micros(self.max())
        )
    }
}

/// The value that so many per cent do not pass (nearest rank); 0 of none.
fn rank(mut values: Vec<i64>, percent: usize) -> i64 {
    values.sort_unstable();
    let place = (values.len() * percent).div_ceil(100);
    values.get(place.saturating_sub(1)).copied().unwrap_or_default()
}

/// Nanoseconds as microseconds, without a sign: one digit after the point below 100, thousands parted from there on.
pub fn micros(nanos: i64) -> String {
    let nanos = nanos.unsigned_abs();
    if nanos < 99_950 {
        let tenths = (nanos + 50) / 100;
        return format!("{}.{}", tenths / 10, tenths % 10);
    }
    thousands((nanos + 500) / 1_000)
}

pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

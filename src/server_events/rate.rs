//! How many things may happen a second. Reads no clock. Called by `receiver`.

use std::time::Instant;

/// Permits that come back at a fixed rate.
#[derive(Debug)]
pub(super) struct TokenBucket {
    a_second: f64,
    most: f64,
    left: f64,
    at: Option<Instant>,
}

impl TokenBucket {
    /// Permits `a_second` in the long run, and `most` at once.
    pub(super) fn new(a_second: u32, most: u32) -> Self {
        Self { a_second: a_second.into(), most: most.into(), left: most.into(), at: None }
    }

    /// Whether one more may happen at this time.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.at.replace(now).unwrap_or(now));
        self.left = (since.as_secs_f64().mul_add(self.a_second, self.left)).min(self.most);
        let may = self.left >= 1.0;
        self.left -= f64::from(u8::from(may));
        may
    }

    #[cfg(test)]
    pub(super) fn exhaust(&mut self, now: Instant) {
        while self.take(now) {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock;

    #[test]
    fn as_many_as_it_holds_at_once_and_then_its_rate() {
        let mut bucket = TokenBucket::new(10, 5);
        let begin = clock::now();
        assert_eq!((0..20).filter(|_| bucket.take(begin)).count(), 5);
        let taken = (1..=20).filter(|tenth| bucket.take(begin + Duration::from_millis(100 * tenth))).count();
        assert_eq!(taken, 20);
        // It never holds more than that.
        assert_eq!((0..20).filter(|_| bucket.take(begin + Duration::from_secs(3600))).count(), 5);
    }
}

//! When a synthetic message was sent and when it came. Called by the module and by `header`.

use jiff::Timestamp;

/// When a message was sent and when it came; seconds since 1970, UTC.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) sent: u64,
    pub(super) came: u64,
}

pub(super) fn moment(seconds: u64) -> Timestamp {
    i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok()).unwrap_or_default()
}

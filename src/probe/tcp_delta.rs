//! What the kernel has seen of a connection while a step was under way, and how TLS was closed.
//!
//! `uncertainty` bounds the step's times by it. Called by the steps of a journey and by `driver`.

use std::time::Duration;

use imaptrace_record::CloseNotify;

use super::{
    driver::Driver,
    exchange::{CoarseMoment, TcpInfoDelta},
};
use crate::{
    clock,
    net::{TcpInfo, tick},
};

impl Driver {
    /// Whether the TLS connection that just ended was closed as it should be (RFC 8446 §6.1).
    pub(super) fn close_notify(&self) -> Option<CloseNotify> {
        self.tls()?;
        Some(match self.wire().last_record() {
            // In TLS 1.3 two bytes of data look the same from outside.
            Some(last) if last.may_be_alert() && self.last_read == 2 => CloseNotify::Unknown,
            Some(last) if last.may_be_alert() => CloseNotify::True,
            Some(_) => CloseNotify::False,
            None => CloseNotify::Unknown,
        })
    }

    /// What the kernel has seen since it was last asked.
    pub(super) fn tcp_delta(&mut self) -> Option<TcpInfoDelta> {
        let info = self.wire().tcp_info()?;
        // Behind the kernel's answer: should this thread lose its core in between, data seems younger than it is, and no
        // doubt is made of that.
        let now = clock::now();
        let before = std::mem::replace(&mut self.info, info);
        let count = |now: u32, before: u32| u64::from(now.saturating_sub(before));
        let since = |now: Option<u32>, before: Option<u32>| now.map(|now| count(now, before.unwrap_or_default()));
        let unacknowledged =
            info.unacknowledged.map(|time| time.saturating_sub(before.unacknowledged.unwrap_or_default()));
        let last_data = now.checked_sub(Duration::from_millis(info.data_age_ms.into())).and_then(|latest| {
            let earliest = latest.checked_sub(tick())?;
            Some(CoarseMoment { earliest, latest })
        });
        Some(TcpInfoDelta {
            rtt_min: info.rtt_min,
            retransmits: count(info.retransmits, before.retransmits),
            out_of_order: since(info.out_of_order, before.out_of_order),
            segment: info.segment,
            data_segments: since(info.data_segments, before.data_segments),
            unacknowledged: unacknowledged.map(|time| time + tick()),
            last_data,
        })
    }

    /// What the kernel has seen in all.
    pub(super) fn tcp_total(&self) -> TcpInfo {
        self.info
    }
}

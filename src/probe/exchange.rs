//! What came of a command on the line: its stamps, its answer or why there was none, and what the kernel saw meanwhile.
//!
//! Types only. Filled in by `driver` and `sasl`; read by the steps of a journey.

use std::time::{Duration, Instant};

use imaptrace_imap::{SessionProgress, StatusResponse};
use imaptrace_record::{CloseNotify, ErrorType, Step, TlsFault};
use zeroize::Zeroizing;

use crate::net::{TlsFailure, Traffic};

/// Why a step did not come to a tagged answer.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) class: ErrorType,
    /// When it showed.
    pub(super) at: Instant,
    /// What the server said with it.
    pub(super) response: Option<StatusResponse>,
    /// What was wrong with TLS, if that is what happened.
    pub(super) tls: Option<TlsFault>,
    /// An untagged NO or BAD that came before: the only answer that the command got.
    pub(super) warning: Option<StatusResponse>,
    /// How the TLS connection ended, if that is what happened.
    pub(super) close_notify: Option<CloseNotify>,
    /// The line is not in the middle of a command, and the one under way was left to itself: LOGOUT can follow.
    pub(super) can_logout: bool,
}

/// What a command took and how it ended.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) start: Instant,
    pub(super) end: Instant,
    pub(super) first_byte: Option<Instant>,
    pub(super) first_row: Option<Instant>,
    pub(super) continuations: Vec<Instant>,
    /// What was said in a SASL exchange and must not be repeated, beside names and password.
    pub(super) sasl_messages: Vec<Zeroizing<Vec<u8>>>,
    /// For how long we kept the server waiting for a processor.
    pub(super) waited: Duration,
    /// The first; a server that has ten thousand is not to be read ten thousand times.
    pub(super) alert: Option<(Instant, Vec<u8>)>,
    pub(super) sent: u64,
    /// What crossed the line meanwhile.
    pub(super) traffic: Traffic,
    /// More than its tagged line had come when that was read.
    pub(super) more: bool,
    pub(super) progress: SessionProgress,
    pub(super) result: Result<StatusResponse, Fault>,
}

/// What a step waited for when its time was up.
#[derive(Debug, Clone, Copy)]
pub(super) enum Awaited {
    /// The greeting, which is owed from the beginning.
    Greeting,
    /// An answer, which is owed once our first byte has left, or waits for room that the server does not give.
    Answer,
    /// Room for what we began to send at this moment.
    Room(Instant),
    /// Nothing: it was our turn.
    Us,
}

/// What the kernel says of the connection since it was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct TcpInfoDelta {
    pub(super) rtt_min: Option<Duration>,
    pub(super) retransmits: u64,
    pub(super) out_of_order: Option<u64>,
    /// Payload of a full segment of the server's.
    pub(super) segment: u32,
    /// Segments with data that arrived.
    pub(super) data_segments: Option<u64>,
    /// For how long data of ours was not acknowledged, at most.
    pub(super) unacknowledged: Option<Duration>,
    /// When the last data arrived.
    pub(super) last_data: Option<CoarseMoment>,
}

/// A moment that the kernel reports by its coarse clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CoarseMoment {
    pub(super) earliest: Instant,
    pub(super) latest: Instant,
}

impl TcpInfoDelta {
    /// Segments that were sent again, or came out of order.
    pub(super) fn lost(&self) -> u64 {
        self.retransmits.saturating_add(self.out_of_order.unwrap_or_default())
    }
}

/// Notes condition and code of a status response on a step.
pub(super) fn note_status(step: &mut Step, response: &StatusResponse) {
    (step.status, step.code) = (Some(response.condition), response.code);
}

impl Fault {
    pub(super) fn new(class: ErrorType, at: Instant) -> Self {
        Self { class, at, response: None, warning: None, tls: None, close_notify: None, can_logout: false }
    }

    pub(super) fn with(self, response: Option<StatusResponse>) -> Self {
        Self { response, ..self }
    }
}

/// Why there is no TLS.
pub(super) enum SecureError {
    Failed(TlsFailure),
    /// We were too slow ourselves.
    OwnDelay(ErrorType),
    Cancelled,
}

/// Whether the command came to no tagged line since the server, the connection or the deadline ended it.
pub(super) fn is_end(class: ErrorType) -> bool {
    matches!(
        class,
        ErrorType::Bye
            | ErrorType::Eof
            | ErrorType::Reset
            | ErrorType::TlsAlert
            | ErrorType::TlsProtocol
            | ErrorType::TimeoutCommand
            | ErrorType::TimeoutWrite
    )
}

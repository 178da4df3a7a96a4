//! The outcome of a command on the line: its stamps, its response or why there was none, and what the kernel counted meanwhile.
//!
//! Types only. Filled in by `driver` and `sasl`; read by the steps of a journey.

use std::time::{Duration, Instant};

use imaptrace_imap::{Condition, SessionProgress, StatusResponse};
use imaptrace_record::{CloseNotify, ErrorType, Step, TlsFault};
use zeroize::Zeroizing;

use crate::{
    clock::{self, Deadline},
    net::{TlsFailure, Traffic},
};

/// Why a step got no tagged response.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) class: ErrorType,
    /// When it was detected.
    pub(super) at: Instant,
    /// The server's response, or words of our own.
    pub(super) response: Option<StatusResponse>,
    /// The TLS fault, if it is one.
    pub(super) tls: Option<TlsFault>,
    /// An untagged NO or BAD that came before: the only response to the command.
    pub(super) warning: Option<StatusResponse>,
    /// How the TLS connection ended, if it did.
    pub(super) close_notify: Option<CloseNotify>,
    /// No command is partly sent, and the one under way was abandoned: LOGOUT can follow.
    pub(super) can_logout: bool,
}

/// A command's times, counts and result.
#[derive(Debug)]
pub(super) struct Exchange {
    /// When the command must be over, and within what time the kernel must take each write.
    pub(super) deadline: Deadline,
    pub(super) write: Duration,
    pub(super) start: Instant,
    pub(super) end: Instant,
    pub(super) first_byte: Option<Instant>,
    pub(super) first_row: Option<Instant>,
    pub(super) continuations: Vec<Instant>,
    /// Messages of a SASL exchange, which must not be shown, as names and password.
    pub(super) sasl_messages: Vec<Zeroizing<Vec<u8>>>,
    /// How long the server waited for us to get a processor.
    pub(super) waited: Duration,
    /// The first one only.
    pub(super) alert: Option<(Instant, Vec<u8>)>,
    pub(super) sent: u64,
    /// What crossed the line meanwhile.
    pub(super) traffic: Traffic,
    /// More than its tagged line had come when that was read.
    pub(super) more: bool,
    pub(super) progress: SessionProgress,
    pub(super) result: Result<StatusResponse, Fault>,
}

/// What a step waited for at its deadline.
#[derive(Debug, Clone, Copy)]
pub(super) enum Awaited {
    /// The greeting, which is owed from the beginning.
    Greeting,
    /// A response, which is owed once our first byte is sent, or waits for room in the server's window.
    Response,
    /// Room for what we began to send at this moment.
    SendBuffer(Instant),
    /// Nothing: the turn was ours.
    Nothing,
}

/// The difference between two readings of `TCP_INFO`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct TcpInfoDelta {
    pub(super) rtt_min: Option<Duration>,
    pub(super) retransmits: u64,
    pub(super) out_of_order: Option<u64>,
    /// Payload of a full segment of the server's.
    pub(super) segment: u32,
    /// Segments with data that arrived.
    pub(super) data_segments: Option<u64>,
    /// How long our data was unacknowledged, at most.
    pub(super) unacknowledged: Option<Duration>,
    /// When the last data arrived.
    pub(super) last_data: Option<CoarseMoment>,
}

/// A moment by the kernel's coarse clock.
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

impl Exchange {
    /// One that is about to begin.
    pub(super) fn new(deadline: Deadline, write: Duration) -> Self {
        let now = clock::now();
        Self {
            deadline,
            write,
            start: now,
            end: now,
            first_byte: None,
            first_row: None,
            continuations: Vec::new(),
            sasl_messages: Vec::new(),
            waited: Duration::ZERO,
            alert: None,
            sent: 0,
            traffic: Traffic::default(),
            more: false,
            progress: SessionProgress::default(),
            // Replaced when it ends.
            result: Err(Fault::new(ErrorType::Internal, now)),
        }
    }
}

impl Fault {
    pub(super) fn new(class: ErrorType, at: Instant) -> Self {
        Self { class, at, response: None, warning: None, tls: None, close_notify: None, can_logout: false }
    }

    pub(super) fn now(class: ErrorType) -> Self {
        Self::new(class, clock::now())
    }

    pub(super) fn bye(response: StatusResponse, at: Instant) -> Self {
        Self { response: Some(response), ..Self::new(ErrorType::Bye, at) }
    }

    /// The fault with words that are no status response.
    pub(super) fn with_text(self, text: Vec<u8>) -> Self {
        Self { response: Some(StatusResponse { condition: Condition::Bad, code: None, text }), ..self }
    }
}

/// Why there is no TLS.
pub(super) enum SecureError {
    Failed(TlsFailure),
    /// The run was cancelled, or imaptrace itself was too slow.
    Own(ErrorType),
}

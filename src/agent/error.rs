//! Why the agent cannot start.

use std::path::PathBuf;

use crate::{delivery::DeliveryStartError, net::TlsContextError, secret::SecretError, state::StateDirError};

/// The agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A TLS file of a target cannot be used.
    #[error("target {target}: {source}")]
    Tls {
        /// The target's name.
        target: String,
        /// The fault.
        source: TlsContextError,
    },
    /// A TLS file of an OTLP exporter cannot be used.
    #[error("the OTLP exporter: {0}")]
    OtlpTls(#[source] TlsContextError),
    /// The value of an OTLP header cannot be read.
    #[error("a header for OTLP: {0}")]
    Header(#[from] SecretError),
    /// The secret of a sender of server events cannot be read.
    #[error("the secret of the sender {sender} of server events: {source}")]
    Sender {
        /// The sender's name.
        sender: String,
        /// The fault.
        source: SecretError,
    },
    /// The secret for forwarding server events cannot be read.
    #[error("the secret for the forwarding of server events: {0}")]
    Forward(#[source] SecretError),
    /// The file with roots for forwarding server events cannot be read.
    #[error("the forwarding of server events: cannot read {0}: {1}")]
    ForwardRoots(PathBuf, #[source] std::io::Error),
    /// The system has no more threads.
    #[error("cannot start a thread for server events: {0}")]
    Thread(#[source] std::io::Error),
    /// The certificate or key of the receiver of server events cannot be used.
    #[error("the receiver of server events: {0}")]
    EventsTls(#[source] TlsContextError),
    /// Delivery cannot start.
    #[error(transparent)]
    Delivery(#[from] DeliveryStartError),
    /// The state directory belongs to another agent or another user.
    #[error(transparent)]
    State(#[from] StateDirError),
    /// Signals cannot be caught.
    #[error("cannot listen for signals: {0}")]
    Signal(#[from] std::io::Error),
}

impl AgentError {
    /// Whether the same start may succeed later without a change by an operator.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Header(_)
            | Self::Sender { .. }
            | Self::Forward(_)
            | Self::Thread(_)
            | Self::Signal(_)
            | Self::State(StateDirError::Held(..))
            | Self::Delivery(DeliveryStartError::Runtime(_)) => true,
            Self::Tls { .. }
            | Self::OtlpTls(_)
            | Self::EventsTls(_)
            | Self::ForwardRoots(..)
            | Self::State(StateDirError::Foreign(_))
            | Self::Delivery(DeliveryStartError::Signal(_)) => false,
        }
    }
}

//! SASL inside AUTHENTICATE (RFC 9051 §6.2.2, RFC 4422): EXTERNAL, PLAIN and SCRAM-SHA-256.
//!
//! `exchange` has the first message and the reply to each challenge, `scram` the checks and the arithmetic. Not here: which
//! mechanism is used, and waiting. Called by `command`, which begins an exchange, and `session`, which continues it.

mod exchange;
mod scram;

pub use exchange::ChallengeReply;
pub(crate) use exchange::{SaslExchange, encode};
pub use scram::{HashResult, HashTask};

use crate::Secret;

/// The user who logs in, and the user whose mailbox it is.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    /// Whose mailbox it is, if not that of the user who logs in.
    pub authzid: Option<&'a str>,
    /// Who logs in.
    pub user: &'a str,
    /// Their password.
    pub password: &'a Secret,
}

/// Why an exchange is cancelled: the server breaks the mechanism's rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SaslError {
    /// A challenge after the last message of the mechanism.
    #[error("the server sent a challenge that the mechanism does not have")]
    Unasked,
    /// Over 64 KiB.
    #[error("the server's challenges are larger than 64 KiB")]
    TooLarge,
    /// Not base64.
    #[error("the server's challenge is not base64")]
    Base64,
    /// Not by the mechanism's grammar.
    #[error("the server's SCRAM message is malformed: {0}")]
    Malformed(&'static str),
    /// `m=` (RFC 5802 §5.1).
    #[error("the server demands a SCRAM extension that imaptrace does not have")]
    Mandatory,
    /// The nonce does not go on from ours.
    #[error("the server's SCRAM nonce does not go on from ours")]
    Nonce,
    /// Fewer or more iterations than accepted.
    #[error("the server asks for {0} SCRAM iterations; imaptrace takes 4096 to 600000")]
    Iterations(String),
    /// The server does not have the password either.
    #[error("the server's SCRAM signature is wrong: it does not have the password")]
    Signature,
    /// The password was not hashed in time.
    #[error("hashing the password took too long")]
    Slow,
    /// A fault of ours.
    #[error("the SCRAM exchange could not be computed")]
    Computation,
}

impl std::fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

//! One SASL exchange inside AUTHENTICATE: the first message, and the reply to each challenge (RFC 9051 §6.2.2, RFC 4422).
//!
//! A challenge that breaks the mechanism's rules is never answered: the exchange is cancelled. Not here: which mechanism is used,
//! and every wait (`probe`). Called by `command` and `session`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::{
    Credentials, SaslError,
    scram::{self, ERROR_KEPT, HashResult, HashTask, ScramSession},
};
use crate::{Mechanism, part::CommandPart};

/// All challenges of an exchange together, in base64. No mechanism here takes more than two.
const MOST: usize = 64 << 10;

/// The reply to a challenge.
#[derive(Debug)]
pub enum ChallengeReply {
    /// A line to send.
    Line(CommandPart),
    /// Nothing yet: this is to be run first, and takes a while. [`Session::hashed`](crate::Session::hashed) takes the result.
    Hash(Box<HashTask>),
    /// Nothing: the exchange is to be cancelled with a `*`.
    Cancel(SaslError),
}

/// An exchange under way.
pub(crate) struct SaslExchange {
    state: ExchangeState,
    /// Bytes of base64 that came.
    received: usize,
    /// The SCRAM messages that were sent, decoded. A password can be guessed from them, so they are wiped.
    sent: Vec<Zeroizing<Vec<u8>>>,
}

enum ExchangeState {
    /// The only message is sent.
    Sent,
    /// SCRAM: the client's first message, with this nonce, is sent.
    ScramFirst(ScramSession, Vec<u8>),
    /// SCRAM: the caller hashes the password.
    Hashing,
    /// SCRAM: the proof is sent.
    ScramFinal(ScramSession),
    /// SCRAM: the server has proved that it has the password.
    Proven,
    /// SCRAM: `e=`, and the server's name for the error.
    Failed(Vec<u8>),
    Cancelled,
}

impl std::fmt::Debug for SaslExchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SaslExchange")
    }
}

impl SaslExchange {
    /// Begins; with the first message.
    pub(crate) fn begin(mechanism: Mechanism, credentials: Credentials<'_>) -> (Self, Zeroizing<Vec<u8>>) {
        let authzid = credentials.authzid.unwrap_or_default().as_bytes();
        let mut sent = Vec::new();
        let (state, message) = match mechanism {
            Mechanism::External => (ExchangeState::Sent, Zeroizing::new(authzid.to_vec())),
            // `authzid NUL authcid NUL passwd` (RFC 4616 §2).
            Mechanism::Plain => {
                let parts = [authzid, credentials.user.as_bytes(), credentials.password.expose().as_bytes()];
                (ExchangeState::Sent, Zeroizing::new(parts.join(&0)))
            }
            Mechanism::ScramSha256 => match scram::begin(credentials) {
                Some((session, nonce, message)) => {
                    sent.push(message.clone());
                    (ExchangeState::ScramFirst(session, nonce), message)
                }
                // Names that no message can carry, and no server accepts.
                None => (ExchangeState::Cancelled, Zeroizing::default()),
            },
        };
        (Self { state, received: 0, sent }, message)
    }

    /// The reply to a challenge, the text behind the `+`.
    pub(crate) fn challenge(&mut self, text: &[u8]) -> ChallengeReply {
        self.received = self.received.saturating_add(text.len());
        let reply = self.reply(text);
        self.or_cancel(reply)
    }

    fn reply(&mut self, text: &[u8]) -> Result<ChallengeReply, SaslError> {
        if self.received > MOST {
            return Err(SaslError::TooLarge);
        }
        // After an error the exchange is cancelled.
        let state = std::mem::replace(&mut self.state, ExchangeState::Cancelled);
        if matches!(state, ExchangeState::Sent | ExchangeState::Cancelled) {
            return Err(SaslError::Unasked);
        }
        let message = STANDARD.decode(text).map_err(|_| SaslError::Base64)?;
        match (state, message.strip_prefix(b"e=")) {
            (ExchangeState::ScramFirst(..) | ExchangeState::ScramFinal(_), Some(error)) => {
                let error = error.split(|byte| *byte == b',').next().unwrap_or_default();
                self.state = ExchangeState::Failed(error.get(..ERROR_KEPT).unwrap_or(error).to_vec());
                // The tagged response follows.
                Ok(ChallengeReply::Line(line(b"")))
            }
            (ExchangeState::ScramFirst(session, nonce), None) => {
                scram::check_first(&message, &nonce)?;
                self.state = ExchangeState::Hashing;
                Ok(ChallengeReply::Hash(Box::new(HashTask::new(session, message))))
            }
            (ExchangeState::ScramFinal(mut session), None) => {
                scram::check_final(&message)?;
                scram::step(&mut session, Some(&message)).map_err(|_| SaslError::Signature)?;
                self.state = ExchangeState::Proven;
                Ok(ChallengeReply::Line(line(b"")))
            }
            _ => Err(SaslError::Unasked),
        }
    }

    /// The reply once the password is hashed.
    pub(crate) fn hashed(&mut self, result: HashResult) -> ChallengeReply {
        let reply = match (&self.state, result.message) {
            (ExchangeState::Hashing, Some(message)) => {
                self.state = ExchangeState::ScramFinal(result.session);
                let reply = line(&message);
                self.sent.push(message);
                Ok(ChallengeReply::Line(reply))
            }
            _ => Err(SaslError::Computation),
        };
        self.or_cancel(reply)
    }

    /// Cancels the exchange, whatever the server sends from here on.
    pub(crate) fn cancel(&mut self) {
        self.state = ExchangeState::Cancelled;
    }

    fn or_cancel(&mut self, reply: Result<ChallengeReply, SaslError>) -> ChallengeReply {
        reply.unwrap_or_else(|error| {
            self.cancel();
            ChallengeReply::Cancel(error)
        })
    }

    /// Whether the server may accept the login now: its proof, if the mechanism has one, has come.
    pub(crate) fn is_proven(&self) -> bool {
        matches!(self.state, ExchangeState::Sent | ExchangeState::Proven)
    }

    /// Whether the server is not owed a line.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, ExchangeState::Sent | ExchangeState::Proven | ExchangeState::Failed(_))
    }

    /// Why the server refuses, in the mechanism's own word, if that is not the password (RFC 5802 §7 `server-error-value`).
    pub(crate) fn complaint(&self) -> Option<&[u8]> {
        match &self.state {
            ExchangeState::Failed(error) if !matches!(error.as_slice(), b"invalid-proof" | b"unknown-user") => {
                Some(error)
            }
            _ => None,
        }
    }

    /// Messages that must not be shown when the server repeats them, beside names and password.
    pub(crate) fn messages(&self) -> &[Zeroizing<Vec<u8>>] {
        &self.sent
    }
}

/// A message in base64. An empty one is an empty line, but `=` on the line of a command (RFC 4959 §3).
pub(crate) fn encode(message: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(message))
}

/// A message as a line of its own.
pub(crate) fn line(message: &[u8]) -> CommandPart {
    let base64 = encode(message);
    let mut bytes = Zeroizing::new(Vec::with_capacity(base64.len() + 2));
    bytes.extend_from_slice(base64.as_bytes());
    bytes.extend_from_slice(b"\r\n");
    CommandPart { bytes, then_wait: false }
}

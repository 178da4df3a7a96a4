//! One SASL exchange inside AUTHENTICATE: the first message, and the reply to each challenge (RFC 9051 §6.2.2, RFC 4422).
//!
//! A challenge that breaks the mechanism's rules is never answered with anything that could be a secret: the exchange is
//! cancelled. Not here: which mechanism is used, and every wait (`probe`). Called by `command` and `session`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::{
    Credentials, SaslError,
    plain::plain,
    scram::{HashResult, HashTask, Scram, ScramOutcome, ScramReply},
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
#[derive(Debug)]
pub(crate) struct SaslExchange {
    state: ExchangeState,
    /// Bytes of base64 that came.
    received: usize,
    /// The messages that were sent before it was cancelled.
    given_up: Vec<Zeroizing<Vec<u8>>>,
}

#[derive(Debug)]
enum ExchangeState {
    /// The only message is sent.
    Sent,
    Scram(Box<Scram>),
    Cancelled,
}

impl SaslExchange {
    /// Begins; with the first message.
    pub(crate) fn begin(mechanism: Mechanism, credentials: Credentials<'_>) -> (Self, Zeroizing<Vec<u8>>) {
        let (state, message) = match mechanism {
            Mechanism::External => {
                (ExchangeState::Sent, Zeroizing::new(credentials.authzid.unwrap_or_default().as_bytes().to_vec()))
            }
            Mechanism::Plain => (ExchangeState::Sent, plain(credentials)),
            Mechanism::ScramSha256 => match Scram::begin(credentials) {
                Some((scram, message)) => (ExchangeState::Scram(Box::new(scram)), message),
                // Names without any letters: there are none such, and no server would take them.
                None => (ExchangeState::Cancelled, Zeroizing::default()),
            },
        };
        (Self { state, received: 0, given_up: Vec::new() }, message)
    }

    /// The reply to a challenge, the text behind the `+`.
    pub(crate) fn challenge(&mut self, text: &[u8]) -> ChallengeReply {
        self.received = self.received.saturating_add(text.len());
        let reply = match &mut self.state {
            _ if self.received > MOST => Err(SaslError::TooLarge),
            ExchangeState::Sent | ExchangeState::Cancelled => Err(SaslError::Unasked),
            ExchangeState::Scram(scram) => {
                STANDARD.decode(text).map_err(|_| SaslError::Base64).and_then(|message| scram.challenge(&message))
            }
        };
        self.or_cancel(reply)
    }

    /// The reply once the password is hashed.
    pub(crate) fn hashed(&mut self, result: HashResult) -> ChallengeReply {
        let reply = match &mut self.state {
            ExchangeState::Scram(scram) => scram.hashed(result),
            ExchangeState::Sent | ExchangeState::Cancelled => Err(SaslError::Computation),
        };
        self.or_cancel(reply)
    }

    /// Cancels the exchange, whatever the server sends from here on.
    pub(crate) fn cancel(&mut self) {
        if let ExchangeState::Scram(scram) = &self.state {
            self.given_up = scram.sent().to_vec();
        }
        self.state = ExchangeState::Cancelled;
    }

    fn or_cancel(&mut self, reply: Result<ScramReply, SaslError>) -> ChallengeReply {
        match reply {
            Ok(ScramReply::Message(message)) => ChallengeReply::Line(line(&message)),
            Ok(ScramReply::Hash(task)) => ChallengeReply::Hash(task),
            Err(error) => {
                self.cancel();
                ChallengeReply::Cancel(error)
            }
        }
    }

    /// Whether the server may let us in now: a mechanism in which it has to prove something has seen the proof.
    pub(crate) fn is_proven(&self) -> bool {
        match &self.state {
            ExchangeState::Sent => true,
            ExchangeState::Scram(scram) => matches!(scram.ended(), Some(ScramOutcome::Proven)),
            ExchangeState::Cancelled => false,
        }
    }

    /// Whether the server is not owed a line.
    pub(crate) fn is_over(&self) -> bool {
        match &self.state {
            ExchangeState::Sent => true,
            ExchangeState::Scram(scram) => scram.ended().is_some(),
            ExchangeState::Cancelled => false,
        }
    }

    /// Why the server refuses, in the mechanism's own word, if that is not the password.
    pub(crate) fn complaint(&self) -> Option<&[u8]> {
        match &self.state {
            ExchangeState::Scram(scram) => match scram.ended() {
                Some(ScramOutcome::Failed(error)) if !is_about_credentials(error) => Some(error),
                _ => None,
            },
            ExchangeState::Sent | ExchangeState::Cancelled => None,
        }
    }

    /// Messages that must not be shown when the server repeats them, beside names and password.
    pub(crate) fn messages(&self) -> &[Zeroizing<Vec<u8>>] {
        match &self.state {
            ExchangeState::Scram(scram) => scram.sent(),
            ExchangeState::Sent | ExchangeState::Cancelled => &self.given_up,
        }
    }
}

/// RFC 5802 §7 `server-error-value`: those that say that user and password do not fit.
fn is_about_credentials(error: &[u8]) -> bool {
    matches!(error, b"invalid-proof" | b"unknown-user")
}

/// A message as it stands on the line, in base64; an empty one is an empty line, but `=` where a command carries it
/// (RFC 4959 §3).
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

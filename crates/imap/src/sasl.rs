//! The SASL exchange inside AUTHENTICATE (RFC 9051 §6.2.2, RFC 4422): what is said first, and what to each challenge.
//!
//! Which mechanism is used is `probe`'s matter, and so is every wait. A challenge that does not fit is never answered with
//! anything that could be a secret: the exchange is cancelled.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::{
    Mechanism, CommandPart,
    scram::{ScramOutcome, Scram, HashTask, HashResult},
};
use crate::Secret;

/// All challenges of an exchange together, in base64. No mechanism here takes more than two.
const MOST: usize = 64 << 10;

/// Who logs in, and for whom.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    /// Whose mailbox it is, when that is somebody else than who logs in.
    pub authzid: Option<&'a str>,
    /// Who logs in.
    pub user: &'a str,
    /// Their password.
    pub password: &'a Secret,
}

/// What comes of a challenge.
#[derive(Debug)]
pub enum ChallengeReply {
    /// A line to send.
    Line(CommandPart),
    /// Nothing yet: this is to be done first, and takes a while.
    Hash(Box<HashTask>),
    /// Nothing: the exchange is to be cancelled with a `*`.
    Cancel(SaslError),
}

/// Why an exchange is cancelled: the server breaks the mechanism's rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SaslError {
    /// A challenge when there is nothing more to say.
    #[error("the server sent a challenge that the mechanism does not have")]
    Unasked,
    /// Over 64 KiB.
    #[error("the server's challenges are larger than 64 KiB")]
    TooLarge,
    /// Not base64.
    #[error("the server's challenge is not base64")]
    Base64,
    /// Not what the mechanism's grammar says.
    #[error("the server's SCRAM message is malformed: {0}")]
    Malformed(&'static str),
    /// `m=` (RFC 5802 §5.1).
    #[error("the server demands a SCRAM extension that imaptrace does not have")]
    Mandatory,
    /// The nonce does not go on from ours.
    #[error("the server's SCRAM nonce does not go on from ours")]
    Nonce,
    /// Fewer or more rounds of hashing than is sensible.
    #[error("the server asks for {0} SCRAM iterations; imaptrace takes 4096 to 600000")]
    Iterations(String),
    /// The server does not know the password either.
    #[error("the server's SCRAM signature is wrong: it does not know the password")]
    Signature,
    /// The work was not done in time.
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

/// An exchange under way.
#[derive(Debug)]
pub(super) struct SaslExchange {
    stage: ExchangeState,
    /// Base64 that came.
    heard: usize,
    /// What had been said when it was given up.
    given_up: Vec<Zeroizing<Vec<u8>>>,
}

#[derive(Debug)]
enum ExchangeState {
    /// One message was all.
    Said,
    Scram(Box<Scram>),
    Cancelled,
}

impl SaslExchange {
    /// Begins, and says what the first message is.
    pub(super) fn begin(mechanism: Mechanism, credentials: Credentials<'_>) -> (Self, Zeroizing<Vec<u8>>) {
        let (stage, message) = match mechanism {
            Mechanism::External => {
                (ExchangeState::Said, Zeroizing::new(credentials.authzid.unwrap_or_default().as_bytes().to_vec()))
            }
            Mechanism::Plain => (ExchangeState::Said, plain(credentials)),
            Mechanism::ScramSha256 => match Scram::begin(credentials) {
                Some((scram, message)) => (ExchangeState::Scram(Box::new(scram)), message),
                // Names without any letters: there are none such, and no server would take them.
                None => (ExchangeState::Cancelled, Zeroizing::default()),
            },
        };
        (Self { stage, heard: 0, given_up: Vec::new() }, message)
    }

    /// What to do about a challenge: the text behind the `+`.
    pub(super) fn challenge(&mut self, text: &[u8]) -> ChallengeReply {
        self.heard = self.heard.saturating_add(text.len());
        let answer = match &mut self.stage {
            _ if self.heard > MOST => Err(SaslError::TooLarge),
            ExchangeState::Said | ExchangeState::Cancelled => Err(SaslError::Unasked),
            ExchangeState::Scram(scram) => {
                STANDARD.decode(text).map_err(|_| SaslError::Base64).and_then(|message| scram.challenge(&message))
            }
        };
        self.or_cancel(answer)
    }

    /// What to do now that the work is done.
    pub(super) fn worked(&mut self, worked: HashResult) -> ChallengeReply {
        let answer = match &mut self.stage {
            ExchangeState::Scram(scram) => scram.worked(worked),
            ExchangeState::Said | ExchangeState::Cancelled => Err(SaslError::Computation),
        };
        self.or_cancel(answer)
    }

    /// The exchange comes to nothing, whatever the server says from here on.
    pub(super) fn cancel(&mut self) {
        if let ExchangeState::Scram(scram) = &self.stage {
            self.given_up = scram.spoken().to_vec();
        }
        self.stage = ExchangeState::Cancelled;
    }

    fn or_cancel(&mut self, answer: Result<ChallengeReply, SaslError>) -> ChallengeReply {
        answer.unwrap_or_else(|error| {
            self.cancel();
            ChallengeReply::Cancel(error)
        })
    }

    /// Whether the server may let us in now: a mechanism in which it has to prove something has seen the proof.
    pub(super) fn is_proven(&self) -> bool {
        match &self.stage {
            ExchangeState::Said => true,
            ExchangeState::Scram(scram) => matches!(scram.ended(), Some(ScramOutcome::Proven)),
            ExchangeState::Cancelled => false,
        }
    }

    /// Whether the server is not owed a line.
    pub(super) fn is_over(&self) -> bool {
        match &self.stage {
            ExchangeState::Said => true,
            ExchangeState::Scram(scram) => scram.ended().is_some(),
            ExchangeState::Cancelled => false,
        }
    }

    /// The mechanism's own word for why the server refuses, if that is not the password's fault.
    pub(super) fn complaint(&self) -> Option<&[u8]> {
        match &self.stage {
            ExchangeState::Scram(scram) => match scram.ended() {
                Some(ScramOutcome::Failed(error)) if !is_about_credentials(error) => Some(error),
                _ => None,
            },
            ExchangeState::Said | ExchangeState::Cancelled => None,
        }
    }

    /// What the server must not make us repeat, beside names and password.
    pub(super) fn spoken(&self) -> &[Zeroizing<Vec<u8>>] {
        match &self.stage {
            ExchangeState::Scram(scram) => scram.spoken(),
            ExchangeState::Said | ExchangeState::Cancelled => &self.given_up,
        }
    }
}

/// RFC 5802 §7 `server-error-value`: those that say that user and password do not fit.
fn is_about_credentials(error: &[u8]) -> bool {
    matches!(error, b"invalid-proof" | b"unknown-user")
}

/// `authzid NUL authcid NUL passwd` (RFC 4616 §2).
fn plain(credentials: Credentials<'_>) -> Zeroizing<Vec<u8>> {
    let Credentials { authzid, user, password } = credentials;
    let (authzid, password) = (authzid.unwrap_or_default(), password.expose());
    let mut message = Zeroizing::new(Vec::with_capacity(authzid.len() + user.len() + password.len() + 2));
    message.extend_from_slice(authzid.as_bytes());
    message.push(0);
    message.extend_from_slice(user.as_bytes());
    message.push(0);
    message.extend_from_slice(password.as_bytes());
    message
}

/// A message as it stands on the line, in base64; an empty one is an empty line, but `=` where a command carries it
/// (RFC 4959 §3).
pub(super) fn encode(message: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(message))
}

/// A message as a line of its own.
pub(super) fn line(message: &[u8]) -> CommandPart {
    let base64 = encode(message);
    let mut bytes = Zeroizing::new(Vec::with_capacity(base64.len() + 2));
    bytes.extend_from_slice(base64.as_bytes());
    bytes.extend_from_slice(b"\r\n");
    CommandPart { bytes, then_wait: false }
}

//! The IMAP protocol for a client that opens a mailbox and looks at the newest messages (RFC 9051, RFC 3501).
//!
//! No socket, no task, no clock: bytes go in, events come out, and every event belongs to the bytes of the same call, so the
//! caller can give it the time of the read that brought them. Memory does not grow with what a server sends: a literal is
//! counted, and kept only if it may be a name. A NO is an event like an OK.
//!
//! Not here: TLS, deadlines, the order of commands (all the caller's), IDLE, message parsing, compression.
//!
//! ```text
//! bytes ─ framer ─▶ responses ─ response, code, capability ─▶ session ─▶ events
//! command ─▶ parts to send, some after a `+` ─ sasl ─▶ replies to challenges
//! ```

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests may wait for files"))]

mod capability;
mod code;
mod command;
mod event;
mod framer;
#[cfg(any(test, fuzzing))]
pub mod fuzzed;
mod hierarchy;
mod limits;
mod mail_guard;
mod names;
mod part;
mod reported;
mod response;
mod sasl;
mod secret;
mod session;
mod utf7;
mod word;

pub use capability::Capabilities;
pub use code::{Code, referral_host};
pub use command::{Command, Encoded, FETCH_HEADERS};
pub use event::{Event, ProtocolViolation, SessionProgress, SessionState, StatusResponse};
pub use framer::{Frame, Framer, Syntax};
pub use hierarchy::{Hierarchy, suggest as suggest_mailbox};
pub use limits::Limits;
pub use mail_guard::{OffendingLine, WITHHELD};
pub use names::{CommandName, Condition, LoginMethod, Mechanism, ResponseCode, UnknownName};
pub use part::CommandPart;
pub use reported::{Reported, reported};
pub use response::{Response, StatusLine};
pub use sasl::{ChallengeReply, Credentials, HashResult, HashTask, SaslError};
pub use secret::Secret;
pub use session::Session;
pub use utf7::encode as encode_utf7;

//! The IMAP protocol for a client that opens a mailbox and looks at the newest messages (RFC 9051, RFC 3501).
//!
//! No socket, no task, no clock: bytes go in, events come out, and every event belongs to the bytes that were just
//! handed in, so `probe` can give it the stamp of the read that brought them. Memory does not grow with what a server
//! sends: a literal is counted, and kept only where a name can stand. It judges nothing: a NO is an event like an OK.
//!
//! Not here: TLS, deadlines, which command comes next (all `probe`), IDLE, message parsing, compression.
//!
//! ```text
//! bytes ─ framer ─▶ responses ─ response, code, capability ─▶ session ─▶ events
//! command ─▶ parts to send, some after a `+` ─ sasl, scram ─▶ answers to challenges
//! ```

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests may wait for files"))]

mod capability;
mod code;
mod command;
mod framer;
#[cfg(any(test, fuzzing))]
pub mod fuzzed;
mod hierarchy;
mod mail_guard;
mod names;
mod reported;
mod response;
mod sasl;
mod scram;
mod secret;
mod session;
mod utf7;
mod word;

pub use capability::Capabilities;
pub use code::{Code, referral_host};
pub use command::{Command, Encoded, FETCH_HEADERS, CommandPart};
pub use framer::{Frame, Framer, Syntax};
pub use hierarchy::{Hierarchy, suggest as suggest_mailbox};
pub use mail_guard::{OffendingLine, WITHHELD};
pub use names::{CommandName, Condition, LoginMethod, Mechanism, ResponseCode, UnknownName};
pub use reported::{Reported, reported};
pub use response::{Response, StatusLine};
pub use sasl::{ChallengeReply, Credentials, SaslError};
pub use scram::{HashTask, HashResult};
pub use secret::Secret;
pub use session::{ProtocolViolation, Event, Limits, SessionProgress, Session, SessionState};
pub use utf7::encode as encode_utf7;

//! Targets, accounts, journeys, deadlines and limits, as types that have only valid values.
//!
//! Made by `config` from files, environment and flags; read by `schedule`, `net` and `probe`. Nothing here parses a file, opens
//! a socket, reads a clock, or prints a secret.

mod choice;
mod endpoint;
mod journey;
mod kind;
mod maintenance;
mod pace;
mod target;

pub use choice::Choice;
pub use endpoint::{AddressChoice, Endpoint, EndpointError, Host, ProxyProtocol};
pub use imaptrace_imap::Limits;
pub use imaptrace_record::Security;
pub use journey::{Auth, Deadlines, Journey, Mailbox, MailboxError, Open, TagStyle, Window};
pub use kind::AddressKind;
pub use maintenance::{Glob, Hours, Maintenance, Scope};
pub use pace::RunLimits;
pub use target::{Account, Dns, NameResolver, Per, Target, Timing, TlsOptions, UserName};

//! What is to be done: targets, accounts, journeys and cadence, as values that cannot hold nonsense.
//!
//! Built by `config` from files, environment and flags, after everything was checked; read by `schedule`, `net` and
//! `probe`. Nothing here parses a file, opens a socket or reads a clock, and nothing here can be printed that is secret.

mod endpoint;
mod journey;
mod kind;
mod maintenance;
mod pace;
mod target;

pub use endpoint::{AddressChoice, Endpoint, EndpointError, Host, ProxyProtocol};
pub use imaptrace_imap::Limits;
pub use imaptrace_record::Security;
pub use journey::{Auth, Deadlines, Journey, Mailbox, MailboxError, Open, TagStyle, Window};
pub use kind::AddressKind;
pub use maintenance::{Glob, Hours, Maintenance, Scope};
pub use pace::RunLimits;
pub use target::{Account, Dns, NameResolver, Per, Target, Timing, TlsOptions, UserName};

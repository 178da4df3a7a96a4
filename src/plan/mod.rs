//! Targets, accounts, journeys, deadlines and limits, as types that have only valid values.
//!
//! Made by `config` from files, environment and flags; read by `schedule`, `net` and `probe`. Nothing here parses a file, opens
//! a socket, reads a clock, or prints a secret.

mod address_kind;
mod choice;
mod endpoint;
mod journey;
mod maintenance;
mod network;
mod run_limits;
mod shard;
mod target;

pub use address_kind::AddressKind;
pub use choice::Choice;
pub use endpoint::{AddressChoice, Endpoint, EndpointError, Host, HostPortError, ProxyProtocol};
pub use imaptrace_imap::Limits;
pub use imaptrace_record::Security;
pub use journey::{Auth, Deadlines, Journey, Mailbox, MailboxError, Open, Propagation, TagStyle, Window};
pub use maintenance::{Glob, Hours, Maintenance, Scope};
pub use network::{Network, NetworkError};
pub use run_limits::RunLimits;
pub use shard::{Shard, ordinal_of, shard_of};
pub use target::{
    Account, AccountOptions, Dns, NameResolver, SeriesPer, Target, Timing, TlsOptions, UserName, is_label,
};

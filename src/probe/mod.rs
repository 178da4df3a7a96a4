//! One run of a journey, step by step. It never fails: a failure is a finding, and the [`Run`](imaptrace_record::Run) has it.
//!
//! The caller (`agent` and `cli`) gives the ids and decides when; this module decides which step comes next, how long it may take,
//! and what each response means. It shows nothing and sends nothing but IMAP.
//!
//! ```text
//! journey   the script of a session: which step comes next, what a failure skips
//! fill      another script: fills a mailbox with messages, for `cli` alone
//! reach     script: resolve, connect, tls
//! login     script: which mechanism, and the command that goes with it
//! login_fallbacks  which mechanism an account's server accepts, where it refused the first
//! conversation  performs a command, fills its step, turns faults into findings
//! accounting    an exchange as facts of its step
//! recorder  steps of the Run; the record of a run that never ends
//! split     where a command's time went
//! uncertainty  the error bound of that
//! classify  responses and causes → error.type
//! driver    bytes ↔ session, stamps, deadlines
//! exchange  a command on the line, and its outcome
//! sasl      the turns of a login that has several
//! wait      deadlines and cancelling, for every wait
//! lateness  to whom a missed deadline is attributed
//! job       what all runs share, and one run · target_context: what a target keeps
//! certificates  certificates of a failed handshake
//! inspect   one more connection after a run whose handshake showed none · inspections: their results
//! transcript  the conversation line by line, for `probe --verbose`
//! redact    secrets and user names out of server text
//! ```

mod accounting;
mod certificates;
mod classify;
mod conversation;
mod driver;
mod exchange;
pub mod fill;
#[cfg(any(test, fuzzing))]
pub mod fuzzed;
mod inspect;
mod inspections;
mod job;
mod journey;
mod lateness;
mod login;
mod login_fallbacks;
mod reach;
mod recorder;
mod redact;
mod sasl;
mod split;
mod target_context;
mod transcript;
mod uncertainty;
mod wait;

pub use inspect::{inspect, lacks_certificate};
pub use job::{Cancel, CurrentStep, Ids, Job, Prober};
pub use recorder::{RunStub, recorded_family};
pub use target_context::TargetContext;
pub use transcript::LineSink;

#[cfg(test)]
mod tests;

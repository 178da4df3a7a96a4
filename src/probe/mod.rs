//! One run of a journey, step by step. It never fails: a failure is a finding, and the [`Run`](imaptrace_record::Run) holds what was found.
//!
//! The caller (`agent` and `cli`) gives the ids and decides when; this module decides which step comes next, how long it may take,
//! and what each response means. It shows nothing and sends nothing but IMAP.
//!
//! ```text
//! journey   the script of a session: which step comes next, what a failure skips
//! fill      another task for a session: fills a mailbox with messages, for `cli` alone
//! reach     script: resolve, connect, tls
//! login     script: which mechanism, and the command that goes with it
//! login_memory  which mechanism an account's server takes, where it refused the first
//! greeting  first lines that refuse, and are no greeting
//! conversation  performs a command, fills its step, turns faults into findings
//! accounting    an exchange as facts of its step
//! recorder  steps of the Run
//! split     where a command's time went
//! uncertainty  how far off that can be
//! classify  responses and causes → error.type
//! driver    bytes ↔ session, stamps, deadlines
//! exchange  what came of a command on the line
//! sasl      the turns of a login that has several
//! wait      deadlines and cancelling, for every wait
//! lateness  whose time it was when time was up
//! tcp_delta what the kernel saw of the connection
//! prober    what all runs share · target_context: what a target keeps · job: one run · run_stub: one that never ends
//! certificates  what a failed handshake shows of certificates
//! inspect   one more connection after a run whose handshake showed none · inspections: what they found
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
mod greeting;
mod inspect;
mod inspections;
mod job;
mod journey;
mod lateness;
mod login;
mod login_memory;
mod prober;
mod reach;
mod recorder;
mod redact;
mod run_stub;
mod sasl;
mod split;
mod target_context;
mod tcp_delta;
mod transcript;
mod uncertainty;
mod wait;

pub use inspect::{inspect, lacks_certificate};
pub use job::{Cancel, CurrentStep, Ids, Job};
pub use prober::Prober;
pub use run_stub::RunStub;
pub use target_context::TargetContext;
pub use transcript::LineSink;

#[cfg(test)]
mod tests;

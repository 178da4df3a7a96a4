//! The record of one run, as plain data.
//!
//! A [`Run`] is complete: it is printed as the JSON line, queued, replayed, drawn as a waterfall and turned into the trace, and
//! nothing shown comes from elsewhere. No format but JSON, no clock, no input or output. `probe` builds a `Run`; `latency` adds
//! baselines; `delivery`, `telemetry`, `terminal` and `status` only read it.
//!
//! Units: every duration is in seconds, rounded to 1 µs when it enters the record; every size is in bytes.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests may wait for files"))]

#[macro_use]
mod words;

mod conversation;
mod failure;
#[cfg(any(test, fuzzing))]
pub mod fuzzed;
mod ids;
mod names;
mod outcome;
pub mod printable;
mod run;
mod server_events;
mod server_times;
mod server_wait;
mod step;
mod text;
mod time;
mod tls_fault;
mod uncertainty;
mod verdict;
mod wording;

pub use conversation::{ConversationLine, LineOrigin};
pub use failure::{Blame, ErrorType};
pub use ids::{IdError, SpanId, TraceId};
pub use names::{AddressFamily, JourneyName, JourneyNameError, SetupStep, StepName};
pub use outcome::{RunOutcome, SkipReason, StepOutcome};
pub use run::{Note, NoteLevel, Run, SCHEMA, Security, Server, UsualFacts};
pub use server_events::{ServerEvent, ServerEventName, ServerEvents, ServerHost, ServerProcess, ServerProcessName};
pub use server_times::ServerTimes;
pub use server_wait::ServerWait;
pub use step::{
    ChainCertificate, ClockSource, CloseNotify, CommandState, ConnectAttempt, ConnectFacts, EventName, ResolveFacts,
    Step, StepEvent, TlsFacts, Verified,
};
pub use text::ServerText;
pub use time::{Seconds, SignedSeconds, Timestamp};
pub use tls_fault::TlsFault;
pub use verdict::{Cause, Verdict};
pub use wording::not_now;

pub use crate::printable::escape;

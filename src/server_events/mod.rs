//! What mail servers report about the sessions of runs: reading their events, and joining them with a run.
//!
//! ```text
//! dovecot_event  the JSON of one event of Dovecot, by a closed list of fields
//! assemble       the events of a session → the record's `ServerEvents`, against a run
//!   clock_offset   how far a server's clock is from ours
//! processes      samples of a server's processes → what each used in each step of a run
//! ```
//!
//! Pure: no input or output, no clock.

mod assemble;
mod clock_offset;
mod dovecot_event;
mod processes;

pub use self::{
    assemble::assemble,
    dovecot_event::{ConnectionEnds, EventKeys, ReportedEvent, parse},
    processes::{ProcessSample, account},
};

//! What mail servers report about the sessions of runs: receives their events, keeps them in memory, and finds those of a run.
//!
//! A server sends its events by HTTP ([`EventReceiver`]); a finished run takes those of its session ([`EventStore::take`]), and
//! [`assemble()`] makes the part of its record of them. The probe does not use this module. No user, address, argument or mailbox
//! name of an event leaves it.
//!
//! ```text
//! settings       what the configuration says
//! receiver       the HTTP listener and its limits; access, connections, rate: who may send, how many, how often
//! dovecot_event  the JSON of one event of Dovecot, by a closed list of fields
//! store          events that belong to no finished run yet
//!   sessions       the events by their sessions, and by which keys these are found
//!   taken          keys of runs that have taken theirs: what comes now is late
//!   silence        senders of which nothing comes
//! run_keys       what the events of a run are recognised by
//! assemble       the events of a session → the record's `ServerEvents`, against a run
//!   clock_offset   how far a server's clock is from ours
//! processes      samples of a server's processes → what each used in each step of a run
//! ```
//!
//! Called by the agent, which lets finished runs wait.

mod access;
mod assemble;
mod clock_offset;
mod connections;
mod dovecot_event;
mod processes;
mod rate;
mod receiver;
mod run_keys;
mod sessions;
mod settings;
mod silence;
mod store;
mod taken;

#[cfg(test)]
mod samples;

pub use self::{
    access::{SenderCredentials, TransportSecurity},
    assemble::assemble,
    dovecot_event::{ConnectionEnds, EventKeys, ReportedEvent, parse},
    processes::{ProcessSample, account},
    receiver::EventReceiver,
    run_keys::RunKeys,
    settings::{SenderSettings, ServerEventsSettings},
    store::{EventStore, RunReport},
};

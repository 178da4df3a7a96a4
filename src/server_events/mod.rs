//! What mail servers report about the sessions of runs: receives their events, keeps them in memory, and finds those of a run.
//!
//! A server sends its events by HTTP ([`EventReceiver`]); a finished run takes those of its session ([`EventStore::take`]), and
//! [`assemble()`] makes the part of its record of them. The probe does not use this module. No user, address, argument or mailbox
//! name of an event leaves it.
//!
//! ```text
//! settings       what the configuration says
//! receiver       the HTTP listener and its limits; access, connections, rate: who may send, how many, how often; coalesce: when its
//!                thread sleeps
//! dovecot_event  the JSON of one event of Dovecot, by a closed list of fields
//! event_counts   what became of the events of each sender
//! store          events that belong to no finished run yet
//!   sessions       the events by their sessions, and by which keys these are found
//!   taken          keys of runs that have taken theirs: what comes now is late
//!   silence        senders whose events do not arrive
//! run_keys       the keys by which events are joined with a run
//! assemble       the events of a session → the record's `ServerEvents`, against a run
//!   clock_offset   how far a server's clock is from ours
//! processes      samples of a server's processes → what each used in each step of a run
//! process_report the event with which another agent reports such samples
//! relay          in place of the store: what arrives, and samples of processes, goes to another agent
//!   forward        its queue
//!   forwarded_event  the JSON of an event that is forwarded
//! ```
//!
//! Called by the agent, which lets finished runs wait.

mod access;
mod assemble;
mod clock_offset;
mod coalesce;
mod connections;
mod dovecot_event;
mod event_counts;
mod forward;
mod forwarded_event;
mod process_report;
mod processes;
mod rate;
mod receiver;
mod relay;
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
    dovecot_event::{ConnectionEnds, EventKeys, ReportedEvent, host_text, parse},
    event_counts::{EventCounts, SenderCounts},
    forward::EventForwarder,
    process_report::{ReportedUsage, add_processes},
    processes::{ProcessSample, add_processes_of_host},
    receiver::{EventReceiver, EventSink},
    relay::EventRelay,
    run_keys::RunKeys,
    settings::{ForwardSettings, SenderSettings, ServerEventsSettings},
    store::{EventStore, RunReport},
};

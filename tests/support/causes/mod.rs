//! Real causes of slowness, injected into a real Dovecot while an agent probes it, and what both sides recorded.
//!
//! ```text
//! testbed        a line, a Dovecot behind it, a name server, an agent with its baseline; records runs
//!   agent          the program itself, on the client's side of the line
//!   event_sink     receives the events that Dovecot posts
//!   samples        the kernel's accounting of Dovecot's processes
//!   recording      runs and what the server had of each, as a file
//! verdicts       what the diagnosis says about a recording
//! injections     what a test holds while a cause is there; its drop takes the cause away
//!   control_group  CPU quotas, limits of a block device
//!   storage        a file system on a loop device, one over SFTP
//!   clients        other clients of the server: sessions that stay, wrong passwords
//!   mailbox        mail that arrives, locks, a mailbox of 100,000 messages
//!   name_server    answers with a delay
//!   background     a thread that ends with its owner
//! ```
//!
//! Needs root. Networks are namespaces of the test's own; control groups, mounts and processes end with what holds them.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses its own share of this")]

pub mod agent;
pub mod background;
pub mod clients;
pub mod control_group;
pub mod event_sink;
pub mod injections;
pub mod mailbox;
pub mod name_server;
pub mod recording;
pub mod samples;
pub mod storage;
pub mod testbed;
pub mod verdicts;

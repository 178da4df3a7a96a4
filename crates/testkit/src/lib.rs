//! What the tests of several packages share: sample runs as text, and the server's half of SCRAM.
//!
//! Depends on no package of imaptrace, so that each of them can use it in its tests. In no build of the program.

#![expect(clippy::unwrap_used, reason = "what fails in a test panics")]

mod scram;

pub use scram::Peer as ScramPeer;

/// A run that passed, as `probe --output json` prints it.
pub const PASSED_RUN: &str = include_str!("../runs/passed.json");
/// A run that failed at LOGIN.
pub const FAILED_RUN: &str = include_str!("../runs/failed.json");

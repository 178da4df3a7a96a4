//! Files whose changes count while the process runs: what shows a change, when it is read, and values made of files that are
//! read again when one of them changes.
//!
//! Does not interpret content. Called by `net` for the resolver's files and the bundle of CA certificates, by `agent` for the files
//! that it was configured with.

mod followed;
mod watched;

pub use followed::{FileFollower, Followed, Known, LOOK, NotRead, Read, ReadFuture};
pub use watched::{Changes, FileVersion, FileVersions, absent, versions};

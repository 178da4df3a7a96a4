//! Files that are followed: when a file has changed, and values that are read again then.
//!
//! Does not interpret content. Called by `net` for the resolver's files and the CA bundle, and by `agent` for its files.

mod followed;
mod watched;

pub use followed::{CHECK_INTERVAL, FileFollower, Followed, Known, NotRead, Read, ReadFuture};
pub use watched::{Changes, FileVersion, FileVersions, absent, versions};

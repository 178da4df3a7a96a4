//! Lines of a test's own: network namespaces, and between two of them a line that delays, loses and reorders.
//!
//! A TCP proxy cannot do that: a connection's round trips, its losses and its pace end at the proxy. Needs root. All of it
//! lives in open descriptors and is gone with the process, however that ends.

pub mod hosts;
pub mod line;
pub mod namespace;

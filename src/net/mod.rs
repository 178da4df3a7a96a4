//! Resolve, connect, TLS, and exact stamps below it.

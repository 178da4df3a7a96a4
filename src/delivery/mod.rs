//! The queue of runs, and the wire.

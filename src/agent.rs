//! Wires the floors together for a long life.

//! When each run starts.

//! Run to text.

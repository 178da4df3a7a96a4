//! Run to spans and metrics: pure mapping.

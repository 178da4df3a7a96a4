//! One run of a journey, step by step.

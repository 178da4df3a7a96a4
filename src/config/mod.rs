//! Text to plan.

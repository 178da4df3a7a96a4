//! Run to text: what a person, a script or a monitoring system reads of a run.
//!
//! Every function here is pure: a [`Run`](imaptrace_record::Run) and a [`Style`] in, a string out that ends with a line
//! feed, ready to be written. Nothing here writes, asks the terminal, reads a clock or the environment; `cli` does and
//! hands in what it found. Whatever came from a server or a replayed file is escaped again on its way out, so the only
//! control characters in the text are its own line feeds and, when the style has colour, its own colour sequences.
//!
//! Called by `cli` alone.

mod bar;
mod conversation;
mod failure;
mod hints;
mod json;
mod line;
mod nagios;
mod parts;
#[cfg(test)]
mod samples;
mod spread;
mod style;
mod summary;
mod table;
mod text;
mod tls_hints;
mod wait_hints;
mod waterfall;

pub use conversation::conversation_line;
pub use failure::failure;
pub use hints::hint;
pub use json::json;
pub use line::line;
pub use nagios::{Nagios, Thresholds};
pub use style::{ColorChoice, Style, Surroundings};
pub use summary::Summary;
pub use text::{duration, safe, size};
pub use waterfall::waterfall;

//! Run to text: for a person, a script or a monitoring system.
//!
//! Every function is pure: a [`Run`](imaptrace_record::Run) and a [`Style`] in, a string out that ends with a line feed. `cli`
//! reads the environment and writes. Text of a server or of a replayed file is escaped again, so the only control characters
//! are line feeds and, when the style has colour, its colour sequences. Called by `cli`.

mod bar;
mod cause_hints;
mod comparison;
mod comparison_text;
mod conversation;
mod failure;
mod hints;
mod inner_rows;
mod json;
mod kept;
mod line;
mod markdown;
mod nagios;
mod parts;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod server_samples;
mod spread;
mod style;
mod summary;
mod table;
mod text;
mod tls_hints;
mod verdict;
mod wait_hints;
mod waterfall;

pub use comparison::{Change, ComparedRun, ComparedTime, Comparison};
pub use comparison_text::comparison_text;
pub use conversation::conversation_line;
pub use failure::failure;
pub use hints::hint;
pub use json::{json, printable_json};
pub use kept::{kept, listed};
pub use line::line;
pub use markdown::{comparison_markdown, markdown};
pub use nagios::Nagios;
pub use style::{ColorChoice, StreamProperties, Style};
pub use summary::Summary;
pub use text::{duration, safe, size};
pub use waterfall::waterfall;

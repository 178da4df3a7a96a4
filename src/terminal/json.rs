//! The JSON line: the record itself, nothing added, nothing left out (docs/record.md).

use imaptrace_record::Run;
use serde::ser::Error as _;

/// Few lines are longer, in bytes.
const USUAL: usize = 8 << 10;

/// `run` as one line of JSON. Fails only for a time that no calendar has.
pub fn json(run: &Run) -> serde_json::Result<String> {
    let mut line = Vec::with_capacity(USUAL);
    serde_json::to_writer(&mut line, run)?;
    line.push(b'\n');
    String::from_utf8(line).map_err(serde_json::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::samples;

    #[test]
    fn the_line_reads_back_as_the_run() {
        for (name, run) in samples::all() {
            let line = json(&run).unwrap();
            assert_eq!(line.find('\n'), Some(line.len() - 1), "{name}");
            assert_eq!(serde_json::from_str::<Run>(&line).unwrap(), run, "{name}");
        }
    }
}

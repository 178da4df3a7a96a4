//! The JSON line: the whole record and nothing else (docs/record.md).

use imaptrace_record::Run;

/// `run` as one line of JSON. Fails only for a time that no calendar has.
pub fn json(run: &Run) -> serde_json::Result<String> {
    serde_json::to_string(run).map(|line| line + "\n")
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

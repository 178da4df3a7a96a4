//! The JSON line: the record itself, nothing added, nothing left out (contract §2).

use crate::record::Run;

/// `run` as one line of JSON. Fails only for a time that no calendar has.
pub fn json(run: &Run) -> serde_json::Result<String> {
    let mut line = serde_json::to_string(run)?;
    line.push('\n');
    Ok(line)
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

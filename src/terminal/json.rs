//! The JSON line: the whole record and nothing else (docs/record.md).

use std::fmt::Write as _;

use imaptrace_record::{Run, escape};

/// `run` as one line of JSON. Fails only for a time that no calendar has.
pub fn json(run: &Run) -> serde_json::Result<String> {
    serde_json::to_string(run).map(|line| printable_json(line) + "\n")
}

/// The same JSON without characters that could control a terminal or change the reading direction: they can only be in its
/// strings, where JSON has an escape for each.
pub fn printable_json(line: String) -> String {
    if escape(&line) == line {
        return line;
    }
    let mut printable = String::with_capacity(line.len());
    for character in line.chars() {
        if escape(character.encode_utf8(&mut [0; 4])).starts_with('\\') && character != '\\' {
            // All of them have four digits at most.
            write!(printable, "\\u{:04x}", u32::from(character)).unwrap_or(());
        } else {
            printable.push(character);
        }
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::samples;

    #[test]
    fn no_character_of_a_line_controls_a_terminal_and_all_read_back() {
        let mut run = samples::passed();
        run.target = "a\u{9b}31m\u{202e}\\\u{7f}\u{2066}\"ä\x1b\n".to_owned();
        let line = json(&run).unwrap();
        assert_eq!(escape(line.trim_end()), line.trim_end());
        assert_eq!(serde_json::from_str::<Run>(&line).unwrap(), run);
    }

    #[test]
    fn the_line_reads_back_as_the_run() {
        for (name, run) in samples::all() {
            let line = json(&run).unwrap();
            assert_eq!(line.find('\n'), Some(line.len() - 1), "{name}");
            assert_eq!(serde_json::from_str::<Run>(&line).unwrap(), run, "{name}");
        }
    }
}

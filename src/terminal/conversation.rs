//! A line of the conversation for `probe --verbose`: when, who, what.

use imaptrace_record::{ConversationLine, LineOrigin};

use super::{
    Style,
    text::{TextLine, Tone, duration, safe},
};

/// Columns of the time; a longer one moves its own line.
const TIME: usize = 10;

/// One line, however wide: it is not cut to the terminal's width.
pub fn conversation_line(line: &ConversationLine, style: Style) -> String {
    let (tone, sign) = match line.sender {
        LineOrigin::Client => (Tone::Bold, "C:"),
        LineOrigin::Server => (Tone::Plain, "S:"),
        LineOrigin::Connection => (Tone::Dim, "--"),
    };
    let mut page = String::new();
    TextLine::of(Tone::Dim, format!("{:>TIME$}", duration(line.at_s, style)))
        .push(tone, format!("  {sign} {}", safe(line.text.as_str(), style)))
        .write(Style { width: usize::MAX, ..style }, &mut page);
    page
}

#[cfg(test)]
mod tests {
    use imaptrace_record::{Seconds, ServerText};

    use super::*;

    const PLAIN: Style = Style { width: 40, colour: false, ascii: true };

    fn line(micros: u64, sender: LineOrigin, text: &str) -> ConversationLine {
        ConversationLine { at_s: Seconds::from_micros(micros), sender, text: ServerText::new(text.as_bytes(), 1000) }
    }

    #[test]
    fn times_stand_in_a_column_and_no_line_is_cut() {
        let long = "x".repeat(100);
        assert_eq!(
            conversation_line(&line(1_234, LineOrigin::Client, "a1 SELECT INBOX"), PLAIN),
            "   1.23 ms  C: a1 SELECT INBOX\n"
        );
        assert_eq!(conversation_line(&line(0, LineOrigin::Server, &long), PLAIN), format!("      0 us  S: {long}\n"));
        assert_eq!(
            conversation_line(&line(12_000_000, LineOrigin::Connection, "closed"), PLAIN),
            "    12.0 s  -- closed\n"
        );
    }

    #[test]
    fn a_line_brings_no_escape_sequence_of_its_own() {
        let shown = conversation_line(&line(5, LineOrigin::Server, "* OK \u{1b}[31m\u{202e}"), PLAIN);
        assert!(!shown.contains(['\u{1b}', '\u{202e}']) && shown.is_ascii(), "{shown}");
    }
}

//! MIME encodings of text and bytes as lines of 7-bit (RFC 2045 §6.7–6.8, RFC 2047, RFC 2231).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Longest line of an encoded body, without its CRLF (RFC 2045 §6.7, §6.8).
const LINE: usize = 76;
/// Bytes of an encoded word's text: with its frame it stays below 75 characters (RFC 2047 §2).
const WORD: usize = 42;

/// A header's unstructured text: unchanged when ASCII, else as encoded words on folded lines (RFC 2047 §2, §5).
pub(super) fn header_text(text: &str) -> String {
    if text.is_ascii() {
        return fold(text);
    }
    let mut pieces: Vec<String> = Vec::new();
    for character in text.chars() {
        match pieces.last_mut() {
            Some(piece) if piece.len() + character.len_utf8() <= WORD => piece.push(character),
            _ => pieces.push(character.into()),
        }
    }
    let words: Vec<_> = pieces.iter().map(|piece| format!("=?UTF-8?B?{}?=", STANDARD.encode(piece))).collect();
    words.join("\r\n ")
}

/// Breaks a header's text before a space, so that no line is much over 78 characters (RFC 5322 §2.1.1, §2.2.3).
pub(super) fn fold(text: &str) -> String {
    let mut folded = String::with_capacity(text.len() + 8);
    let mut column = 12; // allows for the field's name
    for (number, word) in text.split(' ').enumerate() {
        if number > 0 {
            let full = column + word.len() >= 76;
            folded.push_str(if full { "\r\n " } else { " " });
            column = if full { 1 } else { column + 1 };
        }
        folded.push_str(word);
        column += word.len();
    }
    folded
}

/// Quoted-printable (RFC 2045 §6.7) of text with `\n` at the end of each line.
pub(super) fn quoted_printable(text: &str, out: &mut Vec<u8>) {
    for line in text.lines() {
        let mut column = 0;
        let end = line.len();
        for (at, byte) in line.bytes().enumerate() {
            let plain = matches!(byte, b'!'..=b'<' | b'>'..=b'~') || (byte == b' ' && at + 1 < end);
            let width = if plain { 1 } else { 3 };
            if column + width >= LINE {
                out.extend_from_slice(b"=\r\n");
                column = 0;
            }
            if plain {
                out.push(byte);
            } else {
                out.extend_from_slice(format!("={byte:02X}").as_bytes());
            }
            column += width;
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Base64 in lines (RFC 2045 §6.8).
pub(super) fn base64_lines(bytes: &[u8], out: &mut Vec<u8>) {
    for line in bytes.chunks(LINE / 4 * 3) {
        out.extend_from_slice(STANDARD.encode(line).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// Characters of an extended value that need no encoding (RFC 2231 §7).
const EXTENDED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'-').remove(b'_');

/// A parameter of a MIME field: quoted when ASCII, else as extended value (RFC 2231 §4).
pub(super) fn parameter(name: &str, value: &str) -> String {
    if value.is_ascii() {
        return format!("{name}=\"{value}\"");
    }
    format!("{name}*=UTF-8''{}", utf8_percent_encode(value, EXTENDED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_words_are_short_whole_and_only_where_they_are_needed() {
        assert_eq!(header_text("Lunch on Friday?"), "Lunch on Friday?");
        assert_eq!(header_text("Zoë"), "=?UTF-8?B?Wm/Dqw==?=");
        let long = header_text(&"会議の資料について".repeat(4));
        for word in long.split("\r\n ") {
            let inside = word.strip_prefix("=?UTF-8?B?").and_then(|word| word.strip_suffix("?=")).unwrap();
            assert!(word.len() <= 75 && String::from_utf8(STANDARD.decode(inside).unwrap()).is_ok(), "{word}");
        }
    }

    #[test]
    fn quoted_printable_reads_back_and_keeps_its_lines_short() {
        let text = format!("{}\nGrüße = ok \n\nend\n", "wörter ".repeat(40));
        let mut out = Vec::new();
        quoted_printable(&text, &mut out);
        let encoded = String::from_utf8(out).unwrap();
        assert!(encoded.lines().all(|line| line.len() <= 76), "{encoded}");
        assert!(encoded.contains("Gr=C3=BC=C3=9Fe =3D ok=20\r\n\r\nend\r\n"), "{encoded}");
        assert_eq!(decoded(&encoded), text.replace('\n', "\r\n"));
    }

    fn decoded(encoded: &str) -> String {
        let joined = encoded.replace("=\r\n", "");
        let (mut bytes, mut rest) = (Vec::new(), joined.as_bytes());
        while let [first, more @ ..] = rest {
            if *first == b'=' {
                bytes.push(u8::from_str_radix(std::str::from_utf8(&more[..2]).unwrap(), 16).unwrap());
                rest = &more[2..];
            } else {
                bytes.push(*first);
                rest = more;
            }
        }
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn long_headers_are_folded_before_a_space() {
        let text = "word ".repeat(40);
        let folded = fold(text.trim_end());
        assert!(folded.lines().all(|line| line.len() <= 78) && folded.contains("\r\n "), "{folded}");
        assert_eq!(folded.replace("\r\n", ""), text.trim_end());
    }

    #[test]
    fn file_names_beyond_ascii_are_extended_values() {
        assert_eq!(parameter("filename", "a.pdf"), "filename=\"a.pdf\"");
        assert_eq!(parameter("filename", "Ü 1.pdf"), "filename*=UTF-8''%C3%9C%201.pdf");
    }
}

//! A message's body of about a given size: text; text and HTML; the same with an attachment.

use std::fmt::Write as _;

use super::{
    encode::{base64_lines, parameter, quoted_printable},
    random::{Purpose, Random},
    words::{FILES, WORDS},
};

/// Below this a message is text alone, from the other one up it has an attachment. Bytes.
const TEXT_ALONE: usize = 5_000;
const WITH_FILE: usize = 60_000;
/// Boundaries and the fields of the parts. Bytes.
const FRAME: usize = 600;
/// Text beside an attachment. Bytes.
const LETTER: usize = 8_000;

/// Appends the body's header fields, an empty line and the body; the whole message has about `size` bytes.
pub(super) fn append(number: u32, size: usize, message: &mut Vec<u8>) {
    let mut random = Random::new(number, Purpose::Body);
    message.extend_from_slice(b"MIME-Version: 1.0\r\n");
    let left = size.saturating_sub(message.len() + FRAME);
    if size < TEXT_ALONE {
        text(left + FRAME, &mut random, message);
    } else if size < WITH_FILE {
        alternative(left, &mut random, message);
    } else {
        with_file(left, number, &mut random, message);
    }
}

fn text(size: usize, random: &mut Random, out: &mut Vec<u8>) {
    field(out, "Content-Type: text/plain; charset=UTF-8; format=flowed");
    field(out, "Content-Transfer-Encoding: quoted-printable\r\n");
    let end = out.len() + size;
    while out.len() < end {
        let mut paragraph = String::new();
        for _ in 0..=random.below(5) {
            sentence(random, &mut paragraph);
            paragraph.push_str(" \n");
        }
        paragraph.push('\n');
        quoted_printable(&paragraph, out);
    }
}

fn html(size: usize, random: &mut Random, out: &mut Vec<u8>) {
    field(out, "Content-Type: text/html; charset=UTF-8");
    field(out, "Content-Transfer-Encoding: quoted-printable\r\n");
    let end = out.len() + size;
    quoted_printable(
        "<!DOCTYPE html>\n<html><head><meta charset=\"utf-8\"><style>p { margin: 0 0 1em; }</style></head>\n<body>",
        out,
    );
    while out.len() < end {
        let mut row =
            String::from("<table width=\"600\" cellpadding=\"0\" border=\"0\"><tr><td style=\"color:#333333\">\n<p>");
        for _ in 0..=random.below(3) {
            sentence(random, &mut row);
            row.push('\n');
        }
        let (link, image) = (random.next(), random.next());
        let _ = writeln!(
            row,
            "</p></td><td><a href=\"https://www.example.com/read?id={link:x}\"><img \
             src=\"https://img.example.com/{image:x}.png\" alt=\"\"></a></td></tr></table>"
        );
        quoted_printable(&row, out);
    }
    quoted_printable("</body></html>\n", out);
}

fn alternative(size: usize, random: &mut Random, out: &mut Vec<u8>) {
    let boundary = boundary(random);
    field(out, &format!("Content-Type: multipart/alternative;\r\n boundary=\"{boundary}\"\r\n"));
    field(out, &format!("--{boundary}"));
    text(size / 4, random, out);
    field(out, &format!("--{boundary}"));
    html(size - size / 4, random, out);
    field(out, &format!("--{boundary}--"));
}

fn with_file(size: usize, number: u32, random: &mut Random, out: &mut Vec<u8>) {
    let boundary = boundary(random);
    field(out, &format!("Content-Type: multipart/mixed;\r\n boundary=\"{boundary}\"\r\n"));
    field(out, &format!("--{boundary}"));
    alternative(LETTER, random, out);
    field(out, &format!("\r\n--{boundary}"));
    let (name, extension, media, head) = random.pick(FILES);
    let name = format!("{name} {number}.{extension}");
    field(out, &format!("Content-Type: {media};\r\n {}", parameter("name", &name)));
    field(out, "Content-Transfer-Encoding: base64");
    field(out, &format!("Content-Disposition: attachment;\r\n {}\r\n", parameter("filename", &name)));
    let left = size.saturating_sub(LETTER + FRAME);
    // 57 bytes are a line of 78.
    let mut bytes = head.to_vec();
    bytes.extend(random.bytes(left / 78 * 57));
    base64_lines(&bytes, out);
    field(out, &format!("--{boundary}--"));
}

/// Cannot occur in a body: `=_` is neither quoted-printable nor base64 (RFC 2045 §6.7, rule 1, and §6.8).
fn boundary(random: &mut Random) -> String {
    format!("----=_Part_{:016x}", random.next())
}

fn field(out: &mut Vec<u8>, line: &str) {
    out.extend_from_slice(line.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn sentence(random: &mut Random, out: &mut String) {
    for number in 0..6 + random.below(9) {
        let word = random.pick(&WORDS);
        if number == 0 {
            let mut letters = word.chars();
            out.extend(letters.next().into_iter().flat_map(char::to_uppercase));
            out.push_str(letters.as_str());
        } else {
            out.push(' ');
            out.push_str(word);
        }
    }
    out.push('.');
}

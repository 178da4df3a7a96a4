//! Searches what a program gave out for passwords and user names, in every form in which somebody could have written them.
//!
//! It is independent of the redaction in imaptrace. That reads a text in all ways and looks for the value; this writes the value
//! in all ways, piece by piece, and looks for those in the text. So neither shares the other's mistakes.

#![allow(clippy::string_slice, clippy::format_collect, reason = "what is cut here is ASCII, and all of it is short")]

use std::{
    collections::{BTreeMap, HashMap},
    io::Read as _,
    sync::Mutex,
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE},
};

/// What must not get out.
#[derive(Debug, Clone)]
pub struct Planted {
    pub user: String,
    pub password: String,
}

/// Of a password no more characters than this less one may get out in a row.
pub const PIECE: usize = 6;

/// The search. Each output is passed in unchanged; the findings are reported at the end.
pub struct Leaks {
    /// By their first bytes.
    needles: HashMap<[u8; PIECE], Vec<Needle>>,
    /// Whether any begin so: quick to ask for each byte of megabytes.
    starts: Vec<bool>,
    searched: Mutex<BTreeMap<String, (usize, usize)>>,
    found: Mutex<Vec<String>>,
}

struct Needle {
    /// In lower case, as the text is when it is searched.
    bytes: Vec<u8>,
    what: String,
}

impl Leaks {
    /// Looks for these.
    pub fn of(planted: &[Planted]) -> Self {
        let mut needles: HashMap<_, Vec<Needle>> = HashMap::new();
        let mut add = |value: &str, what: &str| {
            for (form, text) in forms(value).into_iter().chain(settled(value)) {
                let bytes = text.to_lowercase().into_bytes();
                // Seven hex digits are in some id sooner or later; the pieces beside this one are looked for.
                if bytes.len() < 12 && bytes.iter().all(u8::is_ascii_hexdigit) {
                    continue;
                }
                let start = bytes[..PIECE].try_into().unwrap();
                let needles = needles.entry(start).or_default();
                if needles.iter().all(|known| known.bytes != bytes) {
                    needles.push(Needle { bytes, what: format!("{what} {value:?} as {form}") });
                }
            }
        };
        for planted in planted {
            let characters: Vec<char> = planted.password.chars().collect();
            for piece in characters.windows(PIECE) {
                add(&piece.iter().collect::<String>(), "a piece of a password,");
            }
            add(&planted.user, "the user name");
            add(planted.user.split('@').next().unwrap(), "the user name without its domain,");
        }
        let mut starts = vec![false; 1 << 20];
        for start in needles.keys() {
            starts[place(*start)] = true;
        }
        Self { needles, starts, searched: Mutex::default(), found: Mutex::default() }
    }

    /// Searches an output, and what is in it if it is packed. Of one `kind` there may be many.
    pub fn look(&self, kind: &str, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        {
            let mut searched = self.searched.lock().unwrap();
            let (times, size) = searched.entry(kind.to_owned()).or_default();
            (*times, *size) = (*times + 1, *size + bytes.len());
        }
        let mut plain = Vec::new();
        if bytes.starts_with(&[0x1f, 0x8b]) {
            flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
            self.search(kind, &plain);
        }
        self.search(kind, bytes);
    }

    /// What is in this text, for which nobody is blamed.
    pub fn found_in(self, text: &str) -> Vec<String> {
        self.look("a text", text);
        self.found()
    }

    /// What was found so far.
    pub fn found(&self) -> Vec<String> {
        self.found.lock().unwrap().clone()
    }

    /// Prints what was searched; fails when anything was found.
    pub fn end(&self) {
        for (kind, (times, bytes)) in &*self.searched.lock().unwrap() {
            eprintln!("searched {kind}: {times} times, {bytes} bytes");
        }
        let found = self.found();
        assert!(found.is_empty(), "{} secrets got out:\n{}", found.len(), found.join("\n"));
    }

    /// As it is; with what JSON and quotes put in front of characters taken away; and with all that can fold a line.
    fn search(&self, kind: &str, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes).to_lowercase();
        let unescaped = text.replace("\\\\", "\\").replace("\\\"", "\"");
        let mut unfolded = text.replace("\\\\", "\\");
        for fold in ["\\x0d", "\\x0a", "\\r", "\\n", "\r", "\n", "\t", " ", "\""] {
            unfolded = unfolded.replace(fold, "");
        }
        for text in [&text, &unescaped, &unfolded] {
            let text = text.as_bytes();
            for at in 0..text.len().saturating_sub(PIECE - 1) {
                let start: [u8; PIECE] = text[at..at + PIECE].try_into().unwrap();
                if !self.starts[place(start)] {
                    continue;
                }
                let Some(needles) = self.needles.get(&start) else { continue };
                if let Some(needle) = needles.iter().find(|needle| text[at..].starts_with(&needle.bytes)) {
                    let around = &text[at.saturating_sub(60)..(at + 90).min(text.len())];
                    let around = String::from_utf8_lossy(around);
                    self.found.lock().unwrap().push(format!("{kind}: {}, in {around:?}", needle.what));
                    return;
                }
            }
        }
    }
}

fn place(start: [u8; PIECE]) -> usize {
    start.iter().fold(0, |sum: usize, byte| (sum.wrapping_mul(31) ^ usize::from(*byte)) & 0xf_ffff)
}

/// A value, written in every way but base64.
pub fn forms(value: &str) -> Vec<(&'static str, String)> {
    let each = |between: &str, write: &dyn Fn(u8) -> String| value.bytes().map(write).collect::<Vec<_>>().join(between);
    let quoted = |text: &str| text[1..text.len() - 1].to_owned();
    let units = value.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
    let ascii = value.chars().map(|character| match character {
        '"' | '\\' => format!("\\{character}"),
        ' '..='~' => character.to_string(),
        _ => character.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
    });
    let percent = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    let html = value.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    vec![
        ("it is", value.to_owned()),
        ("an IMAP string", value.replace('\\', "\\\\").replace('"', "\\\"")),
        ("JSON", quoted(&serde_json::to_string(value).unwrap())),
        ("JSON in ASCII", ascii.collect()),
        ("JSON in \\u alone", units),
        ("Rust's debug form", quoted(&format!("{value:?}"))),
        ("\\x bytes", each("", &|byte| format!("\\x{byte:02x}"))),
        ("octal bytes", each("", &|byte| format!("\\{byte:03o}"))),
        ("percent", each("", &percent)),
        ("percent, every byte", each("", &|byte| format!("%{byte:02x}"))),
        ("percent of a form", each("", &percent).replace("%20", "+")),
        ("HTML", html.replace('\'', "&#39;")),
        ("hex", each("", &|byte| format!("{byte:02x}"))),
        ("hex with spaces", each(" ", &|byte| format!("{byte:02x}"))),
        ("hex with colons", each(":", &|byte| format!("{byte:02X}"))),
        ("hex with hyphens", each("-", &|byte| format!("{byte:02X}"))),
        ("hex with commas", each(", ", &|byte| format!("{byte:02x}"))),
        ("0x bytes", each(", ", &|byte| format!("0x{byte:02x}"))),
        ("0x bytes with spaces", each(" ", &|byte| format!("0x{byte:02X}"))),
        ("a list of bytes", each(", ", &|byte| byte.to_string())),
        ("a list of bytes without spaces", each(",", &|byte| byte.to_string())),
        ("bytes with spaces", each(" ", &|byte| byte.to_string())),
    ]
}

/// The characters of base64 that a value alone settles, at each of its three places in a longer message.
fn settled(value: &str) -> Vec<(&'static str, String)> {
    let places = ["base64", "base64, a byte in", "base64, two bytes in"];
    let mut all = Vec::new();
    for (lead, form) in places.into_iter().enumerate() {
        let message = [&[0; 3][..lead], value.as_bytes()].concat();
        let own = (8 * lead).div_ceil(6)..8 * message.len() / 6;
        for text in [STANDARD.encode(&message), URL_SAFE.encode(&message)] {
            all.push((form, text[own.clone()].to_owned()));
        }
    }
    all
}

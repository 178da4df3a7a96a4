//! Parses the configuration file's text into figment's values, in bounded memory.
//!
//! The document of `toml_edit` takes 60 times the memory of the text: a gigabyte for 16 MiB. So of a large text `[[targets]]`,
//! `[[groups]]` and `[[windows]]`, which are nearly all of it, are parsed in parts, and the rest without them. A part with too
//! many tokens is refused before it is parsed, and the memory of the values is estimated while they are made. Interprets
//! nothing. Called by `tree`.

use std::collections::BTreeMap;

use figment::value::{Dict, Empty, Tag, Value};
use toml_edit::{Document, Item, TableLike, TomlError};
use toml_parser::{Source, lexer::TokenKind};

use crate::config::sources::positions::{self, join};

/// A smaller text is parsed as a whole.
const SMALL: usize = 256 << 10;
/// The size of a list's part, which has at least one table.
const PART_SIZE: usize = 64 << 10;
/// The tokens of a part: each takes up to 230 bytes while it is parsed.
const MOST_TOKENS: usize = 700_000;
/// The memory of the values, in bytes.
pub(crate) const MOST: usize = 210 << 20;
/// The memory of a table with its first key, and of each further key and element.
const TABLE: usize = 720;
const KEY: usize = 80;
const ELEMENT: usize = 40;
/// The levels of a key; also bounds the recursion over text from outside.
const DEEPEST: usize = 8;
/// The top-level lists of tables that make a file large.
const LISTS: [&str; 3] = ["targets", "groups", "windows"];

/// The content of the file.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Parsed {
    pub(crate) values: Dict,
    /// Top-level lists, which are empty in `values`: only the file has them, so they are not part of the merge, which copies each
    /// value.
    pub(crate) lists: Lists,
    /// The path of each key and list element as a hash, with its offset.
    pub(crate) found: Vec<(u64, u32)>,
    /// The estimated memory of the values.
    pub(crate) weight: usize,
}

pub(crate) type Lists = BTreeMap<String, Vec<Value>>;

/// Why a text cannot be parsed.
#[derive(Debug)]
pub(crate) enum ParseFailure {
    /// It is not TOML. With the offset of the parsed part.
    Syntax(TomlError, usize),
    /// It would take too much memory.
    TooMuch,
}

pub(crate) fn parse(text: &str) -> Result<Parsed, ParseFailure> {
    if text.len() >= SMALL
        && let Some(parts) = parts(text)?
        && let Some(parsed) = parse_parts(text, &parts)?
    {
        return Ok(parsed);
    }
    parse_whole(text)
}

fn parse_whole(text: &str) -> Result<Parsed, ParseFailure> {
    if text.len() >= SMALL && Source::new(text).lex().nth(MOST_TOKENS).is_some() {
        return Err(ParseFailure::TooMuch);
    }
    let document = Document::parse(text).map_err(|error| ParseFailure::Syntax(error, 0))?;
    let mut reader = FileReader::default();
    let mut values = reader.table(document.as_table(), "");
    drop(document);
    let lists = take_lists(&mut values);
    reader.finish(values, lists)
}

fn take_lists(values: &mut Dict) -> Lists {
    let lists = values.iter_mut().filter_map(|(key, value)| match value {
        Value::Array(_, elements) => Some((key.clone(), std::mem::take(elements))),
        _ => None,
    });
    lists.collect()
}

/// A part of a text: tables of one of the lists, or anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TextPart {
    start: usize,
    end: usize,
    list: Option<&'static str>,
}

/// Splits a text. None when a table of a list is apart from the list: then only the whole can be parsed.
fn parts(text: &str) -> Result<Option<Vec<TextPart>>, ParseFailure> {
    let mut parts = Vec::new();
    let mut part = TextPart { start: 0, end: 0, list: None };
    let (mut tokens, mut others) = (0, 0);
    let (mut depth, mut at_start, mut in_header) = (0_usize, true, false);
    for token in Source::new(text).lex() {
        let kind = token.kind();
        let at = token.span().start();
        if kind == TokenKind::LeftSquareBracket && at_start && depth == 0 {
            in_header = true;
            let header = text.get(at..).unwrap_or_default();
            let list = list(header);
            let inside = LISTS.into_iter().find(|name| is_below(header, name));
            let goes_on = match (list, inside) {
                // In one part with those before it.
                (Some(list), _) => part.list == Some(list) && at - part.start < PART_SIZE,
                (None, Some(name)) if part.list == Some(name) => true,
                (None, Some(_)) => return Ok(None),
                (None, None) => part.list.is_none(),
            };
            if !goes_on {
                if part.list.is_none() {
                    others += tokens;
                }
                tokens = 0;
                parts.push(TextPart { end: at, ..part });
                part = TextPart { start: at, end: at, list };
            }
        }
        match kind {
            TokenKind::Newline => in_header = false,
            TokenKind::LeftSquareBracket | TokenKind::LeftCurlyBracket if !in_header => depth += 1,
            TokenKind::RightSquareBracket | TokenKind::RightCurlyBracket if !in_header => {
                depth = depth.saturating_sub(1);
            }
            _ => {}
        }
        at_start = kind == TokenKind::Newline || at_start && kind == TokenKind::Whitespace;
        tokens += 1;
        let all = if part.list.is_none() { others + tokens } else { tokens };
        if all > MOST_TOKENS {
            return Err(ParseFailure::TooMuch);
        }
    }
    parts.push(TextPart { end: text.len(), ..part });
    Ok(Some(parts))
}

/// The list to which this header adds a table.
fn list(header: &str) -> Option<&'static str> {
    let name = header.strip_prefix("[[")?.split_once("]]")?.0.trim_matches([' ', '\t']);
    LISTS.into_iter().find(|list| *list == name)
}

/// Whether the header is that of a table inside `name`, or may be: in quotes, or with space in front.
fn is_below(header: &str, name: &str) -> bool {
    let path = header.trim_start_matches(['[', ' ', '\t', '"', '\'']);
    path.strip_prefix(name)
        .is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_alphanumeric() || "_-".contains(next)))
}

/// None when only the whole can be parsed.
fn parse_parts(text: &str, parts: &[TextPart]) -> Result<Option<Parsed>, ParseFailure> {
    let mut reader = FileReader::default();
    // The rest, at the same offsets.
    let mut rest = text.as_bytes().to_vec();
    for part in parts.iter().filter(|part| part.list.is_some()) {
        for byte in rest.get_mut(part.start..part.end).unwrap_or_default() {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    }
    let Ok(rest) = String::from_utf8(rest) else { return Ok(None) };
    let mut errors = Vec::new();
    let mut values = match Document::parse(rest.as_str()) {
        Ok(document) => reader.table(document.as_table(), ""),
        Err(error) => {
            errors.push((error, 0));
            Dict::new()
        }
    };
    drop(rest);
    if LISTS.iter().any(|list| values.contains_key(*list)) {
        return Ok(None);
    }
    let mut lists = take_lists(&mut values);
    for part in parts {
        let Some(name) = part.list else { continue };
        reader.base = part.start;
        let document = match Document::parse(text.get(part.start..part.end).unwrap_or_default()) {
            Ok(document) => document,
            Err(error) => {
                errors.push((error, part.start));
                continue;
            }
        };
        let Some(Item::ArrayOfTables(tables)) = document.as_table().get(name) else { return Ok(None) };
        let elements = lists.entry(name.to_owned()).or_insert_with(|| {
            reader.note(name, document.as_table().key(name).and_then(toml_edit::Key::span));
            values.insert(name.to_owned(), Value::Array(Tag::Default, Vec::new()));
            Vec::new()
        });
        for table in tables {
            elements.push(reader.element(table, &format!("{name}[{}]", elements.len())));
        }
        if reader.weight > MOST {
            return Err(ParseFailure::TooMuch);
        }
    }
    let first = errors.into_iter().min_by_key(|(error, base)| base + error.span().map_or(0, |span| span.start));
    match first {
        Some((error, base)) => Err(ParseFailure::Syntax(error, base)),
        None => reader.finish(values, lists).map(Some),
    }
}

/// Converts tables into figment's values and notes the offset of each key.
#[derive(Default)]
struct FileReader {
    found: Vec<(u64, u32)>,
    /// The level of the current table.
    depth: usize,
    /// The offset of the parsed part in the file.
    base: usize,
    /// The estimated memory of the values.
    weight: usize,
}

impl FileReader {
    fn finish(self, values: Dict, lists: Lists) -> Result<Parsed, ParseFailure> {
        if self.weight > MOST {
            return Err(ParseFailure::TooMuch);
        }
        Ok(Parsed { values, lists, found: self.found, weight: self.weight })
    }

    fn table(&mut self, table: &dyn TableLike, path: &str) -> Dict {
        let mut values = Dict::new();
        // The readers report an unknown key above this level.
        if self.depth > DEEPEST {
            return values;
        }
        self.depth += 1;
        if !table.is_empty() {
            self.weight += TABLE;
        }
        for (key, item) in table.iter() {
            // The values will be refused.
            if self.weight > MOST {
                break;
            }
            self.weight += KEY + key.len();
            let path = join(path, key);
            let span = table.key(key).and_then(toml_edit::Key::span).or_else(|| item.span());
            self.note(&path, span);
            if let Some(value) = self.item(item, &path) {
                values.insert(key.to_owned(), value);
            }
        }
        self.depth -= 1;
        values
    }

    fn item(&mut self, item: &Item, path: &str) -> Option<Value> {
        match item {
            Item::None => None,
            Item::Value(value) => Some(self.value(value, path)),
            Item::Table(table) => Some(Value::Dict(Tag::Default, self.table(table, path))),
            Item::ArrayOfTables(tables) => {
                let elements = tables.iter().enumerate();
                let elements = elements.map(|(index, table)| self.element(table, &format!("{path}[{index}]")));
                Some(Value::Array(Tag::Default, elements.collect()))
            }
        }
    }

    fn element(&mut self, table: &toml_edit::Table, path: &str) -> Value {
        self.weight += ELEMENT;
        self.note(path, table.span());
        Value::Dict(Tag::Default, self.table(table, path))
    }

    fn value(&mut self, value: &toml_edit::Value, path: &str) -> Value {
        match value {
            toml_edit::Value::String(text) => {
                self.weight += text.value().len();
                Value::from(text.value().as_str())
            }
            toml_edit::Value::Integer(number) => Value::from(*number.value()),
            toml_edit::Value::Float(number) => Value::from(*number.value()),
            toml_edit::Value::Boolean(flag) => Value::from(*flag.value()),
            // No key is a date, and TOML has no empty value: this one represents a date.
            toml_edit::Value::Datetime(_) => Value::Empty(Tag::Default, Empty::Unit),
            toml_edit::Value::InlineTable(table) => Value::Dict(Tag::Default, self.table(table, path)),
            toml_edit::Value::Array(array) => {
                let elements = array.iter().enumerate().map(|(index, element)| {
                    self.weight += ELEMENT;
                    let path = format!("{path}[{index}]");
                    self.note(&path, element.span());
                    self.value(element, &path)
                });
                Value::Array(Tag::Default, elements.collect())
            }
        }
    }

    fn note(&mut self, path: &str, span: Option<std::ops::Range<usize>>) {
        if let Some(span) = span {
            self.found.push((positions::hash(path), u32::try_from(self.base + span.start).unwrap_or(u32::MAX)));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// In an order of its own, without what is there twice, and without the estimate, to which each part adds its own tables.
    fn sorted(mut parsed: Parsed) -> Parsed {
        parsed.weight = 0;
        parsed.found.sort_by_key(|(path, _)| *path);
        parsed.found.reverse();
        parsed.found.dedup_by_key(|(path, _)| *path);
        parsed
    }

    /// Parsed in parts, however short it is; none when only the whole can be parsed.
    fn in_parts(text: &str) -> Option<Parsed> {
        parse_parts(text, &parts(text).ok()??).ok()?.map(sorted)
    }

    fn whole(text: &str) -> Option<Parsed> {
        parse_whole(text).ok().map(sorted)
    }

    #[test]
    fn a_file_in_parts_has_the_same_values_as_the_whole() {
        let text = "a = 1\n[b]\nc = [\n[1],\n[2]]\n[[targets]]\nname = \"x\"\np = { f = 1 }\n# [[groups]]\n\
                    [targets.labels]\nl = \"\"\"\n[[groups]]\n\"\"\"\n[[targets.accounts]]\nn = 1\n[[targets.accounts]]\n\
                    [[ windows ]] # w\nd = []\n[e.f]\ng = 1\n[[targets]]\nname = \"ö\"\n";
        let parts = parts(text).unwrap().unwrap();
        assert_eq!(
            parts.iter().map(|part| part.list).collect::<Vec<_>>(),
            [None, Some("targets"), Some("windows"), None, Some("targets")]
        );
        assert_eq!(in_parts(text).unwrap(), whole(text).unwrap());
    }

    #[test]
    fn a_table_apart_from_its_list_needs_the_whole() {
        for text in [
            "[targets.x]\na = 1\n[[targets]]\n",
            "[[targets]]\n[[groups]]\n[[targets.accounts]]\n",
            "targets = []\n[[targets]]\n",
            "[targets]\n[[targets]]\n",
            "[\"targets\".a]\n",
            "[[targets]]\n[ groups . x ]\n",
        ] {
            assert!(in_parts(text).is_none(), "{text}");
        }
    }

    #[test]
    fn an_error_in_a_part_has_its_position_in_the_file() {
        let good = "[[targets]]\nname = \"abcdefghijklmnopqrstuvwxyz\"\n".repeat(SMALL / 30);
        let text = format!("{good}[[targets]]\nname = \n{good}x =\n");
        let Err(ParseFailure::Syntax(error, base)) = parse(&text) else { panic!("it was read") };
        let at = base + error.span().unwrap().start;
        assert!((good.len()..good.len() + 25).contains(&at), "{at} and not {}", good.len());
    }

    #[test]
    fn what_would_take_too_much_memory_is_refused() {
        for text in [
            (0..200_000).map(|number| format!("k{number} = 1")).collect::<Vec<_>>().join("\n"),
            format!("[[targets]]\nx = [{}]\n", "1,".repeat(500_000)),
            format!("x = [{}]\n", "[],".repeat(400_000)),
            "[[targets]]\na={b={c={d=1}}}\n".repeat(100_000),
        ] {
            assert!(matches!(parse(&text), Err(ParseFailure::TooMuch)), "{} bytes", text.len());
        }
    }

    fn line() -> impl Strategy<Value = String> {
        let header = (any::<bool>(), "(targets|groups|windows|other|a)(\\.[ab])?( )?")
            .prop_map(|(list, path)| if list { format!("[[{path}]]") } else { format!("[{path}]") });
        let value = proptest::sample::select(vec!["1", "[1, 2]", "{ x = 1 }", "\"t\"", "'''\n[a]", "'''", "[", "]"]);
        prop_oneof![
            3 => header,
            3 => ("[a-d]", value).prop_map(|(key, value)| format!("{key} = {value}")),
            1 => "[\\[\\]{}\"'=.,#a ]{0,8}",
        ]
    }

    proptest! {
        #[test]
        fn any_text_in_parts_has_the_same_values_as_the_whole_or_needs_the_whole(
            lines in proptest::collection::vec(line(), 0..12),
        ) {
            let text = lines.join("\n");
            if let Some(parsed) = in_parts(&text) {
                prop_assert_eq!(Some(parsed), whole(&text), "{}", text);
            }
        }
    }
}

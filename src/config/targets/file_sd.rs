//! The files of `targets_from`, in the form of Prometheus's `file_sd_configs`: JSON or YAML, a list of
//! `{ "targets": ["HOST:PORT"], "labels": { "KEY": "VALUE" } }`.
//!
//! Finds the files, reads them and checks their form; `group` makes the targets. YAML's aliases are refused, since a few lines of
//! them can expand to gigabytes; a scalar is its text.

use std::{
    cell::Cell,
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    rc::Rc,
};

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::config::{
    problem::Place,
    sources::{
        file::{self, Kinds},
        file_pattern,
        readers::{Field, shown},
    },
    targets::{expand, options},
};

/// The levels of YAML's lists and tables; a valid file has four.
const DEEPEST: usize = 8;
/// The texts, lists and tables of a file: 100,000 targets with their own labels have a million.
const MOST_VALUES: usize = 2_000_000;
/// The labels of a file in bytes, counted for each target.
const MOST_LABELS: usize = 64 << 20;
/// The errors in one file's form that are reported.
const MOST_FAULTS: usize = 1000;

/// One target of a file.
pub(crate) struct ListedTarget {
    /// HOST, HOST:PORT or a URL.
    pub(crate) text: String,
    /// All labels, with those that begin with `__`. Shared by the targets of an entry.
    pub(crate) labels: Rc<BTreeMap<String, String>>,
    pub(crate) place: Place,
    /// `[2].targets[0]`.
    pub(crate) key: String,
}

/// The files of a pattern, as [`file_pattern::files`] finds them.
pub(crate) fn files(field: &Field<'_>, pattern: &str, watched: &mut Vec<PathBuf>) -> Vec<PathBuf> {
    if Path::new(pattern).file_name().is_some() && is_yaml(Path::new(pattern)).is_none() {
        field.error("it ends in none of .json, .yml and .yaml", "the extension gives the format");
        return Vec::new();
    }
    match file_pattern::files(pattern, "/etc/imaptrace/targets/*.json", watched) {
        Ok(found) => {
            if found.is_empty() {
                field.warn("there is no such file yet", "it is looked for again when the directory changes");
            }
            found
        }
        Err(error) => {
            if let Some(kind) = error.read {
                field.reader.note_unread(&kind.into());
            }
            field.error(error.what, error.help);
            Vec::new()
        }
    }
}

/// Whether a file is YAML or JSON, if it is one of them.
fn is_yaml(path: &Path) -> Option<bool> {
    match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "json" => Some(false),
        "yml" | "yaml" => Some(true),
        _ => None,
    }
}

/// A file that a pattern found may be gone when it is read: it belongs to those who write and remove such files. One that is
/// named itself must exist.
fn unread(field: &Field<'_>, path: &Path, is_found: bool, error: &io::Error) {
    if is_found && error.kind() == io::ErrorKind::NotFound {
        let what = format!("{} was in its directory and is gone: it gives no targets", path.display());
        return field.warn(what, "write files of targets beside and rename them; a link has to lead to a file");
    }
    field.reader.note_unread(error);
    field.error(
        format!("cannot read {}: {error}", path.display()),
        "give the path of a file that can be read, or take it out",
    );
}

/// The targets of one file, which `pattern` named or found. `field` is its key, for problems with the file as a whole.
pub(crate) fn read(field: &Field<'_>, pattern: &str, path: &Path) -> Vec<ListedTarget> {
    let text = file::read(path, Kinds::Files)
        .and_then(|bytes| String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8")));
    let is_found = pattern.contains('*');
    let Some(text) = text.map_err(|error| unread(field, path, is_found, &error)).ok() else { return Vec::new() };
    let mut walk = FileWalk { field, path, found: Vec::new(), labels: 0, faults: 0 };
    let root = if is_yaml(path) == Some(true) { yaml(&text) } else { json(&text) };
    let help = "the file holds a list of { targets = […], labels = {…} }";
    match root {
        Ok(Node { value: Value::List(entries), .. }) => {
            for (index, entry) in entries.iter().enumerate() {
                walk.entry(entry, &format!("[{index}]"));
            }
        }
        Ok(root) => walk.error(root.at, "", "expected a list", help),
        Err((at, what)) => walk.error(at, "", what, help),
    }
    walk.found
}

type Position = Option<(usize, usize)>;

/// A value of either format.
struct Node {
    value: Value,
    at: Position,
}

enum Value {
    Text(String),
    List(Vec<Node>),
    Table(Vec<(String, Node)>),
    /// A number, a truth value, or nothing.
    Other,
}

const TOO_MANY: &str = "there are more than 2,000,000 values";

/// The parser's message is about the syntax and contains no text of the file.
fn json(text: &str) -> Result<Node, (Position, String)> {
    let left = Cell::new(MOST_VALUES);
    let mut parser = serde_json::Deserializer::from_str(text);
    let read = JsonReader(&left).deserialize(&mut parser).and_then(|root| parser.end().map(|()| root));
    read.map_err(|error| {
        let details = error.to_string();
        let what = details.split_once(" at line ").map_or(details.as_str(), |(what, _)| what);
        (in_characters(text, error.line(), error.column()), format!("this is not JSON: {what}"))
    })
}

/// The parser's column is in bytes, and zero directly behind a line's end.
fn in_characters(text: &str, line: usize, column: usize) -> Position {
    let row = text.split('\n').nth(line.checked_sub(1)?)?.as_bytes();
    let before = row.get(..column.saturating_sub(1)).unwrap_or(row);
    Some((line, String::from_utf8_lossy(before).chars().count() + 1))
}

/// The parser's column is in bytes in a directive: limits it to the line's length. A CR ends a line, too.
fn within(text: &str, line: usize, column: usize) -> Position {
    let text = text.replace("\r\n", "\n");
    let row = text.split(['\n', '\r']).nth(line.checked_sub(1)?).unwrap_or_default();
    Some((line, column.min(row.chars().count() + 1)))
}

/// Reads any JSON, up to this number of values.
#[derive(Clone, Copy)]
struct JsonReader<'a>(&'a Cell<usize>);

impl<'de> DeserializeSeed<'de> for JsonReader<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> Result<Node, D::Error> {
        let left = self.0.get().checked_sub(1).ok_or_else(|| D::Error::custom(TOO_MANY))?;
        self.0.set(left);
        parser.deserialize_any(self).map(|value| Node { value, at: None })
    }
}

impl<'de> Visitor<'de> for JsonReader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = list.next_element_seed(self)? {
            nodes.push(node);
        }
        Ok(Value::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(key) = table.next_key()? {
            pairs.push((key, table.next_value_seed(self)?));
        }
        Ok(Value::Table(pairs))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Other)
    }
}

fn yaml(text: &str) -> Result<Node, (Position, String)> {
    // Lists and tables that are not closed; of a table, with the key of the next value.
    let mut open: Vec<(Node, Option<String>)> = Vec::new();
    let (mut root, mut values) = (None, 0);
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let at = within(text, error.marker().line(), error.marker().col() + 1);
            (at, format!("this is not YAML: {}", error.info()))
        })?;
        let at = Some((span.start.line(), span.start.col() + 1));
        let refuse = |what: &str| Err((at, what.to_owned()));
        let done = match event {
            Event::Alias(_) => return refuse("this is an alias: they are not taken here"),
            Event::SequenceStart(..) | Event::MappingStart(..) if open.len() >= DEEPEST => {
                return refuse("there are too many levels");
            }
            Event::DocumentStart(_) if root.is_some() => return refuse("this is a second document"),
            Event::SequenceStart(..) => {
                open.push((Node { value: Value::List(Vec::new()), at }, None));
                continue;
            }
            Event::MappingStart(..) => {
                open.push((Node { value: Value::Table(Vec::new()), at }, None));
                continue;
            }
            Event::Scalar(text, style, ..) => {
                let nothing = style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let value = if nothing { Value::Other } else { Value::Text(text.into_owned()) };
                Node { value, at }
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some((node, _)) => node,
                None => continue,
            },
            _ => continue,
        };
        values += 1;
        if values > MOST_VALUES {
            return Err((done.at, TOO_MANY.to_owned()));
        }
        let Some((parent, key)) = open.last_mut() else {
            root = Some(done);
            continue;
        };
        match (&mut parent.value, key.take(), done) {
            (Value::List(list), _, done) => list.push(done),
            (Value::Table(table), Some(key), done) => table.push((key, done)),
            (_, _, Node { value: Value::Text(text), .. }) => *key = Some(text),
            (_, _, done) => return Err((done.at, "a key is a text".to_owned())),
        }
    }
    Ok(root.unwrap_or(Node { value: Value::Other, at: None }))
}

/// Collects the targets of a file.
struct FileWalk<'a> {
    field: &'a Field<'a>,
    path: &'a Path,
    found: Vec<ListedTarget>,
    /// The labels so far in bytes, counted for each target.
    labels: usize,
    /// The errors so far.
    faults: usize,
}

impl FileWalk<'_> {
    fn place(&self, at: Position) -> Place {
        Place::Listed { path: self.path.to_owned(), at }
    }

    fn error(&mut self, at: Position, key: &str, what: impl Into<String>, help: &str) {
        self.faults += 1;
        if self.faults <= MOST_FAULTS {
            let entry = self.field.reader.entry(&options::GROUP, self.place(at), key.to_owned());
            entry.error("", what, help);
        }
    }

    fn entry(&mut self, entry: &Node, key: &str) {
        let Value::Table(pairs) = &entry.value else {
            self.error(entry.at, key, "expected a table with targets and labels", "");
            return;
        };
        let mut labels = BTreeMap::new();
        let mut targets = None;
        for (name, value) in pairs {
            match (name.as_str(), &value.value) {
                ("targets", Value::List(list)) => targets = Some(list),
                ("targets", _) => self.error(value.at, &format!("{key}.targets"), "expected a list of texts", ""),
                ("labels", Value::Table(pairs)) => {
                    for (label, value) in pairs {
                        if let Value::Text(text) = &value.value {
                            labels.insert(label.clone(), text.clone());
                        } else {
                            let key = format!("{key}.labels.{label}");
                            self.error(value.at.or(entry.at), &key, "expected text", "put it in quotes");
                        }
                    }
                }
                // No labels at all.
                ("labels", Value::Other) => {}
                ("labels", _) => self.error(value.at, &format!("{key}.labels"), "expected a table", ""),
                (other, _) => {
                    let what = format!("there is no key {}", shown(other));
                    self.error(value.at, key, what, "the keys here are targets, labels");
                }
            }
        }
        if !pairs.iter().any(|(name, _)| name == "targets") {
            self.error(entry.at, key, "it has no targets", "add targets");
        }
        let targets: &[Node] = targets.map_or(&[], Vec::as_slice);
        let size: usize = labels.iter().map(|(label, value)| label.len() + value.len()).sum();
        self.labels = self.labels.saturating_add(size.saturating_mul(targets.len()));
        if self.labels > MOST_LABELS {
            let what = "its labels, which each of its targets has, and those before it take more than 64MiB";
            return self.error(entry.at, key, what, "take out those that are not needed");
        }
        let labels = Rc::new(labels);
        for (index, target) in targets.iter().enumerate() {
            // There are too many, which `group` reports.
            if self.found.len() > expand::MOST {
                break;
            }
            let key = format!("{key}.targets[{index}]");
            match &target.value {
                Value::Text(text) => {
                    let place = self.place(target.at);
                    self.found.push(ListedTarget { text: text.clone(), labels: Rc::clone(&labels), place, key });
                }
                _ => self.error(target.at, &key, "expected text", "put it in quotes"),
            }
        }
    }
}

//! The files of `targets_from`, in the shape of Prometheus's `file_sd_configs`: JSON or YAML, a list of
//! `{ "targets": ["HOST:PORT"], "labels": { "KEY": "VALUE" } }`.
//!
//! Finds and reads the files and says what is wrong with their shape; what a target means is `group`'s affair. Of YAML,
//! aliases are refused, for a few lines of them can stand for gigabytes, and a scalar is the text as it was written.

use std::{
    cell::Cell,
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    rc::Rc,
};

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::{
    config::{
        problem::Place,
        sources::{
            file::{self, Kinds},
            readers::{Field, TreeReader, shown},
        },
        targets::{expand, options},
    },
    plan::Glob,
};

/// A list of tables of tables of texts is four deep.
const DEEPEST: usize = 8;
/// No file holds more texts, lists and tables: 100,000 targets with labels of their own hold a million.
const MOST_VALUES: usize = 2_000_000;
/// What the labels of a file may take when each target has its own, in bytes.
const MOST_LABELS: usize = 64 << 20;
/// So many faults of one file's shape are told, and the rest is left out.
const MOST_FAULTS: usize = 1000;

/// One target of a file, and what stands beside it.
pub(crate) struct ListedTarget {
    /// HOST, HOST:PORT or a URL.
    pub(crate) text: String,
    /// All labels, those that begin with `__` too. Shared by the targets of an entry.
    pub(crate) labels: Rc<BTreeMap<String, String>>,
    /// Where it stands.
    pub(crate) place: Place,
    /// `[2].targets[0]`.
    pub(crate) key: String,
}

/// The files that a pattern names, in the order of their names. `*` may stand in the last component alone, as in
/// Prometheus. Where more may turn up is added to `watched`, and so is each file.
pub(crate) fn files(reader: &TreeReader, field: &Field<'_>, pattern: &str, watched: &mut Vec<PathBuf>) -> Vec<PathBuf> {
    let path = Path::new(pattern);
    let (Some(name), Some(folder)) = (path.file_name().and_then(|name| name.to_str()), path.parent()) else {
        field.error("it is not the path of a file", "write a path such as /etc/imaptrace/targets/*.json");
        return Vec::new();
    };
    if folder.to_string_lossy().contains('*') {
        field.error("`*` stands in the last component of a path alone", "name each folder");
        return Vec::new();
    }
    if format(path).is_none() {
        field.error("it ends in none of .json, .yml and .yaml", "the ending tells how the file is read");
        return Vec::new();
    }
    if !name.contains('*') {
        watched.push(path.to_owned());
        return vec![path.to_owned()];
    }
    let folder = if folder == Path::new("") { Path::new(".") } else { folder };
    watched.push(folder.to_owned());
    let names = match file::names(folder) {
        Ok(names) => names,
        Err(error) => {
            reader.note_unread(&error);
            let what = format!("cannot read {}: {error}", folder.display());
            field.error(what, "give the path of a folder that can be read");
            return Vec::new();
        }
    };
    let glob = Glob::new(name);
    // What begins with a dot is being written, or was saved by an editor.
    let hidden = name.starts_with('.');
    let fits = |name: &str| glob.matches(name) && (hidden || !name.starts_with('.'));
    let mut found: Vec<PathBuf> = names.iter().filter(|name| fits(name)).map(|name| folder.join(name)).collect();
    found.sort();
    if found.is_empty() {
        field.warn("there is no such file yet", "it is looked for again when the folder changes");
    }
    watched.extend(found.iter().cloned());
    found
}

#[derive(Clone, Copy)]
enum FileFormat {
    Json,
    Yaml,
}

fn format(path: &Path) -> Option<FileFormat> {
    match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "json" => Some(FileFormat::Json),
        "yml" | "yaml" => Some(FileFormat::Yaml),
        _ => None,
    }
}

/// The targets of one file. `field` names it, for what is wrong with the file as a whole.
pub(crate) fn read(reader: &TreeReader, field: &Field<'_>, path: &Path) -> Vec<ListedTarget> {
    let text = match read_text(path) {
        Ok(text) => text,
        Err(error) => {
            reader.note_unread(&error);
            let what = format!("cannot read {}: {error}", path.display());
            field.error(what, "give the path of a file that can be read, or take it out");
            return Vec::new();
        }
    };
    let mut walk = FileWalk { reader, path, found: Vec::new(), labels: 0, faults: 0 };
    let root = match format(path) {
        Some(FileFormat::Yaml) => yaml(&text),
        _ => json(&text),
    };
    match root {
        Ok(root) => walk.file(&root),
        Err((at, what)) => walk.error(at, "", what, "the file holds a list of { targets = […], labels = {…} }"),
    }
    walk.found
}

fn read_text(path: &Path) -> std::io::Result<String> {
    let bytes = file::read(path, Kinds::Files)?;
    String::from_utf8(bytes).map_err(|_| std::io::Error::other("it is not UTF-8"))
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

/// What the parser says is about the shape and holds nothing of the text.
fn json(text: &str) -> Result<Node, (Position, String)> {
    let left = Cell::new(MOST_VALUES);
    let mut parser = serde_json::Deserializer::from_str(text);
    let read = JsonReader(&left).deserialize(&mut parser).and_then(|root| parser.end().map(|()| root));
    read.map_err(|error| {
        let told = error.to_string();
        let what = told.split_once(" at line ").map_or(told.as_str(), |(what, _)| what);
        (in_characters(text, error.line(), error.column()), format!("this is not JSON: {what}"))
    })
}

/// The parser counts bytes, and none of them right behind a line's end.
fn in_characters(text: &str, line: usize, column: usize) -> Position {
    let row = text.split('\n').nth(line.checked_sub(1)?)?.as_bytes();
    let before = row.get(..column.saturating_sub(1)).unwrap_or(row);
    Some((line, String::from_utf8_lossy(before).chars().count() + 1))
}

/// The parser takes bytes for characters where it reads a directive: no further than the line goes. A CR ends one, too.
fn within(text: &str, line: usize, column: usize) -> Position {
    let text = text.replace("\r\n", "\n");
    let row = text.split(['\n', '\r']).nth(line.checked_sub(1)?).unwrap_or_default();
    Some((line, column.min(row.chars().count() + 1)))
}

/// Reads any JSON, up to so many values.
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

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(text))
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

/// A list or table that is not finished: for a table, the key whose value comes next.
enum OpenNode {
    List(Vec<Node>, Position),
    Table(Vec<(String, Node)>, Option<String>, Position),
}

fn yaml(text: &str) -> Result<Node, (Position, String)> {
    let mut open: Vec<OpenNode> = Vec::new();
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
                open.push(OpenNode::List(Vec::new(), at));
                continue;
            }
            Event::MappingStart(..) => {
                open.push(OpenNode::Table(Vec::new(), None, at));
                continue;
            }
            Event::Scalar(text, style, ..) => {
                let nothing = style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let value = if nothing { Value::Other } else { Value::Text(text.into_owned()) };
                Node { value, at }
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(OpenNode::List(list, at)) => Node { value: Value::List(list), at },
                Some(OpenNode::Table(table, _, at)) => Node { value: Value::Table(table), at },
                None => continue,
            },
            _ => continue,
        };
        values += 1;
        if values > MOST_VALUES {
            return Err((done.at, TOO_MANY.to_owned()));
        }
        match open.last_mut() {
            None => root = Some(done),
            Some(OpenNode::List(list, _)) => list.push(done),
            Some(OpenNode::Table(table, key @ Some(_), _)) => table.extend(key.take().map(|key| (key, done))),
            Some(OpenNode::Table(_, key, _)) => match done.value {
                Value::Text(text) => *key = Some(text),
                _ => return Err((done.at, "a key is a text".to_owned())),
            },
        }
    }
    Ok(root.unwrap_or(Node { value: Value::Other, at: None }))
}

/// Goes through a file and collects its targets.
struct FileWalk<'a> {
    reader: &'a TreeReader,
    path: &'a Path,
    found: Vec<ListedTarget>,
    /// What the labels take so far, for each target by itself.
    labels: usize,
    /// What is wrong so far.
    faults: usize,
}

impl FileWalk<'_> {
    fn place(&self, at: Position) -> Place {
        Place::Listed { path: self.path.to_owned(), at }
    }

    fn error(&mut self, at: Position, key: &str, what: impl Into<String>, help: &str) {
        self.faults += 1;
        if self.faults > MOST_FAULTS {
            return;
        }
        self.reader.entry(&options::GROUP, self.place(at), key.to_owned()).error("", what, help);
    }

    fn file(&mut self, root: &Node) {
        let Value::List(entries) = &root.value else {
            self.error(root.at, "", "expected a list", "the file holds a list of { targets = […], labels = {…} }");
            return;
        };
        for (index, entry) in entries.iter().enumerate() {
            self.entry(entry, &format!("[{index}]"));
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
                        match &value.value {
                            Value::Text(text) => {
                                labels.insert(label.clone(), text.clone());
                            }
                            _ => self.error(
                                value.at.or(entry.at),
                                &format!("{key}.labels.{label}"),
                                "expected text",
                                "put it in quotes",
                            ),
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
            return self.error(entry.at, key, what, "take out those that nobody looks at");
        }
        let labels = Rc::new(labels);
        for (index, target) in targets.iter().enumerate() {
            // More of them are too many whatever they are, which `group` will say.
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

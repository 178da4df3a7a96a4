//! Typed readers over the merged tree. Each one notes every problem that it finds and continues.
//!
//! They check types; `targets`, `settings` and `load` give meaning to keys. A value that does not fit is shown only where it
//! cannot be a secret: numbers, durations, sizes and words of a closed list.

mod files;
mod quantity;
mod words;

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    fmt, io,
};

use figment::value::{Dict, Value};

use crate::{
    config::{
        problem::{Place, Problem, Problems, nearest},
        problem_collector::{ProblemCollector, Severity},
        sources::{
            positions::join,
            schema::{self, Schema, TableKeys},
            tree::{Merged, PROBE},
        },
    },
    secret::shown_variable,
};

/// A table with at most this many keys lists them all when a key is unknown.
const FEW: usize = 12;
/// The cost of all suggestions, in pairs of letters that are compared: each wrong name is compared with all others.
const SUGGESTIONS: usize = 50_000_000;

/// What is wrong with a file and what to do about it; none when nothing is.
pub(crate) type Complaint = Option<(String, &'static str)>;

/// The tree and the problems so far.
pub(crate) struct TreeReader {
    merged: Merged,
    schema: &'static Schema,
    noted: RefCell<ProblemCollector>,
    /// The result of [`TreeReader::check_secret`] by path and options.
    secrets: RefCell<HashMap<(String, bool, bool), Complaint>>,
    /// What suggestions may still cost.
    suggestions: Cell<usize>,
    /// The names of all variables that are set.
    variables: HashSet<String>,
    /// The errors noted in [`TreeReader::refusing`], while it runs.
    refusing: Cell<Option<usize>>,
}

impl TreeReader {
    pub(crate) fn new(
        merged: Merged,
        schema: &'static Schema,
        environment: &[(String, String)],
        errors: Vec<Problem>,
    ) -> Self {
        let mut noted = ProblemCollector::default();
        noted.unanswered = merged.unanswered;
        for error in errors {
            noted.push(Severity::Error, error);
        }
        Self {
            merged,
            schema,
            noted: RefCell::new(noted),
            secrets: RefCell::default(),
            suggestions: Cell::new(SUGGESTIONS),
            variables: environment.iter().map(|(name, _)| name.clone()).collect(),
            refusing: Cell::new(None),
        }
    }

    pub(crate) fn root(&self, keys: &'static TableKeys) -> Table<'_> {
        Field { reader: self, path: String::new(), value: &self.merged.root }.table(keys)
    }

    /// An empty table for a thing at this place, such as a target in a file of `targets_from`.
    pub(crate) fn entry(&self, keys: &'static TableKeys, place: Place, path: String) -> Table<'_> {
        Table { reader: self, path, values: None, keys, entry: Some(Entry::Listed(place)) }
    }

    /// Notes that a file could not be read, if a later attempt may succeed.
    pub(crate) fn note_unread(&self, error: &io::Error) {
        if error.kind() == io::ErrorKind::TimedOut {
            self.noted.borrow_mut().unanswered = true;
        }
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.noted.borrow().has_errors()
    }

    /// The most similar of the user's names, while suggestions cost no more than they may.
    pub(crate) fn nearest<'k>(&self, word: &str, known: impl Iterator<Item = &'k str> + Clone) -> Option<&'k str> {
        let cost = known.clone().fold(0_usize, |sum, name| sum.saturating_add(name.len().saturating_mul(word.len())));
        self.suggestions.set(self.suggestions.get().checked_sub(cost)?);
        nearest(word, known)
    }

    /// What is wrong with a secret's file, by `check`, which is called once for each path and options.
    pub(crate) fn check_secret(&self, key: &(String, bool, bool), check: impl FnOnce() -> Complaint) -> Complaint {
        if let Some(known) = self.secrets.borrow().get(key) {
            return known.clone();
        }
        let found = check();
        self.secrets.borrow_mut().insert(key.clone(), found.clone());
        found
    }

    pub(crate) fn take_refused(&self) -> Vec<Problem> {
        self.noted.borrow_mut().take_refused()
    }

    pub(crate) fn finish(self) -> Problems {
        self.noted.into_inner().finish()
    }

    /// Reads a target that a source has answered: what others answer makes no configuration invalid, so an error is a refusal.
    /// Returns whether there was one.
    pub(crate) fn refusing(&self, read: impl FnOnce()) -> bool {
        self.refusing.set(Some(0));
        read();
        self.refusing.take().is_some_and(|errors| errors > 0)
    }

    fn note(&self, mut severity: Severity, key: String, problem: Problem) {
        if let (Severity::Error, Some(errors)) = (severity, self.refusing.get()) {
            self.refusing.set(Some(errors + 1));
            severity = Severity::Refused;
        }
        self.noted.borrow_mut().push(severity, Problem { key, ..problem });
    }
}

/// A table; an absent one is empty.
#[derive(Clone)]
pub(crate) struct Table<'a> {
    pub(crate) reader: &'a TreeReader,
    path: String,
    values: Option<&'a Dict>,
    keys: &'static TableKeys,
    entry: Option<Entry<'a>>,
}

/// A thing that is not a table of the tree, and is reported as one.
#[derive(Clone)]
enum Entry<'a> {
    /// It is at this place.
    Listed(Place),
    /// It is one of many that this value stands for, and has this name.
    Expanded(&'a Value, String),
}

impl<'a> Table<'a> {
    /// Whether there is an error in this table or below it.
    pub(crate) fn has_errors(&self) -> bool {
        self.reader.noted.borrow().is_wrong(&self.path)
    }

    pub(crate) fn get(&self, key: &'static str) -> Option<Field<'a>> {
        debug_assert!(self.keys.has(key), "{key} is read but not listed");
        let value = self.values?.get(key)?;
        Some(Field { reader: self.reader, path: join(&self.path, key), value })
    }

    /// The value of a key, by the reader of its type.
    pub(crate) fn read<T>(&self, key: &'static str, read: impl FnOnce(&Field<'a>) -> Option<T>) -> Option<T> {
        self.get(key).and_then(|field| read(&field))
    }

    pub(crate) fn has(&self, key: &'static str) -> bool {
        self.get(key).is_some()
    }

    /// The text of a key that must be present.
    pub(crate) fn required(&self, key: &'static str, missing: &str, help: &str) -> Option<String> {
        if !self.has(key) {
            self.error(key, missing, help);
        }
        self.read(key, Field::text)
    }

    /// Whether it is the target of the `probe` command line.
    pub(crate) fn is_command_line(&self) -> bool {
        self.path.starts_with(PROBE)
    }

    /// Whether it is a target that a source has answered.
    pub(crate) fn is_discovered(&self) -> bool {
        matches!(self.entry, Some(Entry::Listed(Place::Discovered(_))))
    }

    /// A key's name for the user: on the command line it is a flag.
    pub(crate) fn spelt(&self, key: &'static str) -> String {
        if self.is_command_line() { format!("--{}", key.replace('_', "-")) } else { key.to_owned() }
    }

    pub(crate) fn table(&self, key: &'static str, keys: &'static TableKeys) -> Self {
        let absent = || Table { reader: self.reader, path: join(&self.path, key), values: None, keys, entry: None };
        self.get(key).map_or_else(absent, |field| field.table(keys))
    }

    pub(crate) fn tables(&self, key: &'static str, keys: &'static TableKeys) -> Vec<Self> {
        let Some(field) = self.get(key) else { return Vec::new() };
        match field.value {
            Value::Array(_, elements) => {
                return elements
                    .iter()
                    .enumerate()
                    .map(|(index, value)| field.element(index, value).table(keys))
                    .collect();
            }
            _ if field.is_raw() || field.is_table() && field.is_outside() => {
                field.error("a list of tables can only come from the file", "write it in the configuration file");
            }
            _ => field.mismatch("tables", &format!("write each under a header of its own, `[[{}]]`", field.path)),
        }
        Vec::new()
    }

    /// Notes an error in this table, or that a key is missing.
    pub(crate) fn error(&self, key: &str, what: impl Into<String>, help: impl Into<String>) {
        self.note(Severity::Error, key, what.into(), help.into());
    }

    pub(crate) fn warn(&self, key: &str, what: impl Into<String>, help: impl Into<String>) {
        self.note(Severity::Warning, key, what.into(), help.into());
    }

    fn note(&self, severity: Severity, key: &str, what: String, help: String) {
        let path = if key.is_empty() { self.path.clone() } else { join(&self.path, key) };
        let place = |value| self.reader.merged.place(&path, value);
        let (place, what) = match &self.entry {
            None => (place(self.values.and_then(|values| values.get(key))), what),
            Some(Entry::Listed(place)) => (place.clone(), what),
            Some(Entry::Expanded(value, name)) if what.contains(&shown(name)) => (place(Some(value)), what),
            Some(Entry::Expanded(value, name)) => (place(Some(value)), format!("{name}: {what}")),
        };
        self.reader.note(severity, path, Problem::new(place, what, help));
    }
}

/// One value and its path.
#[derive(Clone)]
pub(crate) struct Field<'a> {
    pub(crate) reader: &'a TreeReader,
    pub(crate) path: String,
    value: &'a Value,
}

impl<'a> Field<'a> {
    fn element(&self, index: usize, value: &'a Value) -> Self {
        Self { reader: self.reader, path: format!("{}[{index}]", self.path), value }
    }

    /// The values of a table by their keys.
    fn children(&self, values: &'a Dict) -> impl Iterator<Item = (&'a str, Self)> {
        let child = |key: &str, value| Self { reader: self.reader, path: join(&self.path, key), value };
        values.iter().map(move |(key, value)| (key.as_str(), child(key, value)))
    }

    /// An empty table for one of the many things that this value stands for.
    pub(crate) fn entry(&self, keys: &'static TableKeys, name: &str) -> Table<'a> {
        let entry = Some(Entry::Expanded(self.value, name.to_owned()));
        Table { reader: self.reader, path: self.path.clone(), values: None, keys, entry }
    }

    /// Whether it is raw text from environment or flag, which every reader parses.
    fn is_raw(&self) -> bool {
        self.value.as_str().is_some() && self.is_outside()
    }

    /// Whether it comes from environment or flag.
    pub(crate) fn is_outside(&self) -> bool {
        self.reader.merged.is_raw(self.value)
    }

    /// Notes that the value is wrong. The text must not contain a value that can be secret.
    pub(crate) fn error(&self, what: impl Into<String>, help: impl Into<String>) {
        self.note(Severity::Error, what, help);
    }

    pub(crate) fn warn(&self, what: impl Into<String>, help: impl Into<String>) {
        self.note(Severity::Warning, what, help);
    }

    /// Notes that its file cannot be used now.
    pub(crate) fn unusable(&self, what: String, help: &str) {
        self.note(Severity::Unusable, what, help);
    }

    /// Notes that its variable is not set, if so.
    pub(crate) fn check_variable(&self, name: &str) {
        if !self.reader.variables.contains(name) {
            let what = format!("the environment variable {} is not set here", shown_variable(name));
            self.note(Severity::Unset, what, "make sure that it is where the agent runs");
        }
    }

    fn note(&self, severity: Severity, what: impl Into<String>, help: impl Into<String>) {
        let place = self.reader.merged.place(&self.path, Some(self.value));
        self.reader.note(severity, self.path.clone(), Problem::new(place, what, help));
    }

    /// Notes a value of the wrong type; shows the type, not the value.
    fn mismatch(&self, expected: &str, help: &str) {
        self.error(format!("expected {expected}, found {}", kind(self.value)), help);
    }

    /// Notes that the value is not `expected`, as in "a whole number: expected 1 to 10, such as 2". It is shown: no secret has
    /// such a type.
    fn unfit(&self, expected: impl fmt::Display, help: impl Into<String>) {
        self.error(format!("{} is {expected}", self.given()), help);
    }

    /// The value as it was given, lists and tables by their kind alone.
    fn given(&self) -> String {
        match self.value {
            Value::String(_, text) => shown(text),
            Value::Bool(_, value) => value.to_string(),
            Value::Num(_, number) => match (number.to_i128(), number.to_f64()) {
                (Some(number), _) => number.to_string(),
                (None, Some(number)) => format!("{number:?}"),
                (None, None) => kind(self.value).to_owned(),
            },
            _ => kind(self.value).to_owned(),
        }
    }

    /// A table. Unknown keys are noted.
    pub(crate) fn table(&self, keys: &'static TableKeys) -> Table<'a> {
        let values = self.value.as_dict();
        match values {
            Some(values) => {
                for (key, field) in self.children(values).filter(|(key, _)| !keys.has(key)) {
                    field.unknown(key, keys);
                }
            }
            None => self.mismatch("a table", ""),
        }
        Table { reader: self.reader, path: self.path.clone(), values, keys, entry: None }
    }

    /// Notes that the table with `keys` has no such key, and where it belongs.
    fn unknown(&self, key: &str, keys: &'static TableKeys) {
        if keys.later.contains(&key) {
            return self
                .error("this version of imaptrace does not have it yet", "take it out; there is no replacement");
        }
        if self.reader.noted.borrow().is_full() {
            // It will not be shown, and a suggestion is expensive.
            return self.error("there is no such key", "");
        }
        // A table under a mistyped name is not a value in the wrong table.
        let is_table = |value: &Value| matches!(value, Value::Dict(..));
        let holds_tables = match self.value {
            Value::Array(_, elements) => elements.first().is_some_and(is_table),
            value => is_table(value) && !self.is_outside(),
        };
        let near = nearest(key, keys.keys.iter().copied());
        // `tls = true` is meant as `security`, not as a deadline.
        let is_security = key == "tls" && matches!(self.value, Value::Bool(..));
        let home = self.reader.schema.home(key, keys).filter(|_| !(holds_tables && near.is_some() || is_security));
        if let Some(home) = home {
            return self.error(format!("`{key}` belongs {}", home.words), self.move_it(key, home.table, near));
        }
        let help = match self.reader.schema.meant(if is_security { "ssl" } else { key }, keys) {
            Some(help) => help,
            None if keys.keys.len() <= FEW => format!("the keys here are {}", keys.keys.join(", ")),
            None => "docs/configuration.md has all keys".to_owned(),
        };
        self.error("there is no such key", help);
    }

    /// What to do about a key in the wrong table: the name of a variable contains the table.
    fn move_it(&self, key: &str, table: Option<&str>, near: Option<&str>) -> String {
        match (table, near) {
            (Some(table), _) if self.is_outside() => {
                let path = format!("{table}.{key}").replace('.', "__").to_ascii_uppercase();
                format!("set IMAPTRACE__{path}")
            }
            (None, _) if self.is_outside() => "write it in the configuration file".to_owned(),
            (_, Some(near)) => format!("or did you mean `{near}`?"),
            _ => String::new(),
        }
    }

    /// Notes a key of another table among keys of the user's choice: it may have been written below the wrong header. A usable
    /// one may be meant; then it is a warning. True when it cannot be used.
    pub(crate) fn foreign(&self, key: &str, keys: &[&str], what: &str, usable: bool) -> bool {
        let Some(home) = self.home(key, &schema::FREE).filter(|_| keys.contains(&key)) else { return false };
        if usable {
            let help = format!("if the key is meant: `{key}` belongs {home}, above this header");
            self.warn(format!("here it is {what}"), help);
        } else {
            let help = format!("move it above this header, below which it is {what}");
            self.error(format!("`{key}` belongs {home}"), help);
        }
        !usable
    }

    /// The table in which the key belongs, in words, if any table but `here` has it.
    pub(crate) fn home(&self, key: &str, here: &TableKeys) -> Option<String> {
        self.reader.schema.home(key, here).map(|home| home.words)
    }

    /// A table with keys of the user's choice.
    pub(crate) fn entries(&self) -> Vec<(&'a str, Self)> {
        let Some(values) = self.value.as_dict() else {
            self.mismatch("a table", "");
            return Vec::new();
        };
        self.children(values).collect()
    }

    pub(crate) fn is_table(&self) -> bool {
        matches!(self.value, Value::Dict(..))
    }

    pub(crate) fn is_list(&self) -> bool {
        matches!(self.value, Value::Array(..))
    }

    /// The text, if it is one; notes nothing.
    pub(crate) fn as_text(&self) -> Option<&'a str> {
        self.value.as_str()
    }

    /// Text that is not empty and has no control character.
    pub(crate) fn text(&self) -> Option<String> {
        match self.value.as_str() {
            None => self.mismatch("text", "put it in quotes"),
            Some("") => self.error("it is empty", "give it a value or take it out"),
            Some(text) if text.chars().any(char::is_control) => {
                self.error("it holds a control character", "take out line ends, tabs and the like");
            }
            Some(text) => return Some(text.to_owned()),
        }
        None
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(..) | Value::Char(..) => "text",
        Value::Bool(..) => "true or false",
        Value::Num(_, number) if number.to_i128().is_some() => "a whole number",
        Value::Num(..) => "a number with a fraction",
        Value::Empty(..) => "a date or time",
        Value::Dict(..) => "a table",
        Value::Array(..) => "a list",
    }
}

/// A wrong word, quoted, escaped and cut short.
pub(crate) fn shown(text: &str) -> String {
    let cut: String = text.chars().take(40).collect();
    if cut.len() < text.len() { format!("{cut:?}…") } else { format!("{cut:?}") }
}

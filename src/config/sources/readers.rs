//! Typed readers over the merged tree. They never stop at the first problem: each notes what it found and goes on.
//!
//! Knows types, not keys' meanings; those are in `target`, `otlp` and `load`. A value that does not fit is shown only
//! where it cannot be a secret: numbers, durations, sizes and words out of a closed list.

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
        problem_collector::ProblemCollector,
        sources::{
            positions::join,
            schema::{self, Schema, TableKeys},
            tree::{Merged, PROBE},
        },
    },
    secret::shown_variable,
};

/// A table with at most so many keys names them all when one is not known.
const FEW: usize = 12;
/// What all guesses together may cost, in pairs of letters that are compared: each wrong name is held against all others.
const GUESSES: usize = 50_000_000;

/// What is wrong with a file, and what to do about it; none when nothing is.
pub(crate) type Complaint = Option<(String, &'static str)>;

/// The tree and what was found wrong with it so far.
pub(crate) struct TreeReader {
    merged: Merged,
    schema: &'static Schema,
    noted: RefCell<ProblemCollector>,
    /// The files of secrets that were looked at, by path and how, and what is wrong with each.
    secrets: RefCell<HashMap<(String, bool, bool), Complaint>>,
    /// What may still be spent on finding out what was meant by a name that is not known.
    guesses: Cell<usize>,
    /// The names of all variables that are set.
    variables: HashSet<String>,
}

impl TreeReader {
    pub(crate) fn new(
        merged: Merged,
        schema: &'static Schema,
        environment: &[(String, String)],
        errors: Vec<Problem>,
    ) -> Self {
        let variables = environment.iter().map(|(name, _)| name.clone()).collect();
        let mut noted = ProblemCollector::default();
        for error in errors {
            noted.error(error);
        }
        if merged.unanswered {
            noted.unanswered();
        }
        let secrets = RefCell::default();
        Self { merged, schema, noted: RefCell::new(noted), secrets, guesses: Cell::new(GUESSES), variables }
    }

    /// The whole tree.
    pub(crate) fn root(&self, keys: &'static TableKeys) -> Table<'_> {
        let root = Field { reader: self, path: String::new(), value: &self.merged.root };
        root.table(keys)
    }

    /// An empty table that stands for something at that place, such as a target in a file of `targets_from`.
    pub(crate) fn entry(&self, keys: &'static TableKeys, place: Place, path: String) -> Table<'_> {
        Table { reader: self, path, values: None, keys, at: Some(place), part_of: None, subject: None }
    }

    /// Notes that a file could not be read, as far as that may pass.
    pub(crate) fn note_unread(&self, error: &io::Error) {
        if error.kind() == io::ErrorKind::TimedOut {
            self.noted.borrow_mut().unanswered();
        }
    }

    /// Whether anything is wrong so far.
    pub(crate) fn has_errors(&self) -> bool {
        self.noted.borrow().has_errors()
    }

    /// The nearest of names that a configuration gives itself, as long as it does not take too long to find.
    pub(crate) fn nearest<'k>(&self, word: &str, known: impl Iterator<Item = &'k str> + Clone) -> Option<&'k str> {
        let cost = known.clone().fold(0_usize, |sum, name| sum.saturating_add(name.len().saturating_mul(word.len())));
        self.guesses.set(self.guesses.get().checked_sub(cost)?);
        nearest(word, known)
    }

    /// What was found, each problem once.
    pub(crate) fn finish(self) -> Problems {
        self.noted.into_inner().finish()
    }
}

/// A table; an absent one is empty.
#[derive(Clone)]
pub(crate) struct Table<'a> {
    reader: &'a TreeReader,
    path: String,
    values: Option<&'a Dict>,
    keys: &'static TableKeys,
    /// Where all that is said of it stands, if it is no table of the tree.
    at: Option<Place>,
    /// The value in the tree that it stands for a part of.
    part_of: Option<&'a Value>,
    /// Whom of many it is said of.
    subject: Option<String>,
}

impl<'a> Table<'a> {
    /// Whether something is wrong in this table or below it.
    pub(crate) fn has_errors(&self) -> bool {
        self.reader.noted.borrow().is_wrong(&self.path)
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &'static str) -> Option<Field<'a>> {
        debug_assert!(self.keys.keys.contains(&key), "{key} is read but not listed");
        let value = self.values?.get(key)?;
        Some(Field { reader: self.reader, path: join(&self.path, key), value })
    }

    /// Whether the key is there.
    pub(crate) fn has(&self, key: &'static str) -> bool {
        self.get(key).is_some()
    }

    /// A key's name where the reader of a problem writes it: on the command line it is a flag.
    pub(crate) fn spelt(&self, key: &'static str) -> String {
        if self.path.starts_with(PROBE) { format!("--{}", key.replace('_', "-")) } else { key.to_owned() }
    }

    /// A table inside.
    pub(crate) fn table(&self, key: &'static str, keys: &'static TableKeys) -> Self {
        self.get(key).map_or_else(
            || Table {
                reader: self.reader,
                path: join(&self.path, key),
                values: None,
                keys,
                at: None,
                part_of: None,
                subject: None,
            },
            |field| field.table(keys),
        )
    }

    /// The tables of an array of tables.
    pub(crate) fn tables(&self, key: &'static str, keys: &'static TableKeys) -> Vec<Self> {
        let Some(field) = self.get(key) else { return Vec::new() };
        match field.value {
            Value::Array(_, elements) => {
                elements.iter().enumerate().map(|(index, value)| field.element(index, value).table(keys)).collect()
            }
            _ if field.is_raw() || matches!(field.value, Value::Dict(..)) && field.is_outside() => {
                field.error("a list of tables can only come from the file", "write it in the configuration file");
                Vec::new()
            }
            _ => {
                field.mismatch("tables", &format!("write each under a header of its own, `[[{}]]`", field.path));
                Vec::new()
            }
        }
    }

    /// Notes that something is wrong with, or missing from, this table.
    pub(crate) fn error(&self, key: &str, what: impl Into<String>, help: impl Into<String>) {
        let problem = self.problem(key, what.into(), help.into());
        self.reader.noted.borrow_mut().error(problem);
    }

    /// Notes something that deserves a second look.
    pub(crate) fn warn(&self, key: &str, what: impl Into<String>, help: impl Into<String>) {
        let problem = self.problem(key, what.into(), help.into());
        self.reader.noted.borrow_mut().warning(problem);
    }

    fn problem(&self, key: &str, what: String, help: String) -> Problem {
        let path = if key.is_empty() { self.path.clone() } else { join(&self.path, key) };
        let value = self.values.and_then(|values| values.get(key)).or(self.part_of);
        let place = self.at.clone().unwrap_or_else(|| self.reader.merged.place(&path, value));
        let what = match &self.subject {
            Some(subject) if !what.contains(&shown(subject)) => format!("{subject}: {what}"),
            _ => what,
        };
        Problem { place, key: path, what, help: Some(help).filter(|help| !help.is_empty()) }
    }
}

/// One value and its path.
#[derive(Clone)]
pub(crate) struct Field<'a> {
    reader: &'a TreeReader,
    pub(crate) path: String,
    value: &'a Value,
}

impl<'a> Field<'a> {
    fn element(&self, index: usize, value: &'a Value) -> Self {
        Self { reader: self.reader, path: format!("{}[{index}]", self.path), value }
    }

    /// An empty table that stands for one of the many things that this value names.
    pub(crate) fn entry(&self, keys: &'static TableKeys, subject: &str) -> Table<'a> {
        // Its place is looked up only when there is something to say: nothing is wrong with most of them.
        Table {
            reader: self.reader,
            path: self.path.clone(),
            values: None,
            keys,
            at: None,
            part_of: Some(self.value),
            subject: Some(subject.to_owned()),
        }
    }

    /// What is wrong with a secret's file, which `look` finds out once for each path and way to look at it.
    pub(crate) fn checked_secret(&self, key: &(String, bool, bool), look: impl FnOnce() -> Complaint) -> Complaint {
        if let Some(known) = self.reader.secrets.borrow().get(key) {
            return known.clone();
        }
        let found = look();
        self.reader.secrets.borrow_mut().insert(key.clone(), found.clone());
        found
    }

    /// As the method of the reader.
    pub(crate) fn nearest<'k>(&self, word: &str, known: impl Iterator<Item = &'k str> + Clone) -> Option<&'k str> {
        self.reader.nearest(word, known)
    }

    /// Where the value stands.
    pub(crate) fn place(&self) -> Place {
        self.reader.merged.place(&self.path, Some(self.value))
    }

    /// Whether it is raw text from environment or flag, which every reader interprets.
    fn is_raw(&self) -> bool {
        matches!(self.value, Value::String(..)) && self.is_outside()
    }

    /// Whether it comes from environment or flag.
    pub(crate) fn is_outside(&self) -> bool {
        self.reader.merged.is_raw(self.value)
    }

    /// Notes that the value is wrong. The text must not hold the value if that can be secret.
    pub(crate) fn error(&self, what: impl Into<String>, help: impl Into<String>) {
        let help = Some(help.into()).filter(|help| !help.is_empty());
        let problem = Problem { place: self.place(), key: self.path.clone(), what: what.into(), help };
        self.reader.noted.borrow_mut().error(problem);
    }

    /// Notes that the value deserves a second look.
    pub(crate) fn warn(&self, what: impl Into<String>, help: impl Into<String>) {
        let problem =
            Problem { place: self.place(), key: self.path.clone(), what: what.into(), help: Some(help.into()) };
        self.reader.noted.borrow_mut().warning(problem);
    }

    /// Notes that the file which it names cannot be used as things are now.
    pub(crate) fn unusable(&self, what: String, help: &str) {
        let help = Some(help.to_owned()).filter(|help| !help.is_empty());
        let problem = Problem { place: self.place(), key: self.path.clone(), what, help };
        self.reader.noted.borrow_mut().unusable(problem);
    }

    /// Notes if the variable which it names is not set.
    pub(crate) fn check_variable(&self, name: &str) {
        if !self.reader.variables.contains(name) {
            let what = format!("the environment variable {} is not set here", shown_variable(name));
            let help = Some("make sure that it is where the agent runs".to_owned());
            let problem = Problem { place: self.place(), key: self.path.clone(), what, help };
            self.reader.noted.borrow_mut().unset(problem);
        }
    }

    /// A value of the wrong type; says the type, not the value.
    fn mismatch(&self, expected: &str, help: &str) {
        self.error(format!("expected {expected}, found {}", kind(self.value)), help);
    }

    /// A value that is not `expected`, as in "a whole number: expected 1 to 10, such as 2". It is shown, for no secret is of
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

    /// A table, all its keys known.
    pub(crate) fn table(&self, keys: &'static TableKeys) -> Table<'a> {
        let values = self.value.as_dict();
        match values {
            Some(values) => self.check_keys(values, keys),
            None => self.mismatch("a table", ""),
        }
        Table { reader: self.reader, path: self.path.clone(), values, keys, at: None, part_of: None, subject: None }
    }

    fn check_keys(&self, values: &'a Dict, keys: &'static TableKeys) {
        for (key, value) in values {
            let field = Self { reader: self.reader, path: join(&self.path, key), value };
            if keys.keys.contains(&key.as_str()) {
                continue;
            }
            if keys.later.contains(&key.as_str()) {
                field
                    .error("this version of imaptrace does not have it yet", "take it out; nothing else stands for it");
                continue;
            }
            field.unknown(key, keys);
        }
    }

    /// Notes that no such key is in the table that has `keys`, and where it belongs.
    fn unknown(&self, key: &str, keys: &'static TableKeys) {
        if self.reader.noted.borrow().is_full() {
            // What was meant is found by holding the name against all others, and nobody would read it.
            self.error("there is no such key", "");
            return;
        }
        // A table under a name that is one letter off is no value that got into the wrong table.
        let is_table = |value: &Value| matches!(value, Value::Dict(..));
        let holds_tables = match self.value {
            Value::Array(_, elements) => elements.first().is_some_and(is_table),
            value => is_table(value) && !self.is_outside(),
        };
        let near = nearest(key, keys.keys.iter().copied());
        // `tls = true` asks for what `security` says, and means no deadline.
        let is_security = key == "tls" && matches!(self.value, Value::Bool(..));
        let home = self.reader.schema.home(key, keys).filter(|_| !(holds_tables && near.is_some() || is_security));
        if let Some(home) = home {
            self.error(format!("`{key}` belongs {}", home.words), self.move_it(key, home.table, near));
            return;
        }
        let help = match self.reader.schema.meant(if is_security { "ssl" } else { key }, keys) {
            Some(help) => help,
            None if keys.keys.len() <= FEW => format!("the keys here are {}", keys.keys.join(", ")),
            None => "docs/configuration.md has all keys".to_owned(),
        };
        self.error("there is no such key", help);
    }

    /// What to do about a key in the wrong table: of a variable the name says the table.
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

    /// Notes a key of another table among those of the user's own choosing, to whose header all belongs that stands below
    /// it. A usable one may be meant; then it is a warning. True when it cannot be used.
    pub(crate) fn foreign(&self, key: &str, keys: &[&str], what: &str, usable: bool) -> bool {
        let Some(home) = self.reader.schema.home(key, &schema::FREE).filter(|_| keys.contains(&key)) else {
            return false;
        };
        if usable {
            let help = format!("if the key is meant: `{key}` belongs {}, above this header", home.words);
            self.warn(format!("here it is {what}"), help);
        } else {
            let help = format!("move it above this header, below which it is {what}");
            self.error(format!("`{key}` belongs {}", home.words), help);
        }
        !usable
    }

    /// The table in which the key belongs, in words, if any table but `here` has it.
    pub(crate) fn home(&self, key: &str, here: &TableKeys) -> Option<String> {
        self.reader.schema.home(key, here).map(|home| home.words)
    }

    /// A table with keys of the user's own choosing.
    pub(crate) fn entries(&self) -> Vec<(&'a str, Self)> {
        let Some(values) = self.value.as_dict() else {
            self.mismatch("a table", "");
            return Vec::new();
        };
        let entry = |(key, value): (&'a String, &'a Value)| {
            (key.as_str(), Self { reader: self.reader, path: join(&self.path, key), value })
        };
        values.iter().map(entry).collect()
    }

    /// Whether it is a table.
    pub(crate) fn is_table(&self) -> bool {
        matches!(self.value, Value::Dict(..))
    }

    /// Whether it is a list.
    pub(crate) fn is_list(&self) -> bool {
        matches!(self.value, Value::Array(..))
    }

    /// The text, if it is one; notes nothing.
    pub(crate) fn as_text(&self) -> Option<&'a str> {
        self.value.as_str()
    }

    /// Text that is neither empty nor holds a control character.
    pub(crate) fn text(&self) -> Option<String> {
        let Some(text) = self.value.as_str() else {
            self.mismatch("text", "put it in quotes");
            return None;
        };
        if text.is_empty() {
            self.error("it is empty", "give it a value or take it out");
            return None;
        }
        if text.chars().any(char::is_control) {
            self.error("it holds a control character", "take out line ends, tabs and the like");
            return None;
        }
        Some(text.to_owned())
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

//! Typed readers over the merged tree. They never stop at the first problem: each notes what it found and goes on.
//!
//! Knows types, not keys' meanings; those are in `target`, `otlp` and `load`. A value that does not fit is shown only
//! where it cannot be a secret: numbers, durations, sizes and words out of a closed list.

use std::{
    cell::RefCell,
    collections::HashSet,
    fmt::Write as _,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use figment::value::{Dict, Value};
use nix::unistd::{AccessFlags, access};

use super::{
    keys::{self, TableKeys},
    problem::{Place, Problem, Problems, nearest},
    source::{Merged, PROBE, join},
    units::{self, UnitError},
};
use crate::secret::shown_variable;

/// A table with at most so many keys names them all when one is not known.
const FEW: usize = 12;

/// The tree and what was found wrong with it so far.
pub(super) struct Reader {
    merged: Merged,
    problems: RefCell<Problems>,
    /// The names of all variables that are set.
    variables: HashSet<String>,
}

impl Reader {
    pub(super) fn new(merged: Merged, environment: &[(String, String)], errors: Vec<Problem>) -> Self {
        let variables = environment.iter().map(|(name, _)| name.clone()).collect();
        Self { merged, problems: RefCell::new(Problems { errors, ..Problems::default() }), variables }
    }

    /// The whole tree.
    pub(super) fn root(&self, keys: &'static TableKeys) -> Table<'_> {
        let root = Field { reader: self, path: String::new(), value: &self.merged.root };
        root.table(keys)
    }

    /// An empty table that stands for something at that place, such as a target in a file of `targets_from`.
    pub(super) fn entry(&self, place: Place, path: String) -> Table<'_> {
        Table { reader: self, path, values: None, keys: &keys::GROUP, at: Some(place), subject: None }
    }

    /// Whether anything is wrong so far.
    pub(super) fn has_errors(&self) -> bool {
        !self.problems.borrow().errors.is_empty()
    }

    /// What was found, each problem once.
    pub(super) fn finish(self) -> Problems {
        let mut problems = self.problems.into_inner();
        problems.sort();
        problems.thin_out();
        problems
    }
}

/// A table; an absent one is empty.
#[derive(Clone)]
pub(super) struct Table<'a> {
    reader: &'a Reader,
    path: String,
    values: Option<&'a Dict>,
    keys: &'static TableKeys,
    /// Where all that is said of it stands, if it is no table of the tree.
    at: Option<Place>,
    /// Whom of many it is said of.
    subject: Option<String>,
}

impl<'a> Table<'a> {
    /// Whether something is wrong in this table or below it.
    pub(super) fn has_errors(&self) -> bool {
        let below =
            |key: &str| key.strip_prefix(&self.path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        self.reader.problems.borrow().errors.iter().any(|problem| below(&problem.key))
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &'static str) -> Option<Field<'a>> {
        debug_assert!(self.keys.keys.contains(&key), "{key} is read but not listed");
        let value = self.values?.get(key)?;
        Some(Field { reader: self.reader, path: join(&self.path, key), value })
    }

    /// Whether the key is there.
    pub(super) fn has(&self, key: &'static str) -> bool {
        self.get(key).is_some()
    }

    /// A key's name where the reader of a problem writes it: on the command line it is a flag.
    pub(super) fn spelt(&self, key: &'static str) -> String {
        if self.path.starts_with(PROBE) { format!("--{}", key.replace('_', "-")) } else { key.to_owned() }
    }

    /// A table inside.
    pub(super) fn table(&self, key: &'static str, keys: &'static TableKeys) -> Self {
        self.get(key).map_or_else(
            || Table { reader: self.reader, path: join(&self.path, key), values: None, keys, at: None, subject: None },
            |field| field.table(keys),
        )
    }

    /// The tables of an array of tables.
    pub(super) fn tables(&self, key: &'static str, keys: &'static TableKeys) -> Vec<Self> {
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
    pub(super) fn error(&self, key: &str, what: impl Into<String>, help: impl Into<String>) {
        let problem = self.problem(key, what.into(), help.into());
        self.reader.problems.borrow_mut().errors.push(problem);
    }

    /// Notes something that deserves a second look.
    pub(super) fn warn(&self, key: &str, what: impl Into<String>, help: impl Into<String>) {
        let problem = self.problem(key, what.into(), help.into());
        self.reader.problems.borrow_mut().warnings.push(problem);
    }

    fn problem(&self, key: &str, what: String, help: String) -> Problem {
        let path = if key.is_empty() { self.path.clone() } else { join(&self.path, key) };
        let value = self.values.and_then(|values| values.get(key));
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
pub(super) struct Field<'a> {
    reader: &'a Reader,
    pub(super) path: String,
    value: &'a Value,
}

impl<'a> Field<'a> {
    fn element(&self, index: usize, value: &'a Value) -> Self {
        Self { reader: self.reader, path: format!("{}[{index}]", self.path), value }
    }

    /// An empty table that stands for one of the many things that this value names.
    pub(super) fn entry(&self, subject: &str) -> Table<'a> {
        let entry = self.reader.entry(self.place(), self.path.clone());
        Table { subject: Some(subject.to_owned()), ..entry }
    }

    /// Where the value stands.
    pub(super) fn place(&self) -> Place {
        self.reader.merged.place(&self.path, Some(self.value))
    }

    /// Whether it is raw text from environment or flag, which every reader interprets.
    fn is_raw(&self) -> bool {
        matches!(self.value, Value::String(..)) && self.is_outside()
    }

    /// Whether it comes from environment or flag.
    pub(super) fn is_outside(&self) -> bool {
        self.reader.merged.is_raw(self.value)
    }

    /// Notes that the value is wrong. The text must not hold the value if that can be secret.
    pub(super) fn error(&self, what: impl Into<String>, help: impl Into<String>) {
        let help = Some(help.into()).filter(|help| !help.is_empty());
        let problem = Problem { place: self.place(), key: self.path.clone(), what: what.into(), help };
        self.reader.problems.borrow_mut().errors.push(problem);
    }

    /// Notes that the value deserves a second look.
    pub(super) fn warn(&self, what: impl Into<String>, help: impl Into<String>) {
        let problem =
            Problem { place: self.place(), key: self.path.clone(), what: what.into(), help: Some(help.into()) };
        self.reader.problems.borrow_mut().warnings.push(problem);
    }

    /// Notes that the file which it names cannot be used as things are now.
    pub(super) fn unusable(&self, what: String, help: &str) {
        let help = Some(help.to_owned()).filter(|help| !help.is_empty());
        let problem = Problem { place: self.place(), key: self.path.clone(), what, help };
        self.reader.problems.borrow_mut().unusable.push(problem);
    }

    /// Notes if the variable which it names is not set.
    pub(super) fn check_variable(&self, name: &str) {
        if !self.reader.variables.contains(name) {
            let what = format!("the environment variable {} is not set here", shown_variable(name));
            let help = Some("make sure that it is where the agent runs".to_owned());
            let problem = Problem { place: self.place(), key: self.path.clone(), what, help };
            self.reader.problems.borrow_mut().unset.push(problem);
        }
    }

    /// A value of the wrong type; says the type, not the value.
    fn mismatch(&self, expected: &str, help: &str) {
        self.error(format!("expected {expected}, found {}", kind(self.value)), help);
    }

    /// The same for a type that raw text could have been read as: then the text is shown, for no secret is such a type.
    fn misread(&self, expected: &str) {
        match self.value {
            Value::String(_, text) if self.is_raw() => self.error(format!("{} is not {expected}", shown(text)), ""),
            _ => self.mismatch(expected, ""),
        }
    }

    /// A table, all its keys known.
    pub(super) fn table(&self, keys: &'static TableKeys) -> Table<'a> {
        let values = self.value.as_dict();
        match values {
            Some(values) => self.check_keys(values, keys),
            None => self.mismatch("a table", ""),
        }
        Table { reader: self.reader, path: self.path.clone(), values, keys, at: None, subject: None }
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
            let help = match nearest(key, keys.keys.iter().chain(keys.later).copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None if keys.keys.len() <= FEW => format!("the keys here are {}", keys.keys.join(", ")),
                None => "docs/configuration.md has all keys".to_owned(),
            };
            field.error("there is no such key", help);
        }
    }

    /// A table with keys of the user's own choosing.
    pub(super) fn entries(&self) -> Vec<(&'a str, Self)> {
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
    pub(super) fn is_table(&self) -> bool {
        matches!(self.value, Value::Dict(..))
    }

    /// Whether it is a list.
    pub(super) fn is_list(&self) -> bool {
        matches!(self.value, Value::Array(..))
    }

    /// The text, if it is one; notes nothing.
    pub(super) fn as_text(&self) -> Option<&'a str> {
        self.value.as_str()
    }

    /// Text that is neither empty nor holds a control character.
    pub(super) fn text(&self) -> Option<String> {
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

    /// A path; a relative one is taken from the working directory.
    pub(super) fn path(&self) -> Option<PathBuf> {
        self.text().map(PathBuf::from)
    }

    /// The path of a file to read; one that cannot be read now is noted.
    pub(super) fn file(&self) -> Option<PathBuf> {
        let path = self.path()?;
        // Opening a pipe would wait for its other end.
        let opened = std::fs::metadata(&path).and_then(|meta| {
            if meta.is_file() {
                std::fs::File::open(&path).map(drop)
            } else {
                Err(std::io::Error::other("it is not a file"))
            }
        });
        if let Err(error) = opened {
            self.unusable(
                format!("cannot read {}: {error}", path.display()),
                "give the path of a file that can be read",
            );
        }
        Some(path)
    }

    /// A directory to write into. The agent makes the last component, but not what is above it: one that it can make is
    /// warned of, one that it can neither make nor write into is noted.
    pub(super) fn directory(&self) -> Option<PathBuf> {
        let path = self.path()?;
        // What is there and leads nowhere is a link, in whose place nothing can be made.
        let is_missing =
            std::fs::symlink_metadata(&path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
        let parent = path.parent().map(|parent| if parent == Path::new("") { Path::new(".") } else { parent });
        let writes = AccessFlags::W_OK | AccessFlags::X_OK;
        if is_missing && parent.is_some_and(|parent| parent.is_dir() && access(parent, writes).is_ok()) {
            self.warn(
                format!("{} is not there: the agent makes it when it first saves", path.display()),
                "make the directory, and let the user that runs the agent own it",
            );
            return Some(path);
        }
        let writable = std::fs::metadata(&path).and_then(|meta| {
            if meta.is_dir() { Ok(access(&path, writes)?) } else { Err(std::io::Error::other("it is not a directory")) }
        });
        if let Err(error) = writable {
            self.unusable(
                format!("cannot write into {}: {error}", path.display()),
                "make the directory, and let the user that runs the agent own it",
            );
        }
        Some(path)
    }

    /// `true` or `false`.
    pub(super) fn bool(&self) -> Option<bool> {
        let value = match self.value {
            Value::Bool(_, value) => Some(*value),
            Value::String(_, text) if self.is_raw() => text.parse().ok(),
            _ => None,
        };
        if value.is_none() {
            self.misread("true or false");
        }
        value
    }

    /// A whole number within bounds.
    pub(super) fn number(&self, least: u64, most: u64) -> Option<u64> {
        let number = match self.value {
            Value::Num(_, number) => number.to_i128(),
            Value::String(_, text) if self.is_raw() => text.parse().ok(),
            _ => None,
        };
        let Some(number) = number else {
            self.misread("a whole number");
            return None;
        };
        let fitting = u64::try_from(number).ok().filter(|number| (least..=most).contains(number));
        if fitting.is_none() {
            let most = if most < u64::from(u32::MAX) { format!(" to {most}") } else { " or more".to_owned() };
            self.error(format!("{number} is out of bounds: expected {least}{most}"), "");
        }
        fitting
    }

    /// A finite number above 1.
    pub(super) fn ratio(&self) -> Option<f64> {
        let number = match self.value {
            Value::Num(_, number) => number.to_f64().or_else(|| Some(i32::try_from(number.to_i128()?).ok()?.into())),
            Value::String(_, text) if self.is_raw() => text.parse().ok(),
            _ => None,
        };
        let Some(number) = number else {
            self.misread("a number");
            return None;
        };
        let fitting = Some(number).filter(|number| number.is_finite() && *number > 1.0);
        if fitting.is_none() {
            self.error(format!("{number} is out of bounds: expected more than 1"), "");
        }
        fitting
    }

    /// A duration above zero.
    pub(super) fn duration(&self) -> Option<Duration> {
        let duration = self.unit(units::parse_duration, "a duration such as \"30s\"", "s")?;
        if duration.is_zero() {
            self.error("it must be longer than zero", "");
            return None;
        }
        Some(duration)
    }

    /// A size in bytes, at least one.
    pub(super) fn size(&self) -> Option<u64> {
        let size = self.unit(units::parse_size, "a size such as \"16MiB\"", "B")?;
        if size == 0 {
            self.error("it must be larger than zero", "");
            return None;
        }
        Some(size)
    }

    /// A duration within bounds.
    pub(super) fn duration_within(&self, bounds: &RangeInclusive<Duration>) -> Option<Duration> {
        let duration = self.duration()?;
        self.within(duration, bounds, units::print_duration)
    }

    /// A size within bounds.
    pub(super) fn size_within(&self, bounds: &RangeInclusive<u64>) -> Option<u64> {
        let size = self.size()?;
        self.within(size, bounds, units::print_size)
    }

    fn within<T: PartialOrd + Copy>(&self, value: T, bounds: &RangeInclusive<T>, print: fn(T) -> String) -> Option<T> {
        let fitting = Some(value).filter(|value| bounds.contains(value));
        if fitting.is_none() {
            let (value, least, most) = (print(value), print(*bounds.start()), print(*bounds.end()));
            self.error(format!("{value} is out of bounds: expected {least} to {most}"), "");
        }
        fitting
    }

    fn unit<T>(&self, parse: impl Fn(&str) -> Result<T, UnitError>, expected: &str, unit: &str) -> Option<T> {
        match self.value {
            Value::String(_, text) => match parse(text) {
                Ok(value) => Some(value),
                Err(error) => {
                    self.error(format!("{} is {error}", shown(text)), "");
                    None
                }
            },
            Value::Num(_, number) => {
                let help = number.to_i128().map(|number| format!("write \"{number}{unit}\" if that is what you mean"));
                self.mismatch(expected, &help.unwrap_or_default());
                None
            }
            _ => {
                self.mismatch(expected, "");
                None
            }
        }
    }

    /// One word of a closed list.
    pub(super) fn choice<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let Some(text) = self.value.as_str() else {
            self.mismatch("text", "put it in quotes");
            return None;
        };
        self.word(text, words)
    }

    /// One of several words, where `text` is the field's or a part of it.
    pub(super) fn word<T: Copy>(&self, text: &str, words: &[(&str, T)]) -> Option<T> {
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let mut expected = String::new();
            for (index, (word, _)) in words.iter().enumerate() {
                let between = match index {
                    0 => "",
                    _ if index + 1 == words.len() => " or ",
                    _ => ", ",
                };
                // Writing to a string cannot fail.
                write!(expected, "{between}\"{word}\"").unwrap_or(());
            }
            let help = nearest(text, words.iter().map(|(word, _)| *word));
            let help = help.map(|near| format!("did you mean \"{near}\"?")).unwrap_or_default();
            self.error(format!("{} is not known: expected {expected}", shown(text)), help);
        }
        found.map(|(_, value)| *value)
    }

    /// A list of texts; from environment and flags with commas between them.
    pub(super) fn list(&self) -> Option<Vec<(Self, String)>> {
        match self.value {
            Value::Array(_, elements) => {
                let elements = elements.iter().enumerate().map(|(index, value)| self.element(index, value));
                Some(elements.filter_map(|element| Some((element.clone(), element.text()?))).collect())
            }
            Value::String(_, text) if self.is_raw() => {
                let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
                Some(words.map(|word| (self.clone(), word.to_owned())).collect())
            }
            _ => {
                self.mismatch("a list of texts", "write [\"a\", \"b\"]");
                None
            }
        }
    }

    /// A program and its arguments; from environment and flags in one text that is split into words, with no shell.
    pub(super) fn command(&self) -> Option<Vec<String>> {
        let words = match self.value {
            Value::String(_, text) if self.is_raw() => {
                let words = shlex::split(text);
                if words.is_none() {
                    self.error("it cannot be split into words: a quotation mark is left open", "close it");
                }
                words?
            }
            Value::Array(..) => self.list()?.into_iter().map(|(_, word)| word).collect(),
            _ => {
                self.mismatch("a list of a program and its arguments", "write [\"pass\", \"show\", \"mail01\"]");
                return None;
            }
        };
        if words.is_empty() {
            self.error("it names no program", "");
            return None;
        }
        Some(words)
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
pub(super) fn shown(text: &str) -> String {
    let cut: String = text.chars().take(40).collect();
    if cut.len() < text.len() { format!("{cut:?}…") } else { format!("{cut:?}") }
}

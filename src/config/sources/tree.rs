//! From file, environment and flags to one merged tree in which every value knows where it stands.
//!
//! figment merges (`STATE_DIRECTORY` < file < `OTEL_*` < `IMAPTRACE__*` < flags; the built-in defaults lie below and are
//! the readers') and tags each value with the provider it came from; `toml_edit` gives lines and columns. Nothing is interpreted here. The
//! process's own environment is never read: the caller hands it in.

use std::{
    cell::Cell,
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use figment::{
    Figment, Metadata, Profile, Provider, Source,
    value::{Dict, Map, Tag, Value},
};

use crate::config::{
    problem::{Place, Problem},
    sources::{
        document::{self, ParseFailure},
        file::{self, Kinds},
        otel,
        positions::{LineIndex, Positions},
        syntax,
    },
};

/// Where a configuration comes from. It has no printable form: secrets may stand in the environment.
#[derive(Clone, Default)]
pub struct Sources {
    /// The configuration file; one that is named and missing is an error.
    pub file: Option<PathBuf>,
    /// The environment, whole: `IMAPTRACE__*`, `OTEL_*` and `STATE_DIRECTORY` are picked out of it.
    pub environment: Vec<(String, String)>,
    /// Names of variables that are set to what is not UTF-8, or whose names are not, as far as they can be shown. One that would
    /// be read is an error.
    pub not_utf8: Vec<String>,
    /// Flags that set a key.
    pub flags: Vec<Flag>,
    /// Whether the file may be a pipe: where it is read once.
    pub pipes: bool,
}

/// A flag of the command line that sets a key. It has no printable form: a value can be a URL with a password.
#[derive(Clone)]
pub struct Flag {
    /// The key, such as `otlp.endpoint`.
    pub key: String,
    /// Its value as typed.
    pub value: String,
    /// The flag as the user knows it, such as `--otlp-endpoint`.
    pub name: String,
}

/// The key of the one target that the `probe` command line describes. Variables are read in lower case, so none can
/// reach it, and `probe` reads no file.
pub(crate) const PROBE: &str = "PROBE";

const PREFIX: &str = "IMAPTRACE__";
const STATE_DIRECTORY: &str = "STATE_DIRECTORY";
/// No key lies deeper; also bounds the recursion over names that come from outside.
const DEEPEST: usize = 8;

/// The merged tree and what is needed to say where a value stands.
pub(crate) struct Merged {
    /// A dictionary.
    pub(crate) root: Value,
    /// The file that was read.
    file: Option<PathBuf>,
    /// The sources, without their values.
    figment: Figment,
    positions: Positions,
    /// The file system that the file is on did not answer.
    pub(crate) unanswered: bool,
}

impl Merged {
    /// Where the value of `path` stands, or where its nearest table does when it is missing.
    pub(crate) fn place(&self, path: &str, value: Option<&Value>) -> Place {
        let source = value.and_then(|value| self.figment.get_metadata(value.tag()));
        match source.and_then(|metadata| Some((metadata.name.as_ref(), metadata.source.as_ref()?))) {
            Some((VARIABLE, Source::Custom(name))) => Place::Variable(name.clone()),
            Some((FLAG, Source::Custom(name))) => Place::Flag(name.clone()),
            _ => self.place_in_file(path),
        }
    }

    /// Whether the value came as raw text, from the environment or a flag.
    pub(crate) fn is_raw(&self, value: &Value) -> bool {
        let metadata = self.figment.get_metadata(value.tag());
        metadata.is_some_and(|metadata| matches!(metadata.name.as_ref(), VARIABLE | FLAG))
    }

    fn place_in_file(&self, path: &str) -> Place {
        let Some(file) = &self.file else {
            return if path.starts_with(PROBE) { Place::Flag(PROBE.to_ascii_lowercase()) } else { Place::Nowhere };
        };
        let mut path = path;
        let at = loop {
            if let Some(at) = self.positions.of(path) {
                break Some(at);
            }
            match path.rfind(['.', '[']).and_then(|end| path.get(..end)) {
                Some(parent) => path = parent,
                None => break None,
            }
        };
        Place::File { path: file.clone(), at }
    }
}

/// Reads and merges all sources. Problems found on the way do not stop it, so that all are reported at once.
pub(crate) fn merge(sources: &Sources, problems: &mut Vec<Problem>) -> Merged {
    let kinds = if sources.pipes { Kinds::FilesAndPipes } else { Kinds::Files };
    let mut unanswered = false;
    let text = sources.file.as_deref().and_then(|path| match read(path, kinds) {
        Ok(text) => Some(text),
        Err(error) => {
            unanswered = error.is_unanswered;
            problems.push(error.problem);
            None
        }
    });
    Merged { unanswered, ..merge_text(sources, text.as_deref(), problems) }
}

/// Why the file's text is not there.
struct Unread {
    problem: Problem,
    is_unanswered: bool,
}

/// The same with the file's text at hand.
///
/// The sources are joined from the highest to the lowest, so that the file, which may be large, is gone through once.
pub(crate) fn merge_text(sources: &Sources, text: Option<&str>, problems: &mut Vec<Problem>) -> Merged {
    let mut figment = Figment::new();
    let mut positions = Positions::default();
    let mut lists = Vec::new();
    let mut file = None;
    if let (Some(path), Some(text)) = (&sources.file, text) {
        match document::parse(text) {
            Ok(parsed) => {
                lists = parsed.lists;
                positions = Positions::new(text, parsed.found);
                file = Some(Layer::new(FILE, Source::File(path.clone()), parsed.values));
            }
            Err(ParseFailure::Syntax(error, base)) => problems.push(syntax_problem(path, text, &error, base)),
            Err(ParseFailure::TooMuch) => problems.push(Problem {
                place: Place::File { path: path.clone(), at: None },
                key: String::new(),
                what: "it holds more keys and values than are taken in: they would take more than 300MiB of memory"
                    .to_owned(),
                help: Some(
                    "write many targets as [[groups]] or in files of targets_from, or share them out".to_owned(),
                ),
            }),
        }
    }
    for (variable, key, value) in otel::settings(&sources.environment, problems) {
        figment = figment.merge(Layer::raw(VARIABLE, variable, key, &value));
    }
    let mut keys = Vec::new();
    for (variable, value) in &sources.environment {
        let Some(key) = variable.strip_prefix(PREFIX) else { continue };
        let segments: Vec<String> = key.split("__").map(str::to_ascii_lowercase).collect();
        if segments.iter().any(String::is_empty) || segments.len() > DEEPEST {
            problems.push(Problem {
                place: Place::Variable(variable.clone()),
                key: String::new(),
                what: "no key has this name".to_owned(),
                help: Some("write the key's path in capitals with `__` between its levels, such as IMAPTRACE__DEFAULTS__INTERVAL".to_owned()),
            });
            continue;
        }
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        figment = figment.merge(Layer::raw(VARIABLE, variable, &segments, value));
        keys.push((segments.join("."), variable));
    }
    check_clashes(keys, problems);
    for variable in &sources.not_utf8 {
        if variable.starts_with(PREFIX) || variable == STATE_DIRECTORY || otel::is_read(variable) {
            problems.push(Problem {
                place: Place::Variable(variable.clone()),
                key: String::new(),
                what: "it is not UTF-8".to_owned(),
                help: Some("set it to text in UTF-8, or unset it".to_owned()),
            });
        }
    }
    for flag in &sources.flags {
        let segments: Vec<&str> = flag.key.split('.').collect();
        figment = figment.merge(Layer::raw(FLAG, &flag.name, &segments, &flag.value));
    }
    if let Some(file) = file {
        figment = figment.join(file);
    }
    // systemd sets it from StateDirectory=, a list; whatever the operator says himself lies above.
    let given = sources.environment.iter().rev().find(|(name, _)| name == STATE_DIRECTORY);
    if let Some(first) = given.and_then(|(_, paths)| paths.split(':').next()).filter(|first| !first.is_empty()) {
        figment = figment.join(Layer::raw(VARIABLE, STATE_DIRECTORY, &["state", "dir"], first));
    }
    // No provider of ours can fail, so neither can the merge.
    let mut root = figment.find_value("").unwrap_or_else(|_| Value::Dict(Tag::Default, Dict::new()));
    // No key is called so: what is left is who the values are from.
    let figment = figment.focus("\0");
    put_lists(&mut root, lists, &figment);
    Merged { root, file: sources.file.clone(), figment, positions, unanswered: false }
}

/// Puts lists of the file back where nothing else has taken their places.
fn put_lists(root: &mut Value, lists: Vec<(String, Vec<Value>)>, figment: &Figment) {
    let Value::Dict(_, values) = root else { return };
    for (key, list) in lists {
        if let Some(Value::Array(tag, elements)) = values.get_mut(&key)
            && figment.get_metadata(*tag).is_some_and(|source| source.name == FILE)
        {
            *elements = list;
        }
    }
}

/// Notes variables of which one sets a key and another the same key, or one below it: which of them counts would be left to
/// the order of the environment.
fn check_clashes(mut keys: Vec<(String, &String)>, problems: &mut Vec<Problem>) {
    let mut clash = |variable: &String, key: &str, what: String, help: &str| {
        problems.push(Problem {
            place: Place::Variable(variable.clone()),
            key: key.to_owned(),
            what,
            help: Some(help.to_owned()),
        });
    };
    keys.sort();
    let set: BTreeMap<&str, &String> = keys.iter().rev().map(|(key, variable)| (key.as_str(), *variable)).collect();
    for (key, variable) in &keys {
        if let Some(first) = set.get(key.as_str()).filter(|first| *first != variable) {
            clash(variable, key, format!("{first} is another spelling of it and is set too"), "unset one of the two");
        }
        let above = key.match_indices('.').find_map(|(end, _)| set.get(key.get(..end)?));
        if let Some(above) = above {
            let what = format!("{above} sets the whole table that this key is in");
            clash(variable, key, what, "unset one of the two: a table has no value of its own");
        }
    }
}

fn read(path: &Path, kinds: Kinds) -> Result<String, Box<Unread>> {
    let unread = |at, what: String, help: &str, is_unanswered| {
        let place = Place::File { path: path.to_owned(), at };
        Box::new(Unread {
            problem: Problem { place, key: String::new(), what, help: Some(help.to_owned()) },
            is_unanswered,
        })
    };
    let help = match kinds {
        Kinds::Files => "give the right file with --config; a pipe is none, for each reload reads it again",
        Kinds::FilesAndPipes => "give the right file with --config",
    };
    let bytes = file::read(path, kinds).map_err(|error| {
        let is_unanswered = error.kind() == io::ErrorKind::TimedOut;
        let help =
            if is_unanswered { "see to the file system, or give a file on another one with --config" } else { help };
        unread(None, format!("cannot be read: {error}"), help, is_unanswered)
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes().iter().take(valid).filter(|byte| **byte == b'\n').count();
        unread(Some((line, 1)), "this line is not UTF-8".to_owned(), "save the file as UTF-8", false)
    })
}

/// Only the parser's message is used: its long form shows the line, and a password may stand in it.
fn syntax_problem(path: &Path, text: &str, error: &toml_edit::TomlError, base: usize) -> Problem {
    let at = error.span().map(|span| LineIndex::new(text).position(text, base + span.start));
    let found = syntax::explain(text, at.map_or(0, |(line, _)| line));
    let what = found.what.unwrap_or_else(|| format!("this is not TOML: {}", error.message().replace('\n', "; ")));
    Problem {
        place: Place::File { path: path.to_owned(), at: found.line.map(|line| (line, 1)).or(at) },
        key: String::new(),
        what,
        help: found.help,
    }
}

const FILE: &str = "file";
const VARIABLE: &str = "variable";
const FLAG: &str = "flag";

/// One source as figment sees it, once: the values are handed over.
struct Layer {
    metadata: Metadata,
    values: Cell<Dict>,
}

impl Layer {
    fn new(kind: &'static str, source: Source, values: Dict) -> Self {
        Self { metadata: Metadata::named(kind).source(source), values: Cell::new(values) }
    }

    /// One value of raw text under the path `key`.
    fn raw(kind: &'static str, name: &str, key: &[&str], value: &str) -> Self {
        let nested = key.iter().rev().fold(Value::from(value), |value, segment| {
            Value::Dict(Tag::Default, Dict::from([((*segment).to_owned(), value)]))
        });
        Self::new(kind, Source::Custom(name.to_owned()), nested.into_dict().unwrap_or_default())
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        self.metadata.clone()
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.values.take())]))
    }
}

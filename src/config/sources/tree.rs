//! Merges file, environment and flags into one tree in which every value has its place.
//!
//! figment merges (`STATE_DIRECTORY` < file < `OTEL_*` < `IMAPTRACE__*` < flags; the readers have the defaults) and tags each
//! value with its provider; `toml_edit` gives lines and columns. No value is interpreted here. The environment is an argument:
//! the process's own is not read.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use figment::{
    Figment, Metadata, Profile, Provider, Source,
    value::{Dict, Map, Tag, Value},
};

use crate::{
    config::{
        problem::{Place, Problem},
        sources::{
            document::{self, ParseFailure, Parsed},
            file::{self, Kinds},
            include::{self, Documents, FilePositions},
            otel,
            positions::LineIndex,
            syntax,
        },
    },
    discovery::Discovered,
};

/// The sources of a configuration. They have no printable form: the environment may contain secrets.
#[derive(Clone, Default)]
pub struct Sources {
    /// The configuration file; a missing one is an error.
    pub file: Option<PathBuf>,
    /// The whole environment; `IMAPTRACE__*`, `OTEL_*` and `STATE_DIRECTORY` are read.
    pub environment: Vec<(String, String)>,
    /// Printable names of variables whose name or value is not UTF-8. One that would be read is an error.
    pub not_utf8: Vec<String>,
    /// Flags that set a key.
    pub flags: Vec<Flag>,
    /// Whether the file may be a pipe: if it is read only once.
    pub pipes: bool,
    /// Which shard's targets are read.
    pub shards: ShardScope,
    /// The targets that the sources of groups have answered.
    pub discovered: Discovered,
}

/// Which targets of a configuration with `shard` are read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ShardScope {
    /// All of them, whatever its shard is.
    All,
    /// Those of its shard; one that depends on the name of a host is not known here.
    #[default]
    OfNoHost,
    /// Those of its shard on the host of this name.
    OfHost(String),
}

/// A flag of the command line that sets a key. It has no printable form: a value can be a URL with a password.
#[derive(Clone)]
pub struct Flag {
    /// The key, such as `otlp.endpoint`.
    pub key: String,
    /// Its value.
    pub value: String,
    /// The flag's name, such as `--otlp-endpoint`.
    pub name: String,
}

/// The key of the target of the `probe` command line. No variable can set it, since their keys are in lower case, and `probe`
/// reads no file.
pub(crate) const PROBE: &str = "PROBE";

const PREFIX: &str = "IMAPTRACE__";
const STATE_DIRECTORY: &str = "STATE_DIRECTORY";
/// The levels of a key; also bounds the recursion over names from outside.
const DEEPEST: usize = 8;

/// The merged tree, and the places of its values.
pub(crate) struct Merged {
    /// A dictionary.
    pub(crate) root: Value,
    /// The file that was named.
    file: Option<PathBuf>,
    /// The sources, without their values.
    figment: Figment,
    positions: FilePositions,
    /// The included files, and the directories in which more of them may be added.
    pub(crate) included: Vec<PathBuf>,
    /// A file could not be read or parsed, which was noted.
    pub(crate) is_unreadable: bool,
    /// A file's file system did not answer.
    pub(crate) unanswered: bool,
}

impl Merged {
    /// The place of the value of `path`, or of the nearest table if it is missing.
    pub(crate) fn place(&self, path: &str, value: Option<&Value>) -> Place {
        let source = value.and_then(|value| self.figment.get_metadata(value.tag()));
        match source.and_then(|metadata| Some((metadata.name.as_ref(), metadata.source.as_ref()?))) {
            Some((VARIABLE, Source::Custom(name))) => Place::Variable(name.clone()),
            Some((FLAG, Source::Custom(name))) => Place::Flag(name.clone()),
            _ => self.place_in_file(path),
        }
    }

    /// Whether the value is raw text from the environment or a flag.
    pub(crate) fn is_raw(&self, value: &Value) -> bool {
        let metadata = self.figment.get_metadata(value.tag());
        metadata.is_some_and(|metadata| matches!(metadata.name.as_ref(), VARIABLE | FLAG))
    }

    fn place_in_file(&self, path: &str) -> Place {
        let Some(file) = &self.file else {
            return if path.starts_with(PROBE) { Place::Flag(PROBE.to_ascii_lowercase()) } else { Place::Nowhere };
        };
        let mut tables =
            std::iter::successors(Some(path), |path| path.rfind(['.', '[']).and_then(|end| path.get(..end)));
        match tables.find_map(|table| self.positions.of(table)) {
            Some((included, at)) if included != file => Place::Included { path: included.to_owned(), at: Some(at) },
            Some((_, at)) => Place::File { path: file.clone(), at: Some(at) },
            None => Place::File { path: file.clone(), at: None },
        }
    }
}

/// Reads and merges all sources. A problem does not end it, so that all are reported at once.
pub(crate) fn merge(sources: &Sources, problems: &mut Vec<Problem>) -> Merged {
    let mut unanswered = false;
    let text = sources.file.as_deref().and_then(|path| {
        let kinds = if sources.pipes { Kinds::FilesAndPipes } else { Kinds::Files };
        let bytes = file::read(path, kinds);
        unanswered = bytes.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::TimedOut);
        let text = decode(FileRole::Named(kinds), bytes);
        let problem = |(at, what, help)| Problem::new(Place::File { path: path.to_owned(), at }, what, help);
        text.map_err(|error| problems.push(problem(error))).ok()
    });
    let merged = merge_text(sources, text.as_deref(), problems);
    let is_unreadable = merged.is_unreadable || sources.file.is_some() && text.is_none();
    Merged { is_unreadable, unanswered: unanswered || merged.unanswered, ..merged }
}

/// The same with the text of the file that is named.
///
/// The sources are joined from the highest to the lowest, so that the file, which may be large, is traversed once.
pub(crate) fn merge_text(sources: &Sources, text: Option<&str>, problems: &mut Vec<Problem>) -> Merged {
    let mut figment = Figment::new();
    let mut documents = Documents::default();
    let mut reading = IncludeReading::default();
    let mut file = None;
    if let (Some(path), Some(text)) = (&sources.file, text) {
        let parsed = parse(text).map_err(|(at, what, help)| {
            problems.push(Problem::new(Place::File { path: path.clone(), at }, what, help));
        });
        reading.is_unreadable = parsed.is_err();
        if let Ok(parsed) = parsed {
            documents = Documents::new(path, text, parsed);
            reading.add_files(&mut documents, path, problems);
            file = Some(Layer::new(FILE, Source::File(path.clone()), std::mem::take(&mut documents.values)));
        }
    }
    for (variable, key, value) in otel::settings(&sources.environment, problems) {
        figment = figment.merge(Layer::raw(VARIABLE, variable, &key, &value));
    }
    let mut keys = Vec::new();
    for (variable, value) in &sources.environment {
        let Some(key) = variable.strip_prefix(PREFIX) else { continue };
        let segments: Vec<String> = key.split("__").map(str::to_ascii_lowercase).collect();
        if segments.iter().any(String::is_empty) || segments.len() > DEEPEST {
            let help =
                "write the key's path in capitals with `__` between its levels, such as IMAPTRACE__DEFAULTS__INTERVAL";
            problems.push(Problem::new(Place::Variable(variable.clone()), "no key has this name", help));
            continue;
        }
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        figment = figment.merge(Layer::raw(VARIABLE, variable, &segments, value));
        keys.push((segments.join("."), variable));
    }
    check_clashes(keys, problems);
    for variable in &sources.not_utf8 {
        if variable.starts_with(PREFIX) || variable == STATE_DIRECTORY || otel::is_read(variable) {
            let help = "set it to text in UTF-8, or unset it";
            problems.push(Problem::new(Place::Variable(variable.clone()), "it is not UTF-8", help));
        }
    }
    for flag in &sources.flags {
        let segments: Vec<&str> = flag.key.split('.').collect();
        figment = figment.merge(Layer::raw(FLAG, &flag.name, &segments, &flag.value));
    }
    if let Some(file) = file {
        figment = figment.join(file);
    }
    // systemd sets it from StateDirectory=, a list; it is the lowest source.
    let given = sources.environment.iter().rev().find(|(name, _)| name == STATE_DIRECTORY);
    if let Some(first) = given.and_then(|(_, paths)| paths.split(':').next()).filter(|first| !first.is_empty()) {
        figment = figment.join(Layer::raw(VARIABLE, STATE_DIRECTORY, &["state", "dir"], first));
    }
    // No provider of ours fails, so the merge does not.
    let mut root = figment.find_value("").unwrap_or_else(|_| Value::Dict(Tag::Default, Dict::new()));
    // There is no such key: only the providers of the values remain.
    let figment = figment.focus("\0");
    put_lists(&mut root, documents.lists, &figment);
    let IncludeReading { included, is_unreadable, unanswered } = reading;
    let positions = documents.positions;
    Merged { root, file: sources.file.clone(), figment, positions, included, is_unreadable, unanswered }
}

/// Where something is wrong in a text, what, and what to do.
type TextProblem = (Option<(usize, usize)>, String, String);

fn parse(text: &str) -> Result<Parsed, TextProblem> {
    document::parse(text).map_err(|failure| match failure {
        ParseFailure::Syntax(error, base) => syntax_problem(text, &error, base),
        ParseFailure::TooMuch => (
            None,
            "it holds more keys and values than are taken in: they would take more than 300MiB of memory".to_owned(),
            "write many targets as [[groups]] or in files of targets_from, or share them out".to_owned(),
        ),
    })
}

/// The result of reading the files of `include`.
#[derive(Default)]
struct IncludeReading {
    /// The files, and the directories in which more of them may be added.
    included: Vec<PathBuf>,
    is_unreadable: bool,
    unanswered: bool,
}

impl IncludeReading {
    /// Adds the files of `include` to the document of the first one.
    fn add_files(&mut self, documents: &mut Documents, first: &Path, problems: &mut Vec<Problem>) {
        // One file can have several paths.
        let mut added = BTreeSet::from([file::canonical(first)]);
        for (key, pattern) in documents.patterns() {
            let found = include::files(&pattern, &mut self.included).unwrap_or_else(|error| {
                self.unanswered |= error.read == Some(io::ErrorKind::TimedOut);
                self.is_unreadable = true;
                let at = documents.positions.of(&key).map(|(_, at)| at);
                let place = Place::File { path: first.to_owned(), at };
                problems.push(Problem { key: key.clone(), ..Problem::new(place, error.what, error.help) });
                Vec::new()
            });
            for path in found {
                // The configuration itself, and a file that two patterns fit, are read once.
                if added.insert(file::canonical(&path)) && !self.add_file(documents, &path, problems) {
                    return;
                }
            }
        }
    }

    /// Returns whether there is room for more files.
    fn add_file(&mut self, documents: &mut Documents, path: &Path, problems: &mut Vec<Problem>) -> bool {
        let bytes = file::read(path, Kinds::Files);
        self.unanswered |= bytes.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::TimedOut);
        let read = decode(FileRole::Included, bytes).and_then(|text| Ok((parse(&text)?, text)));
        let has_room = match read {
            Ok((parsed, text)) => documents.add(path, &text, parsed, problems),
            Err((at, what, help)) => {
                self.is_unreadable = true;
                problems.push(Problem::new(Place::Included { path: path.to_owned(), at }, what, help));
                true
            }
        };
        // What is left out would be missing elsewhere.
        self.is_unreadable |= !has_room;
        has_room
    }
}

/// Puts the file's lists back where no other source has replaced them.
fn put_lists(root: &mut Value, lists: BTreeMap<String, Vec<Value>>, figment: &Figment) {
    let Value::Dict(_, values) = root else { return };
    for (key, list) in lists {
        if let Some(Value::Array(tag, elements)) = values.get_mut(&key)
            && figment.get_metadata(*tag).is_some_and(|source| source.name == FILE)
        {
            *elements = list;
        }
    }
}

/// Notes variables that set the same key, or a key and one below it: the order of the environment would decide.
fn check_clashes(mut keys: Vec<(String, &String)>, problems: &mut Vec<Problem>) {
    let mut clash = |variable: &String, key: &str, what: String, help: &str| {
        let problem = Problem::new(Place::Variable(variable.clone()), what, help);
        problems.push(Problem { key: key.to_owned(), ..problem });
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

/// Whether a file is named or included.
#[derive(Clone, Copy)]
enum FileRole {
    /// The command line names it, and it may be of these kinds.
    Named(Kinds),
    /// `include` names it.
    Included,
}

/// The file's text, or the problem with it.
fn decode(role: FileRole, bytes: io::Result<Vec<u8>>) -> Result<String, TextProblem> {
    let bytes = bytes.map_err(|error| {
        let help = match role {
            FileRole::Included => "give the path of a file that can be read, or take it out of `include`",
            FileRole::Named(_) if error.kind() == io::ErrorKind::TimedOut => {
                "see to the file system, or give a file on another one with --config"
            }
            FileRole::Named(Kinds::Files) => {
                "give the right file with --config; a pipe is none, for each reload reads it again"
            }
            FileRole::Named(Kinds::FilesAndPipes) => "give the right file with --config",
        };
        (None, format!("cannot be read: {error}"), help.to_owned())
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes().iter().take(valid).filter(|byte| **byte == b'\n').count();
        (Some((line, 1)), "this line is not UTF-8".to_owned(), "save the file as UTF-8".to_owned())
    })
}

/// Uses the parser's short message: the long form shows the line, which may contain a password.
fn syntax_problem(text: &str, error: &toml_edit::TomlError, base: usize) -> TextProblem {
    let at = error.span().map(|span| LineIndex::new(text).position(text, base + span.start));
    let found = syntax::explain(text, at.map_or(0, |(line, _)| line));
    let what = found.what.unwrap_or_else(|| format!("this is not TOML: {}", error.message().replace('\n', "; ")));
    (found.line.map(|line| (line, 1)).or(at), what, found.help.unwrap_or_default())
}

const FILE: &str = "file";
const VARIABLE: &str = "variable";
const FLAG: &str = "flag";

/// A source as figment's provider. It gives its values once.
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

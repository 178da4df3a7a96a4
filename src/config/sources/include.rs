//! The files of a configuration: the one that is named, and those of its `include`, as one document.
//!
//! Lists of tables are appended, in the order of the files. Tables are merged, and a key that two files set is an error with both
//! places. Each path of the whole has its place in the file that it is from. Interprets no value. Called by `tree`.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use figment::value::{Dict, Value};

use crate::{
    config::{
        problem::{Place, Problem},
        sources::{
            document::{Lists, MOST, Parsed},
            file,
            positions::{Positions, join},
        },
    },
    plan::Glob,
};

/// The key of the patterns.
pub(crate) const INCLUDE: &str = "include";
/// The most files that are included.
const MOST_FILES: usize = 1_000;
/// The levels of tables that are merged; also bounds the recursion over text from outside.
const DEEPEST: usize = 8;

/// All files of a configuration, as one document.
#[derive(Default)]
pub(crate) struct Documents {
    pub(crate) values: Dict,
    /// As [`Parsed::lists`].
    pub(crate) lists: Lists,
    pub(crate) positions: FilePositions,
    weight: usize,
}

/// The place of each path in the file that it is from.
#[derive(Default)]
pub(crate) struct FilePositions {
    files: Vec<(PathBuf, Positions)>,
    /// The lists of tables: how many elements there are after each file.
    ends: BTreeMap<String, Vec<usize>>,
}

impl FilePositions {
    /// The file, line and column of a path.
    pub(crate) fn of(&self, path: &str) -> Option<(&Path, (usize, usize))> {
        if let Some((list, index, rest)) = list_element(path, &self.ends) {
            let ends = self.ends.get(list)?;
            let number = ends.iter().position(|end| index < *end)?;
            let before = number.checked_sub(1).and_then(|before| ends.get(before)).copied().unwrap_or_default();
            let (file, positions) = self.files.get(number)?;
            return Some((file, positions.of(&format!("{list}[{}]{rest}", index - before))?));
        }
        self.files.iter().find_map(|(file, positions)| Some((file.as_path(), positions.of(path)?)))
    }
}

/// The list of a path, the number of its element, and the rest of the path.
fn list_element<'a>(path: &'a str, lists: &'a BTreeMap<String, Vec<usize>>) -> Option<(&'a str, usize, &'a str)> {
    lists.keys().find_map(|list| {
        let (index, rest) = path.strip_prefix(list.as_str())?.strip_prefix('[')?.split_once(']')?;
        Some((list.as_str(), index.parse().ok()?, rest))
    })
}

impl Documents {
    /// The document of the first file.
    pub(crate) fn new(path: &Path, text: &str, parsed: Parsed) -> Self {
        let mut documents = Self { weight: parsed.weight, ..Self::default() };
        documents.positions.files.push((path.to_owned(), Positions::new(text, parsed.found)));
        (documents.values, documents.lists) = (parsed.values, parsed.lists);
        documents
    }

    /// The patterns of `include`. What is no list of texts is left to the reader.
    pub(crate) fn patterns(&self) -> Vec<(String, String)> {
        let patterns = self.lists.get(INCLUDE).into_iter().flatten().enumerate();
        patterns
            .filter_map(|(index, value)| Some((format!("{INCLUDE}[{index}]"), value.as_str()?.to_owned())))
            .collect()
    }

    /// Adds an included file.
    pub(crate) fn add(&mut self, path: &Path, text: &str, parsed: Parsed, problems: &mut Vec<Problem>) {
        let positions = Positions::new(text, parsed.found);
        let problem = |key: &str, what: String, help: &str| Problem {
            key: key.to_owned(),
            ..Problem::new(Place::Included { path: path.to_owned(), at: positions.of(key) }, what, help)
        };
        self.weight += parsed.weight;
        if self.weight > MOST {
            let what = "with it the included files hold more keys and values than are taken in: they would take more than \
                        300MiB of memory";
            return problems.push(problem("", what.to_owned(), "write many targets as [[groups]], or share them out"));
        }
        if self.positions.files.len() > MOST_FILES {
            let what = format!("there are more than {MOST_FILES} included files");
            return problems.push(problem("", what, "put more targets into one file"));
        }
        let Parsed { mut values, mut lists, .. } = parsed;
        if values.remove(INCLUDE).is_some() {
            lists.remove(INCLUDE);
            let first = self.positions.files.first().map(|(first, _)| first.display().to_string()).unwrap_or_default();
            let what = "an included file includes no others".to_owned();
            problems.push(problem(INCLUDE, what, &format!("name them in `include` of {first}")));
        }
        let mut merge = Merge { appended: Vec::new(), clashes: Vec::new() };
        for (key, elements) in lists {
            let known = self.lists.get(&key);
            if known.is_none_or(Vec::is_empty) && !self.values.contains_key(&key) {
                merge.appended.push((key.clone(), 0, elements.len()));
                self.lists.insert(key.clone(), elements);
                continue;
            }
            values.remove(&key);
            match self.lists.get_mut(&key) {
                Some(known) if key == "targets_from" || are_tables(known) && are_tables(&elements) => {
                    merge.appended.push((key, known.len(), elements.len()));
                    known.extend(elements);
                }
                _ => merge.clashes.push(key),
            }
        }
        merge.tables(&mut self.values, values, "", 0);
        let files = self.positions.files.len();
        for (list, before, count) in merge.appended {
            let ends = self.positions.ends.entry(list).or_default();
            // Files without this list end where the one before does.
            let end = ends.last().copied().unwrap_or(before);
            ends.resize(files, end);
            ends.push(before + count);
        }
        for clash in merge.clashes {
            let first =
                self.positions.of(&clash).map(|(file, (line, column))| format!("{}:{line}:{column}", file.display()));
            let what = format!("{} sets it too", first.unwrap_or_default());
            problems.push(problem(&clash, what, "take it out of one of the two files"));
        }
        self.positions.files.push((path.to_owned(), positions));
    }
}

fn are_tables(elements: &[Value]) -> bool {
    elements.iter().all(|element| element.as_dict().is_some())
}

/// What happened while a file was merged into those before it.
struct Merge {
    /// Lists of tables: path, the elements before, and those of this file.
    appended: Vec<(String, usize, usize)>,
    /// Keys that are set already.
    clashes: Vec<String>,
}

impl Merge {
    /// Notes the lists of tables in a value that no file before has.
    fn note_lists(&mut self, value: &Value, path: &str, depth: usize) {
        match value {
            Value::Array(_, elements) if !elements.is_empty() && are_tables(elements) => {
                self.appended.push((path.to_owned(), 0, elements.len()));
            }
            Value::Dict(_, values) if depth < DEEPEST => {
                for (key, value) in values {
                    self.note_lists(value, &join(path, key), depth + 1);
                }
            }
            _ => {}
        }
    }

    fn tables(&mut self, into: &mut Dict, from: Dict, path: &str, depth: usize) {
        for (key, value) in from {
            let path = join(path, &key);
            match (into.get_mut(&key), value) {
                (None, value) => {
                    self.note_lists(&value, &path, depth);
                    into.insert(key, value);
                }
                (Some(Value::Dict(_, known)), Value::Dict(_, new)) if depth < DEEPEST => {
                    self.tables(known, new, &path, depth + 1);
                }
                (Some(Value::Array(_, known)), Value::Array(_, new))
                    if !new.is_empty() && are_tables(known) && are_tables(&new) =>
                {
                    self.appended.push((path, known.len(), new.len()));
                    known.extend(new);
                }
                (Some(_), _) => self.clashes.push(path),
            }
        }
    }
}

/// The files that match a pattern, in the order of their names. `*` is allowed in the last component only. The files, and the
/// directory of a pattern with `*`, are added to `watched`. The error says what is wrong and what to do.
pub(crate) fn files(pattern: &str, watched: &mut Vec<PathBuf>) -> Result<Vec<PathBuf>, IncludeError> {
    let path = Path::new(pattern);
    let (Some(name), Some(directory)) = (path.file_name().and_then(|name| name.to_str()), path.parent()) else {
        return Err(IncludeError::new(
            "it is not the path of a file",
            "write a path such as /etc/imaptrace/conf.d/*.toml",
        ));
    };
    if directory.to_string_lossy().contains('*') {
        return Err(IncludeError::new("`*` is allowed in the last component of a path only", "name each directory"));
    }
    if path.extension().is_none_or(|extension| extension != "toml") {
        return Err(IncludeError::new("it does not end in .toml", "an included file is a configuration in TOML"));
    }
    if !name.contains('*') {
        watched.push(path.to_owned());
        return Ok(vec![path.to_owned()]);
    }
    let directory = if directory == Path::new("") { Path::new(".") } else { directory };
    watched.push(directory.to_owned());
    let names = file::names(directory).map_err(|error| IncludeError {
        unanswered: error.kind() == io::ErrorKind::TimedOut,
        ..IncludeError::new(
            format!("cannot read {}: {error}", directory.display()),
            "give a directory that can be read",
        )
    })?;
    let glob = Glob::new(name);
    // A file that begins with a dot is being written, or is an editor's.
    let fits = |name: &str| glob.matches(name) && !name.starts_with('.');
    let mut found: Vec<PathBuf> = names.iter().filter(|name| fits(name)).map(|name| directory.join(name)).collect();
    found.sort();
    watched.extend(found.iter().cloned());
    Ok(found)
}

/// Why the files of a pattern cannot be found.
#[derive(Debug)]
pub(crate) struct IncludeError {
    pub(crate) what: String,
    pub(crate) help: &'static str,
    /// The file system did not answer.
    pub(crate) unanswered: bool,
}

impl IncludeError {
    fn new(what: impl Into<String>, help: &'static str) -> Self {
        Self { what: what.into(), help, unanswered: false }
    }
}

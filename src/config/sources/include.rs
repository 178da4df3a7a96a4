//! The files of a configuration: the one that is named, and those of its `include`, as one document.
//!
//! Lists of tables are appended, in the order of the files. Tables are merged, and a key that two files set is an error with both
//! places. Each path of the whole has its place in the file that it is from. Interprets no value. Called by `tree`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use figment::value::{Dict, Value};

use crate::config::{
    problem::{Place, Problem},
    sources::{
        document::{Lists, MOST, Parsed},
        file_pattern::{self, PatternError},
        positions::{Positions, join},
    },
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

    /// Adds an included file. Returns whether there is room for more.
    pub(crate) fn add(&mut self, path: &Path, text: &str, parsed: Parsed, problems: &mut Vec<Problem>) -> bool {
        let positions = Positions::new(text, parsed.found);
        let problem = |key: &str, what: String, help: &str| Problem {
            key: key.to_owned(),
            ..Problem::new(Place::Included { path: path.to_owned(), at: positions.of(key) }, what, help)
        };
        self.weight += parsed.weight;
        if self.weight > MOST {
            let what = "with it the included files hold more keys and values than are taken in: they would take more than \
                        300MiB of memory";
            problems.push(problem("", what.to_owned(), "write many targets as [[groups]], or share them out"));
            return false;
        }
        if self.positions.files.len() > MOST_FILES {
            let what = format!("there are more than {MOST_FILES} included files");
            problems.push(problem("", what, "put more targets into one file"));
            return false;
        }
        let Parsed { mut values, mut lists, .. } = parsed;
        if values.remove(INCLUDE).is_some() {
            lists.remove(INCLUDE);
            let first = self.positions.files.first().map(|(first, _)| first.display().to_string()).unwrap_or_default();
            let what = "an included file includes no others".to_owned();
            problems.push(problem(INCLUDE, what, &format!("name them in `include` of {first}")));
        }
        let mut merge = Merge { appended: Vec::new(), duplicates: Vec::new() };
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
                _ => merge.duplicates.push(key),
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
        for duplicate in merge.duplicates {
            let first = self
                .positions
                .of(&duplicate)
                .map(|(file, (line, column))| format!("{}:{line}:{column}", file.display()));
            let first = first.unwrap_or_default();
            let (what, help) = if matches!(duplicate.as_str(), "targets" | "groups" | "windows") {
                (
                    format!("here or in {first} it is no list of tables"),
                    "begin each table with double brackets, such as [[targets]]",
                )
            } else {
                (format!("{first} sets it too"), "take it out of one of the two files")
            };
            problems.push(problem(&duplicate, what, help));
        }
        self.positions.files.push((path.to_owned(), positions));
        true
    }
}

fn are_tables(elements: &[Value]) -> bool {
    elements.iter().all(|element| element.as_dict().is_some())
}

/// What happened while a file was merged into those before it.
struct Merge {
    /// Lists of tables: path, the elements before, and those of this file.
    appended: Vec<(String, usize, usize)>,
    /// Keys that a file before sets as well.
    duplicates: Vec<String>,
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
                (Some(_), _) => self.duplicates.push(path),
            }
        }
    }
}

/// The files of a pattern, as [`file_pattern::files`] finds them.
pub(crate) fn files(pattern: &str, watched: &mut Vec<PathBuf>) -> Result<Vec<PathBuf>, PatternError> {
    if Path::new(pattern).extension().is_none_or(|extension| extension != "toml") {
        return Err(PatternError::new("it does not end in .toml", "an included file is a configuration in TOML"));
    }
    file_pattern::files(pattern, "/etc/imaptrace/conf.d/*.toml", watched)
}

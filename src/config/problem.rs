//! Problems: what is wrong, where, and what to do about it.
//!
//! A problem never contains a secret: readers show only values of keys that cannot be one. Made by every reader of this module;
//! printed by `check`, `agent` and `probe`.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use imaptrace_record::printable::{Printable, escape_lines};

/// The place of a value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    /// In the configuration file, line and column counted from 1 (columns in characters).
    File {
        /// The file as it was named.
        path: PathBuf,
        /// Line and column, if known.
        at: Option<(usize, usize)>,
    },
    /// In a file of `include`.
    Included {
        /// The file as it was named or found.
        path: PathBuf,
        /// Line and column, if known.
        at: Option<(usize, usize)>,
    },
    /// In a file of `targets_from`.
    Listed {
        /// The file as it was named or found.
        path: PathBuf,
        /// Line and column, if known.
        at: Option<(usize, usize)>,
    },
    /// In the answer of this source of targets.
    Discovered(String),
    /// In the environment variable of this name.
    Variable(String),
    /// In a flag, or in the argument SERVER.
    Flag(String),
    /// None: the value is missing, and there is no configuration file.
    Nowhere,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, at: Some((line, column)) }
            | Self::Included { path, at: Some((line, column)) }
            | Self::Listed { path, at: Some((line, column)) } => {
                write!(f, "{}:{line}:{column}", Printable(path.display()))
            }
            Self::File { path, at: None } | Self::Included { path, at: None } | Self::Listed { path, at: None } => {
                Printable(path.display()).fmt(f)
            }
            Self::Discovered(source) => Printable(source).fmt(f),
            Self::Variable(name) => write!(f, "variable {}", Printable(name)),
            Self::Flag(name) => Printable(name).fmt(f),
            Self::Nowhere => f.write_str("configuration"),
        }
    }
}

/// An error or a warning.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Problem {
    /// The place.
    pub place: Place,
    /// The key's path, such as `targets[1].accounts[0].password`; empty when no key is concerned.
    pub key: String,
    /// What is wrong and what was expected: lower case, no full stop.
    pub what: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Problem {
    /// A problem that concerns no key; an empty `help` is none.
    pub(super) fn new(place: Place, what: impl Into<String>, help: impl Into<String>) -> Self {
        let help = Some(help.into()).filter(|help| !help.is_empty());
        Self { place, key: String::new(), what: what.into(), help }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        // A flag's name identifies the key; the user may not know the path.
        if !self.key.is_empty() && !matches!(self.place, Place::Flag(_)) {
            write!(f, "{}: ", Printable(&self.key))?;
        }
        // The only place where text from a file, a variable or a file's name is escaped.
        f.write_str(&escape_lines(&self.what))?;
        self.help.as_ref().map_or(Ok(()), |help| write!(f, "\n  help: {}", escape_lines(help)))
    }
}

/// All problems of a configuration that cannot be used. Displayed one below the other, with a count at the end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Problems {
    /// Errors; never empty in an `Err`.
    pub errors: Vec<Problem>,
    /// Warnings.
    pub warnings: Vec<Problem>,
    /// As [`Config::unusable`](super::Config::unusable).
    pub unusable: Vec<Problem>,
    /// As [`Config::unset`](super::Config::unset).
    pub unset: Vec<Problem>,
    /// As [`Config::watched`](super::Config::watched): an error may be corrected in one of these.
    pub watched: Box<[PathBuf]>,
    /// A file system did not answer for one of these files: a later attempt may succeed without a change.
    pub unanswered: bool,
}

impl Problems {
    /// Counts unusable files as errors and unset variables as warnings, as `check` does.
    #[must_use]
    pub fn as_in_check(mut self) -> Self {
        self.errors.append(&mut self.unusable);
        self.warnings.append(&mut self.unset);
        sort(&mut self.errors);
        sort(&mut self.warnings);
        self
    }
}

/// In the order of the file, then of those of `include` and of `targets_from`; those of other places keep their order, after these.
pub(super) fn sort(problems: &mut [Problem]) {
    fn order(problem: &Problem) -> (u8, Option<&Path>, (usize, usize)) {
        match &problem.place {
            Place::File { at, .. } => (0, None, at.unwrap_or_default()),
            Place::Included { path, at } => (1, Some(path), at.unwrap_or_default()),
            Place::Listed { path, at } => (2, Some(path), at.unwrap_or_default()),
            Place::Discovered(_) | Place::Variable(_) | Place::Flag(_) | Place::Nowhere => (3, None, (0, 0)),
        }
    }
    problems.sort_by(|a, b| order(a).cmp(&order(b)));
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.warnings {
            writeln!(f, "warning: {problem}")?;
        }
        for problem in &self.errors {
            writeln!(f, "error: {problem}")?;
        }
        match self.errors.len() {
            1 => f.write_str("1 error"),
            count => write!(f, "{count} errors"),
        }
    }
}

impl std::error::Error for Problems {}

/// The most similar of `known` to a mistyped word, if any is similar enough.
pub(crate) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let length = word.chars().take(LONGEST_WORD + 1).count();
    known
        .filter(|candidate| length.abs_diff(candidate.chars().count()) <= allowed(candidate))
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, candidate)| *distance <= allowed(candidate))
        .map(|(_, candidate)| candidate)
}

/// Longer words are not compared: the comparison takes memory in proportion to the product of both lengths.
const LONGEST_WORD: usize = 300;

/// The greatest distance of a similar word.
fn allowed(candidate: &str) -> usize {
    1.max(candidate.chars().take(LONGEST_WORD / 2).count() / 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_chose_is_escaped_and_begins_no_line() {
        let problem = Problem {
            place: Place::Listed { path: "n\nerror: fine\u{202e}.json".into(), at: Some((1, 2)) },
            key: "a\u{1b}[2J".to_owned(),
            what: "no such \u{9b}\nkey".to_owned(),
            help: Some("write\r".to_owned()),
        };
        let text = Problems { errors: vec![problem], ..Problems::default() }.to_string();
        let expected = "error: n\\x0aerror: fine\\u{202e}.json:1:2: a\\x1b[2J: no such \\u{9b}\\x0akey\n  help: write\\x0d\n1 error";
        assert_eq!(text, expected);
    }

    #[test]
    fn only_a_near_word_is_suggested() {
        let known = ["interval", "timeout", "tag"];
        assert_eq!(nearest("intervall", known.into_iter()), Some("interval"));
        assert_eq!(nearest("tiemout", known.into_iter()), Some("timeout"));
        assert_eq!(nearest("colour", known.into_iter()), None);
        // Nor is a long one compared at all.
        let long = "interval".repeat(1 << 20);
        assert_eq!(nearest(&long, [&*long].into_iter()), None);
    }
}

//! What is wrong, where it stands, and what to do: the sentences that an operator reads at night.
//!
//! A problem never holds a secret: readers pass on only values of keys that cannot be one. Called by every reader of
//! this room; printed by `check`, `agent` and `probe`.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use imaptrace_record::printable::{Printable, escape_lines};

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    /// In the configuration file, line and column counted from 1 (columns in characters).
    File {
        /// The file as it was named.
        path: PathBuf,
        /// Line and column, when there is one to point at.
        at: Option<(usize, usize)>,
    },
    /// In a file of `targets_from`.
    Listed {
        /// The file as it was named or found.
        path: PathBuf,
        /// Line and column, where they are known.
        at: Option<(usize, usize)>,
    },
    /// In the environment variable of this name.
    Variable(String),
    /// In a flag, or in the argument SERVER.
    Flag(String),
    /// Nowhere: it is missing, and there is no file it could stand in.
    Nowhere,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, at: Some((line, column)) } | Self::Listed { path, at: Some((line, column)) } => {
                write!(f, "{}:{line}:{column}", Printable(path.display()))
            }
            Self::File { path, at: None } | Self::Listed { path, at: None } => Printable(path.display()).fmt(f),
            Self::Variable(name) => write!(f, "variable {}", Printable(name)),
            Self::Flag(name) => Printable(name).fmt(f),
            Self::Nowhere => f.write_str("configuration"),
        }
    }
}

/// One thing that is wrong, or that deserves a second look.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// The key's path, such as `targets[1].accounts[0].password`; empty when it is about no key.
    pub key: String,
    /// What is wrong and what was expected: lower case, no full stop.
    pub what: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        // A flag's name says which key it is; its path would be news to who typed it.
        if !self.key.is_empty() && !matches!(self.place, Place::Flag(_)) {
            write!(f, "{}: ", Printable(&self.key))?;
        }
        // Whatever of it came from a file, a variable or a file's name is made safe here and nowhere else.
        f.write_str(&escape_lines(&self.what))?;
        self.help.as_ref().map_or(Ok(()), |help| write!(f, "\n  help: {}", escape_lines(help)))
    }
}

/// All that keeps a configuration from being used, at once. Displayed one under the other, with a count at the end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Problems {
    /// Why it cannot be used; never empty in an `Err`.
    pub errors: Vec<Problem>,
    /// What it would have been warned of besides.
    pub warnings: Vec<Problem>,
    /// Files that it names and that cannot be used as things are now.
    pub unusable: Vec<Problem>,
    /// Variables that it names for a secret and that are not set here.
    pub unset: Vec<Problem>,
    /// As [`Config::watched`](super::Config::watched): what is wrong may be mended in one of these.
    pub watched: Box<[PathBuf]>,
    /// A file that it is read from is on a file system that did not answer: the same may go well another time, without anybody
    /// changing anything.
    pub unanswered: bool,
}

impl Problems {
    /// Counts unusable files as errors and unset variables as warnings, as `check` does.
    #[must_use]
    pub fn with_surroundings(mut self) -> Self {
        self.errors.append(&mut self.unusable);
        self.warnings.append(&mut self.unset);
        for list in self.lists() {
            sort(list);
        }
        self
    }

    fn lists(&mut self) -> [&mut Vec<Problem>; 4] {
        [&mut self.errors, &mut self.warnings, &mut self.unusable, &mut self.unset]
    }
}

/// In the order of the file, then of the files of `targets_from`; what stands elsewhere keeps its order, after them.
pub(super) fn sort(problems: &mut [Problem]) {
    problems.sort_by(|a, b| order(&a.place).cmp(&order(&b.place)));
}

fn order(place: &Place) -> (u8, Option<&Path>, (usize, usize)) {
    match place {
        Place::File { at, .. } => (0, None, at.unwrap_or_default()),
        Place::Listed { path, at } => (1, Some(path), at.unwrap_or_default()),
        _ => (2, None, (0, 0)),
    }
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

/// The nearest of `known` to a mistyped word, when it is near enough to be meant.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let length = word.chars().take(LONGEST_WORD + 1).count();
    known
        .filter(|candidate| length.abs_diff(candidate.chars().count()) <= allowed(candidate))
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, candidate)| *distance <= allowed(candidate))
        .map(|(_, candidate)| candidate)
}

/// A longer word is compared with none: it takes memory by its length times the other's.
const LONGEST_WORD: usize = 300;

/// How far off a word may be.
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

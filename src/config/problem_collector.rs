//! Collects problems: each once, the first few of those that are alike, and no more than a person can read.
//!
//! A file can have a million errors, and each message takes more memory than the value that it concerns. The others are counted,
//! and the count is shown. Called by `readers`.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
};

use crate::config::{
    problem::{Place, Problem, Problems, sort},
    sources::positions::hash,
};

/// Problems that are shown of one key in one place.
const ALIKE: usize = 5;
/// Problems that are shown of those that differ only by the index of a table or a name in quotes: one key in many targets.
const SIMILAR: usize = 100;
/// Problems that are shown in all.
const MOST: usize = 1000;
/// Problems that are remembered, so that one that each target of a group has is shown once.
const KNOWN: usize = 1_000_000;
/// The length of a key and of a message, in characters.
const KEY: usize = 200;
const MESSAGE: usize = 4000;
/// The levels of tables for [`ProblemCollector::is_wrong`].
const DEEPEST: usize = 8;

/// The lists of [`Problems`], in their order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Severity {
    Error,
    Warning,
    Unusable,
    Unset,
    /// An error in the answer of a source of targets: that target is not probed, and the configuration is valid.
    Refused,
}

#[derive(Default)]
pub(super) struct ProblemCollector {
    lists: [ProblemList; 5],
    /// The keys with errors, and the tables around them, as hashes.
    wrong: HashSet<u64>,
    /// A file system did not answer.
    pub(super) unanswered: bool,
}

impl ProblemCollector {
    pub(super) fn push(&mut self, severity: Severity, problem: Problem) {
        if severity == Severity::Error {
            let ends = problem.key.match_indices('.').take(DEEPEST).map(|(end, _)| end).chain([problem.key.len()]);
            self.wrong.extend(ends.filter_map(|end| problem.key.get(..end)).map(hash));
        }
        self.lists[severity as usize].push(problem);
    }

    pub(super) fn has_errors(&self) -> bool {
        !self.lists[0].kept.is_empty()
    }

    /// The refused targets so far, which are no problems of the configuration.
    pub(super) fn take_refused(&mut self) -> Vec<Problem> {
        std::mem::take(&mut self.lists[Severity::Refused as usize]).finish()
    }

    /// Whether no further error is shown.
    pub(super) fn is_full(&self) -> bool {
        self.lists[0].kept.len() == MOST
    }

    /// Whether there is an error in this table or below it.
    pub(super) fn is_wrong(&self, table: &str) -> bool {
        self.wrong.contains(&hash(table))
    }

    pub(super) fn finish(self) -> Problems {
        let [errors, warnings, unusable, unset, _] = self.lists.map(ProblemList::finish);
        Problems { errors, warnings, unusable, unset, watched: Box::default(), unanswered: self.unanswered }
    }
}

#[derive(Default)]
struct ProblemList {
    kept: Vec<Problem>,
    known: HashSet<u64>,
    /// By the limit and the kind.
    counts: HashMap<(usize, u64), Count>,
    left_out: usize,
}

#[derive(Default)]
struct Count {
    shown: usize,
    left_out: usize,
}

impl ProblemList {
    fn push(&mut self, mut problem: Problem) {
        let own = hash(&problem);
        if self.known.contains(&own) {
            return;
        }
        if self.known.len() < KNOWN {
            self.known.insert(own);
        }
        let kinds = kinds(&problem);
        for kind in kinds {
            if let Some(count) = self.counts.get_mut(&kind).filter(|count| count.shown == kind.0) {
                count.left_out += 1;
                return;
            }
        }
        if self.kept.len() == MOST {
            self.left_out += 1;
            return;
        }
        for kind in kinds {
            self.counts.entry(kind).or_default().shown += 1;
        }
        cut(&mut problem.key, KEY);
        cut(&mut problem.what, MESSAGE);
        self.kept.push(problem);
    }

    fn finish(mut self) -> Vec<Problem> {
        sort(&mut self.kept);
        for last in self.kept.iter_mut().rev() {
            let counts = kinds(last).map(|kind| self.counts.remove(&kind));
            let more: usize = counts.into_iter().flatten().map(|count| count.left_out).sum();
            if more > 0 {
                // Writing to a string cannot fail.
                let _ = write!(last.what, " (and {more} more like this)");
            }
        }
        if self.left_out > 0 {
            let what = format!("{} more are left out here", self.left_out);
            self.kept.push(Problem::new(Place::Nowhere, what, "mend these first"));
        }
        self.kept
    }
}

/// What a problem has in common with those that are alike, and with those that are similar.
fn kinds(problem: &Problem) -> [(usize, u64); 2] {
    // The same before and after the key is cut.
    let key = first(&problem.key, KEY - 1);
    let (alike, similar) = match &problem.place {
        Place::Listed { path, .. } => (hash((path, &problem.what)), hash((path, without(&problem.what, ('"', '"'))))),
        Place::Discovered(source) => {
            (hash((source, &problem.what)), hash((source, without(&problem.what, ('"', '"')))))
        }
        place @ (Place::File { path, .. } | Place::Included { path, .. }) => {
            (hash((place, key)), hash((path, without(key, ('[', ']')))))
        }
        place => (hash((place, key)), hash((place, key))),
    };
    [(ALIKE, alike), (SIMILAR, similar)]
}

/// The first characters of a text.
fn first(text: &str, count: usize) -> &str {
    text.char_indices().nth(count).and_then(|(end, _)| text.get(..end)).unwrap_or(text)
}

/// The text without what is between the pairs.
fn without(text: &str, (open, close): (char, char)) -> String {
    let mut rest = text;
    let mut left = String::new();
    while let Some((before, inside)) = rest.split_once(open) {
        left.push_str(before);
        left.push(open);
        rest = inside.split_once(close).map_or("", |(_, behind)| behind);
    }
    left.push_str(rest);
    left
}

fn cut(text: &mut String, most: usize) {
    if text.chars().nth(most).is_some() {
        text.truncate(first(text, most - 1).len());
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(line: usize, key: &str, what: &str) -> Problem {
        let place = Place::File { path: "a.toml".into(), at: Some((line, 1)) };
        Problem { place, key: key.to_owned(), what: what.to_owned(), help: None }
    }

    fn details(problems: impl IntoIterator<Item = Problem>) -> Vec<String> {
        let mut list = ProblemList::default();
        for problem in problems {
            list.push(problem);
        }
        list.finish().into_iter().map(|problem| problem.what).collect()
    }

    #[test]
    fn of_problems_that_are_alike_a_few_are_shown_and_all_are_counted() {
        let twice = details([problem(1, "a", "x"), problem(1, "a", "x")]);
        assert_eq!(twice, ["x"]);
        let alike = details((0..8).map(|number| problem(1, "a", &format!("no {number}"))));
        assert_eq!(alike, ["no 0", "no 1", "no 2", "no 3", "no 4 (and 3 more like this)"]);
        let similar = details((0..250).map(|number| problem(number + 1, &format!("targets[{number}].key"), "x")));
        assert_eq!((similar.len(), &*similar[99]), (100, "x (and 150 more like this)"));
        let mut noted = ProblemCollector::default();
        for number in 0..MOST {
            assert!(!noted.is_full(), "{number}");
            noted.push(Severity::Error, problem(1, &format!("k{number}"), "x"));
        }
        assert!(noted.is_full());
        let all = details((0..5000).map(|number| problem(1, &format!("k{number}"), "x")));
        assert_eq!((all.len(), &*all[1000]), (1001, "4000 more are left out here"));
    }

    #[test]
    fn a_key_without_end_is_cut_and_still_counted_with_its_like() {
        let key = "k".repeat(1 << 20);
        let mut list = ProblemList::default();
        for number in 0..7 {
            list.push(problem(1, &key, &number.to_string()));
        }
        let kept = list.finish();
        assert_eq!((kept.len(), kept[0].key.chars().count()), (5, KEY));
        assert_eq!(kept[4].what, "4 (and 2 more like this)");
    }

    #[test]
    fn a_table_is_wrong_when_a_key_in_it_is_and_not_when_one_beside_it_is() {
        let mut noted = ProblemCollector::default();
        noted.push(Severity::Error, problem(1, "targets[1].deadlines.connect", "x"));
        for (table, wrong) in [
            ("targets[1]", true),
            ("targets[1].deadlines", true),
            ("targets[1].deadlines.connect", true),
            ("targets", false),
            ("targets[0]", false),
            ("targets[1].dead", false),
            ("defaults", false),
        ] {
            assert_eq!(noted.is_wrong(table), wrong, "{table}");
        }
        assert!(noted.has_errors());
    }
}

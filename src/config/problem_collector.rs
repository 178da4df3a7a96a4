//! Problems as they are found: each once, of those that are alike the first few, and no more than anybody reads.
//!
//! A file can be wrong in a million places, and each sentence takes more memory than what it is about. What is left out is
//! counted, and the count is shown. Filled by `read`.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
    hash::{DefaultHasher, Hash, Hasher as _},
};

use crate::config::problem::{Place, Problem, Problems, sort};

/// So many problems that are alike are shown: of one key, in one place.
const ALIKE: usize = 5;
/// So many that differ by nothing but the number of a table or a name in quotes: of the same key in many targets.
const SIMILAR: usize = 100;
/// So many of all together.
const MOST: usize = 1000;
/// Problems that were noted, so that one that comes for each target of a group is shown once.
const KNOWN: usize = 1_000_000;
/// No key is shown longer, nor a sentence about it, in characters.
const KEY: usize = 200;
const SENTENCE: usize = 4000;
/// Tables lie no deeper, as far as anybody asks whether something is wrong in one.
const DEEPEST: usize = 8;

/// All that was found so far.
#[derive(Default)]
pub(super) struct ProblemCollector {
    errors: ProblemList,
    warnings: ProblemList,
    unusable: ProblemList,
    unset: ProblemList,
    /// The keys with errors, and the tables around them, as hashes.
    wrong: HashSet<u64>,
    unanswered: bool,
}

impl ProblemCollector {
    /// Something that keeps the configuration from being used.
    pub(super) fn error(&mut self, problem: Problem) {
        self.wrong.insert(hash(&problem.key));
        for (end, _) in problem.key.match_indices('.').take(DEEPEST) {
            self.wrong.extend(problem.key.get(..end).map(|table| hash(&table)));
        }
        self.errors.push(problem);
    }

    pub(super) fn warning(&mut self, problem: Problem) {
        self.warnings.push(problem);
    }

    pub(super) fn unusable(&mut self, problem: Problem) {
        self.unusable.push(problem);
    }

    pub(super) fn unset(&mut self, problem: Problem) {
        self.unset.push(problem);
    }

    pub(super) fn has_errors(&self) -> bool {
        !self.errors.kept.is_empty()
    }

    /// A file is on a file system that did not answer.
    pub(super) fn unanswered(&mut self) {
        self.unanswered = true;
    }

    /// Whether another error would not be told.
    pub(super) fn is_full(&self) -> bool {
        self.errors.kept.len() == MOST
    }

    /// Whether something is wrong with this table or below it.
    pub(super) fn is_wrong(&self, table: &str) -> bool {
        self.wrong.contains(&hash(&table))
    }

    /// The problems that are shown, in order.
    pub(super) fn finish(self) -> Problems {
        Problems {
            errors: self.errors.finish(),
            warnings: self.warnings.finish(),
            unusable: self.unusable.finish(),
            unset: self.unset.finish(),
            watched: Box::default(),
            unanswered: self.unanswered,
        }
    }
}

#[derive(Default)]
struct ProblemList {
    kept: Vec<Problem>,
    known: HashSet<u64>,
    alike: HashMap<u64, Count>,
    similar: HashMap<u64, Count>,
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
        let (alike, similar) = kinds(&problem);
        for (counts, kind, most) in [(&mut self.alike, alike, ALIKE), (&mut self.similar, similar, SIMILAR)] {
            if let Some(count) = counts.get_mut(&kind).filter(|count| count.shown == most) {
                count.left_out += 1;
                return;
            }
        }
        if self.kept.len() == MOST {
            self.left_out += 1;
            return;
        }
        self.alike.entry(alike).or_default().shown += 1;
        self.similar.entry(similar).or_default().shown += 1;
        cut(&mut problem.key, KEY);
        cut(&mut problem.what, SENTENCE);
        self.kept.push(problem);
    }

    fn finish(mut self) -> Vec<Problem> {
        sort(&mut self.kept);
        for last in self.kept.iter_mut().rev() {
            let (alike, similar) = kinds(last);
            let left_out = [self.alike.remove(&alike), self.similar.remove(&similar)];
            let more: usize = left_out.into_iter().flatten().map(|count| count.left_out).sum();
            if more > 0 {
                // Writing to a string cannot fail.
                let _ = write!(last.what, " (and {more} more like this)");
            }
        }
        if self.left_out > 0 {
            self.kept.push(Problem {
                place: Place::Nowhere,
                key: String::new(),
                what: format!("{} more are left out here", self.left_out),
                help: Some("mend these first".to_owned()),
            });
        }
        self.kept
    }
}

/// What a problem has in common with those that are like it, and with those that are similar.
fn kinds(problem: &Problem) -> (u64, u64) {
    match &problem.place {
        Place::Listed { path, .. } => (hash(&(path, &problem.what)), hash(&(path, without(&problem.what, ('"', '"'))))),
        place @ Place::File { path, .. } => {
            (hash(&(place, cut_key(&problem.key))), hash(&(path, without(cut_key(&problem.key), ('[', ']')))))
        }
        place => (hash(&(place, cut_key(&problem.key))), hash(&(place, cut_key(&problem.key)))),
    }
}

/// As much of a key as is kept, so that the kind of a problem is the same before and after.
fn cut_key(key: &str) -> &str {
    let end = key.char_indices().nth(KEY - 1).map_or(key.len(), |(end, _)| end);
    key.get(..end).unwrap_or(key)
}

/// The text without what stands between such a pair.
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
    if let Some((end, _)) = text.char_indices().nth(most) {
        let keep = text.char_indices().nth(most - 1).map_or(end, |(keep, _)| keep);
        text.truncate(keep);
        text.push('…');
    }
}

fn hash(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(line: usize, key: &str, what: &str) -> Problem {
        let place = Place::File { path: "a.toml".into(), at: Some((line, 1)) };
        Problem { place, key: key.to_owned(), what: what.to_owned(), help: None }
    }

    fn told(problems: impl IntoIterator<Item = Problem>) -> Vec<String> {
        let mut list = ProblemList::default();
        problems.into_iter().for_each(|problem| list.push(problem));
        list.finish().into_iter().map(|problem| problem.what).collect()
    }

    #[test]
    fn of_problems_that_are_alike_a_few_are_told_and_all_are_counted() {
        let twice = told([problem(1, "a", "x"), problem(1, "a", "x")]);
        assert_eq!(twice, ["x"]);
        let alike = told((0..8).map(|number| problem(1, "a", &format!("no {number}"))));
        assert_eq!(alike, ["no 0", "no 1", "no 2", "no 3", "no 4 (and 3 more like this)"]);
        let similar = told((0..250).map(|number| problem(number + 1, &format!("targets[{number}].key"), "x")));
        assert_eq!((similar.len(), &*similar[99]), (100, "x (and 150 more like this)"));
        let mut noted = ProblemCollector::default();
        for number in 0..MOST {
            assert!(!noted.is_full(), "{number}");
            noted.error(problem(1, &format!("k{number}"), "x"));
        }
        assert!(noted.is_full());
        let all = told((0..5000).map(|number| problem(1, &format!("k{number}"), "x")));
        assert_eq!((all.len(), &*all[1000]), (1001, "4000 more are left out here"));
    }

    #[test]
    fn a_key_without_end_is_cut_and_still_known_for_its_like() {
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
        noted.error(problem(1, "targets[1].deadlines.connect", "x"));
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

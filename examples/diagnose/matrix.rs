//! How often each cause was named for each cause that was there.

use std::{collections::BTreeMap, fmt};

use imaptrace_record::{Cause, Verdict};

use super::recorded::View;

/// What a verdict is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Score {
    /// The first cause alone is the right one.
    Right,
    /// Two causes, `server` where more could be known, or `unknown`.
    Narrowed,
    /// Another cause.
    Wrong,
    /// No verdict.
    Missing,
}

/// The causes that only the server's side can tell apart.
const INSIDE_COMMANDS: [Cause; 4] = [Cause::Lock, Cause::Disk, Cause::ServerCpu, Cause::MailboxSize];

/// What a verdict is worth where `cause` is right.
pub(crate) fn score(cause: &str, verdict: Option<&Verdict>, view: View) -> Score {
    let Some(verdict) = verdict else {
        return if cause.is_empty() || cause == "none" { Score::Right } else { Score::Missing };
    };
    let inside = INSIDE_COMMANDS.iter().any(|inside| inside.as_str() == cause);
    let right = if view == View::Record && inside { Cause::Server.as_str() } else { cause };
    match verdict.cause {
        _ if verdict.second.is_some() => Score::Narrowed,
        named if named.as_str() == right => Score::Right,
        Cause::Server | Cause::Unknown => Score::Narrowed,
        _ => Score::Wrong,
    }
}

/// The number of runs by the cause that was there, what was named, and the scores.
#[derive(Default)]
pub(crate) struct Matrix {
    named: BTreeMap<String, BTreeMap<String, usize>>,
    scores: BTreeMap<Score, usize>,
    right: BTreeMap<String, (usize, usize)>,
}

impl Matrix {
    /// Counts a verdict.
    pub(crate) fn add(&mut self, cause: &str, verdict: Option<&Verdict>, view: View) {
        let named = match verdict {
            None => "none",
            Some(verdict) if verdict.second.is_some() => "two",
            Some(verdict) => verdict.cause.as_str(),
        };
        let score = score(cause, verdict, view);
        *self.named.entry(cause.to_owned()).or_default().entry(named.to_owned()).or_default() += 1;
        *self.scores.entry(score).or_default() += 1;
        let right = self.right.entry(cause.to_owned()).or_default();
        right.0 += usize::from(score == Score::Right);
        right.1 += 1;
    }

    /// The number of runs with a score, and of all.
    #[allow(dead_code, reason = "for tests")]
    pub(crate) fn count(&self, score: Score) -> (usize, usize) {
        (self.scores.get(&score).copied().unwrap_or_default(), self.scores.values().sum())
    }

    /// The causes that were not named right in most of their runs.
    #[allow(dead_code, reason = "for tests")]
    pub(crate) fn without_majority(&self) -> Vec<&str> {
        let lost = self.right.iter().filter(|(_, (right, all))| right * 2 <= *all);
        lost.map(|(cause, _)| cause.as_str()).collect()
    }
}

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut columns: Vec<&String> = self.named.values().flat_map(BTreeMap::keys).collect();
        columns.sort_unstable();
        columns.dedup();
        write!(f, "{:13}", "")?;
        for column in &columns {
            write!(f, " {:>5}", short(column))?;
        }
        writeln!(f, "  right")?;
        for (cause, named) in &self.named {
            write!(f, "{cause:13}")?;
            for column in &columns {
                match named.get(*column) {
                    Some(count) => write!(f, " {count:>5}")?,
                    None => write!(f, " {:>5}", "·")?,
                }
            }
            let (right, all) = self.right.get(cause).copied().unwrap_or_default();
            writeln!(f, "  {right} of {all}")?;
        }
        let all: usize = self.scores.values().sum();
        for score in [Score::Right, Score::Narrowed, Score::Wrong, Score::Missing] {
            let count = self.scores.get(&score).copied().unwrap_or_default();
            let tenths = (count * 1_000 + all / 2) / all.max(1);
            writeln!(f, "{:9} {count:>4} of {all}  {}.{} %", format!("{score:?}"), tenths / 10, tenths % 10)?;
        }
        Ok(())
    }
}

/// A column's name in five letters.
fn short(name: &str) -> &str {
    match name {
        "auth_backend" => "backe",
        "auth_penalty" => "penal",
        "server_cpu" => "cpu",
        "mailbox_size" => "size",
        "bandwidth" => "bandw",
        "distance" => "dist",
        "unknown" => "unkn",
        "server" => "serv",
        "prober" => "prob",
        other => other.get(..5).unwrap_or(other),
    }
}

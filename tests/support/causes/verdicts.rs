//! The verdicts of recorded runs, by the code of the example `diagnose`.

use super::recording::Recording;

#[path = "../../../examples/diagnose/matrix.rs"]
mod matrix;
#[path = "../../../examples/diagnose/recorded.rs"]
mod recorded;

use self::{
    matrix::{Score, score},
    recorded::{View, diagnose_file},
};

/// How often the injected cause was named, as the first and only one.
pub struct RightVerdicts {
    /// From the record alone, with the server's events, and with samples of its processes too.
    pub right: [usize; 3],
    /// Usable runs.
    pub of: usize,
    /// What was named with events and samples, for a test that fails.
    pub named: Vec<String>,
}

impl RightVerdicts {
    /// Diagnoses the usable runs.
    pub fn of(recording: &Recording) -> Self {
        let directory = tempfile::tempdir().unwrap();
        recording.save(directory.path());
        let file = diagnose_file(&directory.path().join(format!("{}.json", recording.key))).unwrap();
        let right = View::ALL.map(|view| {
            let is_right = |verdict| score(&file.cause, verdict, view) == Score::Right;
            file.runs.iter().filter(|run| is_right(run.verdict(view))).count()
        });
        let named = file.runs.iter().map(|run| {
            run.verdict(View::Processes).map_or_else(
                || "none".to_owned(),
                |verdict| format!("{} {:.2} {:?}", verdict.cause.as_str(), verdict.share, verdict.evidence),
            )
        });
        Self { right, of: file.runs.len(), named: named.collect() }
    }

    /// Whether most of them were right with all that was recorded.
    pub fn by_majority(&self) -> bool {
        self.right[View::Processes as usize] * 2 > self.of
    }
}

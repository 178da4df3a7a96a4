//! The rules of the diagnosis against recorded runs with one injected cause each (`tests/recorded`), with the code of the example
//! `diagnose`. The confusion matrices are printed; fewer right verdicts than at the time of the rules fail, and so does each verdict that is
//! not in `tests/recorded/verdicts.jsonl`.

use std::path::Path;

#[path = "../../examples/diagnose/matrix.rs"]
mod matrix;
#[allow(dead_code, reason = "the example shows more")]
#[path = "../../examples/diagnose/recorded.rs"]
mod recorded;

use self::{
    matrix::{Matrix, Score},
    recorded::{View, diagnose_file, files},
};

#[test]
fn recorded_runs_get_their_causes_as_often_as_when_the_rules_were_made() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded");
    let mut matrices = View::ALL.map(|view| (view, Matrix::default()));
    let (mut quiet, mut quiet_with_cause) = (0, 0);
    let mut lines = Vec::new();
    for path in files(&directory).unwrap() {
        let file = diagnose_file(&path).unwrap();
        quiet += file.quiet;
        quiet_with_cause += file.quiet_with_cause;
        for diagnosed in &file.runs {
            lines.push(diagnosed.line(&file.name));
            for (view, matrix) in &mut matrices {
                matrix.add(&file.cause, diagnosed.verdict(*view), *view);
            }
        }
    }
    for (view, matrix) in &matrices {
        eprintln!("{}\n{matrix}", view.title());
    }
    // At least so many right, at most so many wrong.
    for ((view, matrix), (least, most)) in matrices.iter().zip([(164, 3), (169, 6), (181, 2)]) {
        let (right, all) = matrix.count(Score::Right);
        let (wrong, _) = matrix.count(Score::Wrong);
        assert_eq!(all, 184, "recorded runs");
        assert!(right >= least && wrong <= most, "{}: {right} right, {wrong} wrong", view.title());
    }
    assert!(quiet > 1_000, "{quiet} baseline runs that are not slow");
    assert_eq!(quiet_with_cause, 0, "baseline runs that are not slow and got a cause");
    // After a change that is meant: cargo run --example diagnose -- --json tests/recorded >tests/recorded/verdicts.jsonl
    let known = std::fs::read_to_string(directory.join("verdicts.jsonl")).unwrap();
    let known: Vec<_> = known.lines().collect();
    let changed: Vec<_> = lines.iter().zip(&known).filter(|(line, known)| line != *known).collect();
    assert!(changed.is_empty() && lines.len() == known.len(), "{} changed: {changed:#?}", changed.len());
}

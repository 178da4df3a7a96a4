//! Diagnoses recorded runs whose cause is known, and counts how often the verdict is right (docs/diagnosis.md).
//!
//! ```text
//! cargo run --release --example diagnose -- [--json] [--why] DIR
//! ```
//!
//! `DIR` has files `*.json.xz` or `*.json`: `cause`, `baseline` (runs before), `runs`, and for each run what the server had
//! (`events`, `samples`, `front`). Each run is diagnosed from its record alone, with the server's events, and with samples of its
//! processes too. The work is the library's: this file reads, counts and prints.

#![expect(clippy::print_stdout, reason = "a program")]
#![expect(clippy::disallowed_methods, reason = "a program that probes nothing may wait for files")]

mod matrix;
mod recorded;

use std::{env, path::Path, process::ExitCode};

use self::{
    matrix::Matrix,
    recorded::{Diagnosed, View, diagnose_file, files},
};

fn main() -> ExitCode {
    let mut json = false;
    let mut why = false;
    let mut directory = None;
    for argument in env::args().skip(1) {
        match argument.as_str() {
            "--json" => json = true,
            "--why" => why = true,
            _ => directory = Some(argument),
        }
    }
    let Some(directory) = directory else {
        eprint("usage: diagnose [--json] [--why] DIR, a directory with recorded runs (*.json.xz, *.json)");
        return ExitCode::from(2);
    };
    match run(Path::new(&directory), json, why) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "a program")]
fn eprint(text: &str) {
    eprintln!("diagnose: {text}");
}

fn run(directory: &Path, json: bool, why: bool) -> Result<(), String> {
    let mut matrices = View::ALL.map(|view| (view, Matrix::default()));
    let mut quiet = (0, 0);
    for path in files(directory)? {
        let file = diagnose_file(&path)?;
        quiet.0 += file.quiet;
        quiet.1 += file.quiet_with_cause;
        for diagnosed in &file.runs {
            for (view, matrix) in &mut matrices {
                matrix.add(&file.cause, diagnosed.verdict(*view), *view);
            }
            if json {
                println!("{}", diagnosed.line(&file.name));
            } else if why {
                explain(&file.name, &file.cause, diagnosed);
            }
        }
    }
    if !json {
        for (view, matrix) in &matrices {
            println!("{}\n{matrix}", view.title());
        }
        println!("baseline runs that are not slow: {}, with a cause: {}", quiet.0, quiet.1);
    }
    Ok(())
}

/// Prints the evidence of each verdict that is not right.
fn explain(file: &str, cause: &str, diagnosed: &Diagnosed) {
    for view in View::ALL {
        let verdict = diagnosed.verdict(view);
        let score = matrix::score(cause, verdict, view);
        if score == matrix::Score::Right {
            continue;
        }
        let named = verdict.map_or("no verdict", |verdict| verdict.cause.as_str());
        let share = verdict.map_or(0.0, |verdict| verdict.share);
        println!("{file} {} {}: {named} {share} ({score:?})", diagnosed.number, view.key());
        for text in verdict.into_iter().flat_map(|verdict| &verdict.evidence) {
            println!("    + {text}");
        }
        for text in verdict.into_iter().flat_map(|verdict| &verdict.against) {
            println!("    - {text}");
        }
    }
}

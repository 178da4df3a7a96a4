//! The order of the causes, and what is printed of each.

use std::{env, fmt::Write as _, path::PathBuf, process::ExitCode};

use imaptrace_record::RunOutcome;

use crate::causes::{
    agent::Probe,
    injections::{Injection, OTHERS, PLAIN},
    recording::Recording,
    testbed::Testbed,
    verdicts::RightVerdicts,
};

pub(crate) fn run() -> ExitCode {
    let all: Vec<(&str, Injection)> = PLAIN.into_iter().chain(OTHERS).collect();
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        for (name, _) in &all {
            println!("{name}");
        }
        return ExitCode::SUCCESS;
    }
    let unknown = arguments.iter().find(|argument| all.iter().all(|(name, _)| name != argument));
    if let Some(unknown) = unknown {
        eprintln!("causes: {unknown:?} is none of them; --list prints all");
        return ExitCode::from(2);
    }
    let wanted = env::var("CAUSES_RUNS").map_or(9, |text| text.parse().expect("CAUSES_RUNS is a number"));
    let kept = env::var_os("CAUSES_DIR").map(PathBuf::from);
    let testbed = Testbed::start(&[Probe::FirstLoad, Probe::Cold], true);
    let mut failed = Vec::new();
    let mut table = String::new();
    for (name, inject) in all {
        if !arguments.is_empty() && !arguments.iter().any(|argument| argument == name) {
            continue;
        }
        let recording = inject(&testbed, wanted);
        print(&recording);
        if let Some(directory) = &kept {
            recording.save(directory);
        }
        let verdicts = RightVerdicts::of(&recording);
        if !verdicts.by_majority() {
            for named in &verdicts.named {
                println!("   verdict: {named}");
            }
        }
        let [record, events, processes] = verdicts.right;
        let of = verdicts.of;
        writeln!(table, "{name:28} {:13} {of:>6} {record:>7} {events:>7} {processes:>8}", recording.cause).unwrap();
        if recording.usable() * 2 < recording.wanted || !verdicts.by_majority() {
            failed.push(name);
        }
    }
    println!("\n{:28} {:13} {:>6} {:>7} {:>7} {:>8}", "injected", "cause", "usable", "record", "+events", "+samples");
    println!("{table}");
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("too few usable runs, or the cause not named by most: {}", failed.join(", "));
    ExitCode::FAILURE
}

/// The runs of a cause, a line each.
fn print(recording: &Recording) {
    println!("== {} ({}): {}; {} usable", recording.key, recording.cause, recording.note, recording.usable());
    for recorded in &recording.runs {
        let run = &recorded.run;
        let slow = run.steps.iter().filter(|step| step.slow == Some(true));
        let slow: Vec<String> =
            slow.map(|step| format!("{} {:.0} ms", step.name, step.duration_s.as_f64() * 1e3)).collect();
        let failed = run.error_type.map(|class| format!(" {class}")).unwrap_or_default();
        let outcome = if run.outcome == RunOutcome::Passed { "passed" } else { "not passed" };
        println!(
            "   {} {outcome}{failed}, {:.0} ms, {} events{}{}",
            if recorded.usable { '*' } else { '-' },
            run.duration_s.as_f64() * 1e3,
            recorded.events.len(),
            if slow.is_empty() { "" } else { ": " },
            slow.join(", ")
        );
    }
}

//! The tables, ready for docs/performance.md, and the machine that they were made on.

use std::{fs, process::Command, thread};

use imaptrace::clock;
use imaptrace_record::Timestamp;

use crate::{
    Outcome, Row,
    figures::{Deviations, micros, thousands},
};

const HEAD: [&str; 11] = [
    "Load",
    "Commands",
    "Start",
    "First byte",
    "End",
    "Duration",
    "Marked uncertain",
    "Worst p99 of the others",
    "Goal",
    "In flight (logged in)",
    "Packets lost, runs not joined",
];

/// Prints what stands above the rows.
pub fn print_head(machine: &str) {
    println!("{machine}\n");
    println!("Ours less the wire's, µs: median / p99 / max.\n");
    println!("| {} |\n|---|{}", HEAD.join(" | "), "--:|".repeat(HEAD.len() - 1));
}

/// Prints a row as soon as there is one.
pub fn print_row(row: &Row, outcome: &Outcome) {
    let (all, certain) = (&outcome.all, &outcome.certain);
    println!(
        "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} ({}) | {}, {} |",
        row.name,
        thousands(all.start.count() as u64),
        all.start.cell(),
        all.first_byte.cell(),
        all.end.cell(),
        all.duration.cell(),
        share(all.start.count() - certain.start.count(), all.start.count()),
        micros(certain.worst()),
        verdict(row, outcome),
        thousands(outcome.peaks.0 as u64),
        thousands(outcome.peaks.1 as u64),
        thousands(outcome.dropped),
        thousands(outcome.unjoined as u64),
    );
}

/// Prints what the witness said.
pub fn print_witness(rows: &[(&Row, Outcome)]) {
    println!("\nThe server's part by imaptrace less `running_usecs` by Dovecot, µs: median / p99 / max.\n");
    println!("| Load | Commands | SELECT | FETCH |\n|---|--:|--:|--:|");
    for (row, outcome) in rows.iter().filter(|(_, outcome)| !outcome.witness.is_empty()) {
        let cell = |name| outcome.witness.get(name).map_or_else(|| "–".to_owned(), Deviations::cell);
        let count = outcome.witness.values().map(Deviations::count).sum::<usize>() as u64;
        println!("| {} | {} | {} | {} |", row.name, thousands(count), cell("SELECT"), cell("FETCH"));
    }
}

/// Whether a row holds what it should, or why it says nothing.
fn verdict(row: &Row, outcome: &Outcome) -> String {
    let mut faults = Vec::new();
    let mut fault = |count: u64, what: &str| {
        if count > 0 {
            faults.push(format!("{} {what}", thousands(count)));
        }
    };
    fault(outcome.dropped, "packets lost by the capture");
    for (failure, count) in &outcome.failures {
        fault(*count, &format!("runs ended in {failure}"));
    }
    // The packets of one in a thousand may be too odd to be told apart; more would hide something.
    fault(if outcome.unjoined * 1_000 > outcome.runs { outcome.unjoined as u64 } else { 0 }, "runs not joined");
    // A few may have ended before the last began.
    let few = outcome.peaks.0 * 20 < row.load.in_flight * 19;
    fault(if few { (row.load.in_flight - outcome.peaks.0) as u64 } else { 0 }, "connections too few at once");
    if !faults.is_empty() {
        return format!("**void**: {}", faults.join(", "));
    }
    let Some(goal) = row.goal else { return "none".to_owned() };
    let worst = outcome.certain.worst();
    #[expect(clippy::cast_precision_loss, reason = "a ratio of two small numbers, for a table")]
    let ratio = worst as f64 / goal as f64;
    format!("{} µs, {}: {ratio:.2} ×", goal / 1_000, if worst <= goal { "met" } else { "**missed**" })
}

#[expect(clippy::cast_precision_loss, reason = "a percentage, for a table")]
fn share(part: usize, whole: usize) -> String {
    format!("{:.1} %", part as f64 * 100.0 / whole.max(1) as f64)
}

/// What all this was measured on.
pub fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
        line.split_once(['=', ':']).map(|(_, value)| value.trim().trim_matches('"').to_owned()).unwrap_or_default()
    };
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().find(|line| line.contains('.')).unwrap_or_default().to_owned()
    };
    format!(
        "{}; {} × {}, {}; {}, Linux {}; Dovecot {}; {}; load average at the start {}",
        Timestamp::from(clock::wall()).date(),
        thread::available_parallelism().map_or(0, usize::from),
        field(&read("/proc/cpuinfo"), "model name"),
        std::env::consts::ARCH,
        field(&read("/etc/os-release"), "PRETTY_NAME"),
        read("/proc/sys/kernel/osrelease").trim(),
        said("/usr/sbin/dovecot", &["--version"]),
        said("tcpdump", &["--version"]),
        read("/proc/loadavg").split(' ').next().unwrap_or_default(),
    )
}

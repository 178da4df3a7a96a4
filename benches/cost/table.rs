//! Medians, ratios, Markdown.

use std::fs;

use crate::{
    Costs,
    client::{ASYNC_IMAP, BARE, BARE_ANEW, BLACKBOX, IMAPTRACE, Name, PerRun, Security, VARIANTS},
    stage::version,
};

/// What was measured on, and how busy it was.
pub fn machine(server_version: &str, rounds: u32, runs: u32) {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "Machine: {cores} × {}, Linux {}, load {} at the start. Dovecot {server_version}, {}.\n{rounds} rounds of {runs} runs for each client.\n",
        model.map_or("CPU of unknown make", |(_, name)| name.trim()),
        read("/proc/sys/kernel/osrelease").trim(),
        read("/proc/loadavg").split(' ').next().unwrap_or_default(),
        version("openssl", "version").split(" (").next().unwrap_or_default(),
    );
}

/// imaptrace beside the others, then the goals.
pub fn peers(security: Security, costs: &Costs) {
    let title = match security {
        Security::Plain => "Clear text",
        Security::Tls => "TLS",
    };
    println!("### {title}\n");
    println!("| client | CPU a run, µs | lowest to highest round | wall a run, µs | imaptrace's CPU to its |");
    println!("|---|--:|--:|--:|--:|");
    let ours = cpu(costs, IMAPTRACE);
    for (name, samples) in costs.iter().filter(|(name, _)| !VARIANTS.contains(name)) {
        let Some((row, cpu)) = row(samples) else {
            println!("| {name} | n/a{} | | | |", reason(samples));
            continue;
        };
        let ratio = if *name == IMAPTRACE { String::new() } else { ratio(ours / cpu) };
        println!("| {name} | {row} | {ratio} |");
    }
    println!();
    let goals: &[(Name, f64, &str)] = match security {
        Security::Plain => &[(BARE, 2.5, "2.5 ×"), (ASYNC_IMAP, 1.0, "below"), (BLACKBOX, 0.1, "1/10 of")],
        Security::Tls => {
            &[(BARE, 1.3, "1.3 ×"), (BARE_ANEW, 1.3, "1.3 ×"), (ASYNC_IMAP, 1.0, "below"), (BLACKBOX, 0.25, "1/4 of")]
        }
    };
    println!("| goal: CPU at most | measured | |\n|---|--:|---|");
    for (name, limit, words) in goals {
        let measured = ours / cpu(costs, name);
        println!("| {words} {name} | {} | {} |", ratio(measured), met(measured <= *limit));
    }
    println!();
}

/// imaptrace with things switched off.
pub fn features(security: Security, costs: &Costs) {
    println!(
        "| imaptrace{} | CPU a run, µs | lowest to highest round | wall a run, µs | CPU saved, µs |",
        match security {
            Security::Plain => "",
            Security::Tls => " over TLS",
        }
    );
    println!("|---|--:|--:|--:|--:|");
    let ours = cpu(costs, IMAPTRACE);
    for (name, samples) in costs.iter().filter(|(name, _)| *name == IMAPTRACE || VARIANTS.contains(name)) {
        match row(samples) {
            Some((row, _)) if *name == IMAPTRACE => println!("| {name} | {row} | |"),
            Some((row, cpu)) => println!("| {name} | {row} | {:.0} |", ours - cpu),
            None => println!("| {name} | n/a{} | | | |", reason(samples)),
        }
    }
    println!();
}

/// How a goal was done by.
pub fn met(met: bool) -> &'static str {
    if met { "met" } else { "**missed**" }
}

fn ratio(value: f64) -> String {
    format!("{value:.2} ×")
}

fn reason(samples: &Result<Vec<PerRun>, String>) -> String {
    samples.as_ref().err().map_or_else(String::new, |why| format!(": {}", why.replace('|', "/")))
}

/// Median CPU; not a number for who could not run.
fn cpu(costs: &Costs, name: Name) -> f64 {
    costs
        .iter()
        .find(|(other, _)| *other == name)
        .and_then(|(_, samples)| row(samples))
        .map_or(f64::NAN, |(_, cpu)| cpu)
}

/// The columns, and the median CPU by itself.
fn row(samples: &Result<Vec<PerRun>, String>) -> Option<(String, f64)> {
    let samples = samples.as_ref().ok().filter(|samples| !samples.is_empty())?;
    let sorted = |value: fn(&PerRun) -> f64| {
        let mut values: Vec<f64> = samples.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let (cpu, wall) = (sorted(|sample| sample.cpu), sorted(|sample| sample.wall));
    let median = |values: &[f64]| f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2]);
    let text = format!("{:.0} | {:.0} to {:.0} | {:.0}", median(&cpu), cpu[0], cpu[cpu.len() - 1], median(&wall));
    Some((text, median(&cpu)))
}

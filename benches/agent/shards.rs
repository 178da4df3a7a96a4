//! 10,000 targets over five agents by shard, beside one agent with 2,000 targets and no shard: all six at once.
//!
//! Each target is a server of its own, an address of 127.0.0.0/8, so the host is a network namespace in which Dovecot listens on
//! all addresses: `scripts/bench-agent.sh` makes it.

use std::time::Duration;

use imaptrace::{
    clock,
    plan::{Endpoint, Host, Shard},
};

use crate::{
    MIB, pass,
    rig::Rig,
    subject::{Subject, server_address},
};

const TARGETS: u32 = 10_000;
const SHARDS: u32 = 5;
/// Of each agent, in proportion to the one without a shard.
const RATIO_GOAL: f64 = 1.1;
/// Every target has run once, and more.
const WARM: Duration = Duration::from_secs(75);

/// Between two runs of a target.
pub const INTERVAL: Duration = Duration::from_secs(60);

pub fn report(rig: &Rig, window: Duration) {
    println!("### {TARGETS} targets over {SHARDS} agents, at {} s\n", INTERVAL.as_secs());
    let alone = Subject::start_shard(rig, TARGETS / SHARDS, None);
    let shards: Vec<_> =
        (0..SHARDS).map(|index| Subject::start_shard(rig, TARGETS, Some(&format!("{index}/{SHARDS}")))).collect();
    let all: Vec<&Subject> = std::iter::once(&alone).chain(&shards).collect();
    pass(WARM);
    let before: Vec<_> = all.iter().map(|subject| (subject.counts(rig), subject.usage(), clock::now())).collect();
    pass(window);
    println!(
        "| agent | targets | runs a second | CPU a run, µs | ratio | RSS, MiB | ratio, of a target | start lag p99 | failed, skipped |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|");
    let (mut of_alone, mut worst) = (None, (0.0_f64, 0.0_f64));
    for (number, (subject, (counted, used, begin))) in all.iter().zip(before).enumerate() {
        let (usage, took) = (subject.usage() - used, (clock::now() - begin).as_secs_f64());
        let counts = subject.counts(rig);
        let runs = counts.runs - counted.runs;
        let (a_run, rss) = (usage.cpu.as_secs_f64() * 1e6 / runs, subject.rss());
        let (base_run, base_rss) = *of_alone.get_or_insert((a_run, rss / counts.accounts));
        let ratios = (a_run / base_run, rss / counts.accounts / base_rss);
        worst = (worst.0.max(ratios.0), worst.1.max(ratios.1));
        let name = if number == 0 { "no shard".to_owned() } else { format!("shard {}/{SHARDS}", number - 1) };
        println!(
            "| {name} | {:.0} | {:.1} | {a_run:.0} | {:.2} | {:.1} | {:.2} | {} | {:.0}, {:.0} |",
            counts.accounts,
            runs / took,
            ratios.0,
            rss / MIB,
            ratios.1,
            counts.lag(),
            counts.failed,
            counts.skipped,
        );
    }
    let of = |shards: u32, number: u32| {
        let server = Endpoint { host: Host::Address(server_address(number).into()), port: 143 };
        (0..shards).find(|index| Shard::new(*index, shards).is_some_and(|shard| shard.has(&server)))
    };
    let moved: Vec<_> = (0..TARGETS).filter(|number| of(SHARDS, *number) != of(SHARDS + 1, *number)).collect();
    let elsewhere = moved.iter().filter(|number| of(SHARDS + 1, **number) != Some(SHARDS)).count();
    println!("\n| goal: at most | measured | |\n|---|--:|---|");
    for (goal, measured) in [("CPU a run", worst.0), ("memory of a target", worst.1)] {
        let met = if measured <= RATIO_GOAL { "met" } else { "**missed**" };
        println!("| {RATIO_GOAL} times the agent without a shard, {goal} | {measured:.2} | {met} |");
    }
    println!(
        "\nFrom {SHARDS} shards to {}: {} of {TARGETS} targets move, {elsewhere} of them to another than the new one.\n",
        SHARDS + 1,
        moved.len()
    );
}

//! `[limits]`: what one run may read, and how many runs there may be.
//!
//! Reads the table into plain values; nothing is done with them here. Called by `load`.

use std::{num::NonZeroU32, ops::RangeInclusive};

use crate::{
    config::sources::{readers::Table, schema::TableKeys, units::print_size},
    plan::{Limits, RunLimits},
};

pub(crate) static KEYS: TableKeys = TableKeys::new(
    "limits",
    &[
        "runs_in_flight",
        "runs_in_flight_per_server",
        "logins_per_second",
        "logins_per_second_per_server",
        "wait",
        "line",
        "command_bytes",
        "run_bytes",
        "responses",
        "depth",
        "literal_kept",
    ],
);

/// More runs, at once or in a second, are more than one agent can do.
const MOST_RUNS: u64 = 100_000;
/// RFC 9051 §4 wants 8192 octets of a line to be taken, and some greetings and capabilities need a good part of 1 KiB.
/// A line is held in memory, once for each run in flight.
const LINE: RangeInclusive<u64> = 1 << 10..=16 << 20;
/// The answer to LIST of a large account is some 64 KiB. What is counted and dropped costs no memory: more is no danger.
const RECEIVED: RangeInclusive<u64> = 64 << 10..=1 << 40;
/// A mailbox of some folders answers LIST with as many responses.
const RESPONSES: RangeInclusive<u64> = 100..=1_000_000_000;
/// The rows that are asked for nest 2 deep, an ENVELOPE that nobody asked for 4.
const DEPTH: RangeInclusive<u64> = 8..=1_000;
/// Held in memory, like a line.
const KEPT: RangeInclusive<u64> = 64..=1 << 20;

/// Reads `[limits]`: what holds for each run, and how many there may be.
pub(crate) fn read(table: &Table<'_>) -> (Limits, RunLimits) {
    let standard = Limits::default();
    let size = |key, bounds| table.get(key).and_then(|field| field.size_within(bounds));
    let bytes = |key, bounds| size(key, bounds).and_then(|size| usize::try_from(size).ok());
    let number = |key, least, most| table.get(key).and_then(|field| field.number(least, most));
    let depth = number("depth", *DEPTH.start(), *DEPTH.end()).and_then(|depth| depth.try_into().ok());
    let limits = Limits {
        line: bytes("line", &LINE).unwrap_or(standard.line),
        command_bytes: size("command_bytes", &RECEIVED).unwrap_or(standard.command_bytes),
        session_bytes: size("run_bytes", &RECEIVED).unwrap_or(standard.session_bytes),
        responses: number("responses", *RESPONSES.start(), *RESPONSES.end()).unwrap_or(standard.responses),
        depth: depth.unwrap_or(standard.depth),
        literal_kept: bytes("literal_kept", &KEPT).unwrap_or(standard.literal_kept),
    };
    if limits.session_bytes < limits.command_bytes {
        let what = format!(
            "a run is cut at {} and so never comes to what one command may bring, {}",
            print_size(limits.session_bytes),
            print_size(limits.command_bytes)
        );
        let key = if table.has("run_bytes") { "run_bytes" } else { "command_bytes" };
        table.warn(key, what, "let run_bytes be command_bytes at least");
    }
    let standard = RunLimits::default();
    let runs = |key| number(key, 1, MOST_RUNS).and_then(|runs| runs.try_into().ok());
    // 0 is no limit.
    let logins =
        |key| table.get(key).and_then(|field| field.number(0, MOST_RUNS)?.try_into().ok()).map(NonZeroU32::new);
    let per_server = logins("logins_per_second_per_server");
    let runs = RunLimits {
        in_flight: runs("runs_in_flight").unwrap_or(standard.in_flight),
        in_flight_per_server: runs("runs_in_flight_per_server").unwrap_or(standard.in_flight_per_server),
        logins_per_second: logins("logins_per_second").unwrap_or(standard.logins_per_second),
        logins_per_second_per_server: per_server.unwrap_or(standard.logins_per_second_per_server),
        wait: table.get("wait").and_then(|field| field.duration()).unwrap_or(standard.wait),
    };
    (limits, runs)
}

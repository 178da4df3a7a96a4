//! `[limits]`: how much a run may read, and how many runs there may be. Called by `load`.

use std::{num::NonZeroU32, ops::RangeInclusive};

use crate::{
    config::sources::{
        readers::{Field, Table},
        schema::TableKeys,
        units::print_size,
    },
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

/// Runs in flight or in a second: more than one agent can do.
const MOST_RUNS: u64 = 100_000;
/// A client should accept a line of 8192 octets (RFC 9051 §4), and some greetings and capabilities take most of 1 KiB. A line is
/// kept in memory for each run in flight.
const LINE: RangeInclusive<u64> = 1 << 10..=16 << 20;
/// The response to LIST takes some 64 KiB in a large account. Bytes that are counted and dropped take no memory.
const RECEIVED: RangeInclusive<u64> = 64 << 10..=1 << 40;
/// LIST has a response for each mailbox.
const RESPONSES: RangeInclusive<u64> = 100..=1_000_000_000;
/// The levels of our FETCH are 2, those of an unsolicited ENVELOPE 4.
const DEPTH: RangeInclusive<u64> = 8..=1_000;
/// Kept in memory, like a line.
const KEPT: RangeInclusive<u64> = 64..=1 << 20;

pub(crate) fn read(table: &Table<'_>) -> (Limits, RunLimits) {
    let standard = Limits::default();
    let size = |key, bounds| table.read(key, |field| field.size(bounds));
    let bytes = |key, bounds| size(key, bounds).and_then(|size| usize::try_from(size).ok());
    let limits = Limits {
        line: bytes("line", LINE).unwrap_or(standard.line),
        command_bytes: size("command_bytes", RECEIVED).unwrap_or(standard.command_bytes),
        session_bytes: size("run_bytes", RECEIVED).unwrap_or(standard.session_bytes),
        responses: table.read("responses", |field| field.number(RESPONSES)).unwrap_or(standard.responses),
        depth: table.read("depth", |field| field.number(DEPTH)).unwrap_or(standard.depth),
        literal_kept: bytes("literal_kept", KEPT).unwrap_or(standard.literal_kept),
    };
    if limits.session_bytes < limits.command_bytes {
        let what = format!(
            "a run is cut at {}, which is less than one command may receive, {}",
            print_size(limits.session_bytes),
            print_size(limits.command_bytes)
        );
        let key = if table.has("run_bytes") { "run_bytes" } else { "command_bytes" };
        table.warn(key, what, "let run_bytes be command_bytes at least");
    }
    let standard = RunLimits::default();
    let runs = |key| table.read(key, |field| field.number(1..=MOST_RUNS));
    // 0 is no limit.
    let logins = |key| table.read(key, |field| field.number(0..=MOST_RUNS)).map(NonZeroU32::new);
    let per_server = logins("logins_per_second_per_server");
    let runs = RunLimits {
        in_flight: runs("runs_in_flight").unwrap_or(standard.in_flight),
        in_flight_per_server: runs("runs_in_flight_per_server").unwrap_or(standard.in_flight_per_server),
        logins_per_second: logins("logins_per_second").unwrap_or(standard.logins_per_second),
        logins_per_second_per_server: per_server.unwrap_or(standard.logins_per_second_per_server),
        wait: table.read("wait", Field::duration).unwrap_or(standard.wait),
    };
    (limits, runs)
}

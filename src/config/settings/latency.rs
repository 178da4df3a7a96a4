//! `[latency]`: when a step is slow, and how times are measured. Called by `load`.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use imaptrace_imap::CommandName;
use imaptrace_record::SetupStep;

use crate::{
    config::{
        problem::nearest,
        sources::{
            readers::{Field, Table},
            schema::{self, TableKeys},
        },
    },
    latency,
    plan::Timing,
};

pub(crate) static KEYS: TableKeys = TableKeys::new(
    "latency",
    &["min_runs", "slow_ratio", "slow_excess", "slow_limit", "slow_limits", "kernel_stamps", "quickack"],
);

/// The names of steps in the record: the keys of `slow_limits`.
pub(crate) const STEPS: [&str; 15] = [
    SetupStep::Resolve.as_str(),
    SetupStep::Connect.as_str(),
    SetupStep::Tls.as_str(),
    SetupStep::Greeting.as_str(),
    CommandName::Capability.as_str(),
    CommandName::StartTls.as_str(),
    CommandName::Id.as_str(),
    CommandName::Login.as_str(),
    CommandName::Authenticate.as_str(),
    CommandName::Namespace.as_str(),
    CommandName::List.as_str(),
    CommandName::Select.as_str(),
    CommandName::Examine.as_str(),
    CommandName::Fetch.as_str(),
    CommandName::Logout.as_str(),
];

/// Fewer runs have no useful median; the history of a step has no more.
const RUNS: RangeInclusive<u64> = 5..=63;

pub(crate) fn read(table: &Table<'_>) -> (latency::Settings, Timing) {
    let (standard, standard_timing) = (latency::Settings::default(), Timing::default());
    let switch = |key, standard| table.read(key, Field::bool).unwrap_or(standard);
    let settings = latency::Settings {
        min_runs: table.read("min_runs", |field| field.number(RUNS)).unwrap_or(standard.min_runs),
        slow_ratio: table.read("slow_ratio", Field::ratio).unwrap_or(standard.slow_ratio),
        slow_excess: table.read("slow_excess", Field::duration).unwrap_or(standard.slow_excess),
        slow_limit: table.read("slow_limit", Field::duration),
        slow_limits: table.get("slow_limits").map(|field| read_slow_limits(&field)).unwrap_or_default(),
    };
    let timing = Timing {
        kernel_stamps: switch("kernel_stamps", standard_timing.kernel_stamps),
        quickack: switch("quickack", standard_timing.quickack),
    };
    (settings, timing)
}

fn read_slow_limits(field: &Field<'_>) -> BTreeMap<String, Duration> {
    let mut limits = BTreeMap::new();
    for (key, limit) in field.entries() {
        // The name of a variable is in lower case: it sorts behind the file's spelling, so it overrides it here too.
        if let Some(step) = step(key).filter(|step| *step == key || limit.is_outside()) {
            limits.extend(limit.duration().map(|limit| (step.to_owned(), limit)));
            continue;
        }
        if let Some(home) = limit.home(key, &schema::SLOW_LIMITS) {
            limit.error(format!("`{key}` belongs {home}"), "the keys here are steps");
            continue;
        }
        let lower = STEPS.map(str::to_ascii_lowercase);
        let near = nearest(&key.to_ascii_lowercase(), lower.iter().map(String::as_str)).and_then(step);
        let help = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the steps are {}", STEPS.join(", ")),
        };
        limit.error("there is no such step", help);
    }
    limits
}

/// The step of this name, in upper or lower case.
fn step(name: &str) -> Option<&'static str> {
    STEPS.into_iter().find(|step| step.eq_ignore_ascii_case(name))
}

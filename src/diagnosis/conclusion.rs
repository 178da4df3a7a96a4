//! The verdict from the claims. Called by `diagnose`, after all rules.

use std::collections::BTreeMap;

use imaptrace_record::{Cause, Run, Seconds, StepName, Verdict};

use super::{
    ledger::{CauseClaim, Ledger},
    usual::{usual_latency, usual_messages, usual_round_trip},
};

/// A claim of a smaller part of the excess is not worth a line.
const NOTABLE: f64 = 0.01;

/// The verdict; none without any excess.
pub(super) fn conclude(ledger: Ledger<'_>) -> Option<Verdict> {
    let Ledger { run, mut claims, .. } = ledger;
    let mut sums: BTreeMap<Cause, f64> = BTreeMap::new();
    for claim in &claims {
        *sums.entry(claim.cause).or_default() += claim.seconds * claim.weight;
    }
    let all: f64 = sums.values().sum();
    let mut order: Vec<(Cause, f64)> = sums.into_iter().collect();
    order.sort_by(|one, other| other.1.total_cmp(&one.1));
    let (cause, most) = *order.first().filter(|_| all > 0.0)?;
    let share = (most / all * 1e4).round() / 1e4;
    let second = order.get(1).map(|(cause, _)| *cause).filter(|_| share < Verdict::HALF);
    claims.sort_by(|one, other| other.seconds.total_cmp(&one.seconds));
    let excess: f64 = claims.iter().map(|claim| claim.seconds).sum();
    let (supporting, opposing): (Vec<&CauseClaim>, Vec<&CauseClaim>) =
        claims.iter().partition(|claim| claim.cause == cause);
    let step = supporting.iter().find_map(|claim| claim.step.clone());
    let texts = |claims: Vec<&CauseClaim>, named: bool| {
        let notable = claims.into_iter().filter(|claim| claim.seconds >= NOTABLE * excess);
        let texts = notable.take(Verdict::MAX_TEXTS).map(|claim| {
            let text = &claim.evidence;
            cut(if named { format!("{}: {text}", claim.cause.as_str()) } else { text.clone() })
        });
        texts.collect()
    };
    Some(Verdict {
        cause,
        share,
        second,
        step,
        excess_s: seconds(excess),
        evidence: texts(supporting, false),
        against: texts(opposing, true),
        ..bare(run, cause)
    })
}

/// A verdict that one thing decides.
pub(super) fn single(run: &Run, cause: Cause, step: Option<StepName>, evidence: String) -> Verdict {
    let took = run.first_loading_latency_s.unwrap_or(run.duration_s);
    let over = took.saturating_sub(usual_latency(run).unwrap_or_default());
    // A run with pauses of ours is not compared with its baselines: the pauses are what is known.
    let excess_s = if run.is_latency_delayed() { run.delayed_s.unwrap_or(over) } else { over };
    Verdict { step, excess_s, evidence: vec![cut(evidence)], ..bare(run, cause) }
}

fn bare(run: &Run, cause: Cause) -> Verdict {
    Verdict {
        cause,
        share: 1.0,
        second: None,
        step: None,
        excess_s: Seconds::ZERO,
        evidence: Vec::new(),
        against: Vec::new(),
        usual_latency_s: usual_latency(run),
        usual_rtt_s: usual_round_trip(run),
        usual_messages: usual_messages(run),
    }
}

fn seconds(time: f64) -> Seconds {
    std::time::Duration::try_from_secs_f64(time).unwrap_or_default().into()
}

/// As much of a text as evidence has room for.
fn cut(mut text: String) -> String {
    if text.len() > Verdict::MAX_TEXT_BYTES {
        let mut end = Verdict::MAX_TEXT_BYTES - '…'.len_utf8();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

//! What differs between two runs: step by step, and in what else the record holds.
//!
//! Plain data without a printer: [`comparison_text`](super::comparison_text) and [`markdown`](super::markdown) draw it, and it
//! is JSON as it is. Called by `cli` for `show`.

use std::collections::BTreeSet;

use imaptrace_record::{
    ErrorType, Run, RunOutcome, Seconds, ServerText, Step, StepName, StepOutcome, Timestamp, TlsFacts, TraceId,
};
use serde::{Serialize, Serializer};

use super::{kept::bounded, parts::TimePart};

/// A part of a difference is named from here on.
const NOTICED: i64 = 1_000;

/// Two runs compared: A is the first, B the second.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The run to compare with.
    pub a: ComparedRun,
    /// The run that is compared.
    pub b: ComparedRun,
    /// The times of steps in the order of the runs, then those of the whole run.
    pub times: Vec<ComparedTime>,
    /// What else differs.
    pub changed: Vec<Change>,
}

/// Which run it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ComparedRun {
    /// Its trace.
    pub trace_id: TraceId,
    /// The target's name.
    pub target: String,
    /// The account's alias.
    pub account: String,
    /// When it started.
    pub started_at: Timestamp,
    /// How it ended.
    pub outcome: RunOutcome,
    /// Why it did not pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_type: Option<ErrorType>,
    /// The step that failed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_step: Option<StepName>,
}

/// A time in both runs. Absent = not in that run, or not passed.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct ComparedTime {
    /// The step, or `first_loading_latency`, `first_row`, `run`, `round_trip`.
    pub name: String,
    /// The mailbox that the step is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mailbox: Option<String>,
    /// In A.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub a_s: Option<Seconds>,
    /// In B.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b_s: Option<Seconds>,
    /// B less A, in seconds.
    #[serde(rename = "difference_s", serialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    difference: Option<i64>,
    /// B ÷ A.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// The same difference of the server's part of a command, in seconds.
    #[serde(rename = "server_difference_s", serialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    server: Option<i64>,
    /// Of the network's part.
    #[serde(rename = "network_difference_s", serialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    network: Option<i64>,
    /// Of the transfer's part.
    #[serde(rename = "transfer_difference_s", serialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    transfer: Option<i64>,
}

/// A fact that is not the same in both runs. Absent = not in that run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The fact.
    pub what: &'static str,
    /// In A.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub a: Option<String>,
    /// In B.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b: Option<String>,
}

#[expect(clippy::ref_option, clippy::cast_precision_loss, reason = "serde's form; exact below 285 years")]
fn seconds<S: Serializer>(micros: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(micros.unwrap_or_default() as f64 / 1e6)
}

impl Comparison {
    /// Compares B with A.
    pub fn new(a: Run, b: Run) -> Self {
        let (a, b) = (bounded(a).0, bounded(b).0);
        let mut times = steps(&a, &b);
        for (name, of) in WHOLE {
            let (one, other) = (of(&a), of(&b));
            if one.is_some() || other.is_some() {
                times.push(ComparedTime { name: (*name).to_owned(), ..ComparedTime::of(one, other) });
            }
        }
        let facts = FACTS.iter().map(|(what, of)| Change { what, a: of(&a), b: of(&b) });
        let changed = facts.filter(|change| change.a != change.b).collect();
        Self { a: ComparedRun::of(&a), b: ComparedRun::of(&b), times, changed }
    }
}

impl ComparedRun {
    fn of(run: &Run) -> Self {
        Self {
            trace_id: run.trace_id,
            target: run.target.clone(),
            account: run.account.clone(),
            started_at: run.started_at,
            outcome: run.outcome,
            error_type: run.error_type,
            failed_step: run.failed_step.clone(),
        }
    }
}

impl ComparedTime {
    fn of(a: Option<Seconds>, b: Option<Seconds>) -> Self {
        let ratio = a.zip(b).filter(|(a, _)| *a > Seconds::ZERO);
        let ratio = ratio.map(|(a, b)| (b.as_f64() / a.as_f64() * 1e3).round() / 1e3);
        Self { a_s: a, b_s: b, difference: less(b, a), ratio, ..Self::default() }
    }

    fn of_steps(a: Option<&Step>, b: Option<&Step>) -> Self {
        let took =
            |step: Option<&Step>| step.filter(|step| step.has_span() && step.was_started()).map(|step| step.duration_s);
        let part = |of: fn(&Step) -> Option<Seconds>| less(b.and_then(of), a.and_then(of));
        let named = b.or(a);
        Self {
            name: named.map(|step| step.name.as_str().to_owned()).unwrap_or_default(),
            mailbox: named.and_then(|step| step.mailbox.clone()),
            server: part(|step| step.server_s),
            network: part(|step| step.network_s),
            transfer: part(|step| step.transfer_s),
            ..Self::of(took(a), took(b))
        }
    }

    /// B less A, in microseconds.
    pub fn difference(&self) -> Option<i64> {
        self.difference
    }

    /// `FETCH INBOX`, as it came from the file.
    pub(super) fn label(&self) -> String {
        let name = match self.name.as_str() {
            "first_loading_latency" => "FLL",
            "first_row" => "first row",
            "round_trip" => "round trip",
            name => name,
        };
        match &self.mailbox {
            Some(mailbox) => format!("{name} {mailbox}"),
            None => name.to_owned(),
        }
    }

    /// The part of a command that is most of the difference, and its own difference in microseconds.
    pub(super) fn mostly(&self) -> Option<(TimePart, i64)> {
        let whole = self.difference.filter(|by| by.unsigned_abs() >= NOTICED.unsigned_abs())?;
        let parts =
            [(TimePart::Server, self.server), (TimePart::Network, self.network), (TimePart::Transfer, self.transfer)];
        let parts = parts.into_iter().filter_map(|(part, by)| Some((part, by?)));
        let largest = parts.max_by_key(|(_, by)| if whole > 0 { *by } else { by.saturating_neg() })?;
        let most = if whole > 0 { largest.1 } else { largest.1.saturating_neg() };
        (most > 0 && most.unsigned_abs() >= whole.unsigned_abs() / 2).then_some(largest)
    }
}

/// A difference that exceeds no integer: times of a file may be of any size.
fn less(b: Option<Seconds>, a: Option<Seconds>) -> Option<i64> {
    let micros = |time: Seconds| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    Some(micros(b?) - micros(a?))
}

/// Steps of the same name, mailbox and number are one row.
fn steps(a: &Run, b: &Run) -> Vec<ComparedTime> {
    let (of_a, of_b) = (keyed(a), keyed(b));
    let mut rows = Vec::new();
    let mut done = BTreeSet::new();
    let mut at = 0;
    // The order is that of B; what only A has comes before the next step of both.
    for (key, step) in &of_b {
        if let Some(place) = of_a.iter().position(|(known, _)| known == key) {
            for (before, other) in of_a.iter().take(place).skip(at) {
                if !of_b.iter().any(|(known, _)| known == before) && done.insert(*before) {
                    rows.push(ComparedTime::of_steps(Some(other), None));
                }
            }
            at = at.max(place + 1);
        }
        let other = of_a.iter().find(|(known, _)| known == key).map(|(_, other)| *other);
        done.insert(*key);
        rows.push(ComparedTime::of_steps(other, Some(step)));
    }
    let rest = of_a.iter().filter(|(key, _)| !done.contains(key));
    rows.extend(rest.map(|(_, step)| ComparedTime::of_steps(Some(step), None)));
    rows
}

/// Name, mailbox, and how many of these were before.
type StepKey<'a> = (&'a str, Option<&'a str>, usize);

fn keyed(run: &Run) -> Vec<(StepKey<'_>, &Step)> {
    let mut keys: Vec<(StepKey<'_>, &Step)> = Vec::new();
    for step in run.steps.iter().filter(|step| step.outcome != StepOutcome::Skipped) {
        let (name, mailbox) = (step.name.as_str(), step.mailbox.as_deref());
        let number = keys.iter().filter(|((known, of, _), _)| *known == name && *of == mailbox).count();
        keys.push(((name, mailbox, number), step));
    }
    keys
}

/// A time of the whole run.
type WholeTime = (&'static str, fn(&Run) -> Option<Seconds>);

const WHOLE: &[WholeTime] = &[
    ("first_loading_latency", |run| run.first_loading_latency_s),
    ("first_row", |run| run.first_row_s),
    ("run", |run| Some(run.duration_s)),
    ("round_trip", |run| run.server.rtt_min_s),
];

/// A fact, in words.
type Fact = (&'static str, fn(&Run) -> Option<String>);

const FACTS: &[Fact] = &[
    ("result", |run| {
        let why = run.error_type.map(|class| format!(": {class}")).unwrap_or_default();
        let step = run.failed_step.as_ref().map(|step| format!(" in {}", step.as_str())).unwrap_or_default();
        Some(format!("{}{step}{why}", run.outcome.as_str()))
    }),
    ("target", |run| Some(run.target.clone())),
    ("account", |run| Some(run.account.clone())),
    ("journey", |run| Some(run.journey.to_string())),
    ("host", |run| Some(format!("{}:{}", run.server.address, run.server.port))),
    ("address", |run| run.server.peer.map(|peer| peer.to_string())),
    ("local address", |run| run.server.local.map(|local| local.ip().to_string())),
    ("security", |run| Some(run.server.security.as_str().to_owned())),
    ("TLS version", |run| run.server.tls_version.clone()),
    ("TLS cipher", |run| run.server.tls_cipher.clone()),
    ("certificate", |run| tls(run)?.sha256.clone()),
    ("certificate's end", |run| {
        let end = run.server.certificate_not_after.or_else(|| tls(run)?.not_after)?;
        Some(end.date())
    }),
    ("certificate's key", |run| tls(run)?.key.clone()),
    ("certificate's issuer", |run| Some(tls(run)?.issuer.as_ref()?.as_str().to_owned())),
    ("software", |run| {
        let id = [&run.server.id_name, &run.server.id_version].into_iter().flatten();
        let id: Vec<_> = id.map(ServerText::as_str).collect();
        (!id.is_empty()).then(|| id.join(" "))
    }),
    ("protocol", |run| run.server.protocol.clone()),
    ("capabilities", |run| run.server.capability_hash.clone()),
    ("login by", |run| Some(run.steps.iter().rev().find_map(|step| step.mechanism)?.to_string())),
    ("mailbox", |run| run.steps.iter().find(|step| step.mailbox_messages.is_some())?.mailbox.clone()),
    ("messages in it", |run| Some(run.steps.iter().find_map(|step| step.mailbox_messages)?.to_string())),
    ("messages fetched", |run| Some(run.steps.iter().rev().find_map(|step| step.messages)?.to_string())),
    ("segments sent again", |run| run.server.retransmits.map(|count| count.to_string())),
    ("segments out of order", |run| run.server.out_of_order.map(|count| count.to_string())),
    ("arrivals stamped by", |run| run.server.clock_source.map(|source| source.as_str().to_owned())),
    ("times uncertain", |run| run.is_latency_uncertain().then(|| "yes".to_owned())),
    ("cause", |run| run.verdict.as_ref().map(|verdict| verdict.cause.as_str().to_owned())),
    ("slow", |run| run.slow.filter(|slow| *slow).map(|_| "yes".to_owned())),
];

/// The facts of the last handshake.
fn tls(run: &Run) -> Option<&TlsFacts> {
    run.steps.iter().rev().find_map(|step| step.tls.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::samples;

    fn row<'a>(comparison: &'a Comparison, name: &str) -> &'a ComparedTime {
        comparison.times.iter().find(|time| time.name == name).unwrap()
    }

    #[test]
    fn a_slow_step_has_its_difference_its_ratio_and_the_part_that_made_it() {
        let comparison = Comparison::new(samples::passed(), samples::slow_fetch());
        let fetch = row(&comparison, "FETCH");
        assert_eq!((fetch.a_s, fetch.b_s), (Some(samples::us(23_300)), Some(samples::us(435_300))));
        assert_eq!((fetch.difference(), fetch.ratio), (Some(412_000), Some(18.682)));
        assert_eq!(fetch.mostly().map(|(part, _)| part), Some(TimePart::Server));
        assert_eq!(row(&comparison, "LOGIN").mostly(), None);
        let names: Vec<_> = comparison.times.iter().map(|time| time.name.as_str()).collect();
        assert_eq!(names.len(), 10 + WHOLE.len(), "{names:?}");
        let json = serde_json::to_value(&comparison).unwrap();
        let fetch = json["times"].as_array().unwrap().iter().find(|time| time["name"] == "FETCH").unwrap();
        assert_eq!((&fetch["difference_s"], &fetch["ratio"]), (&0.412.into(), &18.682.into()));
        // And back again.
        let back = Comparison::new(samples::slow_fetch(), samples::passed());
        let fetch = row(&back, "FETCH");
        assert_eq!(
            (fetch.difference(), fetch.mostly().map(|(part, _)| part)),
            (Some(-412_000), Some(TimePart::Server))
        );
    }

    #[test]
    fn a_step_that_only_one_run_has_stands_in_its_place() {
        let (mut a, mut b) = (samples::passed(), samples::passed());
        a.steps.retain(|step| step.name != "LIST");
        b.steps.retain(|step| step.name != "ID" && step.name != "LOGOUT");
        let comparison = Comparison::new(a, b);
        let names: Vec<_> = comparison.times.iter().take(10).map(|time| time.name.as_str()).collect();
        assert_eq!(
            names,
            ["resolve", "connect", "tls", "greeting", "ID", "LOGIN", "LIST", "SELECT", "FETCH", "LOGOUT"]
        );
        let sides = |name: &str| (row(&comparison, name).a_s.is_some(), row(&comparison, name).b_s.is_some());
        assert_eq!((sides("ID"), sides("LIST"), sides("LOGOUT")), ((true, false), (false, true), (true, false)));
        assert_eq!(row(&comparison, "ID").difference(), None);
    }

    #[test]
    fn facts_that_differ_are_listed_and_all_others_are_not() {
        let a = samples::passed();
        assert_eq!(Comparison::new(a.clone(), a.clone()).changed, []);
        let mut b = a.clone();
        b.server.tls_version = Some("1.2".to_owned());
        b.server.capability_hash = Some("abcd".to_owned());
        b.server.peer = Some("192.0.2.8:993".parse().unwrap());
        b.steps[2].tls.as_mut().unwrap().sha256 = Some("AA".to_owned());
        b.steps[7].mailbox_messages = Some(10);
        let changed = Comparison::new(a.clone(), b).changed;
        let named: Vec<_> = changed.iter().map(|change| change.what).collect();
        assert_eq!(named, ["address", "TLS version", "certificate", "capabilities", "messages in it"]);
        assert_eq!((changed[1].a.as_deref(), changed[1].b.as_deref()), (a.server.tls_version.as_deref(), Some("1.2")));
        assert_eq!(changed[2].a, None);
    }

    #[test]
    fn times_of_any_size_are_compared() {
        let (mut a, mut b) = (samples::passed(), samples::passed());
        a.duration_s = samples::us(u64::MAX);
        b.duration_s = samples::us(0);
        let comparison = Comparison::new(a.clone(), b.clone());
        assert_eq!(row(&comparison, "run").difference(), Some(-i64::MAX));
        assert_eq!(row(&Comparison::new(b, a), "run").ratio, None);
    }
}

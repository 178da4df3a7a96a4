//! What a source answered, as targets: reads the form, and refuses one target at a time what cannot be probed.
//!
//! An answer is untrusted: it decides where passwords go. A target is HOST or HOST:PORT and never a URL, which could choose clear
//! text or another login; its host has to be in the source's `hosts`. Names, labels and what the group makes of a target are
//! checked by `config`, as for files. Does no I/O. Called by `follow` and by `kept`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use serde::{
    Deserialize, Serialize,
    de::{Deserializer as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::source::{SourceId, TargetSource};
use crate::{
    net::ServiceAnswer,
    plan::{Host, is_label},
    telemetry::names::DiscoveryRefusal,
};

/// The most targets that are taken of a source: as many as a configuration may have.
const MOST_TARGETS: usize = 100_000;
/// The labels of an answer in bytes, counted for each target, which gets a copy of them.
const MOST_LABELS: usize = 64 << 20;
/// What a label takes in memory beside its text.
const LABEL_BYTES: usize = 100;
/// The most labels of an entry.
const MOST_OF_ENTRY: usize = 64;
/// The label that names the group of a target.
const GROUP: &str = "__imaptrace_group__";
/// The refused targets that are named; all are counted.
const NAMED: usize = 10;

/// Targets with the same labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscoveredEntry {
    /// HOST or HOST:PORT.
    pub targets: Vec<String>,
    /// All labels, with those that begin with `__`.
    pub labels: BTreeMap<String, String>,
}

/// The targets of one source.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DiscoveredTargets(pub Vec<DiscoveredEntry>);

impl DiscoveredTargets {
    /// The number of targets.
    pub fn count(&self) -> usize {
        self.0.iter().map(|entry| entry.targets.len()).sum()
    }

    /// The number of servers: a target that stands in several entries is one, in whatever case it is written.
    pub(super) fn servers(&self) -> usize {
        let targets = self.0.iter().flat_map(|entry| &entry.targets);
        targets.map(|target| target.to_ascii_lowercase()).collect::<BTreeSet<_>>().len()
    }

    /// Without those whose hosts the source does not allow, as it is configured now.
    #[must_use]
    pub fn allowed_by(mut self, source: &TargetSource) -> Self {
        for entry in &mut self.0 {
            entry.targets.retain(|target| source.allows_target(target));
        }
        self.0.retain(|entry| !entry.targets.is_empty());
        self
    }
}

/// The targets of all sources that have answered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Discovered(pub(super) Arc<BTreeMap<SourceId, Arc<DiscoveredTargets>>>);

impl Discovered {
    /// The targets of a source; none before its first good answer.
    pub fn of(&self, source: &SourceId) -> Option<&DiscoveredTargets> {
        self.0.get(source).map(Arc::as_ref)
    }

    /// Whether no source has answered.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The refused targets of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RefusedTargets {
    /// How many, by the reason.
    pub counts: BTreeMap<DiscoveryRefusal, u64>,
    /// The first of them: where, what, and what to do.
    pub named: Vec<String>,
}

impl RefusedTargets {
    /// All of them.
    pub fn count(&self) -> u64 {
        self.counts.values().sum()
    }

    fn add(&mut self, refusal: DiscoveryRefusal, targets: usize, what: impl FnOnce() -> String) {
        *self.counts.entry(refusal).or_default() += targets as u64;
        if self.named.len() < NAMED {
            self.named.push(what());
        }
    }
}

/// An answer, and what was refused of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckedAnswer {
    /// The targets that may be probed.
    pub targets: DiscoveredTargets,
    /// The others.
    pub refused: RefusedTargets,
}

/// Reads the hosts of a service.
pub(super) fn of_services(source: &TargetSource, answer: &ServiceAnswer) -> CheckedAnswer {
    let mut parser = AnswerParser::new(source);
    let targets = answer.hosts.iter().map(|service| {
        // A record is text of the domain's owner, and its host may be none.
        let host = Host::parse(&service.host).map_or_else(|_| service.host.clone(), |host| host.bracketed());
        format!("{host}:{}", service.port)
    });
    let targets: Vec<_> = targets.collect();
    let entry = parser.targets(targets.iter().map(|target| (target.as_str(), target.clone())), &BTreeMap::new());
    parser.add(entry, BTreeMap::new());
    parser.done()
}

/// Reads a list of `{ "targets": ["HOST:PORT"], "labels": { "KEY": "VALUE" } }`. Other keys of an entry are ignored, as
/// Prometheus does. An error is about the answer as a whole, and holds no text of it.
pub(super) fn of_http_sd(source: &TargetSource, text: &str) -> Result<CheckedAnswer, String> {
    if !text.trim_start().starts_with('[') {
        return Err("it is not a JSON list".to_owned());
    }
    let mut parser = AnswerParser::new(source);
    let mut index = 0;
    each(text, |raw| {
        parser.http_entry(raw, &format!("[{index}]"));
        index += 1;
    })
    .map_err(|error| {
        let details = error.to_string();
        let what = details.split_once(" at line ").map_or(details.as_str(), |(what, _)| what);
        format!("it is not JSON: {what}, line {}, column {}", error.line(), error.column())
    })?;
    Ok(parser.done())
}

/// Calls `take` for each element of a list. Keeps none of them: an answer of millions of elements takes no more memory than its
/// text.
fn each<'a>(text: &'a str, take: impl FnMut(&'a RawValue)) -> Result<(), serde_json::Error> {
    struct Elements<F>(F);

    impl<'de, F: FnMut(&'de RawValue)> Visitor<'de> for Elements<F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
            while let Some(raw) = list.next_element()? {
                (self.0)(raw);
            }
            Ok(())
        }
    }
    let mut parser = serde_json::Deserializer::from_str(text);
    parser.deserialize_seq(Elements(take))?;
    parser.end()
}

/// The same for the keys and values of a table.
fn each_pair<'a>(text: &'a str, take: impl FnMut(String, &'a RawValue)) -> Result<(), serde_json::Error> {
    struct Pairs<F>(F);

    impl<'de, F: FnMut(String, &'de RawValue)> Visitor<'de> for Pairs<F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a table")
        }

        fn visit_map<A: MapAccess<'de>>(mut self, mut table: A) -> Result<(), A::Error> {
            while let Some((key, raw)) = table.next_entry()? {
                (self.0)(key, raw);
            }
            Ok(())
        }
    }
    let mut parser = serde_json::Deserializer::from_str(text);
    parser.deserialize_map(Pairs(take))?;
    parser.end()
}

/// Collects the targets of an answer.
struct AnswerParser<'a> {
    source: &'a TargetSource,
    answer: CheckedAnswer,
    count: usize,
    /// The labels so far in bytes, counted for each target.
    labels: usize,
}

impl<'a> AnswerParser<'a> {
    fn new(source: &'a TargetSource) -> Self {
        Self { source, answer: CheckedAnswer::default(), count: 0, labels: 0 }
    }

    /// In an order that does not depend on that of the answer: the same targets in another order are no change.
    fn done(mut self) -> CheckedAnswer {
        let entries = &mut self.answer.targets.0;
        for entry in entries.iter_mut() {
            entry.targets.sort_unstable();
        }
        entries.sort_by(|one, other| (&one.targets, &one.labels).cmp(&(&other.targets, &other.labels)));
        self.answer
    }

    fn refuse(&mut self, refusal: DiscoveryRefusal, targets: usize, what: impl FnOnce() -> String) {
        self.answer.refused.add(refusal, targets, what);
    }

    fn add(&mut self, targets: Vec<String>, labels: BTreeMap<String, String>) {
        if !targets.is_empty() {
            self.answer.targets.0.push(DiscoveredEntry { targets, labels });
        }
    }

    /// The targets, by their places, that may be probed.
    fn targets(
        &mut self,
        targets: impl Iterator<Item = (impl fmt::Display, String)>,
        labels: &BTreeMap<String, String>,
    ) -> Vec<String> {
        let size: usize = labels.iter().map(|(label, value)| label.len() + value.len() + LABEL_BYTES).sum();
        let mut fit = Vec::new();
        for (place, target) in targets {
            match check(self.source, &target) {
                Err((refusal, why)) => self.refuse(refusal, 1, || format!("{place}: {}: {why}", shown(&target))),
                Ok(()) if self.count == MOST_TARGETS || self.labels + size > MOST_LABELS => {
                    self.refuse(DiscoveryRefusal::Limit, 1, || {
                        format!(
                            "{place}: {}: the targets before it are {MOST_TARGETS}, or their labels take 64MiB; share them out",
                            shown(&target)
                        )
                    });
                }
                Ok(()) => {
                    self.count += 1;
                    self.labels += size;
                    fit.push(target);
                }
            }
        }
        fit
    }

    fn http_entry(&mut self, raw: &RawValue, place: &str) {
        let (mut listed, mut labels, mut unfit_label) = (None, BTreeMap::new(), None);
        let mut unfit = |key: String, what: &'static str| unfit_label = Some((key, what));
        let read = each_pair(raw.get(), |key, value| match (key.as_str(), value.get().as_bytes().first()) {
            ("targets", _) => listed = Some(value),
            ("labels", Some(b'{')) => {
                let table = each_pair(value.get(), |label, value| match serde_json::from_str::<String>(value.get()) {
                    Ok(text) => drop(labels.insert(label, text)),
                    Err(_) => unfit(format!("labels.{label}"), "expected text"),
                });
                if table.is_err() {
                    unfit("labels".to_owned(), "expected a table");
                }
            }
            ("labels", Some(b'n')) => {}
            ("labels", _) => unfit("labels".to_owned(), "expected a table"),
            _ => {}
        });
        let Some(listed) = listed.filter(|_| read.is_ok()) else {
            let what = if read.is_ok() { "it has no targets" } else { "expected a table with targets and labels" };
            return self.refuse(DiscoveryRefusal::Type, 1, || format!("{place}: {what}"));
        };
        let mut targets = Vec::new();
        let mut index = 0;
        let mut seen = BTreeSet::new();
        let read = each(listed.get(), |value| {
            let place = format!("{place}.targets[{index}]");
            index += 1;
            match serde_json::from_str::<String>(value.get()) {
                // The same target twice in one entry is one.
                Ok(text) if targets.len() <= MOST_TARGETS => {
                    if seen.insert(text.clone()) {
                        targets.push((place, text));
                    }
                }
                Ok(text) => self.refuse(DiscoveryRefusal::Limit, 1, || format!("{place}: {}: too many", shown(&text))),
                Err(_) => self.refuse(DiscoveryRefusal::Type, 1, || format!("{place}: expected text, in quotes")),
            }
        });
        if read.is_err() {
            return self.refuse(DiscoveryRefusal::Type, 1, || format!("{place}.targets: expected a list of texts"));
        }
        if let Some((key, what)) = unfit_label {
            let place = format!("{place}.{}", shown(&key));
            return self.refuse(DiscoveryRefusal::Type, targets.len(), || format!("{place}: {what}; quote it"));
        }
        if let Some((label, what)) = unfit_labels(self.source, &labels) {
            let place = format!("{place}.labels.{}", shown(&label));
            return self.refuse(DiscoveryRefusal::Invalid, targets.len(), || format!("{place}: {what}"));
        }
        let fit = self.targets(targets.into_iter(), &labels);
        self.add(fit, labels);
    }
}

/// A label for which the configuration would refuse the targets of an entry, and why. They are refused here already, so that they do
/// not count when an answer is compared with the one before.
fn unfit_labels(source: &TargetSource, labels: &BTreeMap<String, String>) -> Option<(String, &'static str)> {
    if labels.len() > MOST_OF_ENTRY {
        return labels.keys().next_back().map(|label| (label.clone(), "an entry has at most 64 labels"));
    }
    let unfit = labels.iter().find_map(|(label, value)| {
        if label == GROUP && *value != source.id.group {
            return Some((label, "the targets of a source are of its group"));
        }
        let is_unfit = !label.starts_with("__") && !is_label(label);
        is_unfit.then_some((label, "a label's key is made of letters, digits, `_`, `-` and `.`"))
    });
    unfit.map(|(label, what)| (label.clone(), what))
}

/// Whether a target may be probed, or why not.
fn check(source: &TargetSource, target: &str) -> Result<(), (DiscoveryRefusal, String)> {
    if target.contains(['@', '/']) {
        return Err((DiscoveryRefusal::Address, "a source names HOST or HOST:PORT, and no URL".to_owned()));
    }
    let (host, _) = Host::with_port(target).map_err(|error| (DiscoveryRefusal::Address, error.to_string()))?;
    if source.allows(&host) {
        return Ok(());
    }
    Err((
        DiscoveryRefusal::Host,
        "the group's `hosts` does not have this host; add it if it may get the passwords".to_owned(),
    ))
}

/// Text of an answer, quoted, escaped and cut short. Nothing is shown of what could be a login: what stands behind a colon and is no
/// port, unless it is an IPv6 address.
fn shown(text: &str) -> String {
    let has_password = text
        .split_once(':')
        .is_some_and(|(_, behind)| !behind.bytes().all(|byte| byte.is_ascii_hexdigit() || b":].".contains(&byte)));
    if text.contains('@') || has_password {
        return "(not shown: it may hold a password)".to_owned();
    }
    let cut: String = text.chars().take(80).collect();
    if cut.len() < text.len() { format!("{cut:?}…") } else { format!("{cut:?}") }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::source::SourceKind, *};
    use crate::plan::Glob;

    fn source() -> TargetSource {
        TargetSource {
            id: SourceId { group: "g".to_owned(), name: "n".to_owned() },
            kind: SourceKind::Srv,
            hosts: vec![Glob::new("*.test")],
            refresh: Duration::from_secs(60),
            shrink: false,
        }
    }

    fn counts(answer: &CheckedAnswer) -> (usize, Vec<(DiscoveryRefusal, u64)>) {
        (answer.targets.count(), answer.refused.counts.iter().map(|(refusal, count)| (*refusal, *count)).collect())
    }

    #[test]
    fn more_targets_than_a_configuration_may_have_are_refused_and_few_are_named() {
        let targets: Vec<_> = (0..MOST_TARGETS + 20).map(|number| format!("\"m{number}.test\"")).collect();
        for text in [
            format!("[{{\"targets\": [{}]}}]", targets.join(",")),
            format!(
                "[{}]",
                targets.iter().map(|target| format!("{{\"targets\": [{target}]}}")).collect::<Vec<_>>().join(",")
            ),
        ] {
            let answer = of_http_sd(&source(), &text).unwrap();
            assert_eq!(counts(&answer), (MOST_TARGETS, vec![(DiscoveryRefusal::Limit, 20)]));
            assert_eq!(answer.refused.named.len(), NAMED);
        }
    }

    #[test]
    fn labels_that_each_of_many_targets_would_have_are_bounded() {
        let targets: Vec<_> = (0..100).map(|number| format!("\"m{number}.test\"")).collect();
        let label = "x".repeat(1 << 20);
        let text = format!("[{{\"targets\": [{}], \"labels\": {{\"a\": \"{label}\"}}}}]", targets.join(","));
        let answer = of_http_sd(&source(), &text).unwrap();
        assert_eq!(counts(&answer), (63, vec![(DiscoveryRefusal::Limit, 37)]));
    }

    #[test]
    fn deep_and_long_answers_of_other_types_cost_no_memory_and_are_refused_by_entry() {
        let deep = "[".repeat(1 << 20) + &"]".repeat(1 << 20);
        let long = format!("[{}0]", "0,".repeat(1 << 20));
        for (text, refused) in [
            (format!("[{{\"targets\": {long}}}]"), (1 << 20) + 1),
            (format!("[{{\"targets\": [\"a.test\"], \"labels\": {{\"a\": {deep}}}}}]"), 1),
            (format!("[{deep}]"), 1),
            ("[{\"targets\": [\"a.test\"], \"labels\": [7]}, {\"targets\": {}}]".to_owned(), 2),
        ] {
            let answer = of_http_sd(&source(), &text).unwrap();
            assert_eq!(counts(&answer), (0, vec![(DiscoveryRefusal::Type, refused)]));
        }
        assert!(of_http_sd(&source(), &format!("[{deep}")).unwrap_err().starts_with("it is not JSON: "));
        assert_eq!(of_http_sd(&source(), " \"[]\"").unwrap_err(), "it is not a JSON list");
    }

    #[test]
    fn kept_targets_whose_host_is_not_allowed_any_more_are_left_out() {
        let text =
            "[{\"targets\": [\"a.test\", \"b.a.test:1\"]}, {\"targets\": [\"c.test\"], \"labels\": {\"x\": \"y\"}}]";
        let answer = of_http_sd(&source(), text).unwrap();
        assert_eq!(counts(&answer), (3, Vec::new()));
        let narrow = TargetSource { hosts: vec![Glob::new("*.a.test")], ..source() };
        let left = answer.targets.allowed_by(&narrow);
        assert_eq!(left.0, [DiscoveredEntry { targets: vec!["b.a.test:1".to_owned()], labels: BTreeMap::new() }]);
    }

    #[test]
    fn what_the_configuration_would_refuse_and_what_stands_twice_does_not_count() {
        let source = TargetSource { hosts: vec![Glob::new("*.example.org")], ..source() };
        let read = |text: &str| of_http_sd(&source, text).unwrap();
        let twice = read(r#"[{"targets": ["a.example.org", "b.example.org"]}, {"targets": ["A.example.org"]}]"#);
        assert_eq!((twice.targets.count(), twice.targets.servers()), (3, 2));
        let other_order = read(r#"[{"targets": ["A.example.org"]}, {"targets": ["b.example.org", "a.example.org"]}]"#);
        assert_eq!(twice.targets, other_order.targets);
        for labels in [r#"{"rack/no": "1"}"#, r#"{"__imaptrace_group__": "another"}"#] {
            let refused = read(&format!(r#"[{{"targets": ["a.example.org", "b.example.org"], "labels": {labels}}}]"#));
            assert_eq!(refused.targets.servers(), 0, "{labels}");
            assert_eq!(refused.refused.counts.get(&DiscoveryRefusal::Invalid), Some(&2), "{labels}");
        }
        let many: Vec<_> = (0..65).map(|number| format!("\"l{number}\": \"x\"")).collect();
        let refused = read(&format!(r#"[{{"targets": ["a.example.org"], "labels": {{{}}}}}]"#, many.join(", ")));
        assert_eq!(refused.targets.servers(), 0);
        for target in ["user:secret", "user:secret@a.example.org"] {
            let refused = read(&format!(r#"[{{"targets": ["{target}"]}}]"#)).refused;
            assert!(!refused.named.join("").contains("secret"), "{refused:?}");
        }
    }
}

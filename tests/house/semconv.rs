//! `semconv/`, the registry of semantic conventions, against `src/telemetry/names.rs` and `docs/telemetry.md`, both ways.

use std::collections::{BTreeMap, BTreeSet};

use imaptrace::telemetry::{
    names::{self, MetricKind},
    server_spans, spans,
};
use imaptrace_record::{Cause, Run, SkipReason};
use opentelemetry::trace::SpanKind;
use saphyr::{LoadableYamlNode as _, Yaml};

const REGISTRY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/semconv");
/// How names begin that the common registry does not have.
const OWN: [&str; 3] = ["imap.", "imaptrace.", "dovecot."];
const OWN_WORDS: [&str; 2] = ["sender", "outcome"];

/// One group of the registry.
struct Group(Yaml<'static>);

impl Group {
    fn text(&self, key: &str) -> &str {
        self.0.as_mapping_get(key).and_then(Yaml::as_str).unwrap_or_default()
    }

    fn attributes(&self) -> Vec<&Yaml<'static>> {
        let attributes = self.0.as_mapping_get("attributes").and_then(Yaml::as_sequence);
        attributes.into_iter().flatten().collect()
    }
}

fn text<'a>(node: &'a Yaml<'static>, key: &str) -> Option<&'a str> {
    node.as_mapping_get(key).and_then(Yaml::as_str)
}

/// All groups of all files.
fn groups() -> Vec<Group> {
    let mut groups = Vec::new();
    for entry in std::fs::read_dir(REGISTRY).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let text: &'static str = text.leak();
        let file = Yaml::load_from_str(text).unwrap().swap_remove(0);
        let of_file = file.as_mapping_get("groups").and_then(Yaml::as_sequence);
        groups.extend(of_file.into_iter().flatten().map(|group| Group(group.clone())));
    }
    assert!(groups.len() > 30, "{}", groups.len());
    groups
}

fn is_own(name: &str) -> bool {
    OWN.iter().any(|start| name.starts_with(start)) || OWN_WORDS.contains(&name)
}

/// The definitions of attributes by their names.
fn defined(groups: &[Group]) -> BTreeMap<&str, &Yaml<'static>> {
    let all = groups.iter().flat_map(Group::attributes);
    let mut defined = BTreeMap::new();
    for attribute in all {
        if let Some(id) = text(attribute, "id") {
            assert!(defined.insert(id, attribute).is_none(), "{id} is defined twice");
        }
    }
    defined
}

#[test]
fn the_registry_has_each_attribute_and_no_other() {
    let groups = groups();
    let defined: BTreeSet<&str> = defined(&groups).into_keys().collect();
    // The labels are one attribute with keys of the operator's.
    let label = names::LABEL_PREFIX.trim_end_matches('.');
    let own: BTreeSet<&str> = names::ATTRIBUTES.iter().copied().filter(|name| is_own(name)).chain([label]).collect();
    assert_eq!(defined, own);
    let referred: BTreeSet<&str> =
        groups.iter().flat_map(Group::attributes).filter_map(|attribute| text(attribute, "ref")).collect();
    let all: BTreeSet<&str> = names::ATTRIBUTES.iter().chain(names::RESOURCE).copied().chain([label]).collect();
    // Those of metrics and of spans: each stands somewhere.
    assert_eq!(referred, all);
}

#[test]
fn each_attribute_has_the_type_that_the_page_gives() {
    let groups = groups();
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/telemetry.md")).unwrap();
    for (name, attribute) in defined(&groups) {
        if text(attribute, "type") == Some("template[string]") {
            continue;
        }
        let row = page.lines().find(|line| line.starts_with(&format!("| `{name}` |"))).unwrap();
        let documented = row.split('|').nth(2).unwrap().split(',').next().unwrap().trim();
        let kind = attribute.as_mapping_get("type").unwrap();
        // A closed list is one of texts.
        assert_eq!(kind.as_str().unwrap_or("string"), documented, "{name}");
        assert_eq!(text(attribute, "stability"), Some("development"), "{name}");
        assert!(text(attribute, "brief").is_some_and(|brief| brief.ends_with('.')), "{name}");
    }
}

#[test]
fn closed_lists_have_the_values_of_the_code() {
    let groups = groups();
    let defined = defined(&groups);
    let values = |name: &str| -> BTreeSet<&str> {
        let members = defined[name].as_mapping_get("type").unwrap().as_mapping_get("members").unwrap();
        members.as_sequence().unwrap().iter().map(|member| text(member, "value").unwrap()).collect()
    };
    let causes: BTreeSet<&str> = Cause::ALL.iter().map(|cause| cause.as_str()).collect();
    assert_eq!((values(names::CAUSE), values(names::CAUSE_SECOND)), (causes.clone(), causes));
    assert_eq!(values(names::TIMING_PART), BTreeSet::from(names::PARTS));
    let dropped = [names::DropReason::Budget, names::DropReason::Refused, names::DropReason::Corrupt];
    assert_eq!(values(names::DROP_REASON), dropped.map(names::DropReason::as_str).into());
    let skipped = SkipReason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(values(names::SKIP_REASON), skipped);
}

#[test]
fn the_registry_has_each_metric_with_its_instrument_and_unit_and_each_event() {
    let groups = groups();
    let of_type = |kind: &'static str| groups.iter().filter(move |group| group.text("type") == kind);
    let metrics: BTreeSet<_> = of_type("metric")
        .map(|group| ["metric_name", "instrument", "unit", "brief"].map(|key| group.text(key).to_owned()))
        .collect();
    let expected: BTreeSet<_> = names::METRICS
        .iter()
        .map(|metric| {
            let instrument = match metric.kind {
                MetricKind::Histogram => "histogram",
                MetricKind::Counter => "counter",
                MetricKind::UpDownCounter => "updowncounter",
                MetricKind::Gauge => "gauge",
            };
            let unit = if metric.unit.is_empty() { "1" } else { metric.unit };
            [metric.name, instrument, unit, &format!("{}.", metric.description)].map(ToOwned::to_owned)
        })
        .collect();
    assert_eq!(metrics, expected);
    let events: BTreeSet<&str> = of_type("event").map(|group| group.text("name")).collect();
    assert_eq!(events, names::EVENTS.iter().copied().collect());
}

/// The attributes of a group, by its id.
fn of_group<'a>(groups: &'a [Group], id: &str) -> BTreeSet<&'a str> {
    let group = groups.iter().find(|group| group.text("id") == id).unwrap_or_else(|| panic!("there is no group {id}"));
    group.attributes().into_iter().filter_map(|attribute| text(attribute, "ref")).collect()
}

#[test]
fn each_attribute_of_the_examples_spans_is_in_the_group_of_its_span() {
    let groups = groups();
    let mut seen = BTreeSet::new();
    for name in ["held-lock", "slow-disk"] {
        let path = format!("{}/docs/examples/{name}.jsonl", env!("CARGO_MANIFEST_DIR"));
        for line in std::fs::read_to_string(path).unwrap().lines() {
            let run: Run = serde_json::from_str(line).unwrap();
            let own = spans(&run).into_iter().map(|span| {
                let id = match (span.name.as_ref(), &span.span_kind) {
                    (name, _) if name.starts_with(names::ROOT_SPAN) => "span.imaptrace.probe",
                    (names::WAIT_SPAN, _) => "span.imaptrace.wait",
                    (_, SpanKind::Client) => "span.imap.client",
                    _ => "span.imaptrace.setup",
                };
                (id, span)
            });
            let servers = server_spans(&run).into_iter().map(|(_, span)| {
                let id = match span.name.as_ref() {
                    names::SESSION_SPAN => "span.dovecot.session",
                    names::AUTH_CLIENT_SPAN | names::AUTH_SPAN | names::PASSDB_SPAN | names::USERDB_SPAN => {
                        "span.dovecot.login"
                    }
                    _ => "span.imap.server",
                };
                (id, span)
            });
            for (id, span) in own.chain(servers) {
                let known = of_group(&groups, id);
                for attribute in &span.attributes {
                    let key = attribute.key.as_str();
                    let key = if key.starts_with(names::LABEL_PREFIX) { "imaptrace.label" } else { key };
                    assert!(known.contains(key), "{key} is on {} and not in {id}", span.name);
                }
                seen.insert(id);
            }
        }
    }
    assert!(seen.len() >= 6, "{seen:?}");
}

//! Alerts against their pages, and the names in rules and dashboard against the code that makes them.

use std::collections::{BTreeMap, BTreeSet};

use imaptrace::telemetry::names::{self, MetricKind};
use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: &str) -> String {
    std::fs::read_to_string(format!("{ROOT}/{path}")).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Each alert and its lines in the file of rules.
fn alerts() -> BTreeMap<String, String> {
    let mut alerts: BTreeMap<String, String> = BTreeMap::new();
    let mut current = None;
    for line in read("deploy/prometheus/rules/alerts.yml").lines() {
        if let Some(name) = line.trim().strip_prefix("- alert: ") {
            current = Some(name.to_owned());
        }
        if let Some(name) = &current {
            alerts.entry(name.clone()).or_default().extend([line.trim(), "\n"]);
        }
    }
    assert!(alerts.len() > 10);
    alerts
}

/// What stands behind a key in an alert's lines.
fn value<'a>(alert: &'a str, key: &str) -> &'a str {
    alert.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("no {key} in {alert}")).trim()
}

#[test]
fn every_alert_has_its_page_and_every_page_its_alert() {
    let pages: BTreeSet<String> = std::fs::read_dir(format!("{ROOT}/docs/runbooks"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with("cause-"))
        .collect();
    let alerts = alerts();
    let wanted = alerts.iter().map(|(name, text)| {
        let url = value(text, "runbook_url:");
        let page = url.strip_prefix("docs/runbooks/").unwrap_or_else(|| panic!("{name} leads to {url}"));
        assert_eq!(page, format!("{name}.md"));
        page.to_owned()
    });
    assert_eq!(wanted.collect::<BTreeSet<_>>(), pages);
    for page in pages {
        let text = read(&format!("docs/runbooks/{page}"));
        let name = page.trim_end_matches(".md");
        assert!(text.starts_with(&format!("# {name}\n")), "{page}");
        assert!(text.contains("\n## Look first\n") && text.contains("\n## Silence\n"), "{page} lacks a part");
        assert!(text.contains(&format!("alertname={name}")), "{page} silences another alert");
        assert!(text.lines().count() < 60, "{page} is too long for three in the morning");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            let there = link.is_empty() || std::path::Path::new(&format!("{ROOT}/docs/runbooks/{link}")).is_file();
            assert!(there, "{page} leads to {link}, which is not there");
        }
    }
}

#[test]
fn every_alert_says_how_bad_it_is_and_where_to_look_and_is_documented_so() {
    let docs = read("docs/alerting.md");
    let rows: BTreeSet<String> = docs
        .lines()
        .filter(|line| line.starts_with("| [`Imaptrace"))
        .map(|line| line.split('|').take(3).collect::<Vec<_>>().join("|"))
        .collect();
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/dashboards/imaptrace.json")).unwrap();
    let page = format!("http://localhost:3000/d/{}", dashboard["uid"].as_str().unwrap());
    let variables: Vec<_> =
        dashboard["templating"]["list"].as_array().unwrap().iter().map(|each| each["name"].as_str().unwrap()).collect();
    let wanted = alerts().into_iter().map(|(name, text)| {
        let severity = value(&text, "severity:");
        assert!(["critical", "warning"].contains(&severity), "{name} is {severity}");
        assert!(!value(&text, "summary:").is_empty());
        let link = value(&text, "dashboard:");
        let (base, query) = link.split_once('?').unwrap_or((link, ""));
        assert_eq!(base, page, "{name}");
        for variable in query.split("var-").skip(1).filter_map(|rest| rest.split('=').next()) {
            assert!(variables.contains(&variable), "{name} sets {variable}, which the dashboard does not have");
        }
        format!("| [`{name}`](runbooks/{name}.md) | {severity} ")
    });
    assert_eq!(wanted.collect::<BTreeSet<_>>(), rows);
}

/// Words of this text that begin as our series and labels do.
fn our_words(text: &str) -> BTreeSet<&str> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    text.split(|c| !word(c)).filter(|word| word.starts_with("imap_") || word.starts_with("imaptrace_")).collect()
}

#[test]
fn rules_and_dashboard_ask_for_series_and_labels_that_are_made() {
    let underscored = |name: &str| name.replace('.', "_");
    let mut known: BTreeSet<String> = names::ATTRIBUTES.iter().map(|name| underscored(name)).collect();
    for metric in names::METRICS {
        let unit = match metric.unit {
            "s" => "_seconds",
            "By" => "_bytes",
            _ => "",
        };
        let name = underscored(metric.name) + unit;
        match metric.kind {
            MetricKind::Counter => known.extend([format!("{name}_total")]),
            MetricKind::Histogram => known.extend(["_bucket", "_count", "_sum"].map(|part| format!("{name}{part}"))),
            _ => known.extend([name]),
        }
    }
    let rules = read("deploy/prometheus/rules/recording.yml");
    known.extend(rules.lines().filter_map(|line| line.trim().strip_prefix("- record: ").map(ToOwned::to_owned)));

    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/dashboards/imaptrace.json")).unwrap();
    let mut asked = rules + &read("deploy/prometheus/rules/alerts.yml");
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            asked.extend(["\n", target["expr"].as_str().unwrap(), "\n", target["legendFormat"].as_str().unwrap()]);
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        asked.extend(["\n", variable["query"]["query"].as_str().unwrap()]);
    }
    let words = our_words(&asked);
    assert!(words.len() > 30, "{words:?}");
    for word in words {
        assert!(known.contains(word), "{word} is asked for, and nothing makes it");
    }
    let void: Vec<_> = imaptrace_record::ErrorType::ALL
        .iter()
        .filter(|class| {
            matches!(class.blame(), imaptrace_record::Blame::Agent | imaptrace_record::Blame::Configuration)
        })
        .map(ToString::to_string)
        .collect();
    let classes =
        asked.split("error_type").skip(1).filter_map(|rest| rest.get(2..)?.strip_prefix('"')?.split('"').next());
    for left_out in classes.filter(|classes| classes.contains("suspended")) {
        let left_out: BTreeSet<_> = left_out.split('|').collect();
        assert_eq!(left_out, void.iter().map(String::as_str).collect(), "the classes of void runs");
    }
}

/// Series of runs are exported by one-shot runs, too, which are no agents; the agent's own are not.
#[test]
fn no_rule_looks_at_the_series_of_one_shot_runs() {
    let one_shot = names::ONE_SHOT.replace('.', "_");
    let mut selectors = 0;
    for file in ["alerts", "recording"] {
        let text = read(&format!("deploy/prometheus/rules/{file}.yml"));
        let rules: String = text.lines().filter(|line| !line.trim().starts_with('#')).collect::<Vec<_>>().join("\n");
        let rules = rules.replace('\\', "");
        for metric in names::METRICS.iter().filter(|metric| is_of_runs(metric.name)) {
            let name = metric.name.replace('.', "_");
            for rest in rules.split(&name).skip(1) {
                let rest = rest.trim_start_matches(|c: char| c.is_ascii_lowercase() || c == '_');
                let filter = rest.strip_prefix('{').and_then(|rest| rest.split('}').next()).unwrap_or_default();
                assert!(filter.contains(&format!("{one_shot}=\"\"")), "{file}: {name}{{{filter}}}");
                selectors += 1;
            }
        }
    }
    assert!(selectors > 20, "{selectors}");
}

/// Whether its series are those of an account. Only agents export runs that were skipped.
fn is_of_runs(metric: &str) -> bool {
    let own = [names::PROBE_SKIPPED, names::PROBE_ACTIVE].map(|metric| metric.name);
    (metric.starts_with("imap.") || metric.starts_with("imaptrace.probe.") || metric == names::TIMING_DURATION.name)
        && !own.contains(&metric)
}

#[test]
fn the_dashboards_panels_are_apart_and_its_links_search_for_attributes_that_spans_have() {
    let text = read("deploy/grafana/dashboards/imaptrace.json");
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let sources = read("deploy/grafana/provisioning/datasources/imaptrace.yaml");
    let mut ids = BTreeSet::new();
    let mut cells = BTreeSet::new();
    let mut links: Vec<&Value> = dashboard["links"].as_array().unwrap().iter().collect();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels have one id: {}", panel["title"]);
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24, "{}", panel["title"]);
        for (x, y) in (0..place("w")).flat_map(|x| (0..place("h")).map(move |y| (x, y))) {
            assert!(cells.insert((place("x") + x, place("y") + y)), "{} lies on another panel", panel["title"]);
        }
        if panel["type"] != "row" {
            let source = panel["datasource"]["uid"].as_str().unwrap();
            assert!(sources.contains(&format!("\n    uid: {source}\n")), "{source} is not provisioned");
        }
        links.extend(panel["fieldConfig"]["defaults"]["links"].as_array().into_iter().flatten());
        let overrides = panel["fieldConfig"]["overrides"].as_array().into_iter().flatten();
        let properties = overrides.flat_map(|each| each["properties"].as_array().unwrap());
        links
            .extend(properties.filter(|each| each["id"] == "links").flat_map(|each| each["value"].as_array().unwrap()));
    }
    assert!(text.contains("\"exemplar\": true"));
    let (mut jaeger, mut tempo) = (0, 0);
    for link in links {
        let url = link["url"].as_str().unwrap();
        let query = if let Some((_, tags)) =
            url.split_once("http://localhost:16686/search?").and_then(|_| url.split_once("&tags="))
        {
            let tags: Value = serde_json::from_str(tags).unwrap_or_else(|error| panic!("{error} in {url}"));
            jaeger += 1;
            tags.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ")
        } else {
            let (_, panes) = url.split_once("/explore?schemaVersion=1&panes=").expect("a link to neither");
            let panes: Value = serde_json::from_str(panes).unwrap_or_else(|error| panic!("{error} in {url}"));
            let pane = &panes["a"];
            assert_eq!(
                (pane["datasource"].as_str(), pane["queries"][0]["queryType"].as_str()),
                (Some("tempo"), Some("traceql"))
            );
            assert!(sources.contains("\n#    uid: tempo\n"));
            tempo += 1;
            let query = pane["queries"][0]["query"].as_str().unwrap();
            assert!(query.starts_with("{ ") && query.ends_with(" }"), "{query}");
            query.replace("span.imaptrace", "imaptrace")
        };
        let dotted = query.split([' ', '"']).filter(|word| word.starts_with("imaptrace."));
        for name in dotted {
            assert!(names::ATTRIBUTES.contains(&name), "{name} in {url}");
        }
    }
    assert!(jaeger > 3 && tempo > 3, "{jaeger} links to Jaeger, {tempo} to Tempo");
}

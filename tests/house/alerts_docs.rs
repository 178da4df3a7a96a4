//! Alerts against their pages, and the names in rules and dashboard against the code that makes them.

use std::collections::{BTreeMap, BTreeSet};

use imaptrace::telemetry::names;
use serde_json::Value;

use crate::prometheus_names::prometheus_names;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: &str) -> String {
    std::fs::read_to_string(format!("{ROOT}/{path}")).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The name of each rule's alert and its lines, in the order of the file.
fn alerts() -> Vec<(String, String)> {
    let text = read("deploy/prometheus/rules/alerts.yml");
    let alerts: Vec<_> =
        text.split("- alert: ").skip(1).map(|rule| (rule.lines().next().unwrap().to_owned(), trimmed(rule))).collect();
    assert!(alerts.len() > 10);
    alerts
}

/// The lines of this text, each without what stands before it.
fn trimmed(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join("\n")
}

/// The two bases of all links, by the label that the rule of `urls.yml` gives each.
fn bases() -> [(&'static str, String); 2] {
    let text = trimmed(&read("deploy/prometheus/rules/urls.yml"));
    ["docs", "dashboards"].map(|label| {
        let base = value(&text, &format!("{label}: ")).to_owned();
        assert!(base.starts_with("http") && base.contains("://") && !base.ends_with('/'), "{label} is {base}");
        (label, base)
    })
}

/// A link of an alert as Prometheus makes it, up to what it says of the alert's labels.
fn link(alert: &str, key: &str) -> String {
    let mut link = value(alert, key).trim_matches('\'').to_owned();
    for (label, base) in bases() {
        link = link
            .replace(&format!("{{{{ range query \"imaptrace:urls\" }}}}{{{{ .Labels.{label} }}}}{{{{ end }}}}"), &base);
    }
    link
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
    let [(_, docs), _] = bases();
    let wanted = alerts.iter().map(|(name, text)| {
        let url = link(text, "runbook_url:");
        let path = url.strip_prefix(&docs).unwrap_or_else(|| panic!("{name} leads to {url}"));
        assert!(
            std::path::Path::new(&format!("{ROOT}/docs{path}")).is_file(),
            "{name} leads to {url}, which is not there"
        );
        assert_eq!(path, format!("/runbooks/{name}.md"));
        format!("{name}.md")
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
    let [_, (_, dashboards)] = bases();
    let page = format!("{dashboards}/d/{}", dashboard["uid"].as_str().unwrap());
    let variables: Vec<_> =
        dashboard["templating"]["list"].as_array().unwrap().iter().map(|each| each["name"].as_str().unwrap()).collect();
    let mut wanted: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, text) in alerts() {
        let severity = value(&text, "severity:");
        assert!(["critical", "warning"].contains(&severity), "{name} is {severity}");
        assert!(!value(&text, "summary:").is_empty());
        let link = link(&text, "dashboard:");
        let (base, query) = link.split_once('?').unwrap_or((&link, ""));
        assert_eq!(base, page, "{name}");
        for variable in query.split("var-").skip(1).filter_map(|rest| rest.split('=').next()) {
            assert!(variables.contains(&variable), "{name} sets {variable}, which the dashboard does not have");
        }
        wanted.entry(name).or_default().push(severity.to_owned());
    }
    let wanted = wanted
        .into_iter()
        .map(|(name, severities)| format!("| [`{name}`](runbooks/{name}.md) | {} ", severities.join(", ")));
    assert_eq!(wanted.collect::<BTreeSet<_>>(), rows);
}

/// The files of rules, those for exponential histograms too.
const RULES: [&str; 4] = ["rules/recording", "rules/state", "rules/alerts", "rules-exponential/recording"];

/// The expressions of a file of rules, each on one line, in the order of the file.
fn expressions(file: &str) -> Vec<String> {
    let text = read(&format!("deploy/prometheus/{file}.yml"));
    let mut found: Vec<String> = Vec::new();
    let mut deeper = None;
    for line in text.lines().filter(|line| !line.trim().starts_with('#')) {
        let indent = line.len() - line.trim_start().len();
        if let Some(expression) = line.trim().strip_prefix("expr: ") {
            found.push(expression.trim_start_matches('|').to_owned());
            deeper = Some(indent);
        } else if deeper.is_some_and(|expr| indent > expr) {
            found.last_mut().unwrap().extend([" ", line.trim()]);
        } else {
            deeper = None;
        }
    }
    assert!(found.len() > 5, "{file} has few expressions");
    found
}

/// A label of a target that an operator adds must reach the alert: what `by` names alone loses it.
#[test]
fn rules_keep_every_label_of_a_target_and_of_an_agent() {
    let ours: BTreeSet<_> = names::ATTRIBUTES.iter().map(|name| name.replace('.', "_")).collect();
    for file in RULES {
        for expression in expressions(file) {
            for list in expression.split(" by (").skip(1).map(|rest| rest.split(')').next().unwrap()) {
                // Agents that have vanished, and what is matched by agent or account and gives no label.
                let only_matched = "job, instance, imaptrace_target_name, imaptrace_account_name";
                assert!(list == "job, instance" || list == only_matched, "{file}: by ({list}) in {expression}");
                assert!(list == "job, instance" || expression.contains("group_left ()"), "{file}: {expression}");
            }
            for list in expression.split(" without (").skip(1).map(|rest| rest.split(')').next().unwrap()) {
                for label in list.split(", ") {
                    let known = ["job", "instance", "le"].contains(&label) || ours.contains(label);
                    assert!(known, "{file}: without ({label}), which is no label of ours, in {expression}");
                }
            }
        }
    }
}

/// `alerts.yml` and `state.yml` are for both kinds of histograms, so each has to find the same series.
#[test]
fn rules_for_exponential_histograms_record_the_same_series_in_the_same_groups() {
    let recorded = |file: &str| -> Vec<String> {
        let text = read(&format!("deploy/prometheus/{file}.yml"));
        let lines = text.lines().map(str::trim);
        lines
            .filter(|line| ["- record:", "- name:", "interval:"].iter().any(|key| line.starts_with(key)))
            .map(ToOwned::to_owned)
            .collect()
    };
    assert_eq!(recorded("rules-exponential/recording"), recorded("rules/recording"));
    for file in ["rules/state", "rules/alerts"] {
        for expression in expressions(file) {
            for part in ["_bucket", "_seconds_count", "_seconds_sum", "histogram_"] {
                assert!(!expression.contains(part), "{file} looks at a histogram itself: {expression}");
            }
        }
    }
}

/// With `detail = "standard"` there are no other commands, no bytes, and no boundaries of whole runs and setup phases.
#[test]
fn rules_and_dashboard_need_neither_span_metrics_nor_full_detail() {
    let dashboard = read("deploy/grafana/dashboards/imaptrace.json");
    let texts = RULES.map(|file| read(&format!("deploy/prometheus/{file}.yml")));
    for text in texts.iter().chain([&dashboard]) {
        for absent in [
            "traces_span_metrics",
            "imap_client_io",
            "imap_client_setup_duration_seconds_bucket",
            "imaptrace_probe_duration_seconds_bucket",
            "imaptrace_timing_duration",
        ] {
            assert!(!text.contains(absent), "{absent} is not there by default");
        }
        assert!(!text.contains("\"exemplar\": true"), "exemplars come with span metrics");
    }
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
    known.extend(names::METRICS.iter().flat_map(prometheus_names));
    let rules: String = RULES.iter().map(|file| read(&format!("deploy/prometheus/{file}.yml"))).collect();
    known.extend(rules.lines().filter_map(|line| line.trim().strip_prefix("- record: ").map(ToOwned::to_owned)));

    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/dashboards/imaptrace.json")).unwrap();
    let mut asked = rules;
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            asked.extend(["\n", target["expr"].as_str().unwrap(), "\n", target["legendFormat"].as_str().unwrap()]);
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        asked.extend(["\n", variable["query"]["query"].as_str().unwrap_or_default()]);
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
    for file in RULES {
        let rules = expressions(file).join("\n");
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
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/dashboards/imaptrace.json")).unwrap();
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
        links.extend(panel["fieldConfig"]["defaults"]["links"].as_array().into_iter().flatten());
        let overrides = panel["fieldConfig"]["overrides"].as_array().into_iter().flatten();
        let properties = overrides.flat_map(|each| each["properties"].as_array().unwrap());
        links
            .extend(properties.filter(|each| each["id"] == "links").flat_map(|each| each["value"].as_array().unwrap()));
    }
    let (mut jaeger, mut tempo) = (0, 0);
    for link in links {
        let url = link["url"].as_str().unwrap();
        let (_, panes) =
            url.split_once("/explore?schemaVersion=1&panes=").unwrap_or_else(|| panic!("{url} is not Explore"));
        let panes: Value = serde_json::from_str(panes).unwrap_or_else(|error| panic!("{error} in {url}"));
        let pane = &panes["a"];
        let query = &pane["queries"][0];
        let text = match (pane["datasource"].as_str(), query["queryType"].as_str()) {
            (Some("${traces}"), Some("search")) => {
                jaeger += 1;
                query["tags"].as_str().unwrap().replace('=', " ")
            }
            (Some("${tempo}"), Some("traceql")) => {
                tempo += 1;
                let query = query["query"].as_str().unwrap();
                assert!(query.starts_with("{ ") && query.ends_with(" }"), "{query}");
                query.replace("span.imaptrace", "imaptrace")
            }
            other => panic!("{other:?} in {url}"),
        };
        for name in text.split([' ', '"']).filter(|word| word.starts_with("imaptrace.")) {
            assert!(names::ATTRIBUTES.contains(&name), "{name} in {url}");
        }
    }
    assert!(jaeger > 3 && tempo > 3, "{jaeger} links to Jaeger, {tempo} to Tempo");
}

/// So that it works in a Grafana whose sources have other names, and is imported without a question.
#[test]
fn the_dashboard_takes_its_sources_from_variables_that_the_shipped_sources_fit() {
    let text = read("deploy/grafana/dashboards/imaptrace.json");
    assert!(!text.contains("__inputs"));
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let sources = read("deploy/grafana/provisioning/datasources/imaptrace.yaml");
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let of_sources: BTreeMap<_, _> = variables
        .iter()
        .filter(|variable| variable["type"] == "datasource")
        .map(|variable| (variable["name"].as_str().unwrap(), variable["query"].as_str().unwrap()))
        .collect();
    assert_eq!(of_sources, BTreeMap::from([("metrics", "prometheus"), ("traces", "jaeger"), ("tempo", "tempo")]));
    for kind in of_sources.values() {
        assert!(sources.contains(&format!("    type: {kind}\n")), "no source of type {kind} is provisioned");
    }
    // Queries, panels, variables and annotations: all that name a source name one of them by its variable.
    let named = text.matches("\"datasource\": {").count();
    let by_variable = text.matches("\"type\": \"prometheus\",\n").count();
    assert_eq!(text.matches("\"uid\": \"${metrics}\"").count(), named);
    assert!(named > 60 && by_variable == named, "{named} sources, {by_variable} of them Prometheus");
    assert!(!text.contains("://"), "a link that leads to a fixed host");
}

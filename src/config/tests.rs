//! Properties of the loader as a whole; the sentences of its errors are checked by the hermetic tests.

use std::path::PathBuf;

use proptest::prelude::*;

use super::{
    load::build,
    sources::{readers::TreeReader, tree},
    targets::account::TargetOrigin,
    *,
};

fn load_text(text: &str) -> Result<Config, Problems> {
    let sources = Sources { file: Some(PathBuf::from("imaptrace.toml")), ..Sources::default() };
    let mut problems = Vec::new();
    let merged = tree::merge_text(&sources, Some(text), &mut problems);
    build(merged, &sources, problems, &TargetOrigin::Listed)
}

const TARGET: &str =
    "[[targets]]\nname = \"a\"\nurl = \"imaps://a.example\"\nuser = \"u\"\npassword = { env = \"P\" }\n";

#[test]
fn everything_that_is_wrong_is_reported_at_once_in_the_order_of_the_file() {
    let text =
        "[defaults]\nintervall = \"1s\"\n[dns]\ncache = 1\n[[targets]]\nname = \"a\"\nurl = \"ftp://a\"\nnewest = 0\n";
    let errors = load_text(text).unwrap_err().errors;
    let places: Vec<String> = errors.iter().map(|error| format!("{} {}", error.place, error.key)).collect();
    assert_eq!(
        places,
        [
            "imaptrace.toml:2:1 defaults.intervall",
            "imaptrace.toml:4:1 dns.cache",
            "imaptrace.toml:7:1 targets[0].url",
            "imaptrace.toml:8:1 targets[0].newest",
        ]
    );
}

#[test]
fn what_made_the_parser_panic_is_an_error() {
    // toml_edit 0.23 panicked on both.
    for text in ["targets=[{a a[]n \"\ntargets.", "targets.accounts\u{4}mail==\ntargets.accounts\u{4}mail.="] {
        let errors = load_text(text).unwrap_err().errors;
        assert!(errors[0].what.starts_with("this is not TOML"), "{errors:?}");
    }
}

#[test]
fn variables_that_set_one_key_twice_or_a_table_and_a_key_in_it_are_named_both() {
    let load = |variables: &[(&str, &str)]| {
        let environment = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let sources = Sources { file: Some(PathBuf::from("imaptrace.toml")), environment, ..Sources::default() };
        let mut problems = Vec::new();
        let merged = tree::merge_text(&sources, Some(TARGET), &mut problems);
        build(merged, &sources, problems, &TargetOrigin::Listed).map_err(|problems| problems.to_string())
    };
    let (table, key) = (("IMAPTRACE__DEFAULTS", "x"), ("IMAPTRACE__DEFAULTS__INTERVAL", "40s"));
    // Between them in the order of names.
    let other = ("IMAPTRACE__DEFAULTS-X", "x");
    for order in [[table, other, key], [key, other, table]] {
        let details = load(&order).unwrap_err();
        let names =
            "variable IMAPTRACE__DEFAULTS__INTERVAL: defaults.interval: IMAPTRACE__DEFAULTS sets the whole table";
        assert!(details.contains(names), "{details}");
    }
    let details = load(&[key, ("IMAPTRACE__defaults__interval", "50s")]).unwrap_err();
    assert!(
        details.contains("IMAPTRACE__DEFAULTS__INTERVAL") && details.contains("IMAPTRACE__defaults__interval"),
        "{details}"
    );
    assert!(load(&[key, ("IMAPTRACE__DEFAULTS__NEWEST", "5")]).is_ok());
}

#[test]
fn loopback_in_either_notation_is_no_address_that_others_reach() {
    let warned = |listen: &str| {
        let config = load_text(&format!("[http]\nlisten = \"{listen}\"\n{TARGET}")).unwrap();
        config.warnings.iter().any(|warning| warning.key == "http.listen")
    };
    for (listen, expected) in
        [("127.0.0.1:1", false), ("[::1]:1", false), ("[::ffff:127.0.0.1]:1", false), ("[::ffff:192.0.2.1]:1", true)]
    {
        assert_eq!(warned(listen), expected, "{listen}");
    }
}

#[test]
fn a_proxy_that_cannot_be_read_is_reported_once_and_no_variable_beside_it() {
    let environment = vec![("HTTP_PROXY".to_owned(), "http://proxy.example:3128".to_owned())];
    let sources = Sources { file: Some(PathBuf::from("imaptrace.toml")), environment, ..Sources::default() };
    let details = |proxy: &str| {
        let text = format!("[otlp]\nendpoint = \"http://otel.example:4318\"\n{proxy}\n{TARGET}");
        let mut problems = Vec::new();
        let merged = tree::merge_text(&sources, Some(&text), &mut problems);
        let problems = match build(merged, &sources, problems, &TargetOrigin::Listed) {
            Ok(config) => Problems { warnings: config.warnings, ..Problems::default() },
            Err(problems) => problems,
        };
        let about = |list: &[Problem]| list.iter().filter(|problem| problem.key == "otlp.proxy").count();
        (about(&problems.errors), about(&problems.warnings))
    };
    assert_eq!(details(""), (0, 1));
    assert_eq!(details("proxy = \"proxy.example\""), (1, 0));
}

#[test]
fn a_build_without_nss_refuses_the_systems_resolver_by_name() {
    let read = |nss| {
        let sources = Sources { file: Some(PathBuf::from("imaptrace.toml")), ..Sources::default() };
        let mut problems = Vec::new();
        let merged = tree::merge_text(&sources, Some("[dns]\nresolver = \"system\"\n"), &mut problems);
        let source = TreeReader::new(merged, &keys::SCHEMA, &[], problems);
        settings::dns::read(&source.root(&keys::TOP).table("dns", &settings::dns::KEYS), nss);
        source.finish().errors
    };
    assert_eq!(read(true).len(), 0);
    let errors = read(false);
    assert_eq!((errors.len(), errors[0].key.as_str()), (1, "dns.resolver"));
    assert!(errors[0].what.contains("\"system\" is not in this build"), "{errors:?}");
}

#[test]
fn columns_are_counted_in_characters() {
    let text = format!("{TARGET}labels = {{ \"ä\" = \"ü\", b = 1 }}\n");
    let errors = load_text(&text).unwrap_err().errors;
    let places: Vec<String> = errors.iter().map(|error| error.place.to_string()).collect();
    assert_eq!(places, ["imaptrace.toml:6:12", "imaptrace.toml:6:23"]);
}

#[test]
fn the_number_of_series_grows_with_accounts_and_families() {
    let count = |more: &str| samples(&load_text(&format!("{TARGET}{more}")).unwrap());
    // The resource, two histograms and 14 others of the agent; and dropped runs.
    let (agent, agent_failing) = (1 + 2 * 19 + 14, 1 + 2 * 19 + 14 + 3);
    // First loading and four commands with buckets; the run and four phases without; six gauges.
    let account = count("").passing - agent;
    assert_eq!(account, 5 * 19 + 5 * 3 + 6);
    assert!(account <= 120);
    // Five runs and steps that failed, 4 reasons for skipped runs, 3 causes, mailboxes that shrank.
    let failing = count("").failing - agent_failing;
    assert_eq!(failing, account + 5 * 3 + 5 * 19 + 4 + 3 + 1);
    // The three parts of each command's time.
    assert_eq!(count("[metrics]\ntiming = true").passing, count("").passing + 4 * 3 * 19);
    assert_eq!(count("address = \"each\"").passing, agent + 2 * account);
    let second = "[[targets.accounts]]\nname = \"b\"\nuser = \"u\"\npassword = { env = \"P\" }";
    assert_eq!(count(second).passing, agent + 2 * account);
    assert_eq!(count(second).failing, agent_failing + 2 * failing);
    // First loading, the run, four phases and eight commands; bytes in two directions, those of the greeting; the gauges.
    let full = "[metrics]\ndetail = \"full\"\n";
    assert_eq!(count(full).passing, agent + 14 * 19 + 17 + 6);
    assert_eq!(count(&format!("{full}histogram = \"exponential\"")).passing, 1 + 2 * 3 + 14 + 14 * 3 + 17 + 6);
}

#[test]
fn targets_of_a_group_share_their_series_when_those_are_for_groups() {
    let count = |metrics: &str| {
        let group = "[[groups]]\nname = \"fleet\"\ntargets = [\"m{1..40}.example\"]\nuser = \"u\"\n\
                     password = { env = \"P\" }\nlabels = { rack = \"a\", host = \"{host}\" }\n";
        samples(&load_text(&format!("{TARGET}{group}[metrics]\n{metrics}")).unwrap()).passing - 53
    };
    let account = count("per = \"group\"") / 2;
    assert_eq!(count(""), 41 * account);
    assert_eq!(count("per = \"group\""), 2 * account);
    assert_eq!(count("per = \"group\"\nlabels = [\"rack\"]"), 2 * account);
    // A label with a value for each target parts them again.
    assert_eq!(count("per = \"group\"\nlabels = [\"host\"]"), 41 * account);
}

#[test]
fn keys_of_any_depth_are_refused_without_a_crash() {
    let text = format!("{}a = 1\n", "a.".repeat(5_000));
    assert!(!load_text(&text).unwrap_err().errors.is_empty());
    let name = format!("IMAPTRACE__{}A", "A__".repeat(5_000));
    let sources = Sources { environment: vec![(name, "1".to_owned())], ..Sources::default() };
    assert!(!load(&sources).unwrap_err().errors.is_empty());
}

/// A value of any type, as TOML.
fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        any::<bool>().prop_map(|flag| flag.to_string()),
        any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(|number| format!("{number:?}")),
        Just("1979-05-27T07:32:00Z".to_owned()),
        prop::sample::select(vec!["30s", "16MiB", "none", "imap://u:p@h/x", "http://h:4317", "::1", "v6", ""])
            .prop_map(|word| format!("{word:?}")),
        "[ -~äß\u{202e}]{0,12}".prop_map(|text| toml_edit::Value::from(text).to_string()),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|list| format!("[{}]", list.join(", "))),
            prop::collection::btree_map(key(), inner, 0..4).prop_map(|table| {
                let pairs: Vec<String> = table.into_iter().map(|(key, value)| format!("{key} = {value}")).collect();
                format!("{{ {} }}", pairs.join(", "))
            }),
        ]
    })
}

/// One `key = value` a line.
fn lines(pairs: impl IntoIterator<Item = (String, String)>) -> String {
    let lines: Vec<String> = pairs.into_iter().map(|(key, value)| format!("{key} = {value}")).collect();
    lines.join("\n")
}

fn key() -> impl Strategy<Value = String> {
    let known: Vec<&str> = tables().flat_map(|table| table.keys.iter().chain(table.later).copied()).collect();
    prop_oneof![9 => prop::sample::select(known).prop_map(str::to_owned), 1 => "[a-z]{1,8}"]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_toml_loads_or_has_errors(table in prop::collection::btree_map(key(), value(), 0..8)) {
        let text = lines(table);
        if let Err(problems) = load_text(&text) {
            prop_assert!(!problems.errors.is_empty());
            prop_assert!(problems.to_string().lines().count() <= 1 + 2 * (problems.errors.len() + problems.warnings.len()));
        }
    }

    #[test]
    fn any_target_loads_or_has_errors(table in prop::collection::btree_map(key(), value(), 0..8)) {
        let more = lines(table.into_iter().filter(|(key, _)| !["name", "url", "user", "password"].contains(&key.as_str())));
        match load_text(&format!("{TARGET}{more}")) {
            Ok(config) => prop_assert!(describe(&config).starts_with("targets: 1")),
            Err(problems) => prop_assert!(!problems.errors.is_empty()),
        }
    }

    #[test]
    fn any_group_or_window_loads_or_has_errors(
        group in prop::collection::btree_map(key(), value(), 0..8),
        window in prop::collection::btree_map(key(), value(), 0..4),
    ) {
        let group = lines(group.into_iter().filter(|(key, _)| !["name", "targets"].contains(&key.as_str())));
        let text = format!("{TARGET}[[groups]]\nname = \"g\"\ntargets = [\"m{{1..3}}\"]\n{group}\n");
        if let Err(problems) = load_text(&text) {
            prop_assert!(!problems.errors.is_empty());
        }
        match load_text(&format!("{TARGET}[[windows]]\n{}", lines(window))) {
            Ok(config) => prop_assert_eq!(config.windows.len(), 1),
            Err(problems) => prop_assert!(!problems.errors.is_empty()),
        }
    }

    #[test]
    fn any_text_loads_or_has_errors(text in ".{0,200}") {
        prop_assert!(load_text(&text).is_err_and(|problems| !problems.errors.is_empty()));
    }

    #[test]
    fn a_secret_is_never_repeated(junk in "[ -~]{0,12}") {
        let text = |text: &str| toml_edit::Value::from(text).to_string();
        let secret = text(&format!("planted{junk}"));
        let url = text(&format!("imaps://u:planted{junk}@h"));
        let file = format!(
            "[otlp]\nendpoint = {url}\nheaders = {{ a = {secret}, b = [{secret}] }}\n\
             [otlp.traces]\nheaders = {secret}\n\
             [[targets]]\nname = \"a\"\nurl = {url}\nuser = {secret}\npassword = {secret}\n\
             [[targets.accounts]]\nuser = {secret}\npassword = {{ env = {secret}, command = {secret} }}\n\
             [[groups]]\nname = \"g\"\ntargets = [\"m\", {url}, \"u:planted@h\"]\nurl = {url}\nuser = {secret}\npassword = {secret}\n"
        );
        let problems = load_text(&file).unwrap_err();
        prop_assert!(!format!("{problems} {problems:?}").contains("planted"), "{problems}");
    }
}

/// A configuration whose group's targets are in this file, and what is wrong with it.
fn load_list(name: &str, text: &str) -> Problems {
    let directory = tempfile::tempdir().unwrap();
    let list = directory.path().join(name);
    std::fs::write(&list, text).unwrap();
    let group = "[[groups]]\nname = \"fleet\"\nuser = \"u\"\npassword = { env = \"P\" }\n";
    load_text(&format!("{group}targets_from = [{:?}]\n", list.display().to_string())).unwrap_err()
}

#[test]
fn a_few_lines_cannot_expand_to_more_targets_than_the_limit() {
    let templates: Vec<String> = (0..20).map(|number| format!("\"{number}-{{1..99999}}\"")).collect();
    let group = "[[groups]]\nname = \"fleet\"\nuser = \"u\"\npassword = { env = \"P\" }\nnewest = 0\n";
    let problems = load_text(&format!("{group}targets = [{}]\n", templates.join(", "))).unwrap_err();
    let details: Vec<_> = problems.errors.iter().map(|error| error.what.as_str()).collect();
    assert!(details.contains(&"groups and files have more than 100000 targets in all"), "{details:?}");
    // Once, whatever else is wrong: so many targets make too many series, and the group has a fault of its own.
    assert_eq!(details.len(), 3, "{details:?}");
}

#[test]
fn an_error_in_a_list_has_the_position_that_an_editor_shows() {
    for (text, place) in [("[\"ä\", ä]", "l.json:1:7"), ("[\"a\nb\"]", "l.json:2:1"), ("[\n\"ü", "l.json:2:3")] {
        let details = load_list("l.json", text).errors[0].place.to_string();
        assert!(details.ends_with(place), "{text:?}: {details}");
    }
    for (text, place) in [("%ääää \0", "l.yml:1:8"), ("- a\n- \"b", "l.yml:2:3")] {
        let details = load_list("l.yml", text).errors[0].place.to_string();
        assert!(details.ends_with(place), "{text:?}: {details}");
    }
}

#[test]
fn a_file_of_targets_takes_no_more_memory_than_its_targets_and_labels_may() {
    let details = |name: &str, text: &str| {
        let problems = load_list(name, text);
        problems.errors.iter().map(|error| error.what.clone()).collect::<Vec<_>>().join("; ")
    };
    // 8 GB of labels out of a megabyte.
    let label = "x".repeat(800_000);
    let targets = vec!["\"a\""; 10_000].join(",");
    let labels = format!("[{{\"targets\":[{targets}],\"labels\":{{\"l\":\"{label}\"}}}}]");
    assert!(details("l.json", &labels).contains("take more than 64MiB"));
    // A fault for each of a million values.
    assert_eq!(load_list("l.json", &format!("[{}1]", "1,".repeat(1_000_000))).errors.len(), 5);
    for (name, text) in [("l.json", format!("[{}1]", "1,".repeat(2_000_000))), ("l.yml", "- 1\n".repeat(2_000_001))] {
        assert!(details(name, &text).contains("there are more than 2,000,000 values"), "{name}");
    }
}

#[test]
fn a_run_that_is_cut_before_one_command_is_a_warning_and_no_other_limit_is() {
    let warnings = |limits: &str| -> Vec<String> {
        let config = load_text(&format!("{TARGET}[limits]\n{limits}\n")).unwrap();
        config.warnings.into_iter().filter(|warning| warning.key.starts_with("limits")).map(|it| it.key).collect()
    };
    assert_eq!(warnings(""), [""; 0]);
    assert_eq!(warnings("run_bytes = \"1MiB\"\ncommand_bytes = \"1MiB\""), [""; 0]);
    assert_eq!(warnings("run_bytes = \"2MiB\"\ncommand_bytes = \"1MiB\""), [""; 0]);
    assert_eq!(warnings("run_bytes = \"1MiB\"\ncommand_bytes = \"2MiB\""), ["limits.run_bytes"]);
    assert_eq!(warnings("command_bytes = \"900GiB\""), ["limits.command_bytes"]);
}

#[test]
fn a_variable_that_is_not_utf_8_is_a_problem_only_if_it_is_read() {
    let problems = |variable: &str| -> Vec<String> {
        let not_utf8 = vec![variable.to_owned()];
        let file = Some(PathBuf::from("imaptrace.toml"));
        let mut problems = Vec::new();
        tree::merge_text(&Sources { file, not_utf8, ..Sources::default() }, Some(TARGET), &mut problems);
        problems.into_iter().map(|problem| problem.to_string()).collect()
    };
    for read in ["OTEL_SERVICE_NAME", "OTEL_EXPORTER_OTLP_ENDPOINT", "IMAPTRACE__DEFAULTS__INTERVAL", "STATE_DIRECTORY"]
    {
        let found = problems(read);
        assert!(found.len() == 1 && found[0].starts_with(&format!("variable {read}: it is not UTF-8")), "{found:?}");
    }
    for other in ["OTEL_LOG_LEVEL", "OTEL_EXPORTER_JAEGER_ENDPOINT", "PATH", "LC_NAME"] {
        assert_eq!(problems(other), [""; 0], "{other}");
    }
}

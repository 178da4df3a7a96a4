//! Files, variables and flags as an operator gives them: what is wrong is said at once, with its place, and no secret.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use imaptrace::{
    config::{self, Config, Flag, Problems, Sources},
    plan::{AddressChoice, Security, Target},
    secret::SecretSource,
    telemetry::ResourceSettings,
};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn load_file(path: &Path) -> Result<Config, Problems> {
    config::load(&Sources { file: Some(path.to_owned()), ..Sources::default() })
}

fn load_text(text: &str, environment: &[(&str, &str)], flags: Vec<Flag>) -> Result<Config, Problems> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("imaptrace.toml");
    std::fs::write(&path, text).unwrap();
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    config::load(&Sources { file: Some(path), environment, flags, ..Sources::default() })
}

const TARGET: &str = r#"
[[targets]]
name = "mail01"
url = "imaps://mail01.example.org"
user = "probe@example.org"
password = { file = "/run/secrets/mail01" }
"#;

/// Each file in `tests/config/invalid` breaks one rule and ends with the sentences it expects, `# expect: ` before each
/// line: place, key, what is wrong, help.
#[test]
fn every_bad_file_gets_its_sentences_and_none_shows_a_secret() {
    let directory = root().join("tests/config/invalid");
    let mut wrong = Vec::new();
    let mut count = 0;
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let expected: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# expect: ")).collect();
        let problems = load_file(&path).err().map(|problems| problems.to_string()).unwrap_or_default();
        assert!(!problems.contains("planted"), "{problems}");
        let found: Vec<String> = load_file(&path)
            .err()
            .into_iter()
            .flat_map(|problems| problems.errors)
            .map(|problem| problem.to_string().replace(&format!("{}:", path.display()), ""))
            .collect();
        let found = found.join("\n");
        if expected.is_empty() || found != expected.join("\n") {
            let name = path.file_name().unwrap().to_string_lossy();
            wrong.push(format!("=== {name}\n{found}"));
        }
        count += 1;
    }
    assert!(wrong.is_empty(), "these files get other sentences than they expect:\n{}", wrong.join("\n"));
    assert!(count >= 50, "only {count} files in {}", directory.display());
}

#[test]
fn the_sample_loads_to_the_defaults() {
    let sample = load_file(&root().join("imaptrace.toml")).unwrap();
    assert_eq!(sample, load_text(TARGET, &[], Vec::new()).map(|config| moved(config, &sample)).unwrap());
}

/// The same configuration with the other's problems, whose places are in another file.
fn moved(config: Config, other: &Config) -> Config {
    let words = |config: &Config| config.warnings.iter().map(|warning| warning.what.clone()).collect::<Vec<_>>();
    assert_eq!(words(&config), words(other));
    Config {
        // The sample writes the defaults out.
        hash: other.hash.clone(),
        warnings: other.warnings.clone(),
        unusable: other.unusable.clone(),
        watched: other.watched.clone(),
        ..config
    }
}

#[test]
fn a_file_that_is_not_there_is_an_error() {
    let problems = load_file(Path::new("does/not/exist.toml")).unwrap_err();
    assert_eq!(problems.errors.len(), 1);
    assert!(problems.to_string().starts_with("error: does/not/exist.toml: cannot be read: "), "{problems}");
}

#[test]
fn flags_beat_variables_and_variables_beat_the_file() {
    let file = format!("[otlp]\nendpoint = \"http://file:4318\"\n[defaults]\ninterval = \"50s\"\nnewest = 5\n{TARGET}");
    let endpoint = |environment: &[(&str, &str)], flags: Vec<Flag>| {
        load_text(&file, environment, flags).unwrap().otlp.metrics.unwrap().endpoint
    };
    let otel = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:4318");
    let own = ("IMAPTRACE__OTLP__ENDPOINT", "http://own:4318");
    let flag = Flag {
        key: "otlp.endpoint".to_owned(),
        value: "http://flag:4318".to_owned(),
        name: "--otlp-endpoint".to_owned(),
    };
    assert_eq!(endpoint(&[], Vec::new()), "http://file:4318/v1/metrics");
    assert_eq!(endpoint(&[otel], Vec::new()), "http://otel:4318/v1/metrics");
    assert_eq!(endpoint(&[own, otel], Vec::new()), "http://own:4318/v1/metrics");
    assert_eq!(endpoint(&[own, otel], vec![flag]), "http://flag:4318/v1/metrics");

    let config = load_text(&file, &[("IMAPTRACE__DEFAULTS__INTERVAL", "45s")], Vec::new()).unwrap();
    assert_eq!(config.targets[0].interval.as_secs(), 45);
    assert_eq!(config.targets[0].journey.newest, 5);
}

#[test]
fn alpn_is_offered_unless_defaults_a_group_or_a_target_say_no() {
    let text = "[defaults]\nDEFAULT\n\
        [[groups]]\nname = \"g\"\ntargets = [\"mail02\"]\nurl = \"imaps://{host}\"\nuser = \"u\"\npassword = { env = \"P\" }\nGROUP\n\
        [[targets]]\nname = \"mail01\"\nurl = \"imaps://mail01\"\nuser = \"u\"\npassword = { env = \"P\" }\nTARGET\n";
    for (default, group, target, expected) in [
        ("", "", "", [true, true]),
        ("alpn = false", "", "", [false, false]),
        ("alpn = false", "alpn = true", "", [true, false]),
        ("alpn = false", "", "alpn = true", [false, true]),
        ("", "alpn = false", "alpn = false", [false, false]),
    ] {
        let text = text.replace("DEFAULT", default).replace("GROUP", group).replace("TARGET", target);
        let config = load_text(&text, &[], Vec::new()).unwrap();
        let of = |name: &str| config.targets.iter().find(|target| target.name == name).unwrap().tls.alpn;
        assert_eq!([of("mail02"), of("mail01")], expected, "{text}");
    }
}

#[test]
fn a_variable_is_raw_text_and_other_imaptrace_variables_are_left_alone() {
    let environment = [
        ("IMAPTRACE__AGENT__INSTANCE", "0123"),
        ("IMAPTRACE__DEFAULTS__NEWEST", "7"),
        ("IMAPTRACE__DEFAULTS__INSECURE", "true"),
        ("IMAPTRACE__METRICS__LABELS", "rack, volume"),
        ("IMAPTRACE_PORT", "tcp://10.0.0.1:993"),
        ("IMAPTRACE_PASSWORD", "planted"),
    ];
    let config = load_text(TARGET, &environment, Vec::new()).unwrap();
    assert_eq!(config.resource.instance.as_deref(), Some("0123"));
    assert_eq!(config.targets[0].journey.newest, 7);
    assert!(config.targets[0].tls.insecure);
    assert_eq!(config.metrics.series.labels.len(), 2);
}

#[test]
fn what_is_wrong_with_a_variable_names_the_variable() {
    let environment = [
        ("IMAPTRACE__DEFAULTS__INTERVAL", "soon"),
        ("IMAPTRACE__DEFAULTS__INTERVALL", "60s"),
        ("IMAPTRACE__DEFAULTS__", "60s"),
        ("IMAPTRACE__INTERVAL", "60s"),
        ("IMAPTRACE__AGENT__RUNS_IN_FLIGHT", "8"),
        ("IMAPTRACE__URL", "imaps://planted@mail03.example.org"),
        ("IMAPTRACE__TARGETS__0__URL", "imaps://planted@mail02.example.org"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization"),
        ("OTEL_TRACES_SAMPLER", "always_off"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "2048"),
    ];
    let problems = load_text(TARGET, &environment, Vec::new()).unwrap_err();
    let mut text: Vec<String> = problems.errors.iter().map(ToString::to_string).collect();
    text.sort();
    insta::assert_snapshot!(text.join("\n"), @r#"
    variable IMAPTRACE__AGENT__RUNS_IN_FLIGHT: agent.runs_in_flight: `runs_in_flight` belongs in `[limits]`
      help: set IMAPTRACE__LIMITS__RUNS_IN_FLIGHT
    variable IMAPTRACE__DEFAULTS__: no key has this name
      help: write the key's path in capitals with `__` between its levels, such as IMAPTRACE__DEFAULTS__INTERVAL
    variable IMAPTRACE__DEFAULTS__INTERVAL: defaults.interval: "soon" is not a duration: expected a whole number with a unit, such as "900ms", "30s", "5m" or "1h"
    variable IMAPTRACE__DEFAULTS__INTERVALL: defaults.intervall: there is no such key
      help: did you mean `interval`?
    variable IMAPTRACE__INTERVAL: interval: `interval` belongs in `[defaults]`, a target or an account
      help: set IMAPTRACE__DEFAULTS__INTERVAL
    variable IMAPTRACE__TARGETS__0__URL: targets: a list of tables can only come from the file
      help: write it in the configuration file
    variable IMAPTRACE__URL: url: `url` belongs in a target
      help: write it in the configuration file
    variable OTEL_BSP_MAX_QUEUE_SIZE: not taken: runs wait in imaptrace's own queue, not in the SDK's batch processor, so this would have no effect
      help: unset it
    variable OTEL_EXPORTER_OTLP_HEADERS: otlp.headers: it cannot be read: expected name=value,name=value, percent-encoded
      help: write a comma as %2C
    variable OTEL_EXPORTER_OTLP_PROTOCOL: otlp.protocol: "http/json" is not known: expected "grpc" or "http/protobuf"
    variable OTEL_EXPORTER_OTLP_TIMEOUT: "10s" is not a whole number of milliseconds: expected digits alone, such as 10000
      help: OpenTelemetry's variables take no unit: 10000 is ten seconds
    variable OTEL_TRACES_SAMPLER: not taken: every run is a trace of its own and all are kept: a sampled-out run would be a gap in the measurement
      help: unset it
    "#);
}

#[test]
fn the_variables_of_opentelemetry_set_the_exporters() {
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://otlp.example.org:4317/"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20planted,X-Scope=a"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "none"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/etc/ca.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/etc/client.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/etc/client.key"),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://localhost:9090/api/v1/otlp/v1/metrics"),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/protobuf"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "5000"),
        ("OTEL_SERVICE_NAME", "probes"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=fra-1,deployment.environment.name=test%20bed"),
    ];
    let config = load_text(TARGET, &environment, Vec::new()).unwrap();
    insta::assert_snapshot!(format!("{:#?}", config.otlp), @r#"
    Otlp {
        traces: Some(
            Exporter {
                endpoint: "https://otlp.example.org:4317/",
                protocol: Grpc,
                headers: [
                    (
                        "authorization",
                        Given(
                            [secret],
                        ),
                    ),
                    (
                        "x-scope",
                        Given(
                            [secret],
                        ),
                    ),
                ],
                timeout: 2.5s,
                gzip: false,
                ca_file: Some(
                    "/etc/ca.pem",
                ),
                client_cert: Some(
                    "/etc/client.pem",
                ),
                client_key: Some(
                    "/etc/client.key",
                ),
                route: Route(proxy none),
            },
        ),
        metrics: Some(
            Exporter {
                endpoint: "http://localhost:9090/api/v1/otlp/v1/metrics",
                protocol: HttpProtobuf,
                headers: [
                    (
                        "authorization",
                        Given(
                            [secret],
                        ),
                    ),
                    (
                        "x-scope",
                        Given(
                            [secret],
                        ),
                    ),
                ],
                timeout: 2.5s,
                gzip: false,
                ca_file: Some(
                    "/etc/ca.pem",
                ),
                client_cert: Some(
                    "/etc/client.pem",
                ),
                client_key: Some(
                    "/etc/client.key",
                ),
                route: Route(proxy none),
            },
        ),
    }
    "#);
    assert_eq!(config.metrics.export_interval.as_secs(), 5);
    let resource = ResourceSettings {
        service_name: Some("probes".into()),
        instance: Some("fra-1".into()),
        attributes: vec![("deployment.environment.name".into(), "test bed".into())],
        ..ResourceSettings::default()
    };
    assert_eq!(config.resource, resource);
    let headers = &config.otlp.traces.as_ref().unwrap().headers;
    let SecretSource::Given(value) = &headers[0].1 else { panic!("{headers:?}") };
    assert_eq!(value.expose(), "Bearer planted");
}

#[test]
fn the_port_decides_the_protocol_when_nothing_else_does() {
    let endpoint = |url: &str, protocol: &str| {
        let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", url), ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)];
        let traces = load_text(TARGET, &environment, Vec::new()).unwrap().otlp.traces.unwrap();
        format!("{} {}", traces.protocol.as_str(), traces.endpoint)
    };
    assert_eq!(endpoint("http://c:4317", ""), "grpc http://c:4317");
    assert_eq!(endpoint("http://c:4318", ""), "http/protobuf http://c:4318/v1/traces");
    assert_eq!(endpoint("https://c/base/", ""), "http/protobuf https://c/base/v1/traces");
    assert_eq!(endpoint("http://c:4317", "http/protobuf"), "http/protobuf http://c:4317/v1/traces");
    assert_eq!(endpoint("http://[::1]:4318", "grpc"), "grpc http://[::1]:4318");
}

#[test]
fn a_target_takes_from_defaults_what_it_does_not_say_itself() {
    let file = r#"
        [defaults]
        security = "none"
        mailbox = "Probe"
        timeout = "10s"
        proxy_protocol = "v2"
        address = "each"
        [defaults.deadlines]
        command = "3s"

        [[targets]]
        name = "a"
        url = "imap://bob%40example.org:secret@192.0.2.7/Shared"
        [[targets]]
        name = "b"
        url = "imaps://b.example.org"
        user = "bob"
        password = { command = ["pass", "show", "b"] }
        interval = "15s"
        proxy_protocol = "off"
        deadlines = { command = "4s" }
    "#;
    let config = load_text(file, &[], Vec::new()).unwrap();
    let [a, b] = config.targets.as_slice() else { panic!("{config:?}") };
    assert_eq!((a.security, a.journey.mailbox.as_str()), (Security::None, "Shared"));
    assert_eq!(a.accounts[0].user.expose(), "bob@example.org");
    assert!(a.proxy_protocol.is_some() && b.proxy_protocol.is_none());
    assert_eq!((b.security, b.journey.mailbox.as_str(), b.endpoint.port), (Security::Tls, "Probe", 993));
    assert_eq!((a.address, b.address), (AddressChoice::Any, AddressChoice::Each));
    assert_eq!([a, b].map(|target| target.deadlines.command.as_secs()), [3, 4]);
    assert_eq!([a, b].map(|target| target.deadlines.run.as_secs()), [10, 10]);
}

#[test]
fn a_limit_on_logins_that_the_intervals_cannot_keep_is_a_warning() {
    let file = |limits: &str| {
        format!(
            "[otlp]\nendpoint = \"http://localhost:4317\"\n[limits]\n{limits}\n[defaults]\ninterval = \"20s\"\ntimeout = \"10s\"\n\
             [[groups]]\nname = \"g\"\ntargets = [\"a:{{1001..1030}}\", \"b:{{1001..1030}}\"]\nuser = \"bob\"\npassword = {{ env = \"X\" }}\n\
             [[groups]]\nname = \"one\"\ntargets = [\"c\"]\naccounts = [{accounts}]\n",
            accounts = (0..30)
                .map(|number| format!("{{ name = \"n{number}\", user = \"bob\", password = {{ env = \"X\" }} }}"))
                .collect::<Vec<_>>()
                .join(", ")
        )
    };
    let details = |limits: &str| {
        let config = load_text(&file(limits), &[], Vec::new()).unwrap();
        let details = config.warnings.iter().filter(|warning| warning.key.starts_with("limits."));
        details.map(|warning| format!("{}: {}", warning.key, warning.what)).collect::<Vec<_>>()
    };
    assert_eq!(details(""), Vec::<String>::new(), "1.5 logins a second on one server, 4.5 on all");
    assert_eq!(
        details("logins_per_second_per_server = 1\nlogins_per_second = 4"),
        [
            "limits.logins_per_second_per_server: 1.5 logins a second are due on c:993, the limit is 1: the others are skipped",
            "limits.logins_per_second: 4.5 logins a second are due on all servers together, the limit is 4: the others are skipped",
        ]
    );
    assert_eq!(details("logins_per_second_per_server = 2\nlogins_per_second = 5"), Vec::<String>::new());
}

#[test]
fn what_deserves_a_second_look_is_a_warning() {
    let file = r#"
        [metrics]
        labels = ["rack"]
        [otlp]
        endpoint = "http://otlp.example.org:4318"
        headers = { x-key = "planted" }
        [[targets]]
        name = "a"
        url = "imap://bob:planted@a.example.org"
        security = "none"
        interval = "5s"
        timeout = "4s"
        [[targets]]
        name = "b"
        url = "b.example.org"
        user = "bob"
        password = { file = "/run/secrets/b", insecure_mode = true }
        insecure = true
    "#;
    let config = load_text(file, &[], Vec::new()).unwrap();
    let text: Vec<String> =
        config.warnings.iter().map(|warning| format!("{}: {}", warning.key, warning.what)).collect();
    insta::assert_snapshot!(text.join("\n"), @r#"
    metrics.labels[0]: no target has this label
    otlp.headers: headers, which may hold a key, go over the network in clear text
    targets[0].url: the URL contains the password
    targets[0].security: user name, password and mail go over the network in clear text
    targets[0].interval: a login every 5s may look like an attack to the server
    targets[1].password.insecure_mode: a secret's file may be read by others
    targets[1].insecure: the server's certificate is not checked: anybody could answer
    "#);
}

#[test]
fn the_probe_command_line_makes_one_target() {
    let flag = |key: &str, value: &str, name: &str| Flag { key: key.into(), value: value.into(), name: name.into() };
    let request = config::Probe {
        not_utf8: Vec::new(),
        server: "imap://bob@example.org@[::1]:1143/Shared".to_owned(),
        flags: vec![
            flag("target.timeout", "5s", "--timeout"),
            flag("target.mailbox", "Probe", "--mailbox"),
            flag("target.newest", "3", "--newest"),
            flag("target.password.command", "pass show 'mail 01'", "--password-command"),
            flag("otlp.endpoint", "http://localhost:4317", "--otlp-endpoint"),
        ],
        environment: vec![
            ("IMAPTRACE__DEFAULTS__TAG".to_owned(), "short".to_owned()),
            // The agent's own, which may be set where probe is called.
            ("IMAPTRACE__HTTP__LISTEN".to_owned(), "0.0.0.0:80".to_owned()),
            ("IMAPTRACE__TARGETS_FROM".to_owned(), "not/there.json".to_owned()),
        ],
        password: None,
    };
    let config = config::probe(&request).unwrap();
    assert_eq!(config.warnings, []);
    insta::assert_snapshot!(config::describe(&config), @r#"
    targets: 1, accounts: 1
    groups: 0, maintenance windows: 0
    series in Prometheus, each a sample in every scrape: up to 166 while all runs pass, 287 with failures (limit 1000000)
      span_metrics in otel-collector.yaml, if switched on: up to 234 and 432 more
      rules for these histograms: deploy/prometheus/rules
    runs in flight: at most 256, on one server 8
    logins per second: no limit, on one server 10; a run waits 1s for its turn

    target ::1
      server      [::1]:1143, security starttls, address any
      account     default, password from command "pass"
      journey     first-load: SELECT "Probe", newest 3, window newest, cold off, auth auto, tag short, propagate off, empty mailbox fails
      interval    1m, timeout 5s
      deadlines   resolve 5s, connect 5s, tls 5s, greeting 20s, command 20s, write 10s, logout 1s
      limits      line 64KiB, command 64MiB, run 256MiB, responses 100000, depth 32, literal kept 4KiB

    export
      traces to http://localhost:4317 by grpc, timeout 10s, compression none, proxy none
      metrics to http://localhost:4317 by grpc, timeout 10s, compression none, proxy none
      metrics per target every 15s, detail standard, histograms explicit, timing off, labels none
      service.name "imaptrace"
      service.instance.id (the host's name)

    latency
      slow past 3 x the baseline and 10ms over it, after 20 runs
      slow past a limit: none
      kernel stamps on, quickack on

    agent
      log text, from level info
      resolver builtin, name servers the system's, cache off
      state nowhere: baselines start empty at each start
      runs to deliver: 32MiB in memory, on disk none
      http off
      server events off
    "#);
}

#[test]
fn what_is_wrong_with_the_probe_command_line_names_the_flag() {
    let flag = |key: &str, value: &str, name: &str| Flag { key: key.into(), value: value.into(), name: name.into() };
    let wrong = |server: &str, flags: Vec<Flag>| {
        let request = config::Probe { server: server.to_owned(), flags, ..config::Probe::default() };
        config::probe(&request).unwrap_err().to_string()
    };
    let text = [
        wrong("imaps://mail.example.org", Vec::new()),
        wrong("imaps://bob:planted@mail.example.org:x", Vec::new()),
        wrong(
            "imaps://bob:pw@mail.example.org",
            vec![
                flag("target.security", "none", "--security"),
                flag("target.timeout", "5", "--timeout"),
                flag("target.mailbox", "a\r\nb", "--mailbox"),
                flag("target.newest", "many", "--newest"),
                flag("otlp.endpoint", "localhost:4317", "--otlp-endpoint"),
            ],
        ),
    ];
    insta::assert_snapshot!(text.join("\n\n"), @r#"
    error: probe: there is no user name
      help: give it with --user, or as USER@ in SERVER
    error: probe: there is no password
      help: give it with --password-file, --password-env or --password-command
    2 errors

    error: SERVER: it cannot be used: its port is not a number from 1 to 65535
    1 error

    warning: SERVER: the URL contains the password
      help: everyone who can read the file, or the list of processes, can read it too: keep it in a file of its own
    error: --mailbox: a mailbox name cannot hold CR, LF or NUL
    error: --newest: "many" is not a whole number: expected 1 to 100000, such as 20
    error: --timeout: "5" is not a duration: expected a whole number with a unit, such as "900ms", "30s", "5m" or "1h"
      help: did you mean "5s"?
    error: --security: imaps:// goes with security "tls" alone, not with "none"
      help: change the scheme of the URL, or the security
    error: --otlp-endpoint: the endpoint does not begin with http:// or https://
      help: write http://HOST:PORT, or https:// for TLS
    5 errors
    "#);
}

#[test]
fn the_plan_is_described_without_secrets_and_user_names() {
    let file = r#"
        [metrics]
        labels = ["rack"]
        [otlp]
        endpoint = "http://localhost:4317"
        headers = { authorization = "planted", x-key = { env = "KEY" } }
        [[targets]]
        name = "mail01"
        url = "imaps://planted-user:planted@mail01.example.org"
        labels = { rack = "a3" }
        ca_file = "/etc/ca.pem"
        address = "each"
        [[targets.accounts]]
        name = "big"
        user = "planted-user"
        password = { command = ["pass", "canary"] }
    "#;
    let text = config::describe(&load_text(file, &[], Vec::new()).unwrap());
    assert!(!text.contains("planted"), "{text}");
    insta::assert_snapshot!(text, @r#"
    targets: 1, accounts: 2
    groups: 0, maintenance windows: 0
    series in Prometheus, each a sample in every scrape: up to 517 while all runs pass, 992 with failures (limit 1000000)
      span_metrics in otel-collector.yaml, if switched on: up to 234 and 432 more
      rules for these histograms: deploy/prometheus/rules
    runs in flight: at most 256, on one server 8
    logins per second: no limit, on one server 10; a run waits 1s for its turn

    target mail01
      server      mail01.example.org:993, security tls, address each
      tls         roots from /etc/ca.pem
      account     default, password given (hidden)
      account     big, password from command "pass"
      labels      rack="a3"
      journey     first-load: SELECT "INBOX", newest 20, window newest, cold off, auth auto, tag span_id, propagate off, empty mailbox fails
      interval    1m, timeout 30s
      deadlines   resolve 5s, connect 5s, tls 5s, greeting 20s, command 20s, write 10s, logout 1s
      limits      line 64KiB, command 64MiB, run 256MiB, responses 100000, depth 32, literal kept 4KiB

    export
      traces to http://localhost:4317 by grpc, timeout 10s, compression none, proxy none, headers: authorization given (hidden), x-key from variable KEY
      metrics to http://localhost:4317 by grpc, timeout 10s, compression none, proxy none, headers: authorization given (hidden), x-key from variable KEY
      metrics per target every 15s, detail standard, histograms explicit, timing off, labels rack
      service.name "imaptrace"
      service.instance.id (the host's name)

    latency
      slow past 3 x the baseline and 10ms over it, after 20 runs
      slow past a limit: none
      kernel stamps on, quickack on

    agent
      log text, from level info
      resolver builtin, name servers the system's, cache off
      state nowhere: baselines start empty at each start
      runs to deliver: 32MiB in memory, on disk none
      http on 127.0.0.1:8143, 5 runs and as many failed ones kept for each account
      server events off
    "#);
}

#[test]
fn a_random_or_cold_window_has_a_journey_of_its_own() {
    let journey = |defaults: &str, target: &str| {
        let config = load_text(&format!("[defaults]\n{defaults}\n{TARGET}{target}\n"), &[], Vec::new()).unwrap();
        config.targets[0].journey.name().to_string()
    };
    assert_eq!(journey("", ""), "first-load");
    assert_eq!(journey("window = \"random\"", ""), "first-load-random");
    assert_eq!(journey("window = \"random\"", "window = \"newest\""), "first-load");
    assert_eq!(journey("cold = true", ""), "first-load-cold");
    assert_eq!(journey("cold = true", "cold = false"), "first-load");
    assert_eq!(journey("window = \"random\"", "cold = true"), "first-load-cold");
    // What the target says itself beats a default that does not go with it.
    assert_eq!(journey("window = \"newest\"", "cold = true"), "first-load-cold");
    assert_eq!(journey("cold = true", "window = \"newest\""), "first-load");
    assert_eq!(journey("cold = true", "window = \"random\""), "first-load-cold");
}

#[test]
fn the_plan_tells_what_is_slow_and_what_is_kept() {
    let file = format!(
        "[latency]\nmin_runs = 63\nslow_ratio = 2.5\nslow_excess = \"1s\"\nslow_limit = \"5s\"\nkernel_stamps = false\n\
         slow_limits = {{ SELECT = \"500ms\", FETCH = \"9s\" }}\n[metrics]\ntiming = true\n[state]\ndir = \"/\"\n\
         [defaults]\nwindow = \"random\"\n{TARGET}"
    );
    let environment = [("IMAPTRACE__LATENCY__QUICKACK", "false"), ("IMAPTRACE__LATENCY__SLOW_LIMITS__FETCH", "2s")];
    let config = load_text(&file, &environment, Vec::new()).unwrap();
    assert_eq!(config.targets[0].timing, config.timing);
    let text = config::describe(&config);
    let shown: Vec<&str> = text
        .lines()
        .skip_while(|line| *line != "latency")
        .chain(text.lines().filter(|line| line.contains(", window ") || line.contains("timing")))
        .collect();
    insta::assert_snapshot!(shown.join("\n"), @r#"
    latency
      slow past 2.5 x the baseline and 1s over it, after 63 runs
      slow past a limit: any step 5s, FETCH 2s, SELECT 500ms
      kernel stamps off, quickack off

    agent
      log text, from level info
      resolver builtin, name servers the system's, cache off
      state in /
      runs to deliver: 32MiB in memory, on disk 128MiB
      http on 127.0.0.1:8143, 5 runs and as many failed ones kept for each account
      server events off
      journey     first-load-random: SELECT "INBOX", newest 20, window random, cold off, auth auto, tag span_id, propagate off, empty mailbox fails
      metrics per target every 15s, detail standard, histograms explicit, timing on, labels none
    "#);
}

#[test]
fn the_state_directory_is_the_files_own_or_the_one_that_systemd_gives() {
    let state = |file: &str, environment: &[(&str, &str)]| {
        load_text(&format!("{file}{TARGET}"), environment, Vec::new()).unwrap().state.dir
    };
    let given = ("STATE_DIRECTORY", "/var/lib/a:/var/lib/b");
    let own = ("IMAPTRACE__STATE__DIR", "/own");
    assert_eq!(state("", &[]), None);
    assert_eq!(state("", &[("STATE_DIRECTORY", "")]), None);
    assert_eq!(state("[state]\n", &[given]), Some("/var/lib/a".into()));
    assert_eq!(state("[state]\ndir = \"/file\"\n", &[given]), Some("/file".into()));
    assert_eq!(state("[state]\ndir = \"/file\"\n", &[own, given]), Some("/own".into()));
}

#[cfg(target_os = "linux")]
#[test]
fn a_state_directory_that_cannot_be_written_is_unusable_and_stops_nothing() {
    let unusable = |path: &str| {
        let config = load_text(TARGET, &[("STATE_DIRECTORY", path)], Vec::new()).unwrap();
        let details: Vec<String> = config.unusable.iter().map(ToString::to_string).collect();
        details.into_iter().filter(|details| details.contains("state.dir")).collect::<Vec<_>>()
    };
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    std::fs::write(path("file"), "").unwrap();
    assert_eq!(unusable(&path("")), Vec::<String>::new());
    std::os::unix::fs::symlink("nowhere", path("link")).unwrap();
    // Nobody may write into the last one, not even root.
    for (path, why) in [
        (path("missing/below"), "No such file or directory"),
        (path("file/below"), "Not a directory"),
        (path("link"), "No such file or directory"),
        (path("file"), "it is not a directory"),
        ("/proc/sys".to_owned(), "cannot write into /proc/sys: "),
    ] {
        let details = unusable(&path);
        assert!(
            matches!(details.as_slice(), [details] if details.contains(why) && details.starts_with("variable STATE_DIRECTORY: ")),
            "{path}: {details:?}"
        );
    }
}

#[test]
fn a_state_directory_that_the_agent_can_make_is_a_warning_wherever_it_is_given() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("state").display().to_string();
    let file = format!("[state]\ndir = \"{path}\"\n{TARGET}");
    for (text, environment) in [(&*file, &[][..]), (TARGET, &[("STATE_DIRECTORY", &*path)][..])] {
        let config = load_text(text, environment, Vec::new()).unwrap();
        let details = |problems: &[config::Problem]| problems.iter().filter(|it| it.key == "state.dir").count();
        assert_eq!((details(&config.warnings), details(&config.unusable)), (1, 0), "{:?}", config.warnings);
    }
    assert!(!home.path().join("state").exists(), "reading a configuration makes nothing");
    // A relative one is below the working directory.
    let config = load_text(TARGET, &[("STATE_DIRECTORY", "not-there-yet")], Vec::new()).unwrap();
    assert!(config.warnings.iter().any(|warning| warning.key == "state.dir"), "{:?}", config.unusable);
}

#[test]
fn the_containers_configuration_loads() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/compose/imaptrace.toml");
    let sources = Sources { file: Some(file.into()), ..Sources::default() };
    let config = config::load(&sources).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.targets.len(), 1);
    assert!(config.otlp.traces.is_some() && config.otlp.metrics.is_some());
}

#[test]
fn unusable_files_and_unset_variables_are_noted_with_their_place_and_stop_nothing() {
    let text = "[otlp]\nendpoint = \"http://localhost:4318\"\nca_file = \"not/there.pem\"\n\
                headers = { key = { file = \"/\" } }\n[defaults]\nca_file = \"/\"\n\
                [[targets]]\nname = \"a\"\nurl = \"imaps://a\"\nuser = \"u\"\npassword = { env = \"NOT_SET\" }\n\
                [[targets.accounts]]\nname = \"b\"\nuser = \"v\"\npassword = { env = \"SET\" }\n";
    let config = load_text(text, &[("SET", "planted")], Vec::new()).unwrap();
    let noted = |problems: &[config::Problem]| {
        let line = |problem: &config::Problem| match &problem.place {
            config::Place::File { at: Some((line, _)), .. } => format!("{line} {}", problem.key),
            other => other.to_string(),
        };
        problems.iter().map(line).collect::<Vec<_>>()
    };
    assert_eq!(noted(&config.unusable), ["3 otlp.ca_file", "4 otlp.headers.key.file", "6 defaults.ca_file"]);
    assert_eq!(noted(&config.unset), ["11 targets[0].password.env"]);
    assert_eq!(noted(&config.warnings), Vec::<String>::new());
}

#[test]
fn what_has_no_effect_in_server_events_is_a_warning_and_events_do_not_loop() {
    let sender = "[[server_events.senders]]\nname = \"a\"\nsecret = { env = \"SET\" }\n";
    let warned = |table: &str, more: &str| {
        let config =
            load_text(&format!("{TARGET}[server_events]\n{table}{more}"), &[("SET", "x")], Vec::new()).unwrap();
        let own = |problem: &&config::Problem| problem.key.starts_with("server_events");
        config.warnings.iter().filter(own).map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    let text = warned("wait = \"2s\"\nservice_name = \"x\"\ncert = \"c\"\nkey = \"k\"\n", "");
    for key in ["wait", "service_name", "cert", "key"] {
        assert!(text.contains(&format!("server_events.{key}: it has no effect without listen")), "{text}");
    }
    let listen = "listen = \"127.0.0.1:8144\"\n";
    let text = warned(listen, &format!("{sender}targets = [\"mail01\", \"mial02\"]\n"));
    assert!(text.contains("no target is called \"mial02\""), "{text}");
    assert_eq!(warned(listen, &format!("{sender}targets = [\"mail*\"]\n")), "");
    let forwards = |listen: &str, to: &str| {
        let text = format!(
            "[server_events]\nlisten = \"{listen}\"\nforward = \"{to}\"\nsecret = {{ env = \"SET\" }}\n\
             cert = \"/c\"\nkey = \"/k\"\n{sender}"
        );
        let problems = load_text(&text, &[("SET", "x")], Vec::new()).err().map(|problems| problems.to_string());
        problems.is_some_and(|text| text.contains("events would loop"))
    };
    assert!(forwards("127.0.0.1:8144", "http://127.0.0.1:8144/dovecot"));
    assert!(forwards("0.0.0.0:8144", "https://localhost:8144/dovecot"));
    assert!(!forwards("127.0.0.1:8144", "http://127.0.0.1:8145/dovecot"));
    assert!(!forwards("127.0.0.1:8144", "https://central.example.org:8144/dovecot"));
}

#[test]
fn a_short_interval_in_the_defaults_is_said_once_and_there() {
    let text = format!(
        "[otlp]\nendpoint = \"http://localhost:4318\"\n[defaults]\ninterval = \"5s\"\ntimeout = \"4s\"\n{TARGET}{}",
        TARGET.replace("mail01", "mail02")
    );
    let config = load_text(&text, &[], Vec::new()).unwrap();
    let warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains(":4:1: defaults.interval: a login every 5s"), "{warnings:?}");
}

#[test]
fn a_deadline_that_the_timeout_comes_before_is_a_warning_where_it_stands() {
    let text = format!(
        "[otlp]\nendpoint = \"http://localhost:4318\"\n[defaults.deadlines]\nconnect = \"40s\"\ntls = \"30s\"\n\
         {TARGET}timeout = \"10s\"\n[targets.deadlines]\ntls = \"2s\"\ncommand = \"11s\"\n{}",
        TARGET.replace("mail01", "mail02")
    );
    let config = load_text(&text, &[], Vec::new()).unwrap();
    let warnings: Vec<String> =
        config.warnings.iter().map(|warning| format!("{}: {}", warning.key, warning.what)).collect();
    insta::assert_snapshot!(warnings.join("\n"), @r"
    defaults.deadlines.connect: it is longer (40s) than the timeout of the run (30s), which ends it before
    targets[0].deadlines.command: it is longer (11s) than the timeout of the run (10s), which ends it before
    ");
}

#[test]
fn a_limit_on_responses_that_a_fetch_cannot_keep_is_a_warning() {
    let text = |newest: u32| {
        format!("[otlp]\nendpoint = \"http://localhost:4318\"\n[limits]\nresponses = 100\n{TARGET}newest = {newest}\n")
    };
    assert_eq!(load_text(&text(100), &[], Vec::new()).unwrap().warnings, Vec::new());
    let warnings = load_text(&text(101), &[], Vec::new()).unwrap().warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].to_string().contains("limits.responses: mail01 fetches 101 messages"), "{warnings:?}");
}

#[test]
fn with_a_certificate_for_a_login_no_password_is_loaded_and_a_mistyped_auth_is_the_one_problem() {
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str| files.path().join(name).display().to_string();
    for name in ["c.pem", "c.key"] {
        std::fs::write(path(name), "").unwrap();
    }
    let pair = format!("client_cert = {:?}\nclient_key = {:?}\n", path("c.pem"), path("c.key"));
    let target = |auth: &str, more: &str| {
        let text = format!(
            "[otlp]\nendpoint = \"http://localhost:4318\"\n[[targets]]\nname = \"a\"\nurl = \"imaps://a\"\nuser = \"u\"\n\
             auth = \"{auth}\"\n{pair}{more}"
        );
        load_text(&text, &[], Vec::new())
    };
    let config = target("external", "password = { command = [\"never\"] }\n").unwrap();
    assert_eq!(config.targets[0].accounts[0].password, SecretSource::Nowhere);
    let warnings: Vec<&str> = config.warnings.iter().map(|warning| warning.key.as_str()).collect();
    assert_eq!(warnings, ["targets[0].password"]);
    for password in ["", "password = { command = [\"never\"] }\n"] {
        let problems = target("External", password).unwrap_err();
        assert_eq!((problems.errors.len(), problems.warnings.len()), (1, 0), "{problems}");
    }
    let problems = target("External", "").unwrap_err();
    assert!(problems.to_string().contains("did you mean \"external\"?"), "{problems}");
}

#[test]
fn a_mistyped_endpoint_is_not_also_a_missing_one() {
    let text = format!("[otlp]\nendpont = \"http://localhost:4318\"\n{TARGET}");
    let problems = load_text(&text, &[], Vec::new()).unwrap_err();
    assert_eq!((problems.errors.len(), problems.warnings.len()), (1, 0), "{problems}");
}

#[test]
fn errors_of_the_command_line_name_its_own_flags_and_a_mistyped_server() {
    let flag = |key: &str, value: &str, name: &str| Flag { key: key.into(), value: value.into(), name: name.into() };
    let request = |server: &str| config::Probe {
        server: server.to_owned(),
        flags: vec![
            flag("target.user", "u", "--user"),
            flag("target.password.env", "P", "--password-env"),
            flag("target.insecure", "true", "--insecure"),
        ],
        ..config::Probe::default()
    };
    let insecure = config::probe(&request("imaps://mail02")).unwrap().warnings;
    assert!(insecure[0].to_string().contains("with --ca-file"), "{insecure:?}");
    let mut alone = request("imaps://mail02");
    alone.flags.push(flag("target.client_cert", "/dev/null", "--client-cert"));
    let problems = config::probe(&alone).unwrap_err().to_string();
    assert!(problems.contains("--client-cert: there is no --client-key with it"), "{problems}");
    let problems = config::probe(&request("imap//mail02")).unwrap_err().to_string();
    assert!(
        problems.contains("SERVER: it cannot be used") && problems.contains("did you mean imap://mail02?"),
        "{problems}"
    );
}

const FLEET: &str = r#"
[[groups]]
name = "fleet"
user = "probe-{name}@example.org"
password = { file = "/run/secrets/{name}", insecure_mode = true }
labels = { rack = "a3", where = "{host}" }
interval = "90s"
mailbox = "Probe"
"#;

/// Name, group, endpoint, security, user and password of each target.
fn lines(config: &Config) -> String {
    let line = |target: &Target| {
        let account = &target.accounts[0];
        let group = target.group.as_deref().unwrap_or("-");
        let password = match &account.password {
            SecretSource::File { path, .. } => path.display().to_string(),
            other => format!("{other:?}"),
        };
        let (security, user) = (target.security.as_str(), account.user.expose());
        format!("{} {group} {} {security} {user} {password}", target.name, target.endpoint)
    };
    config.targets.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_group_makes_a_target_of_each_text_that_its_templates_stand_for() {
    let file = format!(
        "[defaults]\nnewest = 7\nmailbox = \"INBOX\"\n{TARGET}{FLEET}\
         targets = [\"mail{{09..11}}.example.org\", \"[2001:db8::7]:1993\", \"{{a,b}}:993\"]\n\
         [[groups.accounts]]\nname = \"big\"\nuser = \"big@{{host}}\"\n\
         password = {{ command = [\"pass\", \"{{host}}\", \"{{print}}\"] }}\n\
         [[groups]]\nname = \"old\"\ntargets = [\"old{{1..2}}\"]\nurl = \"imap://probe@{{host}}.example.org:1143/Shared\"\n\
         password = {{ env = \"OLD\" }}\n"
    );
    let config = load_text(&file, &[("OLD", "")], Vec::new()).unwrap();
    insta::assert_snapshot!(lines(&config), @r#"
    mail01 - mail01.example.org:993 tls probe@example.org /run/secrets/mail01
    mail09.example.org fleet mail09.example.org:993 tls probe-mail09.example.org@example.org /run/secrets/mail09.example.org
    mail10.example.org fleet mail10.example.org:993 tls probe-mail10.example.org@example.org /run/secrets/mail10.example.org
    mail11.example.org fleet mail11.example.org:993 tls probe-mail11.example.org@example.org /run/secrets/mail11.example.org
    [2001:db8::7]:1993 fleet [2001:db8::7]:1993 tls probe-[2001:db8::7]:1993@example.org /run/secrets/[2001:db8::7]:1993
    a:993 fleet a:993 tls probe-a:993@example.org /run/secrets/a:993
    b:993 fleet b:993 tls probe-b:993@example.org /run/secrets/b:993
    old1 old old1.example.org:1143 starttls probe Env("OLD")
    old2 old old2.example.org:1143 starttls probe Env("OLD")
    "#);
    let nine = &config.targets[1];
    assert_eq!((nine.interval.as_secs(), nine.journey.newest, nine.journey.mailbox.as_str()), (90, 7, "Probe"));
    assert_eq!(config.targets[7].journey.mailbox.as_str(), "Shared");
    assert_eq!(nine.labels["rack"], "a3");
    assert_eq!(
        (nine.labels["where"].as_str(), config.targets[4].labels["where"].as_str()),
        ("mail09.example.org", "2001:db8::7")
    );
    let big = &nine.accounts[1];
    assert_eq!((big.alias.as_str(), big.user.expose()), ("big", "big@mail09.example.org"));
    let SecretSource::Command(words) = &big.password else { panic!("{big:?}") };
    assert_eq!(words, &["pass", "mail09.example.org", "{print}"]);
}

#[test]
fn a_group_of_many_is_one_paragraph_of_the_plan() {
    let file = format!("{FLEET}targets = [\"mail{{001..120}}.example.org\"]\n[metrics]\nper = \"group\"\n");
    let windows = "[[windows]]\nname = \"patches\"\ndays = [\"tue\", \"sat\"]\nfrom = \"22:00\"\nto = \"04:30\"\n\
                   time_zone = \"Europe/Berlin\"\ntargets = [\"mail0*\"]\n\
                   [[windows]]\nname = \"move\"\nfrom = \"2026-12-01T22:00:00+01:00\"\nto = \"2026-12-02T04:00:00+01:00\"\n\
                   [[windows]]\nname = \"sundays\"\ndays = [\"sun\"]\nlabels = { rack = \"b*\" }\n";
    let config = load_text(&format!("{file}{windows}"), &[], Vec::new()).unwrap();
    let text = config::describe(&config);
    let until_export: Vec<&str> = text.lines().take_while(|line| *line != "export").collect();
    insta::assert_snapshot!(until_export.join("\n"), @r#"
    targets: 120, accounts: 120
    groups: 1, maintenance windows: 3
    series in Prometheus, each a sample in every scrape: up to 169 while all runs pass, 290 with failures (limit 1000000)
      span_metrics in otel-collector.yaml, if switched on: up to 28080 and 51840 more
      rules for these histograms: deploy/prometheus/rules
    runs in flight: at most 256, on one server 8
    logins per second: no limit, on one server 10; a run waits 1s for its turn

    group fleet: 120 targets, from mail001.example.org to mail120.example.org; the first one:
      server      mail001.example.org:993, security tls, address any
      account     default, password from file /run/secrets/mail001.example.org
      labels      rack="a3", where="mail001.example.org"
      journey     first-load: SELECT "Probe", newest 20, window newest, cold off, auth auto, tag span_id, propagate off, empty mailbox fails
      interval    90s, timeout 30s
      deadlines   resolve 5s, connect 5s, tls 5s, greeting 20s, command 20s, write 10s, logout 1s
      limits      line 64KiB, command 64MiB, run 256MiB, responses 100000, depth 32, literal kept 4KiB

    windows
      patches: Tuesday, Saturday, 22:00 to 04:30, Europe/Berlin; targets: 99
      move: once, 2026-12-01T21:00:00Z to 2026-12-02T03:00:00Z; targets: 120
      sundays: Sunday, 00:00 to 24:00, UTC; targets: 0
    "#);
    let warned: Vec<String> =
        config.warnings.iter().map(|warning| format!("{}: {}", warning.key, warning.what)).collect();
    assert!(warned.contains(&"windows[2]: the window is for none of the targets".to_owned()), "{warned:?}");
}

/// What an operator has lying there for Prometheus's blackbox exporter, and what imaptrace takes beside.
fn write_targets(directory: &Path) {
    std::fs::write(
        directory.join("a.json"),
        r#"[{"targets": ["mail01.example.org:993", "mail02.example.org:1993"],
            "labels": {"job": "imap", "dc": "", "__param_module": "imap_starttls", "rack": "b1"}},
           {"targets": [], "labels": {}}]"#,
    )
    .unwrap();
    std::fs::write(
        directory.join("b.yaml"),
        "# by a script\n- targets: [mail03.example.org, 'imaps://own:planted@mail04.example.org/Own']\n  \
         labels: {rack: 7, __imaptrace_group__: old}\n- targets:\n  - 192.0.2.7:143\n  labels:\n    \
         __imaptrace_group__: old\n    __imaptrace_name__: 'ip-{host}'\n- targets: ['[2001:db8::7]']\n",
    )
    .unwrap();
    std::fs::write(directory.join(".c.yaml.swp"), "being written").unwrap();
    std::fs::write(directory.join("notes.txt"), "no targets").unwrap();
}

#[test]
fn files_for_prometheus_make_targets_of_the_group_that_they_or_the_configuration_name() {
    let directory = tempfile::tempdir().unwrap();
    write_targets(directory.path());
    let pattern = |name: &str| directory.path().join(name).display().to_string();
    let file = format!(
        "{FLEET}targets_from = [\"{}\", \"{}\", \"{}\"]\n\
         [[groups]]\nname = \"old\"\nsecurity = \"starttls\"\nuser = \"probe\"\npassword = {{ env = \"OLD\" }}\n",
        pattern("*.json"),
        pattern("b*.yaml"),
        pattern("a*.json"),
    );
    let config = load_text(&file, &[("OLD", "")], Vec::new()).unwrap();
    insta::assert_snapshot!(lines(&config), @r#"
    mail01.example.org fleet mail01.example.org:993 tls probe-mail01.example.org@example.org /run/secrets/mail01.example.org
    mail02.example.org:1993 fleet mail02.example.org:1993 tls probe-mail02.example.org:1993@example.org /run/secrets/mail02.example.org:1993
    mail03.example.org old mail03.example.org:143 starttls probe Env("OLD")
    mail04.example.org old mail04.example.org:993 tls own Given([secret])
    ip-192.0.2.7 old 192.0.2.7:143 starttls probe Env("OLD")
    2001:db8::7 fleet [2001:db8::7]:993 tls probe-2001:db8::7@example.org /run/secrets/2001:db8::7
    "#);
    let labels = |index: usize| {
        let pairs = config.targets[index].labels.iter().map(|(key, value)| format!("{key}={value}"));
        pairs.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(labels(0), "job=imap rack=b1 where=mail01.example.org");
    assert_eq!(labels(2), "rack=7");
    assert_eq!(config.targets[3].journey.mailbox.as_str(), "Own");
    let watched: Vec<_> = config.watched.iter().filter_map(|path| path.strip_prefix(directory.path()).ok()).collect();
    assert_eq!(watched, ["", "a.json", "b.yaml"].map(Path::new));
    assert!(config.watched.iter().any(|path| path.ends_with("imaptrace.toml")));
}

#[test]
fn a_directory_that_is_still_empty_is_a_warning_and_a_file_that_is_too_large_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| format!("targets_from = [\"{}/{name}\"]\n{TARGET}", directory.path().display());
    let config = load_text(&file("*.json"), &[], Vec::new()).unwrap();
    let given = ("IMAPTRACE__TARGETS_FROM", "not/there.json, not/here.yml");
    let problems = load_text(&file("*.json"), &[given], Vec::new()).unwrap_err();
    let details: Vec<String> = problems.errors.iter().map(ToString::to_string).collect();
    assert!(
        details[0].starts_with("variable IMAPTRACE__TARGETS_FROM: targets_from: cannot read not/there.json"),
        "{details:?}"
    );
    // What is wrong may be mended there.
    assert!(problems.watched.contains(&"not/there.json".into()) && problems.watched.contains(&"not/here.yml".into()));
    assert!(config.warnings.iter().any(|warning| warning.what == "there is no such file yet"), "{:?}", config.warnings);
    assert!(config.watched.contains(&directory.path().to_owned()));
    let large = std::fs::File::create(directory.path().join("large.json")).unwrap();
    large.set_len((16 << 20) + 1).unwrap();
    let problems = load_text(&file("large.json"), &[], Vec::new()).unwrap_err().to_string();
    assert!(problems.contains("it is larger than 16MiB"), "{problems}");
}

/// A link that leads nowhere is found in its directory and is not there when it is read, as a file that is removed in between.
#[test]
fn a_file_that_is_gone_when_it_is_read_gives_no_targets_and_the_others_stay() {
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("gone", directory.path().join("a.json")).unwrap();
    std::fs::write(directory.path().join("b.json"), "[{\"targets\": [\"mail01.example.org\"]}]").unwrap();
    let file = |name: &str| format!("{FLEET}targets_from = [\"{}/{name}\"]\n", directory.path().display());
    let config = load_text(&file("*.json"), &[], Vec::new()).unwrap();
    assert_eq!(config.targets.iter().map(|target| target.name.as_str()).collect::<Vec<_>>(), ["mail01.example.org"]);
    let found: Vec<_> = config.warnings.iter().filter(|warning| warning.what.contains("a.json")).collect();
    let [warning] = found[..] else { panic!("{:?}", config.warnings) };
    assert!(warning.what.ends_with("a.json was in its directory and is gone: it gives no targets"), "{warning}");
    assert!(warning.help.as_ref().unwrap().starts_with("write files of targets beside and rename them"), "{warning}");
    // Whoever names a file means it.
    let problems = load_text(&file("a.json"), &[], Vec::new()).unwrap_err().to_string();
    assert!(problems.contains("cannot read ") && problems.contains("No such file"), "{problems}");
}

#[test]
fn a_problem_of_each_of_many_targets_is_reported_a_few_times() {
    let file = format!("{}targets = [\"mail{{001..120}}\"]\n", FLEET.replace(", insecure_mode = true", ""));
    let config = load_text(&file, &[], Vec::new()).unwrap();
    let details: Vec<&str> = config.unusable.iter().map(|problem| problem.what.as_str()).collect();
    assert_eq!(details.len(), 5, "{details:?}");
    assert!(
        details[0].contains("/run/secrets/mail001") && details[4].ends_with("(and 115 more like this)"),
        "{details:?}"
    );
}

#[test]
fn what_an_agent_alone_needs_is_read() {
    let file = format!(
        "[limits]\nruns_in_flight = 9\nruns_in_flight_per_server = 2\nlogins_per_second = 50\n\
         logins_per_second_per_server = 0\nwait = \"250ms\"\n[http]\nlisten = \"0.0.0.0:80\"\nhistory = 9\n\
         [state]\nqueue_memory = \"1MiB\"\nqueue_disk = \"2GiB\"\n{TARGET}"
    );
    let config = load_text(&file, &[("IMAPTRACE__LIMITS__RUNS_IN_FLIGHT", "7")], Vec::new()).unwrap();
    let limits = config.limits;
    assert_eq!((limits.in_flight, limits.in_flight_per_server, limits.wait.as_millis()), (7, 2, 250));
    assert_eq!((limits.logins_per_second.map(u32::from), limits.logins_per_second_per_server), (Some(50), None));
    assert_eq!((config.http.listen, config.http.history), (Some("0.0.0.0:80".parse().unwrap()), 9));
    assert_eq!((config.state.queue_memory, config.state.queue_disk), (1 << 20, 2 << 30));
    assert!(config.warnings.iter().any(|warning| warning.key == "http.listen"), "{:?}", config.warnings);
    let off = load_text(&format!("[http]\nlisten = \"off\"\n{TARGET}"), &[], Vec::new()).unwrap();
    assert_eq!(off.http.listen, None);
}

#[test]
fn a_window_is_for_the_targets_that_fit_all_it_says() {
    let file = format!(
        "{TARGET}{FLEET}targets = [\"mail{{1..3}}.example.org\"]\n[[windows]]\nname = \"w\"\nfrom = \"02:00\"\n\
         to = \"03:00\"\ntime_zone = \"Europe/Berlin\"\n"
    );
    let covered = |more: &str| {
        let config = load_text(&format!("{file}{more}"), &[], Vec::new()).unwrap();
        // 2026-11-24 01:30 UTC is half past two in Berlin.
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_483_800);
        let hit = config.targets.iter().filter(|target| config.windows[0].covers(target, at));
        assert!(!config.targets.iter().any(|target| config.windows[0].covers(target, at + Duration::from_secs(1800))));
        hit.map(|target| target.name.as_str()).collect::<Vec<_>>().join(" ")
    };
    let all = "mail01 mail1.example.org mail2.example.org mail3.example.org";
    assert_eq!(covered(""), all);
    assert_eq!(covered("targets = [\"*\"]"), all);
    assert_eq!(covered("targets = [\"mail01\", \"mail2.*\"]"), "mail01 mail2.example.org");
    assert_eq!(covered("groups = [\"fleet\"]\ntargets = [\"mail01\", \"mail2.*\"]"), "mail2.example.org");
    assert_eq!(covered("labels = { rack = \"a*\", where = \"mail3*\" }"), "mail3.example.org");
}

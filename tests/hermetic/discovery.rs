//! Targets from SRV records and from HTTP service discovery: what a source may give, what is refused, and what stays when it
//! fails.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, SystemTime},
};

use imaptrace::{
    config::{self, Sources},
    discovery::{
        CheckedAnswer, Discovered, DiscoveredEntry, DiscoveredTargets, GoodAnswer, GoodAnswers, SourceError, SourceId,
        TargetSource, ask_all,
    },
    plan::Dns,
    telemetry::names::DiscoveryRefusal,
};
use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::metrics::v1::{metric::Data, number_data_point::Value as Number};
use tokio::time::timeout;
use tokio_rustls::rustls::version::TLS13;

use crate::{
    agent::{PASSWORD, lines, otlp, roots, runtime, start, stop, value},
    command_line::{Listener, refusing},
    itself,
    reload::{reload, write},
    support::{
        names::{NXDOMAIN, NameServer, Question, truncated},
        otlp::{Inbox, Receiver, attribute},
        papers::{Authority, Front, parameters},
        program::{Program, free_port, wait_until},
        target_api::{TargetApi, json, response},
    },
};

/// A group in clear text that is asked for each second.
fn group(more: &str) -> String {
    format!(
        "[[groups]]\nname = \"fleet\"\nsecurity = \"none\"\nuser = \"someone\"\npassword = {{ env = \"PROBE\" }}\n\
         interval = \"300ms\"\ntimeout = \"250ms\"\nrefresh = \"1s\"\n{more}\n"
    )
}

fn http(api: &TargetApi) -> String {
    format!("hosts = [\"127.0.0.1\"]\ntargets_from_http = {{ url = \"{}\" }}", api.url())
}

fn listed(targets: &[impl ToString]) -> String {
    let targets: Vec<_> = targets.iter().map(ToString::to_string).collect();
    serde_json::json!([{ "targets": targets }]).to_string()
}

/// The sources of this configuration.
fn sources(text: &str) -> Vec<TargetSource> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("imaptrace.toml");
    fs::write(&file, text).unwrap();
    let config = config::load(&Sources { file: Some(file), ..Sources::default() });
    config.unwrap_or_else(|problems| panic!("{problems}")).sources
}

async fn ask(text: &str, dns: &Dns) -> Result<CheckedAnswer, SourceError> {
    let sources = sources(text);
    assert_eq!(sources.len(), 1);
    ask_all(&sources, dns).await.into_values().next().unwrap()
}

fn targets(answer: &CheckedAnswer) -> Vec<&str> {
    answer.targets.0.iter().flat_map(|entry| entry.targets.iter().map(String::as_str)).collect()
}

/// The value of a gauge of the newest source, and of this refusal if one is given.
fn gauge(inbox: &Inbox, name: &str, refusal: Option<&str>) -> Option<f64> {
    let metrics = inbox.metrics();
    let Some(Data::Gauge(gauge)) = &metrics.get(name)?.data else { return None };
    let point = gauge.data_points.iter().rev().find(|point| {
        assert_eq!(attribute(&point.attributes, "imaptrace.discovery.group").as_deref(), Some("fleet"));
        attribute(&point.attributes, "imaptrace.discovery.refusal").as_deref() == refusal
    })?;
    Some(match point.value? {
        Number::AsInt(number) => f64::from(i32::try_from(number).unwrap()),
        Number::AsDouble(number) => number,
    })
}

#[test]
fn targets_of_a_source_are_probed_with_their_groups_login_and_a_vanished_one_ends_its_run_first() {
    let receiver = Receiver::http();
    let runtime = runtime();
    let (agent, api, mut stays, mut stuck) = runtime.block_on(async {
        let (stays, stuck) = (Listener::willing().await, Listener::silent_at("LIST").await);
        let body = serde_json::json!([
            { "targets": [stays.address.to_string()], "labels": { "rack": "a1", "__meta_zone": "z", "none": "" }, "source": "x" },
            { "targets": [stuck.address.to_string()], "labels": { "__imaptrace_name__": "stuck" } },
        ]);
        let api = TargetApi::start(move |_| Some(json(&body.to_string()))).await;
        let group = group(&http(&api)).replace("300ms", "3s").replace("250ms", "2900ms");
        (start(&(otlp(&receiver.url(), "http/protobuf") + &group)), api, stays, stuck)
    });
    let mut agent = agent;
    runtime.block_on(async {
        let line = agent.stderr_line("configuration reloaded").await;
        assert!(
            line.contains("\"added\":2") && line.contains("the answer of a source of targets has changed"),
            "{line}"
        );
        stays.wait_for_command("LOGOUT", 1).await;
        let before = stuck.count("LIST");
        stuck.wait_for_command("LIST", before + 1).await;
        api.targets(listed(&[stays.address]));
        let line = agent.stderr_line("targets removed").await;
        assert!(line.contains("\"names\":\"stuck\""), "{line}");
    });
    // The run that was under way waits for its own deadline, and logs out.
    let of = |inbox: &Inbox, name: &str| -> Vec<_> {
        roots(inbox).into_iter().filter(|root| value(root, "imaptrace.target.name") == name).collect()
    };
    receiver.wait(|inbox| {
        let runs = of(inbox, "stuck").len();
        runs > 0 && runs == stuck.count("LIST")
    });
    receiver.look(|inbox| {
        let stuck = of(inbox, "stuck");
        assert!(stuck.iter().all(|root| value(root, "error.type") == "timeout_command"), "{stuck:?}");
        let stays = of(inbox, &stays.address.to_string());
        let labels = |key: &str| attribute(&stays[0].attributes, &format!("imaptrace.label.{key}"));
        assert_eq!([labels("rack"), labels("__meta_zone"), labels("none")], [Some("a1".to_owned()), None, None]);
    });
    receiver.wait(|inbox| gauge(inbox, "imaptrace.discovery.targets", None) == Some(1.0));
    receiver.look(|inbox| {
        assert_eq!(gauge(inbox, "imaptrace.discovery.failing", None), Some(0.0));
        assert!(gauge(inbox, "imaptrace.discovery.last_success.time", None).unwrap() > 1.7e9);
        assert_eq!(gauge(inbox, "imaptrace.discovery.refused", None), None);
    });
    let before = stuck.count("LOGIN");
    runtime.block_on(async {
        let runs = stays.count("LOGOUT");
        stays.wait_for_command("LOGOUT", runs + 2).await;
        stop(agent, Signal::SIGTERM).await;
    });
    assert_eq!(stuck.count("LOGIN"), before, "it is still probed");
}

#[test]
fn an_agent_whose_sources_give_nothing_yet_is_ready_and_says_what_fails() {
    let receiver = Receiver::http();
    let runtime = runtime();
    let (held, port) = refusing();
    let mut agent = runtime.block_on(async {
        let status = free_port();
        let source =
            format!("hosts = [\"127.0.0.1\"]\ntargets_from_http = {{ url = \"http://{port}/t?key=planted-7\" }}");
        let http = format!("[http]\nlisten = \"127.0.0.1:{status}\"\n");
        let mut agent = start(&(http + &otlp(&receiver.url(), "http/protobuf") + &group(&source)));
        let line = agent.stderr_line("a source gives no targets").await;
        for part in ["cannot connect: Connection refused", "group fleet", &format!("http://{port}/t "), "see whether"] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
        let is_ready = async { while itself::get(([127, 0, 0, 1], status).into(), "/ready").await.0 != 200 {} };
        timeout(Duration::from_secs(60), is_ready).await.expect("it is not ready without a target");
        agent
    });
    receiver.wait(|inbox| gauge(inbox, "imaptrace.discovery.failing", None) == Some(1.0));
    receiver.look(|inbox| assert_eq!(gauge(inbox, "imaptrace.discovery.last_success.time", None), None));
    drop(held);
    // The source comes up at last.
    let (output, _) = runtime.block_on(async {
        let mut server = Listener::willing().await;
        let api = TargetApi::start(|_| None).await;
        api.targets(listed(&[server.address]));
        let config = otlp(&receiver.url(), "http/protobuf") + &group(&http(&api));
        reload(&mut agent, &config).await;
        server.wait_for_command("LOGOUT", 1).await;
        stop(agent, Signal::SIGTERM).await
    });
    assert!(!output.stderr.contains("planted-7"), "{output:?}");
    receiver.wait(|inbox| gauge(inbox, "imaptrace.discovery.failing", None) == Some(0.0));
}

#[test]
fn the_kept_answer_is_probed_at_a_start_while_the_source_is_away() {
    let runtime = runtime();
    let state = tempfile::tempdir().unwrap();
    let with_state = |config: &str| format!("[state]\ndir = \"{}\"\n{config}", state.path().display());
    runtime.block_on(async {
        let (mut server, other) = (Listener::willing().await, Listener::willing().await);
        let body = format!(
            "[{{\"targets\": [\"{}\"], \"labels\": {{\"rack\": \"a1\"}}}}, {{\"targets\": [\"localhost:{}\"]}}]",
            server.address,
            other.address.port()
        );
        let api = TargetApi::start(move |_| Some(json(&body))).await;
        let config = with_state(&group(&http(&api).replace("[\"127.0.0.1\"]", "[\"127.0.0.1\", \"localhost\"]")));
        let mut agent = start(&config);
        agent.stderr_line("configuration reloaded").await;
        server.wait_for_command("LOGOUT", 1).await;
        let file = state.path().join("discovered.json");
        tokio::task::block_in_place(|| wait_until("the answer is kept", || fs::read_to_string(&file).ok()));
        stop(agent, Signal::SIGTERM).await;
        let kept = fs::read_to_string(&file).unwrap();
        assert!(kept.starts_with("{\"version\":1,") && kept.contains("\"rack\":\"a1\""), "{kept}");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        // The source is away, and `hosts` no longer has one of the two.
        drop(api);
        let (before, logins) = (server.count("LOGOUT"), other.count("LOGIN"));
        let mut agent = start(&config.replace(", \"localhost\"]", "]"));
        let line = agent.stderr_line("the targets that sources gave before are probed").await;
        assert!(line.contains("\"targets\":1"), "{line}");
        let line = agent.stderr_line("imaptrace is up").await;
        assert!(line.contains("\"targets\":1"), "{line}");
        agent.stderr_line("a source gives no targets").await;
        server.wait_for_command("LOGOUT", before + 2).await;
        assert_eq!(other.count("LOGIN"), logins, "a host outside `hosts` got the password");
        stop(agent, Signal::SIGTERM).await;
        // A damaged file is moved aside, and the agent starts.
        fs::write(&file, "{\"version\":1,").unwrap();
        let mut agent = start(&config);
        let line = agent.stderr_line("were moved aside").await;
        assert!(line.contains("discovered.json.damaged") && line.contains("it is damaged, line 1"), "{line}");
        agent.stderr_line("imaptrace is up").await;
        stop(agent, Signal::SIGTERM).await;
    });
}

#[test]
fn an_answer_that_has_lost_most_targets_is_not_taken_unless_the_group_may_shrink() {
    let receiver = Receiver::http();
    let runtime = runtime();
    let (mut agent, api, mut server, config) = runtime.block_on(async {
        let server = Listener::willing().await;
        let port = server.address.port();
        let all: Vec<_> = (1..=5).map(|host| format!("127.0.0.{host}:{port}")).collect();
        let api = TargetApi::start(|_| None).await;
        api.targets(listed(&all));
        let config =
            otlp(&receiver.url(), "http/protobuf") + &group(&http(&api).replace("127.0.0.1\"]", "127.0.0.*\"]"));
        let mut agent = start(&config);
        let line = agent.stderr_line("configuration reloaded").await;
        assert!(line.contains("\"added\":5"), "{line}");
        api.targets(listed(&all[..2]));
        let line = agent.stderr_line("a source gives no targets").await;
        for part in ["its answer has 2 targets, under half of the 5 before", "shrink = true", "\"kept\":5"] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
        (agent, api, server, config)
    });
    receiver.wait(|inbox| gauge(inbox, "imaptrace.discovery.failing", None) == Some(1.0));
    receiver.look(|inbox| assert_eq!(gauge(inbox, "imaptrace.discovery.targets", None), Some(5.0)));
    runtime.block_on(async {
        api.targets("[]".to_owned());
        let line = agent.stderr_line("a source gives no targets").await;
        assert!(line.contains("its answer has no target that may be probed"), "{line}");
        // Three of five may go.
        let port = server.address.port();
        api.targets(listed(&[format!("127.0.0.1:{port}"), format!("127.0.0.2:{port}"), format!("127.0.0.3:{port}")]));
        agent.stderr_line("the source of targets gives targets again").await;
        let line = agent.stderr_line("configuration reloaded").await;
        assert!(line.contains("\"removed\":2"), "{line}");
        api.targets("[]".to_owned());
        agent.stderr_line("its answer has no target").await;
        let before = server.count("LOGOUT");
        server.wait_for_command("LOGOUT", before + 3).await;
        write(agent.home(), &config.replace("refresh", "shrink = true\nrefresh"));
        let line = agent.stderr_line("targets removed").await;
        assert!(line.contains("127.0.0.1:") && line.contains("127.0.0.3:"), "{line}");
        stop(agent, Signal::SIGTERM).await;
    });
    receiver.wait(|inbox| gauge(inbox, "imaptrace.discovery.targets", None) == Some(0.0));
}

#[test]
fn what_may_not_be_probed_is_refused_by_itself_and_named_and_the_others_are_probed() {
    let receiver = Receiver::http();
    let runtime = runtime();
    let (output, log) = runtime.block_on(async {
        let (mut server, foreign) = (Listener::willing().await, Listener::willing().await);
        let good = server.address;
        let outside = format!("localhost:{}", foreign.address.port());
        let body = format!(
            "[{{\"targets\": [\"{good}\", 7, \"{outside}\", \"imap://u:planted-9@{good}\", \"a b\", \"127.0.0.1:0\"]}}, 5, \
             {{\"labels\": {{}}}}, {{\"targets\": \"127.0.0.1\"}}, \
             {{\"targets\": [\"127.0.0.1:5\"], \"labels\": {{\"rack\": 7}}}}, \
             {{\"targets\": [\"127.0.0.1:{}\"], \"labels\": {{\"__imaptrace_group__\": \"other\"}}}}, \
             {{\"targets\": [\"127.0.0.1:6\"], \"labels\": {{\"__imaptrace_name__\": \"{good}\"}}}}]",
            foreign.address.port()
        );
        let api = TargetApi::start(move |_| Some(json(&body))).await;
        let other = "[[groups]]\nname = \"other\"\nsecurity = \"none\"\nuser = \"other\"\npassword = { env = \"PROBE\" }\n\
             interval = \"300ms\"\ntimeout = \"250ms\"\ntargets = [\"127.0.0.1:1\"]\n";
        let mut agent = start(&(otlp(&receiver.url(), "http/protobuf") + &group(&http(&api)) + other));
        let line = agent.stderr_line("names some that are not probed").await;
        for part in [
            "\"count\":10",
            "[0].targets[1]: expected text, in quotes",
            "[0].targets[2]: \\\"localhost:",
            "`hosts` does not have this host",
            "[0].targets[3]: (not shown: it may hold a password): a source names HOST or HOST:PORT, and no URL",
            "[0].targets[4]: \\\"a b\\\": its host is neither a name nor an IP address",
            "[0].targets[5]: \\\"127.0.0.1:0\\\": its port is not a number from 1 to 65535",
            "[1]: expected a table with targets and labels",
            "[2]: it has no targets",
            "[3].targets: expected a list of texts",
            "[5].labels.\\\"__imaptrace_group__\\\": the targets of a source are of its group",
        ] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
        let line = agent.stderr_line("a target is not probed").await;
        assert!(line.contains("is the name of"), "{line}");
        let line = agent.stderr_line("configuration reloaded").await;
        assert!(line.contains("\"added\":1"), "{line}");
        server.wait_for_command("LOGOUT", 2).await;
        assert_eq!(foreign.count(""), 0, "a host outside of `hosts`, or another group's login, was used");
        stop(agent, Signal::SIGTERM).await
    });
    assert!(!output.stderr.contains("planted-9"), "{output:?}");
    assert_eq!(lines(&log, "configuration not reloaded").len(), 0, "{output:?}");
    let refused = |refusal| receiver.look(|inbox| gauge(inbox, "imaptrace.discovery.refused", Some(refusal)));
    let counts = ["type", "address", "host", "invalid"].map(refused);
    assert_eq!(counts, [5.0, 3.0, 1.0, 2.0].map(Some));
}

#[test]
fn an_unchanged_answer_is_asked_for_by_its_etag_and_keeps_the_targets() {
    let runtime = runtime();
    let (output, log) = runtime.block_on(async {
        let mut server = Listener::willing().await;
        let body = listed(&[server.address]);
        let mut api = TargetApi::start(move |head| {
            let is_known = head.to_ascii_lowercase().contains("\r\nif-none-match: \"v1\"\r\n");
            let etag = "ETag: \"v1\"\r\n";
            Some(if is_known { response("304 Not Modified", etag, "") } else { response("200 OK", etag, &body) })
        })
        .await;
        let agent = start(&group(&http(&api)));
        api.wait_for(2, |head| head.contains("\"v1\"")).await;
        server.wait_for_command("LOGOUT", 2).await;
        assert_eq!(api.asked().iter().filter(|head| !head.contains("\"v1\"")).count(), 1, "{:?}", api.asked());
        stop(agent, Signal::SIGTERM).await
    });
    assert_eq!(lines(&log, "configuration reloaded").len(), 1, "{output:?}");
    assert_eq!(lines(&log, "a source gives no targets").len(), 0, "{output:?}");
}

/// What the error of an answer of another form ends with.
const FORM: &str = "; it has to answer [{\"targets\": [\"HOST:PORT\"], \"labels\": {}}] (Prometheus http_sd)";

#[tokio::test]
async fn every_answer_that_is_none_is_an_error_that_says_what_to_do() {
    let api = TargetApi::start(|_| None).await;
    let text = group(&http(&api).replace(" }", ", timeout = \"300ms\" }"));
    let error = async || ask(&text, &Dns::default()).await.unwrap_err().to_string();
    assert_eq!(
        error().await,
        "there is no whole answer within 300ms; see whether the server is overloaded, or make timeout longer"
    );
    let text = text.replace("300ms\" }", "60s\" }");
    let elsewhere = format!("http://localhost:{}", api.address.port());
    let mut large = json("");
    large.splice(0.., b"HTTP/1.1 200 OK\r\nContent-Length: 16777217\r\n\r\n".iter().copied());
    let mut growing = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n[".to_vec();
    growing.resize(growing.len() + (16 << 20), b' ');
    for (answer, expected) in [
        (response("500 Oops", "", ""), "it answers HTTP 500: see its server's log".to_owned()),
        (response("401 No", "", ""), "it answers HTTP 401: check user and password, or bearer".to_owned()),
        (
            response("304 Not Modified", "", ""),
            "it answers HTTP 304, although nothing was known before: see its server".to_owned(),
        ),
        (response("204 No Content", "", ""), "it answers HTTP 204: see its server's log".to_owned()),
        (
            response("302 Found", &format!("Location: {elsewhere}/t?key=planted\r\n"), ""),
            format!(
                "it redirects to {elsewhere}, which is not followed since it may be another's; write that address in url"
            ),
        ),
        (
            response("302 Found", "Location: /again\r\n", ""),
            "it redirects more than 5 times; write the last address in url".to_owned(),
        ),
        (large, "its answer is larger than 16MiB; share the targets out over several URLs".to_owned()),
        (growing, "its answer is larger than 16MiB; share the targets out over several URLs".to_owned()),
        (json("{}"), format!("it is not a JSON list{FORM}")),
        (json("[{\"targets\": [\"a\"]}"), format!("it is not JSON: EOF while parsing a list, line 1, column 19{FORM}")),
        (
            json("[]"),
            "its answer has no target that may be probed; if that is meant, set shrink = true in its group".to_owned(),
        ),
    ] {
        api.set(move |_| Some(answer.clone()));
        let error = ask(&text, &Dns::default()).await.unwrap_err().to_string();
        assert_eq!(error, expected);
    }
    // A body that ends before its length.
    api.set(|_| Some(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n[".to_vec()));
    let error = ask(&text, &Dns::default()).await.unwrap_err().to_string();
    assert!(error.starts_with("the request failed: "), "{error}");
    // On the same host it is followed.
    api.set(|head| {
        let is_first = head.starts_with("GET /targets ");
        let moved = response("301 Moved", "Location: /new\r\n", "");
        Some(if is_first { moved } else { json("[{\"targets\": [\"127.0.0.1:7\"]}]") })
    });
    assert_eq!(targets(&ask(&text, &Dns::default()).await.unwrap()), ["127.0.0.1:7"]);
}

#[tokio::test]
async fn over_tls_the_server_is_checked_and_gets_the_credentials() {
    let api = TargetApi::start(|_| Some(json("[{\"targets\": [\"a.example.org\"]}]"))).await;
    let (authority, other) = (Authority::root(), Authority::root_named("another root"));
    let front = Front::start(&authority.issue(&parameters("sd", &["localhost"])), &[&TLS13], &[], api.address).await;
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret");
    fs::write(&secret, "planted-3f").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let text = |host: &str, ca_file: &Path, credentials: &str| {
        let (url, ca_file) = (format!("https://{host}:{}/t?team=mail", front.address.port()), ca_file.display());
        let secret = secret.display();
        let source = format!("url = \"{url}\"\nca_file = \"{ca_file}\"\n{credentials} = {{ file = \"{secret}\" }}");
        group("hosts = [\"*.example.org\"]") + "[[groups.targets_from_http]]\n" + &source
    };
    let (root, foreign) = (authority.file(), other.file());
    for (credentials, expected) in [
        ("bearer", "authorization: bearer planted-3f\r\n"),
        ("user = \"me\"\npassword", "authorization: basic bwu6cgxhbnrlzc0zzg==\r\n"),
    ] {
        let text = text("localhost", root.path(), credentials);
        let answer = ask(&text, &Dns::default()).await.unwrap();
        assert_eq!(targets(&answer), ["a.example.org"]);
        let head = api.asked().pop().unwrap().to_ascii_lowercase();
        assert!(head.contains("get /t?team=mail http/1.1\r\n") && head.contains(expected), "{head}");
    }
    let asked = api.asked().len();
    let error = ask(&text("localhost", foreign.path(), "bearer"), &Dns::default()).await.unwrap_err();
    assert!(matches!(error, SourceError::Certificate(_)), "{error:?}");
    assert!(error.to_string().ends_with("give the roots to trust in ca_file"), "{error}");
    // The certificate is of another name.
    let error = ask(&text("127.0.0.1", root.path(), "bearer"), &Dns::default()).await.unwrap_err();
    assert!(matches!(error, SourceError::Certificate(_)), "{error:?}");
    let error = ask(&text("localhost", &secret, "bearer"), &Dns::default()).await.unwrap_err().to_string();
    assert!(error.starts_with("cannot read the roots in ") && !error.contains("planted"), "{error}");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    let error = ask(&text("localhost", root.path(), "bearer"), &Dns::default()).await.unwrap_err();
    assert!(matches!(error, SourceError::Secret(_)), "{error:?}");
    assert_eq!(api.asked().len(), asked, "the credentials went to a server that was not accepted");
}

/// A group that asks for the services of example.org.
fn srv(more: &str) -> String {
    group(&format!("hosts = [\"*.example.org\", \"*.localhost\"]\ntargets_from_srv = [\"Example.ORG.\"]\n{more}"))
}

#[tokio::test]
async fn the_hosts_of_a_service_are_its_targets_whatever_their_priority() {
    let names = NameServer::start(|question| {
        let hosts =
            [("Mail2.example.org", 1993), ("mail1.example.org", 993), ("mail1.example.org", 993), ("evil.test", 993)];
        let port = [("mail3.example.org", 0)];
        vec![match (question.name.as_str(), question.tcp) {
            ("_imaps._tcp.example.org", false) => truncated(question),
            ("_imaps._tcp.example.org", true) => question.alias("_imaps._tcp.example.net"),
            ("_imaps._tcp.example.net", _) => question.services(&[&hosts[..], &port[..]].concat()),
            _ => question.answer(NXDOMAIN, &[]),
        }]
    })
    .await;
    let tls = srv("").replace("security = \"none\"\n", "");
    let answer = ask(&tls, &names.dns()).await.unwrap();
    assert_eq!(targets(&answer), ["mail1.example.org:993", "mail2.example.org:1993"]);
    let counts: Vec<_> = answer.refused.counts.into_iter().collect();
    assert_eq!(counts, [(DiscoveryRefusal::Address, 1), (DiscoveryRefusal::Host, 1)]);
    assert!(names.asked().iter().all(Question::is_srv), "{:?}", names.asked());
    // With STARTTLS and in clear text it is the other service.
    for security in ["none", "starttls"] {
        let error = ask(&srv("").replace("\"none\"", &format!("{security:?}")), &names.dns()).await.unwrap_err();
        assert!(matches!(error, SourceError::NoRecord), "{error:?}");
        assert_eq!(names.asked().pop().unwrap().name, "_imap._tcp.example.org");
    }
}

#[tokio::test]
async fn a_service_that_points_to_nothing_is_an_error_that_says_so() {
    let declined = NameServer::start(|question| vec![question.services(&[("", 0)])]).await;
    let none = NameServer::start(|question| vec![question.services(&[])]).await;
    let silent = NameServer::start(|_| Vec::new()).await;
    let text = srv("");
    let error = async |dns: Dns| ask(&text, &dns).await.unwrap_err().to_string();
    assert_eq!(
        error(declined.dns()).await,
        "its SRV record has the target \".\": the domain has no such service (RFC 6186); take it out of targets_from_srv"
    );
    let missing = "there is no SRV record of this name: add one, or take the domain out of targets_from_srv";
    assert_eq!(error(none.dns()).await, missing);
    let silence = error(silent.dns()).await;
    assert!(silence.starts_with("no answer from the name servers in time; see whether"), "{silence}");
    // Where the group may shrink it has no target, which is no failure.
    let answer = ask(&srv("shrink = true"), &declined.dns()).await.unwrap();
    assert_eq!((targets(&answer).len(), answer.refused.count()), (0, 0));
}

#[test]
fn the_hosts_of_a_service_are_probed() {
    let runtime = runtime();
    let (output, _) = runtime.block_on(async {
        let mut server = Listener::willing().await;
        let port = server.address.port();
        let names = NameServer::start(move |question| vec![question.services(&[("mail.localhost", port)])]).await;
        let mut config = srv("");
        write!(config, "[dns]\nservers = [\"{}\"]\n", names.dns().servers[0]).unwrap();
        let mut agent = start(&config);
        let line = agent.stderr_line("configuration reloaded").await;
        assert!(line.contains("\"added\":1"), "{line}");
        server.wait_for_command("LOGOUT", 2).await;
        stop(agent, Signal::SIGTERM).await
    });
    assert!(output.stderr.contains("configuration reloaded"), "{output:?}");
}

#[tokio::test]
async fn check_shows_what_it_would_ask_and_asks_only_with_probe() {
    let server = Listener::willing().await;
    let api = TargetApi::start(|_| None).await;
    api.targets(listed(&[server.address.to_string(), "evil.test:993".to_owned()]));
    let source = http(&api).replace("/targets\" }", "/targets?key=planted-8\", bearer = { env = \"PROBE\" } }");
    let check = |more: &[&str]| {
        let words = ["check", "--config", "imaptrace.toml"].iter().chain(more);
        let program = Program::new(words).env("PROBE", PASSWORD);
        fs::write(program.home().join("imaptrace.toml"), group(&source)).unwrap();
        program.run()
    };
    let shown = check(&[]).await;
    assert_eq!(shown.code, Some(0), "{shown:?}");
    let expected = format!(
        "sources of targets, which an agent asks\n  {}: group fleet, hosts 127.0.0.1, every 1s, may not shrink by half\n    \
         timeout 10s, bearer token from variable PROBE\n",
        api.url()
    );
    assert!(shown.stdout.contains(&expected), "{shown:?}");
    assert_eq!(api.asked(), [""; 0]);
    let asked = check(&["--probe"]).await;
    assert_eq!(asked.code, Some(0), "{asked:?}");
    assert!(asked.stdout.ends_with(&format!("\n{} (group fleet): 1 targets\n", api.url())), "{asked:?}");
    assert!(asked.stderr.contains("1 more are not probed: [0].targets[1]: \"evil.test:993\""), "{asked:?}");
    assert!(api.asked()[0].contains(PASSWORD) && server.count("") == 0);
    api.set(|_| Some(response("403 No", "", "")));
    let failed = check(&["--probe"]).await;
    assert!(failed.stderr.contains("it answers HTTP 403: check user and password, or bearer"), "{failed:?}");
    assert_eq!(failed.code, Some(1), "{failed:?}");
    for output in [shown, asked, failed] {
        assert!(!output.stdout.contains("planted") && !output.stderr.contains("planted"), "{output:?}");
    }
}

/// Only one of the two has a name that its group can make a variable of.
#[test]
fn a_target_that_its_groups_keys_do_not_fit_is_refused_by_itself() {
    let text =
        group("hosts = [\"*.example.org\"]\ntargets_from_srv = [\"example.org\"]").replace("\"PROBE\"", "\"{name}\"");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("imaptrace.toml");
    fs::write(&file, &text).unwrap();
    let id = sources(&text).remove(0).id;
    let entry = |target: &str, name: Option<&str>| DiscoveredEntry {
        targets: vec![target.to_owned()],
        labels: name.map(|name| ("__imaptrace_name__".to_owned(), name.to_owned())).into_iter().collect(),
    };
    let entries =
        vec![entry("a.example.org", None), entry("b.example.org", Some("MAIL_B")), entry("c.example.org", None)];
    let targets = DiscoveredTargets(entries).into();
    let good = GoodAnswers::from([(id.clone(), GoodAnswer { targets, at: SystemTime::UNIX_EPOCH })]);
    let sources = Sources { file: Some(file), discovered: Discovered::from(&good), ..Sources::default() };
    let config = config::load(&sources).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.targets.iter().map(|target| target.name.as_str()).collect::<Vec<_>>(), ["MAIL_B"]);
    assert_eq!(config.not_taken[&id], 2);
    let refused: Vec<_> = config.refused.iter().map(ToString::to_string).collect();
    for part in [
        "groups[0].password.env: it is not the name of an environment variable",
        "_imap._tcp.example.org (group fleet): a.example.org: the group's keys cannot be filled in",
        "_imap._tcp.example.org (group fleet): c.example.org: the group's keys cannot be filled in",
    ] {
        assert!(refused.iter().any(|problem| problem.contains(part)), "{part} is not in {refused:?}");
    }
}

#[test]
fn the_settings_of_a_source_are_read_and_its_name_holds_no_query() {
    let text = group(
        "hosts = [\"*.Example.org\"]\nshrink = true\ntargets_from_srv = [\"example.org\", \"example.net\"]\n\
         targets_from_http = [{ url = \"https://sd.example.org/a?token=planted\" }, { url = \"http://[::1]:9/b\" }]",
    );
    let sources = sources(&text);
    let names: Vec<_> = sources.iter().map(|source| source.id.to_string()).collect();
    assert_eq!(
        names,
        [
            "_imap._tcp.example.org (group fleet)",
            "_imap._tcp.example.net (group fleet)",
            "https://sd.example.org/a (group fleet)",
            "http://[::1]:9/b (group fleet)",
        ]
    );
    assert!(sources.iter().all(|source| source.shrink && source.refresh.as_secs() == 1));
    assert!(!format!("{sources:?}").contains("planted"));
    let id = SourceId { group: "fleet".to_owned(), name: "_imap._tcp.example.org".to_owned() };
    assert_eq!(sources[0].id, id);
}

//! The agent while its configuration changes: what it follows, what it refuses, and that no run is lost or doubled over it.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
    fs,
    path::Path,
    pin::pin,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use opentelemetry_proto::tonic::metrics::v1::{metric::Data, number_data_point::Value as Number};

use crate::{
    agent::{HELD, lines, otlp, roots, runtime, start, stop, target, value},
    command_line::{GOOD, Listener, REFUSED, heard, hex, refusing},
    support::{
        otlp::{BlackHole, Inbox, Receiver, attribute},
        program::Running,
        script::Script,
    },
};

/// Writes a configuration in one piece, as careful hands do.
pub(crate) fn write(home: &Path, config: &str) {
    let beside = home.join("new.toml");
    fs::write(&beside, crate::agent::whole(config)).unwrap();
    fs::rename(beside, home.join("imaptrace.toml")).unwrap();
}

/// Has it read another configuration, and waits until it says that it did.
pub(crate) async fn reload(agent: &mut Running, config: &str) -> String {
    write(agent.home(), config);
    agent.signal(Signal::SIGHUP);
    agent.stderr_line("configuration reloaded").await
}

/// What the last request says of the last reload.
fn reloaded(inbox: &Inbox) -> Option<bool> {
    let metrics = inbox.metrics();
    let Some(Data::Gauge(gauge)) = &metrics.get("imaptrace.config.last_reload.success")?.data else { return None };
    match gauge.data_points.first()?.value? {
        Number::AsInt(number) => Some(number == 1),
        Number::AsDouble(_) => None,
    }
}

#[test]
fn a_bad_file_changes_nothing_and_all_its_problems_are_reported() {
    let receiver = Receiver::http();
    let runtime = runtime();
    let base = otlp(&receiver.url(), "http/protobuf");
    let mut old = runtime.block_on(Listener::willing());
    let good = base.clone() + &target("old", old.address, "200ms", "190ms");
    let mut agent = runtime.block_on(async { start(&good) });
    receiver.wait(|inbox| reloaded(inbox) == Some(true));
    runtime.block_on(async {
        let bad = base.clone() + "[defaults]\nintervall = \"5s\"\n" + &target("new", old.address, "1s", "2s");
        write(agent.home(), &bad);
        agent.signal(Signal::SIGHUP);
        agent.stderr_line("configuration not reloaded").await;
        let before = old.count("LOGOUT");
        old.wait_for_command("LOGOUT", before + 3).await;
    });
    receiver.wait(|inbox| reloaded(inbox) == Some(false));
    runtime.block_on(reload(&mut agent, &good));
    receiver.wait(|inbox| reloaded(inbox) == Some(true));
    let (output, log) = runtime.block_on(stop(agent, Signal::SIGTERM));
    let [line] = lines(&log, "configuration not reloaded")[..] else { panic!("{output:?}") };
    assert_eq!((&line["why"], &line["problems"], &line["level"]), (&"SIGHUP".into(), &2.into(), &"error".into()));
    assert_eq!(lines(&log, "defaults.intervall: there is no such key; did you mean").len(), 1, "{output:?}");
    assert_eq!(lines(&log, "imaptrace.toml:").iter().filter(|line| line["level"] == "error").count(), 2, "{output:?}");
    let names: HashSet<_> = receiver.look(roots).iter().map(|root| value(root, "imaptrace.target.name")).collect();
    assert_eq!(names, HashSet::from(["old".to_owned()]));
}

#[test]
fn a_changed_file_is_followed_without_a_signal() {
    let runtime = runtime();
    runtime.block_on(async {
        let (mut first, mut second) = (Listener::willing().await, Listener::willing().await);
        let mut agent = start(&target("first", first.address, "200ms", "190ms"));
        first.wait_for_command("LOGOUT", 1).await;
        write(agent.home(), &target("second", second.address, "200ms", "190ms"));
        let line = agent.stderr_line("configuration reloaded").await;
        for part in ["\"added\":1", "\"removed\":1", "\"changed\":0", "a file has changed"] {
            assert!(line.contains(part), "{line}");
        }
        second.wait_for_command("LOGOUT", 2).await;
        // One that was under way when its target went may still end; then there is none.
        let after = first.count("LOGIN");
        let before = second.count("LOGOUT");
        second.wait_for_command("LOGOUT", before + 5).await;
        assert!(first.count("LOGIN") <= after + 1);
        // Gone, as a bad file is: what was goes on.
        fs::remove_file(agent.home().join("imaptrace.toml")).unwrap();
        agent.stderr_line("configuration not reloaded").await;
        let before = second.count("LOGOUT");
        second.wait_for_command("LOGOUT", before + 2).await;
        stop(agent, Signal::SIGTERM).await;
    });
}

/// Planned starts of a target's runs, in milliseconds.
fn planned(inbox: &Inbox, target: &str) -> Vec<i128> {
    let roots = roots(inbox);
    let of_target = roots.iter().filter(|root| value(root, "imaptrace.target.name") == target);
    let mut planned: Vec<_> = of_target
        .map(|root| {
            let lag: f64 = value(root, "imaptrace.start_lag").parse().unwrap();
            i128::from(root.start_time_unix_nano / 1_000_000)
                - i128::try_from(Duration::from_secs_f64(lag).as_millis()).unwrap()
        })
        .collect();
    planned.sort_unstable();
    planned
}

#[test]
fn a_reload_each_second_with_changes_neither_loses_nor_doubles_a_run() {
    const TURNS: usize = 60;
    let receiver = Receiver::http();
    let runtime = runtime();
    let base = otlp(&receiver.url(), "http/protobuf");
    let (mut same, changing, brief) =
        runtime.block_on(async { (Listener::willing().await, Listener::willing().await, Listener::willing().await) });
    let plan = |turn: usize| {
        let mut plan = base.clone() + &target("same", same.address, "1s", "900ms");
        plan += &target("changing", changing.address, "1s", "900ms");
        writeln!(plan, "labels = {{ turn = \"{turn}\" }}").unwrap();
        if turn % 2 == 1 {
            plan += &target("brief", brief.address, "300ms", "250ms");
        }
        plan
    };
    let plans: Vec<String> = (0..=TURNS).map(plan).collect();
    let (output, log) = runtime.block_on(async {
        let mut agent = start(&plans[0]);
        agent.stderr_line("imaptrace is up").await;
        for plan in &plans[1..] {
            let before = same.count("LOGOUT");
            write(agent.home(), plan);
            agent.signal(Signal::SIGHUP);
            // The signal may come after the change was seen by itself: then a second reading finds nothing new.
            let line = agent.stderr_line("\"changed\":1").await;
            assert!(line.contains("\"unchanged\":1"), "{line}");
            same.wait_for_command("LOGOUT", before + 1).await;
        }
        stop(agent, Signal::SIGTERM).await
    });
    assert_eq!(lines(&log, "all telemetry was delivered (").len(), 1, "{output:?}");
    let mut skipped: HashMap<String, usize> = HashMap::new();
    for line in lines(&log, "run skipped") {
        let count = usize::try_from(line["count"].as_u64().unwrap()).unwrap();
        *skipped.entry(line["target"].as_str().unwrap().to_owned()).or_default() += count;
    }
    for (name, server) in [("same", &same), ("changing", &changing), ("brief", &brief)] {
        let roots = receiver.look(roots);
        let ids: Vec<_> = roots
            .iter()
            .filter(|root| value(root, "imaptrace.target.name") == name)
            .map(|root| hex(&root.trace_id))
            .collect();
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len(), "{name}");
        // Each session at the server is one run that arrived, but for those that the end cut short before the login.
        assert!(server.count("LOGIN") <= ids.len() && !ids.is_empty(), "{name}");
        let cancelled = roots.iter().filter(|root| value(root, "error.type") == "cancelled").count();
        assert!(server.count("LOGIN") + cancelled >= ids.len(), "{name}");
    }
    for name in ["same", "changing"] {
        // Each second of the grid has its run, or a word that it was skipped. How many there were from the first run to
        // the last is plain even on a machine that is half a second late with its stamps.
        let planned = receiver.look(|inbox| planned(inbox, name));
        let (first, last) = (planned.first().unwrap(), planned.last().unwrap());
        let seconds = usize::try_from((last - first + 500) / 1000 + 1).unwrap();
        let skipped = skipped.get(name).copied().unwrap_or(0);
        assert!(seconds > TURNS / 2, "{name}: {planned:?}");
        assert!(planned.len() <= seconds, "{name} is doubled: {planned:?}");
        assert!(planned.len() + skipped >= seconds, "{name} lacks a run: {planned:?}");
    }
}

#[test]
fn what_needs_a_restart_is_named_and_a_password_that_is_gone_is_a_void_run() {
    let runtime = runtime();
    let (output, log) = runtime.block_on(async {
        let mut server = Listener::willing().await;
        let plain = target("mail", server.address, "300ms", "250ms");
        let mut agent = start(&plain);
        server.wait_for_command("LOGOUT", 1).await;
        reload(&mut agent, &("[latency]\nslow_ratio = 9.0\n".to_owned() + &plain)).await;
        let gone = plain.replace("{ env = \"PROBE\" }", "{ file = \"gone\" }");
        reload(&mut agent, &gone).await;
        agent.stderr_line("a run did not pass").await;
        reload(&mut agent, &plain).await;
        let before = server.count("LOGOUT");
        server.wait_for_command("LOGOUT", before + 2).await;
        stop(agent, Signal::SIGTERM).await
    });
    let [line] = lines(&log, "tables need a restart")[..] else { panic!("{output:?}") };
    assert_eq!((&line["keys"], &line["level"]), (&"[latency]".into(), &"warn".into()));
    let failed = lines(&log, "a run did not pass");
    assert!(failed.iter().all(|line| line["error_type"] == "secret_unavailable"), "{output:?}");
}

#[test]
fn a_login_that_is_held_back_stays_so_over_a_reload_that_changes_its_target() {
    let runtime = runtime();
    runtime.block_on(async {
        let server = Script::play(&[REFUSED, HELD, REFUSED, GOOD].join("next\n")).await;
        // Long enough that the last reload comes before the run after.
        let plain = target("mail", server.address, "3s", "2900ms");
        let mut agent = start(&plain);
        agent.stderr_line("a run did not pass").await;
        let line = reload(&mut agent, &(plain.clone() + "labels = { rack = \"b\" }\n")).await;
        assert!(line.contains("\"changed\":1"), "{line}");
        agent.stderr_line("its login was held back").await;
        agent.stderr_line("a run did not pass").await;
        // Another user is another login: nothing is held back.
        let other = plain.replace("someone@", "another@");
        reload(&mut agent, &other).await;
        let heard = heard(server).await;
        let commands: Vec<_> = heard.iter().map(|line| line.split(' ').nth(1).unwrap()).collect();
        let good = ["LOGIN", "LIST", "SELECT", "FETCH", "LOGOUT"];
        let all = [&["LOGIN", "LOGOUT", "LOGOUT", "LOGIN", "LOGOUT"][..], &good[..]].concat();
        assert_eq!(commands.iter().map(|word| word.trim_start_matches("UID")).collect::<Vec<_>>(), all, "{heard:?}");
        stop(agent, Signal::SIGTERM).await;
    });
}

/// A minimal Debian has systemd and a shell, and no /bin/kill.
#[test]
fn the_unit_reloads_with_no_program_but_the_shell() {
    let unit = include_str!("../../deploy/systemd/imaptrace.service");
    let commands: Vec<_> = unit.lines().filter(|line| line.starts_with("Exec")).collect();
    for command in &commands {
        let program = command.split_once('=').unwrap().1.split(' ').next().unwrap();
        assert!(["/usr/bin/imaptrace", "/bin/sh"].contains(&program), "{command}");
    }
    let reload = commands.iter().find_map(|line| line.strip_prefix("ExecReload=")).unwrap();
    let words = shlex::split(reload).unwrap();
    let (_held, port) = refusing();
    let config = target("gone", port, "4s", "3900ms");
    runtime().block_on(async {
        let mut agent = start(&config);
        agent.stderr_line("imaptrace is up").await;
        write(agent.home(), &config.replace("4s", "5s"));
        // What systemd gives it, and a PATH on which nothing is.
        let mut command = std::process::Command::new(&words[0]);
        command.args(&words[1..]).env_clear().env("PATH", "/none").env("MAINPID", agent.id().unwrap().to_string());
        let output = command.output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        agent.stderr_line("configuration reloaded").await;
        stop(agent, Signal::SIGTERM).await;
    });
}

#[test]
fn a_second_signal_ends_it_without_waiting_for_what_hangs() {
    let runtime = runtime();
    let hole = BlackHole::open();
    let (output, log) = runtime.block_on(async {
        let mut server = Listener::silent_at("LIST").await;
        let config = otlp(&hole.url(), "http/protobuf") + &target("stuck", server.address, "4s", "3900ms");
        let agent = start(&config);
        server.wait_for_command("LIST", 1).await;
        // Ctrl-C again and again until it ends; what comes in the first second is one request.
        let process = Pid::from_raw(agent.id().unwrap().try_into().unwrap());
        let mut again = tokio::time::interval(Duration::from_millis(100));
        let mut stopped = pin!(stop(agent, Signal::SIGTERM));
        loop {
            tokio::select! {
                stopped = &mut stopped => break stopped,
                // It may have ended meanwhile.
                _ = again.tick() => drop(kill(process, Signal::SIGINT)),
            }
        }
    });
    assert_eq!(lines(&log, "second stop signal").len(), 1, "{output:?}");
    assert_eq!(lines(&log, "delivered: ").len(), 0, "it waited for delivery: {output:?}");
}

/// Due runs that were skipped for this reason, as the last request has it.
fn skipped(inbox: &Inbox, reason: &str) -> i64 {
    let metrics = inbox.metrics();
    let Some(Data::Sum(sum)) = metrics.get("imaptrace.probe.skipped").and_then(|metric| metric.data.clone()) else {
        return 0;
    };
    let points = sum
        .data_points
        .iter()
        .filter(|point| attribute(&point.attributes, "imaptrace.skip.reason").as_deref() == Some(reason));
    points.map(|point| if let Some(Number::AsInt(count)) = point.value { count } else { 0 }).sum()
}

#[test]
fn a_maintenance_window_that_is_reloaded_holds_at_once_and_its_skipped_runs_are_counted() {
    let receiver = Receiver::http();
    let runtime = runtime();
    let mut server = runtime.block_on(Listener::willing());
    let plain = otlp(&receiver.url(), "http/protobuf") + &target("mail", server.address, "200ms", "190ms");
    let mut agent = runtime.block_on(async { start(&plain) });
    runtime.block_on(async {
        server.wait_for_command("LOGOUT", 2).await;
        let window = "[[windows]]\nname = \"move\"\nfrom = \"00:00\"\ntargets = [\"ma*\"]\n";
        reload(&mut agent, &(window.to_owned() + &plain)).await;
    });
    receiver.wait(|inbox| skipped(inbox, "window") >= 2);
    let during = server.count("LOGIN");
    receiver.wait(|inbox| skipped(inbox, "window") >= 6);
    assert_eq!(server.count("LOGIN"), during);
    runtime.block_on(async {
        reload(&mut agent, &plain).await;
        let before = server.count("LOGOUT");
        server.wait_for_command("LOGOUT", before + 2).await;
        stop(agent, Signal::SIGTERM).await;
    });
}

#[test]
fn a_file_of_targets_is_followed_also_when_it_was_bad_in_between() {
    let runtime = runtime();
    runtime.block_on(async {
        let (mut first, mut second) = (Listener::willing().await, Listener::willing().await);
        let directory = tempfile::tempdir().unwrap();
        let list = |text: &str| {
            fs::write(directory.path().join("new"), text).unwrap();
            fs::rename(directory.path().join("new"), directory.path().join("fleet.json")).unwrap();
        };
        let one = format!("{{\"targets\": [\"{}\"]}}", first.address);
        list(&format!("[{one}]"));
        let mut agent = start(&format!(
            "[[groups]]\nname = \"fleet\"\ntargets_from = [\"{}/*.json\"]\nurl = \"imap://someone@{{host}}\"\n\
             security = \"none\"\npassword = {{ env = \"PROBE\" }}\ninterval = \"400ms\"\ntimeout = \"390ms\"\n",
            directory.path().display()
        ));
        first.wait_for_command("LOGOUT", 1).await;
        list("[{");
        agent.stderr_line("configuration not reloaded").await;
        list(&format!("[{one}, {{\"targets\": [\"{}\"]}}]", second.address));
        let line = agent.stderr_line("configuration reloaded").await;
        assert!(line.contains("\"added\":1") && line.contains("\"unchanged\":1"), "{line}");
        second.wait_for_command("LOGOUT", 1).await;
        let before = first.count("LOGOUT");
        first.wait_for_command("LOGOUT", before + 1).await;
        stop(agent, Signal::SIGTERM).await;
    });
}

#[test]
fn an_included_file_is_followed_from_when_it_is_added_to_its_directory() {
    let runtime = runtime();
    runtime.block_on(async {
        let (mut first, mut second) = (Listener::willing().await, Listener::willing().await);
        let directory = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            fs::write(directory.path().join("new"), text).unwrap();
            fs::rename(directory.path().join("new"), directory.path().join(name)).unwrap();
        };
        let include = format!("include = [\"{}/*.toml\"]\n", directory.path().display());
        let mut agent = start(&(include + &target("first", first.address, "400ms", "390ms")));
        first.wait_for_command("LOGOUT", 1).await;
        put("a.toml", "[[targets");
        agent.stderr_line("configuration not reloaded").await;
        put("a.toml", &target("second", second.address, "400ms", "390ms"));
        let line = agent.stderr_line("configuration reloaded").await;
        assert!(line.contains("\"added\":1") && line.contains("\"unchanged\":1"), "{line}");
        second.wait_for_command("LOGOUT", 1).await;
        fs::remove_file(directory.path().join("a.toml")).unwrap();
        let line = agent.stderr_line("configuration reloaded").await;
        assert!(line.contains("\"removed\":1"), "{line}");
        let before = first.count("LOGOUT");
        first.wait_for_command("LOGOUT", before + 1).await;
        stop(agent, Signal::SIGTERM).await;
    });
}

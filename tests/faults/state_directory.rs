//! A state directory that does not answer: the agent probes and delivers all the same, takes the directory up when it answers,
//! and at its end says what is lost.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use imaptrace::{
    delivery::{Delivery, DeliverySettings, Protocol, Signal},
    state::StateDir,
    telemetry::{MetricsSettings, ResourceSettings},
};
use imaptrace_record::{Run, SpanId, TraceId};
use nix::sys::signal;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::{
    hung::HungMount,
    support::{
        otlp::{BlackHole, ClosedPort, Inbox, block_on, passed_run},
        program::{Output, Program, Running},
    },
};

/// Runs that an earlier process left.
const OLD: usize = 5;

fn runtime() -> Runtime {
    // Programs are started from this thread alone, for it alone sees the mount.
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// An agent with this state directory, whose runs all fail at once; it sends them to this receiver.
fn start(state: &Path, receiver: &str, nobody: &ClosedPort) -> Running {
    let target = nobody.url().replace("http://", "imap://someone@");
    let config = format!(
        "[agent]\nlog_format = \"json\"\n[http]\nlisten = \"off\"\n[state]\ndir = \"{}\"\n\
         [otlp]\nendpoint = \"{receiver}\"\nprotocol = \"http/protobuf\"\n\
         [[targets]]\nname = \"one\"\nurl = \"{target}\"\nsecurity = \"none\"\npassword = {{ env = \"PROBE\" }}\n\
         interval = \"200ms\"\ntimeout = \"150ms\"\n",
        state.display()
    );
    // A line for each run, also for one that failed as the one before.
    let levels = "info,imaptrace::agent::run_log=debug";
    let program = Program::new(["agent", "--config", "imaptrace.toml"]).env("PROBE", "none").env("RUST_LOG", levels);
    fs::write(program.home().join("imaptrace.toml"), config).unwrap();
    program.start()
}

/// Leaves runs in a state directory, as an agent does that cannot deliver them. Gives their traces.
fn leave(state: &Path) -> BTreeSet<String> {
    let receiver = ClosedPort::take();
    let settings = DeliverySettings {
        traces: Some(Signal::new(&format!("{}/v1/traces", receiver.url()), Protocol::HttpProtobuf)),
        state: Some(StateDir::open(state).unwrap()),
        ..DeliverySettings::default()
    };
    let delivery = Delivery::start(&settings, &ResourceSettings::default(), &MetricsSettings::default()).unwrap();
    drop(settings);
    let fresh = || Run { trace_id: TraceId::random(), span_id: SpanId::random(), ..passed_run() };
    let runs: Vec<_> = std::iter::repeat_with(fresh).take(OLD).collect();
    for run in &runs {
        delivery.deliver(run.clone());
    }
    let report = block_on(delivery.shutdown(std::time::Duration::from_secs(20)));
    assert_eq!(report.stored_runs, OLD as u64, "{report}");
    runs.iter().map(|run| run.trace_id.to_string()).collect()
}

/// The traces that arrived.
fn arrived(inbox: &Inbox) -> BTreeSet<String> {
    let id = |bytes: &[u8]| TraceId::from_bytes(bytes.try_into().unwrap()).unwrap().to_string();
    inbox.spans().iter().map(|span| id(&span.trace_id)).collect()
}

/// The traces of the runs that the log has.
fn logged(output: &Output) -> BTreeSet<String> {
    let lines = output.stderr.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter_map(|line| Some(line["trace_id"].as_str()?.to_owned())).collect()
}

fn unmount(directory: &Path) {
    let done = Command::new("umount").arg("-l").arg(directory).output().unwrap();
    assert!(done.status.success(), "{done:?}");
}

#[test]
fn a_state_directory_that_does_not_answer_at_the_start_is_taken_up_when_it_does() {
    // One whose questions end with errors, and one where those that were asked never end.
    for ends in [true, false] {
        let home = tempfile::tempdir().unwrap();
        let volume = home.path().join("volume");
        fs::create_dir(&volume).unwrap();
        let state = volume.join("state");
        let old = leave(&state);
        let mount = HungMount::on(&volume);
        let (nobody, receiver, runtime) = (ClosedPort::take(), ClosedPort::take(), runtime());
        let mut agent = runtime.block_on(async { start(&state, &receiver.url(), &nobody) });
        runtime.block_on(async {
            agent.stderr_line("the state directory has not answered within 2 s: probing starts").await;
            agent.stderr_line("imaptrace is up").await;
            for _ in 0..5 {
                agent.stderr_line("a run did not pass").await;
            }
        });
        assert!(mount.taken() > 0);
        let mut kept = Some(mount);
        if ends {
            kept = None;
        }
        unmount(&volume);
        runtime.block_on(agent.stderr_line("the state directory answers and is in use now"));
        let receiver = receiver.open(false);
        receiver.wait(|inbox| old.is_subset(&arrived(inbox)) && arrived(inbox).len() > OLD + 5);
        let here: BTreeSet<_> = receiver.look(arrived);
        // The questions that never end keep a thread, and the dead process in the list; its exit is another test's.
        drop(kept);
        agent.signal(signal::Signal::SIGTERM);
        let output = runtime.block_on(agent.finish());
        assert_eq!(output.code, Some(0), "{output:?}");
        let runs = logged(&output);
        assert!(here.difference(&runs).eq(old.iter()), "{output:?}");
        assert!(runs.is_subset(&receiver.look(arrived)), "none was lost: {output:?}");
        assert!(output.stderr.contains("all telemetry was delivered"), "{output:?}");
        assert!(state.join("latency.jsonl").exists());
    }
}

#[test]
fn at_the_end_what_neither_disk_nor_receiver_took_is_counted_as_lost() {
    let home = tempfile::tempdir().unwrap();
    let volume = home.path().join("volume");
    fs::create_dir(&volume).unwrap();
    let mount = HungMount::on(&volume);
    let (nobody, silent, runtime) = (ClosedPort::take(), BlackHole::open(), runtime());
    let output = runtime.block_on(async {
        let mut agent = start(&volume.join("state"), &silent.url(), &nobody);
        for _ in 0..10 {
            agent.stderr_line("a run did not pass").await;
        }
        agent.signal(signal::Signal::SIGTERM);
        agent.stderr_line("not delivered: ").await;
        // It has said all that it has to say; what hangs need not be waited for.
        drop(mount);
        agent.finish().await
    });
    let runs = logged(&output).len();
    let last = output.stderr.lines().last().unwrap_or_default();
    assert!(last.contains(&format!("not delivered: {runs} runs (")) && last.contains(" spans) lost"), "{output:?}");
}

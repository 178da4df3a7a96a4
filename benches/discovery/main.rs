//! How late the runs of an agent start while a source of targets gives it 10,000 more, and while it takes half of them away again.
//!
//! `cargo bench --bench discovery` calls it. The agent, the source, the mail server and the receiver of traces are on this machine.
//! It prints a table; no figure fails it.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a program that measures: a fault ends it, and what it finds goes to standard output"
)]

#[path = "../../tests/support/mod.rs"]
mod support;

use std::{fmt::Write as _, fs, time::Duration};

use imaptrace::clock;
use support::{
    otlp::{Inbox, Receiver, attribute},
    post::Post,
    program::{Program, Running},
    target_api::TargetApi,
};
use tokio::runtime::Runtime;

/// Targets of the source.
const TARGETS: usize = 10_000;
/// Targets of the configuration, each probed five times a second.
const OWN: usize = 20;
/// How long each part is measured.
const WINDOW: Duration = Duration::from_secs(10);
/// No start may be later than this for it, in milliseconds.
const GOAL_MS: f64 = 50.0;

fn body(targets: usize, port: u16) -> String {
    let target = |number: usize| format!("127.1.{}.{}:{port}", number / 250, number % 250 + 1);
    let targets: Vec<_> = (0..targets).map(target).collect();
    serde_json::json!([{ "targets": targets, "labels": { "rack": "a1", "site": "fra" } }]).to_string()
}

fn config(receiver: &Receiver, api: &TargetApi, post: &Post) -> String {
    let mut text = format!(
        "[otlp.traces]\nendpoint = \"{}/v1/traces\"\nprotocol = \"http/protobuf\"\n[http]\nlisten = \"off\"\n\
         [limits]\nruns_in_flight_per_server = 256\nlogins_per_second_per_server = 0\n[metrics]\nseries_limit = 2000000\n\
         [[groups]]\nname = \"fleet\"\nsecurity = \"none\"\nuser = \"u\"\npassword = {{ env = \"PROBE\" }}\ninterval = \"10m\"\n\
         hosts = [\"127.1.*\"]\nrefresh = \"1s\"\ntargets_from_http = {{ url = \"{}\" }}\n",
        receiver.url(),
        api.url()
    );
    for number in 0..OWN {
        write!(
            text,
            "[[targets]]\nname = \"own{number}\"\nurl = \"imap://u@{}\"\nsecurity = \"none\"\n\
             password = {{ env = \"PROBE\" }}\ninterval = \"200ms\"\ntimeout = \"190ms\"\n",
            post.address
        )
        .unwrap();
    }
    text
}

/// The start lags of the configuration's own targets since `begun`, in milliseconds and in order.
fn lags(inbox: &Inbox, begun: u64) -> Vec<f64> {
    let roots = inbox.spans().into_iter().filter(|span| span.name == "probe first-load");
    let of_own = roots.filter(|span| {
        span.start_time_unix_nano >= begun
            && attribute(&span.attributes, "imaptrace.target.name").is_some_and(|name| name.starts_with("own"))
    });
    let lag = |span: opentelemetry_proto::tonic::trace::v1::Span| -> Option<f64> {
        Some(attribute(&span.attributes, "imaptrace.start_lag")?.parse::<f64>().ok()? * 1e3)
    };
    let mut lags: Vec<f64> = of_own.filter_map(lag).collect();
    lags.sort_by(f64::total_cmp);
    lags
}

/// Measures a window that begins with `change`, and waits for `line` of the agent's log in it.
fn row(what: &str, rig: (&Runtime, &Receiver), agent: &mut Running, line: Option<&str>, change: impl FnOnce()) -> f64 {
    let (runtime, receiver) = rig;
    let wall = clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap();
    let (begun, begun_at) = (u64::try_from(wall.as_nanos()).unwrap(), clock::now());
    change();
    let took = line.map(|line| {
        runtime.block_on(agent.stderr_line(line));
        clock::now() - begun_at
    });
    std::thread::sleep(WINDOW);
    let lags = receiver.look(|inbox| lags(inbox, begun));
    let at = |share: usize| lags[(lags.len() - 1) * share / 100];
    let took = took.map_or_else(|| "–".to_owned(), |took| format!("{:.1}", took.as_secs_f64()));
    println!("| {what} | {took} | {} | {:.2} | {:.2} | {:.2} |", lags.len(), at(50), at(99), at(100));
    at(100)
}

fn main() {
    let runtime = Runtime::new().unwrap();
    let (receiver, post) = (Receiver::http(), Post::open());
    let mail_port = post.address.port();
    let api = runtime.block_on(TargetApi::start(|_| None));
    let mut agent = runtime.block_on(async {
        let program = Program::new(["agent", "--config", "imaptrace.toml"]).env("PROBE", "x");
        fs::write(program.home().join("imaptrace.toml"), config(&receiver, &api, &post)).unwrap();
        let mut agent = program.start();
        agent.stderr_line("imaptrace is up").await;
        agent
    });
    println!("| {TARGETS} targets from a source | s until applied | starts | lag p50, ms | p99 | most |");
    println!("|---|--:|--:|--:|--:|--:|");
    let rig = (&runtime, &receiver);
    row("before", rig, &mut agent, None, || {});
    let applied = Some("configuration reloaded");
    let added = row("added", rig, &mut agent, applied, || api.targets(body(TARGETS, mail_port)));
    let halved = row("half of them removed", rig, &mut agent, applied, || api.targets(body(TARGETS / 2, mail_port)));
    let is_met = added.max(halved) <= GOAL_MS;
    println!("\nThe goal, no start later than {GOAL_MS} ms: {}.", if is_met { "met" } else { "missed" });
}

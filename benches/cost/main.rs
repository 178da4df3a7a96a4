//! What a run costs, beside the same dialogue by other clients, and what a connection in flight costs.
//!
//! `make bench-cost` calls it, with the program as it is shipped in `COST_IMAPTRACE` and the peer from benches/peers in
//! `COST_ASYNC_IMAP`. It starts a Dovecot and a Collector of its own, prints tables for docs/performance.md, and ends what
//! it started. It judges nothing but that every run passed and that every exported run arrived: the goals stand beside
//! the figures. How it measures is told in docs/performance.md.
//!
//! ```text
//! stage    Dovecot, the Collector, the dialogue of one run
//! client   who is compared, and what so many runs cost it
//! bare     the floor: a blocking client that replays the dialogue
//! table    medians, ratios, Markdown
//! memory   thousands of connections that wait for an answer
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a program that measures: a fault ends it, and what it finds goes to standard output"
)]

mod bare;
mod client;
mod memory;
mod stage;
#[path = "../../tests/support/mod.rs"]
mod support;
mod table;

use std::{env, path::Path};

use client::{Client, PerRun, Security};
use stage::Stage;

/// A number from the environment.
fn knob(name: &str, default: u32) -> u32 {
    env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        [] => report(),
        // The two that run as children of their own, so that what they cost can be told from what we do.
        [how @ ("bare" | "bare-anew"), server, dialogue, runs, ca @ ..] => {
            // As in imaptrace: the system's roots are looked up by hash and not read whole for each context.
            // SAFETY: no thread has been started.
            #[expect(unsafe_code, reason = "as in the program's own main: before there is a second thread")]
            let _roots = unsafe { imaptrace::net::Roots::prepare() };
            let dialogue = std::fs::read(dialogue).unwrap();
            let ca = ca.first().map(Path::new);
            let (server, runs) = (server.parse().unwrap(), runs.parse().unwrap());
            bare::replay(server, ca, &dialogue, runs, *how == "bare-anew").unwrap();
        }
        ["in-flight", server, ca @ ..] => {
            // SAFETY: no thread has been started.
            #[expect(unsafe_code, reason = "as in the program's own main: before there is a second thread")]
            let _roots = unsafe { imaptrace::net::Roots::prepare() };
            memory::hold(server.parse().unwrap(), ca.first().map(Path::new));
        }
        _ => panic!("usage: cost (no arguments; ROUNDS, RUNS and CONNECTIONS in the environment)"),
    }
}

fn report() {
    let (rounds, runs) = (knob("ROUNDS", 5), knob("RUNS", 300));
    let connections = knob("CONNECTIONS", 10_000);
    let stage = Stage::set();
    table::machine(&stage.server_version, rounds, runs);
    for security in [Security::Plain, Security::Tls] {
        let clients = client::all(&stage, security);
        let costs = compare(&clients, rounds, runs);
        table::peers(security, &costs);
        table::features(security, &costs);
    }
    stage.all_arrived();
    memory::report(&stage, connections);
}

/// What each client's runs cost, round by round, or why it cannot run.
type Costs = Vec<(client::Name, Result<Vec<PerRun>, String>)>;

/// All clients take turns, and who begins changes from round to round: what disturbs the machine disturbs all.
fn compare(clients: &[Client<'_>], rounds: u32, runs: u32) -> Costs {
    let mut costs: Costs = clients.iter().map(|client| (client.name, client.check().map(|()| Vec::new()))).collect();
    for round in 0..rounds as usize {
        for turn in 0..clients.len() {
            let number = (round + turn) % clients.len();
            if let (_, Ok(samples)) = &mut costs[number] {
                samples.push(clients[number].cost(runs));
            }
        }
    }
    costs
}

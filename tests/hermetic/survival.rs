//! What becomes of finished runs when the agent is killed without a word, again and again, while the receiver comes and
//! goes: the ids of the sessions that the mail server saw end are held against the ids of the spans that arrive.

use std::{
    collections::HashSet,
    fmt::Write as _,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use imaptrace::clock;
use nix::sys::signal::Signal;
use rand::Rng as _;
use tokio::time::sleep;

use crate::{
    agent::runtime,
    command_line::hex,
    support::{
        otlp::{ClosedPort, Inbox, Receiver},
        post::{Ended, Post},
        program::{Program, Running, wait_until},
    },
};

/// Lives of the agent that end by `kill -9`.
const LIVES: usize = 200;
const TARGETS: usize = 12;
/// What is not acknowledged so long after its run's end is on the disk.
const WINDOW: Duration = Duration::from_millis(200);
/// The promise is about our own doing; a disk that takes its time and cores that are busy elsewhere come on top.
const ALLOWANCE: Duration = Duration::from_millis(400);

fn start(post: &Post, state: &Path, otlp: &str) -> Running {
    let mut config = format!(
        "[agent]\nlog_level = \"warn\"\n[http]\nlisten = \"off\"\n[state]\ndir = \"{}\"\n[otlp]\nendpoint = {otlp:?}\nprotocol = \"http/protobuf\"\n\
         [otlp.metrics]\nendpoint = \"http://127.0.0.1:9/v1/metrics\"\n\
         [limits]\nruns_in_flight_per_server = 100\nlogins_per_second_per_server = 10000\n\
         [defaults]\nsecurity = \"none\"\ninterval = \"250ms\"\ntimeout = \"240ms\"\n",
        state.display()
    );
    for number in 0..TARGETS {
        write!(
            config,
            "[[targets]]\nname = \"mail{number:02}\"\nurl = \"imap://user{number}@{}\"\npassword = {{ env = \"PROBE\" }}\n",
            post.address
        )
        .unwrap();
    }
    let program = Program::new(["agent", "--config", "imaptrace.toml"]).env("PROBE", "secret");
    fs::write(program.home().join("imaptrace.toml"), config).unwrap();
    program.start()
}

/// The ids of the LOGOUT spans that were taken.
fn arrived(inbox: &Inbox) -> Vec<String> {
    inbox.spans().into_iter().filter(|span| span.name == "LOGOUT").map(|span| hex(&span.span_id)).collect()
}

/// A life of the agent that ended when it was killed.
struct Life {
    from: Instant,
    to: Instant,
}

impl Life {
    /// Whether a session of this life ended so long before the kill.
    fn must_keep(&self, session: &Ended) -> bool {
        (self.from..self.to).contains(&session.at) && self.to - session.at > WINDOW + ALLOWANCE
    }
}

#[test]
fn two_hundred_kills_lose_no_run_that_had_ended_in_time() {
    let runtime = runtime();
    let (post, state) = (Post::open(), tempfile::tempdir().unwrap());
    let mut closed = Some(ClosedPort::take());
    let mut taken: Vec<String> = Vec::new();
    let mut lives = Vec::new();
    for life in 0..LIVES {
        let from = clock::now();
        // Away most of the time, so that what arrives has come through the disk; there in between, so that a kill meets
        // every stage of a delivery.
        let receiver = (life % 5 == 4).then(|| closed.take().unwrap().open(false));
        let otlp = receiver.as_ref().map_or_else(|| closed.as_ref().unwrap().url(), Receiver::url);
        let length = Duration::from_millis(rand::rng().random_range(50..1_200));
        runtime.block_on(async {
            let agent = start(&post, state.path(), &otlp);
            // A moment that nobody chose, of a life that goes on all the same: there is nothing to wait for.
            sleep(length).await;
            agent.signal(Signal::SIGKILL);
            agent.finish().await;
        });
        lives.push(Life { from, to: clock::now() });
        if let Some(receiver) = receiver {
            taken.extend(receiver.look(arrived));
            closed = Some(receiver.kill());
        }
    }
    let sessions = post.ended();
    let kept: Vec<&Ended> =
        sessions.iter().filter(|session| lives.iter().any(|life| life.must_keep(session))).collect();
    assert!(kept.len() > LIVES, "{} of {} sessions: nothing was put to the test", kept.len(), sessions.len());

    // One that may live finds it all.
    let receiver = closed.take().unwrap().open(false);
    let agent = runtime.block_on(async { start(&post, state.path(), &receiver.url()) });
    let wanted: HashSet<&str> = kept.iter().map(|session| session.tag.as_str()).collect();
    let missing = |inbox: &Inbox| {
        let all: HashSet<String> = arrived(inbox).into_iter().chain(taken.iter().cloned()).collect();
        wanted.iter().filter(|tag| !all.contains(**tag)).count()
    };
    wait_until("all that ended in time has arrived", || receiver.look(|inbox| missing(inbox) == 0).then_some(()));
    agent.signal(Signal::SIGTERM);
    runtime.block_on(agent.finish());

    let all: Vec<String> = receiver.look(arrived).into_iter().chain(taken.iter().cloned()).collect();
    let distinct: HashSet<&String> = all.iter().collect();
    let age = |session: &Ended| {
        lives.iter().find(|life| (life.from..life.to).contains(&session.at)).map(|life| life.to - session.at)
    };
    let lost = sessions.iter().filter(|session| !distinct.contains(&session.tag));
    let oldest = lost.clone().filter_map(age).max().unwrap_or_default();
    eprintln!(
        "{LIVES} kills: {} runs ended, {} of them in time; {} lost, the oldest {} ms before the kill; {} came twice",
        sessions.len(),
        kept.len(),
        lost.count(),
        oldest.as_millis(),
        all.len() - distinct.len(),
    );
}

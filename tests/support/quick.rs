//! An agent inside the test, whose runs follow each other at once: for what only a history of many runs shows.

use std::{net::SocketAddr, os::unix::fs::OpenOptionsExt as _, path::Path, time::Duration};

use imaptrace::{
    agent,
    config::{self, Config, Sources},
};
use nix::fcntl::{Flock, FlockArg};
use tokio::sync::oneshot;

use super::{program::wait_until, script::Script};

/// A conversation that brings one message's headers, with this between the FETCH and its answer.
pub fn conversation(before_the_answer: &str) -> String {
    format!(
        "S: * OK [CAPABILITY IMAP4rev1] hi\nC: LOGIN\nS: {{tag}} OK [CAPABILITY IMAP4rev1] in\nC: LIST\n\
         S: * LIST () \"/\" INBOX\nS: {{tag}} OK\nC: SELECT\nS: * 30 EXISTS\nS: {{tag}} OK\nC: FETCH\n\
         {before_the_answer}S: * 30 FETCH (UID 3)\nS: {{tag}} OK\nC: LOGOUT\nS: * BYE\nS: {{tag}} OK\n"
    )
}

/// Probes a server with these conversations, one after the other, to the end of the last one, then stops as on SIGTERM.
/// Gives the tags of the FETCH commands, which are the ids of their spans. The latency history is kept in `state`.
pub async fn life(conversations: &[String], otlp: &str, state: &Path) -> Vec<String> {
    let server = Script::play(&conversations.join("next\n")).await;
    // A thread of the agent before may still be at its last write, and hold the directory.
    wait_until("the state directory is free", || is_free(state).then_some(()));
    let config = config(server.address, otlp, state);
    let (stop, stopped) = oneshot::channel::<()>();
    let agent = tokio::spawn(agent::serve(async { drop(stopped.await) }, config, agent::StatusSettings::default()));
    let heard = server.heard().await;
    drop(stop);
    agent.await.unwrap().unwrap();
    heard.iter().filter_map(|line| line.split_once(" FETCH ")).map(|(tag, _)| tag.to_owned()).collect()
}

/// Whether the lock of a state directory is free.
fn is_free(state: &Path) -> bool {
    let lock = std::fs::File::open(state.join("lock"));
    lock.map_or(true, |lock| Flock::lock(lock, FlockArg::LockExclusiveNonblock).is_ok())
}

fn config(server: SocketAddr, otlp: &str, state: &Path) -> Config {
    let home = tempfile::tempdir().unwrap();
    let (file, password) = (home.path().join("imaptrace.toml"), state.join("password"));
    let secret = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&password);
    std::io::Write::write_all(&mut secret.unwrap(), b"secret").unwrap();
    let text = format!(
        "[otlp]\nendpoint = \"{otlp}\"\nprotocol = \"http/protobuf\"\n[[targets]]\nname = \"mail01\"\n\
         url = \"imap://someone@{server}\"\nsecurity = \"none\"\ninterval = \"21s\"\ntimeout = \"20s\"\n\
         password = {{ file = \"{}\" }}\n",
        password.display()
    );
    std::fs::write(&file, text).unwrap();
    let sources = Sources { file: Some(file), ..Sources::default() };
    let mut config = config::load(&sources).unwrap();
    config.state.dir = Some(state.to_owned());
    // A run that is still under way when the next is due lets it pass, so no deadline has to be as short as this.
    config.targets[0].interval = Duration::from_millis(50);
    config
}

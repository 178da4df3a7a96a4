//! SIGTERM while all that an agent depends on hangs: it calls exit by itself, in the promised time.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    blocked::has_exited,
    hung::HungMount,
    log::{full_pipe, wait_until},
    support::{
        otlp::{BlackHole, ClosedPort},
        program::free_port,
    },
};

/// What the agent tells of itself, in one piece.
fn status(address: SocketAddr) -> Option<serde_json::Value> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET /status.json HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
}

#[test]
fn with_an_unread_log_and_hanging_secrets_state_and_receiver_the_agent_still_ends() {
    let home = tempfile::tempdir().unwrap();
    let volume = home.path().join("volume");
    fs::create_dir(&volume).unwrap();
    let mount = HungMount::on(&volume);
    let (receiver, nobody, listen) = (BlackHole::open(), ClosedPort::take(), free_port());
    let mut config = format!(
        "[http]\nlisten = \"127.0.0.1:{listen}\"\n[state]\ndir = \"{}\"\n\
         [otlp]\nendpoint = \"{}\"\nprotocol = \"http/protobuf\"\n",
        volume.join("state").display(),
        receiver.url()
    );
    let url = nobody.url().replace("http://", "imap://someone@");
    let hung = format!("file = \"{}\"", volume.join("password").display());
    for (name, password) in [("hung", hung.as_str()), ("well", "env = \"PROBE\"")] {
        config += format!(
            "[[targets]]\nname = \"{name}\"\nurl = \"{url}\"\nsecurity = \"none\"\npassword = {{ {password} }}\n\
             interval = \"200ms\"\ntimeout = \"150ms\"\n"
        )
        .as_str();
    }
    fs::write(home.path().join("imaptrace.toml"), config).unwrap();
    let (errors, reader) = full_pipe();
    let mut command = Command::new(env!("CARGO_BIN_EXE_imaptrace"));
    command.args(["agent", "--config", "imaptrace.toml"]).env_clear().env("HOME", home.path()).env("PROBE", "none");
    command.current_dir(home.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
    let mut agent = command.spawn().unwrap();
    drop(command);
    let address = SocketAddr::from(([127, 0, 0, 1], listen));
    wait_until("both targets have run", || {
        let status = status(address)?;
        let all = status["accounts"].as_array()?;
        (all.len() == 2 && all.iter().all(|one| one["state"] != "never")).then_some(())
    });
    assert!(mount.taken() > 0, "nothing hangs");

    kill(Pid::from_raw(i32::try_from(agent.id()).unwrap()), Signal::SIGTERM).unwrap();
    wait_until("it has called exit", || has_exited(agent.id()).then_some(()));
    // Its threads in the mount are there still, and hold no socket.
    assert!(TcpStream::connect(address).is_err(), "its socket is open");
    // What hung lets go of the dead process.
    drop(mount);
    let status = wait_until("its end", || agent.try_wait().unwrap());
    // By itself; where it is short of CPU, ended with 1 at the end of the promised time.
    assert!(matches!(status.code(), Some(0 | 1)), "{status:?}");
    drop(reader);
}

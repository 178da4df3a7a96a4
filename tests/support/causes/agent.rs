//! The program itself as an agent on the client's side of the line, and the records that it leaves on disk.

use std::{
    fmt::Write as _,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use imaptrace_record::Run;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::name_server::NAME_SERVER;
use crate::support::net::namespace::Namespace;

/// The user of the probes, and its password.
pub const PROBE: (&str, &str) = ("probe1", "open sesame");

/// The default journey, or the one that reads old messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    FirstLoad,
    Cold,
}

impl Probe {
    /// The target's name.
    pub fn target(self) -> &'static str {
        match self {
            Self::FirstLoad => "mail",
            Self::Cold => "mail-cold",
        }
    }
}

/// What an agent is to do.
pub struct AgentOptions<'a> {
    pub probes: &'a [Probe],
    pub interval: Duration,
    /// The server's port for TLS.
    pub port: u16,
    pub ca: &'a Path,
    /// Baselines of an agent before.
    pub latency: Option<&'a Path>,
}

/// An agent that runs; it is killed when this is dropped.
pub struct ProbingAgent {
    child: Child,
    state: PathBuf,
}

impl ProbingAgent {
    /// Starts one inside, with a directory of its own.
    pub fn start(inside: &Namespace, directory: &Path, options: &AgentOptions<'_>) -> Self {
        fs::create_dir(directory).unwrap();
        let state = directory.join("state");
        fs::create_dir(&state).unwrap();
        if let Some(latency) = options.latency {
            fs::copy(latency, latency_file(&state)).unwrap();
        }
        let configuration = directory.join("imaptrace.toml");
        fs::write(&configuration, text(&state, options)).unwrap();
        let log = fs::File::create(directory.join("log")).unwrap();
        let child = inside.enter(|| {
            Command::new(env!("CARGO_BIN_EXE_imaptrace"))
                .args(["agent", "--config"])
                .arg(&configuration)
                .env_clear()
                .env("PATH", std::env::var_os("PATH").unwrap_or_default())
                .env("PROBE_PASSWORD", PROBE.1)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .unwrap()
        });
        Self { child, state }
    }

    /// Its process.
    pub fn process(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    /// The runs that it has on disk by now, by their start.
    pub fn runs(&self) -> Vec<Run> {
        let mut runs = Vec::new();
        let Ok(files) = fs::read_dir(self.state.join("queue")) else { return runs };
        for file in files {
            let path = file.unwrap().path();
            if path.extension().is_none_or(|ending| ending != "gz") {
                continue;
            }
            let mut text = String::new();
            // The newest file may lack its end for a moment.
            let Ok(bytes) = fs::read(&path) else { continue };
            drop(flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_string(&mut text));
            let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            runs.extend(whole.map(|line| serde_json::from_str::<Run>(line).unwrap()));
        }
        runs.sort_by_key(|run| run.started_at);
        runs
    }

    /// Ends it as systemd does. Gives its runs, and the file with its baselines.
    pub fn stop(mut self) -> (Vec<Run>, PathBuf) {
        kill(self.process(), Signal::SIGTERM).unwrap();
        let log = self.state.with_file_name("log");
        crate::support::program::wait_until("the agent has ended", || self.child.try_wait().unwrap());
        let runs = self.runs();
        assert!(!runs.is_empty(), "the agent has left no run:\n{}", fs::read_to_string(log).unwrap());
        (runs, latency_file(&self.state))
    }
}

impl Drop for ProbingAgent {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn latency_file(state: &Path) -> PathBuf {
    state.join("latency.jsonl")
}

fn text(state: &Path, options: &AgentOptions<'_>) -> String {
    let millis = options.interval.as_millis();
    // Nothing is delivered, so all runs stay on disk.
    let mut text = format!(
        "[otlp]\nendpoint = \"http://127.0.0.1:9\"\n[http]\nlisten = \"off\"\n[state]\ndir = \"{}\"\n[dns]\n\
         servers = [\"{NAME_SERVER}\"]\n[defaults]\ninterval = \"{millis}ms\"\ntimeout = \"{}ms\"\n",
        state.display(),
        millis - 50
    );
    for probe in options.probes {
        write!(
            text,
            "[[targets]]\nname = \"{}\"\nurl = \"imaps://{}@mail.causes.test:{}\"\npassword = {{ env = \
             \"PROBE_PASSWORD\" }}\nserver_name = \"localhost\"\nca_file = \"{}\"\ncold = {}\n",
            probe.target(),
            PROBE.0,
            options.port,
            options.ca.display(),
            *probe == Probe::Cold
        )
        .unwrap();
    }
    text
}

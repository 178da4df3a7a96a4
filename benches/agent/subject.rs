//! An agent with so many targets, and what the kernel says that it uses.

use std::{
    fmt::Write as _,
    fs::{self, File},
    net::Ipv4Addr,
    ops::Sub,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nix::unistd::{SysconfVar, sysconf};

use crate::{
    INTERVAL,
    rig::{Collector, Counts, Process, Rig, USERS},
    senders::Senders,
    shards::INTERVAL as INTERVAL_OF_SHARDS,
    support::program::free_port,
};

/// How the connections are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    Plain,
    Tls,
}

impl Security {
    pub fn words(self) -> &'static str {
        match self {
            Self::Plain => "clear text",
            Self::Tls => "TLS",
        }
    }
}

/// Whether the agent keeps and exports metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metrics {
    On,
    Off,
}

/// Whether the agent takes the events of the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Events {
    On,
    Off,
}

/// A running agent; ended on drop.
pub struct Subject {
    process: Process,
    collector: Collector,
}

/// What a process has used so far.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// User and system time.
    pub cpu: Duration,
    /// Times that it gave its core up to wait.
    pub wakes: f64,
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { cpu: self.cpu.saturating_sub(before.cpu), wakes: self.wakes - before.wakes }
    }
}

impl Subject {
    /// Starts one. All targets are the same server, so the limits for one server are out of the way.
    pub fn start(rig: &Rig, targets: u32, security: Security, metrics: Metrics, events: Events) -> Self {
        rig.senders.disconnect();
        let directory = directory(rig);
        let collector = rig.collector();
        let mut text = text(rig, &collector.otlp, targets, security, metrics, &directory);
        let port = free_port();
        if events == Events::On {
            text.push_str(&Senders::of_agent(&directory, port));
        }
        let this = Self::launch(&directory, &text, collector);
        if events == Events::On {
            rig.senders.connect(port);
        }
        this
    }

    /// Starts one in clear text with metrics whose targets are a server each, of these targets those of its shard.
    pub fn start_shard(rig: &Rig, targets: u32, shard: Option<&str>) -> Self {
        let directory = directory(rig);
        let collector = rig.collector();
        let (port, otlp) = (rig.dovecot.plain, &collector.otlp);
        let shard = shard.map(|shard| format!("shard = {shard:?}\n")).unwrap_or_default();
        let mut text = format!(
            "[agent]\nlog_level = \"warn\"\n{shard}[defaults]\ninterval = \"{}s\"\ntimeout = \"5s\"\nsecurity = \"none\"\n\
             [defaults.deadlines]\ngreeting = \"5s\"\ncommand = \"5s\"\n[state]\ndir = {:?}\n[otlp]\nendpoint = {otlp:?}\n\
             protocol = \"grpc\"\n[metrics]\nexport_interval = \"5s\"\nseries_limit = 10000000\n[http]\nlisten = \"off\"\n",
            INTERVAL_OF_SHARDS.as_secs(),
            directory.join("state").display().to_string(),
        );
        for number in 0..targets {
            let (user, address) = (number % USERS + 1, server_address(number));
            write!(
                text,
                "[[targets]]\nname = \"mail{number:05}.example.org\"\nurl = \"imap://{address}:{port}\"\nuser = \"load{user}\"\n\
                 password = {{ env = \"BENCH_PASSWORD\" }}\n"
            )
            .unwrap();
        }
        Self::launch(&directory, &text, collector)
    }

    fn launch(directory: &Path, text: &str, collector: Collector) -> Self {
        let config = directory.join("imaptrace.toml");
        fs::write(&config, text).unwrap();
        let mut command = Command::new(program());
        command.args(["agent", "--config"]).arg(&config).env_clear().env("BENCH_PASSWORD", "load");
        let log = File::create(directory.join("agent.log")).unwrap();
        let mut process = Process::start(command, &log);
        std::thread::sleep(Duration::from_millis(500));
        if let Ok(Some(status)) = process.0.try_wait() {
            panic!("the agent ended with {status}:\n{}", fs::read_to_string(directory.join("agent.log")).unwrap());
        }
        Self { process, collector }
    }

    /// Bytes that it has written to files so far.
    pub fn written(&self) -> f64 {
        field(&self.proc("io"), "write_bytes:").unwrap()
    }

    /// What its Collector has counted.
    pub fn counts(&self, rig: &Rig) -> Counts {
        rig.counts(&self.collector)
    }

    fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.process.0.id())).unwrap()
    }

    pub fn usage(&self) -> Usage {
        let stat = self.proc("stat");
        // Behind the name, which may hold anything: state is the 3rd field, utime and stime the 14th and 15th.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        let second = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap();
        let second = u64::try_from(second).unwrap();
        let wakes = self.tasks("voluntary_ctxt_switches:");
        Usage { cpu: Duration::from_millis(ticks * 1_000 / second), wakes }
    }

    /// The sum over all threads.
    fn tasks(&self, key: &str) -> f64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.0.id())).unwrap();
        tasks
            .filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok())
            .filter_map(|status| field(&status, key))
            .sum()
    }

    /// Resident memory in bytes.
    pub fn rss(&self) -> f64 {
        field(&self.proc("status"), "VmRSS:").unwrap() * 1024.0
    }
}

fn directory(rig: &Rig) -> PathBuf {
    tempfile::Builder::new().prefix("agent-").tempdir_in(rig.directory.path()).unwrap().keep()
}

/// The address of the server with this number, one for each.
pub fn server_address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 0)) + number)
}

fn field(status: &str, key: &str) -> Option<f64> {
    status.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok())
}

fn program() -> PathBuf {
    let path = std::env::var_os("AGENT_IMAPTRACE").map(PathBuf::from).filter(|path| path.is_file());
    path.unwrap_or_else(|| panic!("AGENT_IMAPTRACE names no program: run scripts/bench-agent.sh, which builds it"))
}

fn text(rig: &Rig, otlp: &str, targets: u32, security: Security, metrics: Metrics, directory: &Path) -> String {
    let table = match metrics {
        Metrics::On => "otlp",
        Metrics::Off => "otlp.traces",
    };
    let (scheme, port, word) = match security {
        Security::Plain => ("imap", rig.dovecot.plain, "none"),
        Security::Tls => ("imaps", rig.dovecot.tls, "tls"),
    };
    let mut text = format!(
        "[agent]\nlog_level = \"warn\"\n[defaults]\ninterval = \"{}s\"\ntimeout = \"5s\"\nsecurity = {word:?}\nca_file = {:?}\n\
         [defaults.deadlines]\ngreeting = \"5s\"\ncommand = \"5s\"\n[state]\ndir = {:?}\n[{table}]\nendpoint = {otlp:?}\nprotocol = \"grpc\"\n\
         [metrics]\nexport_interval = \"5s\"\nseries_limit = 10000000\n\
         [http]\nlisten = \"off\"\n[limits]\nruns_in_flight = 1000\nruns_in_flight_per_server = 1000\nlogins_per_second_per_server = 0\n",
        INTERVAL.as_secs(),
        rig.dovecot.ca.display().to_string(),
        directory.join("state").display().to_string(),
    );
    for number in 0..targets {
        let user = number % USERS + 1;
        write!(
            text,
            "[[targets]]\nname = \"mail{number:05}.example.org\"\nurl = \"{scheme}://127.0.0.1:{port}\"\n\
             user = \"load{user}\"\npassword = {{ env = \"BENCH_PASSWORD\" }}\n"
        )
        .unwrap();
    }
    text
}

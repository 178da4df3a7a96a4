//! Who is compared, and what so many runs cost it: user and system time of its process, from its start to its end.
//!
//! A client is run twice, for one run and for as many more as asked for; the difference is what those cost, without its
//! start, its connectors and its end.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::Ordering,
    time::Duration,
};

use imaptrace::clock;
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::{TimeVal, TimeValLike as _},
};

use crate::{
    bare,
    stage::{ACCOUNT, Process, Stage},
    support::program::{free_port, wait_until},
};

/// How the connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    Plain,
    Tls,
}

/// Names are keys: the tables look for them.
pub type Name = &'static str;
pub const IMAPTRACE: Name = "**imaptrace**, everything on, exporting";
pub const BARE: Name = "bare blocking client";
/// Only over TLS.
pub const BARE_ANEW: Name = "bare, a TLS context for each run";
pub const ASYNC_IMAP: Name = "async-imap 0.12 on tokio";
pub const IMAPLIB: Name = "Python imaplib";
pub const BLACKBOX: Name = "blackbox_exporter";
/// imaptrace with something off.
pub const VARIANTS: [Name; 4] =
    ["without export", "without kernel stamps", "without TCP_QUICKACK", "without any of the three"];

/// What one run costs.
#[derive(Debug, Clone, Copy)]
pub struct PerRun {
    /// User and system time, µs.
    pub cpu: f64,
    /// From one run's start to the next one's, µs.
    pub wall: f64,
}

/// A client and how to have it open the mailbox so many times.
pub struct Client<'a> {
    pub name: Name,
    play: Box<dyn Fn(u32) -> Result<Usage, String> + 'a>,
}

struct Usage {
    cpu: Duration,
    wall: Duration,
}

impl Client<'_> {
    /// One run, which also warms what there is to warm; else why it cannot.
    pub fn check(&self) -> Result<(), String> {
        (self.play)(1).map(drop)
    }

    /// What each of `runs` runs costs.
    pub fn cost(&self, runs: u32) -> PerRun {
        let play = |runs| (self.play)(runs).unwrap_or_else(|problem| panic!("{}: {problem}", self.name));
        let (one, all) = (play(1), play(1 + runs));
        let each = |one: Duration, all: Duration| (all.as_secs_f64() - one.as_secs_f64()) * 1e6 / f64::from(runs);
        PerRun { cpu: each(one.cpu, all.cpu), wall: each(one.wall, all.wall) }
    }
}

/// Everybody.
pub fn all(stage: &Stage, security: Security) -> Vec<Client<'_>> {
    let (port, ca) = match security {
        Security::Plain => (stage.dovecot.plain, None),
        Security::Tls => (stage.dovecot.tls, Some(stage.dovecot.ca.clone())),
    };
    let server = SocketAddr::from(([127, 0, 0, 1], port));
    let (user, password) = ACCOUNT;
    let bare = |name, how: &'static str| {
        let ca = ca.clone();
        child(name, move |runs| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args([how, &server.to_string()]).arg(stage.dialogue()).arg(runs.to_string()).args(&ca);
            command
        })
    };
    let mut clients = vec![bare(BARE, "bare")];
    if security == Security::Tls {
        clients.push(bare(BARE_ANEW, "bare-anew"));
    }
    clients.extend([
        child(ASYNC_IMAP, {
            let ca = ca.clone();
            move |runs| {
                let mut command = Command::new(&stage.async_imap);
                command.args([&server.to_string(), user, password, &runs.to_string()]).args(&ca);
                command
            }
        }),
        child(IMAPLIB, {
            let ca = ca.clone();
            move |runs| {
                let mut command = Command::new("/usr/bin/python3");
                command
                    .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/cost/imaplib_loop.py"))
                    .args([&server.ip().to_string(), &port.to_string(), user, password, &runs.to_string()])
                    .args(&ca);
                command
            }
        }),
        blackbox(stage, server, ca.as_deref()),
    ]);
    clients.push(imaptrace(stage, IMAPTRACE, server, ca.as_deref(), Off::default()));
    let off = [
        Off { export: true, ..Off::default() },
        Off { stamps: true, ..Off::default() },
        Off { quickack: true, ..Off::default() },
        Off { export: true, stamps: true, quickack: true },
    ];
    clients.extend(VARIANTS.into_iter().zip(off).map(|(name, off)| imaptrace(stage, name, server, ca.as_deref(), off)));
    clients
}

/// What a variant goes without.
#[derive(Debug, Clone, Copy, Default)]
struct Off {
    export: bool,
    stamps: bool,
    quickack: bool,
}

fn imaptrace<'a>(stage: &'a Stage, name: Name, server: SocketAddr, ca: Option<&Path>, off: Off) -> Client<'a> {
    let ca = ca.map(Path::to_owned);
    let play = move |runs: u32| {
        let mut command = Command::new(&stage.imaptrace);
        let (user, password) = ACCOUNT;
        command.args(["probe", "--user", user, "--output=json", "--every=0", &format!("--count={runs}")]);
        match &ca {
            None => command.arg(format!("imap://{server}/INBOX")).arg("--security=none"),
            Some(ca) => command.arg(format!("imaps://{server}/INBOX")).arg("--ca-file").arg(ca),
        };
        // Nothing of the caller's: variables of OpenTelemetry or imaptrace would change what is measured.
        command.env_clear().env("IMAPTRACE_PASSWORD", password);
        if !off.export {
            command.args(["--otlp-protocol=grpc", &format!("--otlp-endpoint={}", stage.otlp)]);
        }
        for (key, is_off) in [("KERNEL_STAMPS", off.stamps), ("QUICKACK", off.quickack)] {
            if is_off {
                command.env(format!("IMAPTRACE__LATENCY__{key}"), "false");
            }
        }
        let usage = run(command)?;
        if !off.export {
            stage.exported.fetch_add(u64::from(runs), Ordering::Relaxed);
        }
        Ok(usage)
    };
    Client { name, play: Box::new(play) }
}

fn child<'a>(name: Name, command: impl Fn(u32) -> Command + 'a) -> Client<'a> {
    Client { name, play: Box::new(move |runs| run(command(runs))) }
}

fn run(mut command: Command) -> Result<Usage, String> {
    usage(|| {
        let output = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output();
        let output = output.map_err(|error| format!("{command:?}: {error}"))?;
        let words = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            return Ok(());
        }
        // The line that says why, if one does.
        let why = words.lines().find(|line| line.starts_with("error")).unwrap_or_else(|| words.trim());
        Err(format!("{} ({why})", output.status))
    })
}

/// What the children that ended meanwhile have used. There are no others: all here wait for one after the other.
fn usage(work: impl FnOnce() -> Result<(), String>) -> Result<Usage, String> {
    let cpu = || {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
        let micros = |time: TimeVal| u64::try_from(time.num_microseconds()).unwrap();
        Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time()))
    };
    let (before, begin) = (cpu(), clock::now());
    work()?;
    Ok(Usage { cpu: cpu().saturating_sub(before), wall: clock::now() - begin })
}

/// Debian's `blackbox_exporter` with the same dialogue in its own words, asked as Prometheus does: over one connection.
fn blackbox<'a>(stage: &'a Stage, server: SocketAddr, ca: Option<&Path>) -> Client<'a> {
    let config = stage.directory.path().join(if ca.is_some() { "blackbox-tls.yml" } else { "blackbox.yml" });
    std::fs::write(&config, module(&std::fs::read(stage.dialogue()).unwrap(), server, ca)).unwrap();
    let play = move |runs| usage(|| probe_with_blackbox(stage, &config, server, runs));
    Client { name: BLACKBOX, play: Box::new(play) }
}

fn probe_with_blackbox(stage: &Stage, config: &PathBuf, server: SocketAddr, runs: u32) -> Result<(), String> {
    let listen = format!("127.0.0.1:{}", free_port());
    let mut command = Command::new("prometheus-blackbox-exporter");
    command.arg("--config.file").arg(config).args(["--web.listen-address", &listen]);
    let _exporter = Process::start(command, &stage.directory.path().join("blackbox.log"));
    wait_until("blackbox_exporter answers", || std::net::TcpStream::connect(&listen).ok());
    let url = format!("http://{listen}/probe?module=imap&target={server}");
    stage.runtime.block_on(async {
        let prometheus = reqwest::Client::new();
        for _ in 0..runs {
            let answer = prometheus.get(&url).send().await.map_err(|error| error.to_string())?;
            let page = answer.text().await.map_err(|error| error.to_string())?;
            if !page.lines().any(|line| line == "probe_success 1") {
                return Err(format!("its probe failed:\n{page}"));
            }
        }
        Ok(())
    })
}

/// The dialogue as a module of `blackbox_exporter`: each line sent, and its tagged OK waited for.
fn module(dialogue: &[u8], server: SocketAddr, ca: Option<&Path>) -> String {
    let tls = ca.map(|ca| {
        let (file, name) = (ca.display(), server.ip());
        format!("      tls: true\n      tls_config: {{ ca_file: '{file}', server_name: '{name}' }}\n")
    });
    let turns = bare::lines(dialogue).into_iter().map(|line| {
        let line = std::str::from_utf8(line).unwrap().trim_end().replace('\'', "''");
        let tag = line.split(' ').next().unwrap();
        format!("        - send: '{line}'\n        - expect: '^{tag} OK'\n")
    });
    [
        "modules:\n  imap:\n    prober: tcp\n    timeout: 20s\n    tcp:\n      preferred_ip_protocol: ip4\n".to_owned(),
        tls.unwrap_or_default(),
        "      query_response:\n        - expect: '^\\* OK'\n".to_owned(),
    ]
    .into_iter()
    .chain(turns)
    .collect()
}

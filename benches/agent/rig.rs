//! One Dovecot and one Collector for all rows, and what the Collector counts.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::runtime::Runtime;

use crate::{
    senders::Senders,
    support::{
        backends::installed,
        dovecot::{Dovecot, Options},
        program::{free_port, wait_until},
    },
};

/// Mailboxes that the targets share out among themselves.
pub const USERS: u32 = 200;

/// Dovecot serves many sessions with each of its processes: else most of what the machine does is to fork.
const MANY: &str = "service imap {\n  client_limit = 200\n  process_limit = 200\n  process_min_avail = 8\n  \
                    service_count = 0\n}\nservice imap-login {\n  client_limit = 2000\n  process_min_avail = 6\n}\n\
                    default_client_limit = 15000\ndefault_vsz_limit = 2G\n";

/// What all rows use.
pub struct Rig {
    pub dovecot: Dovecot,
    pub senders: Senders,
    pub directory: tempfile::TempDir,
    runtime: Runtime,
}

/// The receiver of one agent, so that it counts nothing of another's.
pub struct Collector {
    pub otlp: String,
    metrics: String,
    _process: Process,
}

impl Rig {
    /// `everywhere`: Dovecot listens on all addresses of the host.
    pub fn set(everywhere: bool) -> Self {
        let senders = Senders::start();
        let listen = if everywhere { "listen = 0.0.0.0\n" } else { "" };
        let settings = format!("{MANY}{listen}{}", senders.settings());
        Self {
            dovecot: Dovecot::start(&Options { load_users: USERS, settings, ..Options::default() }),
            senders,
            directory: tempfile::Builder::new().prefix("agent-").tempdir().unwrap(),
            runtime: Runtime::new().unwrap(),
        }
    }

    /// Starts a Collector.
    pub fn collector(&self) -> Collector {
        let (otlp, health, metrics) = (free_port(), free_port(), free_port());
        let mut command = Command::new(installed("otelcol"));
        command
            .args(["--config", concat!(env!("CARGO_MANIFEST_DIR"), "/benches/cost/collector.yaml")])
            .env("COLLECTOR_OTLP_GRPC", format!("127.0.0.1:{otlp}"))
            .env("COLLECTOR_HEALTH", format!("127.0.0.1:{health}"))
            .env("COLLECTOR_PROMETHEUS", format!("127.0.0.1:{metrics}"));
        let log = File::create(self.directory.path().join(format!("collector-{otlp}.log"))).unwrap();
        let process = Process::start(command, &log);
        wait_until("the Collector is ready", || self.get(&format!("http://127.0.0.1:{health}/")));
        Collector {
            otlp: format!("http://127.0.0.1:{otlp}"),
            metrics: format!("http://127.0.0.1:{metrics}/metrics"),
            _process: process,
        }
    }

    fn get(&self, url: &str) -> Option<String> {
        self.runtime.block_on(async { reqwest::get(url).await?.error_for_status()?.text().await }).ok()
    }

    /// What a Collector has counted up to now.
    pub fn counts(&self, collector: &Collector) -> Counts {
        Counts::read(&self.get(&collector.metrics).unwrap_or_default())
    }

    /// What was measured on.
    pub fn machine() -> String {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let version = Command::new("dovecot").arg("--version").output().map(|output| output.stdout).unwrap_or_default();
        format!(
            "Machine: {} × {}, Linux {}, load {} at the start. Dovecot {}.",
            std::thread::available_parallelism().map_or(0, usize::from),
            model.map_or("CPU of unknown make", |(_, name)| name.trim()),
            read("/proc/sys/kernel/osrelease").trim(),
            read("/proc/loadavg").split(' ').next().unwrap_or_default(),
            String::from_utf8_lossy(&version).trim(),
        )
    }
}

/// The Collector's page, read for what the bench asks.
#[derive(Debug, Default)]
pub struct Counts {
    /// Root spans that arrived.
    pub runs: f64,
    /// Runs with an `error.type`.
    pub failed: f64,
    pub skipped: f64,
    /// Events that joined a run.
    pub joined: f64,
    /// Accounts that have had a run.
    pub accounts: f64,
    /// Series as OpenTelemetry counts them: a histogram is one.
    pub series: f64,
    /// Starts by the upper bound of their lag in seconds.
    lags: BTreeMap<u64, f64>,
    starts: f64,
}

impl Counts {
    fn read(page: &str) -> Self {
        let mut counts = Self::default();
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, value)) =
                line.rsplit_once(' ').and_then(|(name, value)| Some((name, value.parse::<f64>().ok()?)))
            else {
                continue;
            };
            if name.starts_with("traces_span_metrics_calls_total{") && name.contains(r#"span_name="probe first-load""#)
            {
                counts.runs += value;
            }
            let ours = name.starts_with("imaptrace_") || name.starts_with("imap_");
            if !ours {
                continue;
            }
            let metric = name.split('{').next().unwrap_or_default();
            if !metric.ends_with("_bucket") && !metric.ends_with("_sum") {
                counts.series += 1.0;
            }
            match metric {
                "imaptrace_server_events_total" if name.contains(r#"outcome="joined""#) => counts.joined += value,
                "imaptrace_probe_last_run_time_seconds" => counts.accounts += 1.0,
                "imaptrace_probe_skipped_total" => counts.skipped += value,
                "imaptrace_probe_duration_seconds_count" if name.contains("error_type=") => counts.failed += value,
                "imaptrace_scheduler_start_lag_seconds_count" => counts.starts += value,
                "imaptrace_scheduler_start_lag_seconds_bucket" => {
                    let bound = name.split("le=\"").nth(1).and_then(|rest| rest.split('"').next());
                    if let Some(bound) =
                        bound.and_then(|bound| bound.parse::<f64>().ok()).filter(|bound| bound.is_finite())
                    {
                        #[expect(
                            clippy::cast_possible_truncation,
                            clippy::cast_sign_loss,
                            reason = "bounds are 0.5 ms to 60 s"
                        )]
                        let micros = (bound * 1e6) as u64;
                        *counts.lags.entry(micros).or_default() += value;
                    }
                }
                _ => {}
            }
        }
        counts
    }

    /// The bound of the bucket that 99 of 100 starts lie below, in seconds.
    pub fn lag_bound(&self) -> f64 {
        let found = self.lags.iter().find(|(_, below)| **below >= 0.99 * self.starts);
        #[expect(clippy::cast_precision_loss, reason = "at most 60 s in µs")]
        let bound = found.map_or(f64::INFINITY, |(micros, _)| *micros as f64 / 1e6);
        if self.starts > 0.0 { bound } else { f64::NAN }
    }

    /// The same for people.
    pub fn lag(&self) -> String {
        format!("≤ {} ms", self.lag_bound() * 1e3)
    }
}

/// A child that ends when it is dropped.
pub struct Process(pub Child);

impl Process {
    /// Starts it; what it says goes to the file.
    pub fn start(mut command: Command, log: &File) -> Self {
        let log = || log.try_clone().unwrap();
        let child = command.stdin(Stdio::null()).stdout(log()).stderr(log()).spawn();
        Self(child.unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Not yet waited for, so the number is still its own.
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap_or_default());
        kill(pid, Signal::SIGTERM).unwrap_or(());
        drop(self.0.wait());
    }
}

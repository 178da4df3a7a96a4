//! What all clients are measured against: one Dovecot, one mailbox, one Collector; and the dialogue of one of our runs.

use std::{
    env,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::runtime::Runtime;

use crate::support::{
    backends::installed,
    dovecot::{Dovecot, Options, USER1},
    program::{free_port, wait_until},
    proxy::Proxy,
};

/// Who logs in, and with which password.
pub const ACCOUNT: (&str, &str) = USER1;
const MESSAGES: u32 = 200;

/// All of it, running; ended on drop.
pub struct Stage {
    /// For what needs one: the proxy, requests over HTTP, the silent server.
    pub runtime: Runtime,
    pub dovecot: Dovecot,
    /// Dovecot's, for the machine's line.
    pub server_version: String,
    /// Where imaptrace exports to, over gRPC.
    pub otlp: String,
    /// The program as it is shipped.
    pub imaptrace: PathBuf,
    /// benches/peers.
    pub async_imap: PathBuf,
    /// For files of the clients.
    pub directory: tempfile::TempDir,
    /// The runs that were handed to the Collector.
    pub exported: AtomicU64,
    metrics: String,
    _collector: Process,
}

impl Stage {
    /// Starts everything, and lets imaptrace open the mailbox once through a proxy that keeps the bytes.
    pub fn set() -> Self {
        let directory = tempfile::Builder::new().prefix("cost-").tempdir().unwrap();
        let dovecot = Dovecot::start(&Options { messages: MESSAGES, ..Options::default() });
        let (otlp, health, metrics) = (free_port(), free_port(), free_port());
        let mut collector = Command::new(installed("otelcol"));
        collector
            .args(["--config", concat!(env!("CARGO_MANIFEST_DIR"), "/benches/cost/collector.yaml")])
            .env("COLLECTOR_OTLP_GRPC", format!("127.0.0.1:{otlp}"))
            .env("COLLECTOR_HEALTH", format!("127.0.0.1:{health}"))
            .env("COLLECTOR_PROMETHEUS", format!("127.0.0.1:{metrics}"));
        let stage = Self {
            runtime: Runtime::new().unwrap(),
            dovecot,
            server_version: version("dovecot", "--version"),
            otlp: format!("http://127.0.0.1:{otlp}"),
            imaptrace: built("COST_IMAPTRACE"),
            async_imap: built("COST_ASYNC_IMAP"),
            exported: AtomicU64::new(0),
            metrics: format!("http://127.0.0.1:{metrics}/metrics"),
            _collector: Process::start(collector, &directory.path().join("collector.log")),
            directory,
        };
        wait_until("the Collector is ready", || stage.get(&format!("http://127.0.0.1:{health}/")));
        std::fs::write(stage.dialogue(), stage.record()).unwrap();
        stage
    }

    /// The file with what imaptrace says in a run, tags and all.
    pub fn dialogue(&self) -> PathBuf {
        self.directory.path().join("dialogue")
    }

    fn record(&self) -> Vec<u8> {
        let server = ([127, 0, 0, 1], self.dovecot.plain).into();
        let proxy = self.runtime.block_on(Proxy::start(server));
        let output = Command::new(&self.imaptrace)
            .args(["probe", &format!("imap://{}/INBOX", proxy.address), "--security=none", "--user", ACCOUNT.0])
            .args(["--output", "json"])
            .env("IMAPTRACE_PASSWORD", ACCOUNT.1)
            .output()
            .unwrap();
        assert!(output.status.success(), "imaptrace cannot open the mailbox:\n{output:?}");
        proxy.conversations().swap_remove(0).sent
    }

    /// The body of a page, if there is one.
    pub fn get(&self, url: &str) -> Option<String> {
        self.runtime.block_on(async { reqwest::get(url).await?.error_for_status()?.text().await }).ok()
    }

    /// Waits until the Collector has counted every run that was exported: an export that is lost costs less.
    pub fn all_arrived(&self) {
        let exported = self.exported.load(Ordering::Relaxed);
        wait_until(&format!("the Collector has {exported} runs"), || {
            let page = self.get(&self.metrics)?;
            let calls = page.lines().filter(|line| {
                line.starts_with("traces_span_metrics_calls_total{") && line.contains(r#"span_name="probe first-load""#)
            });
            let counted: f64 = calls.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
            #[expect(clippy::cast_precision_loss, reason = "thousands")]
            let all = (counted - exported as f64).abs() < 0.5;
            all.then_some(())
        });
    }
}

fn built(variable: &str) -> PathBuf {
    let path = env::var_os(variable).map(PathBuf::from).filter(|path| path.is_file());
    path.unwrap_or_else(|| panic!("{variable} names no program: run scripts/bench-cost.sh, which builds it"))
}

/// The first line that a program says of itself.
pub fn version(program: &str, flag: &str) -> String {
    let output = Command::new(program).arg(flag).output();
    let text = output.map(|output| String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned());
    text.unwrap_or_default().lines().next().unwrap_or("not found").to_owned()
}

/// A child that ends when it is dropped.
pub struct Process(Child);

impl Process {
    /// Starts it; what it says goes to the file.
    pub fn start(mut command: Command, log: &Path) -> Self {
        let log = File::create(log).unwrap();
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn();
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

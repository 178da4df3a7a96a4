//! `imaptrace replay`: sends runs again that are in files.
//!
//! Files are opened and read on a thread of its own: a FIFO without a writer, a silent pipe or a hung mount holds up that thread,
//! and neither a signal nor the end of the command.

use std::{
    fs::File,
    future::Future,
    io::{self, Read},
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use imaptrace_record::{Run, escape};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::{mpsc, oneshot};

use super::{
    args::ReplayArgs,
    environment::{Environment, environment},
    exit_code::{FAILED, PASSED, USAGE},
    output::Output,
    probe::given,
    signals::Signals,
};
use crate::{
    agent::wiring,
    config::{self, Sources},
    delivery::{BadLine, Lines, Replay, ReplayOutcome},
    probe::Cancel,
    telemetry::logs::{self, LogSettings},
    terminal::Style,
};

/// Lines that are reported one by one; of the others, how many.
const TOLD: u64 = 20;
/// Lines that are read ahead of what is sent.
const AHEAD: usize = 64;

pub(super) async fn run(args: ReplayArgs, output: &mut Output) -> u8 {
    let signals = match Signals::catch() {
        Ok(signals) => signals,
        Err(error) => {
            output.error(&format!("cannot listen for signals: {error}"));
            return FAILED;
        }
    };
    let replay = match unless_stopped(&signals, prepare(&args, output)).await {
        Some(Ok(replay)) => replay,
        Some(Err(problem)) => {
            output.errors(&problem);
            return USAGE;
        }
        None => {
            output.error("stopped\n  help: nothing was sent");
            return signals.early_code();
        }
    };
    let progress = progress(output.error_style());
    let mut sender = ReplaySender { replay, batch: Vec::new(), spans: 0, tally: Tally::default(), progress, output };
    let mut found = match read(args.files) {
        Ok(found) => found,
        Err(error) => {
            sender.output.error(&format!("cannot start the thread that reads: {error}"));
            return FAILED;
        }
    };
    let mut all_read = false;
    let all = async {
        all_read = sender.all(&mut found, signals.stopped().clone()).await;
        sender.send().await;
    };
    // What was read is sent also after a signal, if that does not take long.
    let in_time = tokio::select! {
        () = all => true,
        () = signals.overdue() => false,
    };
    sender.conclude(Some(&signals).filter(|_| !(all_read && in_time)))
}

/// What comes of it, unless a signal comes first.
async fn unless_stopped<T>(signals: &Signals, work: impl Future<Output = T>) -> Option<T> {
    let mut stopped = signals.stopped().clone();
    tokio::select! {
        biased;
        Ok(_) = stopped.wait_for(|stopped| *stopped) => None,
        done = work => Some(done),
    }
}

async fn prepare(args: &ReplayArgs, output: &mut Output) -> Result<Replay, String> {
    let flags = given(&[
        ("otlp.endpoint", &args.otlp_endpoint, "--otlp-endpoint"),
        ("otlp.protocol", &args.otlp_protocol, "--otlp-protocol"),
    ]);
    let Environment { variables, not_utf8 } = environment();
    let exports = config::exports(&Sources { environment: variables, not_utf8, flags, ..Sources::default() });
    let exports = exports.map_err(|problems| problems.to_string())?;
    look_at(args.files.clone()).await?;
    // What was refused of a batch is heard by way of the log.
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "warn,imaptrace::delivery=off".to_owned());
    logs::init(&LogSettings { color: output.error_style().colour, filter: Some(filter), ..LogSettings::default() })
        .map_err(|error| format!("error: {error}"))?;
    let replay = wiring::replay(&exports).await.map_err(|error| format!("error: {error}"))?;
    replay.ok_or_else(|| {
        "error: there is no OTLP endpoint to send the runs to\n  help: give --otlp-endpoint http://localhost:4317, or set \
         OTEL_EXPORTER_OTLP_ENDPOINT"
            .to_owned()
    })
}

/// Whether the files are there. A pipe is opened once, when its turn comes: its writer would lose its reader.
async fn look_at(files: Vec<PathBuf>) -> Result<(), String> {
    let (tell, told) = oneshot::channel();
    let look = move || {
        let cannot =
            |file: &PathBuf, error: io::Error| format!("error: {}: {error}", escape(&file.display().to_string()));
        let wrong = files
            .iter()
            .find_map(|file| if is_pipe(file) { None } else { open(file).err().map(|error| cannot(file, error)) });
        // Who has been stopped does not ask any more.
        let _ = tell.send(wrong.map_or(Ok(()), Err));
    };
    let started = std::thread::Builder::new().name("files".to_owned()).spawn(look);
    started.map_err(|error| format!("error: cannot start the thread that reads: {error}"))?;
    told.await.unwrap_or(Ok(()))
}

#[expect(clippy::disallowed_methods, reason = "on a thread of its own")]
fn is_pipe(file: &Path) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo())
}

#[expect(clippy::disallowed_methods, reason = "on a thread of its own")]
fn open(file: &Path) -> io::Result<Box<dyn Read>> {
    if file == Path::new("-") {
        return Ok(Box::new(io::stdin()));
    }
    let opened = File::open(file)?;
    if opened.metadata()?.is_dir() { Err(io::ErrorKind::IsADirectory.into()) } else { Ok(Box::new(opened)) }
}

/// What a file held.
enum ReplayItem {
    /// Its turn has come.
    File(String),
    /// A line of it.
    Line(Result<Box<Run>, BadLine>),
    /// It cannot be read.
    Unreadable(io::Error),
}

/// Begins to read the files, one after the other, on a thread that ends with the process if nothing else ends it.
fn read(files: Vec<PathBuf>) -> io::Result<mpsc::Receiver<ReplayItem>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let all = move || {
        for file in files {
            let mut go_on = sender.blocking_send(ReplayItem::File(file.display().to_string())).is_ok();
            match open(&file).and_then(Lines::new) {
                Ok(mut lines) => {
                    while go_on && let Some(line) = lines.next() {
                        go_on = sender.blocking_send(ReplayItem::Line(line.map(Box::new))).is_ok();
                    }
                }
                Err(error) => go_on &= sender.blocking_send(ReplayItem::Unreadable(error)).is_ok(),
            }
            if !go_on {
                break;
            }
        }
    };
    std::thread::Builder::new().name("files".to_owned()).spawn(all)?;
    Ok(receiver)
}

/// A line that says how far it is, on a terminal that can redraw it.
fn progress(style: Style) -> ProgressBar {
    if !style.colour {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    match ProgressStyle::with_template("{pos} runs delivered, {per_sec:.0}, {msg}") {
        Ok(look) => bar.with_style(look),
        Err(_) => bar,
    }
}

struct ReplaySender<'a> {
    replay: Replay,
    batch: Vec<Arc<Run>>,
    spans: usize,
    tally: Tally,
    progress: ProgressBar,
    output: &'a mut Output,
}

/// What came of it all.
#[derive(Default)]
struct Tally {
    runs: u64,
    spans: u64,
    refused_spans: u64,
    unreadable: u64,
    undelivered: u64,
    away: Option<String>,
}

impl ReplaySender<'_> {
    /// Sends the runs of all files, as far as there is sense in going on; the last of them are in the batch then. False where
    /// a signal came first: then those that had been read.
    async fn all(&mut self, found: &mut mpsc::Receiver<ReplayItem>, mut stopped: Cancel) -> bool {
        let mut name = String::new();
        let mut left = None;
        loop {
            let next = match &mut left {
                Some(0) => None,
                Some(left) => {
                    *left -= 1;
                    found.try_recv().ok()
                }
                None => tokio::select! {
                    biased;
                    Ok(_) = stopped.wait_for(|stopped| *stopped) => {
                        left = Some(found.len());
                        continue;
                    }
                    next = found.recv() => next,
                },
            };
            let Some(next) = next else { return left.is_none() };
            match next {
                ReplayItem::File(file) => {
                    self.progress.set_message(file.clone());
                    name = file;
                }
                ReplayItem::Line(Ok(run)) => {
                    self.spans += Replay::spans(&run);
                    self.batch.push(Arc::from(run));
                    if self.spans >= Replay::BATCH_SPANS && !self.send().await {
                        return true;
                    }
                }
                // The message speaks of the file.
                ReplayItem::Line(Err(bad)) => {
                    self.unreadable(&format!("{name}:{}: {}", bad.line, escape(&bad.problem)));
                }
                ReplayItem::Unreadable(error) => self.unreadable(&format!("{name}: {error}")),
            }
        }
    }

    fn unreadable(&mut self, what: &str) {
        self.tally.unreadable += 1;
        if self.tally.unreadable <= TOLD {
            self.progress.suspend(|| self.output.warn(what));
        }
    }

    /// Sends the batch; false when the receiver is away. Where a signal breaks it off, the batch stays.
    async fn send(&mut self) -> bool {
        if self.batch.is_empty() || self.tally.away.is_some() {
            return self.tally.away.is_none();
        }
        let (runs, spans) = (self.batch.len() as u64, self.spans as u64);
        let sent = self.replay.send(&self.batch).await;
        (self.batch, self.spans) = (Vec::new(), 0);
        match sent {
            ReplayOutcome::Delivered { refused_spans } => {
                self.tally.runs += runs;
                self.tally.spans += spans.saturating_sub(refused_spans);
                self.tally.refused_spans += refused_spans;
                self.progress.inc(runs);
                true
            }
            ReplayOutcome::Refused(reason) => {
                self.tally.undelivered += runs;
                let what = format!("{} refuses {runs} runs: {reason}", self.replay.endpoint());
                self.progress.suspend(|| self.output.warn(&what));
                true
            }
            ReplayOutcome::Unreachable(reason) => {
                self.tally.undelivered += runs;
                self.tally.away = Some(reason);
                false
            }
        }
    }

    /// Says how it ended, and gives the exit code.
    fn conclude(self, stopped: Option<&Signals>) -> u8 {
        self.progress.finish_and_clear();
        let endpoint = self.replay.endpoint();
        let (tally, output) = (self.tally, self.output);
        let plural = |number: u64| if number == 1 { "" } else { "s" };
        let (runs, spans) = (tally.runs, tally.spans);
        output.print(&format!("{runs} run{} ({spans} span{}) delivered to {endpoint}\n", plural(runs), plural(spans)));
        if tally.unreadable > TOLD {
            output.warn(&format!("{} more places could not be read", tally.unreadable - TOLD));
        }
        if tally.refused_spans > 0 {
            output.warn(&format!("{endpoint} refused {} spans of what it took", tally.refused_spans));
        }
        if let Some(reason) = &tally.away {
            output.error(&format!(
                "cannot deliver to {endpoint}: {reason}; {} runs and all behind them were not delivered\n  help: is an \
                 OTLP receiver there that speaks this protocol? what is sent twice has the same ids",
                tally.undelivered
            ));
        }
        if let Some(signals) = stopped {
            let what = match self.batch.len() {
                0 => "what was not read yet was not sent".to_owned(),
                1 => "1 run that was read may not have arrived, and what is behind it was not sent".to_owned(),
                left => {
                    format!("{left} runs that were read may not have arrived, and what is behind them was not sent")
                }
            };
            output.error(&format!("stopped: {what}\n  help: what is sent twice has the same ids"));
            return signals.early_code();
        }
        let complete = tally.undelivered + tally.unreadable + tally.refused_spans == 0;
        if complete { PASSED } else { FAILED }
    }
}

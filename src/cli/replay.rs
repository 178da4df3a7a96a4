//! `imaptrace replay`: sends the runs in files again.
//!
//! [`run_reader`](super::run_reader) opens and reads the files, on a thread of its own.

use std::{io, sync::Arc};

use imaptrace_record::Run;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::{mpsc, oneshot};

use super::{
    args::ReplayArgs,
    environment::environment,
    exit_code::{FAILED, PASSED, USAGE},
    output::Output,
    probe::given,
    run_reader::{self, RunSource, RunVisitor},
    signals::Signals,
};
use crate::{
    agent::wiring,
    config::{self, Sources},
    delivery::{Replay, ReplayOutcome},
    probe::Cancel,
    terminal::Style,
};

/// The most problems that are reported one by one; the others are counted.
const MOST_REPORTED: u64 = 20;
/// Lines that are read ahead of what is sent.
const AHEAD: usize = 64;

pub(super) async fn run(args: ReplayArgs, signals: Signals, output: &mut Output) -> u8 {
    let sources: Arc<[_]> = args.files.iter().cloned().map(RunSource::of).collect();
    let replay = match signals.unless_stopped(prepare(&args, sources.clone(), output)).await {
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
    let mut found = match read(sources) {
        Ok(found) => found,
        Err(error) => {
            output.error(&format!("cannot start the thread that reads: {error}"));
            return FAILED;
        }
    };
    let progress = progress(output.error_style);
    let mut sender = ReplaySender { replay, batch: Vec::new(), spans: 0, tally: Tally::default(), progress, output };
    let mut all_read = false;
    let all = async {
        all_read = sender.all(&mut found, signals.stopped.clone()).await;
        sender.send().await;
    };
    // What was read is sent even after a signal, if that does not take long.
    let in_time = tokio::select! {
        () = all => true,
        () = signals.overdue() => false,
    };
    sender.conclude(Some(&signals).filter(|_| !(all_read && in_time)))
}

async fn prepare(args: &ReplayArgs, sources: Arc<[RunSource]>, output: &mut Output) -> Result<Replay, String> {
    let flags = given(&[
        ("otlp.endpoint", &args.otlp_endpoint, "--otlp-endpoint"),
        ("otlp.protocol", &args.otlp_protocol, "--otlp-protocol"),
    ]);
    let exports = config::exports(&Sources { flags, ..environment() }).map_err(|problems| problems.to_string())?;
    check(sources).await?;
    // A partly refused batch is reported by the log.
    output.start_log("warn,imaptrace::delivery=off")?;
    let replay = wiring::replay(&exports).await.map_err(|error| format!("error: {error}"))?;
    replay.ok_or_else(|| {
        "error: there is no OTLP endpoint to send the runs to\n  help: give --otlp-endpoint http://localhost:4317, or set \
         OTEL_EXPORTER_OTLP_ENDPOINT"
            .to_owned()
    })
}

/// Tests whether the files can be opened.
async fn check(sources: Arc<[RunSource]>) -> Result<(), String> {
    let (sender, checked) = oneshot::channel();
    let check = move || {
        // It fails after a signal.
        let _ = sender.send(sources.iter().try_for_each(RunSource::check));
    };
    run_reader::on_thread(check).map_err(|error| format!("error: cannot start the thread that reads: {error}"))?;
    checked.await.unwrap_or(Ok(()))
}

/// What is read from files.
enum ReplayItem {
    /// The next file begins.
    File(String),
    Run(Box<Run>),
    /// A line, or a file, cannot be read.
    Unreadable(String),
}

/// Begins to read the files, one after another.
fn read(sources: Arc<[RunSource]>) -> io::Result<mpsc::Receiver<ReplayItem>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    run_reader::on_thread(move || run_reader::read(&*sources, &mut ReadAhead(sender)))?;
    Ok(receiver)
}

/// Hands on what is read, as long as it is taken.
struct ReadAhead(mpsc::Sender<ReplayItem>);

impl RunVisitor for ReadAhead {
    fn file(&mut self, source: &RunSource) -> bool {
        self.0.blocking_send(ReplayItem::File(source.name())).is_ok()
    }

    fn run(&mut self, run: Run) -> bool {
        self.0.blocking_send(ReplayItem::Run(Box::new(run))).is_ok()
    }

    fn unreadable(&mut self, problem: String) -> bool {
        self.0.blocking_send(ReplayItem::Unreadable(problem)).is_ok()
    }
}

/// The progress line of a terminal that can redraw it.
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

/// The counts of the result.
#[derive(Default)]
struct Tally {
    runs: u64,
    spans: u64,
    refused_spans: u64,
    unreadable: u64,
    undelivered: u64,
    unreachable: Option<String>,
}

impl ReplaySender<'_> {
    /// Sends the runs of all files, and leaves the last in the batch. False if a signal came before all were read.
    async fn all(&mut self, found: &mut mpsc::Receiver<ReplayItem>, mut stopped: Cancel) -> bool {
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
            match next {
                None => return left.is_none(),
                Some(ReplayItem::File(file)) => self.progress.set_message(file),
                Some(ReplayItem::Run(run)) => {
                    self.spans += run.exported_spans();
                    self.batch.push(Arc::from(run));
                    if self.spans >= Replay::BATCH_SPANS && !self.send().await {
                        return true;
                    }
                }
                Some(ReplayItem::Unreadable(problem)) => {
                    self.tally.unreadable += 1;
                    if self.tally.unreadable <= MOST_REPORTED {
                        self.progress.suspend(|| self.output.warn(&problem));
                    }
                }
            }
        }
    }

    /// Sends the batch; false if the receiver cannot be reached. If a signal interrupts it, the batch stays.
    async fn send(&mut self) -> bool {
        if self.batch.is_empty() || self.tally.unreachable.is_some() {
            return self.tally.unreachable.is_none();
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
                self.tally.unreachable = Some(reason);
                false
            }
        }
    }

    /// Prints the result, and returns the exit code.
    fn conclude(self, stopped: Option<&Signals>) -> u8 {
        self.progress.finish_and_clear();
        let endpoint = self.replay.endpoint();
        let (tally, output) = (self.tally, self.output);
        let plural = |number: u64| if number == 1 { "" } else { "s" };
        let (runs, spans) = (tally.runs, tally.spans);
        output.print(&format!("{runs} run{} ({spans} span{}) delivered to {endpoint}\n", plural(runs), plural(spans)));
        if tally.unreadable > MOST_REPORTED {
            output.warn(&format!("{} more places could not be read", tally.unreadable - MOST_REPORTED));
        }
        if tally.refused_spans > 0 {
            output.warn(&format!("{endpoint} refused {} spans of accepted batches", tally.refused_spans));
        }
        if let Some(reason) = &tally.unreachable {
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

//! `imaptrace replay`: sends runs again that are in files.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Environment, FAILED, PASSED, USAGE, args::ReplayArgs, environment, output::Output, probe::given};
use crate::{
    agent::wiring,
    config::{self, Sources},
    delivery::{Lines, Replay, Sent},
    record::{Run, escape},
    telemetry::logs::{self, LogSettings},
    terminal::Style,
};

/// Lines that are reported one by one; of the others, how many.
const TOLD: u64 = 20;

pub(super) async fn run(args: ReplayArgs, child_env: Vec<(OsString, Option<OsString>)>, output: &mut Output) -> u8 {
    let replay = match prepare(&args, &child_env, output).await {
        Ok(replay) => replay,
        Err(problem) => {
            output.errors(&problem);
            return USAGE;
        }
    };
    let progress = progress(output.error_style());
    let mut sender = Sender { replay, batch: Vec::new(), spans: 0, tally: Tally::default(), progress, output };
    for file in &args.files {
        if !sender.file(file).await {
            break;
        }
    }
    sender.finish().await
}

async fn prepare(
    args: &ReplayArgs,
    child_env: &[(OsString, Option<OsString>)],
    output: &mut Output,
) -> Result<Replay, String> {
    let flags = given(&[
        ("otlp.endpoint", &args.otlp_endpoint, "--otlp-endpoint"),
        ("otlp.protocol", &args.otlp_protocol, "--otlp-protocol"),
    ]);
    let Environment { variables, not_utf8 } = environment();
    let exports = config::exports(&Sources { environment: variables, not_utf8, flags, ..Sources::default() });
    let exports = exports.map_err(|problems| problems.to_string())?;
    for file in &args.files {
        open(file).map_err(|error| format!("error: {}: {error}", file.display()))?;
    }
    // What was refused of a batch is heard by way of the log.
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "warn,imaptrace::delivery=off".to_owned());
    logs::init(&LogSettings { color: output.error_style().colour, filter: Some(filter), ..LogSettings::default() })
        .map_err(|error| format!("error: {error}"))?;
    let replay = wiring::replay(&exports, child_env).await.map_err(|error| format!("error: {error}"))?;
    replay.ok_or_else(|| {
        "error: there is no OTLP endpoint to send the runs to\n  help: give --otlp-endpoint http://localhost:4317, or set \
         OTEL_EXPORTER_OTLP_ENDPOINT"
            .to_owned()
    })
}

#[expect(clippy::disallowed_methods, reason = "a command that probes nothing")]
fn open(file: &Path) -> io::Result<Box<dyn Read>> {
    if file == Path::new("-") {
        return Ok(Box::new(io::stdin()));
    }
    let opened = File::open(file)?;
    if opened.metadata()?.is_dir() { Err(io::ErrorKind::IsADirectory.into()) } else { Ok(Box::new(opened)) }
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

struct Sender<'a> {
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

impl Sender<'_> {
    /// Sends the runs of a file; false when there is no sense in going on.
    async fn file(&mut self, file: &Path) -> bool {
        let name = file.display().to_string();
        self.progress.set_message(name.clone());
        let lines = match open(file).and_then(Lines::new) {
            Ok(lines) => lines,
            Err(error) => {
                self.unreadable(&format!("{name}: {error}"));
                return true;
            }
        };
        for line in lines {
            match line {
                Ok(run) => {
                    self.spans += Replay::spans(&run);
                    self.batch.push(Arc::new(run));
                    if self.spans >= Replay::BATCH_SPANS && !self.send().await {
                        return false;
                    }
                }
                // The message speaks of the file.
                Err(bad) => self.unreadable(&format!("{name}:{}: {}", bad.line, escape(&bad.problem))),
            }
        }
        true
    }

    fn unreadable(&mut self, what: &str) {
        self.tally.unreadable += 1;
        if self.tally.unreadable <= TOLD {
            self.progress.suspend(|| self.output.warn(what));
        }
    }

    async fn send(&mut self) -> bool {
        if self.batch.is_empty() {
            return true;
        }
        let batch = std::mem::take(&mut self.batch);
        let (runs, spans) = (batch.len() as u64, std::mem::take(&mut self.spans) as u64);
        match self.replay.send(&batch).await {
            Sent::Delivered { refused_spans } => {
                self.tally.runs += runs;
                self.tally.spans += spans.saturating_sub(refused_spans);
                self.tally.refused_spans += refused_spans;
                self.progress.inc(runs);
                true
            }
            Sent::Refused(reason) => {
                self.tally.undelivered += runs;
                let what = format!("{} refuses {runs} runs: {reason}", self.replay.endpoint());
                self.progress.suspend(|| self.output.warn(&what));
                true
            }
            Sent::Away(reason) => {
                self.tally.undelivered += runs;
                self.tally.away = Some(reason);
                false
            }
        }
    }

    /// Sends what is left, says how it ended, and gives the exit code.
    async fn finish(mut self) -> u8 {
        if self.tally.away.is_none() {
            self.send().await;
        }
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
        let complete = tally.undelivered + tally.unreadable + tally.refused_spans == 0;
        if complete { PASSED } else { FAILED }
    }
}

//! `imaptrace show`: draws runs that are kept, or compares two.
//!
//! Reads beside a running agent: takes no lock and changes nothing. What is shown are the records; nothing is measured or sent.
//! [`selection`] chooses the runs on the thread that reads them.

mod filter;
mod selection;

use std::path::{Path, PathBuf};

use imaptrace_record::{Run, escape};
use tokio::sync::{mpsc, oneshot};

use self::{
    filter::RunFilter,
    selection::{LeftOut, SelectedRun, ShowItem, ShowRequest, select},
};
use super::{
    args::{ShowArgs, ShowFormat},
    exit_code::{FAILED, PASSED, USAGE},
    output::Output,
    progress::ProgressLine,
    run_reader::{self, RunSource},
    signals::Signals,
};
use crate::{clock, delivery::KeptFiles, terminal};

/// The most problems that are reported one by one; the others are counted.
const MOST_REPORTED: u64 = 20;
/// Runs that wait to be printed.
const AHEAD: usize = 4;
/// The runs that are drawn, and listed, unless the command line has a number.
const DRAWN: usize = 10;
const LISTED: usize = 100;

pub(super) async fn run(args: ShowArgs, signals: Signals, output: &mut Output) -> u8 {
    let opened = match signals.unless_stopped(open(&args)).await {
        Some(Ok(opened)) => opened,
        Some(Err(problem)) => {
            output.errors(&problem);
            return USAGE;
        }
        None => return signals.early_code(),
    };
    let Opened { request, problems } = opened;
    let asked_by_id = !request.filter.trace_ids.is_empty();
    let compares = request.compares;
    // Of a state directory without files there is no source.
    let is_kept = request.sources.iter().flatten().all(|source| matches!(source, RunSource::Kept(_)));
    let (sender, mut items) = mpsc::channel(AHEAD);
    if let Err(error) = run_reader::on_thread(move || select(&request, sender)) {
        output.error(&format!("cannot start the thread that reads: {error}"));
        return FAILED;
    }
    let mut progress = output.progress_width.map(|width| ProgressLine::of(width, "reading"));
    let mut show = Show { format: args.output, compares, is_kept, shown: 0, pair: [None, None], unreadable: 0, output };
    for problem in problems {
        show.unreadable(&problem);
    }
    loop {
        let Some(item) = signals.unless_stopped(items.recv()).await else {
            drop(progress);
            return signals.early_code();
        };
        match item {
            Some(ShowItem::Run(selected)) => {
                drop(progress.take());
                show.add(*selected);
            }
            Some(ShowItem::Unreadable(problem)) => {
                drop(progress.take());
                show.unreadable(&problem);
            }
            Some(ShowItem::End(left_out)) => {
                drop(progress);
                return show.conclude(left_out, asked_by_id);
            }
            // The thread has panicked.
            None => return FAILED,
        }
        if show.output.is_closed() {
            return PASSED;
        }
    }
}

/// What is to be read, and what of it cannot be listed.
struct Opened {
    request: ShowRequest,
    problems: Vec<String>,
}

/// Opens what the command line names, on the thread for files. The error is the problem as it is printed.
async fn open(args: &ShowArgs) -> Result<Opened, String> {
    let filter = RunFilter::new(args, clock::wall())?;
    let compares = args.sources.len() == 2 || filter.trace_ids.len() == 2;
    if compares && args.output == ShowFormat::List {
        return Err(
            "error: --output list: two runs are compared, which takes more than a line each\n  help: use text, json \
                    or markdown, or name one source"
                .to_owned(),
        );
    }
    if compares && (args.last.is_some() || args.all) {
        let flag = if args.all { "--all" } else { "--last" };
        return Err(format!(
            "error: {flag}: two runs are compared, the newest of each side that matches\n  help: remove {flag}, or name \
             one source"
        ));
    }
    if args.sources.iter().filter(|path| *path == Path::new("-")).count() > 1 {
        return Err(
            "error: -: standard input can be read once\n  help: name a file for one of the two, or two --trace-id"
                .to_owned(),
        );
    }
    let default = if args.output == ShowFormat::List { LISTED } else { DRAWN };
    let most = if compares { 1 } else { args.last.map_or(default, |last| usize::try_from(last).unwrap_or(usize::MAX)) };
    let most = (!args.all).then_some(most);
    let paths = args.sources.clone();
    let (sender, opened) = oneshot::channel();
    let work = move || {
        let mut problems = Vec::new();
        let sources = paths.into_iter().map(|path| sources(path, &mut problems)).collect::<Result<_, _>>();
        // It fails after a signal.
        let _ = sender.send(sources.map(|sources| (sources, problems)));
    };
    run_reader::on_thread(work).map_err(|error| format!("error: cannot start the thread that reads: {error}"))?;
    let (sources, problems) = opened.await.unwrap_or_else(|_| Err("error: the files cannot be opened".to_owned()))?;
    Ok(Opened { request: ShowRequest { filter, sources, most, compares }, problems })
}

/// The files of an argument, the oldest first.
fn sources(path: PathBuf, problems: &mut Vec<String>) -> Result<Vec<RunSource>, String> {
    let source = RunSource::of(path);
    let RunSource::File(path) = &source else { return Ok(vec![source]) };
    if !run_reader::is_directory(path) {
        source.check()?;
        return Ok(vec![source]);
    }
    match KeptFiles::list(path) {
        Ok(Some(found)) => {
            problems.extend(found.problems);
            Ok(found.files.into_iter().map(RunSource::Kept).collect())
        }
        Ok(None) => Err(format!(
            "error: {}: no run is kept here: it has neither queue/ nor refused/\n  help: name the directory of [state] in the \
             configuration, or a file; without an OTLP endpoint an agent keeps no run",
            source.name()
        )),
        Err(error) => Err(format!("error: {}", escape(&error.to_string()))),
    }
}

/// What was shown so far.
struct Show<'a> {
    format: ShowFormat,
    compares: bool,
    /// All runs are those of state directories.
    is_kept: bool,
    shown: u64,
    pair: [Option<SelectedRun>; 2],
    unreadable: u64,
    output: &'a mut Output,
}

impl Show<'_> {
    fn add(&mut self, selected: SelectedRun) {
        if self.compares {
            let side = selected.side;
            self.pair[side] = Some(selected);
            return;
        }
        let SelectedRun { run, place, .. } = selected;
        let style = self.output.style;
        let text = match self.format {
            ShowFormat::Text => {
                let gap = if self.shown > 0 { "\n" } else { "" };
                format!("{gap}{}", terminal::kept(run, &place, style))
            }
            ShowFormat::Markdown => {
                let gap = if self.shown > 0 { "\n" } else { "" };
                format!("{gap}{}", terminal::markdown(run))
            }
            ShowFormat::List => terminal::listed(run, style),
            ShowFormat::Json => match terminal::json(&run) {
                Ok(line) => line,
                Err(error) => return self.unreadable(&format!("{place}: a run cannot be written as JSON: {error}")),
            },
        };
        self.shown += 1;
        self.output.print(&text);
    }

    fn unreadable(&mut self, problem: &str) {
        self.unreadable += 1;
        if self.unreadable <= MOST_REPORTED {
            self.output.warn(problem);
        }
    }

    /// Compares the two runs.
    fn compare(&mut self, [one, other]: [Run; 2]) {
        let comparison = terminal::Comparison::new(one, other);
        let style = self.output.style;
        let text = match self.format {
            ShowFormat::Json => match serde_json::to_string(&comparison) {
                Ok(line) => terminal::printable_json(line) + "\n",
                Err(error) => return self.unreadable(&format!("the comparison cannot be written as JSON: {error}")),
            },
            ShowFormat::Markdown => terminal::comparison_markdown(&comparison),
            ShowFormat::Text | ShowFormat::List => terminal::comparison_text(&comparison, style),
        };
        self.output.print(&text);
    }

    /// Reports what is not shown, and returns the exit code.
    fn conclude(mut self, left_out: LeftOut, asked_by_id: bool) -> u8 {
        let mut code = PASSED;
        if self.compares {
            match std::mem::take(&mut self.pair) {
                [Some(one), Some(other)] => {
                    if left_out.runs > 0 {
                        self.output.errors("the newest runs that match are compared; --trace-id names others");
                    }
                    self.compare([one.run, other.run]);
                }
                pair => {
                    let missing = if pair[0].is_none() { "first" } else { "second" };
                    self.output.error(&format!("there is no {missing} run to compare: none matches"));
                    code = FAILED;
                }
            }
        } else {
            code = self.rest(left_out, asked_by_id);
        }
        if self.unreadable > MOST_REPORTED {
            let more = self.unreadable - MOST_REPORTED;
            self.output.warn(&format!("{more} more places could not be read"));
        }
        if self.unreadable > 0 { FAILED } else { code }
    }

    /// Reports how much more there is.
    fn rest(&mut self, left_out: LeftOut, asked_by_id: bool) -> u8 {
        let LeftOut { runs, files, bytes, is_large } = left_out;
        let plural = |number: u64| if number == 1 { "" } else { "s" };
        if self.shown == 0 {
            self.output.errors(if self.is_kept {
                "no run is kept here that matches: what is delivered is deleted"
            } else {
                "there is no run that matches"
            });
            return if asked_by_id { FAILED } else { PASSED };
        }
        let mut words = Vec::new();
        if runs > 0 {
            words.push(format!("{runs} older run{} not shown", plural(runs)));
        }
        if files > 0 {
            words.push(format!("{files} older file{} ({}) not read", plural(files), terminal::size(bytes)));
        }
        if is_large {
            words.push("the runs are too large to show as many at once".to_owned());
        }
        if !words.is_empty() {
            self.output.errors(&format!("{}; --last N or --all shows more", words.join(", ")));
        }
        PASSED
    }
}

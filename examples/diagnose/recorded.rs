//! Recorded runs with a known cause: reads their files and diagnoses each run with what it is allowed to see.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

use imaptrace::{
    diagnosis::diagnose,
    latency::{History, Settings},
    server_events::{ProcessSample, ReportedEvent, add_processes_of_host, assemble, parse},
};
use imaptrace_record::{Cause, Run, ServerProcessName, ServerText, Timestamp, Verdict};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// What a diagnosis may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// The record of the client alone.
    Record,
    /// And the server's events.
    Events,
    /// And samples of the server's processes.
    Processes,
}

impl View {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Record, Self::Events, Self::Processes];

    /// The name in a line of JSON.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Events => "events",
            Self::Processes => "proc",
        }
    }

    /// The title of a matrix.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Record => "From the record alone",
            Self::Events => "With the server's events",
            Self::Processes => "With events and samples of the server's processes",
        }
    }
}

/// A file, diagnosed.
pub(crate) struct DiagnosedFile {
    /// Its name without an ending.
    pub(crate) name: String,
    /// The right answer.
    pub(crate) cause: String,
    /// Its usable runs.
    pub(crate) runs: Vec<Diagnosed>,
    /// Runs of its baseline that are not slow.
    pub(crate) quiet: usize,
    /// Those of them that got a cause.
    pub(crate) quiet_with_cause: usize,
}

/// A run, diagnosed.
pub(crate) struct Diagnosed {
    /// Its place in the file.
    pub(crate) number: usize,
    verdicts: [Option<Verdict>; 3],
}

impl Diagnosed {
    /// The verdict with what may be seen.
    pub(crate) fn verdict(&self, view: View) -> Option<&Verdict> {
        self.verdicts[view as usize].as_ref()
    }

    /// A line of JSON; a cause of `null` is no verdict.
    pub(crate) fn line(&self, file: &str) -> String {
        let json = |value: Value| value.to_string();
        let views = View::ALL.map(|view| {
            let verdict = self.verdict(view);
            let cause = json(verdict.map(|verdict| verdict.cause.as_str()).into());
            let share = json(verdict.map(|verdict| verdict.share).into());
            let second = json(verdict.and_then(|verdict| verdict.second).map(Cause::as_str).into());
            let key = view.key();
            format!("\"{key}\":{{\"cause\":{cause},\"share\":{share},\"second\":{second}}}")
        });
        format!("{{\"file\":{},\"run\":{},{}}}", json(file.into()), self.number, views.join(","))
    }
}

#[derive(Deserialize)]
struct RecordedFile {
    #[serde(default)]
    cause: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    baseline: Vec<Run>,
    runs: Vec<Run>,
    #[serde(default, deserialize_with = "or_default")]
    server: Vec<Option<RecordedServer>>,
    /// Whether a run was slow or failed by the cause; all are, without it.
    #[serde(default, deserialize_with = "or_default")]
    usable: Vec<bool>,
}

/// What the server had of a run's session.
#[derive(Deserialize, Default)]
#[serde(default)]
struct RecordedServer {
    #[serde(deserialize_with = "or_default")]
    events: Vec<Value>,
    /// Samples of the session's imap process.
    #[serde(deserialize_with = "or_default")]
    samples: Vec<Value>,
    /// Samples of the login and auth processes.
    #[serde(deserialize_with = "or_default")]
    front: Vec<Value>,
}

/// `null` stands for nothing.
fn or_default<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Deserialize<'de> + Default,
    D: Deserializer<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The files of a directory with recorded runs, by name.
pub(crate) fn files(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let shown = directory.display();
    let entries = fs::read_dir(directory).map_err(|error| format!("cannot read the directory {shown}: {error}"))?;
    let is_recorded = |path: &PathBuf| {
        let ending = |path: &Path| path.extension().and_then(|ending| ending.to_str()).map(ToOwned::to_owned);
        match ending(path).as_deref() {
            Some("json") => true,
            Some("xz") => path.file_stem().is_some_and(|stem| ending(Path::new(stem)).as_deref() == Some("json")),
            _ => false,
        }
    };
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_recorded).collect();
    files.sort();
    if files.is_empty() { Err(format!("no *.json.xz and no *.json in {shown}")) } else { Ok(files) }
}

/// Reads a file and diagnoses its usable runs.
pub(crate) fn diagnose_file(path: &Path) -> Result<DiagnosedFile, String> {
    let recorded = read(path)?;
    let least = least_baseline(&recorded);
    let settings = Settings { min_runs: least.clamp(5, Settings::default().min_runs), ..Settings::default() };
    let mut history = History::new(settings);
    let (mut quiet, mut quiet_with_cause) = (0, 0);
    for mut run in recorded.baseline {
        history.evaluate(&mut run);
        if run.slow != Some(true) && run.error_type.is_none() {
            quiet += 1;
            quiet_with_cause += usize::from(diagnose(&run).is_some());
        }
    }
    let mut runs = Vec::new();
    for (number, recorded_run) in recorded.runs.iter().enumerate() {
        let mut run = recorded_run.clone();
        history.evaluate(&mut run);
        keep_recorded_baselines(&mut run, recorded_run);
        if recorded.usable.get(number) == Some(&false) {
            continue;
        }
        let nothing = RecordedServer::default();
        let server = recorded.server.get(number).and_then(Option::as_ref).unwrap_or(&nothing);
        let verdicts = View::ALL.map(|view| diagnose(&seen(&run, server, view)));
        runs.push(Diagnosed { number, verdicts });
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = name.trim_end_matches(".xz").trim_end_matches(".json").to_owned();
    Ok(DiagnosedFile { name, cause: recorded.cause.unwrap_or_default(), runs, quiet, quiet_with_cause })
}

fn read(path: &Path) -> Result<RecordedFile, String> {
    let shown = path.display();
    let mut bytes = fs::read(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    if path.extension().is_some_and(|ending| ending == "xz") {
        let mut text = Vec::new();
        let mut reader = lzma_rust2::XzReader::new(&bytes[..], true);
        reader.read_to_end(&mut text).map_err(|error| format!("{shown} is no xz file: {error}"))?;
        bytes = text;
    }
    serde_json::from_slice(&bytes).map_err(|error| format!("{shown} has no recorded runs: {error}"))
}

/// The number of baseline runs of the account that has the fewest.
fn least_baseline(file: &RecordedFile) -> u32 {
    let of_account = |run: &Run| {
        let same =
            |other: &&Run| other.target == run.target && other.account == run.account && other.journey == run.journey;
        file.baseline.iter().filter(same).count()
    };
    let least = file.runs.iter().map(of_account).filter(|count| *count > 0).min().unwrap_or_default();
    u32::try_from(least).unwrap_or(u32::MAX)
}

/// What the record says of its baselines stays where the history has none.
fn keep_recorded_baselines(run: &mut Run, recorded: &Run) {
    for (step, recorded) in run.steps.iter_mut().zip(&recorded.steps) {
        if step.baseline_s.is_none() {
            (step.baseline_s, step.ratio, step.slow) = (recorded.baseline_s, recorded.ratio, recorded.slow);
        }
    }
    run.slow = run.slow.or(recorded.slow);
}

/// The run with what a view shows of its server.
fn seen(run: &Run, server: &RecordedServer, view: View) -> Run {
    let mut run = Run { server_events: None, ..run.clone() };
    if view == View::Record {
        return run;
    }
    let bodies = server.events.iter().map(Value::to_string);
    let events: Vec<ReportedEvent> = bodies.filter_map(|body| parse(body.as_bytes())).collect();
    run.server_events = assemble(&events, &run).map(Box::new);
    if view == View::Processes {
        let samples: Vec<ProcessSample> = server.samples.iter().chain(&server.front).filter_map(sample).collect();
        if !samples.is_empty() {
            let name = server.events.iter().find_map(|event| event["hostname"].as_str()).unwrap_or("server");
            add_processes_of_host(&mut run, &ServerText::new(name.as_bytes(), ServerText::ID), &samples);
        }
    }
    run
}

/// A sample: time, process id and name first, nanoseconds of CPU and in the run queue last; or an object with these names.
fn sample(value: &Value) -> Option<ProcessSample> {
    let (at, id, name, cpu, queue) = match value {
        Value::Array(row) if row.len() >= 5 => (&row[0], &row[1], &row[2], &row[row.len() - 2], &row[row.len() - 1]),
        Value::Object(row) => {
            (row.get("t")?, row.get("pid")?, row.get("comm")?, row.get("cpu_ns")?, row.get("wait_ns")?)
        }
        _ => return None,
    };
    let process = *ServerProcessName::ALL.iter().find(|process| Some(process.as_str()) == name.as_str())?;
    let at = std::time::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(at.as_f64()?).ok()?)?;
    Some(ProcessSample {
        at: Timestamp::from(at),
        process_id: id.as_u64()?,
        process,
        cpu: Duration::from_nanos(cpu.as_u64()?),
        run_queue: Duration::from_nanos(queue.as_u64()?),
        block_wait: None,
    })
}

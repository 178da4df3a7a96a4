//! Recorded runs with a known cause, and what the server had of each: the files that `examples/diagnose` reads.

use std::{collections::BTreeMap, fs, path::Path};

use imaptrace_record::Run;
use serde_json::{Value, json};

use super::samples::Sample;

/// The runs of one cause.
pub struct Recording {
    pub key: String,
    /// The right answer.
    pub cause: String,
    pub note: String,
    /// The usable runs that were asked for.
    pub wanted: usize,
    /// Runs of the same target before.
    pub baseline: Vec<Run>,
    pub runs: Vec<RecordedRun>,
}

/// A run, and what its server had of it.
pub struct RecordedRun {
    pub run: Run,
    /// Events of its session, as they came.
    pub events: Vec<Value>,
    /// Samples of its imap process.
    samples: Vec<Sample>,
    /// Samples of the login and authentication processes at its time.
    front: Vec<Sample>,
    /// Whether it was slow or failed by the cause.
    pub usable: bool,
}

/// What the server's side had in a while.
pub struct ServerSideRecords<'a> {
    pub events: &'a [Value],
    pub log: &'a str,
    pub samples: &'a [Sample],
}

impl RecordedRun {
    /// Takes what is of this run. Events and samples are of one machine, so of one clock.
    pub fn new(run: Run, server: &ServerSideRecords<'_>, usable: bool) -> Self {
        let from = run.started_at.epoch_seconds();
        let until = from + run.duration_s.as_f64();
        let events: Vec<Value> = server.events.iter().filter(|event| is_of(event, &run)).cloned().collect();
        let processes = processes(server.log);
        let of_session: Vec<i32> =
            events.iter().filter_map(|event| processes.get(event["fields"]["session"].as_str()?).copied()).collect();
        let during = |sample: &&Sample| sample.at >= from - 0.05 && sample.at <= until + 0.3;
        let of = |is: &dyn Fn(&Sample) -> bool| {
            server.samples.iter().filter(during).filter(|sample| is(sample)).cloned().collect()
        };
        let samples = of(&|sample| sample.name == "imap" && of_session.contains(&sample.process));
        let front = of(&|sample| sample.name != "imap");
        Self { run, events, samples, front, usable }
    }
}

/// By the client's port, in the run's time.
fn is_of(event: &Value, run: &Run) -> bool {
    let port = run.server.local.map(|local| u64::from(local.port()));
    if port.is_none() || event["fields"]["remote_port"].as_u64() != port {
        return false;
    }
    let at: jiff::Timestamp = event["end_time"].as_str().unwrap().parse().unwrap();
    let from = run.started_at.epoch_micros();
    let length = i64::try_from(run.duration_s.as_micros()).unwrap();
    (from - 1_000_000..from + length + 20_000_000).contains(&at.as_microsecond())
}

/// The imap processes of sessions, by the lines of logins.
fn processes(log: &str) -> BTreeMap<&str, i32> {
    log.lines()
        .filter(|line| line.contains("Login: "))
        .filter_map(|line| {
            let process = between(line, "mpid=", ',')?.parse().ok()?;
            Some((between(line, "session=<", '>')?, process))
        })
        .collect()
}

/// What stands behind `begin`, up to `end`.
fn between<'a>(line: &'a str, begin: &str, end: char) -> Option<&'a str> {
    Some(line.split_once(begin)?.1.split_once(end)?.0)
}

impl Recording {
    /// Writes `KEY.json` into a directory.
    pub fn save(&self, directory: &Path) {
        let rows = |samples: &[Sample]| samples.iter().map(Sample::row).collect::<Vec<_>>();
        let server = |run: &RecordedRun| json!({ "events": run.events, "samples": rows(&run.samples), "front": rows(&run.front) });
        let file = json!({
            "key": self.key,
            "cause": self.cause,
            "note": self.note,
            "baseline": self.baseline,
            "runs": self.runs.iter().map(|run| &run.run).collect::<Vec<_>>(),
            "server": self.runs.iter().map(server).collect::<Vec<_>>(),
            "usable": self.runs.iter().map(|run| run.usable).collect::<Vec<_>>(),
        });
        fs::create_dir_all(directory).unwrap();
        fs::write(directory.join(format!("{}.json", self.key)), file.to_string()).unwrap();
    }

    /// The runs that the cause made slow or fail.
    pub fn usable(&self) -> usize {
        self.runs.iter().filter(|run| run.usable).count()
    }
}

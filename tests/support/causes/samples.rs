//! Samples of the kernel's accounting of Dovecot's processes, every 10 ms.

use std::{
    collections::BTreeMap,
    fs,
    sync::{Arc, Mutex},
    time::{Duration, UNIX_EPOCH},
};

use imaptrace::clock;
use serde_json::{Value, json};

use super::background::Background;

const EVERY: Duration = Duration::from_millis(10);
const NAMES: [&str; 3] = ["imap", "imap-login", "auth"];

/// The counters of a process at one time.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Seconds since 1970.
    pub at: f64,
    pub process: i32,
    pub name: String,
    /// `R`, `S`, `D` …
    state: String,
    /// Nanoseconds since its start.
    cpu: u64,
    run_queue: u64,
}

impl Sample {
    /// Time, process, name, state, CPU and run queue, in this order.
    pub fn row(&self) -> Value {
        json!([self.at, self.process, self.name, self.state, self.cpu, self.run_queue])
    }
}

/// Samples all children of a process, until it is dropped.
pub struct Sampler {
    rows: Arc<Mutex<Vec<Sample>>>,
    _thread: Background,
}

impl Sampler {
    pub fn start(master: i32) -> Self {
        let rows = Arc::<Mutex<Vec<Sample>>>::default();
        let kept = Arc::clone(&rows);
        let thread = Background::start(move |stop| {
            let mut names = BTreeMap::new();
            while stop.pause(EVERY) {
                let children = children(master);
                names.retain(|child, _| children.contains(child));
                for child in children {
                    let known = names.entry(child).or_default();
                    let Some(sample) = sample(child, known) else { continue };
                    kept.lock().unwrap().push(sample);
                }
            }
        });
        Self { rows, _thread: thread }
    }

    /// All samples up to now.
    pub fn rows(&self) -> Vec<Sample> {
        self.rows.lock().unwrap().clone()
    }
}

/// The children of a process.
pub fn children(process: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    text.split_ascii_whitespace().map(|child| child.parse().unwrap()).collect()
}

/// The name of a process, as the kernel has it; none after its end.
pub fn name(process: i32) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{process}/comm")).ok()?.trim_end().to_owned())
}

/// None for a process that has ended, or of another name. A name is read until it is one of ours: a process has its parent's first.
fn sample(process: i32, known: &mut String) -> Option<Sample> {
    if !NAMES.contains(&known.as_str()) {
        *known = name(process)?;
    }
    if !NAMES.contains(&known.as_str()) {
        return None;
    }
    let at = clock::wall().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let times = fs::read_to_string(format!("/proc/{process}/schedstat")).ok()?;
    let mut times = times.split_ascii_whitespace().map(|time| time.parse().unwrap());
    let (cpu, run_queue) = (times.next()?, times.next()?);
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let state = stat.rsplit(')').next()?.trim_start().get(..1)?.to_owned();
    Some(Sample { at, process, name: known.clone(), state, cpu, run_queue })
}

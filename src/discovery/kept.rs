//! The last good answers in the state directory, for a start while a source is away. Called by `follow` and by the agent's
//! start.
//!
//! One file of mode 0600, replaced atomically. A damaged one, or one of another version, is moved aside. Nothing is saved before
//! the file has been read, so that the answer of a source that is away is not lost.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{
    answer::{Discovered, DiscoveredTargets},
    source::{SourceId, TargetSource},
};
use crate::state::{Directory, NotRegularError, StateDir};

/// Names in the state directory: the file, and the one that is being written.
const FILE: &str = "discovered.json";
const NEW: &str = "discovered.new";
/// The largest file in bytes; larger answers are not kept.
const LARGEST: usize = 64 << 20;
/// The version of the file. It grows when a field changes its meaning or is removed.
const VERSION: u32 = 1;

/// A good answer of a source, and when it was received.
#[derive(Debug, Clone, PartialEq)]
pub struct GoodAnswer {
    /// Its targets.
    pub targets: Arc<DiscoveredTargets>,
    /// When the source last confirmed them.
    pub at: SystemTime,
}

/// The good answers of all sources.
pub type GoodAnswers = BTreeMap<SourceId, GoodAnswer>;

impl From<&GoodAnswers> for Discovered {
    fn from(good: &GoodAnswers) -> Self {
        Self(Arc::new(good.iter().map(|(id, good)| (id.clone(), good.targets.clone())).collect()))
    }
}

#[derive(Serialize, Deserialize)]
struct KeptAnswersFile {
    version: u32,
    sources: Vec<KeptAnswer>,
}

#[derive(Serialize, Deserialize)]
struct KeptAnswer {
    group: String,
    source: String,
    /// Seconds since 1970.
    at: u64,
    entries: DiscoveredTargets,
}

/// Reads the kept answers of these sources, without targets that their `hosts` no longer have. Waits for the disk.
pub fn read_kept(state: &StateDir, sources: &[TargetSource]) -> io::Result<GoodAnswers> {
    let mut kept = read(&*state.ready()?)?;
    let allowed = |source: &TargetSource| {
        let good = kept.remove(&source.id)?;
        let targets = (*good.targets).clone().allowed_by(source);
        Some((source.id.clone(), GoodAnswer { targets: targets.into(), ..good }))
    };
    Ok(sources.iter().filter_map(allowed).collect())
}

fn read(directory: &Directory) -> io::Result<GoodAnswers> {
    let problem = match directory.read(FILE, LARGEST as u64) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(GoodAnswers::new()),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge || NotRegularError::is(&error) => error.to_string(),
        Err(error) => return Err(error),
        Ok(bytes) => match serde_json::from_slice::<KeptAnswersFile>(&bytes) {
            Ok(file) if file.version == VERSION => return Ok(answers(file)),
            Ok(file) => format!("it is of version {}, and this program writes {VERSION}", file.version),
            Err(error) => format!("it is damaged, line {}, column {}", error.line(), error.column()),
        },
    };
    let aside = directory.at(&directory.quarantine(FILE)?);
    let file = directory.at(FILE);
    warn!(
        file = %file.display(),
        problem,
        aside = %aside.display(),
        "the kept answers of sources of targets were moved aside: their targets are probed when the sources answer"
    );
    Ok(GoodAnswers::new())
}

fn answers(file: KeptAnswersFile) -> GoodAnswers {
    let one = |kept: KeptAnswer| {
        let id = SourceId { group: kept.group, name: kept.source };
        let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(kept.at)).unwrap_or(SystemTime::UNIX_EPOCH);
        (id, GoodAnswer { targets: kept.entries.into(), at })
    };
    file.sources.into_iter().map(one).collect()
}

/// Saves the good answers; one of `wanted` that is not among them is left as it is. Waits for the disk.
pub(super) fn save(state: &StateDir, good: &GoodAnswers, wanted: &[SourceId]) -> io::Result<()> {
    let directory = state.ready()?;
    let mut kept = read(&directory)?;
    kept.retain(|id, _| wanted.contains(id));
    kept.extend(good.iter().map(|(id, answer)| (id.clone(), answer.clone())));
    let source = |(id, good): (SourceId, GoodAnswer)| KeptAnswer {
        group: id.group,
        source: id.name,
        at: good.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
        entries: (*good.targets).clone(),
    };
    let file = KeptAnswersFile { version: VERSION, sources: kept.into_iter().map(source).collect() };
    let text = serde_json::to_vec(&file).map_err(io::Error::other)?;
    if text.len() > LARGEST {
        return Err(io::Error::other("the answers take more than 64MiB, and are not kept for the next start"));
    }
    directory.replace(FILE, NEW, |mut file| {
        file.write_all(&text)?;
        file.sync_all()
    })?;
    directory.sync()
}

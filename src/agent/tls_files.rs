//! The TLS files of all targets. Each set of files is read once, however many targets name it, and followed by `follow`.
//!
//! A file that is invalid when it is first read is an error, at the start and at a reload. While one does not answer, the runs of
//! its targets are void. Called by the agent at its start and by `reload`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use futures_util::future::join_all;

use super::error::AgentError;
use crate::{
    follow::{FileFollower, Followed},
    net::{TlsContextError, TlsFiles, TlsMaterial, TlsPaths},
    plan::Target,
};

type FileSet = Followed<TlsMaterial, TlsContextError>;

/// Every set of files that some target names.
#[derive(Debug)]
pub(super) struct TlsFileSets {
    follower: FileFollower,
    known: Mutex<HashMap<TlsPaths, Weak<FileSet>>>,
}

/// The sets of some targets.
#[derive(Debug, Default)]
pub(super) struct FileSets(HashMap<TlsPaths, Arc<FileSet>>);

impl FileSets {
    /// The contents of a target's files.
    pub(super) fn of(&self, target: &Target) -> TlsFiles {
        match self.followed(target) {
            Some(set) => TlsFiles::Followed(set.clone()),
            None => TlsFiles::Read(Arc::default()),
        }
    }

    pub(super) fn followed(&self, target: &Target) -> Option<&Arc<FileSet>> {
        self.0.get(&TlsPaths::of(&target.tls))
    }
}

impl TlsFileSets {
    pub(super) fn new(follower: FileFollower) -> Self {
        Self { follower, known: Mutex::default() }
    }

    /// The files of these targets. New ones are read in parallel, some seconds at most if a file system does not answer.
    pub(super) async fn load(&self, targets: &[Target]) -> Result<FileSets, AgentError> {
        let mut sets = HashMap::new();
        let mut new = Vec::new();
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.retain(|_, set| set.strong_count() > 0);
            for target in targets {
                let paths = TlsPaths::of(&target.tls);
                if paths == TlsPaths::default() || sets.contains_key(&paths) {
                    continue;
                }
                let set = known.get(&paths).and_then(Weak::upgrade);
                if set.is_none() {
                    new.push((target, paths.clone()));
                }
                sets.insert(paths, set);
            }
        }
        let read = join_all(new.iter().map(|(_, paths)| begin(paths.clone()))).await;
        for ((target, paths), set) in new.into_iter().zip(read) {
            let set = set.map_err(|source| AgentError::Tls { target: target.name.clone(), source })?;
            self.follower.add(&set);
            self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(paths.clone(), Arc::downgrade(&set));
            sets.insert(paths, Some(set));
        }
        Ok(FileSets(sets.into_iter().filter_map(|(paths, set)| Some((paths, set?))).collect()))
    }
}

async fn begin(paths: TlsPaths) -> Result<Arc<FileSet>, TlsContextError> {
    let all = paths.all();
    let names = all.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    FileSet::begin(format!("a file for TLS ({names})"), all, move || Box::pin(TlsMaterial::load(paths.clone()))).await
}

#[cfg(test)]
mod tests {
    use imaptrace_record::{ErrorType, RunOutcome, SetupStep};
    use tokio::sync::watch;

    use super::*;
    use crate::{
        agent::run_once::{load_password, run_once},
        config::{self, Sources},
        follow::NotRead,
        net::Family,
        plan::Dns,
        probe::{Job, Prober, TargetContext},
    };

    #[tokio::test]
    async fn a_file_whose_disk_does_not_answer_makes_a_void_run_that_names_it_and_connects_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("imaptrace.toml");
        let text =
            "[[targets]]\nname = \"a\"\nurl = \"imaps://127.0.0.1:1\"\nuser = \"me\"\npassword = { env = \"X\" }\n";
        std::fs::write(&file, text).unwrap();
        let targets = config::load(&Sources { file: Some(file), ..Sources::default() }).unwrap().targets;
        let hangs = || Box::pin(async { Err(NotRead::Unfinished("/mnt/ca.pem: no answer".to_owned())) }) as _;
        let waiting: Arc<FileSet> = FileSet::begin("a file".to_owned(), Vec::new(), hangs).await.unwrap();
        let context = TargetContext::with(targets[0].clone(), TlsFiles::Followed(waiting));
        let prober = Prober::new(Dns::default());
        let account = &context.target().accounts[0];
        let secret = load_password(&context, account).await;
        let (_keep, cancel) = watch::channel(false);
        let run = run_once(&prober, &context.target().journey, None, cancel, |ids| Job {
            target: &context,
            account,
            family: Family::Any,
            ids,
            start_lag: None,
            secret,
            usual_messages: None,
            hold_login: None,
        })
        .await;
        assert_eq!((run.outcome, run.error_type), (RunOutcome::Void, Some(ErrorType::SecretUnavailable)), "{run:?}");
        let step = run.failing_step().unwrap();
        assert!(step.name == SetupStep::Tls && run.steps.iter().all(|step| step.name != SetupStep::Connect));
        assert!(step.text.as_ref().unwrap().as_str().contains("/mnt/ca.pem"), "{step:?}");
    }
}

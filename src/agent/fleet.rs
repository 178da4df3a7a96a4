//! From the targets of a configuration to slots, with all that is kept of the fleet before.
//!
//! A target that is as before, files of its own included, keeps the very same work, and with it its TLS context and what
//! was learned of its server. An account keeps what was learned of its logins and runs whatever else of its target
//! changes. Starts nothing. Called by the agent at its start and by `reload`.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{AgentError, backoff::Backoff, families, once::longest};
use crate::{
    follow::{FileVersions, versions},
    latency::SlowSpell,
    net::Family,
    plan::Target,
    probe::Prepared,
    schedule::Slot,
};

/// A password command's own deadline, a look at certificates, and what handing a finished run on may take.
const AROUND: Duration = Duration::from_secs(20);

/// One account of one target: what a slot starts. Its runs never overlap, over whichever family they go.
pub(super) struct Work {
    pub(super) target: Arc<Prepared>,
    pub(super) account: usize,
    state: Arc<Mutex<History>>,
}

#[derive(Default)]
pub(super) struct History {
    pub(super) backoff: Backoff,
    /// Families over which the last run that passed or failed, failed.
    pub(super) failing: Vec<Family>,
    /// The slow steps of recent runs, for each family that had some.
    slow: Vec<(Family, SlowSpell)>,
    /// The log has it that the mailbox holds too little.
    pub(super) told_of_few: bool,
}

impl History {
    /// The slow steps of recent runs over a family.
    pub(super) fn slow_spell(&mut self, family: Family) -> &mut SlowSpell {
        let at = self.slow.iter().position(|(known, _)| *known == family).unwrap_or_else(|| {
            self.slow.push((family, SlowSpell::default()));
            self.slow.len() - 1
        });
        &mut self.slow[at].1
    }
}

impl Work {
    pub(super) fn history(&self) -> MutexGuard<'_, History> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn alias(&self) -> &str {
        self.target.target().accounts.get(self.account).map_or("", |account| account.alias.as_str())
    }
}

/// All targets that are probed, by name.
#[derive(Default)]
pub(super) struct Fleet {
    members: HashMap<String, Member>,
}

struct Member {
    prepared: Arc<Prepared>,
    /// The files for TLS as they were when they were read.
    files: FileVersions,
    /// One for each account, in their order.
    works: Vec<Arc<Work>>,
}

/// How a fleet differs from the one before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Difference {
    pub(super) added: usize,
    pub(super) changed: usize,
    /// Their names, in order.
    pub(super) removed: Vec<String>,
    pub(super) unchanged: usize,
}

impl Fleet {
    /// The fleet of these targets. Reads files; leaves the one before as it is.
    pub(super) fn next(&self, targets: &[Target]) -> Result<(Self, Difference), AgentError> {
        let mut next = Self::default();
        let mut difference = Difference::default();
        for target in targets {
            // Looked at first: a file that changes while it is read is read again.
            let files = versions(&tls_files(target).cloned().collect::<Vec<_>>());
            let old = self.members.get(&target.name);
            let member = match old {
                Some(old) if old.prepared.target() == target && old.files == files => {
                    difference.unchanged += 1;
                    Member { prepared: old.prepared.clone(), files, works: old.works.clone() }
                }
                _ => {
                    difference.changed += usize::from(old.is_some());
                    difference.added += usize::from(old.is_none());
                    Member::new(target, files, old)?
                }
            };
            next.members.insert(target.name.clone(), member);
        }
        let mut gone: Vec<_> = self.members.keys().filter(|name| !next.members.contains_key(*name)).cloned().collect();
        gone.sort_unstable();
        difference.removed = gone;
        Ok((next, difference))
    }

    /// A slot for every account of every target.
    pub(super) fn slots(&self) -> Vec<Slot<Work>> {
        let mut servers: HashMap<String, Arc<str>> = HashMap::new();
        let mut slots = Vec::new();
        for member in self.members.values() {
            let target = member.prepared.target();
            let server = format!("{}:{}", target.endpoint.host, target.endpoint.port);
            let server = servers.entry(server).or_insert_with_key(|server| server.as_str().into());
            let runs = u32::try_from(families(target).len()).unwrap_or(1);
            for work in &member.works {
                slots.push(Slot {
                    name: format!("{}/{}", target.name, work.alias()).into(),
                    server: server.clone(),
                    interval: target.interval,
                    patience: (longest(target) + AROUND) * runs,
                    logins: runs,
                    work: work.clone(),
                });
            }
        }
        slots
    }
}

impl Member {
    fn new(target: &Target, files: FileVersions, old: Option<&Self>) -> Result<Self, AgentError> {
        let prepared =
            Prepared::new(target.clone()).map_err(|source| AgentError::Tls { target: target.name.clone(), source })?;
        let prepared = Arc::new(match old {
            Some(old) => prepared.following(&old.prepared),
            None => prepared,
        });
        let known = |alias: &str| old?.works.iter().find(|work| work.alias() == alias).map(|work| work.state.clone());
        let accounts = target.accounts.iter().enumerate();
        let works = accounts.map(|(number, account)| {
            let state = known(&account.alias).unwrap_or_default();
            Arc::new(Work { target: prepared.clone(), account: number, state })
        });
        Ok(Self { works: works.collect(), prepared, files })
    }
}

/// The files that a target's TLS options name; they are read once, when the target is prepared.
pub(super) fn tls_files(target: &Target) -> impl Iterator<Item = &PathBuf> {
    let tls = &target.tls;
    [&tls.ca_file, &tls.client_cert, &tls.client_key].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::{self, Sources};

    /// A folder with a configuration, and files beside it.
    struct Folder(tempfile::TempDir);

    impl Folder {
        fn write(&self, name: &str, text: &str) {
            fs::write(self.0.path().join(name), text).unwrap();
        }

        /// The targets of this configuration, in which `DIR` is the folder.
        fn targets(&self, text: &str) -> Vec<Target> {
            self.write("imaptrace.toml", &text.replace("DIR", self.0.path().to_str().unwrap()));
            let file = Some(self.0.path().join("imaptrace.toml"));
            config::load(&Sources { file, ..Sources::default() }).unwrap().targets
        }
    }

    fn target(name: &str, more: &str) -> String {
        format!(
            "[[targets]]\nname = \"{name}\"\nurl = \"imaps://{name}.example.org\"\nuser = \"me\"\n\
             password = {{ env = \"X\" }}\n{more}\n"
        )
    }

    fn work(fleet: &Fleet, name: &str) -> Arc<Work> {
        fleet.slots().iter().find(|slot| &*slot.name == name).unwrap().work.clone()
    }

    #[test]
    fn only_what_changed_gets_new_work_and_an_account_keeps_what_was_learned_of_it() {
        let folder = Folder(tempfile::tempdir().unwrap());
        let before = folder.targets(&(target("one", "") + &target("two", "") + &target("three", "")));
        let (old, difference) = Fleet::default().next(&before).unwrap();
        assert_eq!(difference, Difference { added: 3, ..Difference::default() });
        work(&old, "two/default").history().told_of_few = true;
        let after =
            folder.targets(&(target("one", "") + &target("two", "labels = { rack = \"b\" }") + &target("four", "")));
        let (new, difference) = old.next(&after).unwrap();
        assert_eq!(difference, Difference { added: 1, changed: 1, removed: vec!["three".to_owned()], unchanged: 1 });
        assert!(Arc::ptr_eq(&work(&old, "one/default"), &work(&new, "one/default")));
        assert!(!Arc::ptr_eq(&work(&old, "two/default"), &work(&new, "two/default")));
        assert!(work(&new, "two/default").history().told_of_few);
        assert!(!work(&new, "four/default").history().told_of_few);
    }

    #[test]
    fn a_target_is_read_anew_when_a_file_of_its_own_changed_under_the_same_name() {
        let folder = Folder(tempfile::tempdir().unwrap());
        let pem = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap().cert.pem();
        folder.write("ca.pem", &pem("one"));
        let text = target("one", "ca_file = \"DIR/ca.pem\"") + &target("two", "");
        let (old, _) = Fleet::default().next(&folder.targets(&text)).unwrap();
        let (same, _) = old.next(&folder.targets(&text)).unwrap();
        folder.write("ca.pem", &(pem("another") + &pem("third")));
        let (new, difference) = same.next(&folder.targets(&text)).unwrap();
        assert_eq!(difference, Difference { changed: 1, unchanged: 1, ..Difference::default() });
        assert!(Arc::ptr_eq(&work(&old, "one/default"), &work(&same, "one/default")));
        assert!(!Arc::ptr_eq(&work(&same, "one/default"), &work(&new, "one/default")));
        folder.write("ca.pem", "no certificate");
        assert!(new.next(&folder.targets(&text)).is_err());
    }

    #[test]
    fn targets_on_one_host_and_port_share_its_limits_and_two_families_log_in_twice() {
        let folder = Folder(tempfile::tempdir().unwrap());
        let other = target("other", "address = \"each\"").replace("other.example.org", "one.example.org");
        let (fleet, _) =
            Fleet::default().next(&folder.targets(&(target("one", "") + &other + &target("two", "")))).unwrap();
        let slots = fleet.slots();
        let slot = |name: &str| slots.iter().find(|slot| &*slot.name == name).unwrap();
        let (one, other, two) = (slot("one/default"), slot("other/default"), slot("two/default"));
        assert_eq!((&one.server, one.logins, other.logins), (&other.server, 1, 2));
        assert_ne!(one.server, two.server);
        assert!(one.patience > two.work.target.target().deadlines.run);
    }
}

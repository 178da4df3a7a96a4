//! From the targets of a configuration to slots, with all that is kept of the fleet before.
//!
//! A target that is as before keeps the very same work, and with it its TLS context and what was learned of its server; its
//! files for TLS are followed by `tls_files`. An account keeps what was learned of its logins and runs whatever else of its target
//! changes. Starts nothing. Called by the agent at its start and by `reload`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{backoff::LoginBackoff, families, once::longest, run_log::LastSeen, tell::RunState, tls_files::FileSets};
use crate::{latency::SlowPeriod, net::Family, plan::Target, probe::TargetContext, schedule::Slot};

/// A password command's own deadline, a look at certificates, and what handing a finished run on may take.
const AROUND: Duration = Duration::from_secs(20);

/// One account of one target: what a slot starts. Its runs never overlap, over whichever family they go.
pub(super) struct Work {
    pub(super) target: Arc<TargetContext>,
    pub(super) account: usize,
    state: Arc<Mutex<History>>,
}

#[derive(Default)]
pub(super) struct History {
    pub(super) backoff: LoginBackoff,
    /// What the last run came to, for each family that had one.
    states: Vec<(Family, RunState)>,
    /// The slow steps of recent runs, for each family that had some.
    slow: Vec<(Family, SlowPeriod)>,
    /// The log has it that the mailbox holds too little.
    pub(super) told_of_few: bool,
    /// When runs last repeated the outcome of the one before, and were skipped.
    pub(super) repeated: LastSeen,
    pub(super) skipped: LastSeen,
}

impl History {
    /// What the last run over a family came to.
    pub(super) fn run_state(&mut self, family: Family) -> &mut RunState {
        let at = self.states.iter().position(|(known, _)| *known == family).unwrap_or_else(|| {
            self.states.push((family, RunState::default()));
            self.states.len() - 1
        });
        &mut self.states[at].1
    }

    /// The slow steps of recent runs over a family.
    pub(super) fn slow_period(&mut self, family: Family) -> &mut SlowPeriod {
        let at = self.slow.iter().position(|(known, _)| *known == family).unwrap_or_else(|| {
            self.slow.push((family, SlowPeriod::default()));
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
    prepared: Arc<TargetContext>,
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
    /// The fleet of these targets, with what their files for TLS hold. Leaves the one before as it is.
    pub(super) fn next(&self, targets: &[Target], files: &FileSets) -> (Self, Difference) {
        let mut next = Self::default();
        let mut difference = Difference::default();
        for target in targets {
            let old = self.members.get(&target.name);
            let member = match old {
                Some(old) if old.prepared.target() == target => {
                    difference.unchanged += 1;
                    Member { prepared: old.prepared.clone(), works: old.works.clone() }
                }
                _ => {
                    difference.changed += usize::from(old.is_some());
                    difference.added += usize::from(old.is_none());
                    Member::new(target, files, old)
                }
            };
            next.members.insert(target.name.clone(), member);
        }
        let mut gone: Vec<_> = self.members.keys().filter(|name| !next.members.contains_key(*name)).cloned().collect();
        gone.sort_unstable();
        difference.removed = gone;
        (next, difference)
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
                    max_run_time: (longest(target) + AROUND) * runs,
                    logins: runs,
                    work: work.clone(),
                });
            }
        }
        slots
    }
}

impl Member {
    fn new(target: &Target, files: &FileSets, old: Option<&Self>) -> Self {
        let prepared = TargetContext::with(target.clone(), files.of(target));
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
        Self { works: works.collect(), prepared }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;
    use crate::{
        agent::tls_files::TlsFileSets,
        config::{self, Sources},
        follow::FileFollower,
    };

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
        let (old, difference) = Fleet::default().next(&before, &FileSets::default());
        assert_eq!(difference, Difference { added: 3, ..Difference::default() });
        work(&old, "two/default").history().told_of_few = true;
        let after =
            folder.targets(&(target("one", "") + &target("two", "labels = { rack = \"b\" }") + &target("four", "")));
        let (new, difference) = old.next(&after, &FileSets::default());
        assert_eq!(difference, Difference { added: 1, changed: 1, removed: vec!["three".to_owned()], unchanged: 1 });
        assert!(Arc::ptr_eq(&work(&old, "one/default"), &work(&new, "one/default")));
        assert!(!Arc::ptr_eq(&work(&old, "two/default"), &work(&new, "two/default")));
        assert!(work(&new, "two/default").history().told_of_few);
        assert!(!work(&new, "four/default").history().told_of_few);
    }

    #[tokio::test]
    async fn a_client_certificate_that_was_renewed_is_in_use_without_new_work() {
        let folder = Folder(tempfile::tempdir().unwrap());
        let renew = |name: &str| {
            let pair = rcgen::KeyPair::generate().unwrap();
            let certificate = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&pair).unwrap();
            folder.write("client.pem", &certificate.pem());
            folder.write("client.key", &pair.serialize_pem());
            fs::set_permissions(folder.0.path().join("client.key"), fs::Permissions::from_mode(0o600)).unwrap();
        };
        renew("one");
        let text = target("one", "client_cert = \"DIR/client.pem\"\nclient_key = \"DIR/client.key\"");
        let targets = folder.targets(&text);
        let files = TlsFileSets::new(FileFollower::default());
        let (fleet, _) = Fleet::default().next(&targets, &files.load(&targets).await.unwrap());
        let before = work(&fleet, "one/default");
        let shown = before.target.client_certificate().unwrap();
        let set = files.load(&targets).await.unwrap();
        let look = async || {
            for _ in 0..2 {
                set.followed(&targets[0]).unwrap().look().await;
            }
        };
        look().await;
        renew("two");
        look().await;
        let renewed = before.target.client_certificate().unwrap();
        assert_ne!(renewed, shown);
        folder.write("client.pem", "no certificate");
        look().await;
        assert_eq!(before.target.client_certificate().unwrap(), renewed, "the last good one stays");
        let (next, difference) = fleet.next(&targets, &files.load(&targets).await.unwrap());
        assert_eq!(difference, Difference { unchanged: 1, ..Difference::default() });
        assert!(Arc::ptr_eq(&before, &work(&next, "one/default")));
        // What was never good is an error.
        drop((fleet, next, before, set));
        assert!(files.load(&targets).await.is_err());
    }

    #[test]
    fn targets_on_one_host_and_port_share_its_limits_and_two_families_log_in_twice() {
        let folder = Folder(tempfile::tempdir().unwrap());
        let other = target("other", "address = \"each\"").replace("other.example.org", "one.example.org");
        let (fleet, _) = Fleet::default()
            .next(&folder.targets(&(target("one", "") + &other + &target("two", ""))), &FileSets::default());
        let slots = fleet.slots();
        let slot = |name: &str| slots.iter().find(|slot| &*slot.name == name).unwrap();
        let (one, other, two) = (slot("one/default"), slot("other/default"), slot("two/default"));
        assert_eq!((&one.server, one.logins, other.logins), (&other.server, 1, 2));
        assert_ne!(one.server, two.server);
        assert!(one.max_run_time > two.work.target.target().deadlines.run);
    }
}

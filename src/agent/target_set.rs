//! The targets of a configuration as slots of the schedule, and what they keep over a reload.
//!
//! An unchanged target keeps the same [`AccountWork`], and with it its TLS context and cached data of its server; `tls_files`
//! follows its TLS files. An account keeps the history of its logins and runs when its target changes. Called by the agent at
//! its start and by `reload`.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    backoff::LoginBackoff,
    run_log::{LastSeen, RunState},
    run_once::longest,
    tls_files::FileSets,
};
use crate::{
    latency::SlowPeriod,
    net::Family,
    plan::{AddressChoice, Target},
    probe::TargetContext,
    schedule::Slot,
};

/// Time outside of the run: for a password command, for reading a refused certificate, and for delivery.
const AROUND: Duration = Duration::from_secs(20);

/// The address families of a target; each has a run of its own.
pub fn families(target: &Target) -> &'static [Family] {
    match target.address {
        AddressChoice::Any => &[Family::Any],
        AddressChoice::V4 => &[Family::V4],
        AddressChoice::V6 => &[Family::V6],
        AddressChoice::Each => &[Family::V4, Family::V6],
    }
}

/// The name of a target's server: all targets of the same host and port have the same.
pub(super) fn server_name(target: &Target) -> String {
    format!("{}:{}", target.endpoint.host, target.endpoint.port)
}

/// One account of one target: the work of a slot. Its runs never overlap, over any address family.
pub(super) struct AccountWork {
    /// The target as it is probed for the account.
    pub(super) target: Arc<TargetContext>,
    /// The place of the account among those of `target`.
    pub(super) account: usize,
    history: Arc<Mutex<AccountHistory>>,
}

/// What an account keeps from run to run.
#[derive(Default)]
pub(super) struct AccountHistory {
    pub(super) backoff: LoginBackoff,
    /// For each family that had a run.
    families: Vec<(Family, FamilyHistory)>,
    /// It has been logged that the mailbox holds too few messages.
    pub(super) logged_few_messages: bool,
    /// The mailbox held fewer than a tenth of its usual messages when it was last opened.
    pub(super) shrunk: bool,
    /// When a run last had the same outcome as the one before, and when a start was last skipped.
    repeated: LastSeen,
    pub(super) skipped: LastSeen,
}

/// What an account keeps of its runs over one address family.
#[derive(Default)]
pub(super) struct FamilyHistory {
    /// The state after the last run.
    pub(super) state: RunState,
    /// The slow steps of recent runs.
    pub(super) slow_period: SlowPeriod,
    /// Failed runs since the last passed one.
    pub(super) failures: u64,
}

impl AccountHistory {
    /// What is kept of the runs over a family, and when a run over any family last had the same outcome as the one before.
    pub(super) fn of_family(&mut self, family: Family) -> (&mut FamilyHistory, &mut LastSeen) {
        let at = self.families.iter().position(|(known, _)| *known == family).unwrap_or_else(|| {
            self.families.push((family, FamilyHistory::default()));
            self.families.len() - 1
        });
        (&mut self.families[at].1, &mut self.repeated)
    }
}

impl AccountWork {
    pub(super) fn history(&self) -> MutexGuard<'_, AccountHistory> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn alias(&self) -> &str {
        self.target.target().accounts.get(self.account).map_or("", |account| account.alias.as_str())
    }
}

/// All probed targets, by name.
#[derive(Default)]
pub(super) struct TargetSet {
    entries: HashMap<String, TargetEntry>,
}

struct TargetEntry {
    context: Arc<TargetContext>,
    /// One for each account, in their order.
    works: Vec<Arc<AccountWork>>,
}

/// How a target set differs from the one before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct TargetChanges {
    pub(super) added: usize,
    pub(super) changed: usize,
    /// Their names, in order.
    pub(super) removed: Vec<String>,
    pub(super) unchanged: usize,
}

impl TargetSet {
    /// The set of these targets, with the contents of their TLS files. The set before stays as it is.
    pub(super) fn next(&self, targets: &[Target], files: &FileSets) -> (Self, TargetChanges) {
        let mut next = Self::default();
        let mut changes = TargetChanges::default();
        for target in targets {
            let old = self.entries.get(&target.name);
            let entry = match old {
                Some(old) if old.context.target() == target => {
                    changes.unchanged += 1;
                    TargetEntry { context: old.context.clone(), works: old.works.clone() }
                }
                _ => {
                    changes.changed += usize::from(old.is_some());
                    changes.added += usize::from(old.is_none());
                    TargetEntry::new(target, files, old)
                }
            };
            next.entries.insert(target.name.clone(), entry);
        }
        changes.removed = self.entries.keys().filter(|name| !next.entries.contains_key(*name)).cloned().collect();
        changes.removed.sort_unstable();
        (next, changes)
    }

    /// A slot for every account of every target.
    pub(super) fn slots(&self) -> Vec<Slot<AccountWork>> {
        let mut servers: HashMap<String, Arc<str>> = HashMap::new();
        let mut slots = Vec::new();
        for entry in self.entries.values() {
            let target = entry.context.target();
            let server = server_name(target);
            let server = servers.entry(server).or_insert_with_key(|server| server.as_str().into());
            let runs = u32::try_from(families(target).len()).unwrap_or(1);
            for work in &entry.works {
                let target = work.target.target();
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

impl TargetEntry {
    fn new(target: &Target, files: &FileSets, old: Option<&Self>) -> Self {
        let mut context = TargetContext::with(target.clone(), files.of(target));
        if let Some(old) = old {
            context = context.following(&old.context);
        }
        let context = Arc::new(context);
        let known = |alias: &str| old?.works.iter().find(|work| work.alias() == alias).map(|work| work.history.clone());
        let accounts = target.probed().enumerate();
        let works = accounts.map(|(number, (account, probed))| {
            let history = known(&account.alias).unwrap_or_default();
            let (target, account) = match probed {
                Cow::Borrowed(_) => (context.clone(), number),
                Cow::Owned(own) => (Arc::new(context.sharing(own)), 0),
            };
            Arc::new(AccountWork { target, account, history })
        });
        Self { works: works.collect(), context }
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

    /// A directory with a configuration and other files.
    struct ConfigDir(tempfile::TempDir);

    impl ConfigDir {
        fn write(&self, name: &str, text: &str) {
            fs::write(self.0.path().join(name), text).unwrap();
        }

        /// The targets of this configuration, in which `DIR` is that directory.
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

    fn work(set: &TargetSet, name: &str) -> Arc<AccountWork> {
        set.slots().iter().find(|slot| &*slot.name == name).unwrap().work.clone()
    }

    #[test]
    fn only_what_changed_gets_new_work_and_an_account_keeps_its_history() {
        let dir = ConfigDir(tempfile::tempdir().unwrap());
        let before = dir.targets(&(target("one", "") + &target("two", "") + &target("three", "")));
        let (old, changes) = TargetSet::default().next(&before, &FileSets::default());
        assert_eq!(changes, TargetChanges { added: 3, ..TargetChanges::default() });
        work(&old, "two/default").history().logged_few_messages = true;
        let after =
            dir.targets(&(target("one", "") + &target("two", "labels = { rack = \"b\" }") + &target("four", "")));
        let (new, changes) = old.next(&after, &FileSets::default());
        assert_eq!(changes, TargetChanges { added: 1, changed: 1, removed: vec!["three".to_owned()], unchanged: 1 });
        assert!(Arc::ptr_eq(&work(&old, "one/default"), &work(&new, "one/default")));
        assert!(!Arc::ptr_eq(&work(&old, "two/default"), &work(&new, "two/default")));
        assert!(work(&new, "two/default").history().logged_few_messages);
        assert!(!work(&new, "four/default").history().logged_few_messages);
    }

    #[test]
    fn an_account_is_probed_with_what_it_has_of_its_own() {
        let dir = ConfigDir(tempfile::tempdir().unwrap());
        let more = "interval = \"2m\"\n[[targets.accounts]]\nname = \"slow\"\nuser = \"you\"\ninterval = \"10m\"\n\
                    timeout = \"5m\"\nlabels = { volume = \"b\" }";
        let (set, _) = TargetSet::default().next(&dir.targets(&target("one", more)), &FileSets::default());
        let slots = set.slots();
        let slot = |name: &str| slots.iter().find(|slot| &*slot.name == name).unwrap();
        let (own, other) = (slot("one/default"), slot("one/slow"));
        assert_eq!([own, other].map(|slot| slot.interval.as_secs()), [120, 600]);
        assert!(other.max_run_time > own.max_run_time + Duration::from_secs(200));
        assert_eq!(other.work.alias(), "slow");
        assert_eq!(other.work.target.target().labels["volume"], "b");
        assert!(own.work.target.target().labels.is_empty());
        assert_eq!(own.server, other.server);
    }

    #[test]
    fn what_happens_over_one_family_leaves_the_state_of_the_other_as_it_is() {
        let mut history = AccountHistory::default();
        let failed = || RunState::Failed { class: None, step: None };
        for family in [Family::V6, Family::V4, Family::V6] {
            history.of_family(family).0.state = failed();
        }
        history.of_family(Family::V4).0.state = RunState::Passed;
        let state = |history: &mut AccountHistory, family| std::mem::take(&mut history.of_family(family).0.state);
        assert_eq!((state(&mut history, Family::V6), state(&mut history, Family::V4)), (failed(), RunState::Passed));
        let families: Vec<_> = history.families.iter().map(|(family, ..)| *family).collect();
        assert_eq!(families, [Family::V6, Family::V4]);
    }

    #[tokio::test]
    async fn a_client_certificate_that_was_renewed_is_in_use_without_new_work() {
        let dir = ConfigDir(tempfile::tempdir().unwrap());
        let renew = |name: &str| {
            let pair = rcgen::KeyPair::generate().unwrap();
            let certificate = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&pair).unwrap();
            dir.write("client.pem", &certificate.pem());
            dir.write("client.key", &pair.serialize_pem());
            fs::set_permissions(dir.0.path().join("client.key"), fs::Permissions::from_mode(0o600)).unwrap();
        };
        renew("one");
        let text = target("one", "client_cert = \"DIR/client.pem\"\nclient_key = \"DIR/client.key\"");
        let targets = dir.targets(&text);
        let files = TlsFileSets::new(FileFollower::default());
        let (set, _) = TargetSet::default().next(&targets, &files.load(&targets).await.unwrap());
        let before = work(&set, "one/default");
        let shown = before.target.client_certificate().unwrap();
        let read = files.load(&targets).await.unwrap();
        let look = async || {
            for _ in 0..2 {
                read.followed(&targets[0]).unwrap().check().await;
            }
        };
        look().await;
        renew("two");
        look().await;
        let renewed = before.target.client_certificate().unwrap();
        assert_ne!(renewed, shown);
        dir.write("client.pem", "no certificate");
        look().await;
        assert_eq!(before.target.client_certificate().unwrap(), renewed, "the last good one stays");
        let (next, changes) = set.next(&targets, &files.load(&targets).await.unwrap());
        assert_eq!(changes, TargetChanges { unchanged: 1, ..TargetChanges::default() });
        assert!(Arc::ptr_eq(&before, &work(&next, "one/default")));
        // What was never good is an error.
        drop((set, next, before, read));
        assert!(files.load(&targets).await.is_err());
    }

    #[test]
    fn targets_on_one_host_and_port_share_its_limits_and_two_families_log_in_twice() {
        let dir = ConfigDir(tempfile::tempdir().unwrap());
        let other = target("other", "address = \"each\"").replace("other.example.org", "one.example.org");
        let (set, _) = TargetSet::default()
            .next(&dir.targets(&(target("one", "") + &other + &target("two", ""))), &FileSets::default());
        let slots = set.slots();
        let slot = |name: &str| slots.iter().find(|slot| &*slot.name == name).unwrap();
        let (one, other, two) = (slot("one/default"), slot("other/default"), slot("two/default"));
        assert_eq!((&one.server, one.logins, other.logins), (&other.server, 1, 2));
        assert_ne!(one.server, two.server);
        assert!(one.max_run_time > two.work.target.target().deadlines.run);
    }
}

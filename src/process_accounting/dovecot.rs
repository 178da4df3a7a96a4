//! Dovecot's processes: its master processes, and which children of theirs are login and authentication processes. Reads `/proc`
//! seldom: all of it when no master is known, else the children of the masters. Called by `sampler`.

use std::{
    collections::{BTreeSet, HashSet},
    time::{Duration, Instant},
};

use imaptrace_record::ServerProcessName;

use super::proc_files::ProcRoot;
use crate::clock;

const MASTER: &str = "dovecot";
/// The most Dovecot instances on one host.
const MASTERS: usize = 64;
/// The shortest time between two scans of the masters' children.
const SCAN: Duration = Duration::from_millis(100);
/// The shortest time between two scans of all processes.
const FULL_SCAN: Duration = Duration::from_secs(5);
/// A scan takes at most one part in this many of the time.
const SHARE: u32 = 300;

/// See the module's head.
#[derive(Debug)]
pub(super) struct DovecotProcesses {
    masters: BTreeSet<i32>,
    /// Children that are neither login nor authentication processes.
    others: HashSet<i32>,
    next_scan: Option<Instant>,
    next_full_scan: Option<Instant>,
}

/// The pre-login processes, which are sampled all the time.
const PRE_LOGIN: [ServerProcessName; 2] = [ServerProcessName::ImapLogin, ServerProcessName::Auth];

impl DovecotProcesses {
    pub(super) fn new() -> Self {
        Self { masters: BTreeSet::new(), others: HashSet::new(), next_scan: None, next_full_scan: None }
    }

    /// Whether a process with this parent is Dovecot's. Scans for new masters if the parent is unknown and named as one.
    pub(super) fn is_master(&mut self, root: &ProcRoot, parent: i32, now: Instant) -> bool {
        if !self.masters.contains(&parent) && is_master(root, parent) {
            self.find_masters(root, now);
        }
        self.masters.contains(&parent)
    }

    pub(super) fn has_master(&self) -> bool {
        !self.masters.is_empty()
    }

    /// The login and authentication processes that are not `known`, if a scan is due.
    pub(super) fn scan(
        &mut self,
        root: &ProcRoot,
        now: Instant,
        known: impl Fn(i32) -> bool,
    ) -> Vec<(i32, ServerProcessName)> {
        if self.next_scan.is_some_and(|next| now < next) {
            return Vec::new();
        }
        let begin = clock::now();
        self.masters.retain(|master| is_master(root, *master));
        if self.masters.is_empty() {
            self.find_masters(root, now);
        }
        let (mut found, mut children) = (Vec::new(), HashSet::new());
        for master in &self.masters {
            for child in children_of(root, *master) {
                children.insert(child);
                if known(child) || self.others.contains(&child) {
                    continue;
                }
                match root.name(child) {
                    // A child that has not executed its program yet.
                    None => {}
                    Some(name) if name == MASTER => {}
                    Some(name) => match PRE_LOGIN.iter().find(|pre_login| pre_login.as_str() == name) {
                        Some(pre_login) => found.push((child, *pre_login)),
                        None => {
                            self.others.insert(child);
                        }
                    },
                }
            }
        }
        self.others.retain(|other| children.contains(other));
        let took = clock::now().saturating_duration_since(begin);
        self.next_scan = Some(now + SCAN.max(took * SHARE));
        found
    }

    fn find_masters(&mut self, root: &ProcRoot, now: Instant) {
        if self.next_full_scan.is_some_and(|next| now < next) {
            return;
        }
        let begin = clock::now();
        let named: BTreeSet<i32> = root
            .ids()
            .unwrap_or_default()
            .into_iter()
            .filter(|pid| root.name(*pid).is_some_and(|name| name == MASTER))
            .collect();
        // A child has its parent's name until it is another program.
        let is_child = |pid: &i32| root.stat(*pid).is_none_or(|stat| named.contains(&stat.parent));
        self.masters =
            named.iter().copied().filter(|pid| !is_child(pid) && is_master(root, *pid)).take(MASTERS).collect();
        let took = clock::now().saturating_duration_since(begin);
        self.next_full_scan = Some(now + FULL_SCAN.max(took * SHARE));
    }
}

/// Whether a process is called as Dovecot's master is, and was started by root or by this process's user: any other user may
/// call a program so.
fn is_master(root: &ProcRoot, pid: i32) -> bool {
    let is_trusted = || root.real_user(pid).is_some_and(|user| user == 0 || user == nix::unistd::getuid().as_raw());
    root.name(pid).is_some_and(|name| name == MASTER) && is_trusted()
}

/// The children of a process, by the kernel's list, else by the parents of all processes.
fn children_of(root: &ProcRoot, master: i32) -> Vec<i32> {
    root.children(master).unwrap_or_else(|_| {
        let is_child = |pid: &i32| root.stat(*pid).is_some_and(|stat| stat.parent == master);
        root.ids().unwrap_or_default().into_iter().filter(is_child).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::{super::proc_files::fake::FakeProc, *};

    fn scan(proc: &FakeProc, dovecot: &mut DovecotProcesses, now: Instant) -> Vec<(i32, ServerProcessName)> {
        let mut found = dovecot.scan(&proc.root(), now, |_| false);
        found.sort_by_key(|(pid, _)| *pid);
        found
    }

    fn dovecot_of(proc: &FakeProc) {
        proc.start(1, "init", 0);
        proc.start(7, "dovecot", 1);
        proc.start(8, "anvil", 7);
        proc.start(9, "imap-login", 7);
        proc.start(10, "auth", 7);
        proc.start(11, "imap", 7);
        proc.start(12, "dovecot", 7);
        // Others with such names.
        proc.start(20, "imap-login", 1);
        proc.children(7, "8 9 10 11 12 ");
    }

    #[test]
    fn the_masters_children_are_found_by_name_and_again_when_they_have_become_what_they_are() {
        let proc = FakeProc::new();
        dovecot_of(&proc);
        let (mut dovecot, now) = (DovecotProcesses::new(), clock::now());
        let expected = [(9, ServerProcessName::ImapLogin), (10, ServerProcessName::Auth)];
        assert_eq!(scan(&proc, &mut dovecot, now), expected);
        assert!(dovecot.has_master() && dovecot.is_master(&proc.root(), 7, now));
        assert!(!dovecot.is_master(&proc.root(), 1, now) && !dovecot.is_master(&proc.root(), 12, now));
        proc.start(12, "imap-login", 7);
        assert_eq!(scan(&proc, &mut dovecot, now), [], "not due");
        let later = now + Duration::from_secs(60);
        assert_eq!(scan(&proc, &mut dovecot, later).len(), 3);
    }

    #[test]
    fn a_program_of_another_user_with_the_masters_name_is_none() {
        let proc = FakeProc::new();
        dovecot_of(&proc);
        proc.owned(7, 65_534);
        let (mut dovecot, now) = (DovecotProcesses::new(), clock::now());
        assert_eq!(scan(&proc, &mut dovecot, now), []);
        assert!(!dovecot.has_master() && !dovecot.is_master(&proc.root(), 7, now));
    }

    #[test]
    fn without_the_kernels_list_of_children_all_processes_are_looked_at() {
        let proc = FakeProc::new();
        dovecot_of(&proc);
        std::fs::remove_file(proc.path().join("7/task/7/children")).unwrap();
        assert_eq!(scan(&proc, &mut DovecotProcesses::new(), clock::now()).len(), 2);
    }

    #[test]
    fn a_master_that_is_started_again_is_found() {
        let proc = FakeProc::new();
        let (mut dovecot, now) = (DovecotProcesses::new(), clock::now());
        assert_eq!(scan(&proc, &mut dovecot, now), []);
        assert!(!dovecot.has_master());
        dovecot_of(&proc);
        assert_eq!(scan(&proc, &mut dovecot, now + Duration::from_secs(60)).len(), 2);
        proc.end(7);
        proc.start(70, "dovecot", 1);
        proc.start(71, "auth", 70);
        proc.children(70, "71");
        assert_eq!(scan(&proc, &mut dovecot, now + Duration::from_secs(120)), [(71, ServerProcessName::Auth)]);
        assert!(dovecot.is_master(&proc.root(), 70, now));
    }
}

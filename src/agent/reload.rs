//! Reads the configuration again on SIGHUP and when one of its files changes, and goes over to it if nothing is wrong.
//!
//! What is wrong with it is `config`'s to say; what a target keeps is `fleet`'s. A bad configuration changes nothing.
//! Runs beside the schedule for as long as the agent does.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsString,
    future::pending,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::{signal::unix::Signal, time::sleep};
use tracing::{error, info, warn};

use super::{
    descriptors,
    fleet::{Difference, Fleet, Work},
    heap::{self, GiveBack},
    reading::{BoundedReads, ReadError},
    receivers,
    shared::{Closed, Settings, Shared},
    tls_files::{self, FileSets, TlsFileSets},
    wiring,
};
use crate::{
    blocking, clock,
    config::{self, Config, Sources},
    follow::FileVersion,
    plan::{AddressChoice, Target},
    probe::Prober,
    schedule::{Schedule, Slot},
    telemetry::Subject,
};

/// As many targets that are gone are named.
const NAMED: usize = 10;
/// From one look at the files to the next.
const LOOK: Duration = Duration::from_secs(1);
/// Files that were never the same in so many looks are read as they are: somebody writes them all the time.
const RESTLESS: u32 = 5;

/// The configuration and all that it names is read within this time.
const READ: Duration = Duration::from_secs(30);
/// Its files are looked at within this time.
const LOOK_WITHIN: Duration = Duration::from_secs(5);
/// So many readings may be stuck.
const STUCK: usize = 2;

/// What goes on, and what it came from.
pub(super) struct Reload {
    /// Where it is read from again, and the signal to do so; none: never.
    pub(super) origin: Option<(Sources, Hangup)>,
    /// What its files looked like before it was read.
    pub(super) seen: FileStates,
    pub(super) child_env: Vec<(OsString, Option<OsString>)>,
    /// Without its targets, which the fleet has.
    pub(super) config: Config,
    pub(super) fleet: Arc<Fleet>,
    /// What the targets' files for TLS hold, which is followed apart from the configuration.
    pub(super) tls_files: Arc<TlsFileSets>,
}

/// SIGHUP, caught.
pub(super) struct Hangup {
    pub(super) signal: Signal,
    /// One came before.
    pub(super) early: bool,
}

/// What files looked like.
pub(super) type FileStates = Vec<(PathBuf, Option<FileVersion>)>;

/// A configuration that cannot be used.
struct Refused {
    /// All that is wrong.
    problems: Vec<String>,
    /// Where it may be mended.
    files: Vec<PathBuf>,
}

/// Why it is read again.
#[derive(Debug, Clone, Copy)]
enum Why {
    Signal,
    File,
}

impl Reload {
    /// Follows the configuration for as long as it is polled.
    pub(super) async fn follow(mut self, schedule: &Schedule<Work>, shared: &Shared) {
        let Some((sources, mut hangup)) = self.origin.take() else { return pending().await };
        let mut used = std::mem::take(&mut self.seen);
        // What a bad configuration was read from is followed too: there it will be mended.
        let mut files = watched(&self.config.watched, &[]);
        let mut last = used.clone();
        let mut restless = 0;
        let (reading, looking) = (BoundedReads::new(STUCK, READ), BoundedReads::new(STUCK, LOOK_WITHIN));
        loop {
            let why = tokio::select! {
                biased;
                () = hung_up(&mut hangup) => Why::Signal,
                () = sleep(LOOK) => Why::File,
            };
            let looked = looking.run({
                let files = files.clone();
                move || look_at(files)
            });
            // Where nothing can be seen nothing has changed, but a signal counts.
            let now = looked.await.unwrap_or_else(|_| last.clone());
            // A file that is still being written changes from one look to the next.
            restless = if now == last { 0 } else { restless + 1 };
            let settled = now != used && (restless == 0 || restless >= RESTLESS);
            last.clone_from(&now);
            if matches!(why, Why::Signal) || settled {
                files = self.reload(why, &sources, &reading, schedule, shared).await;
                // It may name other files now; those of before are known as they were before they were read.
                let named = looking.run({
                    let files = files.clone();
                    move || look_at(files)
                });
                let named = named.await.unwrap_or_else(|_| now.clone());
                let known: HashMap<_, _> = now.into_iter().collect();
                let as_known = |(path, new)| (known.get(&path).copied().unwrap_or(new), path);
                used = named.into_iter().map(as_known).map(swap).collect();
            }
        }
    }

    /// Returns the files to follow from now on.
    async fn reload(
        &mut self,
        why: Why,
        sources: &Sources,
        reading: &BoundedReads,
        schedule: &Schedule<Work>,
        shared: &Shared,
    ) -> Vec<PathBuf> {
        let why = match why {
            Why::Signal => "SIGHUP",
            Why::File => "a file has changed",
        };
        let (sources, fleet) = (sources.clone(), self.fleet.clone());
        shared.itself.reloading();
        let unread = |error: ReadError| Refused { problems: vec![error.to_string()], files: Vec::new() };
        let metrics = self.config.metrics.clone();
        let read = async {
            let config = reading.run(move || config::load(&sources)).await.map_err(unread)?;
            let config = config.map_err(|problems| Refused {
                problems: problems
                    .errors
                    .iter()
                    .map(|problem| problem.to_string().replace("\n  help: ", "; "))
                    .collect(),
                files: problems.watched.into(),
            })?;
            let files = self.tls_files.load(&config.targets).await.map_err(|error| Refused {
                problems: vec![error.to_string()],
                files: watched(&config.watched, &config.targets),
            })?;
            // What takes long with many targets is done where it delays no start.
            reading.run(move || PreparedReload::of(config, &fleet, &files, &metrics)).await.map_err(unread)
        };
        let read = read.await;
        shared.metrics.reloaded(read.is_ok(), clock::wall());
        let mut files = Vec::new();
        match read {
            Ok(next) => self.go_over(why, next, schedule, shared).await,
            Err(refused) => {
                for problem in &refused.problems {
                    error!("{problem}");
                }
                let count = refused.problems.len();
                shared.itself.reloaded(Err(count.try_into().unwrap_or(u64::MAX)));
                error!(
                    why,
                    problems = count,
                    "the new configuration is not used: the agent goes on with the one before"
                );
                files = refused.files;
                // One that is stuck has nothing to give back yet.
                drop(reading.run(heap::give_back).await);
            }
        }
        files.extend(self.config.watched.iter().cloned());
        watched(&files, &[])
    }

    async fn go_over(&mut self, why: &str, next: PreparedReload, schedule: &Schedule<Work>, shared: &Shared) {
        let PreparedReload { mut config, fleet, difference, slots, known, closed } = next;
        for warning in config.warnings.iter().filter(|warning| !self.config.warnings.contains(warning)) {
            warn!("{}", warning.to_string().replace("\n  help: ", "; "));
        }
        let waiting = need_restart(&self.config, &config);
        if !waiting.is_empty() {
            warn!(
                keys = waiting.join(" "),
                "these have changed, too: a running agent cannot follow them, and each needs a restart"
            );
        }
        let exporters = [&self.config.otlp.traces, &self.config.otlp.metrics].into_iter().flatten();
        let mut headers: Vec<_> = exporters.flat_map(receivers::unfollowed).collect();
        headers.sort_unstable();
        headers.dedup();
        if !headers.is_empty() {
            info!(
                headers = headers.join(" "),
                "these OTLP headers come from a variable or a program and were read at the start: a new value needs a restart"
            );
        }
        let prober = if config.dns == self.config.dns {
            shared.settings().prober.clone()
        } else {
            Arc::new(Prober::new(config.dns.clone(), self.child_env.clone()))
        };
        let settings = std::mem::replace(&mut *shared.settings(), Settings { prober, closed });
        let (itself, metrics) = (shared.itself.clone(), shared.metrics.clone());
        let shown = blocking::work(move || {
            itself.reloaded(Ok(&config));
            config.targets = Vec::new();
            metrics.retain(move |series| known.has(series));
            config
        });
        // Only a panic ends it, which was reported.
        let Ok(config) = shown.await else { return };
        let limits = descriptors::bounded(config.limits);
        // What needs a restart stays as it was started with, so that it is reported again as long as it differs.
        let mut old = std::mem::replace(&mut self.config, config);
        let fleet = std::mem::replace(&mut self.fleet, Arc::new(fleet));
        let new = &mut self.config;
        std::mem::swap(&mut new.agent, &mut old.agent);
        std::mem::swap(&mut new.otlp, &mut old.otlp);
        std::mem::swap(&mut new.metrics, &mut old.metrics);
        std::mem::swap(&mut new.latency, &mut old.latency);
        std::mem::swap(&mut new.state, &mut old.state);
        std::mem::swap(&mut new.http, &mut old.http);
        std::mem::swap(&mut new.resource, &mut old.resource);
        schedule.apply_and_drop(slots, limits, (fleet, old, settings, GiveBack));
        let Difference { added, changed, removed, unchanged } = difference;
        if !removed.is_empty() {
            // Nothing else tells of a target that is gone, and a file with targets may be empty by mistake.
            let (first, more) = removed.split_at(removed.len().min(NAMED));
            let (names, and_more) = (first.join(" "), more.len());
            warn!(why, names, and_more, "these targets are not probed any more");
        }
        let removed = removed.len();
        info!(why, added, changed, removed, unchanged, "the configuration was read again: these are the targets");
    }
}

/// All that a reload goes over to.
struct PreparedReload {
    config: Config,
    fleet: Fleet,
    difference: Difference,
    slots: Vec<Slot<Work>>,
    known: Known,
    closed: Closed,
}

impl PreparedReload {
    fn of(config: Config, before: &Fleet, files: &FileSets, metrics: &config::MetricsOptions) -> Self {
        let (fleet, difference) = before.next(&config.targets, files);
        let (slots, known, closed) = (fleet.slots(), Known::of(&config, metrics), wiring::closed(&config));
        Self { config, fleet, difference, slots, known, closed }
    }
}

/// Whose series go on: name, alias, journey, family, and the labels that metrics bear. Names and labels are as at the start:
/// [metrics] is not followed.
struct Known(HashSet<Series>);

type Series = (String, String, String, Option<String>, Vec<(String, String)>);

impl Known {
    fn of(config: &Config, metrics: &config::MetricsOptions) -> Self {
        let mut known = HashSet::new();
        for target in &config.targets {
            let labels = target.labels.iter().filter(|(key, _)| metrics.labels.contains(*key));
            let labels: Vec<_> = labels.map(|(key, value)| (key.clone(), value.clone())).collect();
            let families: &[Option<&str>] = match target.address {
                AddressChoice::Each => &[Some("ipv4"), Some("ipv6"), None],
                AddressChoice::Any | AddressChoice::V4 | AddressChoice::V6 => &[None],
            };
            let (name, journey) = (target.series_name(metrics.per), target.journey.name());
            for account in &target.accounts {
                for family in families {
                    let family = family.map(ToOwned::to_owned);
                    known.insert((name.to_owned(), account.alias.clone(), journey.to_string(), family, labels.clone()));
                }
            }
        }
        Self(known)
    }

    fn has(&self, series: &Subject<'_>) -> bool {
        let labels = series.labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let (name, account, journey) = (series.target.to_owned(), series.account.to_owned(), series.journey.to_owned());
        self.0.contains(&(name, account, journey, series.family.map(ToOwned::to_owned), labels))
    }
}

/// The tables whose changes a running agent cannot follow.
fn need_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    // How times are taken is a matter of each target, and followed.
    let timing = new.latency.timing;
    let latency = config::Latency { timing, ..old.latency.clone() } == new.latency;
    let same = [
        ("[agent]", old.agent == new.agent),
        ("[otlp]", old.otlp == new.otlp),
        ("[metrics]", old.metrics == new.metrics),
        ("[latency]", latency),
        ("[state]", old.state == new.state),
        ("[http]", old.http == new.http),
    ];
    same.into_iter().filter(|(_, same)| !same).map(|(table, _)| table).collect()
}

/// The files whose changes have the configuration read again: those that it was read from, and those for TLS of targets that
/// could not be taken over for them.
pub(super) fn watched(read: &[PathBuf], targets: &[Target]) -> Vec<PathBuf> {
    let mut files: Vec<_> = read.iter().cloned().chain(targets.iter().flat_map(tls_files::of)).collect();
    files.sort();
    files.dedup();
    files
}

/// Looks at files where waiting for a disk delays no probe, and not for ever.
pub(super) async fn look(files: Vec<PathBuf>) -> FileStates {
    BoundedReads::new(1, LOOK_WITHIN).run(move || look_at(files)).await.unwrap_or_default()
}

fn look_at(files: Vec<PathBuf>) -> FileStates {
    files.into_iter().map(|path| (FileVersion::at(&path).ok().flatten(), path)).map(swap).collect()
}

fn swap((stamp, path): (Option<FileVersion>, PathBuf)) -> (PathBuf, Option<FileVersion>) {
    (path, stamp)
}

async fn hung_up(hangup: &mut Hangup) {
    // None is the end of all signals.
    if !std::mem::take(&mut hangup.early) && hangup.signal.recv().await.is_none() {
        pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn load(text: &str) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("imaptrace.toml");
        let target = "[[targets]]\nname = \"a\"\nurl = \"imaps://a\"\nuser = \"me\"\npassword = { env = \"X\" }\n";
        std::fs::write(&file, format!("{text}\n{target}")).unwrap();
        config::load(&Sources { file: Some(file), ..Sources::default() }).unwrap()
    }

    #[test]
    fn what_a_running_agent_cannot_follow_is_named_and_nothing_else_is() {
        let plain = load("");
        for (text, named) in [
            ("[agent]\nlog_level = \"debug\"", "[agent]"),
            ("[otlp]\nendpoint = \"http://localhost:4317\"", "[otlp]"),
            ("[metrics]\nhistogram = \"exponential\"", "[metrics]"),
            ("[latency]\nslow_ratio = 5.0", "[latency]"),
            ("[state]\ndir = \"/tmp\"", "[state]"),
            ("[http]\nlisten = \"off\"", "[http]"),
            ("[latency]\nquickack = false", ""),
            ("[limits]\nruns_in_flight = 9", ""),
            ("[[windows]]\nname = \"night\"\nto = \"04:00\"", ""),
            ("[dns]\ncache = true", ""),
            ("[defaults]\ninterval = \"2m\"", ""),
        ] {
            assert_eq!(need_restart(&plain, &load(text)).join(" "), named, "{text}");
        }
    }

    #[test]
    fn series_go_with_whatever_tells_them_apart() {
        let plain = load("");
        let series =
            |journey, family| Subject { target: "a", account: "default", journey, family, labels: BTreeMap::new() };
        let kept = |text: &str, series: &Subject<'_>| Known::of(&load(text), &plain.metrics).has(series);
        assert!(kept("", &series("first-load", None)));
        assert!(!kept("", &series("first-load", Some("ipv4"))));
        assert!(kept("[defaults]\naddress = \"each\"", &series("first-load", Some("ipv4"))));
        assert!(!kept("[defaults]\ncold = true", &series("first-load", None)));
        assert!(kept("[defaults]\ncold = true", &series("first-load-cold", None)));
        assert!(!kept("", &Subject { target: "b", ..series("first-load", None) }));
        assert!(!kept("", &Subject { account: "other", ..series("first-load", None) }));
        let labels = BTreeMap::from([("rack", "a3")]);
        assert!(!kept("", &Subject { labels, ..series("first-load", None) }));
    }
}

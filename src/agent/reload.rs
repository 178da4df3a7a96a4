//! Loads the configuration again on SIGHUP, when one of its files changes and when a source of targets gives others, and applies it
//! if it is valid.
//!
//! `config` validates it; `target_set` decides what a target keeps. An invalid configuration changes nothing. Runs beside the
//! schedule as long as the agent does.

use std::{
    collections::{BTreeMap, HashSet},
    future::pending,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::{signal::unix::Signal, time::sleep};
use tracing::{error, info, warn};

use super::{
    bounded_reads::{BoundedReads, ReadError},
    descriptors, discovered_targets,
    event_files::{EventSenders, NextSenders, secret_files},
    event_reception::event_age,
    heap::{self, GiveBack},
    otlp_files,
    runner::{MaintenanceCheck, RunContext, RunSettings},
    target_set::{AccountWork, TargetChanges, TargetSet},
    tls_files::TlsFileSets,
    wiring,
};
use crate::{
    blocking, clock,
    config::{self, Config, Sources},
    discovery::Discovery,
    follow::FileVersion,
    net::TlsPaths,
    plan::{AddressChoice, Target},
    probe::Prober,
    schedule::{Schedule, Slot},
    server_events::{EventCounts, ServerEventsSettings},
    telemetry::Subject,
};

/// The most removed targets that a log line names.
const NAMED: usize = 10;
/// The time between two checks of the files.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Files that changed in this many checks in a row are read as they are: they are written all the time.
const RESTLESS: u32 = 5;

/// The time limit to read the configuration and the files that it names.
const READ_LIMIT: Duration = Duration::from_secs(30);
/// The time limit for a check of its files.
const CHECK_LIMIT: Duration = Duration::from_secs(5);
/// The most reads that may hang.
const MOST_HANGING: usize = 2;

/// Follows the configuration.
pub(super) struct Reloader {
    /// Where it is loaded from, and the signal to do so; none: never.
    pub(super) origin: Option<(Sources, Hangup)>,
    /// The versions of its files before it was loaded.
    pub(super) seen: FileStates,
    /// Without its targets, which are in `targets`.
    pub(super) config: Config,
    pub(super) targets: Arc<TargetSet>,
    /// The contents of the targets' TLS files, which are followed separately.
    pub(super) tls_files: Arc<TlsFileSets>,
    /// Who may send events, if any are received.
    pub(super) senders: Option<EventSenders>,
    /// What became of their events.
    pub(super) counts: Option<EventCounts>,
    /// The sources of targets.
    pub(super) discovery: Discovery,
}

/// SIGHUP, caught.
pub(super) struct Hangup {
    pub(super) signal: Signal,
    /// One arrived before it was caught here.
    pub(super) early: bool,
}

/// The versions of files; none of a missing one.
pub(super) type FileStates = BTreeMap<PathBuf, Option<FileVersion>>;

/// Why it is loaded again.
const SIGHUP: &str = "SIGHUP";
const CHANGE: &str = "a file has changed";
const DISCOVERY: &str = "the answer of a source of targets has changed";

impl Reloader {
    /// Follows the configuration for as long as it is polled.
    pub(super) async fn follow(mut self, schedule: &Schedule<AccountWork>, context: &RunContext) {
        let Some((mut sources, mut hangup)) = self.origin.take() else { return pending().await };
        let mut used = std::mem::take(&mut self.seen);
        // The files of an invalid configuration are followed too: they will be corrected.
        let mut files = watched(&self.config.watched, &[]);
        let mut last = used.clone();
        let mut restless = 0;
        // A source has, and they wait for a file that is being written.
        let mut has_other_targets = false;
        let (reads, checks) =
            (BoundedReads::new(MOST_HANGING, READ_LIMIT), BoundedReads::new(MOST_HANGING, CHECK_LIMIT));
        loop {
            let why = tokio::select! {
                biased;
                () = hung_up(&mut hangup) => SIGHUP,
                () = self.discovery.changed() => DISCOVERY,
                () = sleep(CHECK_INTERVAL) => CHANGE,
            };
            has_other_targets |= why == DISCOVERY;
            // If the files cannot be checked, they count as unchanged; a signal still counts.
            let now = versions(&checks, &files).await.unwrap_or_else(|_| last.clone());
            // A file that is still being written changes from one check to the next.
            restless = if now == last { 0 } else { restless + 1 };
            let is_settled = restless == 0 || restless >= RESTLESS;
            last.clone_from(&now);
            if why == SIGHUP || (is_settled && (has_other_targets || now != used)) {
                let why = if why == CHANGE && has_other_targets { DISCOVERY } else { why };
                has_other_targets = false;
                sources.discovered = self.discovery.current();
                files = self.reload(why, &sources, &reads, schedule, context).await;
                // It may name other files now. The others have the versions from before they were read.
                used = versions(&checks, &files).await.unwrap_or_else(|_| now.clone());
                for (path, version) in &mut used {
                    *version = *now.get(path).unwrap_or(version);
                }
            }
        }
    }

    /// Returns the files to follow from now on.
    async fn reload(
        &mut self,
        why: &'static str,
        sources: &Sources,
        reads: &BoundedReads,
        schedule: &Schedule<AccountWork>,
        context: &RunContext,
    ) -> Vec<PathBuf> {
        let (sources, before) = (sources.clone(), self.targets.clone());
        context.status.notifier.reloading();
        let metrics = self.config.metrics.clone();
        // An error is all problems, and the files in which they may be corrected.
        let unread = |error: ReadError| (vec![error.to_string()], Vec::new());
        let read = async {
            let config = reads.run(move || config::load(&sources)).await.map_err(unread)?;
            let config = config.map_err(|problems| {
                let lines = problems.errors.iter().map(|problem| problem.to_string().replace("\n  help: ", "; "));
                (lines.collect::<Vec<_>>(), problems.watched.into_vec())
            })?;
            let files = self.tls_files.load(&config.targets).await;
            let files = files.map_err(|error| (vec![error.to_string()], watched(&config.watched, &config.targets)))?;
            let senders = match &self.senders {
                Some(known) => known.next(&config.server_events.senders).await.map_err(|error| {
                    let secrets = secret_files(&config.server_events.senders);
                    (vec![error.to_string()], config.watched.iter().cloned().chain(secrets).collect())
                })?,
                None => None,
            };
            // With many targets this takes long: it is done where it delays no start.
            let prepare = move || {
                let (target_set, changes) = before.next(&config.targets, &files);
                PreparedReload {
                    slots: target_set.slots(),
                    known: known_series(&config, &metrics),
                    in_maintenance: wiring::maintenance(&config),
                    config,
                    target_set,
                    changes,
                    senders,
                }
            };
            reads.run(prepare).await.map_err(unread)
        };
        let read = read.await;
        context.metrics.agent().reloaded(read.is_ok(), clock::wall());
        let mut files = Vec::new();
        match read {
            Ok(next) => self.apply(why, next, schedule, context).await,
            Err((problems, named)) => {
                for problem in &problems {
                    error!("{problem}");
                }
                context.status.reloaded(Err(problems.len() as u64));
                error!(why, problems = problems.len(), "configuration not reloaded: the previous one stays in force");
                files = named;
                // Fails if reads hang, which hold their memory.
                drop(reads.run(heap::give_back).await);
            }
        }
        files.extend(self.config.watched.iter().cloned());
        watched(&files, &[])
    }

    async fn apply(&mut self, why: &str, next: PreparedReload, schedule: &Schedule<AccountWork>, context: &RunContext) {
        let PreparedReload { mut config, target_set, changes, slots, known, in_maintenance, senders } = next;
        for warning in config.warnings.iter().filter(|warning| !self.config.warnings.contains(warning)) {
            warn!("{}", warning.to_string().replace("\n  help: ", "; "));
        }
        let waiting = need_restart(&self.config, &config);
        if !waiting.is_empty() {
            warn!(keys = waiting.join(" "), "changes of these tables need a restart of the agent");
        }
        let exporters = [&self.config.otlp.traces, &self.config.otlp.metrics].into_iter().flatten();
        let mut headers: Vec<_> = exporters.flat_map(otlp_files::unfollowed).collect();
        headers.sort_unstable();
        headers.dedup();
        if !headers.is_empty() {
            info!(
                headers = headers.join(" "),
                "these OTLP headers come from a variable or a program and were read at the start: a new value needs a restart"
            );
        }
        let prober = if config.dns == self.config.dns {
            context.settings().prober.clone()
        } else {
            Arc::new(Prober::new(config.dns.clone()))
        };
        let settings = std::mem::replace(&mut *context.settings(), RunSettings { prober, in_maintenance });
        if let Some(waiting) = &context.waiting {
            // Its wait needs a restart.
            waiting.store.keep_for(event_age(&config, self.config.server_events.wait));
        }
        if let Some(local) = &context.local {
            local.accounting.keep_for(event_age(&config, self.config.server_events.wait));
        }
        if let (Some(known), Some(next)) = (&self.senders, senders) {
            // First what their events may join, then who is let in.
            if let Some(waiting) = &context.waiting {
                waiting.store.set_senders(config.server_events.senders.clone());
            }
            if let Some(counts) = &self.counts {
                counts.set_senders(&config.server_events.senders);
            }
            known.replace(next);
            info!(senders = config.server_events.senders.len(), "the senders of server events have changed");
        }
        discovered_targets::follow(&mut self.discovery, &config, &self.config.refused);
        let (status, metrics) = (context.status.clone(), context.metrics.clone());
        context.servers.set(&slots, &metrics);
        metrics.agent().configured(&config.hash);
        let shown = blocking::work(move || {
            status.reloaded(Ok(&config));
            config.targets = Vec::new();
            metrics.retain(known);
            config
        });
        // It fails only after a panic, which has been reported.
        let Ok(config) = shown.await else { return };
        // What receives events was started as it was configured then.
        let limits = descriptors::bounded(config.limits, &self.config.server_events);
        // Tables that need a restart keep their values from the start, so that they are reported as long as they differ.
        let mut old = std::mem::replace(&mut self.config, config);
        let old_targets = std::mem::replace(&mut self.targets, Arc::new(target_set));
        let new = &mut self.config;
        let shard = new.shard;
        std::mem::swap(&mut new.agent, &mut old.agent);
        std::mem::swap(&mut new.otlp, &mut old.otlp);
        std::mem::swap(&mut new.metrics, &mut old.metrics);
        std::mem::swap(&mut new.latency, &mut old.latency);
        std::mem::swap(&mut new.state, &mut old.state);
        std::mem::swap(&mut new.http, &mut old.http);
        std::mem::swap(&mut new.server_events, &mut old.server_events);
        std::mem::swap(&mut new.server_events.senders, &mut old.server_events.senders);
        std::mem::swap(&mut new.resource, &mut old.resource);
        schedule.apply_and_drop(slots, limits, (old_targets, old, settings, GiveBack));
        let TargetChanges { added, changed, removed, unchanged } = changes;
        if !removed.is_empty() {
            // Nothing else reports a removed target, and a file with targets may be empty by mistake.
            let (first, more) = removed.split_at(removed.len().min(NAMED));
            let (names, and_more) = (first.join(" "), more.len());
            warn!(why, names, and_more, "targets removed: they are no longer probed");
        }
        let (removed, shard) = (removed.len(), shard.map(tracing::field::display));
        info!(why, added, changed, removed, unchanged, shard, "configuration reloaded");
    }
}

/// What a reload applies.
struct PreparedReload {
    config: Config,
    target_set: TargetSet,
    changes: TargetChanges,
    /// The senders of events, if they have changed.
    senders: Option<NextSenders>,
    slots: Vec<Slot<AccountWork>>,
    known: KnownSeries,
    in_maintenance: MaintenanceCheck,
}

type KnownSeries = Box<dyn Fn(&Subject<'_>) -> bool + Send + Sync>;

/// The metric series that continue, by target name, account, journey, family, and the labels of metrics. The labels and the
/// names were fixed at the start: `[metrics]` needs a restart.
fn known_series(config: &Config, metrics: &config::MetricsOptions) -> KnownSeries {
    let mut known = HashSet::new();
    for target in &config.targets {
        let each = target.address == AddressChoice::Each;
        let families: &[Option<&str>] = if each { &[Some("ipv4"), Some("ipv6"), None] } else { &[None] };
        let name = target.series_name(metrics.per);
        for (account, probed) in target.probed() {
            let labels = probed.labels.iter().filter(|(key, _)| metrics.series.labels.contains(*key));
            let labels: Vec<_> = labels.map(|(key, value)| (key.clone(), value.clone())).collect();
            let journey = probed.journey.name();
            for family in families {
                let family = family.map(ToOwned::to_owned);
                known.insert((name.to_owned(), account.alias.clone(), journey.to_string(), family, labels.clone()));
            }
        }
    }
    Box::new(move |series| {
        let labels = series.labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let (name, account, journey) = (series.target.to_owned(), series.account.to_owned(), series.journey.to_owned());
        known.contains(&(name, account, journey, series.family.map(ToOwned::to_owned), labels))
    })
}

/// The tables whose changes a running agent cannot follow. How times are measured is a setting of each target, and followed; the
/// senders of events are, too.
fn need_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let server_events =
        ServerEventsSettings { senders: new.server_events.senders.clone(), ..old.server_events.clone() };
    let same = [
        ("[agent]", old.agent == new.agent && old.resource == new.resource),
        ("[otlp]", old.otlp == new.otlp),
        ("[metrics]", old.metrics == new.metrics),
        ("[latency]", old.latency == new.latency),
        ("[state]", old.state == new.state),
        ("[http]", old.http == new.http),
        ("[server_events]", server_events == new.server_events),
    ];
    same.into_iter().filter(|(_, same)| !same).map(|(table, _)| table).collect()
}

/// The files whose changes cause a reload: those it was read from, and the TLS files of targets that were invalid.
fn watched(read: &[PathBuf], targets: &[Target]) -> Vec<PathBuf> {
    let tls_files = targets.iter().flat_map(|target| TlsPaths::of(&target.tls).all());
    let mut files: Vec<_> = read.iter().cloned().chain(tls_files).collect();
    files.sort();
    files.dedup();
    files
}

/// The versions of the configuration's files; none if a disk does not answer.
pub(super) async fn seen(config: &Config) -> FileStates {
    let checks = BoundedReads::new(1, CHECK_LIMIT);
    versions(&checks, &watched(&config.watched, &[])).await.unwrap_or_default()
}

/// Checks files where waiting for a disk delays no probe, with a time limit.
async fn versions(checks: &BoundedReads, files: &[PathBuf]) -> Result<FileStates, ReadError> {
    let files = files.to_vec();
    let version = |path: &PathBuf| (path.clone(), FileVersion::at(path).ok().flatten());
    checks.run(move || files.iter().map(version).collect()).await
}

async fn hung_up(hangup: &mut Hangup) {
    // None means that no more signals arrive.
    if !std::mem::take(&mut hangup.early) && hangup.signal.recv().await.is_none() {
        pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn load(text: &str) -> Config {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("imaptrace.toml");
        let target = "[[targets]]\nname = \"a\"\nurl = \"imaps://a\"\nuser = \"me\"\npassword = { env = \"X\" }\n";
        std::fs::write(&file, format!("{text}\n{target}")).unwrap();
        config::load(&Sources { file: Some(file), ..Sources::default() }).unwrap()
    }

    #[test]
    fn tables_that_need_a_restart_are_named_and_no_others() {
        let plain = load("");
        for (text, named) in [
            ("[agent]\nlog_level = \"debug\"", "[agent]"),
            ("[otlp]\nendpoint = \"http://localhost:4317\"", "[otlp]"),
            ("[metrics]\nhistogram = \"exponential\"", "[metrics]"),
            ("[latency]\nslow_ratio = 5.0", "[latency]"),
            ("[state]\ndir = \"/tmp\"", "[state]"),
            ("[http]\nlisten = \"off\"", "[http]"),
            ("[server_events]\nwait = \"2s\"", "[server_events]"),
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
    fn other_senders_need_no_restart_and_another_address_for_them_does() {
        let events = |port: u16, sender: &str| {
            load(&format!(
                "[server_events]\nlisten = \"127.0.0.1:{port}\"\n[[server_events.senders]]\nname = \"{sender}\"\n\
                 secret = {{ env = \"X\" }}\ntargets = [\"*\"]\n"
            ))
        };
        let plain = events(8144, "one");
        assert_eq!(need_restart(&plain, &events(8144, "two")), Vec::<&str>::new());
        assert_eq!(need_restart(&plain, &events(8145, "two")), ["[server_events]"]);
    }

    #[test]
    fn a_series_ends_when_any_of_its_attributes_changes() {
        let plain = load("");
        let series =
            |journey, family| Subject { target: "a", account: "default", journey, family, labels: BTreeMap::new() };
        let kept = |text: &str, series: &Subject<'_>| known_series(&load(text), &plain.metrics)(series);
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

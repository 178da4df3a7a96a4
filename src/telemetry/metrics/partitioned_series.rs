//! The series of all accounts, each account in one partition: adds, finds and removes accounts.
//!
//! A measurement takes a shared lock; a new account, a full partition and a removal take it exclusively. Exports nothing. Called
//! by [`Metrics`](super::Metrics).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use opentelemetry::{Key as AttributeKey, KeyValue};

use super::{
    partition::{NoCapacity, Partition, PartitionConfig, SeriesReader},
    series::{Measurement, SeriesKey},
    settings::MetricsSettings,
};
use crate::telemetry::names;

/// The number of the first partitions, and the accounts in each: in small ones, a removal restarts few other series.
/// The largest fills the SDK's tables, whose sizes are powers of two.
const SIZES: [(usize, usize); 2] = [(32, 4), (64, 16)];
const LARGEST: usize = 37;
/// The largest partition for a single account.
const MOST_SIZE: usize = 256;

/// The most retired partitions that wait for their last export, which limits memory while the receiver is unreachable.
const MOST_RETIRED: usize = 64;

/// Targets that are examined under one lock.
const AT_A_TIME: usize = 256;
/// The pause after a partition is emptied.
const PAUSE: Duration = Duration::from_micros(200);

/// The attributes that distinguish the series of one account from those of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject<'a> {
    /// Name of the target.
    pub target: &'a str,
    /// Alias of the account.
    pub account: &'a str,
    /// Name of the journey.
    pub journey: &'a str,
    /// `ipv4` or `ipv6`, for a target with a run per family.
    pub family: Option<&'a str>,
    /// The labels on the allow list.
    pub labels: BTreeMap<&'a str, &'a str>,
}

type Keep = dyn Fn(&Subject<'_>) -> bool + Send + Sync;

pub(super) struct PartitionedSeries {
    pub(super) config: PartitionConfig,
    /// The attribute keys of the labels on the allow list.
    label_keys: Vec<AttributeKey>,
    partitions: RwLock<Partitions>,
    /// The series of all accounts, as Prometheus counts them.
    series: AtomicUsize,
}

#[derive(Default)]
struct Partitions {
    /// By target.
    accounts: HashMap<Box<str>, Vec<AccountSeries>>,
    active: Vec<Arc<Partition>>,
    retired: VecDeque<SeriesReader>,
    keep: Option<Arc<Keep>>,
}

/// The accounts of a partition.
struct PartitionMembers {
    partition: Arc<Partition>,
    targets: Vec<Box<str>>,
    accounts: usize,
    /// At least one of them is to be removed.
    some_go: bool,
}

struct AccountSeries {
    name: Arc<str>,
    journey: Arc<str>,
    family: Option<Arc<str>>,
    /// In the order of the allow list.
    labels: Vec<Option<Arc<str>>>,
    base: Vec<KeyValue>,
    partition: Arc<Partition>,
    list: Mutex<SeriesList>,
}

/// The series of an account, in the order of its measurements, which is that of each run.
#[derive(Default)]
struct SeriesList {
    series: Vec<SeriesKey>,
    /// The last values of its gauges, for a new partition.
    gauges: Vec<(SeriesKey, Measurement)>,
}

/// A measurement that found no room.
type Missed = (SeriesKey, Measurement, NoCapacity);

impl PartitionedSeries {
    pub(super) fn new(config: PartitionConfig) -> Self {
        let label_keys = config.settings.labels.iter();
        let label_keys =
            label_keys.map(|key| Arc::<str>::from(format!("{}{key}", names::LABEL_PREFIX)).into()).collect();
        Self { config, label_keys, partitions: RwLock::default(), series: AtomicUsize::new(0) }
    }

    /// Records measurements. Returns how many found no room.
    pub(super) fn enter(&self, owner: &Subject<'_>, measure: impl Fn(&mut dyn FnMut(SeriesKey, Measurement))) -> usize {
        let mut missed = Vec::new();
        let known = {
            let partitions = self.read();
            let account = partitions.find(owner, &self.config.settings.labels);
            account.map(|account| account.enter(self, &measure, &mut missed)).is_some()
        };
        if !known {
            let mut partitions = self.write();
            let Some(account) = partitions.admit(self, owner) else { return 0 };
            account.enter(self, &measure, &mut missed);
        }
        if missed.is_empty() { 0 } else { self.make_room(owner, missed) }
    }

    /// Splits the account's partition until everything is recorded; a single account gets a larger partition.
    fn make_room(&self, owner: &Subject<'_>, mut missed: Vec<Missed>) -> usize {
        let mut partitions = self.write();
        while missed.iter().any(|(.., error)| *error == NoCapacity::Partition) {
            let Some(account) = partitions.find(owner, &self.config.settings.labels) else { return 0 };
            let full = Arc::clone(&account.partition);
            if full.accounts() <= 1 && full.size >= MOST_SIZE {
                break;
            }
            partitions.split(self, &full);
            let Some(account) = partitions.find(owner, &self.config.settings.labels) else { return 0 };
            let mut list = account.list();
            missed.retain_mut(|(key, value, error)| {
                list.enter(self, account, &mut 0, *key, *value).inspect_err(|now| *error = *now).is_err()
            });
        }
        missed.len()
    }

    /// See [`Metrics::retain`](super::Metrics::retain). Recording a run waits for one partition at most.
    pub(super) fn retain(&self, keep: impl Fn(&Subject<'_>) -> bool + Send + Sync + 'static) {
        let keep: Arc<Keep> = Arc::new(keep);
        self.write().keep = Some(keep.clone());
        // An account that moves meanwhile is found in the next pass.
        loop {
            let touched = self.touched(&*keep);
            if touched.is_empty() {
                return;
            }
            for members in touched {
                self.write().empty(self, &members, &*keep);
                // The lock is not fair: waiting threads need a pause to get it.
                std::thread::park_timeout(PAUSE);
            }
        }
    }

    /// The partitions that lose an account, with all their accounts.
    fn touched(&self, keep: &Keep) -> Vec<PartitionMembers> {
        let targets: Vec<Box<str>> = self.read().accounts.keys().cloned().collect();
        let mut found: HashMap<*const Partition, PartitionMembers> = HashMap::new();
        for some in targets.chunks(AT_A_TIME) {
            let partitions = self.read();
            for target in some {
                for account in partitions.accounts.get(target).into_iter().flatten() {
                    let members = found.entry(Arc::as_ptr(&account.partition)).or_insert_with(|| PartitionMembers {
                        partition: account.partition.clone(),
                        targets: Vec::new(),
                        accounts: 0,
                        some_go: false,
                    });
                    members.accounts += 1;
                    members.some_go |= !keep(&account.subject(target, &self.config.settings.labels));
                    if members.targets.last() != Some(target) {
                        members.targets.push(target.clone());
                    }
                }
            }
        }
        found.into_values().filter(|members| members.some_go).collect()
    }

    pub(super) fn series(&self) -> usize {
        self.series.load(Ordering::Relaxed)
    }

    /// The retired partitions, then the active ones.
    pub(super) fn readers(&self) -> (Vec<SeriesReader>, Vec<SeriesReader>) {
        let partitions = self.read();
        (
            partitions.retired.iter().cloned().collect(),
            partitions.active.iter().map(|partition| partition.reader.clone()).collect(),
        )
    }

    /// A retired partition was delivered.
    pub(super) fn delivered(&self, reader: &SeriesReader) {
        self.write().retired.retain(|known| !known.is(reader));
    }

    fn read(&self) -> RwLockReadGuard<'_, Partitions> {
        self.partitions.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Partitions> {
        self.partitions.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Partitions {
    fn find(&self, owner: &Subject<'_>, labels: &BTreeSet<String>) -> Option<&AccountSeries> {
        self.accounts.get(owner.target)?.iter().find(|account| account.subject(owner.target, labels) == *owner)
    }

    /// The account, added to a partition if it is new; none when it is not kept.
    fn admit(&mut self, partitioned: &PartitionedSeries, owner: &Subject<'_>) -> Option<&AccountSeries> {
        let allowed = &partitioned.config.settings.labels;
        // Another thread may have added it.
        if self.find(owner, allowed).is_none() {
            if self.keep.as_ref().is_some_and(|keep| !keep(owner)) {
                return None;
            }
            let account = AccountSeries::new(owner, partitioned, place(&mut self.active, &partitioned.config));
            self.accounts.entry(owner.target.into()).or_default().push(account);
        }
        self.find(owner, allowed)
    }

    /// Retires a partition: moves the accounts for which `keep` returns true, and removes the others.
    fn empty(&mut self, partitioned: &PartitionedSeries, members: &PartitionMembers, keep: &Keep) {
        let (partition, config) = (&members.partition, &partitioned.config);
        if !self.active.iter().any(|known| Arc::ptr_eq(known, partition)) {
            // It was split.
            return;
        }
        self.retire(partition);
        let all;
        let targets = if partition.accounts() == members.accounts {
            &members.targets
        } else {
            // Others have joined since.
            all = self.accounts.keys().cloned().collect();
            &all
        };
        for target in targets {
            let Some(accounts) = self.accounts.get_mut(target) else { continue };
            accounts.retain_mut(|account| {
                if !Arc::ptr_eq(&account.partition, partition) {
                    return true;
                }
                if !keep(&account.subject(target, &config.settings.labels)) {
                    partitioned.series.fetch_sub(account.list().prometheus_series(&config.settings), Ordering::Relaxed);
                    return false;
                }
                account.move_to(place(&mut self.active, config), partitioned);
                true
            });
            if accounts.is_empty() {
                self.accounts.remove(target);
            }
        }
    }

    /// Moves the accounts of a partition to two new ones, or a single account to a larger one.
    fn split(&mut self, partitioned: &PartitionedSeries, full: &Arc<Partition>) {
        let half = full.accounts().div_ceil(2);
        let size = if full.accounts() > 1 { full.size } else { full.size * 4 };
        let mut new: Option<Arc<Partition>> = None;
        self.retire(full);
        let accounts = self.accounts.values_mut().flatten();
        for account in accounts.filter(|account| Arc::ptr_eq(&account.partition, full)) {
            let partition = new.take().filter(|partition| partition.accounts() < half).unwrap_or_else(|| {
                let partition = Arc::new(Partition::new(&partitioned.config, size, half));
                self.active.push(Arc::clone(&partition));
                partition
            });
            partition.join();
            account.move_to(Arc::clone(new.insert(partition)), partitioned);
        }
    }

    fn retire(&mut self, old: &Arc<Partition>) {
        self.active.retain(|partition| !Arc::ptr_eq(partition, old));
        self.retired.push_back(old.reader.clone());
        if self.retired.len() > MOST_RETIRED {
            self.retired.pop_front();
        }
    }
}

/// A partition with room for one more account.
fn place(partitions: &mut Vec<Arc<Partition>>, config: &PartitionConfig) -> Arc<Partition> {
    let partition = partitions.iter().rev().find(|partition| partition.has_room()).cloned().unwrap_or_else(|| {
        let size = SIZES.iter().find(|(count, _)| partitions.len() < *count).map_or(LARGEST, |(_, size)| *size);
        let partition = Arc::new(Partition::new(config, size, size));
        partitions.push(Arc::clone(&partition));
        partition
    });
    partition.join();
    partition
}

impl AccountSeries {
    fn new(owner: &Subject<'_>, partitioned: &PartitionedSeries, partition: Arc<Partition>) -> Self {
        let (name, journey, family) = (Arc::from(owner.account), Arc::from(owner.journey), owner.family.map(Arc::from));
        let labels = partitioned.config.settings.labels.iter();
        let labels: Vec<_> = labels.map(|key| owner.labels.get(key.as_str()).map(|value| Arc::from(*value))).collect();
        let mut base = vec![
            KeyValue::new(names::TARGET_NAME, Arc::<str>::from(owner.target)),
            KeyValue::new(names::ACCOUNT_NAME, Arc::clone(&name)),
            KeyValue::new(names::JOURNEY_NAME, Arc::clone(&journey)),
        ];
        base.extend(partitioned.config.settings.one_shot.then(|| KeyValue::new(names::ONE_SHOT, true)));
        base.extend(family.iter().map(|family| KeyValue::new(names::NETWORK_TYPE, Arc::clone(family))));
        for (key, value) in partitioned.label_keys.iter().zip(&labels) {
            base.extend(value.iter().map(|value| KeyValue::new(key.clone(), Arc::clone(value))));
        }
        base.sort_by(|one, other| one.key.cmp(&other.key));
        Self { name, journey, family, labels, base, partition, list: Mutex::default() }
    }

    fn subject<'a>(&'a self, target: &'a str, labels: &'a BTreeSet<String>) -> Subject<'a> {
        let labels = labels.iter().zip(&self.labels).filter_map(|(key, value)| Some((key.as_str(), value.as_deref()?)));
        Subject {
            target,
            account: &self.name,
            journey: &self.journey,
            family: self.family.as_deref(),
            labels: labels.collect(),
        }
    }

    fn enter(
        &self,
        partitioned: &PartitionedSeries,
        measure: impl Fn(&mut dyn FnMut(SeriesKey, Measurement)),
        missed: &mut Vec<Missed>,
    ) {
        let (mut list, mut next) = (self.list(), 0);
        let before = list.series.len();
        measure(&mut |key, value| {
            if let Err(error) = list.enter(partitioned, self, &mut next, key, value) {
                missed.push((key, value, error));
            }
        });
        if list.series.len() > before {
            // Nearly all are new with the first run.
            list.series.shrink_to_fit();
        }
    }

    /// Moves to a new partition: sums begin at 0, gauges keep their values.
    fn move_to(&mut self, partition: Arc<Partition>, partitioned: &PartitionedSeries) {
        self.partition = partition;
        let gauges = {
            let mut list = self.list();
            partitioned.series.fetch_sub(list.prometheus_series(&partitioned.config.settings), Ordering::Relaxed);
            list.series.clear();
            list.gauges.clone()
        };
        // All others are recorded with the next run.
        self.enter(partitioned, |enter| gauges.iter().for_each(|(key, value)| enter(*key, *value)), &mut Vec::new());
    }

    fn list(&self) -> MutexGuard<'_, SeriesList> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SeriesList {
    /// Their number as Prometheus counts them.
    fn prometheus_series(&self, settings: &MetricsSettings) -> usize {
        self.series.iter().map(|key| key.what.prometheus_series(settings)).sum()
    }

    /// Records one measurement; its series is probably at `next`.
    fn enter(
        &mut self,
        partitioned: &PartitionedSeries,
        account: &AccountSeries,
        next: &mut usize,
        key: SeriesKey,
        value: Measurement,
    ) -> Result<(), NoCapacity> {
        let attributes = key.attributes(&account.base);
        let guessed = self.series.get(*next).is_some_and(|known| *known == key).then_some(*next);
        let place = match guessed.or_else(|| self.series.iter().position(|known| *known == key)) {
            Some(place) => place,
            None => self.admit(partitioned, account, key, &attributes)?,
        };
        *next = place + 1;
        account.partition.enter(key.what, value, &attributes);
        if key.what.is_gauge() {
            match self.gauges.iter_mut().find(|(known, _)| *known == key) {
                Some((_, last)) => *last = value,
                None => self.gauges.push((key, value)),
            }
        }
        Ok(())
    }

    /// The index of a new series.
    fn admit(
        &mut self,
        partitioned: &PartitionedSeries,
        account: &AccountSeries,
        key: SeriesKey,
        attributes: &[KeyValue],
    ) -> Result<usize, NoCapacity> {
        let settings = &partitioned.config.settings;
        let more = key.what.prometheus_series(settings);
        if (partitioned.series.fetch_add(more, Ordering::Relaxed) + more) as u64 > settings.series_limit {
            partitioned.series.fetch_sub(more, Ordering::Relaxed);
            return Err(NoCapacity::Agent);
        }
        account.partition.admit(key.what, attributes, settings).inspect_err(|_| {
            partitioned.series.fetch_sub(more, Ordering::Relaxed);
        })?;
        self.series.push(key);
        Ok(self.series.len() - 1)
    }
}

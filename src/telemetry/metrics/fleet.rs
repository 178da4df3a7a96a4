//! The series of all accounts, spread over shards: who is where, who goes, who comes.
//!
//! A measurement takes a shared lock, finds its account by name, sees by four bytes whether its series has a place, and
//! enters. What is new or crowded, or goes, takes the lock for itself. Sends nothing. Called by `Metrics`.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use opentelemetry::{Key as AttributeKey, KeyValue};

use super::{
    series::{Key, Measured, What, shared},
    shard::{Lack, Making, Shard, Source},
};
use crate::telemetry::names;

/// Accounts that a shard is made for: the first so many shards, and how many each takes. With few accounts, one that
/// goes leaves few others behind that begin anew; with many, there are not too many messages. The largest is what just
/// fills the SDK's tables, whose sizes are powers of two.
const SIZES: [(usize, usize); 2] = [(32, 4), (64, 16)];
const LARGEST: usize = 37;
/// An account alone that fails in ever more ways gets the room of so many.
const MOST_SIZE: usize = 256;

/// Shards that were given up and not yet delivered once more; over it the oldest are forgotten. A configuration that is
/// read every second while the receiver is away costs no more than this.
const MOST_LEAVING: usize = 64;

/// So many targets are looked at in one go.
const AT_A_TIME: usize = 256;
/// Between two shards that are emptied.
const PAUSE: Duration = Duration::from_micros(200);

/// Whose series they are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Who<'a> {
    pub(super) target: &'a str,
    pub(super) account: &'a str,
    pub(super) journey: &'a str,
    pub(super) family: Option<&'a str>,
    pub(super) labels: &'a BTreeMap<String, String>,
}

/// What tells the series of one account from those of another.
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

pub(super) struct Fleet {
    making: Making,
    /// Keys of the labels on the allow list, as attributes have them.
    label_keys: Vec<AttributeKey>,
    holdings: RwLock<Holdings>,
    /// Of all accounts.
    series: AtomicUsize,
}

#[derive(Default)]
struct Holdings {
    /// By target.
    accounts: HashMap<Box<str>, Vec<Account>>,
    shards: Vec<Arc<Shard>>,
    leaving: VecDeque<Source>,
    keep: Option<Arc<Keep>>,
}

/// Who is in a shard.
struct Members {
    shard: Arc<Shard>,
    targets: Vec<Box<str>>,
    accounts: usize,
    /// Not all of them stay.
    some_go: bool,
}

struct Account {
    name: Arc<str>,
    journey: Arc<str>,
    family: Option<Arc<str>>,
    /// In the order of the allow list.
    labels: Vec<Option<Arc<str>>>,
    base: Vec<KeyValue>,
    shard: Arc<Shard>,
    life: Mutex<Life>,
}

/// What an account has. Its measurements come in the same order with each run, so the next one is where it was.
#[derive(Default)]
struct Life {
    series: Vec<Key>,
    /// The last values of its gauges, for a new shard.
    gauges: Vec<(Key, Measured)>,
}

struct Missed {
    key: Key,
    value: Measured,
    lack: Lack,
}

impl Fleet {
    pub(super) fn new(making: Making) -> Self {
        let label_keys = making.settings.labels.iter();
        let label_keys = label_keys.map(|key| shared(&format!("{}{key}", names::LABEL_PREFIX)).into()).collect();
        Self { making, label_keys, holdings: RwLock::default(), series: AtomicUsize::new(0) }
    }

    /// Enters what `measure` tells, and says how much of it found no room.
    pub(super) fn enter(&self, who: &Who<'_>, measure: impl Fn(&mut dyn FnMut(Key, Measured))) -> usize {
        let mut missed = Vec::new();
        let known = {
            let holdings = self.read();
            let account = holdings.find(who, &self.making.settings.labels);
            account.map(|account| account.enter(self, &measure, &mut missed)).is_some()
        };
        if !known {
            let mut holdings = self.write();
            let Some(account) = holdings.admit(self, who) else { return 0 };
            account.enter(self, &measure, &mut missed);
        }
        if missed.is_empty() { 0 } else { self.make_room(who, missed) }
    }

    /// Splits the account's shard until all is entered; when it is alone, in ever larger ones.
    fn make_room(&self, who: &Who<'_>, mut missed: Vec<Missed>) -> usize {
        let mut holdings = self.write();
        while missed.iter().any(|it| it.lack == Lack::Shard) {
            let Some(account) = holdings.find(who, &self.making.settings.labels) else { return 0 };
            let crowded = Arc::clone(&account.shard);
            if crowded.accounts() <= 1 && crowded.size >= MOST_SIZE {
                break;
            }
            holdings.split(self, &crowded);
            let Some(account) = holdings.find(who, &self.making.settings.labels) else { return 0 };
            let mut life = account.life();
            missed.retain_mut(|it| match life.enter(self, account, &mut 0, it.key, it.value) {
                Ok(()) => false,
                Err(lack) => {
                    it.lack = lack;
                    true
                }
            });
        }
        missed.len()
    }

    /// From now on keeps what `keep` says and takes in nothing else.
    pub(super) fn retain(&self, keep: impl Fn(&Subject<'_>) -> bool + Send + Sync + 'static) {
        let keep: Arc<Keep> = Arc::new(keep);
        self.write().keep = Some(keep.clone());
        self.let_go(|subject| !keep(subject));
    }

    pub(super) fn forget(&self, target: &str) {
        self.let_go(|subject| subject.target == target);
    }

    /// Lets accounts go, a shard at a time: whoever has a run to enter waits for one of them at most.
    fn let_go(&self, goes: impl Fn(&Subject<'_>) -> bool) {
        // An account that moves meanwhile, for its shard was crowded, is found at the next pass.
        loop {
            let touched = self.touched(&goes);
            if touched.is_empty() {
                return;
            }
            for members in touched {
                self.write().empty(self, &members, &goes);
                // The lock is not fair: without a pause the next shard would have it again before those who wait.
                std::thread::park_timeout(PAUSE);
            }
        }
    }

    /// The shards of which an account goes, with all that are in them.
    fn touched(&self, goes: impl Fn(&Subject<'_>) -> bool) -> Vec<Members> {
        let targets: Vec<Box<str>> = self.read().accounts.keys().cloned().collect();
        let mut shards: HashMap<*const Shard, Members> = HashMap::new();
        for some in targets.chunks(AT_A_TIME) {
            let holdings = self.read();
            for target in some {
                for account in holdings.accounts.get(target).into_iter().flatten() {
                    let members = shards.entry(Arc::as_ptr(&account.shard)).or_insert_with(|| Members {
                        shard: account.shard.clone(),
                        targets: Vec::new(),
                        accounts: 0,
                        some_go: false,
                    });
                    members.accounts += 1;
                    members.some_go |= goes(&account.subject(target, &self.making.settings.labels));
                    if members.targets.last() != Some(target) {
                        members.targets.push(target.clone());
                    }
                }
            }
        }
        shards.into_values().filter(|members| members.some_go).collect()
    }

    pub(super) fn series(&self) -> usize {
        self.series.load(Ordering::Relaxed)
    }

    /// First what leaves, then all others.
    pub(super) fn sources(&self) -> (Vec<Source>, Vec<Source>) {
        let holdings = self.read();
        (
            holdings.leaving.iter().cloned().collect(),
            holdings.shards.iter().map(|shard| shard.source().clone()).collect(),
        )
    }

    /// A source that leaves was delivered.
    pub(super) fn left(&self, source: &Source) {
        self.write().leaving.retain(|known| !known.is(source));
    }

    fn read(&self) -> RwLockReadGuard<'_, Holdings> {
        self.holdings.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Holdings> {
        self.holdings.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holdings {
    fn find(&self, who: &Who<'_>, labels: &[String]) -> Option<&Account> {
        self.accounts.get(who.target)?.iter().find(|account| account.is(who, labels))
    }

    /// The account, with a place in a shard; none when it is not to be kept.
    fn admit(&mut self, fleet: &Fleet, who: &Who<'_>) -> Option<&Account> {
        let allowed = &fleet.making.settings.labels;
        // Another thread may have been quicker.
        if self.find(who, allowed).is_none() {
            if self.keep.as_ref().is_some_and(|keep| !keep(&who.subject(allowed))) {
                return None;
            }
            let account = Account::new(who, fleet, place(&mut self.shards, &fleet.making));
            self.accounts.entry(who.target.into()).or_default().push(account);
        }
        self.find(who, allowed)
    }

    /// Gives a shard up: lets the accounts in it go that are to, and the others find a new place.
    fn empty(&mut self, fleet: &Fleet, members: &Members, goes: impl Fn(&Subject<'_>) -> bool) {
        let (shard, making) = (&members.shard, &fleet.making);
        if !self.shards.iter().any(|known| Arc::ptr_eq(known, shard)) {
            // It was split.
            return;
        }
        self.give_up(std::slice::from_ref(shard));
        let all;
        let targets = if shard.accounts() == members.accounts {
            &members.targets
        } else {
            // Others have joined since.
            all = self.accounts.keys().cloned().collect();
            &all
        };
        for target in targets {
            let Some(accounts) = self.accounts.get_mut(target) else { continue };
            accounts.retain_mut(|account| {
                if !Arc::ptr_eq(&account.shard, shard) {
                    return true;
                }
                if goes(&account.subject(target, &making.settings.labels)) {
                    fleet.series.fetch_sub(account.life().series.len(), Ordering::Relaxed);
                    return false;
                }
                account.move_to(place(&mut self.shards, making), fleet);
                true
            });
            if accounts.is_empty() {
                self.accounts.remove(target);
            }
        }
    }

    /// Parts a shard's accounts in two halves. One that is alone gets a larger shard.
    fn split(&mut self, fleet: &Fleet, crowded: &Arc<Shard>) {
        let half = crowded.accounts().div_ceil(2);
        let size = if crowded.accounts() > 1 { crowded.size } else { crowded.size * 4 };
        let mut new: Option<Arc<Shard>> = None;
        self.give_up(std::slice::from_ref(crowded));
        self.move_from(std::slice::from_ref(crowded), fleet, |shards| {
            let shard = new.take().filter(|shard| shard.accounts() < half).unwrap_or_else(|| {
                let shard = Arc::new(Shard::new(&fleet.making, size, half));
                shards.push(Arc::clone(&shard));
                shard
            });
            shard.join();
            new.insert(shard).clone()
        });
    }

    fn give_up(&mut self, old: &[Arc<Shard>]) {
        self.shards.retain(|shard| !old.iter().any(|gone| Arc::ptr_eq(gone, shard)));
        self.leaving.extend(old.iter().map(|shard| shard.source().clone()));
        let over = self.leaving.len().saturating_sub(MOST_LEAVING);
        self.leaving.drain(..over);
    }

    /// Gives those that are left of these shards a new place.
    fn move_from(
        &mut self,
        old: &[Arc<Shard>],
        fleet: &Fleet,
        mut place: impl FnMut(&mut Vec<Arc<Shard>>) -> Arc<Shard>,
    ) {
        for account in self.accounts.values_mut().flatten() {
            if old.iter().any(|gone| Arc::ptr_eq(gone, &account.shard)) {
                account.move_to(place(&mut self.shards), fleet);
            }
        }
    }
}

/// A place for one account.
fn place(shards: &mut Vec<Arc<Shard>>, making: &Making) -> Arc<Shard> {
    let shard = shards.iter().rev().find(|shard| shard.is_roomy()).cloned().unwrap_or_else(|| {
        let size = SIZES.iter().find(|(count, _)| shards.len() < *count).map_or(LARGEST, |(_, size)| *size);
        let shard = Arc::new(Shard::new(making, size, size));
        shards.push(Arc::clone(&shard));
        shard
    });
    shard.join();
    shard
}

impl Account {
    fn new(who: &Who<'_>, fleet: &Fleet, shard: Arc<Shard>) -> Self {
        let (name, journey, family) = (shared(who.account), shared(who.journey), who.family.map(shared));
        let labels = fleet.making.settings.labels.iter();
        let labels: Vec<_> = labels.map(|key| who.labels.get(key).map(|value| shared(value))).collect();
        let mut base = vec![
            KeyValue::new(names::TARGET_NAME, shared(who.target)),
            KeyValue::new(names::ACCOUNT_NAME, Arc::clone(&name)),
            KeyValue::new(names::JOURNEY_NAME, Arc::clone(&journey)),
        ];
        base.extend(fleet.making.settings.one_shot.then(|| KeyValue::new(names::ONE_SHOT, true)));
        base.extend(family.iter().map(|family| KeyValue::new(names::NETWORK_TYPE, Arc::clone(family))));
        for (key, value) in fleet.label_keys.iter().zip(&labels) {
            base.extend(value.iter().map(|value| KeyValue::new(key.clone(), Arc::clone(value))));
        }
        base.sort_by(|one, other| one.key.cmp(&other.key));
        Self { name, journey, family, labels, base, shard, life: Mutex::default() }
    }

    fn is(&self, who: &Who<'_>, labels: &[String]) -> bool {
        *self.name == *who.account
            && *self.journey == *who.journey
            && self.family.as_deref() == who.family
            && labels
                .iter()
                .zip(&self.labels)
                .all(|(key, value)| who.labels.get(key).map(String::as_str) == value.as_deref())
    }

    fn subject<'a>(&'a self, target: &'a str, labels: &'a [String]) -> Subject<'a> {
        let labels = labels.iter().zip(&self.labels).filter_map(|(key, value)| Some((key.as_str(), value.as_deref()?)));
        Subject {
            target,
            account: &self.name,
            journey: &self.journey,
            family: self.family.as_deref(),
            labels: labels.collect(),
        }
    }

    fn enter(&self, fleet: &Fleet, measure: impl Fn(&mut dyn FnMut(Key, Measured)), missed: &mut Vec<Missed>) {
        let (mut life, mut next) = (self.life(), 0);
        let before = life.series.len();
        measure(&mut |key, value| {
            if let Err(lack) = life.enter(fleet, self, &mut next, key, value) {
                missed.push(Missed { key, value, lack });
            }
        });
        if life.series.len() > before {
            // Nearly all come with the first run.
            life.series.shrink_to_fit();
        }
    }

    /// Begins anew there: sums from nothing, gauges as they were.
    fn move_to(&mut self, shard: Arc<Shard>, fleet: &Fleet) {
        self.shard = shard;
        let gauges = {
            let mut life = self.life();
            fleet.series.fetch_sub(life.series.len(), Ordering::Relaxed);
            life.series.clear();
            life.gauges.clone()
        };
        // What finds no room here, or is no gauge, comes with the next run.
        self.enter(fleet, |enter| gauges.iter().for_each(|(key, value)| enter(*key, *value)), &mut Vec::new());
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Life {
    /// Enters one measurement, whose series is probably the one at `next`.
    fn enter(
        &mut self,
        fleet: &Fleet,
        account: &Account,
        next: &mut usize,
        key: Key,
        value: Measured,
    ) -> Result<(), Lack> {
        let attributes = key.attributes(&account.base);
        let guessed = self.series.get(*next).is_some_and(|known| *known == key).then_some(*next);
        let place = match guessed.or_else(|| self.series.iter().position(|known| *known == key)) {
            Some(place) => place,
            None => self.admit(fleet, account, key, &attributes)?,
        };
        *next = place + 1;
        account.shard.enter(key.what, value, &attributes);
        if matches!(key.what, What::Up | What::LastRun | What::Certificate | What::Messages) {
            match self.gauges.iter_mut().find(|(known, _)| *known == key) {
                Some((_, last)) => *last = value,
                None => self.gauges.push((key, value)),
            }
        }
        Ok(())
    }

    /// The place of a new series.
    fn admit(&mut self, fleet: &Fleet, account: &Account, key: Key, attributes: &[KeyValue]) -> Result<usize, Lack> {
        let settings = &fleet.making.settings;
        if fleet.series.fetch_add(1, Ordering::Relaxed) >= settings.series_limit {
            fleet.series.fetch_sub(1, Ordering::Relaxed);
            return Err(Lack::Agent);
        }
        account.shard.admit(key.what, attributes, settings).inspect_err(|_| {
            fleet.series.fetch_sub(1, Ordering::Relaxed);
        })?;
        self.series.push(key);
        Ok(self.series.len() - 1)
    }
}

impl Who<'_> {
    fn subject<'a>(&'a self, labels: &'a [String]) -> Subject<'a> {
        let labels = labels.iter().filter_map(|key| Some((key.as_str(), self.labels.get(key)?.as_str())));
        Subject {
            target: self.target,
            account: self.account,
            journey: self.journey,
            family: self.family,
            labels: labels.collect(),
        }
    }
}

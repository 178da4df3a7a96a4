//! Asks each source again and again, one task a source, and publishes the last good answers. Called by the thread of
//! [`Discovery`].
//!
//! [`Discovery`]: super::Discovery

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::Rng as _;
use reqwest::header::HeaderValue;
use tokio::{
    sync::{Notify, Semaphore, watch},
    task::AbortHandle,
};
use tracing::{info, warn};

use super::{
    answer::{self, CheckedAnswer, Discovered, DiscoveredTargets, RefusedTargets},
    error::SourceError,
    http::{self, HttpAnswer},
    kept::{self, GoodAnswer, GoodAnswers},
    source::{SourceId, SourceKind, TargetSource},
};
use crate::{
    blocking, clock,
    net::{ResolveCause, Resolver},
    plan::Dns,
    state::StateDir,
    telemetry::SourceReports,
};

/// Questions at once: an answer may be 16 MiB.
const AT_ONCE: usize = 4;
/// The deadline of a question to name servers.
const DNS_TIMEOUT: Duration = Duration::from_secs(10);
/// How much the time between two questions varies: agents of a fleet do not ask together.
const JITTER: f64 = 0.1;

/// What is asked.
#[derive(Clone, Default)]
pub(super) struct FollowedSources {
    pub(super) sources: Arc<[TargetSource]>,
    pub(super) dns: Dns,
}

/// What the tasks of all sources have in common.
pub(super) struct SharedAnswers {
    good: Mutex<GoodAnswers>,
    publish: watch::Sender<Discovered>,
    pub(super) reports: SourceReports,
    unsaved: Notify,
    places: Semaphore,
}

impl SharedAnswers {
    pub(super) fn new(kept: GoodAnswers, reports: SourceReports) -> Self {
        let shared = Self {
            good: Mutex::new(kept),
            publish: watch::Sender::default(),
            reports,
            unsaved: Notify::new(),
            places: Semaphore::new(AT_ONCE),
        };
        shared.publish();
        shared
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Discovered> {
        self.publish.subscribe()
    }

    fn good(&self) -> MutexGuard<'_, GoodAnswers> {
        self.good.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes the good answers if they have changed.
    fn publish(&self) {
        let next = Discovered::from(&*self.good());
        self.publish.send_if_modified(|published| {
            let is_new = *published != next;
            *published = next;
            is_new
        });
    }

    /// The good answer of a source without the hosts that it no longer allows.
    fn restrict(&self, source: &TargetSource) -> Option<Arc<DiscoveredTargets>> {
        let mut good = self.good();
        let answer = good.get_mut(&source.id)?;
        answer.targets = (*answer.targets).clone().allowed_by(source).into();
        let targets = answer.targets.clone();
        drop(good);
        self.publish();
        Some(targets)
    }

    /// A source has confirmed its targets, or has others.
    fn take(&self, id: &SourceId, targets: &Arc<DiscoveredTargets>) {
        let at = clock::wall();
        let is_new = {
            let mut good = self.good();
            let before = good.insert(id.clone(), GoodAnswer { targets: targets.clone(), at });
            before.is_none_or(|before| before.targets != *targets)
        };
        self.reports.update(&id.group, &id.name, |report| {
            report.targets = targets.count() as u64;
            report.last_success = Some(at);
            report.failing = false;
        });
        self.publish();
        if is_new {
            self.unsaved.notify_one();
        }
    }
}

/// Follows the sources that are wanted, for as long as it is polled.
pub(super) async fn follow(
    mut wanted: watch::Receiver<FollowedSources>,
    shared: Arc<SharedAnswers>,
    state: Option<StateDir>,
) {
    let mut tasks: HashMap<SourceId, (TargetSource, AbortHandle)> = HashMap::new();
    let mut dns = None;
    let mut resolver = Arc::new(Resolver::new(Dns::default()));
    if let Some(state) = state {
        tokio::spawn(save_changes(shared.clone(), wanted.clone(), state));
    }
    loop {
        let next = wanted.borrow_and_update().clone();
        let is_same_dns = dns.as_ref() == Some(&next.dns);
        if !is_same_dns {
            resolver = Arc::new(Resolver::new(next.dns.clone()));
            dns = Some(next.dns.clone());
        }
        tasks.retain(|_, (source, task)| {
            let stays = is_same_dns && next.sources.contains(source);
            if !stays {
                task.abort();
            }
            stays
        });
        let is_wanted = |id: &SourceId| next.sources.iter().any(|source| source.id == *id);
        let lost = {
            let mut good = shared.good();
            let before = good.len();
            good.retain(|id, _| is_wanted(id));
            before != good.len()
        };
        shared.reports.retain(|group, name| is_wanted(&SourceId { group: group.to_owned(), name: name.to_owned() }));
        if lost {
            shared.publish();
            shared.unsaved.notify_one();
        }
        for source in next.sources.iter().filter(|source| !tasks.contains_key(&source.id)).cloned().collect::<Vec<_>>()
        {
            let asked = AskedSource::new(source.clone(), resolver.clone(), shared.clone());
            tasks.insert(source.id.clone(), (source, tokio::spawn(asked.ask_regularly()).abort_handle()));
        }
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

/// Saves good answers when they change.
async fn save_changes(shared: Arc<SharedAnswers>, wanted: watch::Receiver<FollowedSources>, state: StateDir) {
    let mut is_failing = false;
    loop {
        shared.unsaved.notified().await;
        let good = shared.good().clone();
        let ids: Vec<_> = wanted.borrow().sources.iter().map(|source| source.id.clone()).collect();
        let state = state.clone();
        // It fails to return only after a panic, which has been reported.
        let Ok(saved) = blocking::work(move || kept::save(&state, &good, &ids)).await else { continue };
        match saved {
            Err(error) if !std::mem::replace(&mut is_failing, true) => warn!(
                %error,
                "the answers of sources of targets cannot be saved: a start while a source is away would have none; is the state \
                 directory writable, and is there room on the disk?"
            ),
            Err(_) => {}
            Ok(()) => is_failing = false,
        }
    }
}

/// One source, and what is known of it.
struct AskedSource {
    source: TargetSource,
    resolver: Arc<Resolver>,
    shared: Arc<SharedAnswers>,
    /// Of the last answer that was taken.
    etag: Option<HeaderValue>,
    /// The failure that was logged last, while it lasts.
    failure: Option<String>,
    /// The refused targets that were logged last.
    refused: RefusedTargets,
}

/// What a source answered.
enum SourceAnswer {
    Targets(CheckedAnswer, Option<HeaderValue>),
    Unchanged,
}

impl AskedSource {
    fn new(source: TargetSource, resolver: Arc<Resolver>, shared: Arc<SharedAnswers>) -> Self {
        Self { source, resolver, shared, etag: None, failure: None, refused: RefusedTargets::default() }
    }

    async fn ask_regularly(mut self) {
        let known = self.shared.restrict(&self.source).map_or(0, |targets| targets.count());
        let id = self.source.id.clone();
        let at = self.shared.good().get(&id).map(|good| good.at);
        self.shared.reports.update(&id.group, &id.name, |report| {
            report.targets = known as u64;
            report.last_success = report.last_success.or(at);
        });
        loop {
            self.ask_once().await;
            let vary = rand::rng().random_range(1.0 - JITTER..1.0 + JITTER);
            tokio::time::sleep(self.source.refresh.mul_f64(vary)).await;
        }
    }

    async fn ask_once(&mut self) {
        let answer = {
            let _place = self.shared.places.acquire().await;
            ask(&self.source, &self.resolver, self.etag.as_ref()).await
        };
        let outcome = answer.and_then(|answer| self.take_or_fail(answer));
        match outcome {
            Ok(()) => {
                if self.failure.take().is_some() {
                    info!(source = %self.source.id, "the source of targets gives targets again");
                }
            }
            Err(error) => self.fail(&error.to_string()),
        }
    }

    /// Takes an answer, or says why it is not taken.
    fn take_or_fail(&mut self, answer: SourceAnswer) -> Result<(), SourceError> {
        let id = &self.source.id;
        let good = self.shared.good().get(id).map(|good| good.targets.clone());
        match (answer, good) {
            (SourceAnswer::Unchanged, Some(good)) => self.shared.take(id, &good),
            (SourceAnswer::Unchanged, None) => return Err(SourceError::Status(304)),
            (SourceAnswer::Targets(checked, etag), good) => {
                self.note_refused(checked.refused);
                let (new, last) = (checked.targets.servers(), good.as_ref().map(|good| good.servers()));
                check_shrink(&self.source, new, last)?;
                let targets = good.filter(|good| **good == checked.targets);
                self.shared.take(&self.source.id, &targets.unwrap_or_else(|| checked.targets.into()));
                self.etag = etag;
            }
        }
        Ok(())
    }

    fn note_refused(&mut self, refused: RefusedTargets) {
        let id = &self.source.id;
        self.shared.reports.update(&id.group, &id.name, |report| report.refused.clone_from(&refused.counts));
        if refused != self.refused {
            if refused.count() > 0 {
                let (count, first) = (refused.count(), refused.named.join("; "));
                warn!(source = %id, count, first, "a source of targets names some that are not probed");
            } else {
                info!(source = %id, "a source of targets names none any more that is not probed");
            }
            self.refused = refused;
        }
    }

    fn fail(&mut self, text: &str) {
        let id = &self.source.id;
        self.shared.reports.update(&id.group, &id.name, |report| report.failing = true);
        if self.failure.as_deref() != Some(text) {
            let kept = self.shared.good().get(id).map_or(0, |good| good.targets.count());
            warn!(source = %id, problem = text, kept, "a source gives no targets: its last good ones stay");
            self.failure = Some(text.to_owned());
        }
    }
}

/// Whether an answer with `new` targets may follow one with `last`.
fn check_shrink(source: &TargetSource, new: usize, last: Option<usize>) -> Result<(), SourceError> {
    match last {
        _ if source.shrink => Ok(()),
        _ if new == 0 => Err(SourceError::Empty),
        Some(last) if new * 2 < last => Err(SourceError::Shrunk { new, last }),
        _ => Ok(()),
    }
}

async fn ask(
    source: &TargetSource,
    resolver: &Resolver,
    etag: Option<&HeaderValue>,
) -> Result<SourceAnswer, SourceError> {
    match &source.kind {
        SourceKind::Srv => {
            let answer = resolver.services(&source.id.name, clock::now() + DNS_TIMEOUT).await;
            let answer = answer.map_err(|cause| match cause {
                ResolveCause::NxDomain | ResolveCause::NoData => SourceError::NoRecord,
                cause => SourceError::Resolve(cause),
            })?;
            if answer.hosts.is_empty() && !source.shrink {
                return Err(SourceError::Declined);
            }
            Ok(SourceAnswer::Targets(answer::of_services(source, &answer), None))
        }
        SourceKind::Http(http) => match http::ask(http, etag).await? {
            HttpAnswer::NotModified => Ok(SourceAnswer::Unchanged),
            HttpAnswer::Body(body, etag) => {
                let text = String::from_utf8(body).map_err(|_| SourceError::Malformed("it is not UTF-8".to_owned()))?;
                let checked = answer::of_http_sd(source, &text).map_err(SourceError::Malformed)?;
                Ok(SourceAnswer::Targets(checked, etag))
            }
        },
    }
}

/// Asks each source once, for `check --probe`.
pub async fn ask_all(sources: &[TargetSource], dns: &Dns) -> BTreeMap<SourceId, Result<CheckedAnswer, SourceError>> {
    let resolver = Resolver::new(dns.clone());
    let mut answers = BTreeMap::new();
    for source in sources {
        let answer = ask(source, &resolver, None).await.and_then(|answer| match answer {
            SourceAnswer::Unchanged => Err(SourceError::Status(304)),
            SourceAnswer::Targets(checked, _) => {
                check_shrink(source, checked.targets.servers(), None).map(|()| checked)
            }
        });
        answers.insert(source.id.clone(), answer);
    }
    answers
}

//! Forwards events to the agent that probes: a queue in memory, and a thread that posts one event after the other.
//!
//! Adding an event never waits. Over the limit the oldest events go, counted as `full`. A receiver that fails is tried again
//! after 1, 2, 4 … 60 s. Nothing is kept on disk, and nothing for longer than a minute: its run no longer waits then. Filled
//! by `receiver` and by the agent.

use std::{
    collections::VecDeque,
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use hyper::body::Bytes;
use tokio::{
    sync::{Notify, oneshot, watch},
    time::sleep,
};
use tracing::{info, warn};

use super::event_counts::EventCounts;
use crate::{
    clock,
    delivery::{Backoff, JsonClient, PostOutcome, Signal},
    telemetry::names::EventOutcome,
};

/// The most bytes of the bodies in the queue: some 8,000 events.
const BYTES: usize = 8 << 20;
/// Bytes that an event takes beside its body.
const EVENT_BYTES: usize = 64;
/// An event that could not be forwarded for this long belongs to a run that does not wait any more.
const LATE: Duration = Duration::from_secs(60);
/// The longest pause between two attempts, whatever the receiver asks for: later there is nothing left to forward.
const LONGEST_PAUSE: Duration = LATE;
/// The time limit for sending the rest of the queue when the agent stops.
const DRAIN: Duration = Duration::from_secs(1);

/// Forwards events until it is dropped.
pub struct EventForwarder {
    shared: Arc<ForwardShared>,
    /// Its drop ends the thread, which is not waited for: the process may end before the queue is empty.
    _stop: oneshot::Sender<()>,
}

struct ForwardShared {
    queue: Mutex<ForwardQueue>,
    added: Notify,
    counts: EventCounts,
}

/// Events that wait, the oldest first.
#[derive(Default)]
struct ForwardQueue {
    events: VecDeque<QueuedEvent>,
    bytes: usize,
}

struct QueuedEvent {
    /// Its sender, for the metric; none for samples of this agent.
    sender: Option<Arc<str>>,
    body: Bytes,
    at: Instant,
}

impl fmt::Debug for EventForwarder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventForwarder").finish_non_exhaustive()
    }
}

impl EventForwarder {
    /// Starts the thread. `receiver` has the endpoint and its credentials; a new value is in use from the next request on.
    pub fn start(receiver: watch::Receiver<Arc<Signal>>, counts: EventCounts) -> io::Result<Self> {
        let shared = Arc::new(ForwardShared { queue: Mutex::default(), added: Notify::new(), counts });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let forwarded = shared.clone();
        thread::Builder::new().name("forward".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = forward(&forwarded, receiver) => {}
                    // Dropping the sender is the same as sending.
                    () = async { drop(stopped.await); sleep(DRAIN).await } => {}
                }
            });
            forwarded.drop_all();
            runtime.shutdown_background();
        })?;
        Ok(Self { shared, _stop: stop })
    }

    /// Queues an event. `sender` is for the metric.
    pub fn send(&self, sender: Option<Arc<str>>, body: Vec<u8>) {
        let body = Bytes::from(body);
        let mut dropped = Vec::new();
        let mut queue = self.shared.queue();
        queue.bytes += body.len() + EVENT_BYTES;
        queue.events.push_back(QueuedEvent { sender, body, at: clock::now() });
        while queue.bytes > BYTES {
            dropped.extend(queue.pop());
        }
        drop(queue);
        for event in dropped {
            self.shared.count(&event, EventOutcome::Full);
        }
        self.shared.added.notify_one();
    }
}

impl ForwardQueue {
    fn pop(&mut self) -> Option<QueuedEvent> {
        let event = self.events.pop_front()?;
        self.bytes -= event.body.len() + EVENT_BYTES;
        Some(event)
    }
}

impl ForwardShared {
    fn queue(&self) -> MutexGuard<'_, ForwardQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, event: &QueuedEvent, outcome: EventOutcome) {
        self.counts.add(event.sender.as_deref(), outcome, 1);
    }

    fn drop_all(&self) {
        let mut queue = self.queue();
        while let Some(event) = queue.pop() {
            self.count(&event, EventOutcome::Full);
        }
    }

    async fn next(&self) -> QueuedEvent {
        loop {
            let next = self.queue().pop();
            match next {
                Some(event) => return event,
                None => self.added.notified().await,
            }
        }
    }
}

/// Posts events in the order of their arrival, each until it is accepted, refused or too late.
async fn forward(shared: &ForwardShared, mut receiver: watch::Receiver<Arc<Signal>>) {
    let mut client = connect(&mut receiver);
    let mut backoff = Backoff::default();
    let mut problem: Option<String> = None;
    loop {
        let event = shared.next().await;
        loop {
            if clock::now().saturating_duration_since(event.at) > LATE {
                shared.count(&event, EventOutcome::Late);
                break;
            }
            if receiver.has_changed().unwrap_or_default() {
                client = connect(&mut receiver);
            }
            let outcome = match &client {
                Ok(client) => client.post(event.body.clone()).await,
                Err(why) => PostOutcome::Failed(why.clone(), None),
            };
            match outcome {
                PostOutcome::Accepted => {
                    shared.count(&event, EventOutcome::Forwarded);
                    backoff = Backoff::default();
                    if problem.take().is_some() {
                        info!("events of mail servers are forwarded again");
                    }
                    break;
                }
                PostOutcome::Refused(why) => {
                    shared.count(&event, EventOutcome::Rejected);
                    if problem.as_ref() != Some(&why) {
                        warn!("an event of a mail server was refused and dropped: {why}");
                    }
                    problem = Some(why);
                    break;
                }
                PostOutcome::Failed(why, requested) => {
                    if problem.as_ref() != Some(&why) {
                        warn!(
                            "events of mail servers cannot be forwarded: {why}; the newest are kept in memory for a minute"
                        );
                    }
                    problem = Some(why);
                    wait(backoff.next_or(requested).min(LONGEST_PAUSE), &mut receiver).await;
                }
            }
        }
    }
}

fn connect(receiver: &mut watch::Receiver<Arc<Signal>>) -> Result<JsonClient, String> {
    let signal = receiver.borrow_and_update().clone();
    JsonClient::new(&signal).map_err(|error| error.to_string())
}

/// A pause, which new credentials end.
async fn wait(pause: Duration, receiver: &mut watch::Receiver<Arc<Signal>>) {
    tokio::select! {
        () = sleep(pause) => {}
        // An error when the sender of new ones is gone.
        Ok(()) = receiver.changed() => receiver.mark_changed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::Protocol;

    fn forwarder() -> (EventForwarder, watch::Sender<Arc<Signal>>) {
        let unready = Some(Arc::from("a file is missing"));
        let signal = Signal { unready, ..Signal::new("http://127.0.0.1:9/dovecot", Protocol::HttpProtobuf) };
        let (sender, receiver) = watch::channel(Arc::new(signal));
        (EventForwarder::start(receiver, EventCounts::new(&[], crate::telemetry::Metrics::off())).unwrap(), sender)
    }

    #[test]
    fn over_the_limit_the_oldest_events_go() {
        let (forwarder, _sender) = forwarder();
        let body = |number: u32| [&number.to_be_bytes()[..], &[b'x'; 1_000]].concat();
        for number in 0..20_000 {
            forwarder.send(None, body(number));
        }
        let queue = forwarder.shared.queue();
        assert!(queue.bytes <= BYTES && queue.bytes > BYTES - 2_000);
        assert_eq!(queue.events.iter().map(|event| event.body.len() + EVENT_BYTES).sum::<usize>(), queue.bytes);
        assert_eq!(queue.events.back().unwrap().body, body(19_999));
        assert_eq!(queue.events.front().unwrap().body, body(20_000 - u32::try_from(queue.events.len()).unwrap()));
    }

    #[test]
    fn what_cannot_be_sent_is_dropped_at_the_end() {
        let (forwarder, _sender) = forwarder();
        forwarder.send(None, vec![b'x'; 100]);
        let shared = forwarder.shared.clone();
        drop(forwarder);
        for _ in 0..1_000 {
            // The thread has let go of it.
            if Arc::strong_count(&shared) == 1 {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        assert!(Arc::strong_count(&shared) == 1 && shared.queue().bytes == 0);
    }
}

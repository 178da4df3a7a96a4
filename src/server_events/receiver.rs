//! The HTTP listener for events, on a thread of its own.
//!
//! Checks who sends before it reads a body, and answers 204 to all others at once, also to what it does not use: Dovecot keeps
//! events in memory for a receiver that is slow or refuses. Limits connections, handshakes, the size and time of a request, and
//! the number of events a second. It does not interpret a body: `store` does. Started by `agent`.

use std::{
    collections::HashSet,
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Bytes, Incoming},
    header::{CONNECTION, HeaderValue, WWW_AUTHENTICATE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::watch,
    time::{sleep_until, timeout, timeout_at},
};

use super::{
    access::{AccessError, SenderCredentials, TransportSecurity},
    coalesce::{ConnectionRate, WakeUpCoalescing},
    connections::{CONNECTIONS, Connections},
    rate::{PeerRates, TokenBucket},
    relay::EventRelay,
    store::EventStore,
};
use crate::{clock, listener::ListenerThread};

/// The largest body that is read.
const BODY_BYTES: usize = 16 << 10;
/// The largest head of a request: hyper's least number.
const HEAD_BYTES: usize = 8 << 10;
/// The most header fields of a request.
const HEADERS: usize = 32;
/// From the start of a connection to the head of its first request, the TLS handshake included; and for a body.
const TIME: Duration = Duration::from_secs(5);
/// A connection to whose peer nothing could be delivered for this long is closed.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);
/// A connection without a request for this long is closed.
const IDLE: Duration = Duration::from_secs(90);
/// New connections a second: a handshake costs a millisecond of CPU.
const CONNECTIONS_A_SECOND: u32 = 100;
const CONNECTIONS_AT_ONCE: u32 = 300;
/// Events a second, in total; one peer may send three fifths of them. 2,000 runs of 12 events every 10 s are 2,400.
const EVENTS_A_SECOND: u32 = 5_000;
const EVENTS_AT_ONCE: u32 = 10_000;

/// Receives events until it is dropped.
#[derive(Debug)]
pub struct EventReceiver(ListenerThread);

/// Where the bodies of events go.
#[derive(Debug, Clone)]
pub enum EventSink {
    /// To the runs of this agent.
    Store(Arc<EventStore>),
    /// To another agent.
    Relay(Arc<EventRelay>),
}

impl EventSink {
    fn receive(&self, sender: &Arc<str>, body: &[u8], now: Instant) {
        match self {
            Self::Store(store) => store.receive(sender, body, now),
            Self::Relay(relay) => relay.receive(sender, body),
        }
    }

    /// A request was refused, or its body cannot be used.
    fn refused(&self, sender: Option<&str>) {
        match self {
            Self::Store(store) => store.refused(sender),
            Self::Relay(relay) => relay.refused(sender),
        }
    }

    /// An event was dropped unread: too many arrive.
    fn over_rate(&self, sender: &str) {
        match self {
            Self::Store(store) => store.over_rate(sender),
            Self::Relay(relay) => relay.over_rate(sender),
        }
    }
}

/// What all connections use.
struct ReceiverContext {
    credentials: watch::Receiver<Arc<SenderCredentials>>,
    sink: EventSink,
    events: Mutex<PeerRates>,
    refusals: Mutex<RefusalLog>,
    coalescing: WakeUpCoalescing,
}

impl ReceiverContext {
    /// Counts what is refused, and logs why.
    fn refuse(&self, peer: IpAddr, error: AccessError) {
        self.sink.refused(None);
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).log(peer, error, clock::now());
    }
}

/// Logs refused peers: each once, and a few of them an hour, since anybody can connect.
#[derive(Debug, Default)]
struct RefusalLog {
    since: Option<Instant>,
    known: HashSet<(IpAddr, AccessError)>,
}

impl RefusalLog {
    /// Lines in that time.
    const MOST_LINES: usize = 16;
    const PERIOD: Duration = Duration::from_secs(3600);

    fn log(&mut self, peer: IpAddr, error: AccessError, now: Instant) {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= Self::PERIOD) {
            *self = Self { since: Some(now), known: HashSet::new() };
        }
        if self.known.len() < Self::MOST_LINES && !self.known.contains(&(peer, error.clone())) {
            tracing::warn!(%peer, "events from this address are refused: {error}");
            self.known.insert((peer, error));
        }
    }
}

impl EventReceiver {
    /// The most connections that are open at once.
    pub const CONNECTIONS: usize = CONNECTIONS;

    /// Starts listening on `listen`, and passes the bodies of authenticated requests to `sink`. New credentials are in use from
    /// the next connection and request on.
    pub fn start(
        listen: SocketAddr,
        credentials: watch::Receiver<Arc<SenderCredentials>>,
        sink: EventSink,
    ) -> io::Result<Self> {
        let events = Mutex::new(PeerRates::new(EVENTS_A_SECOND, EVENTS_AT_ONCE));
        let (refusals, coalescing) = (Mutex::default(), WakeUpCoalescing::default());
        let context = Arc::new(ReceiverContext { credentials, sink, events, refusals, coalescing });
        let waiting = context.clone();
        let before_wait = move || {
            if let Some(time) = waiting.coalescing.sleep(clock::now()) {
                thread::sleep(time);
            }
        };
        let mut connections = Connections::default();
        let mut handshakes = TokenBucket::new(CONNECTIONS_A_SECOND, CONNECTIONS_AT_ONCE);
        let accepted = move |stream, peer: SocketAddr| {
            let peer = peer.ip().to_canonical();
            // Checked before the limits, so that other addresses cannot exhaust them.
            if !context.credentials.borrow().is_admitted(peer) {
                context.refuse(peer, AccessError::AddressNotAllowed);
            } else if handshakes.take(clock::now()) && connections.make_room(peer) {
                serve_connection(stream, peer, &mut connections, &context);
            }
        };
        ListenerThread::start("server-events", listen, before_wait, accepted).map(Self)
    }

    /// The address it listens on, with the real port if 0 was given.
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }
}

/// Serves a new connection in a task of its own.
fn serve_connection(stream: TcpStream, peer: IpAddr, connections: &mut Connections, context: &Arc<ReceiverContext>) {
    limit_unacknowledged(&stream);
    let is_authenticated = Arc::new(AtomicBool::new(false));
    let connection = connect(stream, peer, context.clone(), is_authenticated.clone());
    connections.add(peer, is_authenticated, tokio::spawn(connection).abort_handle());
}

/// Lets the kernel close the connection when its peer acknowledges nothing for [`UNACKNOWLEDGED`]. Without that limit the
/// connection only stays open for longer, so an error is not used.
fn limit_unacknowledged(stream: &TcpStream) {
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED));
}

async fn connect(stream: TcpStream, peer: IpAddr, context: Arc<ReceiverContext>, is_authenticated: Arc<AtomicBool>) {
    let tls = context.credentials.borrow().tls().clone();
    let end = clock::now() + TIME;
    match tls {
        TransportSecurity::ClearText => serve(stream, peer, context, (is_authenticated, end)).await,
        TransportSecurity::Unready => {}
        TransportSecurity::Tls(acceptor) => {
            if let Ok(Ok(stream)) = timeout_at(end.into(), acceptor.accept(stream)).await {
                serve(stream, peer, context, (is_authenticated, end)).await;
            }
        }
    }
}

/// Serves the requests of a connection, until `end` if none of them is a sender's. Its errors concern the peer alone.
async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: IpAddr,
    context: Arc<ReceiverContext>,
    (is_authenticated, end): (Arc<AtomicBool>, Instant),
) {
    let authenticated = is_authenticated.clone();
    let rate = ConnectionRate::new();
    let service = service_fn(move |request: Request<Incoming>| {
        context.coalescing.request(&rate, clock::now());
        let (context, authenticated) = (context.clone(), authenticated.clone());
        async move { Ok::<_, Infallible>(respond(receive(request, peer, &context, &authenticated).await)) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = &mut connection => return,
        () = sleep_until(end.into()) => {}
    }
    if is_authenticated.load(Ordering::Relaxed) {
        drop(connection.await);
    }
}

/// Reads a request. Returns the status of the response.
async fn receive<B>(
    request: Request<B>,
    peer: IpAddr,
    context: &ReceiverContext,
    is_authenticated: &AtomicBool,
) -> StatusCode
where
    B: Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static>,
{
    let credentials = context.credentials.borrow().clone();
    let sender = match credentials.authenticate(request.headers(), peer) {
        Ok(sender) => sender,
        Err(error) => {
            context.refuse(peer, error);
            return StatusCode::UNAUTHORIZED;
        }
    };
    if request.body().size_hint().lower() > BODY_BYTES as u64 {
        context.sink.refused(Some(&sender));
        return StatusCode::PAYLOAD_TOO_LARGE;
    }
    is_authenticated.store(true, Ordering::Relaxed);
    match timeout(TIME, Limited::new(request.into_body(), BODY_BYTES).collect()).await {
        Ok(Ok(body)) => {
            let now = clock::now();
            if context.events.lock().unwrap_or_else(PoisonError::into_inner).take(peer, now) {
                context.sink.receive(&sender, &body.to_bytes(), now);
            } else {
                context.sink.over_rate(&sender);
            }
            StatusCode::NO_CONTENT
        }
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            context.sink.refused(Some(&sender));
            StatusCode::PAYLOAD_TOO_LARGE
        }
        // The peer is gone, or sends too slowly: nothing that it sent is used.
        Ok(Err(_)) | Err(_) => {
            context.sink.refused(Some(&sender));
            StatusCode::NO_CONTENT
        }
    }
}

fn respond(status: StatusCode) -> Response<Empty<Bytes>> {
    let mut response = Response::new(Empty::new());
    *response.status_mut() = status;
    if status != StatusCode::NO_CONTENT {
        // What is left of the request is not read.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if status == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Basic realm=\"imaptrace\"");
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response
}

#[cfg(test)]
mod tests;

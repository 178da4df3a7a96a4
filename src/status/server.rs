//! The HTTP listener, on a thread of its own, so that no request delays a probe.
//!
//! Limits the number of connections (a new one closes the oldest), the size and time of a request's head, and the time of a
//! connection, which serves one request without a body. `page` and `facts` have the content. Started by `agent`.

use std::{collections::VecDeque, convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::stream;
use http_body_util::{Either, Full, StreamBody};
use hyper::{
    Request, Response, StatusCode,
    body::Bytes,
    header::{self, HeaderName, HeaderValue},
    http::request::Parts,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::AbortHandle,
    time::timeout,
};

use super::{
    facts::{Facts, Identity},
    page::{Page, json},
    request::{self, RequestError, StatusEndpoint},
    run_history::RunHistory,
};
use crate::listener::ListenerThread;

/// Connections at once.
const CONNECTIONS: usize = 32;
/// The largest head of a request: hyper's least number.
const HEAD_BYTES: usize = 8 << 10;
const HEADERS: usize = 32;
/// For the head of a request.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// From the first byte of the request to the last of the response.
const TIME: Duration = Duration::from_secs(30);

const INDEX: &str = "\
imaptrace

/live                 200 while all tasks are alive, else 503 and the reasons
/ready                200 while it probes, else 503 and the reasons
/status.json          the agent itself, and the last runs of each account
/status.json?target=NAME&state=failed&runs=1
";

/// Serves requests until it is dropped.
#[derive(Debug)]
pub struct StatusServer(ListenerThread);

struct ResponseSource {
    history: Arc<RunHistory>,
    identity: Identity,
    facts: Box<dyn Fn() -> Facts + Send + Sync>,
    /// Only this machine can reach the listener.
    loopback: bool,
}

impl StatusServer {
    /// Starts listening. `facts` is called at each request and must not block.
    pub fn start(
        listen: SocketAddr,
        history: Arc<RunHistory>,
        identity: Identity,
        facts: impl Fn() -> Facts + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let loopback = request::loopback(&listen.ip());
        let source = Arc::new(ResponseSource { history, identity, facts: Box::new(facts), loopback });
        let mut open = VecDeque::new();
        ListenerThread::start("status", listen, || {}, move |stream, _| admit(stream, &mut open, &source)).map(Self)
    }

    /// The address it listens on, with the real port if 0 was given.
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }
}

/// Serves a new connection. With too many open, the oldest is closed.
fn admit(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    open: &mut VecDeque<AbortHandle>,
    source: &Arc<ResponseSource>,
) {
    open.retain(|connection| !connection.is_finished());
    if open.len() >= CONNECTIONS
        && let Some(oldest) = open.pop_front()
    {
        oldest.abort();
    }
    open.push_back(tokio::spawn(serve(stream, source.clone())).abort_handle());
}

/// Serves one request of a connection. Its errors concern the peer alone.
async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, source: Arc<ResponseSource>) {
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let response = handle(&request.into_parts().0, &source);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    drop(timeout(TIME, connection).await);
}

fn handle(request: &Parts, source: &ResponseSource) -> Response<ResponseBody> {
    let endpoint = request::read(request, source.loopback).and_then(|endpoint| match &endpoint {
        StatusEndpoint::Status(filter) if filter.target.as_ref().is_some_and(|name| !source.history.has(name)) => {
            Err(RequestError::Target)
        }
        _ => Ok(endpoint),
    });
    match endpoint {
        Ok(StatusEndpoint::Index) => respond(StatusCode::OK, "text/plain; charset=utf-8", whole(INDEX)),
        Ok(StatusEndpoint::Live) => {
            let facts = (source.facts)();
            health("live", facts.not_live, Vec::new())
        }
        Ok(StatusEndpoint::Ready) => {
            let Facts { mut not_live, not_ready, warnings, .. } = (source.facts)();
            not_live.extend(not_ready);
            health("ready", not_live, warnings)
        }
        Ok(StatusEndpoint::Status(filter)) => {
            let page = Page::new(source.history.clone(), &source.identity, &(source.facts)(), filter);
            respond(StatusCode::OK, JSON, Either::Right(StreamBody::new(stream::iter(page))))
        }
        Err(error) => {
            let body = json(&serde_json::json!({ "error": error.to_string() }));
            let mut response = respond(error.status(), JSON, whole([&body[..], b"\n"].concat()));
            if error == RequestError::Method {
                response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            }
            response
        }
    }
}

const JSON: &str = "application/json";

/// A body, whole or piece by piece.
type ResponseBody = Either<Full<Bytes>, StreamBody<stream::Iter<Page>>>;

fn whole(bytes: impl Into<Bytes>) -> ResponseBody {
    Either::Left(Full::new(bytes.into()))
}

/// 200, or 503 with the reasons; warnings do not change the code.
fn health(what: &'static str, reasons: Vec<String>, warnings: Vec<String>) -> Response<ResponseBody> {
    let code = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut state = serde_json::Map::new();
    state.insert(what.to_owned(), reasons.is_empty().into());
    if !reasons.is_empty() {
        state.insert("reasons".to_owned(), reasons.into());
    }
    if !warnings.is_empty() {
        state.insert("warnings".to_owned(), warnings.into());
    }
    respond(code, JSON, whole([&json(&state)[..], b"\n"].concat()))
}

/// Headers that forbid to cache, sniff or frame the response, and to read it from another site.
fn respond(code: StatusCode, kind: &'static str, body: ResponseBody) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    let fields: [(HeaderName, &'static str); 5] = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in fields {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use imaptrace_record::{RunOutcome, Seconds, Timestamp};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use tokio::time::sleep;

    use super::*;
    use crate::{
        clock,
        server_events::SenderCounts,
        status::{
            facts::ConfigStatus,
            run_history::tests::{history, plan, run},
        },
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_epoch_seconds(1_795_434_000 + second).unwrap()
    }

    fn facts() -> Facts {
        Facts {
            at: at(90),
            uptime: Seconds::from_micros(90_000_000),
            not_live: Vec::new(),
            not_ready: Vec::new(),
            warnings: Vec::new(),
            in_flight: 1,
            config: ConfigStatus { file: None, loaded_at: at(0), last_reload: None },
            delivery: None,
            server_events: None,
        }
    }

    fn source(history: RunHistory, facts: Facts) -> Arc<ResponseSource> {
        let identity = Identity { version: "0.1.0", instance: None, started_at: at(0) };
        Arc::new(ResponseSource {
            history: Arc::new(history),
            identity,
            facts: Box::new(move || facts.clone()),
            loopback: true,
        })
    }

    /// Opens a connection over a pipe of this many bytes.
    fn begin(source: Arc<ResponseSource>, pipe: usize) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(pipe);
        drop(tokio::spawn(serve(theirs, source)));
        ours
    }

    /// Sends a request, and returns the status line, the head and the body.
    async fn ask(source: &Arc<ResponseSource>, request: &str) -> (String, String, String) {
        let mut stream = begin(source.clone(), 1 << 20);
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{response}"));
        let (line, head) = head.split_once("\r\n").unwrap();
        (line.to_owned(), head.to_owned(), body.to_owned())
    }

    async fn get(source: &Arc<ResponseSource>, path: &str) -> (String, String) {
        let (line, _, body) = ask(source, &format!("GET {path} HTTP/1.0\r\n\r\n")).await;
        (line.split(' ').nth(1).unwrap().to_owned(), body)
    }

    #[tokio::test(start_paused = true)]
    async fn live_and_ready_contain_the_reasons() {
        let fine = source(history(&[]), facts());
        assert_eq!(get(&fine, "/live").await, ("200".into(), "{\"live\":true}\n".into()));
        assert_eq!(get(&fine, "/ready").await, ("200".into(), "{\"ready\":true}\n".into()));
        let stopping = source(history(&[]), Facts { not_ready: vec!["it is stopping".into()], ..facts() });
        assert_eq!(get(&stopping, "/live").await.0, "200");
        let expected = "{\"ready\":false,\"reasons\":[\"it is stopping\"]}\n";
        assert_eq!(get(&stopping, "/ready").await, ("503".into(), expected.into()));
        let short = source(history(&[]), Facts { warnings: vec!["short of CPU".into()], ..facts() });
        assert_eq!(get(&short, "/live").await, ("200".into(), "{\"live\":true}\n".into()));
        let expected = "{\"ready\":true,\"warnings\":[\"short of CPU\"]}\n";
        assert_eq!(get(&short, "/ready").await, ("200".into(), expected.into()));
        let stuck = source(history(&[]), Facts { not_live: vec!["no \"turn\"".into()], ..facts() });
        let expected = "{\"live\":false,\"reasons\":[\"no \\\"turn\\\"\"]}\n";
        assert_eq!(get(&stuck, "/live").await, ("503".into(), expected.into()));
        assert_eq!(get(&stuck, "/ready").await.0, "503");
    }

    #[tokio::test(start_paused = true)]
    async fn status_has_the_agent_and_its_accounts() {
        let history = history(&["mail01", "mail02"]);
        history.record(&run(RunOutcome::Failed, 1));
        history.skipped("mail01", "default", "limit", 2);
        let joined = SenderCounts { last_event_at: Some(at(80)), events: BTreeMap::from([("joined", 12)]) };
        let senders =
            [("all", joined), ("backup", SenderCounts::default())].map(|(name, counts)| (name.to_owned(), counts));
        let server_events = Some(BTreeMap::from(senders));
        let source = source(history, Facts { not_ready: vec!["it is stopping".into()], server_events, ..facts() });
        let (code, body) = get(&source, "/status.json").await;
        let status: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((code.as_str(), &status["schema"], &status["ready"]), ("200", &1.into(), &false.into()));
        assert_eq!((&status["live"], &status["reasons"][0]), (&true.into(), &"it is stopping".into()));
        assert_eq!(status["schedule"]["skipped"], serde_json::json!({ "limit": 2 }));
        let all = serde_json::json!({ "sender": "all", "last_event_at": at(80), "events": { "joined": 12 } });
        assert_eq!(status["server_events"], serde_json::json!([all, { "sender": "backup", "events": {} }]));
        assert_eq!(status["states"], serde_json::json!({ "passed": 0, "failed": 1, "void": 0, "never": 1 }));
        assert_eq!((&status["accounts"][0]["skipped"], &status["accounts"][1]["state"]), (&2.into(), &"never".into()));
        assert_eq!(get(&source, "/status.json?target=mail03").await.0, "404");
        let (_, body) = get(&source, "/status.json?target=mail02").await;
        let status: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(status["accounts"].as_array().unwrap().len(), 1);
        assert_eq!(status["accounts"][0]["target"], "mail02");
    }

    #[tokio::test(start_paused = true)]
    async fn every_response_forbids_caching_and_one_to_head_has_no_body() {
        let source = source(history(&["mail01"]), facts());
        for path in ["/", "/live", "/status.json", "/nothing"] {
            let (_, head, body) = ask(&source, &format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
            assert!(head.contains("cache-control: no-store\r\n"), "{head}");
            assert!(head.contains("x-content-type-options: nosniff\r\n"), "{head}");
            assert!(head.contains("content-security-policy: default-src 'none'"), "{head}");
            assert_eq!(body, "");
        }
        let (line, head, _) = ask(&source, "POST /live HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert!(line.contains(" 405 ") && head.contains("allow: GET, HEAD"), "{line} {head}");
        let (line, _, body) = ask(&source, "GET /live HTTP/1.1\r\nHost: evil.example\r\n\r\n").await;
        assert!(line.contains(" 421 ") && !body.contains("evil"), "{line} {body}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_too_large_head_is_not_read_to_its_end() {
        let source = source(history(&[]), facts());
        for padding in ["x: y\r\n".repeat(HEADERS + 1), format!("x: {}\r\n", "y".repeat(2 * HEAD_BYTES))] {
            let request = format!("GET /live HTTP/1.1\r\nHost: localhost\r\n{padding}\r\n");
            let (line, ..) = ask(&source, &request).await;
            assert!(line.contains(" 431 "), "{line}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_sends_slowly_is_disconnected_in_seconds() {
        let begun = clock::now();
        let mut stream = begin(source(history(&[]), facts()), 1 << 20);
        stream.write_all(b"GET /live HTTP/1.1\r\nHo").await.unwrap();
        let mut response = Vec::new();
        stream.read_to_end(&mut response).await.unwrap();
        assert_eq!((clock::now() - begun).as_secs(), HEAD_TIME.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_slowly_is_disconnected_and_costs_one_piece() {
        let names: Vec<String> = (0..5_000).map(|number| format!("mail{number:04}")).collect();
        let all = history(&[]);
        all.plan(plan(&names.iter().map(String::as_str).collect::<Vec<_>>()));
        let source = source(all, facts());
        let begun = clock::now();
        let mut stream = begin(source.clone(), 64);
        stream.write_all(b"GET /status.json HTTP/1.1\r\nHost: [::1]\r\n\r\n").await.unwrap();
        // The pipe is full now, and stays so until the time is over.
        sleep(TIME.mul_f64(0.9)).await;
        assert_eq!(Arc::strong_count(&source), 2, "it is still being served");
        let mut response = Vec::new();
        sleep(TIME.mul_f64(0.2)).await;
        assert_eq!(Arc::strong_count(&source), 1, "it is not any more");
        drop(stream.read_to_end(&mut response).await);
        assert!(response.len() <= 64, "{}", response.len());
        assert!(clock::now() - begun >= TIME);
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_response_arrives_whole() {
        let names: Vec<String> = (0..5_000).map(|number| format!("mail{number:04}")).collect();
        let all = history(&[]);
        all.plan(plan(&names.iter().map(String::as_str).collect::<Vec<_>>()));
        let (_, body) = get(&source(all, facts()), "/status.json").await;
        let status: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(status["accounts"].as_array().unwrap().len(), 5_000);
    }
}

//! What answers where a receiver should: answers without end, such as never come to one, pages of other services, and ports
//! that speak another protocol.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use hyper::{
    Request, Response,
    body::{Bytes, Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use imaptrace::{
    delivery::{Delivery, DeliverySettings, Protocol, Signal},
    telemetry::{MetricsSettings, ResourceSettings},
};
use imaptrace_record::{Run, SpanId, TraceId};
use tokio_rustls::TlsAcceptor;

use crate::support::{
    otlp::{Inbox, Log, Papers, Receiver as Otlp, block_on, listener, passed_run},
    program::wait_until,
};

const LONG: Duration = Duration::from_secs(20);

/// What a request gets.
#[derive(Debug, Clone, Copy)]
enum Answer {
    /// Taken, and an empty answer.
    Accept,
    /// This status, and 64 MiB that say why.
    Flood(u16),
    /// This status and the first byte of its words, and then no more until the client hangs up.
    Drip(u16),
    /// This status, content type and body.
    Page(u16, &'static str, &'static str),
    /// These bytes in place of an answer, and the end.
    Bytes(&'static [u8]),
}

/// A receiver that gives these answers in turn, and then accepts. It counts the requests that it has read.
struct Receiver {
    url: String,
    requests: Arc<AtomicUsize>,
}

impl Receiver {
    fn start(answers: &[Answer]) -> Self {
        let listener = listener();
        let url = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        let (answers, requests) = (Arc::new(answers.to_vec()), Arc::<AtomicUsize>::default());
        let counted = Arc::clone(&requests);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let (answers, requests) = (Arc::clone(&answers), Arc::clone(&counted));
                // A client that hangs up in the middle is what some tests are about.
                thread::spawn(move || drop(converse(&stream, &answers, &requests)));
            }
        });
        Self { url, requests }
    }

    /// A port that says this at once, whatever it is asked, and then the end; its URL.
    fn greets(words: &'static [u8]) -> String {
        let listener = listener();
        let url = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                // What the client says is read, so that the end is none by force.
                let said = stream.write_all(words).and_then(|()| stream.shutdown(std::net::Shutdown::Write));
                drop(said.and_then(|()| stream.read_to_end(&mut Vec::new())));
            }
        });
        url
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    fn delivery(&self, timeout: Duration) -> Delivery {
        Log::get();
        let signal = Signal { timeout, ..Signal::new(&self.url, Protocol::HttpProtobuf) };
        let settings = DeliverySettings { traces: Some(signal), ..DeliverySettings::default() };
        Delivery::start(&settings, &ResourceSettings::default(), &MetricsSettings::default()).unwrap()
    }
}

fn converse(stream: &TcpStream, answers: &[Answer], requests: &AtomicUsize) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let mut length = 0;
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        reader.read_exact(&mut vec![0; length])?;
        let number = requests.fetch_add(1, Ordering::SeqCst);
        let head = |status: u16, length: usize| format!("HTTP/1.1 {status} x\r\nContent-Length: {length}\r\n\r\n");
        match answers.get(number).copied().unwrap_or(Answer::Accept) {
            Answer::Accept => writer.write_all(head(200, 0).as_bytes())?,
            Answer::Flood(status) => {
                writer.write_all(head(status, 64 << 20).as_bytes())?;
                for _ in 0..64 {
                    writer.write_all(&vec![b'x'; 1 << 20])?;
                }
            }
            Answer::Page(status, kind, body) => {
                let head =
                    format!("HTTP/1.1 {status} x\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len());
                writer.write_all((head + body).as_bytes())?;
            }
            Answer::Bytes(bytes) => {
                writer.write_all(bytes)?;
                return writer.shutdown(std::net::Shutdown::Both);
            }
            Answer::Drip(status) => {
                writer.write_all(head(status, 1000).as_bytes())?;
                writer.write_all(b"x")?;
                reader.read_to_end(&mut Vec::new())?;
            }
        }
    }
}

fn fresh_run() -> Run {
    Run { trace_id: TraceId::random(), span_id: SpanId::random(), ..passed_run() }
}

#[test]
fn a_refusal_whose_words_have_no_end_is_a_refusal_and_blocks_nothing() {
    for answer in [Answer::Flood(400), Answer::Drip(400)] {
        let receiver = Receiver::start(&[answer]);
        let delivery = receiver.delivery(Duration::from_secs(10));
        delivery.deliver(fresh_run());
        let dropped = || Some(delivery.status().dropped_runs.refused).filter(|refused| *refused > 0);
        assert_eq!(wait_until("it is counted as refused", dropped), 1, "{answer:?}");
        delivery.deliver(fresh_run());
        let report = block_on(delivery.shutdown(LONG));
        assert_eq!((report.delivered_runs, report.dropped.total()), (1, 1), "{answer:?} {report}");
        assert_eq!(receiver.requests(), 2, "{answer:?}: neither was sent twice");
    }
}

#[test]
fn sixty_four_mebibytes_of_words_are_not_read_and_are_no_delivery() {
    let receiver = Receiver::start(&[Answer::Flood(200)]);
    let delivery = receiver.delivery(Duration::from_secs(10));
    delivery.deliver(fresh_run());
    let report = block_on(delivery.shutdown(LONG));
    assert!(report.is_complete() && report.delivered_runs == 1, "{report}");
    assert_eq!(receiver.requests(), 2);
    let details = Log::get().lines(&receiver.url);
    assert!(
        details[0].contains("HTTP 200 with no content type and more than 1024 KiB is no answer of an OTLP"),
        "{details:?}"
    );
}

#[test]
fn a_page_with_200_is_no_delivery_it_is_said_once_and_the_batch_comes_again() {
    for (kind, page) in [
        ("text/html; charset=utf-8", "<!DOCTYPE html><html><title>Sign in</title></html>"),
        ("text/plain", "It works!\n"),
        ("application/json", r#"{"code":16,"message":"no such tenant"}"#),
        ("application/x-protobuf", "\u{8}\u{10}\u{12}\u{2}no"),
    ] {
        let receiver = Receiver::start(&[Answer::Page(200, kind, page), Answer::Page(202, kind, page)]);
        let delivery = receiver.delivery(Duration::from_secs(10));
        delivery.deliver(fresh_run());
        let report = block_on(delivery.shutdown(LONG));
        assert!(report.is_complete() && report.delivered_runs == 1, "{kind}: {report}");
        assert_eq!(receiver.requests(), 3, "{kind}");
        let details = Log::get().lines(&receiver.url);
        let kind = kind.split(';').next().unwrap();
        assert_eq!(details.len(), 2, "{details:?}");
        assert!(details[0].contains(&format!("HTTP 200 with {kind} is no answer of an OTLP receiver")), "{details:?}");
        assert!(
            details[0].contains("check the endpoint's host, port and path") && details[1].contains("again"),
            "{details:?}"
        );
        assert!(
            !details[0].contains("Sign in") && !details[0].contains("tenant"),
            "what a page says is in no log: {details:?}"
        );
    }
}

#[test]
fn metrics_that_meet_a_page_are_not_delivered_either() {
    let receiver = Receiver::start(&[Answer::Page(200, "text/html", "<html>"); 9]);
    Log::get();
    let metrics = Some(Signal::new(&receiver.url, Protocol::HttpProtobuf));
    let settings = DeliverySettings { metrics, ..DeliverySettings::default() };
    let delivery = Delivery::start(&settings, &ResourceSettings::default(), &MetricsSettings::default()).unwrap();
    delivery.metrics().record(&passed_run());
    let report = block_on(delivery.shutdown(LONG));
    assert!(!report.metrics_delivered, "{report}");
    assert!(report.reason.unwrap().starts_with("HTTP 200 with text/html is no answer"));
}

// === Another protocol than the endpoint says ===

/// Sends one run there; what is said of it.
fn refused(url: &str, protocol: Protocol, papers: Option<&Papers>) -> String {
    Log::get();
    let path = if protocol == Protocol::Grpc { "" } else { "/v1/traces" };
    let mut signal = Signal { timeout: Duration::from_secs(10), ..Signal::new(&format!("{url}{path}"), protocol) };
    signal.ca_file = papers.map(Papers::ca_file);
    let settings = DeliverySettings { traces: Some(signal), ..DeliverySettings::default() };
    let delivery = Delivery::start(&settings, &ResourceSettings::default(), &MetricsSettings::default()).unwrap();
    delivery.deliver(fresh_run());
    let report = block_on(delivery.shutdown(LONG));
    assert_eq!((report.undelivered_runs, report.dropped.total()), (1, 0), "{url} {protocol:?} {report}");
    report.reason.unwrap()
}

const BOTH: [Protocol; 2] = [Protocol::Grpc, Protocol::HttpProtobuf];
const WANTS_TLS: &str = "the port speaks TLS: write https:// in the endpoint";

#[test]
fn http_to_a_port_that_speaks_tls_says_so_and_nothing_is_lost() {
    let papers = Papers::issue();
    for protocol in BOTH {
        for grpc in [true, false] {
            let receiver = Otlp::tls(grpc, &papers);
            let reason = refused(&receiver.url().replace("https://", "http://"), protocol, None);
            assert!(reason.ends_with(WANTS_TLS), "{protocol:?} to {grpc}: {reason}");
        }
        // An alert; the words of servers that say it in clear text.
        let alert = Receiver::start(&[Answer::Bytes(b"\x15\x03\x01\x00\x02\x02\x46"); 9]);
        assert!(refused(alert.url.trim_end_matches("/v1/traces"), Protocol::HttpProtobuf, None).ends_with(WANTS_TLS));
        let words = "Client sent an HTTP request to an HTTPS server.\n";
        let go = Receiver::start(&[Answer::Page(400, "text/plain", words); 9]);
        assert!(refused(go.url.trim_end_matches("/v1/traces"), Protocol::HttpProtobuf, None).ends_with(WANTS_TLS));
    }
}

#[test]
fn http_to_a_port_for_tls_that_hangs_up_without_a_word_says_so_too() {
    let papers = Papers::issue();
    for protocol in BOTH {
        // Nothing; an answer that is cut off; a refusal in words of its own.
        for words in ["", "HTTP/1.0 400 Bad", "HTTP/1.0 400 Bad\r\nContent-Length: 2\r\n\r\nno"] {
            let port = Impatient::start(words, papers.acceptor());
            let reason = refused(&port, protocol, None);
            assert!(reason.ends_with(WANTS_TLS), "{protocol:?} {words:?}: {reason}");
        }
    }
}

/// A port that says this, if anything, to all that does not begin with a TLS handshake, and hangs up.
struct Impatient;

impl Impatient {
    fn start(words: &'static str, acceptor: TlsAcceptor) -> String {
        let listener = listener();
        let url = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            while let Ok((mut stream, _)) = listener.accept() {
                let mut first = [0];
                if stream.peek(&mut first).is_ok_and(|size| size == 1) && first[0] == 0x16 {
                    stream.set_nonblocking(true).unwrap();
                    runtime.block_on(async {
                        let stream = tokio::net::TcpStream::from_std(stream).unwrap();
                        drop(acceptor.accept(stream).await);
                    });
                } else {
                    drop(stream.write_all(words.as_bytes()));
                }
            }
        });
        url
    }
}

#[test]
fn https_to_a_port_that_speaks_clear_text_says_so() {
    let papers = Papers::issue();
    for protocol in BOTH {
        let details = Receiver::greets(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        let grpc = Otlp::grpc();
        for url in [grpc.url(), details] {
            let reason = refused(&url.replace("http://", "https://"), protocol, Some(&papers));
            assert!(reason.ends_with("the port speaks no TLS: write http:// in the endpoint"), "{reason}");
        }
    }
}

#[test]
fn the_one_protocol_at_the_others_port_is_said() {
    let grpc = Otlp::grpc();
    let reason = refused(&grpc.url(), Protocol::HttpProtobuf, None);
    assert!(reason.ends_with("it may speak gRPC (protocol = \"grpc\")"), "{reason}");
    let http = Receiver::greets(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    let reason = refused(&http, Protocol::Grpc, None);
    assert!(reason.ends_with("it may speak HTTP (protocol = \"http/protobuf\")"), "{reason}");
    // An IMAP server, and Python's HTTP server, which has no status line for what it does not understand.
    let imap = Receiver::greets(b"* OK IMAP4rev1 ready\r\n");
    let reason = refused(&imap, Protocol::HttpProtobuf, None);
    assert!(reason.ends_with("it does not speak HTTP: check the endpoint's port"), "{reason}");
    let python = Receiver::greets(b"<!DOCTYPE HTML>\n<html>\n");
    let reason = refused(&python, Protocol::Grpc, None);
    assert!(reason.contains("it does not speak gRPC: check the endpoint's port"), "{reason}");
    let reason = refused(&python.replace("http://", "https://"), Protocol::Grpc, None);
    assert!(reason.contains("the port speaks no TLS"), "{reason}");
}

/// What a server over HTTP/2 answers: status, content type, body, trailers.
type Page = (u16, Option<&'static str>, &'static [u8], &'static [(&'static str, &'static str)]);

/// A server over HTTP/2 that gives these answers in turn and is no receiver; its URL.
fn http2(pages: &'static [Page]) -> String {
    let listener = listener();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let number = Arc::<AtomicUsize>::default();
        block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let number = Arc::clone(&number);
                let service = service_fn(move |request| page(request, pages, Arc::clone(&number)));
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
            }
        });
    });
    url
}

type Frames = http_body_util::StreamBody<
    futures_util::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, std::convert::Infallible>>>,
>;

async fn page(
    request: Request<Incoming>,
    pages: &[Page],
    number: Arc<AtomicUsize>,
) -> Result<Response<Frames>, std::convert::Infallible> {
    drop(http_body_util::BodyExt::collect(request.into_body()).await);
    let number = number.fetch_add(1, Ordering::SeqCst);
    let (status, kind, body, trailers) = pages[number.min(pages.len() - 1)];
    let mut frames = Vec::new();
    if !body.is_empty() {
        frames.push(Ok(Frame::data(Bytes::from_static(body))));
    }
    if !trailers.is_empty() {
        let trailers = trailers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        frames.push(Ok(Frame::trailers(trailers.collect())));
    }
    let mut response = Response::builder().status(status);
    if let Some(kind) = kind {
        response = response.header("content-type", kind);
    }
    Ok(response.body(http_body_util::StreamBody::new(futures_util::stream::iter(frames))).unwrap())
}

const EMPTY: &[u8] = &[0; 5];

#[test]
fn over_grpc_what_is_no_answer_of_grpc_is_no_delivery_and_the_batch_comes_again() {
    const OK: &[(&str, &str)] = &[("grpc-status", "0")];
    const ACCEPT: Page = (200, Some("application/grpc"), EMPTY, OK);
    let cases: [(&[Page; 2], &str); 7] = [
        (&[(200, Some("text/html"), b"<html>", &[]), ACCEPT], "HTTP 200 with text/html is no answer of a gRPC"),
        (&[(200, Some("text/html"), EMPTY, OK), ACCEPT], "HTTP 200 with text/html is no answer of a gRPC receiver"),
        (&[(200, None, b"", &[]), ACCEPT], "HTTP 200 with no content type is no answer of a gRPC receiver"),
        (&[(200, Some("application/grpc"), EMPTY, &[]), ACCEPT], "the answer ends without a gRPC status"),
        (&[(200, Some("application/grpc"), b"", OK), ACCEPT], "gRPC Ok with something else than an export response"),
        (&[(502, Some("text/html"), b"<html>", &[]), ACCEPT], "HTTP 502"),
        (&[(400, Some("text/html"), b"<html>", &[]), ACCEPT], "HTTP 400"),
    ];
    for (pages, says) in cases {
        let url = http2(Box::leak(Box::new(*pages)));
        Log::get();
        let settings =
            DeliverySettings { traces: Some(Signal::new(&url, Protocol::Grpc)), ..DeliverySettings::default() };
        let delivery = Delivery::start(&settings, &ResourceSettings::default(), &MetricsSettings::default()).unwrap();
        delivery.deliver(fresh_run());
        let report = block_on(delivery.shutdown(LONG));
        assert!(report.is_complete() && report.delivered_runs == 1, "{says}: {report}");
        let details = Log::get().lines(&url);
        assert!(details.len() == 2 && details[0].contains(says), "{says}: {details:?}");
    }
}

#[test]
fn a_receiver_that_closes_idle_connections_gets_the_next_batch_on_a_new_one() {
    let receiver = Otlp::http();
    Log::get();
    let signal = Signal::new(&format!("{}/v1/traces", receiver.url()), Protocol::HttpProtobuf);
    let settings = DeliverySettings { traces: Some(signal), ..DeliverySettings::default() };
    let delivery = Delivery::start(&settings, &ResourceSettings::default(), &MetricsSettings::default()).unwrap();
    delivery.deliver(fresh_run());
    receiver.wait(|inbox| inbox.spans().len() == 9);
    let port = receiver.kill();
    let receiver = port.open(false);
    delivery.deliver(fresh_run());
    receiver.wait(|inbox| inbox.spans().len() == 9);
    let report = block_on(delivery.shutdown(LONG));
    assert!(report.is_complete() && report.delivered_runs == 2, "{report}");
    assert_eq!(receiver.look(Inbox::spans).len(), 9);
}

#[test]
fn an_answer_that_never_comes_to_its_end_is_given_up_and_the_batch_comes_again() {
    for status in [200, 503] {
        let receiver = Receiver::start(&[Answer::Drip(status)]);
        let delivery = receiver.delivery(Duration::from_millis(200));
        delivery.deliver(fresh_run());
        let report = block_on(delivery.shutdown(LONG));
        assert!(report.is_complete() && report.delivered_runs == 1, "{status}: {report}");
        assert_eq!(receiver.requests(), 2, "{status}");
    }
}

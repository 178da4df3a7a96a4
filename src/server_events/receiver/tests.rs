use base64::{Engine as _, prelude::BASE64_STANDARD};
use imaptrace_imap::Secret;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    time::sleep,
};

use super::*;
use crate::{
    plan::Propagation,
    server_events::EventCounts,
    server_events::{
        RunKeys,
        samples::{AGE, SampleSession, passed, sender},
    },
    telemetry::Metrics,
};

const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn reception() -> Arc<ReceiverContext> {
    let senders = vec![sender("one", &["*"])];
    let secrets = senders.iter().map(|sender| (sender, Some(Secret::new("hunter2".to_owned()))));
    let credentials = SenderCredentials::new(secrets, TransportSecurity::ClearText);
    let counts = EventCounts::new(&senders, Metrics::off());
    let store = EventStore::new(senders, counts, AGE);
    let (_, credentials) = watch::channel(Arc::new(credentials));
    Arc::new(ReceiverContext {
        credentials,
        sink: EventSink::Store(Arc::new(store)),
        events: Mutex::new(PeerRates::new(EVENTS_A_SECOND, EVENTS_AT_ONCE)),
        refusals: Mutex::default(),
        coalescing: WakeUpCoalescing::default(),
    })
}

fn begin(reception: &Arc<ReceiverContext>) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    drop(tokio::spawn(serve(theirs, PEER, reception.clone(), (Arc::default(), clock::now() + TIME))));
    ours
}

fn head(secret: &str, more: &str) -> String {
    let pair = BASE64_STANDARD.encode(format!("one:{secret}"));
    format!("POST /dovecot HTTP/1.1\r\nHost: agent\r\nAuthorization: Basic {pair}\r\n{more}\r\n")
}

fn whole(body: &[u8]) -> Vec<u8> {
    [head("hunter2", &format!("Content-Length: {}\r\n", body.len())).as_bytes(), body].concat()
}

/// The head of the next response, which has no body.
async fn response(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap_or_else(|_| panic!("{:?}", String::from_utf8_lossy(&head))));
    }
    String::from_utf8(head).unwrap()
}

async fn is_closed(stream: &mut DuplexStream) -> bool {
    matches!(stream.read(&mut [0; 1]).await, Ok(0) | Err(_))
}

fn joined(reception: &ReceiverContext) -> usize {
    let now = clock::now();
    let keys = RunKeys {
        began: now.checked_sub(Duration::from_secs(60)).unwrap(),
        ..RunKeys::of(&passed(), Propagation::Off, now)
    };
    let EventSink::Store(store) = &reception.sink else { panic!("{:?}", reception.sink) };
    store.take(&keys, now).events.len()
}

#[tokio::test(start_paused = true)]
async fn events_of_a_sender_are_answered_one_after_the_other_over_one_connection() {
    let (reception, run) = (reception(), passed());
    let session = SampleSession { run: &run, session: "s1" };
    let mut stream = begin(&reception);
    let other = SampleSession { run: &run, session: "s0" };
    for body in [other.auth(), other.tagged("SELECT", "0123456789abcdef"), other.end()] {
        stream.write_all(&whole(&body)).await.unwrap();
        let head = response(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 204 ") && !head.contains("content-length: 1"), "{head}");
        // As between two runs.
        sleep(Duration::from_secs(60)).await;
    }
    for body in [session.auth(), session.command("SELECT")] {
        stream.write_all(&whole(&body)).await.unwrap();
        response(&mut stream).await;
    }
    assert_eq!(joined(&reception), 2);
}

#[tokio::test(start_paused = true)]
async fn who_is_no_sender_is_refused_before_a_body_is_read() {
    let reception = reception();
    for (request, status) in [
        (head("wrong", "Content-Length: 1000000000\r\n"), "401"),
        ("POST / HTTP/1.1\r\nHost: agent\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), "401"),
        ("GET / HTTP/1.1\r\nHost: agent\r\n\r\n".to_owned(), "401"),
        (head("hunter2", "Content-Length: 1000000000\r\n"), "413"),
        (head("hunter2", "Content-Length: 16385\r\n"), "413"),
    ] {
        let mut stream = begin(&reception);
        stream.write_all(request.as_bytes()).await.unwrap();
        let head = response(&mut stream).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{request}{head}");
        assert_eq!(head.contains("www-authenticate: Basic"), status == "401");
        assert!(is_closed(&mut stream).await, "{request}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_without_a_length_is_read_up_to_the_limit() {
    let reception = reception();
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
    let mut stream = begin(&reception);
    stream.write_all(head("hunter2", "Transfer-Encoding: chunked\r\n").as_bytes()).await.unwrap();
    for _ in 0..5 {
        stream.write_all(chunk.as_bytes()).await.unwrap();
    }
    assert!(response(&mut stream).await.starts_with("HTTP/1.1 413 "));
    assert!(is_closed(&mut stream).await);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_used_is_answered_as_what_is() {
    let reception = reception();
    let mut stream = begin(&reception);
    for body in [&b"{"[..], b"", b"[1, 2]", b"{\"event\":\"imap_command_finished\"}", &[0xff; 16 << 10]] {
        stream.write_all(&whole(body)).await.unwrap();
        assert!(response(&mut stream).await.starts_with("HTTP/1.1 204 "));
    }
    let get = head("hunter2", "").replace("POST", "GET");
    stream.write_all(get.as_bytes()).await.unwrap();
    assert!(response(&mut stream).await.starts_with("HTTP/1.1 204 "));
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_request_of_a_sender_is_closed_in_seconds_and_an_idle_one_later() {
    let (reception, begun) = (reception(), clock::now());
    let mut stream = begin(&reception);
    stream.write_all(b"POST / HTTP/1.1\r\nHo").await.unwrap();
    assert!(is_closed(&mut stream).await);
    assert_eq!((clock::now() - begun).as_secs(), TIME.as_secs());
    let mut stream = begin(&reception);
    stream.write_all(&whole(b"{}")).await.unwrap();
    response(&mut stream).await;
    let begun = clock::now();
    assert!(is_closed(&mut stream).await);
    assert_eq!((clock::now() - begun).as_secs(), IDLE.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_ends_the_connection() {
    let reception = reception();
    let mut stream = begin(&reception);
    stream.write_all(head("hunter2", "Content-Length: 100\r\n").as_bytes()).await.unwrap();
    stream.write_all(b"{").await.unwrap();
    let begun = clock::now();
    assert!(response(&mut stream).await.starts_with("HTTP/1.1 204 "));
    assert!(is_closed(&mut stream).await);
    assert_eq!((clock::now() - begun).as_secs(), TIME.as_secs());
}

#[tokio::test(start_paused = true)]
async fn more_events_than_a_second_may_have_are_answered_and_not_kept() {
    let (reception, run) = (reception(), passed());
    let session = SampleSession { run: &run, session: "s1" };
    reception.events.lock().unwrap().exhaust(clock::now());
    let mut stream = begin(&reception);
    stream.write_all(&whole(&session.command("SELECT"))).await.unwrap();
    assert!(response(&mut stream).await.starts_with("HTTP/1.1 204 "));
    sleep(Duration::from_secs(1)).await;
    stream.write_all(&whole(&session.command("FETCH"))).await.unwrap();
    response(&mut stream).await;
    assert_eq!(joined(&reception), 1);
}

#[tokio::test]
async fn over_tls_and_with_new_credentials_from_the_next_connection_and_request_on() {
    let (run, senders) = (passed(), vec![sender("one", &["*"])]);
    let pair = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&pair).unwrap();
    let identity =
        native_tls::Identity::from_pkcs8(certificate.pem().as_bytes(), pair.serialize_pem().as_bytes()).unwrap();
    let acceptor: tokio_native_tls::TlsAcceptor = native_tls::TlsAcceptor::new(identity).unwrap().into();
    let known = |secret: &str, tls: &TransportSecurity| {
        let secret = Secret::new(secret.to_owned());
        Arc::new(SenderCredentials::new(senders.iter().map(|sender| (sender, Some(secret.clone()))), tls.clone()))
    };
    let (change, credentials) = watch::channel(known("hunter2", &TransportSecurity::Unready));
    let counts = EventCounts::new(&senders, Metrics::off());
    let store = Arc::new(EventStore::new(senders.clone(), counts, AGE));
    let receiver =
        EventReceiver::start(SocketAddr::new(PEER, 0), credentials, EventSink::Store(store.clone())).unwrap();
    let connect = async || TcpStream::connect(receiver.address()).await.unwrap();
    // While the files cannot be read.
    assert_eq!(connect().await.read(&mut [0; 1]).await.unwrap(), 0);

    change.send_replace(known("hunter2", &TransportSecurity::Tls(acceptor.clone())));
    let root = native_tls::Certificate::from_pem(certificate.pem().as_bytes()).unwrap();
    let connector = native_tls::TlsConnector::builder().add_root_certificate(root).build().unwrap();
    let connector = tokio_native_tls::TlsConnector::from(connector);
    let mut stream = connector.connect("localhost", connect().await).await.unwrap();
    let session = SampleSession { run: &run, session: "s1" };
    let mut ask = async |secret: &str| {
        let body = session.command("SELECT");
        let request = head(secret, &format!("Content-Length: {}\r\n", body.len()));
        stream.write_all(&[request.as_bytes(), &body].concat()).await.unwrap();
        response(&mut stream).await.lines().next().unwrap().get(..12).unwrap().to_owned()
    };
    assert_eq!(ask("hunter2").await, "HTTP/1.1 204");
    change.send_replace(known("changed", &TransportSecurity::Tls(acceptor)));
    assert_eq!(ask("changed").await, "HTTP/1.1 204");
    assert_eq!(ask("hunter2").await, "HTTP/1.1 401");
}

#[test]
fn refused_peers_are_logged_once_each_and_a_few_an_hour() {
    let (mut log, now) = (RefusalLog::default(), clock::now());
    let peer = |number: u8| IpAddr::from([192, 0, 2, number]);
    for number in 0..100 {
        log.log(peer(number), AccessError::AddressNotAllowed, now);
        log.log(peer(0), AccessError::AddressNotAllowed, now);
        log.log(peer(0), AccessError::WrongSecret("one".into()), now);
    }
    assert_eq!(log.known.len(), RefusalLog::MOST_LINES);
    assert!(log.known.contains(&(peer(0), AccessError::WrongSecret("one".into()))));
    log.log(peer(200), AccessError::UnknownSender, now + RefusalLog::PERIOD);
    assert_eq!(log.known.len(), 1);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_kernel_closes_a_connection_whose_peer_acknowledges_nothing() {
    let listener = tokio::net::TcpListener::bind((PEER, 0)).await.unwrap();
    let (_client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let (stream, _) = accepted.unwrap();
    limit_unacknowledged(&stream);
    assert_eq!(socket2::SockRef::from(&stream).tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED));
}

//! A fake OTLP receiver, over gRPC and over HTTP, with or without TLS, that fails as a test configures it.
//!
//! It runs on a runtime of its own, so that dropping it cuts every connection, as a killed Collector would. It decodes
//! what it gets with the protocol's own types and without code of imaptrace.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    io::{self, Read as _},
    net::{SocketAddr, TcpListener as StdListener},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use imaptrace::{
    clock,
    telemetry::logs::{LogFormat, LogSettings, subscriber},
};
use imaptrace_record::Run;
use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{KeyValue, any_value},
    metrics::v1::{Metric, metric::Data, number_data_point::Value as Number},
    trace::v1::{ResourceSpans, Span},
};
use prost::Message;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::watch,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{RootCertStore, ServerConfig, pki_types::PrivateKeyDer, server::WebPkiClientVerifier},
};
use tonic::{
    Code, Request, Response, Status,
    codec::CompressionEncoding,
    transport::{Certificate, Identity, Server, ServerTlsConfig, server::TcpIncoming},
};

/// Nothing that a test waits for takes this long; a test that gets here fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a request meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Taken.
    Accept,
    /// UNAVAILABLE, or 503.
    Unavailable,
    /// `INVALID_ARGUMENT`, or 400.
    Invalid,
    /// UNAUTHENTICATED, or 401.
    Unauthenticated,
    /// Taken, except this many spans.
    Partial(i64),
    /// `RESOURCE_EXHAUSTED` with `RetryInfo`, or 429 with Retry-After: send again after this number of seconds.
    Throttled(u32),
    /// `OUT_OF_RANGE`, or 413: over the limit of a message.
    TooLarge,
}

/// By name in small letters.
type Headers = HashMap<String, String>;

/// One request that came, whatever it met.
#[derive(Debug, Clone)]
pub struct Got<T> {
    /// Of the URL; over gRPC, where it is the service's, none.
    pub path: String,
    pub headers: Headers,
    pub body: T,
    pub answer: Answer,
    pub at: Instant,
}

/// All that came.
#[derive(Debug, Default)]
pub struct Inbox {
    pub traces: Vec<Got<ExportTraceServiceRequest>>,
    pub metrics: Vec<Got<ExportMetricsServiceRequest>>,
    /// Path and body of every request over HTTP, whatever it was for: as it came.
    pub raw: Vec<(String, Vec<u8>)>,
    /// What the next requests for traces meet; then all are accepted.
    script: VecDeque<Answer>,
    /// The same for metrics.
    metrics_script: VecDeque<Answer>,
}

impl Inbox {
    /// The spans that were taken, in order of arrival.
    pub fn spans(&self) -> Vec<Span> {
        let taken = self.traces.iter().filter(|got| matches!(got.answer, Answer::Accept | Answer::Partial(_)));
        let scopes = taken.flat_map(|got| &got.body.resource_spans).flat_map(|resource| &resource.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }

    /// The spans of mail servers that were taken, each with the name of its host.
    pub fn server_spans(&self) -> Vec<(String, Span)> {
        let resources = self.traces.iter().flat_map(|got| &got.body.resource_spans);
        let of = |resource: &ResourceSpans, key| attribute(&resource.resource.as_ref().unwrap().attributes, key);
        let servers = resources.filter(|resource| of(resource, "service.name").as_deref() == Some("dovecot"));
        let spans = servers.flat_map(|resource| {
            let host = of(resource, "host.name").unwrap_or_default();
            resource.scope_spans.iter().flat_map(|scope| &scope.spans).map(move |span| (host.clone(), span.clone()))
        });
        spans.collect()
    }

    /// The events of mail servers by sender and what became of them, as last counted.
    pub fn server_events(&self, sender: &str, outcome: &str) -> i64 {
        let metrics = self.metrics();
        let Some(Data::Sum(sum)) = metrics.get("imaptrace.server_events").and_then(|metric| metric.data.clone()) else {
            return 0;
        };
        let is = |attributes: &[_], key, value| attribute(attributes, key).as_deref() == Some(value);
        let points = sum
            .data_points
            .iter()
            .filter(|point| is(&point.attributes, "sender", sender) && is(&point.attributes, "outcome", outcome));
        points.map(|point| if let Some(Number::AsInt(count)) = point.value { count } else { 0 }).sum()
    }

    /// All series as last received, by metric. They come in many requests.
    pub fn metrics(&self) -> HashMap<String, Metric> {
        let mut all: HashMap<String, Metric> = HashMap::new();
        let resources = self.metrics.iter().flat_map(|got| &got.body.resource_metrics);
        for metric in resources.flat_map(|resource| &resource.scope_metrics).flat_map(|scope| &scope.metrics) {
            match all.get_mut(&metric.name) {
                None => drop(all.insert(metric.name.clone(), metric.clone())),
                Some(known) => renew(known, metric.data.as_ref().unwrap()),
            }
        }
        all
    }

    fn take_traces(&mut self, path: String, headers: Headers, body: ExportTraceServiceRequest) -> Answer {
        let answer = self.script.pop_front().unwrap_or(Answer::Accept);
        self.traces.push(Got { path, headers, body, answer, at: clock::now() });
        answer
    }

    fn take_metrics(&mut self, path: String, headers: Headers, body: ExportMetricsServiceRequest) -> Answer {
        let answer = self.metrics_script.pop_front().unwrap_or(Answer::Accept);
        self.metrics.push(Got { path, headers, body, answer, at: clock::now() });
        answer
    }
}

/// Puts newer points in place of the older ones with the same attributes.
fn renew(known: &mut Metric, newer: &Data) {
    fn points<T: Clone>(known: &mut Vec<T>, newer: &[T], attributes: impl Fn(&T) -> Vec<KeyValue>) {
        let attributes = |point: &T| {
            let mut attributes = attributes(point);
            attributes.sort_by(|one, other| one.key.cmp(&other.key));
            attributes
        };
        for point in newer {
            match known.iter_mut().find(|known| attributes(known) == attributes(point)) {
                Some(known) => known.clone_from(point),
                None => known.push(point.clone()),
            }
        }
    }
    match (known.data.as_mut().unwrap(), newer) {
        (Data::Gauge(known), Data::Gauge(newer)) => {
            points(&mut known.data_points, &newer.data_points, |it| it.attributes.clone());
        }
        (Data::Sum(known), Data::Sum(newer)) => {
            points(&mut known.data_points, &newer.data_points, |it| it.attributes.clone());
        }
        (Data::Histogram(known), Data::Histogram(newer)) => {
            points(&mut known.data_points, &newer.data_points, |it| it.attributes.clone());
        }
        (Data::ExponentialHistogram(known), Data::ExponentialHistogram(newer)) => {
            points(&mut known.data_points, &newer.data_points, |it| it.attributes.clone());
        }
        (known, newer) => panic!("{newer:?} after {known:?}"),
    }
}

type Shared = Arc<watch::Sender<Inbox>>;

/// The receiver. Dropping it kills it.
pub struct Receiver {
    pub address: SocketAddr,
    scheme: &'static str,
    inbox: Shared,
    runtime: Option<Runtime>,
}

impl Receiver {
    /// A gRPC receiver on a free port.
    pub fn grpc() -> Self {
        Self::start(listener(), true, None, "")
    }

    /// An OTLP/HTTP receiver on a free port.
    pub fn http() -> Self {
        Self::http_below("")
    }

    /// The same, at `PREFIX/v1/traces` and `PREFIX/v1/metrics`; all other paths are answered with 404.
    pub fn http_below(prefix: &'static str) -> Self {
        Self::start(listener(), false, None, prefix)
    }

    /// A receiver with TLS that requires a client certificate.
    pub fn tls(grpc: bool, papers: &Papers) -> Self {
        Self::start(listener(), grpc, Some(papers), "")
    }

    fn start(listener: StdListener, grpc: bool, papers: Option<&Papers>, prefix: &'static str) -> Self {
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let inbox = Shared::default();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let entered = runtime.enter();
        let listener = TcpListener::from_std(listener).unwrap();
        if grpc {
            let service = Service(Arc::clone(&inbox));
            let mut server = Server::builder();
            if let Some(papers) = papers {
                server = server.tls_config(papers.tonic()).unwrap();
            }
            let router = server
                .add_service(TraceServiceServer::new(service.clone()).accept_compressed(CompressionEncoding::Gzip))
                .add_service(MetricsServiceServer::new(service).accept_compressed(CompressionEncoding::Gzip));
            runtime.spawn(router.serve_with_incoming(TcpIncoming::from(listener)));
        } else {
            runtime.spawn(http(listener, papers.map(Papers::rustls), Arc::clone(&inbox), prefix));
        }
        drop(entered);
        Self { address, scheme: if papers.is_some() { "https" } else { "http" }, inbox, runtime: Some(runtime) }
    }

    /// The base URL. `localhost` with TLS, since that is the certificate's name.
    pub fn url(&self) -> String {
        match self.scheme {
            "https" => format!("https://localhost:{}", self.address.port()),
            scheme => format!("{scheme}://{}", self.address),
        }
    }

    /// What the next requests for traces meet.
    pub fn script(&self, answers: &[Answer]) {
        self.inbox.send_modify(|inbox| inbox.script.extend(answers));
    }

    /// What the next requests for metrics meet, over gRPC.
    pub fn script_metrics(&self, answers: &[Answer]) {
        self.inbox.send_modify(|inbox| inbox.metrics_script.extend(answers));
    }

    /// Cuts all connections and leaves the port closed.
    pub fn kill(self) -> ClosedPort {
        let address = self.address;
        drop(self);
        ClosedPort::at(address)
    }

    /// Looks at what came.
    pub fn look<T>(&self, at: impl FnOnce(&Inbox) -> T) -> T {
        at(&self.inbox.borrow())
    }

    /// Waits until what came is enough.
    pub fn wait(&self, enough: impl FnMut(&Inbox) -> bool) {
        let mut watch = self.inbox.subscribe();
        block_on(async {
            tokio::time::timeout(PATIENCE, watch.wait_for(enough)).await.expect("it never came").unwrap();
        });
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(PATIENCE);
        }
    }
}

/// Runs a future to its end on this thread.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// A listener on a port that no other receiver of this process has had: the log is the whole process's, and its lines are
/// found by the receiver's address.
pub fn listener() -> StdListener {
    loop {
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        if is_new(listener.local_addr().unwrap()) {
            return listener;
        }
    }
}

fn is_new(address: SocketAddr) -> bool {
    static USED: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    USED.lock().unwrap().insert(address.port())
}

/// A port that is taken, so that no other test gets it, and without a listener: connections are refused.
pub struct ClosedPort(Socket);

impl ClosedPort {
    pub fn take() -> Self {
        loop {
            let closed = Self::at(SocketAddr::from(([127, 0, 0, 1], 0)));
            if is_new(closed.address()) {
                return closed;
            }
        }
    }

    fn at(address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&address.into()).unwrap();
        Self(socket)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Starts a receiver there.
    pub fn open(self, grpc: bool) -> Receiver {
        let address = self.address();
        drop(self);
        Receiver::start(StdListener::bind(address).unwrap(), grpc, None, "")
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap().as_socket().unwrap()
    }
}

/// A port that accepts connections and never sends a byte.
pub struct BlackHole(StdListener);

impl BlackHole {
    pub fn open() -> Self {
        Self(listener())
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.0.local_addr().unwrap())
    }
}

// === gRPC ===

#[derive(Clone)]
struct Service(Shared);

fn grpc_headers<T>(request: &Request<T>) -> HashMap<String, String> {
    let headers = request.metadata().clone().into_headers();
    headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap_or("?").to_owned())).collect()
}

/// What a scripted answer is as a gRPC status, if it is a refusal.
fn refusal(answer: Answer) -> Result<(), Status> {
    match answer {
        Answer::Accept | Answer::Partial(_) => Ok(()),
        Answer::Unavailable => Err(Status::unavailable("later")),
        Answer::Invalid => Err(Status::invalid_argument("never")),
        Answer::Unauthenticated => Err(Status::unauthenticated("who")),
        Answer::Throttled(seconds) => {
            Err(Status::with_details(Code::ResourceExhausted, "slow down", retry_info(seconds).into()))
        }
        Answer::TooLarge => Err(Status::out_of_range("too large")),
    }
}

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let headers = grpc_headers(&request);
        let mut answer = Answer::Accept;
        self.0.send_modify(|inbox| answer = inbox.take_traces(String::new(), headers, request.into_inner()));
        refusal(answer)?;
        Ok(Response::new(match answer {
            Answer::Partial(rejected) => partial(rejected),
            _ => ExportTraceServiceResponse::default(),
        }))
    }
}

#[tonic::async_trait]
impl MetricsService for Service {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let headers = grpc_headers(&request);
        let mut answer = Answer::Accept;
        self.0.send_modify(|inbox| answer = inbox.take_metrics(String::new(), headers, request.into_inner()));
        refusal(answer)?;
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

fn partial(rejected_spans: i64) -> ExportTraceServiceResponse {
    let partial_success = Some(ExportTracePartialSuccess { rejected_spans, error_message: "too old".to_owned() });
    ExportTraceServiceResponse { partial_success }
}

/// A `google.rpc.Status` with a `google.rpc.RetryInfo` (`google/rpc/error_details.proto`), as gRPC carries it.
fn retry_info(seconds: u32) -> Vec<u8> {
    #[derive(Message)]
    struct Details {
        #[prost(int32, tag = "1")]
        code: i32,
        #[prost(message, repeated, tag = "3")]
        details: Vec<Any>,
    }
    #[derive(Message)]
    struct Any {
        #[prost(string, tag = "1")]
        type_url: String,
        #[prost(bytes = "vec", tag = "2")]
        value: Vec<u8>,
    }
    #[derive(Message)]
    struct RetryInfo {
        #[prost(message, tag = "1")]
        delay: Option<Delay>,
    }
    #[derive(Message)]
    struct Delay {
        #[prost(int64, tag = "1")]
        seconds: i64,
        #[prost(int32, tag = "2")]
        nanos: i32,
    }
    let info = RetryInfo { delay: Some(Delay { seconds: seconds.into(), nanos: 0 }) };
    let any = Any { type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(), value: info.encode_to_vec() };
    Details { code: Code::ResourceExhausted.into(), details: vec![any] }.encode_to_vec()
}

// === HTTP ===

async fn http(listener: TcpListener, tls: Option<Arc<ServerConfig>>, inbox: Shared, prefix: &'static str) {
    while let Ok((stream, _)) = listener.accept().await {
        let (inbox, tls) = (Arc::clone(&inbox), tls.clone());
        tokio::spawn(async move {
            // A client that goes away in the middle is no news here.
            drop(match tls {
                None => serve::<TcpStream>(stream, &inbox, prefix).await,
                Some(config) => match TlsAcceptor::from(config).accept(stream).await {
                    Ok(stream) => serve(stream, &inbox, prefix).await,
                    Err(error) => Err(error),
                },
            });
        });
    }
}

/// One connection: request after request, as HTTP/1.1 with a length.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, inbox: &Shared, prefix: &str) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let text = String::from_utf8_lossy(&buffer[..head]).into_owned();
        let mut lines = text.lines();
        let path = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
        let headers: HashMap<_, _> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let length: usize = headers["content-length"].parse().unwrap();
        while buffer.len() < head + length {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
        let mut body = buffer[head..head + length].to_vec();
        // Nobody waits for it: those who do wait for what it holds.
        inbox.send_if_modified(|inbox| {
            inbox.raw.push((path.clone(), body.clone()));
            false
        });
        buffer.drain(..head + length);
        if headers.get("content-encoding").is_some_and(|encoding| encoding == "gzip") {
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(body.as_slice()).read_to_end(&mut plain)?;
            body = plain;
        }
        let (status, more, answer) = take(path, prefix, headers, &body, inbox);
        let head = format!("HTTP/1.1 {status}\r\ncontent-type: application/x-protobuf\r\n{more}");
        stream.write_all(format!("{head}content-length: {}\r\n\r\n", answer.len()).as_bytes()).await?;
        stream.write_all(&answer).await?;
    }
}

fn take(path: String, prefix: &str, headers: Headers, body: &[u8], inbox: &Shared) -> (&'static str, String, Vec<u8>) {
    let plain = |status, body| (status, String::new(), body);
    match path.strip_prefix(prefix) {
        Some("/v1/traces") => {
            let body = ExportTraceServiceRequest::decode(body).unwrap();
            let mut answer = Answer::Accept;
            inbox.send_modify(|inbox| answer = inbox.take_traces(path, headers, body));
            match answer {
                Answer::Accept => plain("200 OK", Vec::new()),
                Answer::Partial(rejected) => plain("200 OK", partial(rejected).encode_to_vec()),
                Answer::Unavailable => plain("503 Service Unavailable", Vec::new()),
                Answer::Invalid => plain("400 Bad Request", Vec::new()),
                Answer::Unauthenticated => plain("401 Unauthorized", Vec::new()),
                Answer::Throttled(seconds) => {
                    ("429 Too Many Requests", format!("retry-after: {seconds}\r\n"), Vec::new())
                }
                Answer::TooLarge => plain("413 Content Too Large", Vec::new()),
            }
        }
        Some("/v1/metrics") => {
            let body = ExportMetricsServiceRequest::decode(body).unwrap();
            inbox.send_modify(|inbox| {
                inbox.metrics.push(Got { path, headers, body, answer: Answer::Accept, at: clock::now() });
            });
            plain("200 OK", Vec::new())
        }
        _ => plain("404 Not Found", Vec::new()),
    }
}

// === TLS ===

/// A private CA, a server certificate for `localhost`, and a client certificate with its key, as files.
pub struct Papers {
    directory: tempfile::TempDir,
    ca: rcgen::Certificate,
    server: rcgen::Certificate,
    server_key: KeyPair,
}

impl Papers {
    pub fn issue() -> Self {
        // Names of their own: OpenSSL takes a certificate whose issuer is its subject for self-signed.
        let named = |name: &str, hosts: Vec<String>| {
            let mut params = CertificateParams::new(hosts).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            params
        };
        let mut params = named("test CA", Vec::new());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&ca_key).unwrap();
        let issuer = Issuer::new(params, ca_key);
        let issue = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let params = named(name, vec![name.to_owned()]);
            (params.signed_by(&key, &issuer).unwrap(), key)
        };
        let (server, server_key) = issue("localhost");
        let (client, client_key) = issue("imaptrace");
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), ca.pem()).unwrap();
        std::fs::write(directory.path().join("client.pem"), client.pem()).unwrap();
        std::fs::write(directory.path().join("client.key"), client_key.serialize_pem()).unwrap();
        Self { directory, ca, server, server_key }
    }

    fn file(&self, name: &str) -> PathBuf {
        Path::new(self.directory.path()).join(name)
    }

    pub fn ca_file(&self) -> PathBuf {
        self.file("ca.pem")
    }

    pub fn client_cert(&self) -> PathBuf {
        self.file("client.pem")
    }

    pub fn client_key(&self) -> PathBuf {
        self.file("client.key")
    }

    fn tonic(&self) -> ServerTlsConfig {
        ServerTlsConfig::new()
            .identity(Identity::from_pem(self.server.pem(), self.server_key.serialize_pem()))
            .client_ca_root(Certificate::from_pem(self.ca.pem()))
    }

    /// The server's side of a handshake.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.rustls().into()
    }

    fn rustls(&self) -> Arc<ServerConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
        let key = PrivateKeyDer::try_from(self.server_key.serialize_der()).unwrap();
        let config = ServerConfig::builder().with_client_cert_verifier(verifier);
        Arc::new(config.with_single_cert(vec![self.server.der().clone()], key).unwrap())
    }
}

// === Runs and log ===

/// A run that passed, with nearly every field.
pub fn passed_run() -> Run {
    serde_json::from_str(imaptrace_testkit::PASSED_RUN).unwrap()
}

/// A run that ended at LOGIN.
pub fn failed_run() -> Run {
    serde_json::from_str(imaptrace_testkit::FAILED_RUN).unwrap()
}

/// The text form of an attribute.
pub fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let value = attributes.iter().find(|one| one.key == key)?.value.clone()?.value?;
    Some(match value {
        any_value::Value::StringValue(text) => text,
        any_value::Value::IntValue(number) => number.to_string(),
        any_value::Value::DoubleValue(number) => number.to_string(),
        any_value::Value::BoolValue(truth) => truth.to_string(),
        other => format!("{other:?}"),
    })
}

/// The log of this process's library. All tests of a binary write to it, so look for what only your test can say.
#[derive(Clone, Default)]
pub struct Log(Arc<watch::Sender<Vec<u8>>>);

impl Log {
    /// Sets the log up once, and gives it.
    pub fn get() -> Self {
        static LOG: OnceLock<Log> = OnceLock::new();
        LOG.get_or_init(|| {
            let log = Self::default();
            let writer = log.clone();
            let settings = LogSettings { format: LogFormat::Json, ..Default::default() };
            tracing::subscriber::set_global_default(subscriber(&settings, move || writer.clone()).unwrap()).unwrap();
            log
        })
        .clone()
    }

    /// The lines that hold this text.
    pub fn lines(&self, text: &str) -> Vec<String> {
        let all = String::from_utf8(self.0.borrow().clone()).unwrap();
        all.lines().filter(|line| line.contains(text)).map(ToOwned::to_owned).collect()
    }

    /// Waits until a line holds this text.
    pub fn wait(&self, text: &str) {
        let mut watch = self.0.subscribe();
        let is_logged = |all: &Vec<u8>| String::from_utf8_lossy(all).contains(text);
        block_on(async {
            tokio::time::timeout(PATIENCE, watch.wait_for(is_logged)).await.expect("it was never logged").unwrap();
        });
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send_modify(|all| all.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

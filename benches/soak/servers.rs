//! The two servers of the soak test: an IMAP server that answers at once, and an OTLP receiver that refuses on request.
//!
//! They run on the caller's runtime, know nothing of imaptrace, and keep ids and counts only. Called by `main`.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, AtomicU64, Ordering},
    },
};

use opentelemetry_proto::tonic::{
    collector::{metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest},
    metrics::v1::{Metric, metric::Data},
};
use prost::Message as _;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

/// An IMAP server with one mailbox of 25 messages, in clear text.
pub struct Imap {
    pub address: SocketAddr,
    /// Sessions that ended with LOGOUT.
    pub sessions: Arc<AtomicU64>,
}

impl Imap {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let sessions = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&sessions);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let counter = Arc::clone(&counter);
                tokio::spawn(async move {
                    // A client that goes away early is no fault of this server.
                    if session(stream).await.is_ok_and(|logged_out| logged_out) {
                        counter.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        Self { address, sessions }
    }
}

/// One session; whether it ended with LOGOUT.
async fn session(mut stream: TcpStream) -> std::io::Result<bool> {
    stream.set_nodelay(true)?;
    let (reader, mut writer) = stream.split();
    writer.write_all(b"* OK [CAPABILITY IMAP4rev1] ready\r\n").await?;
    let mut lines = BufReader::new(reader).lines();
    while let Some(line) = lines.next_line().await? {
        let mut words = line.split_ascii_whitespace();
        let (Some(tag), Some(command)) = (words.next(), words.next()) else { return Ok(false) };
        let untagged = match command {
            "CAPABILITY" => "* CAPABILITY IMAP4rev1\r\n".to_owned(),
            "LIST" => "* LIST () \"/\" INBOX\r\n".to_owned(),
            "SELECT" => "* 25 EXISTS\r\n* OK [UIDVALIDITY 1] ok\r\n".to_owned(),
            "FETCH" => (6..=25)
                .fold(String::new(), |rows, number| rows + &format!("* {number} FETCH (UID {number} FLAGS ())\r\n")),
            "LOGOUT" => "* BYE bye\r\n".to_owned(),
            _ => String::new(),
        };
        writer.write_all(format!("{untagged}{tag} OK done\r\n").as_bytes()).await?;
        if command == "LOGOUT" {
            return Ok(true);
        }
    }
    Ok(false)
}

/// An OTLP/HTTP receiver.
#[derive(Clone)]
pub struct Receiver(Arc<Taken>);

struct Taken {
    address: SocketAddr,
    /// What a request with traces is answered.
    status: AtomicU16,
    /// Root spans that were answered 200, by trace id.
    runs: Mutex<HashSet<Vec<u8>>>,
    /// Requests with traces that were refused.
    refused: AtomicU64,
    /// The agent's own counters, as they were last reported.
    metrics: Mutex<Counts>,
}

/// What the agent counts itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// `imaptrace.scheduler.start_lag`: runs that were started.
    pub started: u64,
    /// `imaptrace.delivery.dropped`: runs that were given up.
    pub dropped: u64,
    /// `imaptrace.log.dropped`: log lines.
    pub log_lines: u64,
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let taken = Arc::new(Taken {
            address: listener.local_addr().unwrap(),
            status: AtomicU16::new(200),
            runs: Mutex::default(),
            refused: AtomicU64::new(0),
            metrics: Mutex::default(),
        });
        let this = Self(taken);
        let serving = this.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let serving = serving.clone();
                tokio::spawn(async move { drop(serving.serve(stream).await) });
            }
        });
        this
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.0.address)
    }

    /// What requests with traces are answered from now on.
    pub fn answer(&self, status: u16) {
        self.0.status.store(status, Ordering::Relaxed);
    }

    /// How many runs were taken, each counted once.
    pub fn runs(&self) -> u64 {
        self.0.runs.lock().unwrap().len() as u64
    }

    pub fn refused_requests(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    pub fn counts(&self) -> Counts {
        *self.0.metrics.lock().unwrap()
    }

    async fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let mut head = String::new();
            let mut length = 0;
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).await? == 0 {
                    return Ok(());
                }
                if line == "\r\n" {
                    break;
                }
                if let Some((name, value)) = line.split_once(':')
                    && name.eq_ignore_ascii_case("content-length")
                {
                    length = value.trim().parse().unwrap();
                }
                head += &line;
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await?;
            let status = if head.starts_with("POST /v1/metrics") { self.metrics(&body) } else { self.traces(&body) };
            let answer =
                format!("HTTP/1.1 {status} x\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n");
            stream.get_mut().write_all(answer.as_bytes()).await?;
        }
    }

    fn traces(&self, body: &[u8]) -> u16 {
        let status = self.0.status.load(Ordering::Relaxed);
        if status != 200 {
            self.0.refused.fetch_add(1, Ordering::Relaxed);
            return status;
        }
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        let roots = scopes.flat_map(|scope| scope.spans).filter(|span| span.parent_span_id.is_empty());
        self.0.runs.lock().unwrap().extend(roots.map(|span| span.trace_id));
        status
    }

    fn metrics(&self, body: &[u8]) -> u16 {
        let request = ExportMetricsServiceRequest::decode(body).unwrap();
        let resources = request.resource_metrics.iter();
        let mut counts = self.0.metrics.lock().unwrap();
        for metric in resources.flat_map(|resource| &resource.scope_metrics).flat_map(|scope| &scope.metrics) {
            let place = match metric.name.as_str() {
                "imaptrace.scheduler.start_lag" => &mut counts.started,
                "imaptrace.delivery.dropped" => &mut counts.dropped,
                "imaptrace.log.dropped" => &mut counts.log_lines,
                _ => continue,
            };
            // These are the agent's own: all series of each stand in one request.
            *place = total(metric).max(*place);
        }
        200
    }
}

/// The sum over a metric's series: of their values, or of a histogram's counts.
fn total(metric: &Metric) -> u64 {
    use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
    match metric.data.as_ref() {
        Some(Data::Histogram(histogram)) => histogram.data_points.iter().map(|point| point.count).sum(),
        Some(Data::Sum(sum)) => {
            let value = |value: &Option<Value>| match value {
                Some(Value::AsInt(value)) => u64::try_from(*value).unwrap_or(0),
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
                Some(Value::AsDouble(value)) => *value as u64,
                None => 0,
            };
            sum.data_points.iter().map(|point| value(&point.value)).sum()
        }
        _ => 0,
    }
}

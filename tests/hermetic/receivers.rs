//! Receivers of OTLP/HTTP that break their own protocol: answers without end, and such as never come to one.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use imaptrace::{
    delivery::{Delivery, Protocol, Settings, Signal},
    record::{Run, SpanId, TraceId},
    telemetry::{MetricsSettings, ResourceSettings},
};

use crate::support::{
    otlp::{Log, block_on, passed_run},
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
}

/// A receiver that gives these answers in turn, and then accepts. It counts the requests that it has read.
struct Receiver {
    url: String,
    requests: Arc<AtomicUsize>,
}

impl Receiver {
    fn start(answers: &[Answer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
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

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    fn delivery(&self, timeout: Duration) -> Delivery {
        Log::get();
        let signal = Signal { timeout, ..Signal::new(&self.url, Protocol::HttpProtobuf) };
        let settings = Settings { traces: Some(signal), ..Settings::default() };
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
        let dropped = || Some(delivery.status().dropped.refused).filter(|refused| *refused > 0);
        assert_eq!(wait_until("it is counted as refused", dropped), 1, "{answer:?}");
        delivery.deliver(fresh_run());
        let report = block_on(delivery.shutdown(LONG));
        assert_eq!((report.delivered_runs, report.dropped_runs), (1, 1), "{answer:?} {report}");
        assert_eq!(receiver.requests(), 2, "{answer:?}: neither was sent twice");
    }
}

#[test]
fn an_acceptance_with_64_mebibytes_of_words_is_an_acceptance() {
    let receiver = Receiver::start(&[Answer::Flood(200)]);
    let delivery = receiver.delivery(Duration::from_secs(10));
    delivery.deliver(fresh_run());
    let report = block_on(delivery.shutdown(LONG));
    assert!(report.is_complete() && report.delivered_runs == 1, "{report}");
    assert_eq!(receiver.requests(), 1);
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

//! The runs of an hour of 1,000 targets a minute, handed to delivery within a minute while no receiver is there, and what
//! of them arrives when one comes.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use imaptrace::{
    clock,
    delivery::{Delivery, DeliverySettings, Protocol, Signal},
    state::StateDir,
    telemetry::{MetricsSettings, ResourceSettings},
};
use imaptrace_record::{Run, Seconds, SpanId, TraceId};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use rand::Rng as _;
use tokio::runtime::Runtime;
use tonic::{Request, Response, Status, transport::Server};

use crate::{MIB, pass, support::program::free_port};

const RUNS: usize = 60_000;
const TIME: Duration = Duration::from_secs(60);
/// What is handed over at once: it is spread over the minute.
const PORTION: usize = 20;
const BUDGET_MIB: f64 = 128.0;
const SPAN_GOAL: f64 = 100.0;

/// Takes all spans and remembers their ids.
#[derive(Clone, Default)]
struct Receiver(Arc<Mutex<HashMap<Vec<u8>, u32>>>);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let scopes = request.into_inner().resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        let mut seen = self.0.lock().unwrap();
        for span in scopes.flat_map(|scope| scope.spans) {
            *seen.entry(span.span_id).or_default() += 1;
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// Plays it and prints what was counted.
pub fn report(directory: &Path) {
    println!("### An hour without the Collector\n");
    let runs: Vec<Run> = std::iter::repeat_with(fresh).take(RUNS).collect();
    let ids: Vec<SpanId> =
        runs.iter().flat_map(|run| run.steps.iter().filter_map(|step| step.span_id).chain([run.span_id])).collect();
    let port = free_port();
    let settings = DeliverySettings {
        traces: Some(Signal::new(&format!("http://127.0.0.1:{port}"), Protocol::Grpc)),
        state: Some(StateDir::open(&directory.join("outage")).unwrap()),
        ..DeliverySettings::default()
    };
    let delivery = Delivery::start(&settings, &ResourceSettings::default(), &MetricsSettings::default()).unwrap();
    eprintln!("{RUNS} runs in {} s, and nobody takes them", TIME.as_secs());
    let begin = clock::now();
    let portions = u32::try_from(RUNS / PORTION).unwrap();
    for (number, portion) in (0..).zip(runs.chunks(PORTION)) {
        for run in portion {
            delivery.deliver(run.clone());
        }
        let due = begin + TIME * (number + 1) / portions;
        pass(due.saturating_duration_since(clock::now()));
    }
    pass(Duration::from_secs(1));
    let held = delivery.status();
    eprintln!("the receiver comes");
    let (runtime, receiver) = (Runtime::new().unwrap(), Receiver::default());
    let service = TraceServiceServer::new(receiver.clone());
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    runtime.spawn(Server::builder().add_service(service).serve(address));
    let begin = clock::now();
    while delivery.status().queued_runs > 0 && clock::now() - begin < 5 * TIME {
        pass(Duration::from_millis(100));
    }
    let took = clock::now() - begin;
    let report = runtime.block_on(delivery.shutdown(Duration::from_secs(5)));
    let seen = receiver.0.lock().unwrap();
    let missing = ids.iter().filter(|id| !seen.contains_key(id.to_bytes().as_slice())).count();
    let doubled = seen.values().filter(|times| **times > 1).count();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let (disk, spans) = (held.disk_bytes.unwrap() as f64, ids.len() as f64);
    println!(
        "| runs | spans | on disk, MiB | a span, B | in memory, MiB | given up | spans missing | spans twice | until all was there, s |"
    );
    println!("|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    #[expect(clippy::cast_precision_loss, reason = "a budget of memory")]
    let memory = held.memory_bytes as f64 / MIB;
    println!(
        "| {RUNS} | {} | {:.1} | {:.1} | {memory:.1} | {} | {missing} | {doubled} | {:.1} |",
        ids.len(),
        disk / MIB,
        disk / spans,
        report.dropped.total(),
        took.as_secs_f64(),
    );
    let met = missing == 0 && disk / MIB <= BUDGET_MIB && disk / spans <= SPAN_GOAL;
    let verdict = if met { "met" } else { "**missed**" };
    println!("\nGoal: none missing within {BUDGET_MIB:.0} MiB, at most {SPAN_GOAL:.0} B a span: {verdict}.\n");
}

/// A run like others, with ids and times of its own.
fn fresh() -> Run {
    let mut run: Run = serde_json::from_str(imaptrace_testkit::PASSED_RUN).unwrap();
    let mut random = rand::rng();
    run.trace_id = TraceId::random();
    run.span_id = SpanId::random();
    run.target = format!("mail{:03}.example.org", random.random_range(0..1_000));
    for step in &mut run.steps {
        // A skipped step has no span.
        step.span_id = step.span_id.map(|_| SpanId::random());
        let times = [&mut step.first_byte_s, &mut step.server_s, &mut step.network_s, &mut step.transfer_s];
        for time in times.into_iter().flatten().chain([&mut step.duration_s]) {
            *time = Seconds::from_micros(time.as_micros() + random.random_range(0..1_000));
        }
    }
    run
}

//! Ways that no program can make on loopback alone: no route, a router that says no, and a host without a port left.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use imaptrace::plan::{Security, Target};
use imaptrace_record::{ErrorType, Run, RunOutcome, StepName};

use crate::support::{
    net::{
        line::{Line, SERVER},
        namespace::Namespace,
    },
    run::{run, target},
};

/// A host that is nowhere (RFC 5737).
const NOWHERE: &str = "192.0.2.1";

fn to(address: &str) -> Target {
    target(SocketAddr::new(address.parse::<IpAddr>().unwrap(), 143), Security::None)
}

fn failed(run: &Run) -> (RunOutcome, Option<ErrorType>, Option<&str>) {
    (run.outcome, run.error_type, run.failed_step.as_ref().map(StepName::as_str))
}

#[test]
fn a_host_without_a_route_is_unreachable() {
    let alone = Namespace::new();
    for address in [NOWHERE, "2001:db8::1"] {
        let run = alone.wait_for(|| run(to(address)));
        let unreachable = (RunOutcome::Failed, Some(ErrorType::ConnectUnreachable), Some("connect"));
        assert_eq!(failed(&run), unreachable, "{address}");
    }
}

#[test]
fn an_answer_of_no_route_ends_the_attempt_at_once() {
    let line = Line::new(Duration::from_millis(1));
    line.client.command(&format!("ip route add {NOWHERE} via {SERVER}"));
    line.server.enter(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap());
    line.server.command(&format!("ip route add unreachable {NOWHERE}"));
    let run = line.client.wait_for(|| run(to(NOWHERE)));
    assert_eq!(failed(&run), (RunOutcome::Failed, Some(ErrorType::ConnectUnreachable), Some("connect")));
    let step = run.failing_step().unwrap();
    assert!(step.duration_s < Target::clone(&to(NOWHERE)).deadlines.connect.into(), "it did not wait for its deadline");
}

#[test]
fn a_host_without_a_free_local_port_makes_the_run_void() {
    let alone = Namespace::new();
    let listener = alone.listen("127.0.0.1");
    let address = listener.local_addr().unwrap();
    alone.enter(|| fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40001").unwrap());
    // Both are taken, towards this server.
    let _held = alone.enter(|| [(); 2].map(|()| std::net::TcpStream::connect(address).unwrap()));
    let run = alone.wait_for(|| run(target(address, Security::None)));
    assert_eq!(failed(&run), (RunOutcome::Void, Some(ErrorType::OverloadPort), Some("connect")));
}

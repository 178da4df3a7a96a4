//! Ways to a server that are half broken: one family that leads nowhere, all that do, and what is said before TLS.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    time::Duration,
};

use imaptrace::{
    net::Family,
    plan::{Host, ProxyProtocol, Security, Target},
};
use imaptrace_record::{ConnectAttempt, ErrorType, Run, RunOutcome, StepOutcome};

use crate::{
    names::GOOD,
    support::{
        names::{NO_ERROR, NameServer},
        run::{hasty, run, run_over, steps, target},
        script::{Pem, Script},
    },
};

fn attempts(run: &Run) -> &[ConnectAttempt] {
    &run.steps.iter().find(|step| step.name == "connect").unwrap().connect.as_ref().unwrap().attempts
}

#[cfg(target_os = "linux")]
mod dropped {
    use socket2::{Domain, Socket, Type};

    use super::*;

    /// A port whose packets go nowhere: its queue is full, so the kernel drops each SYN without a word.
    struct Hole {
        address: SocketAddr,
        _listener: Socket,
        _filler: std::net::TcpStream,
    }

    impl Hole {
        /// At this address; none when the port is taken.
        fn at(address: SocketAddr) -> Option<Self> {
            let listener = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
            listener.bind(&address.into()).ok()?;
            // A queue of 0 holds one.
            listener.listen(0).unwrap();
            let address = listener.local_addr().unwrap().as_socket().unwrap();
            let filler = std::net::TcpStream::connect(address).unwrap();
            Some(Self { address, _listener: listener, _filler: filler })
        }
    }

    fn v6(port: u16) -> SocketAddr {
        (Ipv6Addr::LOCALHOST, port).into()
    }

    /// A server at 127.0.0.1, and a hole at the same port of `::1`.
    fn half() -> (TcpListener, Hole) {
        for _ in 0..100 {
            let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            if let Some(hole) = Hole::at(v6(server.local_addr().unwrap().port())) {
                return (server, hole);
            }
        }
        panic!("no port is free on both 127.0.0.1 and ::1; this test needs IPv6 on loopback");
    }

    fn named(port: u16) -> Target {
        let mut target = target((Ipv4Addr::LOCALHOST, port).into(), Security::None);
        target.endpoint.host = Host::parse("mail.example.test").unwrap();
        target
    }

    async fn both_families() -> NameServer {
        let addresses: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        NameServer::start(move |question| vec![question.answer(NO_ERROR, &addresses)]).await
    }

    #[tokio::test]
    async fn an_ipv6_that_leads_nowhere_costs_one_attempt_and_is_on_record() {
        let (listener, hole) = half();
        let port = hole.address.port();
        let _server = Script::play_on(listener, GOOD, None, Box::new(|_| {}));
        let names = both_families().await;
        let run = run_over(named(port), names.dns(), Family::Any).await;
        assert_eq!(run.outcome, RunOutcome::Passed, "{}", steps(&run));
        let [lost, won] = attempts(&run) else { panic!("{:?}", attempts(&run)) };
        assert_eq!((lost.peer, lost.outcome), (hole.address, StepOutcome::Skipped), "still waiting when the other won");
        assert_eq!((won.peer.ip(), won.outcome), (IpAddr::from(Ipv4Addr::LOCALHOST), StepOutcome::Passed));
        // RFC 8305 §5: alone for 250 ms, and no more than that is lost.
        let alone = won.start_s.saturating_sub(lost.start_s);
        assert!(alone >= Duration::from_millis(250).into(), "{alone:?}");
        assert!(lost.duration_s >= alone);
    }

    #[tokio::test]
    async fn ipv6_alone_without_an_ipv6_route_is_an_error_that_names_it() {
        let (listener, hole) = half();
        let port = hole.address.port();
        let _server = Script::play_on(listener, GOOD, None, Box::new(|_| {}));
        let names = both_families().await;
        let hurried = |target: Target| Target { deadlines: hasty(), ..target };
        let run = run_over(hurried(named(port)), names.dns(), Family::V6).await;
        assert_eq!(
            (run.error_type, steps(&run).as_str()),
            (Some(ErrorType::TimeoutConnect), "resolve connect!timeout_connect")
        );
        let [lost] = attempts(&run) else { panic!("{:?}", attempts(&run)) };
        assert_eq!((lost.peer, lost.error_type), (hole.address, Some(ErrorType::TimeoutConnect)));
        let run = run_over(named(port), names.dns(), Family::V4).await;
        assert_eq!((run.outcome, attempts(&run).len()), (RunOutcome::Passed, 1));
    }

    #[tokio::test]
    async fn a_packet_that_is_dropped_everywhere_is_a_timeout_and_a_port_that_says_no_beside_it_is_a_refusal() {
        let hole = Hole::at((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let mut silent = target(hole.address, Security::None);
        silent.deadlines = hasty();
        let run_ = run(silent).await;
        assert_eq!(
            (run_.error_type, steps(&run_).as_str()),
            (Some(ErrorType::TimeoutConnect), "connect!timeout_connect")
        );
        // Of two reasons the one that says more: a clear no from IPv6, silence from IPv4.
        let names = both_families().await;
        let mut half = named(hole.address.port());
        half.deadlines = hasty();
        let run_ = run_over(half, names.dns(), Family::Any).await;
        let details: Vec<_> = attempts(&run_).iter().map(|attempt| attempt.error_type).collect();
        assert_eq!(details, [Some(ErrorType::ConnectRefused), Some(ErrorType::TimeoutConnect)]);
        assert_eq!(run_.error_type, Some(ErrorType::ConnectRefused));
    }
}

#[tokio::test]
async fn a_proxy_header_goes_out_first_and_once_and_only_on_request() {
    let pem = Pem::self_signed(&["127.0.0.1"], 2020, 2040);
    let ca = pem.ca_file();
    for security in [Security::None, Security::Tls] {
        let tls = if security == Security::Tls { "tls\n" } else { "" };
        for (version, header) in
            [(Some(ProxyProtocol::V1), "C: PROXY TCP4\n"), (Some(ProxyProtocol::V2), "c: 28\n"), (None, "")]
        {
            let server = Script::play_with(&format!("{header}{tls}{GOOD}"), &pem).await;
            let port = server.address.port();
            let mut target = target(server.address, security);
            target.proxy_protocol = version;
            target.tls.ca_file = Some(ca.path().into());
            let run = run(target).await;
            assert_eq!(run.outcome, RunOutcome::Passed, "{security:?} {version:?}: {}", steps(&run));
            let local = run.server.local.unwrap().port();
            let heard = server.heard().await;
            match version {
                Some(ProxyProtocol::V1) => {
                    assert_eq!(heard[0], format!("PROXY TCP4 127.0.0.1 127.0.0.1 {local} {port}"));
                }
                Some(ProxyProtocol::V2) => assert!(heard[0].contains("QUIT"), "{:?}", heard[0]),
                None => assert!(heard[0].ends_with("LIST \"\" \"*\""), "{:?}", heard[0]),
            }
            assert!(!heard[1..].iter().any(|line| line.contains("PROXY")), "{heard:?}");
        }
    }
}

//! OTLP by way of a proxy: only when it is asked for, by one rule, and without its credentials in any output.

use std::time::Duration;

use imaptrace::{
    delivery::{Delivery, DeliverySettings, Header, HttpProxy, Protocol, Signal},
    telemetry::{MetricsSettings, ResourceSettings},
};
use imaptrace_record::{Run, SpanId, TraceId};

use crate::{
    agent::{lines, otlp, runtime, start, stop, target},
    command_line::refusing,
    support::{
        otlp::{ClosedPort, Log, Papers, Receiver, block_on, passed_run},
        program::{Output, Program},
        tunnel::{
            Reception::{Answer, Open},
            Tunnel,
        },
    },
};

const BOTH: [Protocol; 2] = [Protocol::Grpc, Protocol::HttpProtobuf];
const LONG: Duration = Duration::from_secs(20);

/// "me:planted-pass", as Basic authentication has it.
const BASIC: &str = "bWU6cGxhbnRlZC1wYXNz";

fn deliver(signal: Signal) -> imaptrace::delivery::Report {
    Log::get();
    let settings = DeliverySettings { traces: Some(signal), ..DeliverySettings::default() };
    let delivery = Delivery::start(&settings, &ResourceSettings::default(), &MetricsSettings::default()).unwrap();
    delivery.deliver(Run { trace_id: TraceId::random(), span_id: SpanId::random(), ..passed_run() });
    block_on(delivery.shutdown(LONG))
}

fn receiver(protocol: Protocol) -> Receiver {
    if protocol == Protocol::Grpc { Receiver::grpc() } else { Receiver::http() }
}

/// This receiver, by way of this proxy, with a header that the proxy is not to see.
fn through(tunnel: &Tunnel, url: &str, protocol: Protocol) -> Signal {
    let path = if protocol == Protocol::Grpc { "" } else { "/v1/traces" };
    let mut signal = Signal::new(&format!("{url}{path}"), protocol);
    signal.headers.push(Header::new("x-token", "planted-token"));
    signal.proxy = Some(HttpProxy::new("127.0.0.1", tunnel.address.port(), Some("me:planted-pass")));
    signal
}

#[test]
fn both_protocols_go_through_a_tunnel_with_tls_and_without_and_each_side_gets_its_own_credentials() {
    let papers = Papers::issue();
    for protocol in BOTH {
        for tls in [false, true] {
            let receiver = if tls { Receiver::tls(protocol == Protocol::Grpc, &papers) } else { receiver(protocol) };
            let tunnel = Tunnel::start(&[Open(receiver.address)]);
            let mut signal = through(&tunnel, &receiver.url(), protocol);
            if tls {
                signal.ca_file = Some(papers.ca_file());
                signal.client_cert = Some(papers.client_cert());
                signal.client_key = Some(papers.client_key());
            }
            let report = deliver(signal);
            assert!(report.is_complete() && report.delivered_runs == 1, "{protocol:?} {tls} {report}");
            let place = receiver.url().split_once("://").unwrap().1.to_owned();
            let expected =
                format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\nProxy-Authorization: Basic {BASIC}\r\n\r\n");
            assert_eq!(tunnel.heads(), [expected]);
            receiver.look(|inbox| {
                let headers = &inbox.traces[0].headers;
                assert_eq!(headers["x-token"], "planted-token");
                assert!(!headers.contains_key("proxy-authorization"), "{headers:?}");
            });
        }
    }
}

#[test]
fn an_error_of_the_proxy_is_distinguished_from_one_of_the_receiver_and_the_batch_is_kept() {
    for (answer, says) in [
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
            "does not accept the user and password",
        ),
        ("HTTP/1.1 403 Forbidden\r\n\r\n<html>no", "HTTP 403, which is the proxy's answer"),
        ("HTTP/1.0 502 Bad Gateway\r\n\r\n", "HTTP 502, which is the proxy's answer"),
        ("HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n", "HTTP 302, which is the proxy's answer"),
        ("HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP 400, which is the proxy's answer"),
        ("SSH-2.0-OpenSSH\r\n\r\n", "something else than HTTP: is it an HTTP proxy?"),
        ("\u{5}\u{1}", "something else than HTTP"),
        ("HTTP/1.1 twohundred\r\n\r\n", "something else than HTTP"),
        ("HTTP/1.1 200 OK\r\n", "closes the connection after CONNECT"),
        ("", "closes the connection after CONNECT"),
    ] {
        for protocol in BOTH {
            let receiver = receiver(protocol);
            let tunnel = Tunnel::start(&[Answer(answer), Open(receiver.address)]);
            let port = tunnel.address.port();
            let report = deliver(through(&tunnel, &receiver.url(), protocol));
            assert!(report.is_complete() && report.delivered_runs == 1, "{answer:?} {protocol:?} {report}");
            let details = Log::get().lines(&format!("the proxy http://127.0.0.1:{port} "));
            assert_eq!(details.len(), 1, "{answer:?} {details:?}");
            assert!(details[0].contains(says), "{details:?}");
        }
    }
    assert_eq!([Log::get().lines("planted-"), Log::get().lines(BASIC)], [Vec::<String>::new(), Vec::new()]);
}

#[test]
fn a_proxy_that_wants_credentials_and_gets_none_says_where_to_write_them() {
    let tunnel = Tunnel::start(&[Answer("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")]);
    let mut signal = through(&tunnel, "http://127.0.0.1:1", Protocol::HttpProtobuf);
    signal.proxy = Some(HttpProxy::new("127.0.0.1", tunnel.address.port(), None));
    let reason = deliver(signal).reason.unwrap();
    assert!(reason.contains("asks for a user and a password (HTTP 407): write them into its URL"), "{reason}");
    assert!(tunnel.heads().iter().all(|head| !head.contains("Authorization")));
}

#[test]
fn each_failure_on_the_way_through_a_proxy_names_it() {
    for protocol in BOTH {
        let (closed, gone) = (ClosedPort::take(), ClosedPort::take());
        let mut signal = through(&Tunnel::start(&[Answer("")]), &gone.url(), protocol);
        let place = closed.url().rsplit_once(':').unwrap().1.parse().unwrap();
        signal.proxy = Some(HttpProxy::new("127.0.0.1", place, Some("me:planted-pass")));
        let reason = deliver(signal).reason.unwrap();
        assert_eq!(reason, format!("the proxy {} cannot be reached: Connection refused (os error 111)", closed.url()));

        // The receiver's own refusal, by way of the proxy.
        let receiver = receiver(protocol);
        receiver.script(&[crate::support::otlp::Answer::Unauthenticated; 9]);
        let tunnel = Tunnel::start(&[Open(receiver.address)]);
        let reason = deliver(through(&tunnel, &receiver.url(), protocol)).reason.unwrap();
        let way = format!("check the OTLP headers (by way of the proxy http://{})", tunnel.address);
        assert!(reason.ends_with(&way), "{reason}");
    }
}

// === The rule, from configuration and environment ===

/// `probe` with this environment; the mail server is not there.
fn probe(endpoint: &str, protocol: &str, environment: &[(&str, &str)]) -> Output {
    let (_held, port) = runtime().block_on(async { refusing() });
    let url = format!("imap://me@{port}");
    let flags = ["--security", "none", "--otlp-endpoint", endpoint, "--otlp-protocol", protocol];
    let program = Program::new(["probe", &url].into_iter().chain(flags)).env("IMAPTRACE_PASSWORD", "x");
    let program = environment.iter().fold(program, |program, (name, value)| program.env(name, value));
    let output = block_on(program.run());
    assert!(!format!("{output:?}").contains("planted"), "{output:?}");
    output
}

#[test]
fn the_environments_proxy_is_used_when_the_key_says_so_and_never_for_this_host() {
    for protocol in ["grpc", "http/protobuf"] {
        let receiver = if protocol == "grpc" { Receiver::grpc() } else { Receiver::http() };
        let tunnel = Tunnel::start(&[Open(receiver.address)]);
        let url = format!("http://me:planted@{}", tunnel.address);
        let environment = |name| [(name, url.as_str()), ("IMAPTRACE__OTLP__PROXY", "environment")];
        // Unless the key says so, none is used; straight on there is nothing under this name.
        let far = "http://otel.example.invalid:4318";
        for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy"] {
            for here in [receiver.url(), receiver.url().replace("127.0.0.1", "localhost")] {
                for environment in [&environment(name)[..1], &environment(name)] {
                    let before = receiver.look(|inbox| inbox.traces.len());
                    let output = probe(&here, protocol, environment);
                    assert!(!output.stderr.contains("not delivered"), "{name} {output:?}");
                    assert_eq!(receiver.look(|inbox| inbox.traces.len()), before + 1, "{name}");
                }
            }
        }
        probe(far, protocol, &environment("HTTP_PROXY")[..1]);
        assert_eq!(tunnel.heads(), Vec::<String>::new(), "{protocol}");

        let before = receiver.look(|inbox| inbox.traces.len());
        for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
            let output = probe(far, protocol, &environment(name));
            assert!(!output.stderr.contains("not delivered"), "{name} {output:?}");
        }
        assert_eq!(receiver.look(|inbox| inbox.traces.len()), before + 4);
        assert!(tunnel.heads().iter().all(|head| head.starts_with("CONNECT otel.example.invalid:4318 HTTP/1.1\r\n")));
        assert_eq!(tunnel.heads().len(), 4);
        let no_proxy = [&environment("HTTP_PROXY")[..], &[("NO_PROXY", "example.invalid")]].concat();
        probe(far, protocol, &no_proxy);
        assert_eq!(tunnel.heads().len(), 4);
    }
}

#[test]
fn a_proxy_in_the_configuration_carries_traces_and_metrics_of_an_agent_and_no_other_signal_goes_astray() {
    let receiver = Receiver::http();
    let tunnel = Tunnel::start(&[Open(receiver.address)]);
    let runtime = runtime();
    let proxy = format!("proxy = \"http://me:planted-pass@{}\"\n", tunnel.address);
    let log = runtime.block_on(async {
        let (_held, port) = refusing();
        let otlp = otlp("http://otel.example.invalid:4318", "http/protobuf")
            .replace("[metrics]", &format!("{proxy}[metrics]"));
        let mut agent = start(&(otlp + &target("one", port, "200ms", "150ms")));
        agent.stderr_line("a run did not pass").await;
        stop(agent, nix::sys::signal::Signal::SIGTERM).await.1
    });
    assert!(lines(&log, "all telemetry was delivered").len() == 1, "{log:?}");
    assert!(receiver.look(|inbox| !inbox.traces.is_empty() && !inbox.metrics.is_empty()));
    assert!(tunnel.heads().len() >= 2, "{:?}", tunnel.heads());
    assert!(log.iter().all(|line| !line.to_string().contains("planted")), "{log:?}");
}

fn check(otlp: &str, environment: &[(&str, &str)]) -> Output {
    let program = Program::new(["check", "--config", "imaptrace.toml"]).env("PROBE", "x");
    std::fs::write(
        program.home().join("imaptrace.toml"),
        format!("{otlp}\n{}", target("one", "mail.example", "1m", "30s")),
    )
    .unwrap();
    let program = environment.iter().fold(program, |program, (name, value)| program.env(name, value));
    let output = block_on(program.run());
    assert!(!format!("{output:?}").contains("planted"), "{output:?}");
    output
}

#[test]
fn check_names_the_proxy_of_each_signal_and_refuses_what_is_none() {
    let far = "[otlp]\nendpoint = \"https://otel.example:4317\"\n";
    let environment = [("HTTPS_PROXY", "http://me:planted@proxy.example:3128")];
    for (more, environment, traces, metrics) in [
        ("", &[][..], "proxy none", "proxy none"),
        (
            "",
            &environment,
            "proxy none (HTTPS_PROXY is set and is not used)",
            "proxy none (HTTPS_PROXY is set and is not used)",
        ),
        (
            "proxy = \"environment\"\n[otlp.metrics]\nproxy = \"none\"\n",
            &environment,
            "proxy http://proxy.example:3128 (HTTPS_PROXY)",
            "proxy none (HTTPS_PROXY is set and is not used)",
        ),
        (
            "proxy = \"http://me:planted@[fd00::1]:8080/\"\n[otlp.metrics]\nendpoint = \"http://localhost:4318\"\n",
            &[],
            "proxy http://[fd00::1]:8080",
            "proxy none (the receiver is on this host)",
        ),
    ] {
        let output = check(&format!("{far}{more}"), environment);
        assert_eq!(output.code, Some(0), "{output:?}");
        // A variable that is passed over is a matter for a warning unless the key says that it is meant.
        let warnings =
            output.stderr.matches("HTTPS_PROXY is set and is not used: OTLP goes straight to its receiver").count();
        assert_eq!(warnings, usize::from(more.is_empty() && !environment.is_empty()), "{output:?}");
        for (signal, way) in [("traces", traces), ("metrics", metrics)] {
            let line =
                output.stdout.lines().find(|line| line.trim_start().starts_with(&format!("{signal} to"))).unwrap();
            assert!(line.ends_with(way), "{line}");
        }
    }
    for (proxy, environment, says) in [
        ("socks5://me:planted@proxy:1080", &[][..], "2:9: otlp.proxy: a proxy by socks5:// is not supported"),
        ("https://me:planted@proxy:1080", &[], "otlp.proxy: a proxy by https:// is not supported"),
        ("proxy.example:3128", &[], "otlp.proxy: it is neither a URL nor one of the words for it"),
        ("Environment", &[], "otlp.proxy: it is neither a URL nor one of the words for it"),
        ("http://me:planted@proxy:planted", &[], "otlp.proxy: its URL cannot be read"),
        (
            "environment",
            &[("all_proxy", "socks5h://me:planted@proxy:1080")],
            "otlp.proxy: the variable all_proxy cannot be used: a proxy by socks5h:// is not supported",
        ),
    ] {
        // What is wrong is wrong wherever the receiver is, but the environment is not looked at for this host.
        let host = if proxy == "environment" { "otel.example" } else { "localhost" };
        let output = check(&format!("[otlp]\nproxy = \"{proxy}\"\nendpoint = \"http://{host}:4318\"\n"), environment);
        assert_eq!(output.code, Some(2), "{proxy} {output:?}");
        assert!(output.stderr.contains(says.trim_start_matches("2:9: ")), "{proxy} {output:?}");
    }
}

//! What Prometheus gets at a scrape, against the figures that `imaptrace check` gives beforehand.

use std::{collections::BTreeSet, os::unix::fs::PermissionsExt as _};

use imaptrace::config::{self, Sources};
use nix::sys::signal::Signal;

use crate::support::{
    backends::{Backends, everything_switched_on},
    dovecot::{Dovecot, Options, USER1},
    program::{Program, wait_until},
};

/// What only a failed, slow or skipped run has: on a busy machine there may be one.
const OCCASIONAL: [&str; 6] = [
    "error_type=\"",
    "status_code=\"STATUS_CODE_ERROR\"",
    "span_name=\"wait\"",
    "imaptrace_probe_slow_total{",
    "imaptrace_probe_skipped_total{",
    "imaptrace_delivery_dropped_total{",
];

/// Samples of a scrape by what makes them: imaptrace's own metrics, the span metrics, and all others by name; and how many of
/// the first two are occasional.
fn counted(scrape: &str) -> (u64, u64, BTreeSet<String>, [u64; 2]) {
    let mut others = BTreeSet::new();
    let (mut own, mut spans, mut occasional) = (0, 0, [0; 2]);
    for line in scrape.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let is_occasional = u64::from(OCCASIONAL.iter().any(|sign| line.contains(sign)));
        if name.starts_with("imap_") || name.starts_with("imaptrace_") {
            own += 1;
            occasional[0] += is_occasional;
        } else if name.starts_with("traces_span_metrics_") {
            spans += 1;
            occasional[1] += is_occasional;
        } else {
            others.insert(line.split(['}', ' ']).next().unwrap().to_owned());
        }
    }
    (own, spans, others, occasional)
}

/// A server that answers all commands, two accounts of one target, and runs that pass. `metrics`: keys of `[metrics]`;
/// `absent`: samples that are reckoned with and not there.
async fn scraped_and_reckoned(metrics: &str, absent: u64) {
    let start = || Backends::start_with(&everything_switched_on());
    let backends = tokio::task::spawn_blocking(start).await.unwrap();
    let server = Dovecot::start(&Options::default());
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("password");
    std::fs::write(&secret, USER1.1).unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let (user, secret) = (USER1.0, secret.display());
    let text = format!(
        "[otlp]\nendpoint = \"{}\"\nprotocol = \"http/protobuf\"\n[metrics]\nexport_interval = \"1s\"\n\
         {metrics}\n[defaults]\ninterval = \"1s\"\ntimeout = \"900ms\"\n[http]\nlisten = \"off\"\n\
         [[targets]]\nname = \"mail01\"\nurl = \"imaps://localhost:{}\"\nca_file = \"{}\"\naddress = \"v4\"\n\
         user = \"{user}\"\npassword = {{ file = \"{secret}\" }}\n\
         [[targets.accounts]]\nname = \"second\"\nuser = \"{user}\"\npassword = {{ file = \"{secret}\" }}\n",
        backends.otlp_http(),
        server.tls,
        server.ca.display(),
    );
    let path = directory.path().join("imaptrace.toml");
    std::fs::write(&path, text).unwrap();
    let config = config::load(&Sources { file: Some(path.clone()), ..Sources::default() }).unwrap();
    let (own, spans) = (config::samples(&config), config::span_samples(&config));
    let check = Program::new(["check", "--config", path.to_str().unwrap()]).run().await;
    for said in [
        format!("up to {} while all runs pass, {} with failures (limit", own.passing, own.failing),
        format!("up to {} and {} more\n", spans.passing, spans.failing),
    ] {
        assert!(check.stdout.contains(&said), "{check:?}");
    }

    let agent = Program::new(["agent", "--config", path.to_str().unwrap()]).start();
    // What Dovecot says of its capabilities by itself is not asked for: the target lacks one span of those reckoned with.
    let own_expected = own.passing - absent;
    let spans_expected = spans.passing - config::SPAN_SAMPLES;
    let (backends, scraped) = tokio::task::spawn_blocking(move || {
        let mut last = (0, 0);
        let scraped = wait_until("all series are there", || {
            let (own, spans, others, occasional) = counted(&backends.scrape());
            let agent = others.iter().filter(|other| other.contains("service_version")).count() as u64;
            let (own, settled) = (own + agent, (own + agent, spans) == last);
            last = (own, spans);
            let all = own >= own_expected + occasional[0] && spans >= spans_expected + occasional[1];
            (settled && all).then_some((own, spans, others, occasional))
        });
        (backends, scraped)
    })
    .await
    .unwrap();
    agent.signal(Signal::SIGTERM);
    agent.finish().await;
    tokio::task::spawn_blocking(move || drop(backends)).await.unwrap();
    let (own_scraped, spans_scraped, others, occasional) = scraped;
    let seen = format!("{own_scraped} and {spans_scraped} samples, {occasional:?} of them occasional: {others:?}");
    assert_eq!(own_scraped - occasional[0], own_expected, "{seen}");
    assert_eq!(spans_scraped - occasional[1], spans_expected, "{seen}");
    assert!(own_scraped <= own.failing && spans_scraped <= spans.failing, "{seen}");
    assert!(others.iter().all(|other| other.starts_with("target_info")), "{others:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_has_as_many_samples_as_check_says() {
    scraped_and_reckoned("detail = \"standard\"", 0).await;
}

/// What Dovecot says of its capabilities by itself is not asked for: each account lacks one command's duration and both
/// directions of its bytes.
#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_has_as_many_samples_as_check_says_in_full_too() {
    scraped_and_reckoned("detail = \"full\"", 2 * (config::EXPLICIT_SAMPLES + 2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_has_as_many_samples_as_check_says_with_exponential_histograms_too() {
    scraped_and_reckoned("histogram = \"exponential\"", 0).await;
}

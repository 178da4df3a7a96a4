//! Runs the journey through the library, with a plan made by hand.

use std::{net::SocketAddr, time::Duration};

use imaptrace::{
    net::Family,
    plan::{
        Account, AddressChoice, Auth, Deadlines, Dns, Endpoint, Host, Journey, Limits, Mailbox, Open, Propagation,
        Security, TagStyle, Target, Timing, TlsOptions, UserName, Window,
    },
    probe::{Ids, Job, Prober, TargetContext},
    secret::SecretSource,
};
use imaptrace_imap::Secret;
use imaptrace_record::{Run, SpanId, TraceId};
use tokio::sync::watch;

/// A target on loopback with short deadlines; tests change what they are about.
pub fn target(address: SocketAddr, security: Security) -> Target {
    Target {
        name: "test".into(),
        group: None,
        endpoint: Endpoint { host: Host::Address(address.ip()), port: address.port() },
        security,
        tls: TlsOptions::default(),
        accounts: vec![account("someone", "secret")],
        labels: std::collections::BTreeMap::new(),
        journey: Journey {
            mailbox: Mailbox::new("INBOX").unwrap(),
            open: Open::Select,
            newest: 20,
            window: Window::Newest,
            allow_empty: false,
            cold: false,
            auth: Auth::Auto,
            tag: TagStyle::SpanId,
            propagate: Propagation::Off,
        },
        interval: Duration::from_secs(60),
        deadlines: Deadlines::default(),
        limits: Limits::default(),
        timing: Timing::default(),
        address: AddressChoice::Any,
        source_address: None,
        proxy_protocol: None,
    }
}

pub fn account(user: &str, password: &str) -> Account {
    Account {
        alias: "default".into(),
        user: UserName::new(user).unwrap(),
        master_user: None,
        password: SecretSource::Given(Secret::new(password.into())),
        own: None,
    }
}

/// Every deadline this short: for servers that fall silent.
pub fn hasty() -> Deadlines {
    let short = Duration::from_millis(150);
    Deadlines {
        run: Duration::from_secs(10),
        resolve: short,
        connect: short,
        tls: short,
        greeting: short,
        command: short,
        write: short,
        logout: short,
    }
}

pub fn prepare(target: Target) -> TargetContext {
    TargetContext::new(target).unwrap()
}

pub async fn run(target: Target) -> Run {
    run_prepared(&prepare(target)).await
}

pub async fn run_prepared(target: &TargetContext) -> Run {
    let (_keep, cancel) = watch::channel(false);
    run_with(target, Dns::default(), cancel).await
}

pub async fn run_with(target: &TargetContext, dns: Dns, cancel: watch::Receiver<bool>) -> Run {
    run_as(target, dns, Family::Any, cancel).await
}

/// Over the addresses of one family.
pub async fn run_over(target: Target, dns: Dns, family: Family) -> Run {
    let (_keep, cancel) = watch::channel(false);
    run_as(&prepare(target), dns, family, cancel).await
}

/// As an agent does that knows how many messages the mailbox usually holds.
pub async fn run_usually(target: Target, messages: u64) -> Run {
    let (_keep, cancel) = watch::channel(false);
    run_job(&prepare(target), Dns::default(), Family::Any, Some(messages), cancel).await
}

async fn run_as(target: &TargetContext, dns: Dns, family: Family, cancel: watch::Receiver<bool>) -> Run {
    run_job(target, dns, family, None, cancel).await
}

async fn run_job(
    target: &TargetContext,
    dns: Dns,
    family: Family,
    usual_messages: Option<u64>,
    cancel: watch::Receiver<bool>,
) -> Run {
    let prober = Prober::new(dns);
    let ids = Ids { trace: TraceId::random(), root: SpanId::random(), parent: None };
    let account = &target.target().accounts[0];
    let secret = account.password.load().await;
    let job = Job { target, account, family, ids, start_lag: None, secret, usual_messages, hold_login: None };
    prober.run(job, cancel).await
}

/// The run's steps in one line: `name`, `name!class` for a failed one, `name-` for a skipped one.
pub fn steps(run: &Run) -> String {
    use imaptrace_record::StepOutcome;
    let word = |step: &imaptrace_record::Step| match step.outcome {
        StepOutcome::Passed => step.name.to_string(),
        StepOutcome::Skipped => format!("{}-", step.name),
        StepOutcome::Failed => {
            format!("{}!{}", step.name, step.error_type.map_or("?", imaptrace_record::ErrorType::as_str))
        }
    };
    run.steps.iter().map(word).collect::<Vec<_>>().join(" ")
}

//! The effective plan in words, for `check`: everything that a run will go by, secrets and user names hidden.
//!
//! Reads a [`Config`] and nothing else. Called by the command line.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    num::NonZeroU32,
};

use imaptrace_imap::CommandName;

use crate::{
    config::{
        Config, Exporter, samples, series,
        sources::units::{print_duration as time, print_size as size},
        span_samples,
    },
    latency,
    plan::{Hours, NameResolver, Open, Per, ProxyProtocol, RunLimits, TagStyle, Target, Timing, Window},
    secret::{SecretSource, shown_variable},
    telemetry::logs::LogFormat,
};

/// So many targets, groups, windows and accounts of one target are shown, each with all its facts.
const SHOWN: usize = 500;

/// The plan as text, one fact a line, ending with a line end.
pub fn describe(config: &Config) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut text, config);
    text
}

fn write(out: &mut String, config: &Config) -> fmt::Result {
    let accounts: usize = config.targets.iter().map(|target| target.accounts.len()).sum();
    writeln!(out, "targets: {}, accounts: {accounts}", config.targets.len())?;
    let groups: BTreeSet<_> = config.targets.iter().filter_map(|target| target.group.as_ref()).collect();
    writeln!(out, "groups: {}, maintenance windows: {}", groups.len(), config.windows.len())?;
    writeln!(out, "metric series: about {} (limit {})", series(config), config.metrics.series.series_limit)?;
    let (own, spans) = (samples(config), span_samples(config));
    writeln!(
        out,
        "samples in each scrape of Prometheus: up to {} while all runs pass, {} with failures",
        own.passing, own.failing
    )?;
    writeln!(out, "  the span metrics of otel-collector.yaml: up to {} and {} more", spans.passing, spans.failing)?;
    write_pace(out, &config.limits)?;
    let alone = || config.targets.iter().filter(|target| target.group.is_none());
    for target in alone().take(SHOWN) {
        writeln!(out, "\ntarget {}", target.name)?;
        write_target(out, target)?;
    }
    write_more(out, alone().count(), "targets")?;
    write_groups(out, &config.targets)?;
    write_windows(out, config)?;
    writeln!(out, "\nexport")?;
    write_exporter(out, "traces", config.otlp.traces.as_ref())?;
    write_exporter(out, "metrics", config.otlp.metrics.as_ref())?;
    let kept = &config.metrics.series;
    let histogram = if kept.exponential { "exponential" } else { "explicit" };
    let per = match config.metrics.per {
        Per::Target => "target",
        Per::Group => "group",
    };
    writeln!(
        out,
        "  metrics per {per} every {}, histograms {histogram}, timing {}, labels {}",
        time(config.metrics.export_interval),
        on(kept.timing),
        joined(kept.labels.iter().cloned()),
    )?;
    writeln!(out, "  service.name {:?}", config.resource.service_name.as_deref().unwrap_or("imaptrace"))?;
    writeln!(out, "  service.instance.id {}", config.resource.instance.as_deref().unwrap_or("(the host's name)"))?;
    for (key, value) in &config.resource.attributes {
        writeln!(out, "  {} {value:?}", key.escape_debug())?;
    }
    write_latency(out, &config.latency, config.timing)?;
    writeln!(out, "\nagent")?;
    let format = match config.agent.log_format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    writeln!(out, "  log {format}, from level {}", config.agent.log_level.as_str())?;
    let servers = if config.dns.servers.is_empty() {
        "the system's".to_owned()
    } else {
        joined(config.dns.servers.iter().map(ToString::to_string))
    };
    match config.dns.resolver {
        NameResolver::Builtin => {
            writeln!(out, "  resolver builtin, name servers {servers}, cache {}", on(config.dns.cache))?;
        }
        NameResolver::System => writeln!(out, "  resolver system: getaddrinfo, as nsswitch.conf says")?,
    }
    if !config.dns.deny.is_empty() {
        let kinds = config.dns.deny.iter().map(|kind| kind.as_str().to_owned());
        writeln!(out, "  no name may lead to an address that is {}", joined(kinds))?;
    }
    let state = &config.state;
    match &state.dir {
        Some(path) => writeln!(out, "  state in {}", path.display())?,
        None => writeln!(out, "  state nowhere: baselines start empty at each start")?,
    }
    let disk = if state.dir.is_some() { size(state.queue_disk) } else { "none".to_owned() };
    writeln!(out, "  runs to deliver: {} in memory, on disk {disk}", size(state.queue_memory))?;
    match config.http.listen {
        Some(address) => writeln!(
            out,
            "  http on {address}, {} runs and as many failed ones kept for each account",
            config.http.history
        ),
        None => writeln!(out, "  http off"),
    }
}

fn write_pace(out: &mut String, limits: &RunLimits) -> fmt::Result {
    let logins = |limit: Option<NonZeroU32>| limit.map_or_else(|| "no limit".to_owned(), |limit| limit.to_string());
    writeln!(out, "runs in flight: at most {}, on one server {}", limits.in_flight, limits.in_flight_per_server)?;
    writeln!(
        out,
        "logins per second: {}, on one server {}; a run waits {} for its turn",
        logins(limits.logins_per_second),
        logins(limits.logins_per_second_per_server),
        time(limits.wait),
    )
}

/// Each group with what its first target comes to: the others differ by little more than their names.
fn write_groups(out: &mut String, targets: &[Target]) -> fmt::Result {
    let mut groups: BTreeMap<&str, Vec<&Target>> = BTreeMap::new();
    for target in targets {
        if let Some(group) = &target.group {
            groups.entry(group).or_default().push(target);
        }
    }
    let count = groups.len();
    for (name, members) in groups.into_iter().take(SHOWN) {
        let (Some(first), Some(last)) = (members.first(), members.last()) else { continue };
        if members.len() == 1 {
            writeln!(out, "\ngroup {name}: 1 target, {}", first.name)?;
        } else {
            writeln!(
                out,
                "\ngroup {name}: {} targets, from {} to {}; the first one:",
                members.len(),
                first.name,
                last.name
            )?;
        }
        write_target(out, first)?;
    }
    write_more(out, count, "groups")
}

/// The line in place of entries that are left out.
fn write_more(out: &mut String, count: usize, what: &str) -> fmt::Result {
    match count.checked_sub(SHOWN) {
        Some(more @ 1..) => writeln!(out, "\n… and {more} more {what}"),
        _ => Ok(()),
    }
}

fn write_windows(out: &mut String, config: &Config) -> fmt::Result {
    if !config.windows.is_empty() {
        writeln!(out, "\nwindows")?;
    }
    for window in config.windows.iter().take(SHOWN) {
        let count = config.targets.iter().filter(|target| window.scope.holds(target)).count();
        write!(out, "  {}: ", window.name)?;
        match &window.hours {
            Hours::Once { from, to } => write!(out, "once, {from} to {to}")?,
            Hours::Weekly { days, from, to, zone } => {
                let days = match days.len() {
                    7 => "every day".to_owned(),
                    _ => joined(days.iter().map(|day| format!("{day:?}"))),
                };
                let to = to.map_or_else(|| "24:00".to_owned(), |to| to.strftime("%H:%M").to_string());
                let zone = zone.iana_name().unwrap_or("UTC");
                write!(out, "{days}, {} to {to}, {zone}", from.strftime("%H:%M"))?;
            }
        }
        writeln!(out, "; targets: {count}")?;
    }
    write_more(out, config.windows.len(), "windows")
}

fn write_latency(out: &mut String, latency: &latency::Settings, timing: Timing) -> fmt::Result {
    writeln!(out, "\nlatency")?;
    writeln!(
        out,
        "  slow past {} x the baseline and {} over it, after {} runs",
        latency.slow_ratio,
        time(latency.slow_excess),
        latency.min_runs,
    )?;
    let every = latency.slow_limit.map(|limit| format!("any step {}", time(limit)));
    let each = latency.slow_limits.iter().map(|(step, limit)| format!("{step} {}", time(*limit)));
    writeln!(out, "  slow past a limit: {}", joined(every.into_iter().chain(each)))?;
    writeln!(out, "  kernel stamps {}, quickack {}", on(timing.kernel_stamps), on(timing.quickack))
}

fn write_target(out: &mut String, target: &Target) -> fmt::Result {
    write!(out, "  server      {}, security {}", target.endpoint, target.security.as_str())?;
    write!(out, ", address {}", target.address.as_str())?;
    if let Some(source) = target.source_address {
        write!(out, " from {source}")?;
    }
    match target.proxy_protocol {
        None => writeln!(out)?,
        Some(ProxyProtocol::V1) => writeln!(out, ", PROXY protocol v1")?,
        Some(ProxyProtocol::V2) => writeln!(out, ", PROXY protocol v2")?,
    }
    write_tls(out, target)?;
    for account in target.accounts.iter().take(SHOWN) {
        let master = if account.master_user.is_some() { " of a master user" } else { "" };
        writeln!(out, "  account     {}, password{master} {}", account.alias, place(&account.password))?;
    }
    if target.accounts.len() > SHOWN {
        writeln!(out, "  … and {} more accounts", target.accounts.len() - SHOWN)?;
    }
    if !target.labels.is_empty() {
        writeln!(out, "  labels      {}", joined(target.labels.iter().map(|(key, value)| format!("{key}={value:?}"))))?;
    }
    let journey = &target.journey;
    let open = match journey.open {
        Open::Select => CommandName::Select,
        Open::Examine => CommandName::Examine,
    };
    let auth = journey.auth.as_str();
    let tag = match journey.tag {
        TagStyle::SpanId => "span_id",
        TagStyle::Short => "short",
    };
    let window = match journey.window {
        Window::Newest => "newest",
        Window::Random => "random",
    };
    writeln!(
        out,
        "  journey     {}: {open} {:?}, newest {}, window {window}, cold {}, auth {auth}, tag {tag}",
        journey.name(),
        journey.mailbox.as_str(),
        journey.newest,
        on(journey.cold),
    )?;
    let deadlines = &target.deadlines;
    writeln!(out, "  interval    {}, timeout {}", time(target.interval), time(deadlines.run))?;
    writeln!(
        out,
        "  deadlines   resolve {}, connect {}, tls {}, greeting {}, command {}, write {}, logout {}",
        time(deadlines.resolve),
        time(deadlines.connect),
        time(deadlines.tls),
        time(deadlines.greeting),
        time(deadlines.command),
        time(deadlines.write),
        time(deadlines.logout),
    )?;
    let limits = &target.limits;
    writeln!(
        out,
        "  limits      line {}, command {}, run {}, responses {}, depth {}, literal kept {}",
        size(limits.line as u64),
        size(limits.command_bytes),
        size(limits.session_bytes),
        limits.responses,
        limits.depth,
        size(limits.literal_kept as u64),
    )
}

fn write_tls(out: &mut String, target: &Target) -> fmt::Result {
    let tls = &target.tls;
    let mut facts = Vec::new();
    if tls.insecure {
        facts.push("certificate NOT checked".to_owned());
    }
    if !tls.alpn {
        facts.push("no ALPN".to_owned());
    }
    facts.extend(tls.server_name.as_ref().map(|name| format!("server name {name}")));
    facts.extend(tls.ca_file.as_ref().map(|path| format!("roots from {}", path.display())));
    facts.extend(tls.client_cert.as_ref().map(|path| format!("client certificate {}", path.display())));
    facts.extend(tls.client_key.as_ref().map(|path| format!("client key {}", path.display())));
    if facts.is_empty() { Ok(()) } else { writeln!(out, "  tls         {}", facts.join(", ")) }
}

fn write_exporter(out: &mut String, signal: &str, exporter: Option<&Exporter>) -> fmt::Result {
    let Some(exporter) = exporter else { return writeln!(out, "  {signal} nowhere") };
    write!(
        out,
        "  {signal} to {} by {}, timeout {}, compression {}",
        exporter.endpoint,
        exporter.protocol.as_str(),
        time(exporter.timeout),
        exporter.compression.as_str(),
    )?;
    write!(out, ", {}", exporter.route)?;
    let files = [
        ("roots from", &exporter.ca_file),
        ("client certificate", &exporter.client_cert),
        ("client key", &exporter.client_key),
    ];
    for (what, path) in files {
        if let Some(path) = path {
            write!(out, ", {what} {}", path.display())?;
        }
    }
    if !exporter.headers.is_empty() {
        let headers = exporter.headers.iter().map(|(name, source)| format!("{name} {}", place(source)));
        write!(out, ", headers: {}", joined(headers))?;
    }
    writeln!(out)
}

/// Where a secret is. Of a command only the program: its arguments may be secrets.
fn place(source: &SecretSource) -> String {
    match source {
        SecretSource::File { path, .. } => format!("from file {}", path.display()),
        SecretSource::Env(name) => format!("from variable {}", shown_variable(name)),
        SecretSource::Command(argv) => format!("from command {:?}", argv.first().map_or("", String::as_str)),
        SecretSource::Credential(name) => format!("from credential {name}"),
        SecretSource::Given(_) => "given (hidden)".to_owned(),
        SecretSource::Exact(source) => format!("{}, exact", place(source)),
        SecretSource::Nowhere => "not needed".to_owned(),
    }
}

fn on(switch: bool) -> &'static str {
    if switch { "on" } else { "off" }
}

fn joined(words: impl Iterator<Item = String>) -> String {
    let words: Vec<String> = words.collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

//! Prints the effective settings, for `check`. Secrets and user names are hidden. Called by `cli`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    num::NonZeroU32,
    path::PathBuf,
};

use crate::{
    config::{
        Config, Exporter, SampleEstimate, samples,
        settings::{
            metrics::{DETAIL, HISTOGRAM, TEMPORALITY},
            otlp::COMPRESSION,
        },
        sources::units::{print_duration as time, print_size as size},
        span_samples,
    },
    discovery::{HttpCredentials, SourceKind, TargetSource},
    latency,
    plan::{AccountOptions, Choice, Deadlines, Hours, Journey, NameResolver, RunLimits, Target, Timing},
    process_accounting::MailLog,
    secret::{SecretSource, shown_variable},
    server_events::ServerEventsSettings,
};

/// The targets, groups, windows and accounts of a target that are printed.
const SHOWN: usize = 500;

/// The settings as lines of text.
pub fn describe(config: &Config) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut text, config);
    text
}

fn write(out: &mut String, config: &Config) -> fmt::Result {
    let accounts: usize = config.targets.iter().map(|target| target.accounts.len()).sum();
    writeln!(out, "targets: {}, accounts: {accounts}", config.targets.len())?;
    if let Some(shard) = config.shard {
        writeln!(out, "  of shard {shard}; targets of other shards: {}", config.other_targets)?;
    }
    let groups: BTreeSet<_> = config.targets.iter().filter_map(|target| target.group.as_ref()).collect();
    writeln!(out, "groups: {}, maintenance windows: {}", groups.len(), config.windows.len())?;
    let SampleEstimate { passing, failing } = samples(config);
    write!(out, "series in Prometheus, each a sample in every scrape: up to {passing} while all runs pass, ")?;
    writeln!(out, "{failing} with failures (limit {})", config.metrics.series.series_limit)?;
    let SampleEstimate { passing, failing } = span_samples(config);
    writeln!(out, "  span_metrics in otel-collector.yaml, if switched on: up to {passing} and {failing} more")?;
    let rules = if config.metrics.series.exponential { "rules-exponential" } else { "rules" };
    writeln!(out, "  rules for these histograms: deploy/prometheus/{rules}")?;
    write_run_limits(out, &config.limits)?;
    let alone = || config.targets.iter().filter(|target| target.group.is_none());
    for target in alone().take(SHOWN) {
        writeln!(out, "\ntarget {}", target.name)?;
        write_target(out, target)?;
    }
    write_more(out, alone().count(), "targets")?;
    write_groups(out, &config.targets)?;
    write_sources(out, &config.sources)?;
    write_windows(out, config)?;
    writeln!(out, "\nexport")?;
    write_exporter(out, "traces", config.otlp.traces.as_ref())?;
    write_exporter(out, "metrics", config.otlp.metrics.as_ref())?;
    let (metrics, kept) = (&config.metrics, &config.metrics.series);
    writeln!(
        out,
        "  metrics per {} every {}, detail {}, histograms {}{}, timing {}, labels {}",
        metrics.per.word(),
        time(metrics.export_interval),
        word(DETAIL, kept.detail),
        word(HISTOGRAM, kept.exponential),
        metrics.temporality.map(|it| format!(", temporality {}", word(TEMPORALITY, it))).unwrap_or_default(),
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
    if !config.agent.labels.is_empty() {
        let labels = config.agent.labels.iter().map(|(key, value)| format!("{key}={value:?}"));
        writeln!(out, "  labels {}", joined(labels))?;
    }
    if config.agent.copies > 1 {
        writeln!(out, "  copies {}: so many agents probe each target", config.agent.copies)?;
    }
    writeln!(out, "  log {}, from level {}", config.agent.log_format.word(), config.agent.log_level.word())?;
    let servers = if config.dns.servers.is_empty() {
        "the system's".to_owned()
    } else {
        joined(config.dns.servers.iter().map(ToString::to_string))
    };
    match config.dns.resolver {
        NameResolver::Builtin => {
            writeln!(out, "  resolver builtin, name servers {servers}, cache {}", on(config.dns.cache))?;
        }
        NameResolver::System => writeln!(out, "  resolver system: getaddrinfo, as in nsswitch.conf")?,
    }
    if !config.dns.deny.is_empty() {
        let kinds = config.dns.deny.iter().map(|kind| kind.word().to_owned());
        writeln!(out, "  no name may lead to an address that is {}", joined(kinds))?;
    }
    let state = &config.state;
    match &state.dir {
        Some(path) => writeln!(out, "  state in {}", path.display())?,
        None => writeln!(out, "  state nowhere: baselines start empty at each start")?,
    }
    let disk = if state.dir.is_some() { size(state.queue_disk) } else { "none".to_owned() };
    writeln!(out, "  runs to deliver: {} in memory, on disk {disk}", size(state.queue_memory))?;
    let runs = config.http.history;
    match config.http.listen {
        Some(address) => {
            writeln!(out, "  http on {address}, {runs} runs and as many failed ones kept for each account")?;
        }
        None => writeln!(out, "  http off")?,
    }
    write_server_events(out, config)
}

fn write_server_events(out: &mut String, config: &Config) -> fmt::Result {
    let events = &config.server_events;
    let Some(address) = events.listen else {
        writeln!(out, "  server events off")?;
        write_accounting(out, events)?;
        return write_forwarding(out, events);
    };
    let tls = if events.cert.is_some() { "TLS" } else { "clear text" };
    writeln!(out, "\nserver events on {address}, {tls}; a run waits {} for them", time(events.wait))?;
    writeln!(out, "  service.name {:?}", events.service_name)?;
    for fact in named(["", "certificate", "key"], [&None, &events.cert, &events.key]) {
        writeln!(out, "  {fact}")?;
    }
    write_accounting(out, events)?;
    write_forwarding(out, events)?;
    for sender in events.senders.iter().take(SHOWN) {
        let from = match &sender.from[..] {
            [] => "any address".to_owned(),
            networks => joined(networks.iter().map(ToString::to_string)),
        };
        write!(out, "  sender {}: secret {}, from {from}", sender.name, place(&sender.secret))?;
        let count = config.targets.iter().filter(|target| sender.may_report(&target.name)).count();
        if events.forward.is_some() { writeln!(out) } else { writeln!(out, "; targets: {count}") }?;
    }
    write_more(out, events.senders.len(), "senders")
}

fn write_accounting(out: &mut String, events: &ServerEventsSettings) -> fmt::Result {
    let Some(accounting) = &events.accounting else { return Ok(()) };
    let log = match &accounting.mail_log {
        MailLog::File(path) => path.display().to_string(),
        MailLog::Journal => "the journal".to_owned(),
    };
    let users = joined(accounting.users.iter().map(|user| user.as_str().to_owned()));
    writeln!(out, "  processes of Dovecot on this host: sessions of {users}, by the logins in {log}")
}

fn write_forwarding(out: &mut String, events: &ServerEventsSettings) -> fmt::Result {
    let Some(forward) = &events.forward else { return Ok(()) };
    let name = forward.name.as_deref().unwrap_or("this host's name");
    writeln!(out, "  forwarded to {} as {name}: secret {}", forward.endpoint, place(&forward.secret))?;
    for fact in named(["roots from", "", ""], [&forward.ca_file, &None, &None]) {
        writeln!(out, "  {fact}")?;
    }
    Ok(())
}

fn write_run_limits(out: &mut String, limits: &RunLimits) -> fmt::Result {
    let logins = |limit: Option<NonZeroU32>| limit.map_or_else(|| "no limit".to_owned(), |limit| limit.to_string());
    writeln!(out, "runs in flight: at most {}, on one server {}", limits.in_flight, limits.in_flight_per_server)?;
    let [all, one] = [limits.logins_per_second, limits.logins_per_second_per_server].map(logins);
    let wait = time(limits.wait);
    writeln!(out, "logins per second: {all}, on one server {one}; a run waits {wait} for its turn")
}

/// Each group with its first target: the others differ by little more than their names.
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
        match members.len() {
            1 => writeln!(out, "\ngroup {name}: 1 target, {}", first.name)?,
            count => {
                let (first, last) = (&first.name, &last.name);
                writeln!(out, "\ngroup {name}: {count} targets, from {first} to {last}; the first one:")?;
            }
        }
        write_target(out, first)?;
    }
    write_more(out, count, "groups")
}

/// What an agent would ask for targets; nothing of a URL's query.
fn write_sources(out: &mut String, sources: &[TargetSource]) -> fmt::Result {
    if !sources.is_empty() {
        writeln!(out, "\nsources of targets, which an agent asks")?;
    }
    for TargetSource { id, kind, hosts, refresh, shrink } in sources.iter().take(SHOWN) {
        let hosts = joined(hosts.iter().map(|glob| glob.as_str().to_owned()));
        let (shrink, every) = (if *shrink { "may shrink" } else { "may not shrink by half" }, time(*refresh));
        let what = if matches!(kind, SourceKind::Srv) { "SRV records of " } else { "" };
        writeln!(out, "  {what}{}: group {}, hosts {hosts}, every {every}, {shrink}", id.name, id.group)?;
        if let SourceKind::Http(http) = kind {
            let credentials = match &http.credentials {
                None => "no credentials".to_owned(),
                Some(HttpCredentials::Basic { user, password }) => format!("user {user}, password {}", place(password)),
                Some(HttpCredentials::Bearer(token)) => format!("bearer token {}", place(token)),
            };
            write!(out, "    timeout {}, {credentials}", time(http.timeout))?;
            for fact in named(["roots from", "", ""], [&http.ca_file, &None, &None]) {
                write!(out, ", {fact}")?;
            }
            writeln!(out)?;
        }
    }
    write_more(out, sources.len(), "sources")
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
        let count = config
            .targets
            .iter()
            .filter(|target| target.probed().any(|(_, probed)| window.scope.contains(&probed)))
            .count();
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
    let (ratio, excess, runs) = (latency.slow_ratio, time(latency.slow_excess), latency.min_runs);
    writeln!(out, "  slow past {ratio} x the baseline and {excess} over it, after {runs} runs")?;
    let every = latency.slow_limit.map(|limit| format!("any step {}", time(limit)));
    let each = latency.slow_limits.iter().map(|(step, limit)| format!("{step} {}", time(*limit)));
    writeln!(out, "  slow past a limit: {}", joined(every.into_iter().chain(each)))?;
    writeln!(out, "  kernel stamps {}, quickack {}", on(timing.kernel_stamps), on(timing.quickack))
}

fn write_target(out: &mut String, target: &Target) -> fmt::Result {
    write!(out, "  server      {}, security {}", target.endpoint, target.security.as_str())?;
    write!(out, ", address {}", target.address.word())?;
    if let Some(source) = target.source_address {
        write!(out, " from {source}")?;
    }
    if target.proxy_protocol.is_some() {
        write!(out, ", PROXY protocol {}", target.proxy_protocol.word())?;
    }
    writeln!(out)?;
    write_tls(out, target)?;
    for account in target.accounts.iter().take(SHOWN) {
        let master = if account.master_user.is_some() { " of a master user" } else { "" };
        writeln!(out, "  account     {}, password{master} {}", account.alias, place(&account.password))?;
        if let Some(own) = &account.own {
            write_own(out, target, own)?;
        }
    }
    if target.accounts.len() > SHOWN {
        writeln!(out, "  … and {} more accounts", target.accounts.len() - SHOWN)?;
    }
    write_labels(out, "  labels      ", &target.labels)?;
    write_journey(out, "  journey     ", &target.journey)?;
    let Deadlines { run, resolve, connect, tls, greeting, command, write, logout } = target.deadlines;
    let [resolve, connect, tls, greeting] = [resolve, connect, tls, greeting].map(time);
    let [command, write, logout] = [command, write, logout].map(time);
    writeln!(out, "  interval    {}, timeout {}", time(target.interval), time(run))?;
    write!(out, "  deadlines   resolve {resolve}, connect {connect}, tls {tls}, greeting {greeting}, ")?;
    writeln!(out, "command {command}, write {write}, logout {logout}")?;
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

fn write_labels(out: &mut String, begin: &str, labels: &BTreeMap<String, String>) -> fmt::Result {
    if labels.is_empty() {
        return Ok(());
    }
    writeln!(out, "{begin}{}", joined(labels.iter().map(|(key, value)| format!("{key}={value:?}"))))
}

fn write_journey(out: &mut String, begin: &str, journey: &Journey) -> fmt::Result {
    writeln!(
        out,
        "{begin}{}: {} {:?}, newest {}, window {}, cold {}, auth {}, tag {}, propagate {}, empty mailbox {}",
        journey.name(),
        journey.open.word().to_ascii_uppercase(),
        journey.mailbox.as_str(),
        journey.newest,
        journey.window.word(),
        on(journey.cold),
        journey.auth.word(),
        journey.tag.word(),
        journey.propagate.word(),
        if journey.allow_empty { "allowed" } else { "fails" },
    )
}

/// Options in which an account differs from its target.
fn write_own(out: &mut String, target: &Target, own: &AccountOptions) -> fmt::Result {
    if own.labels != target.labels {
        write_labels(out, "    labels    ", &own.labels)?;
    }
    if own.journey != target.journey {
        write_journey(out, "    journey   ", &own.journey)?;
    }
    if (own.interval, own.timeout) != (target.interval, target.deadlines.run) {
        writeln!(out, "    interval  {}, timeout {}", time(own.interval), time(own.timeout))?;
    }
    Ok(())
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
    facts.extend(files([&tls.ca_file, &tls.client_cert, &tls.client_key]));
    if facts.is_empty() { Ok(()) } else { writeln!(out, "  tls         {}", facts.join(", ")) }
}

/// The files of TLS that are set.
fn files(paths: [&Option<PathBuf>; 3]) -> impl Iterator<Item = String> {
    named(["roots from", "client certificate", "client key"], paths)
}

fn named(names: [&'static str; 3], paths: [&Option<PathBuf>; 3]) -> impl Iterator<Item = String> {
    names.into_iter().zip(paths).filter_map(|(name, path)| Some(format!("{name} {}", path.as_ref()?.display())))
}

fn write_exporter(out: &mut String, signal: &str, exporter: Option<&Exporter>) -> fmt::Result {
    let Some(exporter) = exporter else { return writeln!(out, "  {signal} nowhere") };
    let compression = word(COMPRESSION, exporter.gzip);
    write!(
        out,
        "  {signal} to {} by {}, timeout {}, compression {compression}, {}",
        exporter.endpoint,
        exporter.protocol.as_str(),
        time(exporter.timeout),
        exporter.route,
    )?;
    for fact in files([&exporter.ca_file, &exporter.client_cert, &exporter.client_key]) {
        write!(out, ", {fact}")?;
    }
    if !exporter.headers.is_empty() {
        let headers = exporter.headers.iter().map(|(name, source)| format!("{name} {}", place(source)));
        write!(out, ", headers: {}", joined(headers))?;
    }
    writeln!(out)
}

/// The source of a secret. Of a command only the program: its arguments may be secrets.
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

fn word<T: PartialEq + Copy>(words: &[(&'static str, T)], value: T) -> &'static str {
    words.iter().find(|(_, known)| *known == value).map_or("", |(word, _)| word)
}

fn joined(words: impl Iterator<Item = String>) -> String {
    let words: Vec<String> = words.collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

//! The tables that are no target and no exporter: `[agent]`, `[metrics]`, `[latency]`, `[limits]`, `[dns]`, `[state]`,
//! `[http]`.
//!
//! Plain values; nothing is done with them here. Called by `load` and `probe`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use super::{
    Resource, keys, misplaced,
    problem::nearest,
    read::{Field, Table},
    units::print_size,
};
use crate::plan::{AddressKind, Dns, Limits, NameResolver, Per, RunLimits, Target, Timing};

/// The agent itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// `service.instance.id`; none stands for the host's name.
    pub instance: Option<String>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// The least level that is logged.
    pub log_level: LogLevel,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The least level that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Only what needs an action.
    Error,
    /// And what may need one.
    Warn,
    /// And changes of state.
    Info,
    /// And every step.
    Debug,
}

impl LogLevel {
    /// The word in the configuration, which `tracing` understands too.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

/// What metrics look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// Labels of targets that metrics bear; traces bear all.
    pub labels: BTreeSet<String>,
    /// What a series is for.
    pub per: Per,
    /// A configuration with more series than this is refused.
    pub series_limit: u64,
    /// How often metrics are exported.
    pub export_interval: Duration,
    /// Which buckets histograms have.
    pub histogram: Histogram,
    /// Whether the parts of each command's time are a metric too.
    pub timing: bool,
}

impl Metrics {
    /// How often metrics are exported unless set.
    pub const EXPORT_INTERVAL: Duration = Duration::from_secs(15);
}

/// When a step is slow, and how times are taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Latency {
    /// No verdict before this many passed runs.
    pub min_runs: u32,
    /// Slow is past this many times the baseline …
    pub slow_ratio: f64,
    /// … and at least this long over it,
    pub slow_excess: Duration,
    /// or past this, whatever the baseline,
    pub slow_limit: Option<Duration>,
    /// or past the limit for the step of this name, which beats the one for all.
    pub slow_limits: BTreeMap<String, Duration>,
    /// How times are taken.
    pub timing: Timing,
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            min_runs: 20,
            slow_ratio: 3.0,
            slow_excess: Duration::from_millis(10),
            slow_limit: None,
            slow_limits: BTreeMap::new(),
            timing: Timing::default(),
        }
    }
}

/// What outlives the agent, and how much of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Where it is; none keeps nothing.
    pub dir: Option<PathBuf>,
    /// Bytes of finished runs that wait in memory.
    pub queue_memory: u64,
    /// Bytes of finished runs that wait in `dir`.
    pub queue_disk: u64,
}

/// What the agent tells of itself over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http {
    /// Where it listens; none does not.
    pub listen: Option<SocketAddr>,
    /// The last runs kept for each account, and as many failed ones.
    pub history: usize,
}

impl Http {
    /// Where it listens unless told: nobody else can reach it there. All ports from 9100 to 9999 belong to exporters of
    /// Prometheus.
    pub const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8143);
    /// For `probe`, which tells nobody.
    pub(super) const OFF: Self = Self { listen: None, history: 0 };
}

/// Which buckets histograms have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Histogram {
    /// The fixed ones of the documentation.
    Explicit,
    /// Base-2 exponential ones.
    Exponential,
}

/// Reads `[agent]`. `service.instance.id` moves from the resource to the agent.
pub(super) fn read_agent(table: &Table<'_>, resource: &mut Resource) -> Agent {
    let attribute = resource.attributes.iter().position(|(key, _)| key == "service.instance.id");
    let attribute = attribute.map(|index| resource.attributes.remove(index).1);
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let levels =
        [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug].map(|level| (level.as_str(), level));
    Agent {
        instance: table.get("instance").and_then(|field| field.text()).or(attribute),
        log_format: table.get("log_format").and_then(|field| field.choice(&formats)).unwrap_or(LogFormat::Text),
        log_level: table.get("log_level").and_then(|field| field.choice(&levels)).unwrap_or(LogLevel::Info),
    }
}

/// More runs, at once or in a second, are more than one agent can do.
const MOST_RUNS: u64 = 100_000;
/// RFC 9051 §4 wants 8192 octets of a line to be taken, and some greetings and capabilities need a good part of 1 KiB.
/// A line is held in memory, once for each run in flight.
const LINE: RangeInclusive<u64> = 1 << 10..=16 << 20;
/// The answer to LIST of a large account is some 64 KiB. What is counted and dropped costs no memory: more is no danger.
const RECEIVED: RangeInclusive<u64> = 64 << 10..=1 << 40;
/// A mailbox of some folders answers LIST with as many responses.
const RESPONSES: RangeInclusive<u64> = 100..=1_000_000_000;
/// The rows that are asked for nest 2 deep, an ENVELOPE that nobody asked for 4.
const DEPTH: RangeInclusive<u64> = 8..=1_000;
/// Held in memory, like a line.
const KEPT: RangeInclusive<u64> = 64..=1 << 20;

/// Reads `[limits]`: what holds for each run, and how many there may be.
pub(super) fn read_limits(table: &Table<'_>) -> (Limits, RunLimits) {
    let standard = Limits::default();
    let size = |key, bounds| table.get(key).and_then(|field| field.size_within(bounds));
    let bytes = |key, bounds| size(key, bounds).and_then(|size| usize::try_from(size).ok());
    let number = |key, least, most| table.get(key).and_then(|field| field.number(least, most));
    let depth = number("depth", *DEPTH.start(), *DEPTH.end()).and_then(|depth| depth.try_into().ok());
    let limits = Limits {
        line: bytes("line", &LINE).unwrap_or(standard.line),
        command_bytes: size("command_bytes", &RECEIVED).unwrap_or(standard.command_bytes),
        run_bytes: size("run_bytes", &RECEIVED).unwrap_or(standard.run_bytes),
        responses: number("responses", *RESPONSES.start(), *RESPONSES.end()).unwrap_or(standard.responses),
        depth: depth.unwrap_or(standard.depth),
        literal_kept: bytes("literal_kept", &KEPT).unwrap_or(standard.literal_kept),
    };
    if limits.run_bytes < limits.command_bytes {
        let what = format!(
            "a run is cut at {} and so never comes to what one command may bring, {}",
            print_size(limits.run_bytes),
            print_size(limits.command_bytes)
        );
        let key = if table.has("run_bytes") { "run_bytes" } else { "command_bytes" };
        table.warn(key, what, "let run_bytes be command_bytes at least");
    }
    let standard = RunLimits::default();
    let runs = |key| number(key, 1, MOST_RUNS).and_then(|runs| runs.try_into().ok());
    // 0 is no limit.
    let logins =
        |key| table.get(key).and_then(|field| field.number(0, MOST_RUNS)?.try_into().ok()).map(NonZeroU32::new);
    let per_server = logins("logins_per_second_per_server");
    let runs = RunLimits {
        in_flight: runs("runs_in_flight").unwrap_or(standard.in_flight),
        in_flight_per_server: runs("runs_in_flight_per_server").unwrap_or(standard.in_flight_per_server),
        logins_per_second: logins("logins_per_second").unwrap_or(standard.logins_per_second),
        logins_per_second_per_server: per_server.unwrap_or(standard.logins_per_second_per_server),
        wait: table.get("wait").and_then(|field| field.duration()).unwrap_or(standard.wait),
    };
    (limits, runs)
}

/// Reads `[state]`.
pub(super) fn read_state(table: &Table<'_>) -> State {
    let size = |key| table.get(key).and_then(|field| field.size());
    State {
        dir: table.get("dir").and_then(|field| field.directory()),
        queue_memory: size("queue_memory").unwrap_or(32 << 20),
        queue_disk: size("queue_disk").unwrap_or(128 << 20),
    }
}

/// Reads `[http]`.
pub(super) fn read_http(table: &Table<'_>) -> Http {
    let listen = match table.get("listen") {
        Some(field) => read_listen(&field),
        None => Some(Http::LISTEN),
    };
    let history = table.get("history").and_then(|field| field.number(1, 1_000)?.try_into().ok());
    Http { listen, history: history.unwrap_or(5) }
}

fn read_listen(field: &Field<'_>) -> Option<SocketAddr> {
    let text = field.text().filter(|text| text != "off")?;
    let Ok(address) = text.parse::<SocketAddr>() else {
        field.error("it is not an IP address with a port", "write 127.0.0.1:8143, [::1]:8143, or off");
        return None;
    };
    // An IPv4 address in IPv6's clothes is that address.
    if !address.ip().to_canonical().is_loopback() {
        let help = "listen on 127.0.0.1 and let a proxy that asks for a password stand before it";
        field.warn("names of targets and what failed there can be read by whoever reaches this address", help);
    }
    Some(address)
}

const PER: &[(&str, Per)] = &[("target", Per::Target), ("group", Per::Group)];

/// Reads `[metrics]`.
pub(super) fn read_metrics(table: &Table<'_>, targets: &[Target]) -> Metrics {
    let mut labels = BTreeSet::new();
    for (field, label) in table.get("labels").and_then(|field| field.list()).unwrap_or_default() {
        if !targets.is_empty() && !targets.iter().any(|target| target.labels.contains_key(&label)) {
            field.warn("no target has this label", "give a target the label, or take it out of the list");
        }
        labels.insert(label);
    }
    let per = table.get("per").and_then(|field| Some((field.choice(PER)?, field)));
    if let Some((Per::Group, field)) = &per
        && !targets.is_empty()
        && targets.iter().all(|target| target.group.is_none())
    {
        field.warn("no target is in a group", "add [[groups]], or take it out");
    }
    let kinds = [("explicit", Histogram::Explicit), ("exponential", Histogram::Exponential)];
    let number = |key| table.get(key).and_then(|field| field.number(1, u64::MAX));
    Metrics {
        labels,
        per: per.map_or(Per::Target, |(per, _)| per),
        series_limit: number("series_limit").unwrap_or(100_000),
        export_interval: table
            .get("export_interval")
            .and_then(|field| field.duration())
            .unwrap_or(Metrics::EXPORT_INTERVAL),
        histogram: table.get("histogram").and_then(|field| field.choice(&kinds)).unwrap_or(Histogram::Explicit),
        timing: table.get("timing").and_then(|field| field.bool()).unwrap_or(false),
    }
}

/// Fewer runs have no median worth the name; the history of a step holds no more.
const RUNS: RangeInclusive<u64> = 5..=63;

/// Reads `[latency]`.
pub(super) fn read_latency(table: &Table<'_>) -> Latency {
    let standard = Latency::default();
    let duration = |key| table.get(key).and_then(|field| field.duration());
    let runs = table.get("min_runs").and_then(|field| field.number(*RUNS.start(), *RUNS.end())?.try_into().ok());
    let switch = |key, standard| table.get(key).and_then(|field| field.bool()).unwrap_or(standard);
    Latency {
        min_runs: runs.unwrap_or(standard.min_runs),
        slow_ratio: table.get("slow_ratio").and_then(|field| field.ratio()).unwrap_or(standard.slow_ratio),
        slow_excess: duration("slow_excess").unwrap_or(standard.slow_excess),
        slow_limit: duration("slow_limit"),
        slow_limits: table.get("slow_limits").map(|field| read_slow_limits(&field)).unwrap_or_default(),
        timing: Timing {
            kernel_stamps: switch("kernel_stamps", standard.timing.kernel_stamps),
            quickack: switch("quickack", standard.timing.quickack),
        },
    }
}

fn read_slow_limits(field: &Field<'_>) -> BTreeMap<String, Duration> {
    let mut limits = BTreeMap::new();
    for (key, limit) in field.entries() {
        // The name of a variable comes in lower case, which sorts behind the file's spelling and so beats it here too.
        if let Some(step) = step(key).filter(|step| *step == key || limit.is_outside()) {
            limits.extend(limit.duration().map(|limit| (step.to_owned(), limit)));
            continue;
        }
        if let Some(home) = misplaced::home(key, &misplaced::SLOW_LIMITS) {
            limit.error(format!("`{key}` belongs {}", home.words), "the keys here are steps");
            continue;
        }
        let lower = keys::STEPS.map(str::to_ascii_lowercase);
        let near = nearest(&key.to_ascii_lowercase(), lower.iter().map(String::as_str)).and_then(step);
        let help = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the steps are {}", keys::STEPS.join(", ")),
        };
        limit.error("no step is called so", help);
    }
    limits
}

/// The step of this name in whatever case.
fn step(name: &str) -> Option<&'static str> {
    keys::STEPS.into_iter().find(|step| step.eq_ignore_ascii_case(name))
}

/// Reads `[dns]`. `nss`: whether this build's C library is one that `resolver = "system"` has a meaning with.
pub(super) fn read_dns(table: &Table<'_>, nss: bool) -> Dns {
    let resolver = table.get("resolver").and_then(|field| {
        let words = [NameResolver::Builtin, NameResolver::System].map(|resolver| (resolver.as_str(), resolver));
        let chosen = field.choice(&words)?;
        if chosen == NameResolver::System && !nss {
            field.error(
                "\"system\" is not in this build: its C library is linked statically, or musl, and does not read nsswitch.conf",
                "leave it at \"builtin\", or take a build that is linked dynamically against glibc",
            );
        }
        Some(chosen)
    });
    let resolver = resolver.unwrap_or_default();
    let mut servers = Vec::new();
    for (field, text) in table.get("servers").and_then(|field| field.list()).unwrap_or_default() {
        // A link-local address bears its zone in brackets alone.
        let address = text.parse().or_else(|_| format!("[{text}]:53").parse()).ok();
        let address = address.or_else(|| Some((text.parse::<IpAddr>().ok()?, 53).into()));
        match address {
            Some(address) => servers.push(address),
            None => field.error("it is not an IP address", "write 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:53"),
        }
    }
    let mut deny = Vec::new();
    for (field, word) in table.get("deny").and_then(|field| field.list()).unwrap_or_default() {
        if let Some(kind) = field.word(&word, AddressKind::WORDS)
            && !deny.contains(&kind)
        {
            deny.push(kind);
        }
    }
    let cache = table.get("cache").and_then(|field| field.bool()).unwrap_or(false);
    if resolver == NameResolver::System {
        for (key, set) in [("servers", !servers.is_empty()), ("cache", cache)] {
            if set {
                let what = format!("it has no meaning with dns.resolver = \"system\": the system has its own {key}");
                table.error(key, what, "take it out, or set resolver = \"builtin\"");
            }
        }
    }
    Dns { resolver, cache, servers, deny }
}

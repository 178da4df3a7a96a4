//! All names of telemetry: spans, attributes, events, resource, metrics. No other file has any.
//!
//! `docs/telemetry.md` explains each; a test compares the two. Called by [`super::spans()`], [`super::Metrics`] and
//! [`super::resource()`].

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// A distribution.
    Histogram,
    /// A sum that only grows.
    Counter,
    /// A sum that grows and shrinks.
    UpDownCounter,
    /// The last value.
    Gauge,
}

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its OpenTelemetry name.
    pub name: &'static str,
    /// What it is.
    pub kind: MetricKind,
    /// UCUM unit; empty where a unit of 1 would become `_ratio` in Prometheus.
    pub unit: &'static str,
    /// One sentence for the back end.
    pub description: &'static str,
}

macro_rules! names {
    ($(#[$doc:meta])* $list:ident { $($name:ident = $text:literal,)+ }) => {
        $(#[doc = concat!("`", $text, "`")] pub const $name: &str = $text;)+
        $(#[$doc])*
        pub const $list: &[&str] = &[$($name,)+];
    };
}

macro_rules! metrics {
    ($($name:ident = $text:literal, $kind:ident, $unit:literal, $description:literal;)+) => {
        $(#[doc = concat!("`", $text, "`")]
        pub const $name: Metric =
            Metric { name: $text, kind: MetricKind::$kind, unit: $unit, description: $description };)+
        /// Every metric.
        pub const METRICS: &[Metric] = &[$($name,)+];
    };
}

/// The instrumentation scope of spans and metrics.
pub const SCOPE: &str = "imaptrace";

/// The first word of the root span's name; the journey follows.
pub const ROOT_SPAN: &str = "probe";

/// The span name of a time inside a command in which the server owed bytes and none came.
pub const WAIT_SPAN: &str = "wait";

/// The span name of a command outside the closed list.
pub const UNNAMED_SPAN: &str = "imap";

/// The spans of a mail server beside those of commands: the login as its login process, its auth process, a password database
/// and a user database see it, and the session.
pub const AUTH_CLIENT_SPAN: &str = "auth client";
/// See [`AUTH_CLIENT_SPAN`].
pub const AUTH_SPAN: &str = "auth";
/// See [`AUTH_CLIENT_SPAN`].
pub const PASSDB_SPAN: &str = "passdb";
/// See [`AUTH_CLIENT_SPAN`].
pub const USERDB_SPAN: &str = "userdb";
/// See [`AUTH_CLIENT_SPAN`].
pub const SESSION_SPAN: &str = "session";

/// The value of an attribute that is outside its closed list.
pub const OTHER: &str = "_OTHER";

/// What the key of each label of a target begins with on the root span and on metrics.
pub const LABEL_PREFIX: &str = "imaptrace.label.";

names! {
    /// Every attribute of spans, events and metrics, except the labels, whose keys are the operator's.
    ATTRIBUTES {
        SERVER_ADDRESS = "server.address",
        SERVER_PORT = "server.port",
        SERVICE_PEER_NAME = "service.peer.name",
        PEER_SERVICE = "peer.service",
        NETWORK_TRANSPORT = "network.transport",
        NETWORK_TYPE = "network.type",
        NETWORK_PEER_ADDRESS = "network.peer.address",
        NETWORK_PEER_PORT = "network.peer.port",
        NETWORK_LOCAL_ADDRESS = "network.local.address",
        NETWORK_LOCAL_PORT = "network.local.port",
        NETWORK_PROTOCOL_NAME = "network.protocol.name",
        NETWORK_PROTOCOL_VERSION = "network.protocol.version",
        NETWORK_IO_DIRECTION = "network.io.direction",
        ERROR_TYPE = "error.type",
        IMAP_COMMAND_NAME = "imap.command.name",
        IMAP_RESPONSE_STATUS = "imap.response.status",
        IMAP_RESPONSE_CODE = "imap.response.code",
        IMAP_RESPONSE_TEXT = "imap.response.text",
        IMAP_REQUEST_SIZE = "imap.request.size",
        IMAP_RESPONSE_SIZE = "imap.response.size",
        IMAP_RESPONSE_LITERAL_SIZE = "imap.response.literal.size",
        IMAP_RESPONSE_LITERAL_COUNT = "imap.response.literal.count",
        IMAP_RESPONSE_UNTAGGED_COUNT = "imap.response.untagged.count",
        IMAP_RESPONSE_FIRST_BYTE_DURATION = "imap.response.first_byte.duration",
        IMAP_SERVER_REPORTED_DURATION = "imap.server.reported_duration",
        IMAP_SERVER_REPORTED_WAIT = "imap.server.reported_wait",
        IMAP_FETCH_MESSAGES = "imap.fetch.messages",
        IMAP_MAILBOX_NAME = "imap.mailbox.name",
        IMAP_MAILBOX_MESSAGES = "imap.mailbox.messages",
        IMAP_STATE = "imap.state",
        IMAP_AUTH_MECHANISM = "imap.auth.mechanism",
        IMAP_SECURITY = "imap.security",
        IMAP_PREAUTH = "imap.preauth",
        IMAP_LENIENT = "imap.lenient",
        IMAP_REFERRAL_HOST = "imap.referral.host",
        IMAP_SERVER_ID_NAME = "imap.server.id.name",
        IMAP_SERVER_ID_VERSION = "imap.server.id.version",
        IMAP_CAPABILITY_HASH = "imap.capability.hash",
        IMAP_CONNECT_ATTEMPTS = "imap.connect.attempts",
        IMAP_CONNECT_FAILED_ADDRESSES = "imap.connect.failed_addresses",
        IMAP_CONNECTION_ATTEMPT = "imap.connection.attempt",
        IMAP_SETUP_PHASE = "imap.setup.phase",
        TLS_PROTOCOL_VERSION = "tls.protocol.version",
        TLS_CIPHER = "tls.cipher",
        TLS_NEXT_PROTOCOL = "tls.next_protocol",
        TLS_SERVER_NOT_BEFORE = "tls.server.not_before",
        TLS_SERVER_NOT_AFTER = "tls.server.not_after",
        TLS_SERVER_SUBJECT = "tls.server.subject",
        TLS_SERVER_ISSUER = "tls.server.issuer",
        TLS_SERVER_HASH_SHA256 = "tls.server.hash.sha256",
        TLS_VERIFIED = "imaptrace.tls.verified",
        TLS_CLOSE_NOTIFY = "imaptrace.tls.close_notify",
        DNS_QUESTION_NAME = "dns.question.name",
        DNS_ANSWERS = "dns.answers",
        TARGET_NAME = "imaptrace.target.name",
        ACCOUNT_NAME = "imaptrace.account.name",
        JOURNEY_NAME = "imaptrace.journey.name",
        ONE_SHOT = "imaptrace.one_shot",
        FIRST_LOADING_LATENCY = "imaptrace.first_loading_latency",
        FIRST_ROW = "imaptrace.first_row",
        SLOWEST_STEP = "imaptrace.slowest.step",
        START_LAG = "imaptrace.start_lag",
        CONNECTION_BYTES_SENT = "imaptrace.connection.bytes_sent",
        CONNECTION_BYTES_RECEIVED = "imaptrace.connection.bytes_received",
        MAILBOX_USUAL_MESSAGES = "imaptrace.mailbox.usual_messages",
        TLS_SERVER_HELLO = "imaptrace.tls.server_hello",
        TLS_FAULT = "imaptrace.tls.fault",
        CERTIFICATE_KEY = "imaptrace.tls.certificate.key",
        CERTIFICATE_CHAIN = "imaptrace.tls.certificate.chain",
        CERTIFICATE_REFUSED_DEPTH = "imaptrace.tls.certificate.refused_depth",
        CERTIFICATE_READ_AT = "imaptrace.tls.certificate.read_at",
        TIMING_SERVER = "imaptrace.timing.server",
        TIMING_NETWORK = "imaptrace.timing.network",
        TIMING_TRANSFER = "imaptrace.timing.transfer",
        TIMING_AGENT = "imaptrace.timing.agent",
        TIMING_UNCERTAIN = "imaptrace.timing.uncertain",
        TIMING_UNCERTAINTY = "imaptrace.timing.uncertainty",
        TIMING_DELAYED = "imaptrace.timing.delayed",
        TIMING_PART = "imaptrace.timing.part",
        LATENCY_BASELINE = "imaptrace.latency.baseline",
        LATENCY_RATIO = "imaptrace.latency.ratio",
        LATENCY_BASELINE_DAY = "imaptrace.latency.baseline_day",
        LATENCY_RATIO_DAY = "imaptrace.latency.ratio_day",
        LATENCY_SHARE = "imaptrace.latency.share",
        LATENCY_SLOW = "imaptrace.latency.slow",
        CAUSE = "imaptrace.cause",
        CAUSE_SHARE = "imaptrace.cause.share",
        CAUSE_SECOND = "imaptrace.cause.second",
        CAUSE_EVIDENCE = "imaptrace.cause.evidence",
        CLOCK_SOURCE = "imaptrace.clock.source",
        TCP_QUICKACK = "imaptrace.tcp.quickack",
        NETWORK_RTT_MIN = "imaptrace.network.rtt_min",
        NETWORK_RETRANSMITS = "imaptrace.network.retransmits",
        NETWORK_OUT_OF_ORDER = "imaptrace.network.out_of_order",
        AUTH_BACKOFF = "imaptrace.auth.backoff",
        SYNTHETIC_TYPE = "user_agent.synthetic.type",
        NOTE_LEVEL = "imaptrace.note.level",
        NOTE_TEXT = "imaptrace.note.text",
        DOVECOT_EVENT = "dovecot.event",
        DOVECOT_START_TIME = "dovecot.start_time",
        DOVECOT_DURATION = "dovecot.duration",
        DOVECOT_RUNNING = "dovecot.running",
        DOVECOT_LOCK_WAIT = "dovecot.lock_wait",
        DOVECOT_BYTES_IN = "dovecot.bytes_in",
        DOVECOT_BYTES_OUT = "dovecot.bytes_out",
        DOVECOT_MAIL_OPENED = "dovecot.mail_opened",
        DOVECOT_MAIL_OPENED_REASONS = "dovecot.mail_opened.reasons",
        DOVECOT_AUTH_SUCCESS = "dovecot.auth.success",
        DOVECOT_CLOCK_OFFSET = "dovecot.clock_offset",
        SKIP_REASON = "imaptrace.skip.reason",
        DROP_REASON = "imaptrace.drop.reason",
        CONFIG_HASH = "imaptrace.config.hash",
        CONFIG_VERSION = "imaptrace.config.version",
        DISCOVERY_GROUP = "imaptrace.discovery.group",
        DISCOVERY_SOURCE = "imaptrace.discovery.source",
        DISCOVERY_REFUSAL = "imaptrace.discovery.refusal",
        SENDER = "sender",
        OUTCOME = "outcome",
    }
}

names! {
    /// Every event of a span.
    EVENTS {
        EVENT_CONTINUATION = "imap.continuation",
        EVENT_FIRST_BYTE = "imap.first_byte",
        EVENT_ALERT = "imap.alert",
        EVENT_NOTE = "imaptrace.note",
    }
}

names! {
    /// Every attribute of the resource.
    RESOURCE {
        SERVICE_NAME = "service.name",
        SERVICE_VERSION = "service.version",
        SERVICE_INSTANCE_ID = "service.instance.id",
        HOST_NAME = "host.name",
        TELEMETRY_SDK_NAME = "telemetry.sdk.name",
        TELEMETRY_SDK_LANGUAGE = "telemetry.sdk.language",
        TELEMETRY_SDK_VERSION = "telemetry.sdk.version",
    }
}

metrics! {
    PROBE_FIRST_LOADING_DURATION = "imaptrace.probe.first_loading.duration", Histogram, "s",
        "From the start of a run to the message list";
    PROBE_DURATION = "imaptrace.probe.duration", Histogram, "s",
        "From the start of a run to the end of its last step";
    OPERATION_DURATION = "imap.client.operation.duration", Histogram, "s",
        "From the first byte of a command to the last of its tagged line";
    SETUP_DURATION = "imap.client.setup.duration", Histogram, "s",
        "Name look-up, TCP connect, TLS handshake and greeting";
    TIMING_DURATION = "imaptrace.timing.duration", Histogram, "s",
        "What the server, the line's round trips and the transfer took of a command";
    CLIENT_IO = "imap.client.io", Counter, "By",
        "Plain IMAP bytes sent and received";
    PROBE_UP = "imaptrace.probe.up", Gauge, "",
        "1 when the last run that could judge passed, 0 when it failed";
    PROBE_LAST_RUN_TIME = "imaptrace.probe.last_run.time", Gauge, "s",
        "When the last run ended, in seconds since the epoch";
    PROBE_INTERVAL = "imaptrace.probe.interval", Gauge, "s",
        "From the planned start of a run to that of the next";
    PROBE_FAILURES = "imaptrace.probe.failures", Gauge, "{run}",
        "Failed runs in a row: since the last one that passed";
    CERTIFICATE_NOT_AFTER = "imap.server.certificate.not_after", Gauge, "s",
        "When the server's certificate ends, in seconds since the epoch";
    MAILBOX_MESSAGES = "imap.mailbox.messages", Gauge, "{message}",
        "Messages in the mailbox that the journey opens";
    PROBE_SLOW = "imaptrace.probe.slow", Counter, "{probe}",
        "Runs that were slow, or failed by a timeout or a limit, by their cause";
    MAILBOX_SHRUNK = "imaptrace.mailbox.shrunk", Counter, "{run}",
        "Runs that found fewer than a tenth of the usual number of messages in the mailbox";
    PROBE_SKIPPED = "imaptrace.probe.skipped", Counter, "{probe}",
        "Runs that were due and not started";
    SCHEDULER_START_LAG = "imaptrace.scheduler.start_lag", Histogram, "s",
        "From a run's planned start to its real one";
    PROBE_ACTIVE = "imaptrace.probe.active", UpDownCounter, "{probe}",
        "Runs under way";
    DELIVERY_QUEUE_SIZE = "imaptrace.delivery.queue.size", UpDownCounter, "By",
        "Memory and disk that runs take which wait for delivery or are on their way";
    DELIVERY_QUEUE_CAPACITY = "imaptrace.delivery.queue.capacity", UpDownCounter, "By",
        "What the queue may hold before the oldest runs go";
    DELIVERY_DROPPED = "imaptrace.delivery.dropped", Counter, "{run}",
        "Runs whose trace was given up";
    DELIVERY_DURATION = "imaptrace.delivery.duration", Histogram, "s",
        "One attempt to export a batch of traces";
    SERVER_EVENTS = "imaptrace.server_events", Counter, "{event}",
        "Events that mail servers sent, by what became of them";
    AGENT_CPU_WAIT = "imaptrace.agent.cpu.wait", Counter, "s",
        "Time that the threads that probe were ready to run and had no processor";
    AGENT_CPU_THROTTLED = "imaptrace.agent.cpu.throttled", Counter, "s",
        "Time that the cgroup's CPU limit held the agent";
    AGENT_PAUSED = "imaptrace.agent.paused", Counter, "s",
        "Time in which the agent did not get to run: stopped, without CPU, or with too much to do";
    AGENT_CPU_SHORT = "imaptrace.agent.cpu.short", Gauge, "",
        "1 while the agent is short of CPU, else 0";
    METRICS_OVERFLOW = "imaptrace.metrics.overflow", Counter, "{measurement}",
        "Measurements that are in no series, since there was no room for one more";
    LOG_DROPPED = "imaptrace.log.dropped", Counter, "{line}",
        "Log lines that were dropped, since standard error was not read or could not be written";
    AGENT_UP = "imaptrace.agent.up", Gauge, "",
        "1 while the agent runs, 0 in its last export when it was stopped";
    AGENT_COPIES = "imaptrace.agent.copies", Gauge, "{agent}",
        "Agents that are configured to probe each target of this one";
    AGENT_SERVERS = "imaptrace.agent.servers", Gauge, "{server}",
        "Servers that the agent probes: each host and port is one";
    AGENT_SERVERS_UNREACHABLE = "imaptrace.agent.servers_unreachable", Gauge, "{server}",
        "Servers from which nothing came back to the last run of each of their accounts";
    CONFIG_INFO = "imaptrace.config.info", Gauge, "",
        "1, with the hash of the configuration in use and the version of the agent";
    CONFIG_LAST_RELOAD_TIME = "imaptrace.config.last_reload.time", Gauge, "s",
        "When the configuration was last read, in seconds since the epoch";
    CONFIG_LAST_RELOAD_SUCCESS = "imaptrace.config.last_reload.success", Gauge, "",
        "1 when the configuration that was last read is in use, 0 when it was bad";
    DISCOVERY_TARGETS = "imaptrace.discovery.targets", Gauge, "{target}",
        "Targets of the last good answer of a source of targets";
    DISCOVERY_REFUSED = "imaptrace.discovery.refused", Gauge, "{target}",
        "Targets of the last answer of a source of targets that are not probed, by the reason";
    DISCOVERY_LAST_SUCCESS_TIME = "imaptrace.discovery.last_success.time", Gauge, "s",
        "When a source of targets last gave or confirmed targets, in seconds since the epoch";
    DISCOVERY_FAILING = "imaptrace.discovery.failing", Gauge, "",
        "1 while a source of targets fails or its answer is not taken, else 0";
}

/// Upper bounds of the histograms' buckets, in seconds: a local FETCH takes 0.2 ms, a bad one 30 s.
pub const BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// What a command's time divides into: [`TIMING_PART`] on [`TIMING_DURATION`].
pub const PARTS: [&str; 3] = ["server", "network", "transfer"];

/// Why a run's trace was dropped: [`DROP_REASON`] on [`DELIVERY_DROPPED`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// The queue was over its budget; the oldest went.
    Budget,
    /// The receiver refused it permanently.
    Refused,
    /// It could not be read back from disk.
    Corrupt,
}

impl DropReason {
    /// The value of the attribute.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::Refused => "refused",
            Self::Corrupt => "corrupt",
        }
    }
}

/// What became of a server's event: [`OUTCOME`] on [`SERVER_EVENTS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventOutcome {
    /// It is in the trace of a run.
    Joined,
    /// Its run did not wait for it any more.
    Late,
    /// It belongs to no run.
    Unmatched,
    /// The sender is unknown or may not report about that target, or the event cannot be used.
    Rejected,
    /// There was no room for it.
    Full,
    /// It was forwarded to another agent.
    Forwarded,
}

impl EventOutcome {
    /// The value of the attribute.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Late => "late",
            Self::Unmatched => "unmatched",
            Self::Rejected => "rejected",
            Self::Full => "full",
            Self::Forwarded => "forwarded",
        }
    }
}

/// Why a target of a source is not probed: [`DISCOVERY_REFUSAL`] on [`DISCOVERY_REFUSED`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DiscoveryRefusal {
    /// It is of another type than the form has.
    Type,
    /// It is neither HOST nor HOST:PORT.
    Address,
    /// Its host is not in the group's `hosts`.
    Host,
    /// There are too many.
    Limit,
    /// The configuration cannot have it: its name is taken, or a label is unfit.
    Invalid,
}

impl DiscoveryRefusal {
    /// Every reason.
    pub const ALL: [Self; 5] = [Self::Type, Self::Address, Self::Host, Self::Limit, Self::Invalid];

    /// The value of the attribute.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::Address => "address",
            Self::Host => "host",
            Self::Limit => "limit",
            Self::Invalid => "invalid",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_name_stands_twice() {
        for list in [ATTRIBUTES, EVENTS, RESOURCE] {
            assert_eq!(list.iter().collect::<BTreeSet<_>>().len(), list.len());
        }
        assert_eq!(METRICS.iter().map(|metric| metric.name).collect::<BTreeSet<_>>().len(), METRICS.len());
    }

    #[test]
    fn buckets_grow() {
        assert!(BUCKETS.is_sorted());
    }
}

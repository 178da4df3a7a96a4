//! Every key that a configuration may hold, table by table.
//!
//! The one list: readers refuse what is not in it, and a test holds the documentation and the sample file against it.

/// A table of the configuration and the keys that it may hold.
#[derive(Debug, Clone, Copy)]
pub struct TableKeys {
    /// Its path as in a TOML header; empty for the top level.
    pub path: &'static str,
    /// Keys that have an effect.
    pub keys: &'static [&'static str],
    /// Keys that belong to a later version: refused by name, never silently ignored.
    pub later: &'static [&'static str],
}

const OTLP_KEYS: &[&str] =
    &["endpoint", "protocol", "headers", "timeout", "compression", "ca_file", "client_cert", "client_key", "proxy"];

pub(super) static TOP: TableKeys = TableKeys {
    path: "",
    keys: &[
        "targets_from",
        "agent",
        "defaults",
        "otlp",
        "metrics",
        "latency",
        "limits",
        "dns",
        "state",
        "http",
        "windows",
        "groups",
        "targets",
    ],
    later: &["journeys"],
};
/// The top level when there is no file but the command line of `probe`. Some of it has no meaning there, but a variable
/// that the agent goes by is no mistake.
pub(super) static PROBE_TOP: TableKeys = TableKeys {
    path: "",
    keys: &[
        "targets_from",
        "agent",
        "defaults",
        "otlp",
        "metrics",
        "latency",
        "limits",
        "dns",
        "state",
        "http",
        super::sources::tree::PROBE,
    ],
    later: TOP.later,
};
pub(super) static AGENT: TableKeys =
    TableKeys { path: "agent", keys: &["instance", "log_format", "log_level"], later: &[] };
pub(super) static DEFAULTS: TableKeys = TableKeys {
    path: "defaults",
    keys: &[
        "security",
        "ca_file",
        "server_name",
        "insecure",
        "alpn",
        "client_cert",
        "client_key",
        "mailbox",
        "newest",
        "window",
        "cold",
        "journey",
        "timeout",
        "interval",
        "open",
        "tag",
        "auth",
        "address",
        "source_address",
        "proxy_protocol",
        "deadlines",
    ],
    later: &[],
};
pub(super) static TARGET: TableKeys = TableKeys {
    path: "targets",
    keys: &[
        "name",
        "url",
        "user",
        "master_user",
        "password",
        "labels",
        "accounts",
        "security",
        "ca_file",
        "server_name",
        "insecure",
        "alpn",
        "client_cert",
        "client_key",
        "mailbox",
        "newest",
        "window",
        "cold",
        "journey",
        "timeout",
        "interval",
        "open",
        "tag",
        "auth",
        "address",
        "source_address",
        "proxy_protocol",
        "deadlines",
    ],
    later: &[],
};
pub(super) static GROUP: TableKeys = TableKeys {
    path: "groups",
    keys: &[
        "name",
        "targets",
        "targets_from",
        "url",
        "user",
        "master_user",
        "password",
        "labels",
        "accounts",
        "security",
        "ca_file",
        "server_name",
        "insecure",
        "alpn",
        "client_cert",
        "client_key",
        "mailbox",
        "newest",
        "window",
        "cold",
        "journey",
        "timeout",
        "interval",
        "open",
        "tag",
        "auth",
        "address",
        "source_address",
        "proxy_protocol",
        "deadlines",
    ],
    later: &[],
};
pub(super) static ACCOUNT: TableKeys =
    TableKeys { path: "targets.accounts", keys: &["name", "user", "master_user", "password"], later: &[] };
pub(super) static DEADLINES: TableKeys = TableKeys {
    path: "defaults.deadlines",
    keys: &["resolve", "connect", "tls", "greeting", "command", "write", "logout"],
    later: &[],
};
/// What stands in the braces of a secret.
pub(super) static SECRET: TableKeys = TableKeys {
    path: "password",
    keys: &["file", "env", "command", "credential", "insecure_mode", "exact"],
    later: &[],
};
pub(super) static OTLP: TableKeys = TableKeys {
    path: "otlp",
    keys: &[
        "endpoint",
        "protocol",
        "headers",
        "timeout",
        "compression",
        "ca_file",
        "client_cert",
        "client_key",
        "proxy",
        "traces",
        "metrics",
    ],
    later: &[],
};
pub(super) static OTLP_TRACES: TableKeys = TableKeys { path: "otlp.traces", keys: OTLP_KEYS, later: &[] };
pub(super) static OTLP_METRICS: TableKeys = TableKeys { path: "otlp.metrics", keys: OTLP_KEYS, later: &[] };
pub(super) static METRICS: TableKeys = TableKeys {
    path: "metrics",
    keys: &["labels", "per", "series_limit", "export_interval", "histogram", "timing"],
    later: &[],
};
pub(super) static LATENCY: TableKeys = TableKeys {
    path: "latency",
    keys: &["min_runs", "slow_ratio", "slow_excess", "slow_limit", "slow_limits", "kernel_stamps", "quickack"],
    later: &[],
};
/// What a step can be called, as in the record: the keys of `slow_limits`.
pub(super) const STEPS: [&str; 15] = [
    "resolve",
    "connect",
    "tls",
    "greeting",
    "CAPABILITY",
    "STARTTLS",
    "ID",
    "LOGIN",
    "AUTHENTICATE",
    "NAMESPACE",
    "LIST",
    "SELECT",
    "EXAMINE",
    "FETCH",
    "LOGOUT",
];
pub(super) static LIMITS: TableKeys = TableKeys {
    path: "limits",
    keys: &[
        "runs_in_flight",
        "runs_in_flight_per_server",
        "logins_per_second",
        "logins_per_second_per_server",
        "wait",
        "line",
        "command_bytes",
        "run_bytes",
        "responses",
        "depth",
        "literal_kept",
    ],
    later: &[],
};
pub(super) static DNS: TableKeys =
    TableKeys { path: "dns", keys: &["resolver", "cache", "servers", "deny"], later: &[] };
pub(super) static STATE: TableKeys =
    TableKeys { path: "state", keys: &["dir", "queue_memory", "queue_disk"], later: &[] };
pub(super) static HTTP: TableKeys = TableKeys { path: "http", keys: &["listen", "history"], later: &[] };
pub(super) static WINDOW: TableKeys = TableKeys {
    path: "windows",
    keys: &["name", "days", "from", "to", "time_zone", "targets", "groups", "labels"],
    later: &[],
};

/// Every table, in the order of the sample file; for tests and documentation.
pub fn tables() -> impl Iterator<Item = TableKeys> {
    [
        &TOP,
        &AGENT,
        &DEFAULTS,
        &DEADLINES,
        &OTLP,
        &OTLP_TRACES,
        &OTLP_METRICS,
        &METRICS,
        &LATENCY,
        &LIMITS,
        &DNS,
        &STATE,
        &HTTP,
        &WINDOW,
        &GROUP,
        &TARGET,
        &ACCOUNT,
        &SECRET,
    ]
    .into_iter()
    .copied()
}

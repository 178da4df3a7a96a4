//! The exporters of traces and metrics: `[otlp]`, `[otlp.traces]`, `[otlp.metrics]`.
//!
//! Reads their settings; makes no exporter and opens no connection. Called by `load`.

use std::{path::PathBuf, time::Duration};

use imaptrace_imap::Secret;

use crate::{
    config::{
        settings::proxy::{self, ProxySetting, Route},
        sources::{
            otel,
            readers::{Field, Table},
            schema::TableKeys,
        },
        targets::{account, consistency, url},
    },
    delivery::Protocol,
    plan::{Choice, Host},
    secret::{Edge, SecretSource},
};

pub(crate) static KEYS: TableKeys = TableKeys::new("otlp", OTLP_KEYS);
const OTLP_KEYS: &[&str] = &[
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
];
/// Without the tables of the signals.
const SIGNAL_KEYS: &[&str] = OTLP_KEYS.split_at(9).0;
pub(crate) static TRACES: TableKeys = TableKeys::new("otlp.traces", SIGNAL_KEYS);
pub(crate) static METRICS: TableKeys = TableKeys::new("otlp.metrics", SIGNAL_KEYS);

/// The two exporters; none without an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Otlp {
    /// For runs.
    pub traces: Option<Exporter>,
    /// For metrics.
    pub metrics: Option<Exporter>,
}

/// The settings of one OTLP exporter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exporter {
    /// The URL of requests: with HTTP its path ends in `/v1/traces` or `/v1/metrics`, unless it is that of this signal's table.
    pub endpoint: String,
    /// The protocol.
    pub protocol: Protocol,
    /// Headers of each request, names in lower case. Values are secrets, to be loaded before use.
    pub headers: Vec<(String, SecretSource)>,
    /// The deadline of an export.
    pub timeout: Duration,
    /// Whether requests are compressed by gzip.
    pub gzip: bool,
    /// PEM file with the roots to trust, in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file with the client's certificate.
    pub client_cert: Option<PathBuf>,
    /// PEM file with its key.
    pub client_key: Option<PathBuf>,
    /// The proxy, if any.
    pub route: Route,
}

impl Choice for Protocol {
    const WORDS: &'static [(&'static str, Self)] = &[("grpc", Self::Grpc), ("http/protobuf", Self::HttpProtobuf)];
}

/// The values of `compression`, for [`Exporter::gzip`].
pub(crate) const COMPRESSION: &[(&str, bool)] = &[("gzip", true), ("none", false)];

/// The default of the OTLP specification, as no compression is.
const TIMEOUT: Duration = Duration::from_secs(10);
/// IANA's port for OTLP over gRPC.
const GRPC_PORT: u16 = 4317;

pub(super) struct OtlpEndpoint {
    pub(super) url: String,
    scheme: &'static str,
    host: Host,
    port: Option<u16>,
    /// Whether requests are in clear text to another host.
    pub(super) exposed: bool,
}

pub(crate) fn read(table: &Table<'_>, environment: &[(String, String)]) -> Otlp {
    let tables = [("traces", &TRACES), ("metrics", &METRICS)].map(|(signal, keys)| (signal, table.table(signal, keys)));
    let [traces, metrics] = tables.map(|(signal, own)| exporter(signal, [table, &own], environment));
    Otlp { traces, metrics }
}

/// The value of a key in a signal's own table, or else in the common one. Both are read, so that the errors of both are noted.
fn get<'a, T>(tables: [&Table<'a>; 2], key: &'static str, read: impl Fn(&Field<'a>) -> Option<T>) -> Option<T> {
    let [common, own] = tables.map(|table| table.read(key, &read));
    own.or(common)
}

/// The exporter of one signal, by the common table and its own.
fn exporter(signal: &str, tables: [&Table<'_>; 2], environment: &[(String, String)]) -> Option<Exporter> {
    let [common, own] = tables;
    // The table with the value of a key.
    let table_of = |key| if own.has(key) { own } else { common };
    let [common_endpoint, own_endpoint] = tables.map(|table| table.read("endpoint", read_endpoint));
    let is_own = own_endpoint.is_some();
    let protocol = get(tables, "protocol", Field::choice);
    let headers = get(tables, "headers", |field| Some(read_headers(field))).unwrap_or_default();
    let timeout = get(tables, "timeout", Field::duration).unwrap_or(TIMEOUT);
    let gzip = get(tables, "compression", |field| field.one_of(COMPRESSION)).unwrap_or(false);
    let ca_file = get(tables, "ca_file", Field::file);
    let client_cert = get(tables, "client_cert", Field::file);
    let client_key = get(tables, "client_key", Field::file);
    let setting = get(tables, "proxy", proxy::read).unwrap_or(ProxySetting::None);
    let pair = if own.has("client_cert") { own } else { table_of("client_key") };
    consistency::check_pair(pair, client_cert.is_some(), client_key.is_some());
    let endpoint = own_endpoint.or(common_endpoint)?;
    let by_port = if endpoint.port == Some(GRPC_PORT) { Protocol::Grpc } else { Protocol::HttpProtobuf };
    let protocol = protocol.unwrap_or(by_port);
    if endpoint.exposed && !headers.is_empty() {
        let help = "use https:// in the endpoint";
        let what = "headers, which may hold a key, go over the network in clear text";
        table_of("headers").warn("headers", what, help);
    }
    let port = endpoint.port.unwrap_or(if endpoint.scheme == "https" { 443 } else { 80 });
    let route = proxy::route(&setting, (endpoint.scheme, &endpoint.host, port), environment, |what| {
        table_of("proxy").error("proxy", what, "set it to http://HOST:PORT, or set proxy to none");
    });
    let is_set = table_of("proxy").has("proxy");
    if let Some(reason) = route.reason.as_ref().filter(|_| !is_set) {
        let help = "set proxy to environment to use it, or to none if that is meant";
        common.warn("proxy", format!("{reason}: OTLP goes straight to its receiver"), help);
    }
    let endpoint = match protocol {
        Protocol::HttpProtobuf if !is_own => {
            format!("{}/v1/{signal}", endpoint.url.trim_end_matches('/'))
        }
        _ => endpoint.url,
    };
    Some(Exporter { endpoint, protocol, headers, timeout, gzip, ca_file, client_cert, client_key, route })
}

/// Reads `http(s)://HOST[:PORT][/PATH]`. A problem does not show it: it may contain a password.
pub(super) fn read_endpoint(field: &Field<'_>) -> Option<OtlpEndpoint> {
    let text = field.text()?;
    let refuse = |what: &str, help: &str| {
        field.error(format!("the endpoint {what}"), help);
        None
    };
    let Some((scheme, rest)) = text.split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https")) else {
        return refuse("does not begin with http:// or https://", "write http://HOST:PORT, or https:// for TLS");
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let authority = rest.get(..end).unwrap_or_default();
    if authority.contains('@') {
        return refuse("holds a user name or password", "put credentials in headers");
    }
    if rest.contains(['?', '#', ' ']) {
        return refuse("holds `?`, `#` or a space", "write http://HOST:PORT/PATH");
    }
    let (host, port) = match url::parse_place(authority) {
        Ok(place) => place,
        Err(error) => return refuse(&format!("cannot be used: {error}"), ""),
    };
    let scheme = if scheme == "https" { "https" } else { "http" };
    let exposed = scheme == "http" && !proxy::is_loopback(&host);
    Some(OtlpEndpoint { scheme, host, port, exposed, url: text })
}

/// A table of names and values (each plain text or a reference to a secret), or `name=value,…` in one text.
fn read_headers(field: &Field<'_>) -> Vec<(String, SecretSource)> {
    if !field.is_table() {
        let Some(text) = field.as_text() else {
            field.text();
            return Vec::new();
        };
        let Some(pairs) = otel::pairs(text) else {
            field.error("it cannot be read: expected name=value,name=value, percent-encoded", "write a comma as %2C");
            return Vec::new();
        };
        let header = |(name, value): (String, String)| {
            let name = header_name(field, &name)?;
            Some((name, SecretSource::Given(header_value(field, value)?)))
        };
        return pairs.into_iter().filter_map(header).collect();
    }
    let header = |(name, value): (&str, Field<'_>)| {
        if value.foreign(name, KEYS.keys, "a header", value.as_text().is_some() || value.is_table()) {
            return None;
        }
        let name = header_name(&value, name)?;
        let source = match value.as_text() {
            Some(text) => SecretSource::Given(header_value(&value, text.to_owned())?),
            None if value.is_table() => account::secret(&value)?,
            None => {
                value.text();
                return None;
            }
        };
        Some((name, source))
    };
    field.entries().into_iter().filter_map(header).collect()
}

/// A token (RFC 9110 §5.6.2), in lower case as HTTP/2 requires (RFC 9113 §8.2).
fn header_name(field: &Field<'_>, name: &str) -> Option<String> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(token) {
        field.error("this is not the name of a header", "a name is made of letters, digits and `-`");
        return None;
    }
    Some(name.to_ascii_lowercase())
}

fn header_value(field: &Field<'_>, value: String) -> Option<Secret> {
    if value.is_empty() || !value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        field.error("the header's value is empty or holds more than printable ASCII", "");
        return None;
    }
    if let Some(edge) = Edge::of(&value) {
        // Whitespace around a value is not part of it (RFC 9110 §5.5).
        field.error(format!("the header's value {edge}, which HTTP does not carry"), "take it out");
        return None;
    }
    Some(Secret::new(value))
}

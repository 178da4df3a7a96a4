//! Where traces and metrics go: `[otlp]`, `[otlp.traces]`, `[otlp.metrics]`.
//!
//! Settles what each of the two exporters does; builds none and opens no connection. Called by `load` and `probe`.

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
    plan::Host,
    secret::{Edge, SecretSource},
};

pub(crate) static KEYS: TableKeys = TableKeys::new(
    "otlp",
    &[
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
);

const SIGNAL_KEYS: &[&str] =
    &["endpoint", "protocol", "headers", "timeout", "compression", "ca_file", "client_cert", "client_key", "proxy"];
pub(crate) static TRACES: TableKeys = TableKeys::new("otlp.traces", SIGNAL_KEYS);
pub(crate) static METRICS: TableKeys = TableKeys::new("otlp.metrics", SIGNAL_KEYS);

/// The two exporters. One without an endpoint exports nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Otlp {
    /// For runs.
    pub traces: Option<Exporter>,
    /// For metrics.
    pub metrics: Option<Exporter>,
}

/// Everything that one OTLP exporter has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exporter {
    /// The URL to send to, as it is: with HTTP its path ends in `/v1/traces` or `/v1/metrics` unless the operator gave
    /// one for this signal alone.
    pub endpoint: String,
    /// How it is sent.
    pub protocol: Protocol,
    /// Headers to send with each request, names in lower case. Values are secrets, to be loaded before use.
    pub headers: Vec<(String, SecretSource)>,
    /// How long one attempt to send may take.
    pub timeout: Duration,
    /// Whether requests are compressed.
    pub compression: Compression,
    /// PEM file with the roots to trust, in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file with our own certificate.
    pub client_cert: Option<PathBuf>,
    /// PEM file with its key.
    pub client_key: Option<PathBuf>,
    /// The proxy on the way, if there is one.
    pub route: Route,
}

/// How requests are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// With gzip.
    Gzip,
    /// Not at all.
    None,
}

impl Compression {
    /// The word in configuration and flags.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::None => "none",
        }
    }
}

const PROTOCOL: &[(&str, Protocol)] = &[("grpc", Protocol::Grpc), ("http/protobuf", Protocol::HttpProtobuf)];
const COMPRESSION: &[(&str, Compression)] = &[("gzip", Compression::Gzip), ("none", Compression::None)];

/// The words of the key `protocol`.
#[cfg(test)]
pub(crate) fn protocols() -> Vec<&'static str> {
    PROTOCOL.iter().map(|(word, _)| *word).collect()
}

/// The OTLP specification's own default, as no compression is.
const TIMEOUT: Duration = Duration::from_secs(10);
/// IANA's port for OTLP over gRPC.
const GRPC_PORT: u16 = 4317;

/// What one of the three tables says.
struct SignalSettings {
    endpoint: Option<OtlpEndpoint>,
    protocol: Option<Protocol>,
    headers: Option<Vec<(String, SecretSource)>>,
    timeout: Option<Duration>,
    compression: Option<Compression>,
    ca_file: Option<PathBuf>,
    client_cert: Option<PathBuf>,
    client_key: Option<PathBuf>,
    proxy: Option<ProxySetting>,
}

struct OtlpEndpoint {
    url: String,
    scheme: &'static str,
    host: Host,
    port: Option<u16>,
    /// Whether what is sent there can be read on its way.
    exposed: bool,
}

/// Reads `[otlp]`.
pub(crate) fn read(table: &Table<'_>, environment: &[(String, String)]) -> Otlp {
    let base = SignalSettings::read(table);
    let traces_table = table.table("traces", &TRACES);
    let metrics_table = table.table("metrics", &METRICS);
    let traces = SignalSettings::read(&traces_table);
    let metrics = SignalSettings::read(&metrics_table);
    Otlp {
        traces: traces.over(&base, "/v1/traces", (&traces_table, table), environment),
        metrics: metrics.over(&base, "/v1/metrics", (&metrics_table, table), environment),
    }
}

impl SignalSettings {
    fn read(table: &Table<'_>) -> Self {
        Self {
            endpoint: table.get("endpoint").and_then(|field| read_endpoint(&field)),
            protocol: table.get("protocol").and_then(|field| field.choice(PROTOCOL)),
            headers: table.get("headers").map(|field| read_headers(&field)),
            timeout: table.get("timeout").and_then(|field| field.duration()),
            compression: table.get("compression").and_then(|field| field.choice(COMPRESSION)),
            ca_file: table.get("ca_file").and_then(|field| field.file()),
            client_cert: table.get("client_cert").and_then(|field| field.file()),
            client_key: table.get("client_key").and_then(|field| field.file()),
            proxy: table.get("proxy").and_then(|field| proxy::read(&field)),
        }
    }

    /// The exporter of one signal: its own settings, else the common ones.
    fn over(
        self,
        base: &Self,
        path: &str,
        (table, common): (&Table<'_>, &Table<'_>),
        environment: &[(String, String)],
    ) -> Option<Exporter> {
        let client_cert = self.client_cert.or_else(|| base.client_cert.clone());
        let client_key = self.client_key.or_else(|| base.client_key.clone());
        let own_pair = table.has("client_cert") || table.has("client_key");
        consistency::check_pair(if own_pair { table } else { common }, client_cert.is_some(), client_key.is_some());
        let own = self.endpoint.is_some();
        let endpoint = self.endpoint.as_ref().or(base.endpoint.as_ref())?;
        let by_port = if endpoint.port == Some(GRPC_PORT) { Protocol::Grpc } else { Protocol::HttpProtobuf };
        let protocol = self.protocol.or(base.protocol).unwrap_or(by_port);
        let headers = self.headers.or_else(|| base.headers.clone()).unwrap_or_default();
        if endpoint.exposed && !headers.is_empty() {
            let help = "use https:// in the endpoint";
            let table = if table.has("headers") { table } else { common };
            table.warn("headers", "headers, which may hold a key, go over the network in clear text", help);
        }
        let said = self.proxy.or_else(|| base.proxy.clone());
        let setting = said.as_ref().unwrap_or(&ProxySetting::None);
        let port = endpoint.port.unwrap_or(if endpoint.scheme == "https" { 443 } else { 80 });
        let route = proxy::route(setting, (endpoint.scheme, &endpoint.host, port), environment, |what| {
            let table = if table.has("proxy") { table } else { common };
            table.error("proxy", what, "set it to http://HOST:PORT, or set proxy to none");
        });
        // One that is there and cannot be read has been noted.
        let unsaid = said.is_none() && !table.has("proxy") && !common.has("proxy");
        if let Some(reason) = route.reason.as_ref().filter(|_| unsaid) {
            let help = "set proxy to environment to use it, or to none if that is meant";
            common.warn("proxy", format!("{reason}: OTLP goes straight to its receiver"), help);
        }
        let url = match protocol {
            Protocol::HttpProtobuf if !own => format!("{}{path}", endpoint.url.trim_end_matches('/')),
            _ => endpoint.url.clone(),
        };
        Some(Exporter {
            endpoint: url,
            protocol,
            headers,
            timeout: self.timeout.or(base.timeout).unwrap_or(TIMEOUT),
            compression: self.compression.or(base.compression).unwrap_or(Compression::None),
            ca_file: self.ca_file.or_else(|| base.ca_file.clone()),
            client_cert,
            client_key,
            route,
        })
    }
}

/// Reads `http(s)://HOST[:PORT][/PATH]`. It is not repeated in a problem: somebody may have put a password in.
fn read_endpoint(field: &Field<'_>) -> Option<OtlpEndpoint> {
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

/// A token (RFC 9110 §5.6.2), in lower case as HTTP/2 wants it (RFC 9113 §8.2).
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
        // RFC 9110 section 5.5: blanks around a value are no part of it.
        field.error(format!("the header's value {edge}, which HTTP does not carry"), "take it out");
        return None;
    }
    Some(Secret::new(value))
}

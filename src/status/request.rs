//! Reads a request: the endpoint, the query, and whether the Host is allowed. Does no I/O. Called by `server`.

use hyper::{Method, Version, header, http::request::Parts};
use percent_encoding::percent_decode_str;
use serde::{
    Deserialize as _,
    de::{self, value::StrDeserializer},
};

use super::account::AccountState;

/// An endpoint of the status server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StatusEndpoint {
    /// `/`: a list of the endpoints.
    Index,
    /// `/live`.
    Live,
    /// `/ready`.
    Ready,
    /// `/status.json`, whole or filtered.
    Status(Filter),
}

/// Which accounts, and how much of each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Filter {
    pub(super) target: Option<String>,
    pub(super) state: Option<AccountState>,
    /// The most runs, and failed runs, of each account.
    pub(super) runs: Option<usize>,
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum RequestError {
    /// A name that is not this machine's: a page in a browser could use it to read the response (DNS rebinding).
    #[error("this listens on loopback and answers to localhost, 127.0.0.1 and [::1] alone")]
    Host,
    /// HTTP/1.1 without a Host, or with two (RFC 9112 §3.2).
    #[error("a request has one Host")]
    NoHost,
    #[error("only GET and HEAD")]
    Method,
    #[error("a request has no body here")]
    Body,
    #[error("there is only /, /live, /ready and /status.json")]
    Path,
    #[error("the query may hold target=NAME, state=passed|failed|void|never and runs=NUMBER, each once")]
    Query,
    #[error("no target has that name")]
    Target,
}

impl RequestError {
    pub(super) fn status(&self) -> hyper::StatusCode {
        use hyper::StatusCode;
        match self {
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
            Self::NoHost | Self::Body | Self::Query => StatusCode::BAD_REQUEST,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Path | Self::Target => StatusCode::NOT_FOUND,
        }
    }
}

/// Reads a request; `loopback`: only this machine can reach the listener.
pub(super) fn read(request: &Parts, loopback: bool) -> Result<StatusEndpoint, RequestError> {
    let host = host(request)?;
    if loopback && host.is_some_and(|host| !is_loopback_name(host)) {
        return Err(RequestError::Host);
    }
    if request.method != Method::GET && request.method != Method::HEAD {
        return Err(RequestError::Method);
    }
    let length = request.headers.get(header::CONTENT_LENGTH);
    let has_length = length.is_some_and(|length| length.as_bytes() != b"0");
    if has_length || request.headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(RequestError::Body);
    }
    let query = request.uri.query();
    match request.uri.path() {
        "/status.json" => filter(query.unwrap_or_default()).map(StatusEndpoint::Status),
        "/" | "/live" | "/ready" if query.is_some_and(|query| !query.is_empty()) => Err(RequestError::Query),
        "/" => Ok(StatusEndpoint::Index),
        "/live" => Ok(StatusEndpoint::Live),
        "/ready" => Ok(StatusEndpoint::Ready),
        _ => Err(RequestError::Path),
    }
}

/// The requested host. A target in absolute form takes precedence over the header (RFC 9112 §3.2.2).
fn host(request: &Parts) -> Result<Option<&str>, RequestError> {
    let mut hosts = request.headers.get_all(header::HOST).iter();
    let given = match (hosts.next(), hosts.next()) {
        (Some(host), None) => Some(host.to_str().map_err(|_| RequestError::NoHost)?),
        (None, None) if request.version <= Version::HTTP_10 => None,
        _ => return Err(RequestError::NoHost),
    };
    Ok(request.uri.authority().map(http::uri::Authority::as_str).or(given))
}

/// Whether this host name is loopback for every resolver. The port is ignored: it may be forwarded.
fn is_loopback_name(host: &str) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        let address = rest.split_once(']').map(|(address, _)| address);
        return address.and_then(|address| address.parse().ok()).is_some_and(|address| loopback(&address));
    }
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|address| loopback(&address))
}

/// Whether an address is this machine's loopback, an IPv4-mapped IPv6 address included.
pub(super) fn loopback(address: &std::net::IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

fn filter(query: &str) -> Result<Filter, RequestError> {
    let mut filter = Filter::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or(RequestError::Query)?;
        let value = value.replace('+', " ");
        let value = percent_decode_str(&value).decode_utf8().map_err(|_| RequestError::Query)?;
        let again = match key {
            "target" => filter.target.replace(value.into_owned()).is_some(),
            "state" => {
                let state = AccountState::deserialize(StrDeserializer::<de::value::Error>::new(&value));
                filter.state.replace(state.map_err(|_| RequestError::Query)?).is_some()
            }
            "runs" => filter.runs.replace(value.parse().map_err(|_| RequestError::Query)?).is_some(),
            _ => return Err(RequestError::Query),
        };
        if again {
            return Err(RequestError::Query);
        }
    }
    Ok(filter)
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn ask(uri: &str) -> Result<StatusEndpoint, RequestError> {
        read(&parts("GET", uri, &[("host", "localhost")]), true)
    }

    #[test]
    fn a_loopback_listener_answers_only_to_names_that_no_one_else_controls() {
        let asked = |host: &str, loopback| read(&parts("GET", "/live", &[("host", host)]), loopback);
        for host in
            ["localhost", "LocalHost:9653", "127.0.0.1:1", "127.9.9.9", "[::1]:9653", "[::1]", "[::ffff:127.0.0.1]:9"]
        {
            assert_eq!(asked(host, true), Ok(StatusEndpoint::Live), "{host}");
        }
        let foreign = [
            "evil.example",
            "localhost.evil.example",
            "evil.localhost:9",
            "127.0.0.1.evil.example",
            "192.0.2.1",
            "[2001:db8::1]:9",
            "[::1",
            "",
            "2130706433",
        ];
        for host in foreign {
            assert_eq!(asked(host, true), Err(RequestError::Host), "{host}");
            assert_eq!(asked(host, false), Ok(StatusEndpoint::Live), "{host}");
        }
        let absolute = parts("GET", "http://evil.example/live", &[("host", "localhost")]);
        assert_eq!(read(&absolute, true), Err(RequestError::Host));
    }

    #[test]
    fn there_is_one_host_and_only_http_1_0_goes_without() {
        let mut none = parts("GET", "/ready", &[]);
        assert_eq!(read(&none, true), Err(RequestError::NoHost));
        none.version = Version::HTTP_10;
        assert_eq!(read(&none, true), Ok(StatusEndpoint::Ready));
        let two = parts("GET", "/ready", &[("host", "localhost"), ("host", "evil.example")]);
        assert_eq!(read(&two, true), Err(RequestError::NoHost));
    }

    #[test]
    fn nothing_but_get_and_head_and_no_body() {
        let host = ("host", "localhost");
        assert_eq!(read(&parts("HEAD", "/", &[host]), true), Ok(StatusEndpoint::Index));
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"] {
            assert_eq!(read(&parts(method, "/", &[host]), true), Err(RequestError::Method), "{method}");
        }
        assert_eq!(read(&parts("GET", "/", &[host, ("content-length", "5")]), true), Err(RequestError::Body));
        assert_eq!(read(&parts("GET", "/", &[host, ("transfer-encoding", "chunked")]), true), Err(RequestError::Body));
        assert_eq!(read(&parts("GET", "/", &[host, ("content-length", "0")]), true), Ok(StatusEndpoint::Index));
    }

    #[test]
    fn a_query_names_target_state_and_runs_and_nothing_else() {
        let status = |filter| Ok(StatusEndpoint::Status(filter));
        assert_eq!(ask("/status.json"), status(Filter::default()));
        assert_eq!(ask("/status.json?"), status(Filter::default()));
        let filter = Filter { target: Some("a b&ä/+".into()), state: Some(AccountState::Failed), runs: Some(0) };
        assert_eq!(ask("/status.json?target=a+b%26%C3%A4/%2B&state=failed&runs=0"), status(filter));
        for query in ["state=bad", "state", "runs=-1", "runs=x", "target=%ff", "targets=a", "state=void&state=void"] {
            assert_eq!(ask(&format!("/status.json?{query}")), Err(RequestError::Query), "{query}");
        }
        assert_eq!(ask("/live?x=1"), Err(RequestError::Query));
    }

    #[test]
    fn there_are_four_paths() {
        for path in ["/Live", "/live/", "//live", "/status", "/status.json/", "/metrics", "/../live"] {
            assert_eq!(ask(path), Err(RequestError::Path), "{path}");
        }
    }
}

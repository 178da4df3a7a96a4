//! What is asked, and whether it may be: the path, the query, and the name by which we were called.
//!
//! Pure; [`server`](super::server) has the sockets.

use hyper::{
    Method, Version,
    header::{self, HeaderMap},
    http::request::Parts,
};
use percent_encoding::percent_decode_str;

use super::board::State;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ask {
    /// `/`: what there is.
    Index,
    /// `/live`.
    Live,
    /// `/ready`.
    Ready,
    /// `/status.json`, all of it or a part.
    Status(Filter),
}

/// Which accounts, and how much of each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Filter {
    pub(super) target: Option<String>,
    pub(super) state: Option<State>,
    /// At most so many of its runs, and of its failed runs.
    pub(super) runs: Option<usize>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// A name other than this machine's own: a page in a browser may have been given it to read what we say
    /// (DNS rebinding).
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

impl Refusal {
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

/// Reads a request; `loopback` when it came to an address that only this machine can reach.
pub(super) fn read(request: &Parts, loopback: bool) -> Result<Ask, Refusal> {
    let host = host(request)?;
    if loopback && host.is_some_and(|host| !is_ours(host)) {
        return Err(Refusal::Host);
    }
    if request.method != Method::GET && request.method != Method::HEAD {
        return Err(Refusal::Method);
    }
    if has_body(&request.headers) {
        return Err(Refusal::Body);
    }
    let query = request.uri.query();
    match request.uri.path() {
        "/status.json" => filter(query.unwrap_or_default()).map(Ask::Status),
        "/" | "/live" | "/ready" if query.is_some_and(|query| !query.is_empty()) => Err(Refusal::Query),
        "/" => Ok(Ask::Index),
        "/live" => Ok(Ask::Live),
        "/ready" => Ok(Ask::Ready),
        _ => Err(Refusal::Path),
    }
}

/// The host that was asked for. A target in absolute form beats the header (RFC 9112 §3.2.2).
fn host(request: &Parts) -> Result<Option<&str>, Refusal> {
    let mut hosts = request.headers.get_all(header::HOST).iter();
    let given = match (hosts.next(), hosts.next()) {
        (Some(host), None) => Some(host.to_str().map_err(|_| Refusal::NoHost)?),
        (None, None) if request.version <= Version::HTTP_10 => None,
        _ => return Err(Refusal::NoHost),
    };
    Ok(request.uri.authority().map(http::uri::Authority::as_str).or(given))
}

/// Whether a host is a name that nobody else can give to this machine's loopback. The port is not looked at: it may
/// have been forwarded.
fn is_ours(host: &str) -> bool {
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

fn has_body(headers: &HeaderMap) -> bool {
    let length = headers.get(header::CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0");
    length || headers.contains_key(header::TRANSFER_ENCODING)
}

fn filter(query: &str) -> Result<Filter, Refusal> {
    let mut filter = Filter::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or(Refusal::Query)?;
        let value = value.replace('+', " ");
        let value = percent_decode_str(&value).decode_utf8().map_err(|_| Refusal::Query)?;
        let again = match key {
            "target" => filter.target.replace(value.into_owned()).is_some(),
            "state" => {
                let state = State::ALL.into_iter().find(|state| state.as_str() == value);
                filter.state.replace(state.ok_or(Refusal::Query)?).is_some()
            }
            "runs" => filter.runs.replace(value.parse().map_err(|_| Refusal::Query)?).is_some(),
            _ => return Err(Refusal::Query),
        };
        if again {
            return Err(Refusal::Query);
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

    fn ask(uri: &str) -> Result<Ask, Refusal> {
        read(&parts("GET", uri, &[("host", "localhost")]), true)
    }

    #[test]
    fn a_loopback_listener_answers_only_to_names_that_nobody_else_can_give_it() {
        let asked = |host: &str, loopback| read(&parts("GET", "/live", &[("host", host)]), loopback);
        for host in
            ["localhost", "LocalHost:9653", "127.0.0.1:1", "127.9.9.9", "[::1]:9653", "[::1]", "[::ffff:127.0.0.1]:9"]
        {
            assert_eq!(asked(host, true), Ok(Ask::Live), "{host}");
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
            assert_eq!(asked(host, true), Err(Refusal::Host), "{host}");
            assert_eq!(asked(host, false), Ok(Ask::Live), "{host}");
        }
        let absolute = parts("GET", "http://evil.example/live", &[("host", "localhost")]);
        assert_eq!(read(&absolute, true), Err(Refusal::Host));
    }

    #[test]
    fn there_is_one_host_and_only_http_1_0_goes_without() {
        let mut none = parts("GET", "/ready", &[]);
        assert_eq!(read(&none, true), Err(Refusal::NoHost));
        none.version = Version::HTTP_10;
        assert_eq!(read(&none, true), Ok(Ask::Ready));
        let two = parts("GET", "/ready", &[("host", "localhost"), ("host", "evil.example")]);
        assert_eq!(read(&two, true), Err(Refusal::NoHost));
    }

    #[test]
    fn nothing_but_get_and_head_and_no_body() {
        let host = ("host", "localhost");
        assert_eq!(read(&parts("HEAD", "/", &[host]), true), Ok(Ask::Index));
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"] {
            assert_eq!(read(&parts(method, "/", &[host]), true), Err(Refusal::Method), "{method}");
        }
        assert_eq!(read(&parts("GET", "/", &[host, ("content-length", "5")]), true), Err(Refusal::Body));
        assert_eq!(read(&parts("GET", "/", &[host, ("transfer-encoding", "chunked")]), true), Err(Refusal::Body));
        assert_eq!(read(&parts("GET", "/", &[host, ("content-length", "0")]), true), Ok(Ask::Index));
    }

    #[test]
    fn a_query_names_target_state_and_runs_and_nothing_else() {
        let status = |filter| Ok(Ask::Status(filter));
        assert_eq!(ask("/status.json"), status(Filter::default()));
        assert_eq!(ask("/status.json?"), status(Filter::default()));
        let filter = Filter { target: Some("a b&ä/+".into()), state: Some(State::Failed), runs: Some(0) };
        assert_eq!(ask("/status.json?target=a+b%26%C3%A4/%2B&state=failed&runs=0"), status(filter));
        for query in ["state=bad", "state", "runs=-1", "runs=x", "target=%ff", "targets=a", "state=void&state=void"] {
            assert_eq!(ask(&format!("/status.json?{query}")), Err(Refusal::Query), "{query}");
        }
        assert_eq!(ask("/live?x=1"), Err(Refusal::Query));
    }

    #[test]
    fn there_are_four_paths() {
        for path in ["/Live", "/live/", "//live", "/status", "/status.json/", "/metrics", "/../live"] {
            assert_eq!(ask(path), Err(Refusal::Path), "{path}");
        }
    }
}

//! The proxy of telemetry: `[otlp] proxy`, and the environment's proxy variables.
//!
//! One rule for gRPC and HTTP. Without the key no proxy is used, and never one to a receiver on this host. A proxy's URL may
//! contain a password, so messages show its host and port only. Opens no connection. Called by `otlp`.

use std::{borrow::Cow, fmt};

use imaptrace_imap::Secret;
use percent_encoding::percent_decode_str;

use crate::{
    config::{sources::readers::Field, targets::url},
    delivery::HttpProxy,
    plan::{Host, Network},
};

/// How an exporter reaches its receiver, and why.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Route {
    /// The proxy; none is a direct connection.
    pub proxy: Option<HttpProxy>,
    /// The reason, unless it is the key alone.
    pub reason: Option<String>,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.proxy {
            Some(proxy) => write!(f, "proxy {proxy}")?,
            None => f.write_str("proxy none")?,
        }
        self.reason.iter().try_for_each(|reason| write!(f, " ({reason})"))
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Route({self})")
    }
}

/// The value of the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ProxySetting {
    None,
    Environment,
    Url(HttpProxy),
}

const HELP: &str = "write http://HOST:PORT, http://USER:PASSWORD@HOST:PORT, environment, or none";

/// Reads the key.
pub(crate) fn read(field: &Field<'_>) -> Option<ProxySetting> {
    let text = field.text()?;
    let setting = match text.as_str() {
        "none" => Ok(ProxySetting::None),
        "environment" => Ok(ProxySetting::Environment),
        url if url.contains("://") => parse(url).map(ProxySetting::Url),
        _ => Err("it is neither a URL nor one of the words for it".to_owned()),
    };
    setting.map_err(|problem| field.error(problem, HELP)).ok()
}

/// The route to an endpoint. `complain` receives the problem of the variable that decides it.
pub(crate) fn route(
    setting: &ProxySetting,
    endpoint: (&str, &Host, u16),
    environment: &[(String, String)],
    complain: impl FnOnce(String),
) -> Route {
    let (scheme, host, port) = endpoint;
    let direct = |reason: Option<String>| Route { proxy: None, reason };
    if *setting != ProxySetting::None && is_loopback(host) {
        return direct(Some("the receiver is on this host".to_owned()));
    }
    let get = |name: &str| environment.iter().rev().find(|(known, value)| known == name && !value.is_empty());
    let variable = || {
        let cgi = environment.iter().any(|(name, _)| name == "REQUEST_METHOD");
        let of_scheme = if scheme == "https" { ["https_proxy", "HTTPS_PROXY"] } else { ["http_proxy", "HTTP_PROXY"] };
        let names = of_scheme.into_iter().chain(["all_proxy", "ALL_PROXY"]);
        // In a CGI program the header `Proxy:` sets it (CVE-2016-5385).
        names.filter(|name| !(cgi && *name == "HTTP_PROXY")).find_map(get)
    };
    let exempting = || {
        let lists = ["no_proxy", "NO_PROXY"].into_iter().find_map(get);
        lists.filter(|(_, list)| list.split([',', ' ', '\t']).any(|entry| exempts(entry, host, port)))
    };
    match setting {
        ProxySetting::Url(proxy) => Route { proxy: Some(proxy.clone()), reason: None },
        ProxySetting::None => {
            let unused = variable().filter(|_| !is_loopback(host) && exempting().is_none());
            direct(unused.map(|(name, _)| format!("{name} is set and is not used")))
        }
        ProxySetting::Environment => {
            if let Some((name, _)) = exempting() {
                return direct(Some(format!("{name} names the receiver")));
            }
            let Some((name, value)) = variable() else {
                return direct(Some("the environment names none".to_owned()));
            };
            // The default scheme is http, as in other programs.
            let url = if value.contains("://") { value.clone() } else { format!("http://{value}") };
            match parse(&url) {
                Ok(proxy) => Route { proxy: Some(proxy), reason: Some(name.clone()) },
                Err(problem) => {
                    complain(format!("the variable {name} cannot be used: {problem}"));
                    direct(None)
                }
            }
        }
    }
}

/// Reads `http://[USER[:PASSWORD]@]HOST[:PORT][/]`. The error contains no credentials.
fn parse(url: &str) -> Result<HttpProxy, String> {
    let (scheme, rest) = url.split_once("://").ok_or("it is no URL")?;
    if !scheme.eq_ignore_ascii_case("http") {
        let known = ["https", "socks", "socks4", "socks4a", "socks5", "socks5h"];
        return Err(match known.iter().find(|known| scheme.eq_ignore_ascii_case(known)) {
            Some(scheme) => format!("a proxy by {scheme}:// is not supported, only one by http:// that allows CONNECT"),
            None => "only a proxy by http:// that allows CONNECT is supported".to_owned(),
        });
    }
    // A password may contain characters that end the authority in other URLs.
    let (credentials, rest) =
        rest.rsplit_once('@').map_or((None, rest), |(credentials, rest)| (Some(credentials), rest));
    let place = rest.strip_suffix('/').unwrap_or(rest);
    if place.contains(['/', '?', '#', ' ']) {
        return Err("there is more than host and port in its URL".to_owned());
    }
    let (host, port) = url::parse_place(place).map_err(|error| match credentials {
        None => format!("its URL cannot be read: {error}"),
        Some(_) => "its URL cannot be read".to_owned(),
    })?;
    let decoded = |text: &str| percent_decode_str(text).decode_utf8().ok().map(Cow::into_owned);
    let credentials = credentials.map(|both| {
        let (user, password) = both.split_once(':').unwrap_or((both, ""));
        let (user, password) =
            decoded(user).zip(decoded(password)).ok_or("its user or password is not percent-encoded UTF-8")?;
        if user.contains(':') || [&user, &password].iter().any(|text| text.contains(char::is_control)) {
            return Err("its user or password holds a character that cannot be sent");
        }
        Ok(Secret::new(format!("{user}:{password}")))
    });
    let credentials = credentials.transpose()?;
    Ok(HttpProxy::new(&host.bracketed(), port.unwrap_or(80), credentials.as_ref().map(Secret::expose)))
}

/// Whether the host is this one by its name: a loopback address or the unspecified one, `localhost`, or a name under it (RFC
/// 6761 §6.3).
pub(crate) fn is_loopback(host: &Host) -> bool {
    match host {
        Host::Address(address) => {
            let address = address.to_canonical();
            address.is_loopback() || address.is_unspecified()
        }
        Host::Name(name) => {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            let short = name.starts_with("127.") && name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
            name == "localhost" || name.ends_with(".localhost") || short
        }
    }
}

/// Whether an entry of `NO_PROXY` includes this host. It is `*`, a network, or a name with all names under it or an address, these
/// two with or without a port.
fn exempts(entry: &str, host: &Host, port: u16) -> bool {
    let entry = entry.trim();
    if entry == "*" {
        return true;
    }
    match host {
        Host::Address(address) => {
            if entry.contains('/') {
                return entry.parse().is_ok_and(|network: Network| network.contains(*address));
            }
            let Ok((Host::Address(named), of_port)) = url::parse_place(entry) else { return false };
            named.to_canonical() == address.to_canonical() && of_port.is_none_or(|of_port| of_port == port)
        }
        Host::Name(name) => {
            let (named, of_port) = match entry.rsplit_once(':') {
                Some((named, of_port)) => (named, of_port.parse::<u16>().ok()),
                None => (entry, Some(port)),
            };
            let named = named.strip_prefix('*').unwrap_or(named).trim_matches('.').to_ascii_lowercase();
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            let under = || name.strip_suffix(&named).is_some_and(|rest| rest.ends_with('.'));
            !named.is_empty() && of_port == Some(port) && (name == named || under())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn by(setting: &ProxySetting, url: &str, pairs: &[(&str, &str)]) -> String {
        let (scheme, place) = url.split_once("://").unwrap();
        let (host, port) = url::parse_place(place).unwrap();
        let mut problem = None;
        let route =
            route(setting, (scheme, &host, port.unwrap_or(4318)), &environment(pairs), |what| problem = Some(what));
        problem.unwrap_or_else(|| route.to_string())
    }

    #[test]
    fn without_the_key_the_environment_is_named_and_not_used() {
        for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
            let shown = by(&ProxySetting::None, "http://otel.example", &[(name, "http://me:planted@p:3128")]);
            assert_eq!(shown, format!("proxy none ({name} is set and is not used)"));
            assert_eq!(by(&ProxySetting::None, "http://localhost", &[(name, "http://p:3128")]), "proxy none");
        }
        assert_eq!(by(&ProxySetting::None, "http://otel.example", &[("HTTPS_PROXY", "http://p:1")]), "proxy none");
        assert_eq!(by(&ProxySetting::None, "http://otel.example", &[("HTTP_PROXY", "")]), "proxy none");
        let exempt = [("HTTP_PROXY", "http://p:1"), ("NO_PROXY", "otel.example")];
        assert_eq!(by(&ProxySetting::None, "http://otel.example", &exempt), "proxy none");
    }

    #[test]
    fn the_schemes_own_variable_comes_first_and_small_letters_before_capitals() {
        let all = [
            ("ALL_PROXY", "http://all:1"),
            ("HTTP_PROXY", "http://plain:2"),
            ("https_proxy", "small:3/"),
            ("HTTPS_PROXY", "http://large:4"),
        ];
        let by = |url: &str, pairs: &[(&str, &str)]| by(&ProxySetting::Environment, url, pairs);
        assert_eq!(by("http://otel.example", &all), "proxy http://plain:2 (HTTP_PROXY)");
        assert_eq!(by("https://otel.example", &all), "proxy http://small:3 (https_proxy)");
        assert_eq!(by("https://otel.example", &all[..2]), "proxy http://all:1 (ALL_PROXY)");
        assert_eq!(by("https://otel.example", &all[1..2]), "proxy none (the environment names none)");
        let cgi = [&all[..2], &[("REQUEST_METHOD", "")]].concat();
        assert_eq!(by("http://otel.example", &cgi), "proxy http://all:1 (ALL_PROXY)");
        let socks = by("http://otel.example", &[("all_proxy", "socks5h://me:planted@p:1")]);
        assert!(socks.starts_with("the variable all_proxy cannot be used: a proxy by socks5h://"), "{socks}");
        assert!(!socks.contains("planted"));
    }

    #[test]
    fn a_receiver_on_this_host_is_never_reached_through_a_proxy() {
        let url = ProxySetting::Url(parse("http://p:3128").unwrap());
        for setting in [url, ProxySetting::Environment] {
            for host in [
                "localhost",
                "LocalHost.",
                "otel.localhost",
                "127.0.0.1",
                "127.9.9.9",
                "[::1]",
                "[::ffff:127.0.0.1]",
                "0.0.0.0",
                "[::]",
            ] {
                let shown = by(&setting, &format!("http://{host}:4318"), &[("ALL_PROXY", "http://p:3128")]);
                assert_eq!(shown, "proxy none (the receiver is on this host)", "{host}");
            }
            for host in ["localhost.example", "notlocalhost", "128.0.0.1", "[::2]", "otel"] {
                let shown = by(&setting, &format!("http://{host}:4318"), &[("ALL_PROXY", "http://p:3128")]);
                assert!(shown.starts_with("proxy http://p:3128"), "{host}: {shown}");
            }
        }
    }

    #[test]
    fn no_proxy_matches_names_domains_ports_addresses_networks_and_all() {
        for (list, host, exempt) in [
            ("*", "otel.example", true),
            ("otel.example", "otel.example", true),
            ("OTEL.Example.", "otel.example.", true),
            ("example", "otel.example", true),
            (".example", "otel.example", true),
            ("*.example", "otel.example", true),
            ("ample", "otel.example", false),
            ("tel.example", "otel.example", false),
            ("a.otel.example", "otel.example", false),
            ("otel.example:4318", "otel.example", true),
            (".example:4318", "otel.example", true),
            ("otel.example:4317", "otel.example", false),
            ("otel.example:", "otel.example", false),
            ("other, otel.example", "otel.example", true),
            ("other otel.example", "otel.example", true),
            ("", "otel.example", false),
            (", ,.", "otel.example", false),
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "11.1.2.3", false),
            ("0.0.0.0/0", "11.1.2.3", true),
            ("10.1.2.3/32", "10.1.2.3", true),
            ("10.0.0.0/33", "10.0.0.0", false),
            ("10.0.0.0/8", "[fd00::1]", false),
            ("fd00::/8", "[fd12::1]", true),
            ("fd00::/8", "[fe80::1]", false),
            ("::/0", "[fe80::1]", true),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3:4318", "10.1.2.3", true),
            ("10.1.2.3:80", "10.1.2.3", false),
            ("fd12::1", "[fd12::1]", true),
            ("[fd12::1]", "[fd12::1]", true),
            ("[fd12::1]:4318", "[fd12::1]", true),
            ("[fd12::1]:80", "[fd12::1]", false),
            ("2.3", "10.1.2.3", false),
        ] {
            for name in ["NO_PROXY", "no_proxy"] {
                let shown = by(
                    &ProxySetting::Environment,
                    &format!("http://{host}"),
                    &[("HTTP_PROXY", "http://p:3128"), (name, list)],
                );
                let expected = if exempt {
                    format!("proxy none ({name} names the receiver)")
                } else {
                    "proxy http://p:3128 (HTTP_PROXY)".to_owned()
                };
                assert_eq!(shown, expected, "{list:?} {host}");
            }
        }
        // It does not apply to a proxy that the configuration names.
        let url = ProxySetting::Url(parse("http://p:3128").unwrap());
        assert_eq!(by(&url, "http://otel.example", &[("NO_PROXY", "*")]), "proxy http://p:3128");
    }

    #[test]
    fn credentials_are_decoded_and_never_shown() {
        let proxy = parse("HTTP://me%40x:ca%3Anary%2F@[fd12::1]:3128/").unwrap();
        assert_eq!(proxy, HttpProxy::new("[fd12::1]", 3128, Some("me@x:ca:nary/")));
        assert_eq!(proxy.to_string(), "http://[fd12::1]:3128");
        assert!(!format!("{proxy:?} {:?}", ProxySetting::Url(proxy.clone())).contains("nary"));
        assert_eq!(parse("http://me@p"), Ok(HttpProxy::new("p", 80, Some("me:"))));
        assert_eq!(parse("http://p"), Ok(HttpProxy::new("p", 80, None)));
        // Not encoded as it should be.
        assert_eq!(parse("http://me:can/ary@p:1"), Ok(HttpProxy::new("p", 1, Some("me:can/ary"))));
        for wrong in [
            "https://me:planted@p:1",
            "socks5://me:planted@p:1",
            "ftp://me:planted@p",
            "http://me:planted@",
            "http://me:planted@p:planted",
            "http://me:planted@p:1/planted",
            "http://me:planted%ff@p:1",
            "http://me:planted%0d%0a@p:1",
            "http://planted/",
            "http://",
        ] {
            match parse(wrong) {
                Err(problem) => assert!(!problem.contains("planted"), "{wrong}: {problem}"),
                Ok(proxy) => assert_eq!((wrong, proxy.to_string().as_str()), ("http://planted/", "http://planted:80")),
            }
        }
    }
}

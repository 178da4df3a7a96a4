//! `targets_from_srv` and `targets_from_http` of a group, with `hosts`, `refresh` and `shrink`: where its targets come from.
//!
//! Asks nothing; `discovery` does, and `group` takes its answers. No problem shows a URL's query. Called by `group`.

use std::{collections::BTreeSet, time::Duration};

use imaptrace_imap::Secret;

use crate::{
    config::{
        settings::proxy,
        sources::{
            readers::{Field, Table},
            schema::TableKeys,
        },
        targets::{account, url},
    },
    discovery::{HttpCredentials, HttpSource, SourceId, SourceKind, TargetSource, is_every_host, last_label},
    plan::{Glob, Host, Security},
};

pub(crate) static HTTP: TableKeys =
    TableKeys::new("groups.targets_from_http", &["url", "ca_file", "user", "password", "bearer", "timeout"]);

/// The keys that say where targets come from.
pub(super) const KEYS: [&str; 2] = ["targets_from_srv", "targets_from_http"];
/// The sources of one group.
const MOST: usize = 100;
/// The default of `refresh`, as of Prometheus's HTTP service discovery.
const REFRESH: Duration = Duration::from_secs(60);
/// The default of `timeout`.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The sources of a group with this name, whose servers have this security.
pub(super) fn read(table: &Table<'_>, group: &str, security: Option<Security>) -> Vec<TargetSource> {
    let hosts = table.get("hosts").map(|field| read_hosts(&field)).unwrap_or_default();
    let within = Duration::from_secs(1)..=Duration::from_secs(86_400);
    let refresh = table.read("refresh", |field| field.duration_within(within)).unwrap_or(REFRESH);
    let shrink = table.read("shrink", Field::bool).unwrap_or(false);
    let mut found: Vec<(Field<'_>, String, SourceKind)> = Vec::new();
    for (field, domain) in table.read("targets_from_srv", Field::list).unwrap_or_default() {
        let name = service(&field, &domain, security);
        found.extend(name.map(|name| (field, name, SourceKind::Srv)));
    }
    if let Some(field) = table.get("targets_from_http") {
        let tables = if field.is_list() { table.tables("targets_from_http", &HTTP) } else { vec![field.table(&HTTP)] };
        for source in &tables {
            found.extend(read_http(source).map(|(name, source)| (field.clone(), name, SourceKind::Http(source))));
        }
    }
    let is_given = KEYS.iter().any(|key| table.has(key));
    if !is_given {
        for key in ["hosts", "refresh", "shrink"].into_iter().filter(|key| table.has(key)) {
            let help = "add targets_from_srv or targets_from_http, or take it out";
            table.warn(key, "it has no effect without a source of targets", help);
        }
    } else if !table.has("hosts") {
        let what = "a source of targets decides where the group's passwords go, and there is no `hosts`";
        let help = "add hosts = [\"*.example.org\"]: the hosts that may get them";
        let key = if table.has("targets_from_srv") { "targets_from_srv" } else { "targets_from_http" };
        table.error(key, what, help);
    }
    if found.len() > MOST {
        table.error("targets_from_http", format!("a group has at most {MOST} sources"), "share them out over groups");
    }
    let mut names = BTreeSet::new();
    let mut sources = Vec::new();
    for (field, name, kind) in found {
        if !names.insert(name.clone()) {
            let help = "name each source once; two URLs that differ in their query alone belong in two groups";
            field.error("another source of this group has the same name, or the same address without its query", help);
        }
        let id = SourceId { group: group.to_owned(), name };
        sources.push(TargetSource { id, kind, hosts: hosts.clone(), refresh, shrink });
    }
    sources
}

fn read_hosts(field: &Field<'_>) -> Vec<Glob> {
    const HELP: &str = "write the hosts that may get the passwords, such as [\"*.example.org\"]";
    let words = field.list().unwrap_or_default();
    if words.is_empty() && field.is_list() {
        field.error("it is empty: no target could be probed", HELP);
    }
    for (word, text) in &words {
        if text.contains(['/', ':', ' ']) && text.parse::<std::net::Ipv6Addr>().is_err() {
            word.error("it is more than a host", "write a host without scheme and port, such as \"*.example.org\"");
        } else if is_every_host(text) {
            word.warn("it matches every host: the source alone decides which hosts get the passwords", HELP);
        } else if last_label(text.trim_end_matches('.')).contains('*')
            && text.bytes().any(|byte| byte.is_ascii_alphabetic())
        {
            word.error("its last label has a `*`, so the names of any domain could fit", HELP);
        } else if text.starts_with('*') && !text.starts_with("*.") {
            let help = format!("write \"*.{}\"", text.trim_start_matches('*'));
            word.warn("it fits the names of other domains, too", help);
        }
    }
    words.into_iter().map(|(_, text)| Glob::new(text.to_ascii_lowercase().trim_end_matches('.'))).collect()
}

/// The name to ask for (RFC 6186 §3.2).
fn service(field: &Field<'_>, domain: &str, security: Option<Security>) -> Option<String> {
    let host = match Host::parse(domain) {
        Ok(Host::Name(name)) if !domain.starts_with('_') => name,
        _ => {
            let help =
                "write the domain alone, such as \"example.org\": _imaps._tcp is added, or _imap._tcp by security";
            field.error("it is not the name of a domain", help);
            return None;
        }
    };
    let host = host.strip_suffix('.').unwrap_or(&host).to_ascii_lowercase();
    // An error in it was noted.
    let service = if security.unwrap_or(Security::Tls) == Security::Tls { "_imaps" } else { "_imap" };
    Some(format!("{service}._tcp.{host}"))
}

/// The name of a source, and its settings.
fn read_http(table: &Table<'_>) -> Option<(String, HttpSource)> {
    let help = "add url = \"https://HOST/PATH\"";
    if !table.has("url") {
        table.error("url", "the source has no url", help);
    }
    let url = table.read("url", read_url);
    let ca_file = table.read("ca_file", Field::file);
    let within = Duration::from_millis(100)..=Duration::from_secs(300);
    let timeout = table.read("timeout", |field| field.duration_within(within)).unwrap_or(TIMEOUT);
    let user = table.read("user", |field| field.text().filter(|user| is_user(field, user)));
    let password = table.read("password", account::secret);
    let bearer = table.read("bearer", account::secret);
    match [table.has("user"), table.has("password"), table.has("bearer")] {
        [true, false, false] => table.error("user", "there is no password with it", "add password = { file = \"…\" }"),
        [false, true, _] => table.error("password", "there is no user with it", "add user = \"…\""),
        [true, _, true] => table.error("bearer", "there are a user and a bearer token", "take one of them out"),
        _ => {}
    }
    let (name, url) = url?;
    let credentials = match (user, password, bearer) {
        (Some(user), Some(password), None) => Some(HttpCredentials::Basic { user, password }),
        (None, None, Some(token)) => Some(HttpCredentials::Bearer(token)),
        _ => None,
    };
    Some((name, HttpSource { url: Secret::new(url), ca_file, credentials, timeout }))
}

/// RFC 7617 §2: the first colon ends the user name.
fn is_user(field: &Field<'_>, user: &str) -> bool {
    if user.contains(':') {
        field.error("a user name of HTTP has no colon", "take it out");
    }
    !user.contains(':')
}

/// The URL without its query, and the whole URL. A problem shows neither.
fn read_url(field: &Field<'_>) -> Option<(String, String)> {
    let text = field.text()?;
    let refuse = |what: &str, help: &str| {
        field.error(format!("the URL {what}"), help);
        None
    };
    let Some((scheme, rest)) = text.split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https")) else {
        return refuse("does not begin with https://", "write https://HOST[:PORT]/PATH");
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end).unwrap_or((rest, ""));
    if authority.contains('@') {
        return refuse("holds a user name or password", "write user and password beside it");
    }
    if path.contains(['#', ' ']) || !path.is_ascii() {
        return refuse("holds `#`, a space or more than ASCII", "percent-encode it");
    }
    let host = match url::parse_place(authority) {
        Ok((host, _)) => host,
        Err(error) => return refuse(&format!("cannot be used: {error}"), "write https://HOST[:PORT]/PATH"),
    };
    if scheme == "http" && !proxy::is_loopback(&host) {
        let what = "is not https://: an attacker on the network path could decide which hosts get the passwords";
        return refuse(what, "write https://; http:// is for this host alone, such as http://127.0.0.1:9000/targets");
    }
    let path = path.split('?').next().unwrap_or_default();
    Some((format!("{scheme}://{authority}{path}"), text))
}

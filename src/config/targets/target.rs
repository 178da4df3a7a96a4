//! From `[defaults]` and `[[targets]]`, or from the `probe` command line, to [`plan::Target`](crate::plan::Target).
//!
//! Knows what each key means; `agree` knows which go together. Reads no file and looks nothing up. Called by `load` and
//! `probe`.

use std::{collections::BTreeMap, net::IpAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use super::consistency::{check_families, family};
pub(crate) use super::consistency::{check_own_pair, check_pair, check_times};
use crate::{
    config::{
        keys,
        sources::readers::{Field, Table},
        targets::{
            account::{self, Needs, Whose},
            expand::Fill,
            url::{self, ServerUrl},
        },
    },
    plan::{
        Account, AddressChoice, Auth, Deadlines, Endpoint, Host, Journey, Limits, Mailbox, Open, ProxyProtocol,
        Security, TagStyle, Target, Timing, TlsOptions, Window,
    },
    secret::SecretSource,
};

const SECURITY: &[(&str, Security)] =
    &[("tls", Security::Tls), ("starttls", Security::StartTls), ("none", Security::None)];
const OPEN: &[(&str, Open)] = &[("select", Open::Select), ("examine", Open::Examine)];
const WINDOW: &[(&str, Window)] = &[("newest", Window::Newest), ("random", Window::Random)];
const TAG: &[(&str, TagStyle)] = &[("span_id", TagStyle::SpanId), ("short", TagStyle::Short)];
const AUTH: &[(&str, Auth)] = &[
    ("auto", Auth::Auto),
    ("scram-sha-256", Auth::ScramSha256),
    ("plain", Auth::Plain),
    ("login", Auth::Login),
    ("external", Auth::External),
];
const ADDRESS: &[(&str, AddressChoice)] =
    &[("any", AddressChoice::Any), ("v4", AddressChoice::V4), ("v6", AddressChoice::V6), ("each", AddressChoice::Each)];
const PROXY: &[(&str, Proxy)] =
    &[("off", Proxy(None)), ("v1", Proxy(Some(ProxyProtocol::V1))), ("v2", Proxy(Some(ProxyProtocol::V2)))];

/// The words of a key that has one of a closed list.
#[cfg(test)]
pub(crate) fn choices(key: &str) -> Option<Vec<&'static str>> {
    fn of<T>(words: &[(&'static str, T)]) -> Vec<&'static str> {
        words.iter().map(|(word, _)| *word).collect()
    }
    match key {
        "security" => Some(of(SECURITY)),
        "auth" => Some(of(AUTH)),
        "address" => Some(of(ADDRESS)),
        "window" => Some(of(WINDOW)),
        "tag" => Some(of(TAG)),
        _ => None,
    }
}

/// More would end in the limit on responses of one command, whatever the server does.
const MOST_NEWEST: u64 = 100_000;

/// Of a step or a run. In less a healthy server over a slow line has no time to answer; a run that hangs holds one of the
/// places in flight for as long.
const DEADLINE: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);

/// What `proxy_protocol` says; a target can switch off what `[defaults]` switches on.
#[derive(Clone, Copy)]
pub(super) struct Proxy(Option<ProxyProtocol>);

/// What stands in `[defaults]` or in a target: the same keys in both.
#[derive(Clone, Default)]
pub(crate) struct Options {
    pub(super) security: Option<Security>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) server_name: Option<String>,
    pub(super) insecure: Option<bool>,
    pub(super) alpn: Option<bool>,
    pub(super) client_cert: Option<PathBuf>,
    pub(super) client_key: Option<PathBuf>,
    pub(super) mailbox: Option<Mailbox>,
    pub(super) newest: Option<u32>,
    pub(super) window: Option<Window>,
    pub(super) cold: Option<bool>,
    pub(super) timeout: Option<Duration>,
    pub(super) interval: Option<Duration>,
    pub(super) open: Option<Open>,
    pub(super) tag: Option<TagStyle>,
    pub(super) auth: Option<Auth>,
    /// `auth` is there and could not be read: whatever depends on it was told of already.
    pub(super) auth_misread: bool,
    pub(super) address: Option<AddressChoice>,
    pub(super) source_address: Option<IpAddr>,
    pub(super) proxy_protocol: Option<Proxy>,
    pub(super) resolve: Option<Duration>,
    pub(super) connect: Option<Duration>,
    pub(super) tls: Option<Duration>,
    pub(super) greeting: Option<Duration>,
    pub(super) command: Option<Duration>,
    pub(super) write: Option<Duration>,
    pub(super) logout: Option<Duration>,
}

impl Options {
    /// Reads them all.
    pub(crate) fn read(table: &Table<'_>) -> Self {
        let deadlines = table.table("deadlines", &keys::DEADLINES);
        let deadline = |key| deadlines.get(key).and_then(|field| field.duration_within(&DEADLINE));
        if let Some(journey) = table.get("journey") {
            journey.choice(&[(Journey::FIRST_LOAD, ())]);
        }
        let window = table.get("window").and_then(|field| field.choice(WINDOW));
        let cold = table.get("cold").and_then(|field| field.bool());
        if cold == Some(true) && window == Some(Window::Newest) {
            let what = "a cold run reads old messages, and window = \"newest\" asks for the newest ones";
            table.error("cold", what, "take window out: a cold run chooses its messages by itself");
        }
        let auth = table.get("auth").and_then(|field| field.choice(AUTH));
        Self {
            security: table.get("security").and_then(|field| field.choice(SECURITY)),
            ca_file: table.get("ca_file").and_then(|field| field.file()),
            server_name: table.get("server_name").and_then(|field| server_name(&field)),
            insecure: table.get("insecure").and_then(|field| field.bool()),
            alpn: table.get("alpn").and_then(|field| field.bool()),
            client_cert: table.get("client_cert").and_then(|field| field.file()),
            client_key: table.get("client_key").and_then(|field| field.file()),
            mailbox: table.get("mailbox").and_then(|field| mailbox(&field)),
            newest: table.get("newest").and_then(|field| field.number(1, MOST_NEWEST)?.try_into().ok()),
            window,
            cold,
            timeout: table.get("timeout").and_then(|field| field.duration_within(&DEADLINE)),
            interval: table.get("interval").and_then(|field| field.duration()),
            open: table.get("open").and_then(|field| field.choice(OPEN)),
            tag: table.get("tag").and_then(|field| field.choice(TAG)),
            auth,
            auth_misread: auth.is_none() && table.has("auth"),
            address: table.get("address").and_then(|field| field.choice(ADDRESS)),
            source_address: table.get("source_address").and_then(|field| address(&field)),
            proxy_protocol: table.get("proxy_protocol").and_then(|field| field.choice(PROXY)),
            resolve: deadline("resolve"),
            connect: deadline("connect"),
            tls: deadline("tls"),
            greeting: deadline("greeting"),
            command: deadline("command"),
            write: deadline("write"),
            logout: deadlines.get("logout").and_then(|field| logout(&field)),
        }
    }

    /// These, and where they say nothing, those.
    pub(crate) fn over(&self, below: &Self) -> Self {
        // What the upper one says of the choice of messages, the lower one cannot gainsay.
        let cold = self.cold.or_else(|| below.cold.filter(|_| self.window != Some(Window::Newest)));
        let window = self.window.or_else(|| below.window.filter(|_| self.cold != Some(true)));
        Self {
            security: self.security.or(below.security),
            ca_file: self.ca_file.clone().or_else(|| below.ca_file.clone()),
            server_name: self.server_name.clone().or_else(|| below.server_name.clone()),
            insecure: self.insecure.or(below.insecure),
            alpn: self.alpn.or(below.alpn),
            client_cert: self.client_cert.clone().or_else(|| below.client_cert.clone()),
            client_key: self.client_key.clone().or_else(|| below.client_key.clone()),
            mailbox: self.mailbox.clone().or_else(|| below.mailbox.clone()),
            newest: self.newest.or(below.newest),
            window,
            cold,
            timeout: self.timeout.or(below.timeout),
            interval: self.interval.or(below.interval),
            open: self.open.or(below.open),
            tag: self.tag.or(below.tag),
            auth: self.auth.or(below.auth),
            auth_misread: self.auth_misread || (self.auth.is_none() && below.auth_misread),
            address: self.address.or(below.address),
            source_address: self.source_address.or(below.source_address),
            proxy_protocol: self.proxy_protocol.or(below.proxy_protocol),
            resolve: self.resolve.or(below.resolve),
            connect: self.connect.or(below.connect),
            tls: self.tls.or(below.tls),
            greeting: self.greeting.or(below.greeting),
            command: self.command.or(below.command),
            write: self.write.or(below.write),
            logout: self.logout.or(below.logout),
        }
    }

    /// What a login by these needs, as far as is known.
    pub(crate) fn needs(&self) -> Needs {
        match self.auth {
            Some(Auth::External) => Needs::NoPassword,
            _ if self.auth_misread => Needs::Unknown,
            _ => Needs::Password,
        }
    }

    pub(super) fn interval(&self, defaults: &Self) -> Duration {
        self.interval.or(defaults.interval).unwrap_or(Duration::from_secs(60))
    }

    pub(super) fn deadlines(&self, defaults: &Self) -> Deadlines {
        let standard = Deadlines::default();
        Deadlines {
            run: self.timeout.or(defaults.timeout).unwrap_or(standard.run),
            resolve: self.resolve.or(defaults.resolve).unwrap_or(standard.resolve),
            connect: self.connect.or(defaults.connect).unwrap_or(standard.connect),
            tls: self.tls.or(defaults.tls).unwrap_or(standard.tls),
            greeting: self.greeting.or(defaults.greeting).unwrap_or(standard.greeting),
            command: self.command.or(defaults.command).unwrap_or(standard.command),
            write: self.write.or(defaults.write).unwrap_or(standard.write),
            logout: self.logout.or(defaults.logout).unwrap_or(standard.logout),
        }
    }

    fn journey(&self, defaults: &Self, url: Option<&Mailbox>) -> Option<Journey> {
        let mailbox = self.mailbox.as_ref().or(url).or(defaults.mailbox.as_ref()).cloned();
        // A default that does not go with what the target says itself is not meant for it: newest messages are not cold.
        let meant = defaults.cold.filter(|_| self.window != Some(Window::Newest));
        let cold = self.cold.or(meant).unwrap_or(false);
        let window = self.window.or(defaults.window).filter(|_| !cold);
        let window = window.unwrap_or(if cold { Window::Random } else { Window::Newest });
        Some(Journey {
            mailbox: mailbox.or_else(|| Mailbox::new("INBOX").ok())?,
            open: self.open.or(defaults.open).unwrap_or(Open::Select),
            newest: self.newest.or(defaults.newest).unwrap_or(20),
            window,
            cold,
            auth: self.auth.or(defaults.auth).unwrap_or(Auth::Auto),
            tag: self.tag.or(defaults.tag).unwrap_or(TagStyle::SpanId),
        })
    }

    fn tls(&self, defaults: &Self) -> TlsOptions {
        TlsOptions {
            ca_file: self.ca_file.clone().or_else(|| defaults.ca_file.clone()),
            server_name: self.server_name.clone().or_else(|| defaults.server_name.clone()),
            insecure: self.insecure.or(defaults.insecure).unwrap_or(false),
            alpn: self.alpn.or(defaults.alpn).unwrap_or(true),
            client_cert: self.client_cert.clone().or_else(|| defaults.client_cert.clone()),
            client_key: self.client_key.clone().or_else(|| defaults.client_key.clone()),
        }
    }
}

/// What a target of the command line has that one of the file has not.
pub(crate) enum Kind<'a> {
    /// From `[[targets]]`.
    Listed,
    /// From `probe SERVER`, with the password that was found, if any, outside flags and URL.
    Probe(Option<&'a SecretSource>),
}

/// Reads one target. None when something was wrong; it has been noted then.
///
/// `[defaults]` comes as it stands, to point at, and as it was read.
pub(crate) fn read(
    table: &Table<'_>,
    (defaults_table, defaults): (&Table<'_>, &Options),
    common: Common,
    kind: &Kind<'_>,
) -> Option<Target> {
    let options = Options::read(table);
    let url = read_url(table);
    let name = match kind {
        Kind::Listed => read_name(table),
        Kind::Probe(_) => url.as_ref().map(|url| url.host.to_string()),
    };
    let whose = match kind {
        Kind::Listed => Whose::Target,
        Kind::Probe(password) => Whose::Probe(*password),
    };
    let settings = options.over(defaults);
    let accounts = account::read(table, url.as_ref(), &whose, settings.needs());
    let labels = read_labels(table, None);
    if matches!(kind, Kind::Listed) {
        check_times(table, defaults_table, &settings);
    }
    check_own_pair(table, &settings);

    let url = url?;
    let place = Place { keys: table, entry: table, kind };
    let way = Way::find(&place, &options, defaults, &url)?;
    settle(name?, None, way, accounts, labels, (&options, defaults), &url, common)
}

/// What holds for all targets alike.
#[derive(Clone, Copy)]
pub(crate) struct Common {
    pub(crate) limits: Limits,
    pub(crate) timing: Timing,
}

/// Where to note what: what is a key's fault and said once, and what is so for one target out of many.
pub(crate) struct Place<'a, 'b> {
    pub(crate) keys: &'b Table<'a>,
    pub(crate) entry: &'b Table<'a>,
    pub(crate) kind: &'b Kind<'b>,
}

/// How to get to a target.
pub(crate) struct Way {
    pub(crate) endpoint: Endpoint,
    pub(crate) security: Security,
    address: AddressChoice,
    source_address: Option<IpAddr>,
}

impl Way {
    /// None when URL and keys do not go together.
    pub(crate) fn find(place: &Place<'_, '_>, options: &Options, defaults: &Options, url: &ServerUrl) -> Option<Self> {
        let table = place.entry;
        let literal = match &url.host {
            Host::Address(address) => Some(family(*address)),
            Host::Name(_) => None,
        };
        // A default that does not go with this target's address is not meant for it.
        let default = defaults.address.filter(|choice| literal.is_none_or(|literal| *choice == literal));
        let address = options.address.or(default).unwrap_or(AddressChoice::Any);
        let source_address = options.source_address.or(defaults.source_address);
        check_families(table, literal, address, source_address.map(family));
        // Nor one that does not go with its scheme.
        let asked = options
            .security
            .or_else(|| defaults.security.filter(|security| url::security(url.scheme, Some(*security)).is_ok()));
        let help = "change the scheme of the URL, or the security";
        let (security, endpoint) =
            url::resolve(url, asked).map_err(|error| table.error("security", error.to_string(), help)).ok()?;
        if security == Security::None && options.auth.or(defaults.auth) == Some(Auth::External) {
            let what = "external is a login by a client certificate, which nobody sees without TLS";
            place.keys.error("auth", what, "set security = \"tls\" or \"starttls\"");
        }
        if security == Security::None {
            let help = "use it on a network that nobody else can listen to, or not at all";
            place.keys.warn("security", "user name, password and mail go over the network in clear text", help);
        } else if options.insecure.or(defaults.insecure).unwrap_or(false) {
            let help = match place.kind {
                Kind::Listed => "set ca_file to the server's own root certificate instead",
                Kind::Probe(_) => "give the server's own root certificate with --ca-file instead",
            };
            place.keys.warn("insecure", "the server's certificate is not checked: anybody could answer", help);
        }
        Some(Self { endpoint, security, address, source_address })
    }
}

/// Puts a target together.
#[expect(clippy::too_many_arguments, reason = "each is a part of a target")]
pub(crate) fn settle(
    name: String,
    group: Option<String>,
    way: Way,
    accounts: Vec<Account>,
    labels: BTreeMap<String, String>,
    (options, defaults): (&Options, &Options),
    url: &ServerUrl,
    common: Common,
) -> Option<Target> {
    Some(Target {
        name,
        group,
        endpoint: way.endpoint,
        security: way.security,
        tls: options.tls(defaults),
        accounts,
        labels,
        journey: options.journey(defaults, url.mailbox.as_ref())?,
        interval: options.interval(defaults),
        deadlines: options.deadlines(defaults),
        limits: common.limits,
        timing: common.timing,
        address: way.address,
        source_address: way.source_address,
        proxy_protocol: options.proxy_protocol.or(defaults.proxy_protocol).and_then(|proxy| proxy.0),
    })
}

fn read_name(table: &Table<'_>) -> Option<String> {
    let Some(field) = table.get("name") else {
        table.error("name", "the target has no name", "add name = \"…\": traces and metrics call it so");
        return None;
    };
    field.text()
}

fn read_url(table: &Table<'_>) -> Option<ServerUrl> {
    let Some(field) = table.get("url") else {
        table.error("url", "the target has no url", "add url = \"imaps://HOST\"");
        return None;
    };
    let text = field.text()?;
    match url::parse(&text) {
        Ok(url) => Some(url),
        Err(error) => {
            let help = url::meant(&text).map(|meant| format!("did you mean {meant}?")).unwrap_or_default();
            field.error(format!("it cannot be used: {error}"), help);
            None
        }
    }
}

/// Keys of a target that are hardly ever the name of a label.
const OWN_KEYS: &[&str] = &[
    "url",
    "master_user",
    "password",
    "accounts",
    "ca_file",
    "server_name",
    "client_cert",
    "client_key",
    "newest",
    "timeout",
    "interval",
    "source_address",
    "proxy_protocol",
    "deadlines",
];

/// Reads labels, with what a group fills in.
pub(crate) fn read_labels(table: &Table<'_>, fill: Option<&Fill<'_>>) -> BTreeMap<String, String> {
    let Some(field) = table.get("labels") else { return BTreeMap::new() };
    let mut labels = BTreeMap::new();
    for (key, value) in field.entries() {
        if !is_label(key) {
            value.error(NO_LABEL, "rename it");
        } else if !value.foreign(key, OWN_KEYS, "a label", value.as_text().is_some())
            && let Some(text) = account::filled(&value, fill)
        {
            labels.insert(key.to_owned(), text);
        }
    }
    labels
}

pub(crate) const NO_LABEL: &str = "a label's key is made of letters, digits, `_`, `-` and `.`";

pub(crate) fn is_label(key: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    !key.is_empty() && key.bytes().all(plain)
}

fn mailbox(field: &Field<'_>) -> Option<Mailbox> {
    let Some(text) = field.as_text() else {
        field.text();
        return None;
    };
    Mailbox::new(text).map_err(|error| field.error(error.to_string(), "")).ok()
}

fn server_name(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    let host = Host::parse(&text).map_err(|error| field.error(error.to_string(), "give the name in the certificate"));
    host.ok().map(|host| host.to_string())
}

fn address(field: &Field<'_>) -> Option<IpAddr> {
    let text = field.text()?;
    text.parse().map_err(|_| field.error("it is not an IP address", "write it as 192.0.2.7 or 2001:db8::7")).ok()
}

/// LOGOUT lies outside the run's deadline, so its own stays short (docs/configuration.md).
fn logout(field: &Field<'_>) -> Option<Duration> {
    field.duration_within(&(*DEADLINE.start()..=Deadlines::default().logout))
}

/// Notes every name that stands twice.
pub(crate) fn check_unique(targets: &[Table<'_>]) {
    let mut seen = BTreeMap::new();
    for (index, table) in targets.iter().enumerate() {
        let Some(name) = table.get("name").and_then(|field| field.as_text()) else { continue };
        if let Some(first) = seen.get(name) {
            table.error("name", format!("targets[{first}] has the same name"), "give each target a name of its own");
        } else {
            seen.insert(name, index);
        }
    }
}

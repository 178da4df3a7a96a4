//! From `[defaults]` and `[[targets]]`, or from the `probe` command line, to [`plan::Target`](crate::plan::Target).
//!
//! `options` has the keys and merges the levels, `consistency` knows which values go together. Reads no file and looks nothing
//! up. Called by `load` and `group`.

use std::collections::BTreeMap;

use super::{
    account::{self, Owner},
    consistency::{check_families, check_own_pair, check_times},
    expand::Placeholders,
    options::{Options, family},
    url::{self, ServerUrl},
};
use crate::{
    config::sources::readers::Table,
    plan::{
        Account, Auth, Deadlines, Endpoint, Journey, Limits, Mailbox, Security, Target, Timing, TlsOptions, Window,
    },
    secret::SecretSource,
};

/// What a target of the command line has that one of the file has not.
pub(crate) enum TargetOrigin<'a> {
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
    common: SharedSettings,
    kind: &TargetOrigin<'_>,
) -> Option<Target> {
    let own = Options::read(table);
    let url = read_url(table);
    let name = match kind {
        TargetOrigin::Listed => read_name(table),
        TargetOrigin::Probe(_) => url.as_ref().map(|url| url.host.to_string()),
    };
    let owner = match kind {
        TargetOrigin::Listed => Owner::Target,
        TargetOrigin::Probe(password) => Owner::Probe(*password),
    };
    let options = own.over(defaults);
    let accounts = account::read(table, url.as_ref(), &owner, options.needs());
    let labels = read_labels(table, None);
    if matches!(kind, TargetOrigin::Listed) {
        check_times(table, defaults_table, &options);
    }
    check_own_pair(table, &options);

    let url = url?;
    let options = own.over(&Options::of_url(&url).over(defaults));
    let place = ReportPlaces { keys: table, entry: table, kind };
    let server = SecuredEndpoint::find(&place, &options, &url)?;
    settle(name?, None, server, accounts, labels, options, common)
}

/// Settings that hold for all targets.
#[derive(Clone, Copy)]
pub(crate) struct SharedSettings {
    pub(crate) limits: Limits,
    pub(crate) timing: Timing,
}

/// Where problems are reported: one with a key at the key, once, and one with a target at that target.
pub(crate) struct ReportPlaces<'a, 'b> {
    pub(crate) keys: &'b Table<'a>,
    pub(crate) entry: &'b Table<'a>,
    pub(crate) kind: &'b TargetOrigin<'b>,
}

/// How to get to a target.
pub(crate) struct SecuredEndpoint {
    pub(crate) endpoint: Endpoint,
    pub(crate) security: Security,
}

impl SecuredEndpoint {
    /// None when URL and keys do not go together.
    pub(crate) fn find(place: &ReportPlaces<'_, '_>, options: &Options, url: &ServerUrl) -> Option<Self> {
        let table = place.entry;
        check_families(table, options.literal(), options.address(), options.source_address.map(family));
        let help = "change the scheme of the URL, or the security";
        let (security, endpoint) = url::resolve(url, options.security)
            .map_err(|error| table.error("security", error.to_string(), help))
            .ok()?;
        if security == Security::None && options.auth() == Auth::External {
            let what = "external is a login by a client certificate, which nobody sees without TLS";
            place.keys.error("auth", what, "set security = \"tls\" or \"starttls\"");
        }
        if security == Security::None {
            let help = "use it on a network that nobody else can listen to, or not at all";
            place.keys.warn("security", "user name, password and mail go over the network in clear text", help);
        } else if options.insecure() {
            let help = match place.kind {
                TargetOrigin::Listed => "set ca_file to the server's own root certificate instead",
                TargetOrigin::Probe(_) => "give the server's own root certificate with --ca-file instead",
            };
            place.keys.warn("insecure", "the server's certificate is not checked: anybody could answer", help);
        }
        Some(Self { endpoint, security })
    }
}

/// Puts a target together.
pub(crate) fn settle(
    name: String,
    group: Option<String>,
    server: SecuredEndpoint,
    accounts: Vec<Account>,
    labels: BTreeMap<String, String>,
    options: Options,
    common: SharedSettings,
) -> Option<Target> {
    Some(Target {
        name,
        group,
        endpoint: server.endpoint,
        security: server.security,
        accounts,
        labels,
        journey: journey(&options)?,
        interval: options.interval(),
        deadlines: Deadlines {
            run: options.timeout(),
            resolve: options.resolve(),
            connect: options.connect(),
            tls: options.tls(),
            greeting: options.greeting(),
            command: options.command(),
            write: options.write(),
            logout: options.logout(),
        },
        limits: common.limits,
        timing: common.timing,
        address: options.address(),
        source_address: options.source_address,
        proxy_protocol: options.proxy_protocol(),
        tls: TlsOptions {
            insecure: options.insecure(),
            alpn: options.alpn(),
            ca_file: options.ca_file,
            server_name: options.server_name,
            client_cert: options.client_cert,
            client_key: options.client_key,
        },
    })
}

fn journey(options: &Options) -> Option<Journey> {
    let cold = options.cold();
    let window = if cold { Window::Random } else { options.window.unwrap_or(Window::Newest) };
    Some(Journey {
        mailbox: options.mailbox.clone().or_else(|| Mailbox::new("INBOX").ok())?,
        open: options.open(),
        newest: options.newest(),
        window,
        cold,
        auth: options.auth(),
        tag: options.tag(),
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
pub(crate) fn read_labels(table: &Table<'_>, fill: Option<&Placeholders<'_>>) -> BTreeMap<String, String> {
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

//! The one table of what a target can be given: each key with the tables in which it may stand, its type, its reader and its
//! default.
//!
//! [`Options`] are the values of one level; [`Options::over`] puts one level above another, and is the only place that does.
//! From the highest to the lowest the levels are: a target's own keys, its URL, its group's keys, `[defaults]`, and what
//! stands in the table here. A URL that is the group's own template stands below the group's keys. A new key is a line of the table and its use in `target`. What `user` and `password` come to is
//! decided in `account`. Called by `load`, `target` and `group`.

use std::{net::IpAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use super::url::{self, Scheme, ServerUrl};
use crate::{
    config::sources::{
        readers::{Field, Table},
        schema::TableKeys,
    },
    plan::{
        AddressChoice, Auth, Deadlines, Host, Journey, Mailbox, Open, ProxyProtocol, Security, TagStyle, TlsOptions,
        Window,
    },
};

// Tables in which a key may stand.
const GROUPS: u8 = 1;
const TARGETS: u8 = 1 << 1;
const ACCOUNTS: u8 = 1 << 2;
const IN_DEFAULTS: u8 = 1 << 3;
/// In `deadlines`, which stands in all but an account.
const IN_DEADLINES: u8 = 1 << 4;
const ALL: u8 = IN_DEFAULTS | GROUPS | TARGETS;

pub(crate) static DEFAULTS: TableKeys = TableKeys::new("defaults", &names::<{ count(IN_DEFAULTS) }>(IN_DEFAULTS));
pub(crate) static TARGET: TableKeys = TableKeys::new("targets", &names::<{ count(TARGETS) }>(TARGETS));
pub(crate) static GROUP: TableKeys = TableKeys::new("groups", &names::<{ count(GROUPS) }>(GROUPS));
pub(crate) static ACCOUNT: TableKeys = TableKeys::new("targets.accounts", &names::<{ count(ACCOUNTS) }>(ACCOUNTS));
pub(crate) static DEADLINES: TableKeys =
    TableKeys::new("defaults.deadlines", &names::<{ count(IN_DEADLINES) }>(IN_DEADLINES));

/// Makes of the table the lists of keys, [`Options`] with its readers, and a getter for each key with a default.
macro_rules! options {
    (
        { $($other:ident in $other_tables:expr;)* }
        $($key:ident: $type:ty, in $tables:expr, by $read:expr $(, or $default:expr)?;)*
    ) => {
        const KEYS: &[(&str, u8)] =
            &[$((stringify!($other), $other_tables),)* $((stringify!($key), $tables)),*];

        /// What one level says.
        #[derive(Clone, Default)]
        pub(crate) struct Options {
            $(pub(super) $key: Option<$type>,)*
            /// `auth` is there and could not be read: whatever depends on it was noted already.
            auth_misread: bool,
            /// How the URL begins.
            scheme: Option<Scheme>,
            /// The family of the IP address in the URL.
            literal: Option<AddressChoice>,
        }

        impl Options {
            /// Reads the keys of `[defaults]`, a target or a group.
            pub(crate) fn read<'a>(table: &Table<'a>) -> Self {
                let deadlines = table.table("deadlines", &DEADLINES);
                let options = Self {
                    $($key: {
                        let read: fn(&Field<'a>) -> Option<$type> = $read;
                        let table = if $tables == IN_DEADLINES { &deadlines } else { table };
                        table.get(stringify!($key)).and_then(|field| read(&field))
                    },)*
                    auth_misread: false,
                    scheme: None,
                    literal: None,
                };
                if options.cold == Some(true) && options.window == Some(Window::Newest) {
                    let what = "a cold run reads old messages, and window = \"newest\" asks for the newest ones";
                    table.error("cold", what, "take window out: a cold run chooses its messages by itself");
                }
                Self { auth_misread: options.auth.is_none() && table.has("auth"), ..options }
            }

            /// Each value of this level, or else the one of the level below.
            fn or(&self, below: &Self) -> Self {
                Self {
                    $($key: self.$key.clone().or_else(|| below.$key.clone()),)*
                    auth_misread: self.auth_misread || self.auth.is_none() && below.auth_misread,
                    scheme: self.scheme.or(below.scheme),
                    literal: self.literal.or(below.literal),
                }
            }

            $($(
                pub(super) fn $key(&self) -> $type {
                    self.$key.clone().unwrap_or_else(|| $default)
                }
            )?)*
        }
    };
}

options! {
    // Read by others, and not merged.
    {
    name in GROUPS | TARGETS | ACCOUNTS;
    targets in GROUPS;
    targets_from in GROUPS;
    url in GROUPS | TARGETS;
    user in GROUPS | TARGETS | ACCOUNTS;
    master_user in GROUPS | TARGETS | ACCOUNTS;
    password in GROUPS | TARGETS | ACCOUNTS;
    labels in GROUPS | TARGETS;
    accounts in GROUPS | TARGETS;
    deadlines in ALL;
    }
    // KEY: TYPE, in TABLES, by READER, or DEFAULT
    security: Security, in ALL, by |field| field.choice(SECURITY);
    ca_file: PathBuf, in ALL, by |field| field.file();
    server_name: String, in ALL, by server_name;
    insecure: bool, in ALL, by |field| field.bool(), or TlsOptions::default().insecure;
    alpn: bool, in ALL, by |field| field.bool(), or TlsOptions::default().alpn;
    client_cert: PathBuf, in ALL, by |field| field.file();
    client_key: PathBuf, in ALL, by |field| field.file();
    mailbox: Mailbox, in ALL, by mailbox;
    newest: u32, in ALL, by |field| field.number(1, MOST_NEWEST)?.try_into().ok(), or 20;
    window: Window, in ALL, by |field| field.choice(WINDOW);
    cold: bool, in ALL, by |field| field.bool(), or false;
    journey: (), in ALL, by |field| field.choice(&[(Journey::FIRST_LOAD, ())]);
    timeout: Duration, in ALL, by deadline, or Deadlines::default().run;
    interval: Duration, in ALL, by |field| field.duration(), or Duration::from_secs(60);
    open: Open, in ALL, by |field| field.choice(OPEN), or Open::Select;
    tag: TagStyle, in ALL, by |field| field.choice(TAG), or TagStyle::SpanId;
    auth: Auth, in ALL, by |field| field.choice(AUTH), or Auth::Auto;
    address: AddressChoice, in ALL, by |field| field.choice(ADDRESS), or AddressChoice::Any;
    source_address: IpAddr, in ALL, by address;
    proxy_protocol: Option<ProxyProtocol>, in ALL, by |field| field.choice(PROXY), or None;
    resolve: Duration, in IN_DEADLINES, by deadline, or Deadlines::default().resolve;
    connect: Duration, in IN_DEADLINES, by deadline, or Deadlines::default().connect;
    tls: Duration, in IN_DEADLINES, by deadline, or Deadlines::default().tls;
    greeting: Duration, in IN_DEADLINES, by deadline, or Deadlines::default().greeting;
    command: Duration, in IN_DEADLINES, by deadline, or Deadlines::default().command;
    write: Duration, in IN_DEADLINES, by deadline, or Deadlines::default().write;
    logout: Duration, in IN_DEADLINES, by logout, or Deadlines::default().logout;
}

impl Options {
    /// What a URL says.
    pub(super) fn of_url(url: &ServerUrl) -> Self {
        let literal = match &url.host {
            Host::Address(address) => Some(family(*address)),
            Host::Name(_) => None,
        };
        Self { mailbox: url.mailbox.clone(), scheme: url.scheme, literal, ..Self::default() }
    }

    /// This level, and where it says nothing, the one below.
    ///
    /// A value of the level below that does not go with what a higher one says is not meant for this target, and is passed
    /// over.
    pub(crate) fn over(&self, below: &Self) -> Self {
        let mut merged = self.or(below);
        if self.security.is_none() && url::security(merged.scheme, merged.security).is_err() {
            merged.security = None;
        }
        if self.address.is_none() && merged.literal.is_some_and(|family| merged.address.is_some_and(|it| it != family))
        {
            merged.address = None;
        }
        if self.cold.is_none() && self.window == Some(Window::Newest) {
            merged.cold = None;
        }
        if self.window.is_none() && self.cold == Some(true) {
            merged.window = None;
        }
        merged
    }

    /// What a login by these needs, as far as is known.
    pub(super) fn needs(&self) -> Needs {
        match self.auth {
            Some(Auth::External) => Needs::NoPassword,
            _ if self.auth_misread => Needs::Unknown,
            _ => Needs::Password,
        }
    }

    /// The family of the IP address in the URL, if that is what it has.
    pub(super) fn literal(&self) -> Option<AddressChoice> {
        self.literal
    }
}

/// What a login needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// A password.
    Password,
    /// A certificate alone.
    NoPassword,
    /// How it is done could not be read, which was noted already: a password is neither missed nor one too many.
    Unknown,
}

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
/// `off` switches off what a lower level switches on.
const PROXY: &[(&str, Option<ProxyProtocol>)] =
    &[("off", None), ("v1", Some(ProxyProtocol::V1)), ("v2", Some(ProxyProtocol::V2))];

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

fn deadline(field: &Field<'_>) -> Option<Duration> {
    field.duration_within(&DEADLINE)
}

/// LOGOUT lies outside the run's deadline, so its own stays short (docs/configuration.md).
fn logout(field: &Field<'_>) -> Option<Duration> {
    field.duration_within(&(*DEADLINE.start()..=Deadlines::default().logout))
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

/// The choice that has addresses of this one's family alone.
pub(super) fn family(address: IpAddr) -> AddressChoice {
    if address.is_ipv4() { AddressChoice::V4 } else { AddressChoice::V6 }
}

/// How many keys may stand in a table.
const fn count(table: u8) -> usize {
    let (mut count, mut index) = (0, 0);
    while index < KEYS.len() {
        if KEYS[index].1 & table != 0 {
            count += 1;
        }
        index += 1;
    }
    count
}

/// The keys that may stand in a table.
const fn names<const N: usize>(table: u8) -> [&'static str; N] {
    let (mut names, mut count, mut index) = ([""; N], 0, 0);
    while index < KEYS.len() {
        if KEYS[index].1 & table != 0 {
            names[count] = KEYS[index].0;
            count += 1;
        }
        index += 1;
    }
    names
}

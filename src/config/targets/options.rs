//! The one table of a target's keys: each with its type, the tables that may have it, its reader and its default.
//!
//! [`Options`] are the values of one level, and [`Options::over`] is the one merge of two levels. From the highest to the lowest
//! they are: an account's keys, the target's keys, its URL, its group's keys, `[defaults]`, and the default here. A URL that is
//! made from the group's `url` is below the group's keys. A new key is a line of the table and its use in `target`. Called by
//! `load`, `target`, `account` and `group`.

use std::{net::IpAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use imaptrace_imap::Secret;

use super::url::{self, Scheme, ServerUrl};
use crate::{
    config::sources::{
        readers::{Field, Table},
        schema::TableKeys,
    },
    plan::{
        AddressChoice, Auth, Deadlines, Host, Journey, Mailbox, Open, Propagation, ProxyProtocol, Security, TagStyle,
        TlsOptions, UserName, Window,
    },
};

// The tables of a key.
pub(crate) const GROUPS: u8 = 1;
pub(crate) const TARGETS: u8 = 1 << 1;
pub(crate) const ACCOUNTS: u8 = 1 << 2;
pub(crate) const IN_DEFAULTS: u8 = 1 << 3;
/// `deadlines` inside one of the tables that have it.
const IN_DEADLINES: u8 = 1 << 4;
const LOGINS: u8 = GROUPS | TARGETS | ACCOUNTS;
const ALL: u8 = IN_DEFAULTS | GROUPS | TARGETS;
const EACH: u8 = ALL | ACCOUNTS;

pub(crate) static DEFAULTS: TableKeys = TableKeys::new("defaults", &names::<{ count(IN_DEFAULTS) }>(IN_DEFAULTS));
pub(crate) static TARGET: TableKeys = TableKeys::new("targets", &names::<{ count(TARGETS) }>(TARGETS));
pub(crate) static GROUP: TableKeys = TableKeys::new("groups", &names::<{ count(GROUPS) }>(GROUPS));
pub(crate) static ACCOUNT: TableKeys = TableKeys::new("targets.accounts", &names::<{ count(ACCOUNTS) }>(ACCOUNTS));
pub(crate) static DEADLINES: TableKeys =
    TableKeys::new("defaults.deadlines", &names::<{ count(IN_DEADLINES) }>(IN_DEADLINES));

/// Generates the lists of keys, [`Options`] with its reader and its merge, and a getter for each key with a default.
macro_rules! options {
    (
        { $($other:ident in $other_tables:expr;)* }
        $($key:ident: $type:ty, in $tables:expr, by $read:expr $(, or $default:expr)?;)*
    ) => {
        const KEYS: &[(&str, u8)] =
            &[$((stringify!($other), $other_tables),)* $((stringify!($key), $tables)),*];

        /// The values of one level.
        #[derive(Clone, Default)]
        pub(crate) struct Options<'a> {
            $(pub(super) $key: Option<$type>,)*
            /// `auth` is present and could not be read, which was noted.
            auth_misread: bool,
            /// The scheme of the URL.
            scheme: Option<Scheme>,
            /// The family of the IP address in the URL.
            pub(super) literal: Option<AddressChoice>,
        }

        impl<'a> Options<'a> {
            /// Reads a table that is one of `level`.
            pub(crate) fn read(table: &Table<'a>, level: u8) -> Self {
                let deadlines = (level & ALL != 0).then(|| table.table("deadlines", &DEADLINES));
                let options = Self {
                    $($key: {
                        let read: fn(&Field<'a>) -> Option<$type> = $read;
                        let table = if $tables == IN_DEADLINES { deadlines.as_ref() } else { Some(table) };
                        table.filter(|_| $tables & (level | IN_DEADLINES) != 0)
                            .and_then(|table| table.read(stringify!($key), read))
                    },)*
                    auth_misread: false,
                    scheme: None,
                    literal: None,
                };
                if options.cold == Some(true) && options.window == Some(Window::Newest) {
                    let what = "a cold run reads old messages, and window = \"newest\" asks for the newest ones";
                    table.error("cold", what, "take window out: a cold run chooses its messages by itself");
                }
                let auth_misread = level & EACH != 0 && options.auth.is_none() && table.has("auth");
                Self { auth_misread, ..options }
            }

            /// Each value of this level, or else that of the level below.
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
    // Read elsewhere and not merged.
    {
    name in LOGINS;
    targets in GROUPS;
    targets_from in GROUPS;
    targets_from_srv in GROUPS;
    targets_from_http in GROUPS;
    hosts in GROUPS;
    refresh in GROUPS;
    shrink in GROUPS;
    url in GROUPS | TARGETS;
    labels in LOGINS;
    accounts in GROUPS | TARGETS;
    deadlines in ALL;
    }
    // KEY: TYPE, in TABLES, by READER, or DEFAULT
    user: LoginValue<'a, UserName>, in LOGINS, by |field| Some(LoginValue::Key(field.clone()));
    master_user: LoginValue<'a, UserName>, in LOGINS, by |field| Some(LoginValue::Key(field.clone()));
    password: LoginValue<'a, Secret>, in LOGINS, by |field| Some(LoginValue::Key(field.clone()));
    security: Security, in ALL, by Field::choice;
    ca_file: PathBuf, in ALL, by Field::file;
    server_name: String, in ALL, by server_name;
    insecure: bool, in ALL, by Field::bool, or TlsOptions::default().insecure;
    alpn: bool, in ALL, by Field::bool, or TlsOptions::default().alpn;
    client_cert: PathBuf, in ALL, by Field::file;
    client_key: PathBuf, in ALL, by Field::file;
    mailbox: Mailbox, in EACH, by mailbox, or Mailbox::default();
    newest: u32, in EACH, by |field| field.number(1..=MOST_NEWEST), or 20;
    window: Window, in EACH, by Field::choice;
    cold: bool, in EACH, by Field::bool, or false;
    allow_empty: bool, in EACH, by Field::bool, or false;
    journey: (), in EACH, by |field| field.one_of(&[(Journey::FIRST_LOAD, ())]);
    timeout: Duration, in EACH, by deadline, or Deadlines::default().run;
    interval: Duration, in EACH, by Field::duration, or Duration::from_secs(60);
    open: Open, in ALL, by Field::choice, or Open::Select;
    tag: TagStyle, in ALL, by Field::choice, or TagStyle::SpanId;
    propagate: Propagation, in ALL, by Field::choice, or Propagation::Off;
    auth: Auth, in EACH, by Field::choice, or Auth::Auto;
    address: AddressChoice, in ALL, by Field::choice, or AddressChoice::Any;
    source_address: IpAddr, in ALL, by address;
    proxy_protocol: Option<ProxyProtocol>, in ALL, by Field::choice, or None;
    resolve: Duration, in IN_DEADLINES, by deadline, or Deadlines::default().resolve;
    connect: Duration, in IN_DEADLINES, by deadline, or Deadlines::default().connect;
    tls: Duration, in IN_DEADLINES, by deadline, or Deadlines::default().tls;
    greeting: Duration, in IN_DEADLINES, by deadline, or Deadlines::default().greeting;
    command: Duration, in IN_DEADLINES, by deadline, or Deadlines::default().command;
    write: Duration, in IN_DEADLINES, by deadline, or Deadlines::default().write;
    logout: Duration, in IN_DEADLINES, by logout, or Deadlines::default().logout;
}

impl Options<'_> {
    /// The values of a URL.
    pub(super) fn of_url(url: &ServerUrl) -> Self {
        let literal = match &url.host {
            Host::Address(address) => Some(family(*address)),
            Host::Name(_) => None,
        };
        Self {
            user: url.user.clone().map(LoginValue::Url),
            password: url.password.clone().map(LoginValue::Url),
            mailbox: url.mailbox.clone(),
            scheme: url.scheme,
            literal,
            ..Self::default()
        }
    }

    /// This level above another. A value of the lower level that does not go with one of the higher level is dropped.
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

    /// What a run does by these values, in this mailbox.
    pub(super) fn journey_in(&self, mailbox: Mailbox) -> Journey {
        let cold = self.cold();
        Journey {
            mailbox,
            open: self.open(),
            newest: self.newest(),
            window: if cold { Window::Random } else { self.window.unwrap_or(Window::Newest) },
            allow_empty: self.allow_empty(),
            cold,
            auth: self.auth(),
            tag: self.tag(),
            propagate: self.propagate(),
        }
    }

    pub(super) fn needs(&self) -> Needs {
        match self.auth {
            Some(Auth::External) => Needs::NoPassword,
            _ if self.auth_misread => Needs::Unknown,
            _ => Needs::Password,
        }
    }
}

/// A part of a login: a key, which is read for each target since a group's has placeholders, or a part of the URL.
#[derive(Clone)]
pub(super) enum LoginValue<'a, T> {
    Key(Field<'a>),
    Url(T),
}

/// What a login needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// A password.
    Password,
    /// A certificate alone.
    NoPassword,
    /// Unknown: `auth` could not be read, which was noted.
    Unknown,
}

/// With more, the limit on the responses of a command would end each run.
const MOST_NEWEST: u64 = 100_000;

/// Of a step or a run. In less, a server on a slow line cannot respond; for as long, a run that hangs keeps its place in
/// flight.
const DEADLINE: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);

fn deadline(field: &Field<'_>) -> Option<Duration> {
    field.duration_within(DEADLINE)
}

/// LOGOUT is outside the run's deadline, so its own is short (docs/configuration.md).
fn logout(field: &Field<'_>) -> Option<Duration> {
    field.duration_within(*DEADLINE.start()..=Deadlines::default().logout)
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

/// The choice of this address's family.
pub(super) fn family(address: IpAddr) -> AddressChoice {
    if address.is_ipv4() { AddressChoice::V4 } else { AddressChoice::V6 }
}

/// The number of keys of a table.
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

/// The keys of a table.
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

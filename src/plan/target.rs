//! One IMAP service and its accounts.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::{AddressChoice, AddressKind, Choice, Deadlines, Endpoint, Journey, Limits, ProxyProtocol, Security};
use crate::secret::{SecretSource, unprintable};

/// One IMAP service, and how it is probed. Labels, journey, interval and the deadline of a run are those of its first account; another
/// one may have its own ([`Target::for_account`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Unique among the targets; a metric attribute.
    pub name: String,
    /// The `[[groups]]` entry from which it was expanded.
    pub group: Option<String>,
    /// Host and port.
    pub endpoint: Endpoint,
    /// TLS, STARTTLS or clear text.
    pub security: Security,
    /// Trust and identity for TLS.
    pub tls: TlsOptions,
    /// Whose mailboxes are opened; at least one.
    pub accounts: Vec<Account>,
    /// The operator's attributes.
    pub labels: BTreeMap<String, String>,
    /// The options of a run's steps.
    pub journey: Journey,
    /// From the start of a run to the start of the next.
    pub interval: Duration,
    /// The deadlines of a run and its steps.
    pub deadlines: Deadlines,
    /// How much a run may read.
    pub limits: Limits,
    /// How times are measured.
    pub timing: Timing,
    /// The addresses to try.
    pub address: AddressChoice,
    /// The local address to bind.
    pub source_address: Option<IpAddr>,
    /// The header to send before TLS.
    pub proxy_protocol: Option<ProxyProtocol>,
}

impl Target {
    /// The target as it is probed for one of its accounts: itself, or with the account's own options and this account alone.
    pub fn for_account(&self, account: &Account) -> Cow<'_, Self> {
        let Some(own) = &account.own else { return Cow::Borrowed(self) };
        let AccountOptions { labels, journey, interval, timeout } = (**own).clone();
        Cow::Owned(Self {
            accounts: vec![account.clone()],
            labels,
            journey,
            interval,
            deadlines: Deadlines { run: timeout, ..self.deadlines },
            name: self.name.clone(),
            group: self.group.clone(),
            endpoint: self.endpoint.clone(),
            security: self.security,
            tls: self.tls.clone(),
            limits: self.limits,
            timing: self.timing,
            address: self.address,
            source_address: self.source_address,
            proxy_protocol: self.proxy_protocol,
        })
    }

    /// The target as it is probed for each of its accounts.
    pub fn probed(&self) -> impl Iterator<Item = (&Account, Cow<'_, Self>)> {
        self.accounts.iter().map(|account| (account, self.for_account(account)))
    }

    /// Its name in metrics: its own, or its group's when series are for groups.
    pub fn series_name(&self, per: SeriesPer) -> &str {
        match (per, &self.group) {
            (SeriesPer::Group, Some(group)) => group,
            _ => &self.name,
        }
    }
}

/// Whether a text may be the key of a label: letters, digits, `_`, `-` and `.`.
pub fn is_label(key: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    !key.is_empty() && key.bytes().all(plain)
}

/// The subject of a metric's series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeriesPer {
    /// A target.
    Target,
    /// A group of targets, or a target without a group.
    Group,
}

impl Choice for SeriesPer {
    const WORDS: &'static [(&'static str, Self)] = &[("target", Self::Target), ("group", Self::Group)];
}

/// How times are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// By the kernel's stamps of arrivals and departures, where it has them.
    pub kernel_stamps: bool,
    /// With immediate acknowledgements, so that no server waits 40 ms for ours.
    pub quickack: bool,
}

impl Default for Timing {
    fn default() -> Self {
        Self { kernel_stamps: true, quickack: true }
    }
}

/// Trust and identity for a TLS connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TlsOptions {
    /// PEM file with roots to trust in addition to the system's.
    pub ca_file: Option<PathBuf>,
    /// Name for SNI and for the certificate check, unless it is the host.
    pub server_name: Option<String>,
    /// Check neither chain nor name.
    pub insecure: bool,
    /// Offer `imap` by ALPN (RFC 7301).
    pub alpn: bool,
    /// PEM file with the client's certificate and its chain.
    pub client_cert: Option<PathBuf>,
    /// PEM file with its key.
    pub client_key: Option<PathBuf>,
}

impl Default for TlsOptions {
    fn default() -> Self {
        Self { ca_file: None, server_name: None, insecure: false, alpn: true, client_cert: None, client_key: None }
    }
}

/// A user of a target whose mailbox is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name in telemetry.
    pub alias: String,
    /// The mailbox's owner, who logs in unless there is a master user. Never shown.
    pub user: UserName,
    /// Logs in for the user, with its own password. Never shown.
    pub master_user: Option<UserName>,
    /// The source of the password for the login.
    pub password: SecretSource,
    /// The options of the account; none where they equal those of the target, which are of its first account.
    pub own: Option<Box<AccountOptions>>,
}

/// The options of a target that an account may have of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountOptions {
    /// The operator's attributes, those of the target among them.
    pub labels: BTreeMap<String, String>,
    /// The options of a run's steps.
    pub journey: Journey,
    /// From the start of a run to the start of the next.
    pub interval: Duration,
    /// The deadline of a run.
    pub timeout: Duration,
}

impl Account {
    /// The name for a login with one name only: `USER`, or `USER*MASTER` for a master user.
    pub fn login_name(&self) -> String {
        match &self.master_user {
            Some(master) => format!("{}*{}", self.user.expose(), master.expose()),
            None => self.user.expose().to_owned(),
        }
    }
}

/// A login name. Personal data: sent to the server, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct UserName(String);

unprintable!(UserName);

impl UserName {
    /// Reads a name. It is not empty and has no CR, LF or NUL, which would split a command.
    pub fn new(name: &str) -> Option<Self> {
        (!name.is_empty() && !name.contains(['\r', '\n', '\0'])).then(|| Self(name.to_owned()))
    }

    /// The name, to send it and to find it in a server's text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[user]")
    }
}

/// The resolver of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NameResolver {
    /// imaptrace's own, by the hosts file and name servers.
    #[default]
    Builtin,
    /// The C library's `getaddrinfo`, by the sources in nsswitch.conf.
    System,
}

impl NameResolver {
    /// Whether this build's C library can load the modules in nsswitch.conf: a statically linked one, or musl, cannot.
    pub const SYSTEM_HAS_NSS: bool = !cfg!(any(target_feature = "crt-static", target_env = "musl"));
}

impl Choice for NameResolver {
    const WORDS: &'static [(&'static str, Self)] = &[("builtin", Self::Builtin), ("system", Self::System)];
}

/// How names are resolved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dns {
    /// The resolver.
    pub resolver: NameResolver,
    /// Keep responses for their TTL, over runs.
    pub cache: bool,
    /// Name servers, in place of the system's.
    pub servers: Vec<SocketAddr>,
    /// Kinds of addresses to which a name must not resolve.
    pub deny: Vec<AddressKind>,
}

impl Dns {
    /// Whether a name may resolve to this address.
    pub fn allows(&self, address: IpAddr) -> bool {
        AddressKind::of(address).is_none_or(|kind| !self.deny.contains(&kind))
    }
}

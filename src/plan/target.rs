//! One IMAP service and the mailboxes on it.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::{AddressChoice, AddressKind, Deadlines, Endpoint, Journey, Limits, ProxyProtocol, Security};
use crate::secret::{SecretSource, unprintable};

/// One IMAP service: address, port, security, and what is run against it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Unique among the targets; a metric attribute.
    pub name: String,
    /// The group out of whose paragraph it comes.
    pub group: Option<String>,
    /// Where.
    pub endpoint: Endpoint,
    /// How it is secured.
    pub security: Security,
    /// Trust and identity for TLS.
    pub tls: TlsOptions,
    /// Mailboxes to open, at least one.
    pub accounts: Vec<Account>,
    /// The operator's own keys and values.
    pub labels: BTreeMap<String, String>,
    /// What one run does.
    pub journey: Journey,
    /// Start of a run to the start of the next.
    pub interval: Duration,
    /// How long each part may take.
    pub deadlines: Deadlines,
    /// How much a run reads.
    pub limits: Limits,
    /// How times are taken.
    pub timing: Timing,
    /// Which addresses are tried.
    pub address: AddressChoice,
    /// The local address to bind.
    pub source_address: Option<IpAddr>,
    /// Header to send before TLS.
    pub proxy_protocol: Option<ProxyProtocol>,
}

impl Target {
    /// What metrics call it: its own name, or its group's when series are for groups.
    pub fn series_name(&self, per: Per) -> &str {
        match (per, &self.group) {
            (Per::Group, Some(group)) => group,
            _ => &self.name,
        }
    }
}

/// What a metric's series is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Per {
    /// A target.
    Target,
    /// A group of targets; a target of its own where there is no group.
    Group,
}

/// How times are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// The kernel stamps arrivals and departures, where it can. Else imaptrace does, when its turn comes.
    pub kernel_stamps: bool,
    /// Acknowledgements are sent at once, so that no server waits 40 ms for ours.
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
    /// PEM file with roots to trust beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Name for SNI and for the certificate check, when it is not the host.
    pub server_name: Option<String>,
    /// Check neither chain nor name.
    pub insecure: bool,
    /// Offer `imap` by ALPN (RFC 7301).
    pub alpn: bool,
    /// PEM file with our own certificate and its chain.
    pub client_cert: Option<PathBuf>,
    /// PEM file with its key.
    pub client_key: Option<PathBuf>,
}

impl Default for TlsOptions {
    fn default() -> Self {
        Self { ca_file: None, server_name: None, insecure: false, alpn: true, client_cert: None, client_key: None }
    }
}

/// A mailbox owner on a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// What telemetry calls it.
    pub alias: String,
    /// Whose mailbox it is, and who logs in unless somebody else does. Never shown.
    pub user: UserName,
    /// Who logs in for them, with a password of their own. Never shown.
    pub master_user: Option<UserName>,
    /// Where the password is of whoever logs in.
    pub password: SecretSource,
}

impl Account {
    /// The name for a login that has room for one: that of who logs in for somebody else stands behind a `*`.
    pub fn login_name(&self) -> String {
        match &self.master_user {
            Some(master) => format!("{}*{}", self.user.expose(), master.expose()),
            None => self.user.expose().to_owned(),
        }
    }
}

/// A login name. Personal data: it goes on the wire and nowhere else.
#[derive(Clone, PartialEq, Eq)]
pub struct UserName(String);

unprintable!(UserName);

impl UserName {
    /// Reads a name; CR, LF and NUL would split a command, so there is none with them.
    pub fn new(name: &str) -> Option<Self> {
        (!name.is_empty() && !name.contains(['\r', '\n', '\0'])).then(|| Self(name.to_owned()))
    }

    /// The name, for the wire and for finding it in what a server echoes.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[user]")
    }
}

/// What looks names up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NameResolver {
    /// imaptrace itself, from the hosts file and by asking name servers.
    #[default]
    Builtin,
    /// The C library's `getaddrinfo`, and with it what nsswitch.conf names.
    System,
}

impl NameResolver {
    /// Whether this build's C library can load the modules that nsswitch.conf names: one that is linked statically, or
    /// musl, cannot, and `getaddrinfo` would be another resolver of its own.
    pub const SYSTEM_HAS_NSS: bool = !cfg!(any(target_feature = "crt-static", target_env = "musl"));

    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::System => "system",
        }
    }
}

/// How names are looked up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dns {
    /// What looks them up.
    pub resolver: NameResolver,
    /// Keep answers for their time to live, between runs.
    pub cache: bool,
    /// Name servers to ask in place of the system's.
    pub servers: Vec<SocketAddr>,
    /// Kinds of addresses that a name must not lead to.
    pub deny: Vec<AddressKind>,
}

impl Dns {
    /// Whether a name may lead there.
    pub fn allows(&self, address: IpAddr) -> bool {
        AddressKind::of(address).is_none_or(|kind| !self.deny.contains(&kind))
    }
}

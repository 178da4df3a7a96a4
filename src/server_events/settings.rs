//! The settings of `[server_events]`. Built by `config`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use crate::{
    plan::{Glob, Network},
    process_accounting::ProcessAccountingSettings,
    secret::SecretSource,
};

/// The settings of server events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerEventsSettings {
    /// The address on which events are received; without one none are received, and no run waits for events.
    pub listen: Option<SocketAddr>,
    /// PEM file with the receiver's certificate and its chain; without it the receiver uses no TLS.
    pub cert: Option<PathBuf>,
    /// PEM file with its key.
    pub key: Option<PathBuf>,
    /// How long a finished run waits for the events of its session.
    pub wait: Duration,
    /// The `service.name` of the spans of servers.
    pub service_name: String,
    /// The senders whose events are accepted.
    pub senders: Vec<SenderSettings>,
    /// Accounting of the processes of a Dovecot on this host; without it none are sampled.
    pub accounting: Option<ProcessAccountingSettings>,
    /// The agent to which events are forwarded; without one they are joined with the runs of this agent.
    pub forward: Option<ForwardSettings>,
}

/// The agent to which events are forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardSettings {
    /// The URL of its receiver.
    pub endpoint: String,
    /// The user name of the requests; without one, the name of this host.
    pub name: Option<String>,
    /// Their password.
    pub secret: SecretSource,
    /// PEM file with the only roots to trust, in place of the system's.
    pub ca_file: Option<PathBuf>,
}

/// A sender of events, and the targets that it may report about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SenderSettings {
    /// The user name of its requests, and its name in metrics.
    pub name: String,
    /// The password of its requests.
    pub secret: SecretSource,
    /// The networks it sends from; empty: any.
    pub from: Vec<Network>,
    /// The targets whose runs its events may join.
    pub targets: Vec<Glob>,
}

impl ForwardSettings {
    /// Whether events are forwarded to this address, as far as the endpoint has one.
    pub fn is_to(&self, listen: SocketAddr) -> bool {
        let Some(place) = self.endpoint.split_once("://").and_then(|(_, rest)| rest.split('/').next()) else {
            return false;
        };
        let place = place.replacen("localhost", "127.0.0.1", 1);
        place.parse::<SocketAddr>().is_ok_and(|to| {
            let (to_ip, own) = (to.ip().to_canonical(), listen.ip().to_canonical());
            to.port() == listen.port() && (to_ip == own || own.is_unspecified() && to_ip.is_loopback())
        })
    }
}

impl ServerEventsSettings {
    /// The default of `wait`.
    pub const WAIT: Duration = Duration::from_secs(1);
    /// The default of `service_name`.
    pub const SERVICE_NAME: &str = "dovecot";
}

impl Default for ServerEventsSettings {
    fn default() -> Self {
        Self {
            listen: None,
            cert: None,
            key: None,
            wait: Self::WAIT,
            service_name: Self::SERVICE_NAME.to_owned(),
            senders: Vec::new(),
            accounting: None,
            forward: None,
        }
    }
}

impl SenderSettings {
    /// Whether its events may join runs of this target.
    pub fn may_report(&self, target: &str) -> bool {
        self.targets.iter().any(|glob| glob.matches(target))
    }
}

//! Why a run was slow or failed (docs/diagnosis.md).
//!
//! Plain data. `diagnosis` of the main package makes it; telemetry, logs and terminal show it.

use serde::{Deserialize, Deserializer, Serialize};

use super::{Seconds, StepName};

/// The cause that explains the most of what a run took over its usual time. Absent = does not apply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The first cause. One that this version does not have is read as [`Cause::Unknown`].
    #[serde(deserialize_with = "known_cause")]
    pub cause: Cause,
    /// The part of the excess that the first cause explains, 0 to 1: how sure it is. Below 0.6 it is only probable.
    pub share: f64,
    /// The next cause, where the first explains less than half.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "known_second")]
    pub second: Option<Cause>,
    /// The step that the first cause made slow, if one stands out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<StepName>,
    /// What the run took over its usual time: what the causes share.
    pub excess_s: Seconds,
    /// What supports the first cause, the strongest first, at most [`Verdict::MAX_TEXTS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
    /// Evidence against it, or for another cause, at most [`Verdict::MAX_TEXTS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub against: Vec<String>,
    /// The usual First Loading Latency that it was compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usual_latency_s: Option<Seconds>,
    /// The usual round trip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usual_rtt_s: Option<Seconds>,
    /// The usual number of messages in the mailbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usual_messages: Option<u64>,
}

impl Verdict {
    /// The most texts in each of [`Verdict::evidence`] and [`Verdict::against`].
    pub const MAX_TEXTS: usize = 5;
    /// The most bytes of each of them.
    pub const MAX_TEXT_BYTES: usize = 120;
    /// From this share on a cause is certain enough to be named without "probably".
    pub const CERTAIN: f64 = 0.6;
    /// Below this share a second cause is named.
    pub const HALF: f64 = 0.5;

    /// Whether the cause is only probable.
    pub fn is_probable(&self) -> bool {
        self.share < Self::CERTAIN
    }

    /// Bytes of memory that it holds beside its own, nearly.
    pub(super) fn held_bytes(&self) -> usize {
        let texts = self.evidence.iter().chain(&self.against).map(|text| size_of::<String>() + text.len());
        size_of::<Self>() + texts.sum::<usize>()
    }
}

fn known_cause<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Cause, D::Error> {
    known_second(deserializer).map(|cause| cause.unwrap_or(Cause::Unknown))
}

fn known_second<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cause>, D::Error> {
    let word = String::deserialize(deserializer)?;
    Ok(Cause::ALL.iter().copied().find(|cause| cause.as_str() == word))
}

words! {
    /// Why a run was slow or failed.
    Cause {
        /// imaptrace's own machine: a pause, too little CPU.
        Prober = "prober",
        /// Name resolution.
        Dns = "dns",
        /// Longer round trips.
        Distance = "distance",
        /// A full or narrow line.
        Bandwidth = "bandwidth",
        /// Lost segments.
        Loss = "loss",
        /// The TLS handshake: its key, or a login process without CPU.
        Tls = "tls",
        /// The password or user database.
        AuthBackend = "auth_backend",
        /// The server's delay after wrong passwords of the same address.
        AuthPenalty = "auth_penalty",
        /// A limit on connections or processes.
        Limit = "limit",
        /// Another session holds a lock on the mailbox.
        Lock = "lock",
        /// The server waits for CPUs.
        ServerCpu = "server_cpu",
        /// The server's storage: disk, or network file system.
        Disk = "disk",
        /// The number of messages in the mailbox.
        MailboxSize = "mailbox_size",
        /// In the server's commands: disk, lock, CPU or size, which only its events or `/proc` can distinguish.
        Server = "server",
        /// Nothing that was measured explains it.
        Unknown = "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_read_back_and_a_cause_of_another_version_is_unknown() {
        let json = r#"{"cause":"lock","share":0.48,"second":"disk","step":"SELECT","excess_s":1.2,"evidence":["a"]}"#;
        let verdict: Verdict = serde_json::from_str(json).unwrap();
        assert_eq!((verdict.cause, verdict.second, verdict.is_probable()), (Cause::Lock, Some(Cause::Disk), true));
        assert_eq!(serde_json::to_string(&verdict).unwrap(), json);
        let other: Verdict = serde_json::from_str(&json.replace("lock", "moon").replace("disk", "sun")).unwrap();
        assert_eq!((other.cause, other.second), (Cause::Unknown, None));
        assert!(verdict.held_bytes() > size_of::<Verdict>());
    }
}

//! The sources of a group's targets, as the configuration has them. Written by `config`; does no I/O.

use std::{fmt, path::PathBuf, time::Duration};

use imaptrace_imap::Secret;

use crate::{
    plan::{Glob, Host},
    secret::SecretSource,
};

/// The identity of a source: metrics, the log and the state directory have it. It holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId {
    /// The group that its targets belong to.
    pub group: String,
    /// The name that is asked for (`_imaps._tcp.example.org`), or the URL without its query.
    pub name: String,
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (group {})", self.name, self.group)
    }
}

/// A source of targets outside of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetSource {
    /// Its identity.
    pub id: SourceId,
    /// What is asked, and how.
    pub kind: SourceKind,
    /// The hosts that may be probed: the group's passwords go to no other. In lower case.
    pub hosts: Vec<Glob>,
    /// The time between two questions.
    pub refresh: Duration,
    /// Whether an answer with no target, or with under half of those before, is taken.
    pub shrink: bool,
}

impl TargetSource {
    /// Whether `hosts` has this host.
    pub fn allows(&self, host: &Host) -> bool {
        // The owner of a domain chooses the labels before it, so `192.0.2.*` matches addresses alone.
        let is_name = matches!(host, Host::Name(_));
        let host = host.to_string().to_ascii_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host);
        let may_match =
            |glob: &Glob| !is_name || is_every_host(glob.as_str()) || !last_label(glob.as_str()).contains('*');
        self.hosts.iter().any(|glob| may_match(glob) && glob.matches(host))
    }

    /// Whether HOST or HOST:PORT is a host of `hosts`.
    pub fn allows_target(&self, target: &str) -> bool {
        Host::with_port(target).is_ok_and(|(host, _)| self.allows(&host))
    }
}

/// Whether a pattern of `hosts` is every host.
pub fn is_every_host(pattern: &str) -> bool {
    !pattern.is_empty() && pattern.trim_matches(['*', '.']).is_empty()
}

/// What stands behind the last dot of a pattern.
pub fn last_label(pattern: &str) -> &str {
    pattern.rsplit('.').next().unwrap_or_default()
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceKind {
    /// The SRV records of the source's name (RFC 6186).
    Srv,
    /// A URL that answers in the form of Prometheus's HTTP service discovery.
    Http(HttpSource),
}

/// A URL to ask, and what it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSource {
    /// The whole URL. Its query may hold a token.
    pub url: Secret,
    /// PEM file with the roots to trust, in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// How the agent authenticates, if it does.
    pub credentials: Option<HttpCredentials>,
    /// The deadline of one question, with its answer.
    pub timeout: Duration,
}

/// Credentials of a request; the secret is loaded for each one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpCredentials {
    /// Basic authentication (RFC 7617).
    Basic {
        /// The user name.
        user: String,
        /// Where the password is.
        password: SecretSource,
    },
    /// A bearer token (RFC 6750).
    Bearer(SecretSource),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_allowed_by_the_patterns_alone_whatever_its_case_and_its_last_dot() {
        let source = TargetSource {
            id: SourceId { group: "g".to_owned(), name: "n".to_owned() },
            kind: SourceKind::Srv,
            hosts: ["*.example.org", "192.0.2.7"].map(Glob::new).to_vec(),
            refresh: Duration::from_secs(60),
            shrink: false,
        };
        for target in ["a.example.org", "A.Example.ORG:1993", "b.a.example.org.", "192.0.2.7:993"] {
            assert!(source.allows_target(target), "{target}");
        }
        for target in ["example.org", "a.example.org.evil.test", "evil.test", "192.0.2.8", "a b.example.org", ""] {
            assert!(!source.allows_target(target), "{target}");
        }
        let net = TargetSource { hosts: vec![Glob::new("192.0.2.*")], ..source.clone() };
        assert!(net.allows_target("192.0.2.8:143"));
        assert!(!net.allows_target("192.0.2.evil.test:143"), "a name is no address");
        let all = TargetSource { hosts: vec![Glob::new("*")], ..source };
        assert!(all.allows_target("evil.test"), "as it is written");
    }
}

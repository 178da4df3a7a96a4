//! Why a source gives no targets. Shown in the log and by `check --probe`; no text holds a secret or a query.

use std::{path::PathBuf, time::Duration};

use crate::{net::ResolveCause, secret::SecretError};

/// Why a source gives no targets; the last good ones stay. The log names the source before this text.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// There is no SRV record.
    #[error("there is no SRV record of this name: add one, or take the domain out of targets_from_srv")]
    NoRecord,
    /// The domain declares that it does not have the service.
    #[error(
        "its SRV record has the target \".\": the domain has no such service (RFC 6186); take it out of targets_from_srv"
    )]
    Declined,
    /// The name servers did not answer.
    #[error("{0}; see whether they are reachable, and [dns] servers")]
    Resolve(ResolveCause),
    /// The password or token cannot be loaded.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The password or token cannot be sent in a header.
    #[error("its secret holds characters that HTTP does not carry: give one of printable ASCII")]
    SecretText,
    /// The file with roots cannot be read.
    #[error("cannot read the roots in {0}: {1}; give a PEM file that can be read")]
    CaFile(PathBuf, String),
    /// No client for requests can be made of the settings.
    #[error("cannot prepare a request: {0}; check url and ca_file")]
    Client(String),
    /// No connection.
    #[error("cannot connect: {0}; see whether the server runs and can be reached from here")]
    Connect(String),
    /// The server's certificate is not accepted.
    #[error("cannot connect: {0}; give the roots to trust in ca_file")]
    Certificate(String),
    /// No answer by the deadline.
    #[error("there is no whole answer within {0:?}; see whether the server is overloaded, or make timeout longer")]
    Timeout(Duration),
    /// It leads elsewhere.
    #[error("it redirects to {0}, which is not followed since it may be another's; write that address in url")]
    Redirect(String),
    /// Too many redirects.
    #[error("it redirects more than {0} times; write the last address in url")]
    Loop(usize),
    /// The status of the response.
    #[error("it answers HTTP {0}{hint}", hint = hint(*.0))]
    Status(u16),
    /// The body is too large.
    #[error("its answer is larger than 16MiB; share the targets out over several URLs")]
    Size,
    /// The exchange failed.
    #[error("the request failed: {0}; see its server's log")]
    Exchange(String),
    /// The answer is not in the form of HTTP service discovery.
    #[error("{0}; it has to answer [{{\"targets\": [\"HOST:PORT\"], \"labels\": {{}}}}] (Prometheus http_sd)")]
    Malformed(String),
    /// No target is left of the answer.
    #[error("its answer has no target that may be probed; if that is meant, set shrink = true in its group")]
    Empty,
    /// It has lost most of its targets.
    #[error(
        "its answer has {new} targets, under half of the {last} before, and is not taken; if that is meant, set shrink = true \
         in its group"
    )]
    Shrunk {
        /// The targets of the answer.
        new: usize,
        /// The targets of the last good answer.
        last: usize,
    },
    /// The thread that asks cannot be started.
    #[error("the thread that asks the sources cannot be started: {0}; it is tried again at the next reload")]
    Thread(std::io::Error),
}

fn hint(status: u16) -> &'static str {
    match status {
        401 | 403 => ": check user and password, or bearer",
        404 | 410 => ": check url",
        304 => ", although nothing was known before: see its server",
        _ => ": see its server's log",
    }
}

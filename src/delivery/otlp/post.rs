//! Posts JSON to an HTTP endpoint that is no OTLP receiver: that of another agent, for events of mail servers. One request
//! after the other, over the connection of [`Transport`](super::transport). Does not retry. Called by `server_events`.

use std::{fmt, sync::Arc, time::Duration};

use hyper::body::Bytes;
use tokio::time::timeout;

use super::{
    connect::ReceiverError,
    retry_after::retry_after,
    send_state::{SendState, SignalError, shown},
    signal::{Header, Protocol, Signal},
    transport::Transport,
};

/// A client for one endpoint. Must be used inside one runtime.
pub struct JsonClient {
    transport: Arc<Transport>,
    endpoint: String,
    timeout: Duration,
    unready: Option<Arc<str>>,
}

impl fmt::Debug for JsonClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JsonClient({})", self.endpoint)
    }
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PostOutcome {
    /// It was taken.
    Accepted,
    /// It was refused, and would be again: HTTP 400, 413 or 422.
    Refused(String),
    /// It may be taken later: the reason why it was not, and the pause that the receiver requests.
    Failed(String, Option<Duration>),
}

impl JsonClient {
    /// A client for the endpoint, headers, certificates and proxy of `receiver`.
    pub fn new(receiver: &Signal) -> Result<Self, SignalError> {
        let mut signal = Signal { protocol: Protocol::HttpProtobuf, gzip: false, ..receiver.clone() };
        signal.headers.push(Header::new("content-type", "application/json"));
        let state = SendState::new(&signal, "")?;
        let endpoint = shown(&signal.endpoint);
        Ok(Self { transport: state.transport, endpoint, timeout: signal.timeout, unready: state.unready })
    }

    /// Sends one request and waits for the response, at most as long as the receiver's timeout.
    pub async fn post(&self, body: Bytes) -> PostOutcome {
        if let Some(why) = &self.unready {
            return PostOutcome::Failed(why.to_string(), None);
        }
        let failed = |reason: String| PostOutcome::Failed(format!("{}: {reason}", self.endpoint), None);
        let reply = match timeout(self.timeout, self.transport.exchange(body)).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(
                ReceiverError::Proxy(reason)
                | ReceiverError::Host(reason)
                | ReceiverError::Tls(reason, _)
                | ReceiverError::Exchange(reason, _),
            )) => return failed(reason),
            Err(_) => return failed(format!("no answer within {:.1} s", self.timeout.as_secs_f64())),
        };
        match reply.status.as_u16() {
            200..=299 => PostOutcome::Accepted,
            status @ (400 | 413 | 422) => PostOutcome::Refused(format!("{}: HTTP {status}", self.endpoint)),
            status @ (401 | 403) => failed(format!("HTTP {status}: check the name and the secret")),
            status => PostOutcome::Failed(format!("{}: HTTP {status}", self.endpoint), retry_after(&reply)),
        }
    }
}

//! Sends one request after the other to a receiver, over HTTP/1.1 or HTTP/2, and reads the response.
//!
//! Keeps one connection; one that ended while it was idle is replaced. Does not interpret the response. Called by `client`,
//! which limits the time.

use std::time::Duration;

use http::{HeaderMap, Request, Response, StatusCode, Uri, header::HOST};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{sync::Mutex, task::JoinHandle, time::timeout};

use super::{
    connect::{Connection, Connector, PeerBytes, ReceiverError, innermost},
    response::{HttpReply, LARGEST_BODY},
    signal::Protocol,
};

/// What is read of the body of a refusal, which may have no end, and for how long.
const REFUSAL: usize = 4 << 10;
const REFUSAL_TIME: Duration = Duration::from_millis(500);

/// Sends requests to one receiver.
pub(super) struct Transport {
    pub(super) connector: Connector,
    pub(super) protocol: Protocol,
    /// Absolute.
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    /// None while it is used, so a cancelled exchange closes its connection.
    pub(super) idle: Mutex<Option<OpenConnection>>,
}

pub(super) struct OpenConnection {
    sender: HttpSender,
    seen: PeerBytes,
    task: JoinHandle<()>,
}

enum HttpSender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Transport {
    /// Sends one request to its end.
    pub(super) async fn exchange(&self, body: Bytes) -> Result<HttpReply, ReceiverError> {
        let mut idle = self.idle.lock().await;
        if let Some(mut open) = idle.take().filter(|open| !open.sender.is_closed()) {
            // The receiver may close an idle connection at any time.
            if let Ok(response) = open.send(self.request(body.clone())).await {
                let (reply, open) = read(response, open).await?;
                *idle = open;
                return Ok(reply);
            }
        }
        let connection = self.connector.connect().await?;
        let seen = connection.1.clone();
        let failed = |error: hyper::Error| ReceiverError::Exchange(innermost(&error), seen.clone());
        let mut open = OpenConnection::new(connection, self.protocol).await.map_err(failed)?;
        let response = open.send(self.request(body)).await.map_err(failed)?;
        let (reply, open) = read(response, open).await?;
        *idle = open;
        Ok(reply)
    }

    fn request(&self, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = http::Method::POST;
        *request.headers_mut() = self.headers.clone();
        match self.protocol {
            Protocol::Grpc => *request.uri_mut() = self.uri.clone(),
            // Origin form, and the host in a header (RFC 9112 §3.2.1).
            Protocol::HttpProtobuf => {
                let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
                *request.uri_mut() = path.parse().unwrap_or_default();
                let host = self.uri.authority().and_then(|host| host.as_str().parse().ok());
                host.and_then(|host| request.headers_mut().insert(HOST, host));
            }
        }
        request
    }
}

impl OpenConnection {
    async fn new((stream, seen): Connection, protocol: Protocol) -> Result<Self, hyper::Error> {
        let io = TokioIo::new(stream);
        // An error that ends the connection is the result of its request.
        let (sender, task) = match protocol {
            Protocol::HttpProtobuf => {
                let (sender, connection) = http1::handshake(io).await?;
                (HttpSender::Http1(sender), tokio::spawn(async { drop(connection.await) }))
            }
            Protocol::Grpc => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                (HttpSender::Http2(sender), tokio::spawn(async { drop(connection.await) }))
            }
        };
        Ok(Self { sender, seen, task })
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, hyper::Error> {
        match &mut self.sender {
            HttpSender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            HttpSender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

impl HttpSender {
    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads a response, as far as it is of use. Returns the connection if that was all of it.
async fn read(
    response: Response<Incoming>,
    open: OpenConnection,
) -> Result<(HttpReply, Option<OpenConnection>), ReceiverError> {
    let (head, mut body) = response.into_parts();
    let mut reply = HttpReply { status: head.status, headers: head.headers, ..HttpReply::default() };
    let outcome = match head.status {
        status if status.is_success() => collect(&mut body, &mut reply, LARGEST_BODY).await,
        // The body may contain the reason.
        StatusCode::BAD_REQUEST => {
            timeout(REFUSAL_TIME, collect(&mut body, &mut reply, REFUSAL)).await.unwrap_or(Ok(()))
        }
        _ => Ok(()),
    };
    outcome.map_err(|error| ReceiverError::Exchange(innermost(&error), open.seen.clone()))?;
    let is_over = reply.complete || hyper::body::Body::is_end_stream(&body);
    Ok((reply, is_over.then_some(open)))
}

async fn collect(body: &mut Incoming, reply: &mut HttpReply, most: usize) -> Result<(), hyper::Error> {
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) => {
                let room = most.saturating_sub(reply.body.len());
                reply.body.extend_from_slice(data.get(..room).unwrap_or(&data));
                if data.len() > room {
                    return Ok(());
                }
            }
            Err(frame) => reply.trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    reply.complete = true;
    Ok(())
}

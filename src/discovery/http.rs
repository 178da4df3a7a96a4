//! One request to a URL of targets: credentials, roots, size, deadline, redirects. Called by `follow`.
//!
//! A new client is built for each request, so that a renewed secret or root applies at once, and no connection is kept between
//! two questions a minute apart. It uses no proxy, decodes no compression, and follows a redirect to the same scheme, host and
//! port alone: another host would get the credentials, and the configuration does not name it.

use std::{error::Error as StdError, time::Duration};

use reqwest::{
    Certificate, Client, Response, StatusCode,
    header::{ETAG, HeaderValue, IF_NONE_MATCH},
    redirect::{Attempt, Policy},
};

use super::{
    error::SourceError,
    source::{HttpCredentials, HttpSource},
};
use crate::{blocking, clock};

/// The largest answer in bytes, as that of a file of targets.
const LARGEST: usize = 16 << 20;
/// Redirects that are followed.
const REDIRECTS: usize = 5;
/// The deadline to read the file with roots.
const FILE_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest file with roots in bytes.
const LARGEST_ROOTS: u64 = 16 << 20;
/// An `ETag` that is longer is not sent back.
const LONGEST_ETAG: usize = 1024;

/// A good response.
pub(super) enum HttpAnswer {
    /// The body, and its `ETag`.
    Body(Vec<u8>, Option<HeaderValue>),
    /// What the `ETag` is of is still so.
    NotModified,
}

/// Asks once; `etag` is that of the last answer that was taken.
pub(super) async fn ask(source: &HttpSource, etag: Option<&HeaderValue>) -> Result<HttpAnswer, SourceError> {
    let answer = tokio::time::timeout(source.timeout, request(source, etag)).await;
    answer.unwrap_or(Err(SourceError::Timeout(source.timeout)))
}

async fn request(source: &HttpSource, etag: Option<&HeaderValue>) -> Result<HttpAnswer, SourceError> {
    let client = client(source).await?;
    let mut request = client.get(source.url.expose());
    match &source.credentials {
        None => {}
        Some(HttpCredentials::Basic { user, password }) => {
            request = request.basic_auth(user, Some(password.load().await?.expose()));
        }
        Some(HttpCredentials::Bearer(token)) => {
            let token = token.load().await?;
            if !token.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(SourceError::SecretText);
            }
            request = request.bearer_auth(token.expose());
        }
    }
    if let Some(etag) = etag {
        request = request.header(IF_NONE_MATCH, etag);
    }
    let response = request.send().await.map_err(|error| problem(&error, source.timeout))?;
    match response.status() {
        StatusCode::OK => body(response, source.timeout).await,
        StatusCode::NOT_MODIFIED if etag.is_some() => Ok(HttpAnswer::NotModified),
        status => Err(SourceError::Status(status.as_u16())),
    }
}

async fn client(source: &HttpSource) -> Result<Client, SourceError> {
    let mut builder = Client::builder()
        .user_agent(concat!("imaptrace/", env!("CARGO_PKG_VERSION")))
        .no_proxy()
        .referer(false)
        .redirect(Policy::custom(redirect));
    if let Some(path) = &source.ca_file {
        let unread = |what: String| SourceError::CaFile(path.clone(), what);
        let read = blocking::with_path(path, clock::now() + FILE_TIMEOUT, read_roots).await;
        let pem = read.map_err(|error| unread(error.to_string()))?.map_err(|error| unread(error.to_string()))?;
        let roots = Certificate::from_pem_bundle(&pem).map_err(|error| unread(innermost(&error)))?;
        if roots.is_empty() {
            return Err(unread("it holds no certificate".to_owned()));
        }
        builder = builder.tls_certs_only(roots);
    }
    builder.build().map_err(|error| SourceError::Client(innermost(&error)))
}

#[expect(clippy::disallowed_methods, reason = "inside a call of `blocking`")]
fn read_roots(path: &std::path::Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let file = std::fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is not a file"));
    }
    let mut pem = Vec::new();
    file.take(LARGEST_ROOTS).read_to_end(&mut pem)?;
    Ok(pem)
}

/// Why a redirect is not followed.
#[derive(Debug, thiserror::Error)]
enum RedirectRefusal {
    #[error("to {0}")]
    Elsewhere(String),
    #[error("too many")]
    Loop,
}

fn redirect(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let to = attempt.url();
    let origin = |url: &reqwest::Url| {
        (url.scheme().to_owned(), url.host_str().map(ToOwned::to_owned), url.port_or_known_default())
    };
    if attempt.previous().first().is_none_or(|first| origin(first) != origin(to)) {
        // Its path and query are not shown.
        let (scheme, host, port) = origin(to);
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let to = format!("{scheme}://{}{port}", host.unwrap_or_default());
        return attempt.error(RedirectRefusal::Elsewhere(to));
    }
    if attempt.previous().len() > REDIRECTS { attempt.error(RedirectRefusal::Loop) } else { attempt.follow() }
}

/// Reads a body up to its limit.
async fn body(mut response: Response, timeout: Duration) -> Result<HttpAnswer, SourceError> {
    let etag = response.headers().get(ETAG).filter(|etag| etag.len() <= LONGEST_ETAG).cloned();
    if response.content_length().is_some_and(|length| length > LARGEST as u64) {
        return Err(SourceError::Size);
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| problem(&error, timeout))? {
        if body.len() + chunk.len() > LARGEST {
            return Err(SourceError::Size);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(HttpAnswer::Body(body, etag))
}

/// The library's own text has the URL, which may hold a token; the causes below it do not.
fn problem(error: &reqwest::Error, timeout: Duration) -> SourceError {
    match causes(error).find_map(|cause| cause.downcast_ref::<RedirectRefusal>()) {
        Some(RedirectRefusal::Elsewhere(to)) => return SourceError::Redirect(to.clone()),
        Some(RedirectRefusal::Loop) => return SourceError::Loop(REDIRECTS),
        None => {}
    }
    let text = innermost(error);
    if error.is_timeout() {
        SourceError::Timeout(timeout)
    } else if text.contains("certificate verify failed") {
        SourceError::Certificate(text)
    } else if error.is_connect() {
        SourceError::Connect(text)
    } else {
        SourceError::Exchange(text)
    }
}

/// The last cause, such as `Connection refused`.
fn innermost(error: &reqwest::Error) -> String {
    causes(error).last().map_or_else(|| "no cause is given".to_owned(), ToString::to_string)
}

fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    std::iter::successors(error.source(), |cause| (*cause).source())
}

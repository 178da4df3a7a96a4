//! A server's certificate chain after one was refused: which one, and why.
//!
//! Of a failed handshake the TLS library reports only the reason. Up to TLS 1.2 the chain is in clear text and is verified here
//! again, with the same roots. Otherwise a connection of its own reads it ([`TlsContext::inspect`]). Neither decides whether a
//! server is trusted. Called by `probe`. Other systems than Linux have only the certificates.

use super::{TlsCause, TlsContext, certificate::Certificate};

/// The certificates of a server, its own first, and the one that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chain {
    /// At most [`Chain::KEPT`], by depth.
    pub certificates: Vec<Certificate>,
    /// The refused one.
    pub refused: Option<RefusedCertificate>,
}

/// A certificate that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedCertificate {
    /// Why.
    pub cause: TlsCause,
    /// OpenSSL's number for that, one of `X509_V_ERR_…`.
    pub number: i32,
    /// 0 is the server's own, 1 its issuer's.
    pub depth: usize,
    /// The certificate.
    pub certificate: Certificate,
    /// The fault as text. Untrusted: it quotes the server.
    pub text: String,
}

impl Chain {
    /// Longer than any valid chain; bounds the record of a run.
    pub const KEPT: usize = 10;

    pub(super) fn sent(all: &[Vec<u8>]) -> Self {
        Self { certificates: all.iter().take(Self::KEPT).map(|der| Certificate::parse(der)).collect(), refused: None }
    }
}

#[cfg(not(target_os = "linux"))]
impl TlsContext {
    /// The certificates (DER, the server's own first), unverified.
    pub fn verify(&self, sent: &[Vec<u8>]) -> Chain {
        Chain::sent(sent)
    }

    /// Only on Linux.
    pub async fn inspect(&self, _: &super::StampedStream) -> Option<Chain> {
        None
    }
}

#[cfg(target_os = "linux")]
mod library {
    use std::{
        io::{self, Read, Write},
        sync::{Arc, Mutex, PoisonError},
    };

    use jiff::{SignedDuration, civil::DateTime};
    use openssl::{
        error::ErrorStack,
        ssl::{ConnectConfiguration, HandshakeError, SslConnector, SslMethod, SslVerifyMode, SslVersion},
        stack::Stack,
        x509::{
            X509, X509PurposeId, X509StoreContext, X509StoreContextRef,
            store::{X509Store, X509StoreBuilder},
            verify::X509VerifyParam,
        },
    };
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::{Chain, RefusedCertificate, TlsContext};
    use crate::net::{Certificate, StampedStream, TlsCause, certificate, tls_error::of_verification};

    /// Bytes after which a handshake is aborted: OpenSSL accepts a chain of 100 KB.
    const MOST: usize = 256 << 10;

    impl TlsContext {
        /// Verifies these certificates (DER, the server's own first) with this target's roots, without their names.
        pub fn verify(&self, sent: &[Vec<u8>]) -> Chain {
            self.verified(sent).unwrap_or_else(|| Chain::sent(sent))
        }

        fn verified(&self, sent: &[Vec<u8>]) -> Option<Chain> {
            let mut certificates = sent.iter().map(|der| X509::from_der(der).ok());
            let leaf = certificates.next()??;
            let mut others = Stack::new().ok()?;
            for certificate in certificates.flatten() {
                others.push(certificate).ok()?;
            }
            let store = self.store().ok()?;
            let verified = X509StoreContext::new().ok()?.init(&store, &leaf, &others, |context| {
                Ok(if context.verify_cert()? { None } else { Some(refusal(context)) })
            });
            verified.ok()?
        }

        fn store(&self) -> Result<X509Store, ErrorStack> {
            let mut store = X509StoreBuilder::new()?;
            store.set_default_paths()?;
            for root in self.root_certificates() {
                store.add_cert(root)?;
            }
            store.set_purpose(X509PurposeId::SSL_SERVER)?;
            let mut strict = X509VerifyParam::new()?;
            let level = SslConnector::builder(SslMethod::tls_client())?.build().context().security_level();
            strict.set_auth_level(i32::try_from(level).unwrap_or(i32::MAX));
            store.set_param(&strict)?;
            Ok(store.build())
        }

        fn root_certificates(&self) -> impl Iterator<Item = X509> {
            let material = self.material().unwrap_or_default();
            material.roots.clone().into_iter().filter_map(|root| X509::from_der(&root.to_der().ok()?).ok())
        }

        /// Makes a handshake over `wire`, without a client certificate, only to read and verify the server's certificates. None
        /// if none was refused. The caller sets a deadline.
        pub async fn inspect(&self, wire: &StampedStream) -> Option<Chain> {
            let seen = Arc::default();
            let configured = self.recording(Arc::clone(&seen)).ok()?;
            let mut wire = wire.clone();
            let mut room = vec![0; 16 << 10];
            let mut taken = 0;
            let mut step = configured.connect(self.server_name(), Pipe::default());
            let mut last = loop {
                let mut waiting = match step {
                    Err(HandshakeError::WouldBlock(waiting)) => waiting,
                    Ok(mut stream) => {
                        // close_notify, or the server would wait for a command.
                        drop(stream.shutdown());
                        break std::mem::take(&mut stream.get_mut().outgoing);
                    }
                    Err(HandshakeError::Failure(mut ended)) => break std::mem::take(&mut ended.get_mut().outgoing),
                    Err(HandshakeError::SetupFailure(_)) => return None,
                };
                let outgoing = std::mem::take(&mut waiting.get_mut().outgoing);
                wire.write_all(&outgoing).await.ok()?;
                let count = wire.read(&mut room).await.ok()?;
                taken += count;
                if count == 0 || taken > MOST {
                    break Vec::new();
                }
                waiting.get_mut().incoming.extend(room.get(..count)?);
                step = waiting.handshake();
            };
            last.truncate(MOST);
            // The alert, or close_notify.
            drop(wire.write_all(&last).await);
            seen.lock().unwrap_or_else(PoisonError::into_inner).take()
        }

        /// A connection as others of this target, which stores the first refused certificate.
        fn recording(&self, seen: Arc<Mutex<Option<Chain>>>) -> Result<ConnectConfiguration, ErrorStack> {
            let mut builder = SslConnector::builder(SslMethod::tls_client())?;
            builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
            if self.alpn {
                builder.set_alpn_protos(b"\x04imap")?;
            }
            for root in self.root_certificates() {
                builder.cert_store_mut().add_cert(root)?;
            }
            builder.set_verify_callback(SslVerifyMode::PEER, move |good, context| {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                if !good && seen.is_none() {
                    *seen = Some(refusal(context));
                }
                good
            });
            builder.build().configure()
        }
    }

    /// The chain of a verification that just failed.
    fn refusal(context: &X509StoreContextRef) -> Chain {
        let built = context.chain().into_iter().flatten().filter_map(|certificate| certificate.to_der().ok());
        let built: Vec<Vec<u8>> = built.take(Chain::KEPT).collect();
        let chain = Chain::sent(&built);
        let number = context.error().as_raw();
        let depth = usize::try_from(context.error_depth()).unwrap_or_default();
        let Some(der) = context.current_cert().and_then(|refused| refused.to_der().ok()) else { return chain };
        let certificate = Certificate::parse(&der);
        let text = describe(number, depth, &certificate, &der);
        Chain {
            refused: Some(RefusedCertificate { cause: of_verification(number), number, depth, certificate, text }),
            ..chain
        }
    }

    /// Names the certificate and its fault.
    fn describe(number: i32, depth: usize, certificate: &Certificate, der: &[u8]) -> String {
        let Certificate { subject, issuer, .. } = certificate;
        let which = format!("at depth {depth} of the chain, {subject}");
        match (of_verification(number), number) {
            (TlsCause::Expired, _) => format!("{which}, expired on {}", date(certificate.not_after)),
            (TlsCause::NotYetValid, _) => format!("{which}, is valid from {}", date(certificate.not_before)),
            (TlsCause::Name, _) => match certificate::dns_names(der).as_slice() {
                [] => format!("{which}, names no host"),
                names => {
                    let more = names.len().saturating_sub(NAMES);
                    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                    let names = names.iter().take(NAMES).map(String::as_str).collect::<Vec<_>>().join(", ");
                    format!("it is for {names}{more}")
                }
            },
            // EE key too small, CA key too small
            (TlsCause::Weak, 66 | 67) => {
                let key = certificate.key.as_deref().unwrap_or("of an unknown kind");
                format!("{which}, has the key {key}")
            }
            (TlsCause::Weak, _) => match certificate::weak_digest(der) {
                Some(digest) => format!("{which}, is signed with {digest}"),
                None => format!("{which}, has a weak signature"),
            },
            // self-signed certificate, self-signed certificate in certificate chain
            (_, 18 | 19) => format!("{which}, is its own issuer and not trusted here"),
            // unable to get issuer certificate, the same locally, unable to verify the first certificate
            (_, 2 | 20 | 21) => format!("{which}: its issuer, {issuer}, was not sent and is not trusted here"),
            _ => which,
        }
    }

    const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

    const NAMES: usize = 3;

    fn date(seconds: Option<i64>) -> String {
        let date = seconds.and_then(|seconds| EPOCH.checked_add(SignedDuration::from_secs(seconds)).ok());
        date.map_or_else(|| "an unknown day".to_owned(), |date| date.date().to_string())
    }

    #[derive(Debug, Default)]
    struct Pipe {
        incoming: std::collections::VecDeque<u8>,
        outgoing: Vec<u8>,
    }

    impl Read for Pipe {
        fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
            if self.incoming.is_empty() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.incoming.read(target)
        }
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.outgoing.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}

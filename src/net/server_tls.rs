//! The certificate and key with which imaptrace itself is a TLS server, for events of mail servers.
//!
//! Reads the two files and makes an acceptor of them; accepts no connection. Called by the agent, which follows the files, and by
//! `check`.

use std::path::Path;

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::tls_files::{
    DEADLINE, TlsContextError, TlsFileFault, by, certificates, in_pkcs8, is_pair, is_whole, now, read, read_key,
};
use crate::{
    blocking,
    clock::{self, Deadline},
    follow::{NotRead, Read},
};

/// Reads certificate and key on other threads, within a few seconds.
pub async fn load_server_pair(
    cert: &Path,
    key: &Path,
) -> Result<Read<native_tls::TlsAcceptor>, NotRead<TlsContextError>> {
    let deadline = Deadline::after(clock::now(), DEADLINE);
    let secret = by(deadline, key, read_key).await?;
    let chain = by(deadline, cert, read).await?;
    let mut digest = Sha256::new();
    for file in [&chain, &*secret] {
        digest.update(file.len().to_be_bytes());
        digest.update(file);
    }
    let digest = digest.finalize().into();
    let (cert, key) = (cert.to_owned(), key.to_owned());
    let made = blocking::work(move || acceptor((&cert, &chain), (&key, secret))).await;
    let value = made.map_err(|error| NotRead::Unfinished(error.to_string()))?.map_err(NotRead::Wrong)?;
    Ok(Read { value, digest })
}

/// Checks certificate and key. Blocks its thread, for some seconds at most.
pub fn check_server_pair(cert: &Path, key: &Path) -> Result<(), TlsContextError> {
    let (secret, chain) = (now(key, read_key)?, now(cert, read)?);
    acceptor((cert, &chain), (key, secret)).map(drop)
}

fn acceptor(
    (cert, chain): (&Path, &[u8]),
    (key, secret): (&Path, Zeroizing<Vec<u8>>),
) -> Result<native_tls::TlsAcceptor, TlsContextError> {
    let Some(own) = certificates(chain).first().and_then(|own| own.to_der().ok()) else {
        return Err(TlsFileFault::NoClientCertificate.no_certificate(cert));
    };
    if !is_whole(chain) {
        return Err(TlsFileFault::DamagedChain.damaged_certificate(cert));
    }
    let secret = in_pkcs8(secret);
    let identity = native_tls::Identity::from_pkcs8(chain, &secret).map_err(|error| {
        let text =
            format!("the key {} is encrypted, damaged, or of a kind that OpenSSL does not support", key.display());
        TlsFileFault::DamagedKey.error(format!("{text}: {error}"))
    })?;
    let (cert, key) = (cert.display(), key.display());
    if !is_pair(&own, &secret) {
        return Err(TlsFileFault::Pair.error(format!(
            "the key {key} does not belong to the certificate {cert}, which has to come first in its file"
        )));
    }
    native_tls::TlsAcceptor::builder(identity)
        .min_protocol_version(Some(native_tls::Protocol::Tlsv12))
        .build()
        .map_err(|error| TlsFileFault::Pair.error(format!("{cert} and {key} cannot be used: {error}")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_certificate_goes_with_its_own_key_in_a_file_that_others_cannot_read() {
        let directory = tempfile::tempdir().unwrap();
        let pair = rcgen::KeyPair::generate().unwrap();
        let good = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&pair).unwrap().pem();
        let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let (cert, key) = (directory.path().join("own.pem"), directory.path().join("own.key"));
        let check = |chain: &str, secret: &str, mode| {
            std::fs::write(&cert, chain).unwrap();
            std::fs::write(&key, secret).unwrap();
            std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
            check_server_pair(&cert, &key).map_err(|error| error.to_string())
        };
        let secret = pair.serialize_pem();
        assert_eq!(check(&good, &secret, 0o600), Ok(()));
        for (chain, secret, mode, expected) in [
            (good.as_str(), secret.as_str(), 0o644, "has mode 0644"),
            (&good, &other, 0o600, "does not belong to the certificate"),
            (&good, "junk", 0o600, "own.key is encrypted, damaged"),
            ("junk", &secret, 0o600, "own.pem holds no certificate"),
        ] {
            let error = check(chain, secret, mode).unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }
}

//! The fields of a certificate. Verifies nothing: `chain` does, by the TLS library. Called by `tls`, `chain` and `probe`.

use sha2::{Digest as _, Sha256};
use x509_parser::{
    asn1_rs::{FromDer as _, Integer},
    certificate::X509Certificate,
    extensions::GeneralName,
    public_key::PublicKey,
};

/// A certificate of a server's chain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Certificate {
    /// notBefore, in seconds since the Unix epoch.
    pub not_before: Option<i64>,
    /// notAfter, in seconds since the Unix epoch.
    pub not_after: Option<i64>,
    /// Subject, as RFC 4514 writes it. Untrusted.
    pub subject: String,
    /// Issuer, as RFC 4514 writes it. Untrusted.
    pub issuer: String,
    /// SHA-256 of its DER, upper-case hex.
    pub sha256: String,
    /// Kind and size of its key, such as `RSA 2048` or `EC 256`.
    pub key: Option<String>,
}

impl Certificate {
    /// Parses DER. If that fails, there is only the hash.
    pub(super) fn parse(der: &[u8]) -> Self {
        let sha256 = format!("{:X}", Sha256::digest(der));
        match x509_parser::parse_x509_certificate(der) {
            Ok((_, certificate)) => Self {
                not_before: Some(certificate.validity().not_before.timestamp()),
                not_after: Some(certificate.validity().not_after.timestamp()),
                subject: certificate.subject().to_string(),
                issuer: certificate.issuer().to_string(),
                sha256,
                key: key(&certificate),
            },
            Err(_) => Self { sha256, ..Self::default() },
        }
    }

    /// Whether its issuer is its subject.
    pub fn is_self_issued(&self) -> bool {
        !self.subject.is_empty() && self.subject == self.issuer
    }
}

/// Kind and size of the key in a certificate; none if it cannot be parsed.
fn key(certificate: &X509Certificate<'_>) -> Option<String> {
    let key = certificate.public_key();
    // x509-parser has only the OID of Edwards curves.
    match key.algorithm.algorithm.to_id_string().as_str() {
        "1.3.101.112" => return Some("Ed25519".to_owned()),
        "1.3.101.113" => return Some("Ed448".to_owned()),
        _ => {}
    }
    Some(match key.parsed().ok()? {
        PublicKey::RSA(key) => format!("RSA {}", key.key_size()),
        PublicKey::EC(key) => format!("EC {}", key.key_size()),
        PublicKey::DSA(_) => {
            // The size is that of the prime p, the first of the parameters (RFC 3279 §2.3.2).
            let (_, prime) = Integer::from_der(key.algorithm.parameters.as_ref()?.data).ok()?;
            let octets: &[u8] = prime.as_ref();
            format!("DSA {}", octets.iter().skip_while(|octet| **octet == 0).count() * 8)
        }
        _ => return None,
    })
}

/// The digest of the signature on a certificate (DER), if it is a weak one.
pub(super) fn weak_digest(der: &[u8]) -> Option<&'static str> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    match certificate.signature_algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.2" => Some("MD2"),
        "1.2.840.113549.1.1.4" => Some("MD5"),
        "1.2.840.113549.1.1.5" | "1.2.840.10045.4.1" | "1.2.840.10040.4.3" => Some("SHA-1"),
        _ => None,
    }
}

/// The host names in the subjectAltName of a certificate (DER).
pub(super) fn dns_names(der: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(der) else { return Vec::new() };
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.into_iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificates_facts() {
        let pair = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(vec!["mail.example".into()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(2021, 1, 31);
        parameters.not_after = rcgen::date_time_ymd(2031, 1, 31);
        let certificate = parameters.self_signed(&pair).unwrap();
        let facts = Certificate::parse(certificate.der());
        assert_eq!((facts.not_before, facts.not_after), (Some(1_612_051_200), Some(1_927_584_000)));
        assert!(facts.subject.starts_with("CN=") && facts.sha256.len() == 64, "{facts:?}");
        assert!(facts.is_self_issued());
        assert_eq!(facts.key.as_deref(), Some("EC 256"));
        assert_eq!(dns_names(certificate.der()), ["mail.example"]);
        assert_eq!(Certificate::parse(b"junk").not_after, None);
        assert!(!Certificate::parse(b"junk").is_self_issued());
        assert_eq!((Certificate::parse(b"junk").key, dns_names(b"junk")), (None, vec![]));
    }
    #[cfg(target_os = "linux")]
    #[test]
    fn the_kind_and_size_of_a_key() {
        use openssl::{
            asn1::Asn1Time,
            dsa::Dsa,
            ec::{EcGroup, EcKey},
            hash::MessageDigest,
            nid::Nid,
            pkey::PKey,
            rsa::Rsa,
            x509::X509Builder,
        };

        let curve = EcGroup::from_curve_name(Nid::SECP384R1).unwrap();
        let (edwards, classic) = (MessageDigest::null(), MessageDigest::sha256());
        for (key, digest, expected) in [
            (PKey::generate_ed25519().unwrap(), edwards, "Ed25519"),
            (PKey::generate_ed448().unwrap(), edwards, "Ed448"),
            (PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap(), classic, "RSA 2048"),
            (PKey::from_ec_key(EcKey::generate(&curve).unwrap()).unwrap(), classic, "EC 384"),
            (PKey::from_dsa(Dsa::generate(1024).unwrap()).unwrap(), classic, "DSA 1024"),
        ] {
            let mut builder = X509Builder::new().unwrap();
            builder.set_pubkey(&key).unwrap();
            builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
            builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
            builder.sign(&key, digest).unwrap();
            let facts = Certificate::parse(&builder.build().to_der().unwrap());
            assert_eq!(facts.key.as_deref(), Some(expected));
        }
    }
}

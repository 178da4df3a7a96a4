//! What to try when TLS failed, by the exact fault. Called by `hints`.

use imaptrace_record::TlsFault;

/// The hint, in the form of all hints: ASCII, lower case, no full stop, at most 76 characters.
pub(super) fn hint(fault: TlsFault) -> &'static str {
    match fault {
        TlsFault::LeafExpired => "renew the server's certificate, or reload the server if it has a new one",
        TlsFault::IntermediateExpired => "replace the intermediate certificate that the server sends, not the leaf",
        TlsFault::RootExpired => "send a chain to a root that is still valid; update the CA bundle here",
        TlsFault::LeafNotYetValid => "compare the clock here with that of the issuer: the certificate is too new",
        TlsFault::IssuerNotYetValid => "compare the clock here with that of the issuer: an intermediate is too new",
        TlsFault::SelfSigned => "get a certificate from a CA, or give this one with --ca-file or ca_file",
        TlsFault::IssuerMissing => "send the intermediate certificate too, or give your own CA with --ca-file",
        TlsFault::RootUntrusted => "give the chain's root with --ca-file or ca_file, or update the CA bundle",
        TlsFault::LeafWeak => "issue a new server certificate: longer key, SHA-256 signature",
        TlsFault::IssuerWeak => "use a CA with a longer key and SHA-256: an issuer is weak, not the leaf",
        TlsFault::ClearText => "the port speaks IMAP in clear text first: use --security starttls",
        TlsFault::Http => "a web server or a proxy answers: check host and port (IMAP: 993)",
        TlsFault::NoTls => "another service answers: is it the right port? TLS is on 993",
        TlsFault::Version => "switch TLS 1.2 or 1.3 on at the server: older versions are not used",
        TlsFault::SmallDhGroup => "give the server DH parameters of 2048 bits or more, or ECDHE ciphers alone",
        TlsFault::LegacyRenegotiation => "update the server's TLS library: it lacks secure renegotiation (RFC 5746)",
        TlsFault::NoCommonParameters => "switch current ciphers on at the server: ECDHE or TLS 1.3, with AES-GCM",
        TlsFault::SignatureAlgorithm => "let the server sign with SHA-256 or better: update its TLS library",
        TlsFault::MalformedCertificate => "look at the server's certificate file with openssl x509 -text",
        TlsFault::Altered => "see that key and certificate are a pair, and that no device alters the bytes",
        TlsFault::Alpn => "set alpn = false (probe: --no-alpn), or let the server accept ALPN imap",
        TlsFault::UnknownName => "give a name that the server has: server_name, or --server-name",
        TlsFault::ClientCertificateRequired => "give a client certificate with client_cert and client_key",
        TlsFault::RefusedAfterCertificate => {
            "does it need a client certificate (client_cert)? see the server's TLS log"
        }
        TlsFault::ClientCertificateRefused => "does the server trust the CA of client_cert? see the server's TLS log",
        TlsFault::HandshakeRefused => "see the server's TLS log: an old TLS library, or a proxy in between?",
        TlsFault::ServerFault => "see the server's TLS log: often its certificate or key cannot be read",
        TlsFault::ClosedBeforeHello => "does it need a PROXY header (proxy_protocol), or none? is it at its limit?",
        TlsFault::ClosedInHandshake => "look into the server's TLS log, and at firewalls that inspect TLS",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_a_short_plain_hint_of_its_own() {
        let mut seen = std::collections::BTreeSet::new();
        for fault in TlsFault::ALL {
            let text = hint(*fault);
            assert!((20..=76).contains(&text.len()) && text.is_ascii(), "{fault:?}: {} {text}", text.len());
            assert!(!text.ends_with('.') && !text.contains(char::is_control), "{fault:?}: {text}");
            assert!(seen.insert(text), "{fault:?} shares its hint with another fault");
        }
    }
}

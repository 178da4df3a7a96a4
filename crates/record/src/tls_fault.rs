//! What exactly was wrong with TLS, below the class of a failure: what an operator has to mend. The list is closed.

words! {
    /// The cause of a TLS failure, finer than its [`ErrorType`](super::ErrorType).
    TlsFault {
        /// The server's own certificate has expired.
        LeafExpired = "leaf_expired",
        /// The server's own certificate is good for now, and one between it and the root has expired.
        IntermediateExpired = "intermediate_expired",
        /// The root at the end of the chain has expired.
        RootExpired = "root_expired",
        /// The server's own certificate is not valid yet.
        LeafNotYetValid = "leaf_not_yet_valid",
        /// One above the server's own certificate is not valid yet.
        IssuerNotYetValid = "issuer_not_yet_valid",
        /// The server's own certificate is signed with its own key, and not trusted.
        SelfSigned = "self_signed",
        /// The issuer of the server's own certificate was neither sent by the server nor is it trusted here.
        IssuerMissing = "issuer_missing",
        /// The chain goes on above the server's own certificate, and ends at no trusted root.
        RootUntrusted = "root_untrusted",
        /// The server's own certificate has a key that is too small, or a signature by a weak digest.
        LeafWeak = "leaf_weak",
        /// One above the server's own certificate has.
        IssuerWeak = "issuer_weak",
        /// IMAP in clear text where TLS should be.
        ClearText = "clear_text",
        /// An answer in HTTP where TLS should be.
        Http = "http",
        /// Bytes that are no TLS.
        NoTls = "no_tls",
        /// No protocol version in common: the server has none from TLS 1.2 on.
        Version = "version",
        /// The Diffie-Hellman group that the server chose is too small.
        SmallDhGroup = "small_dh_group",
        /// The server lacks secure renegotiation (RFC 5746).
        LegacyRenegotiation = "legacy_renegotiation",
        /// No cipher suite, group or signature algorithm in common.
        NoCommonParameters = "no_common_parameters",
        /// The server signed the handshake by an algorithm that is not allowed.
        SignatureAlgorithm = "signature_algorithm",
        /// The server's certificate, or its key, cannot be read.
        MalformedCertificate = "malformed_certificate",
        /// A signature or checksum is wrong: the bytes were altered, or key and certificate do not belong together.
        Altered = "altered",
        /// The server supports none of the protocols offered by ALPN (alert 120).
        Alpn = "alpn",
        /// The server does not recognise the host name (alert 112).
        UnknownName = "unknown_name",
        /// The server requires a client certificate, and none was sent (alert 116, and 41).
        ClientCertificateRequired = "client_certificate_required",
        /// The handshake failed at the server after it had sent its certificate (alert 40): it often requires a client certificate.
        RefusedAfterCertificate = "refused_after_certificate",
        /// The server refused the client certificate (alerts 42 to 46, 48, 49).
        ClientCertificateRefused = "client_certificate_refused",
        /// The server could not read the handshake, or would not take a part of it (alerts 10, 22, 47, 50, 51, 109, 110).
        HandshakeRefused = "handshake_refused",
        /// A fault inside the server (alert 80).
        ServerFault = "server_fault",
        /// The connection ended before the server had sent a byte.
        ClosedBeforeHello = "closed_before_hello",
        /// The connection ended later in the handshake.
        ClosedInHandshake = "closed_in_handshake",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_in_json_is_the_word_in_telemetry() {
        for fault in TlsFault::ALL {
            assert_eq!(serde_json::to_value(fault).unwrap(), fault.as_str());
        }
    }
}

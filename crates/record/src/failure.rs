//! Every way in which a run can fail, sorted by blame (docs/telemetry.md). The list is closed: it is a metric label.

use std::{fmt, str::FromStr};

/// Who has to act. It decides whether a run is failed or void.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The way to the server, or its name.
    Network,
    /// The server's answer, certificate, or silence.
    Server,
    /// The account: password, expiry, mechanism.
    Credentials,
    /// What the operator wrote in the configuration.
    Configuration,
    /// imaptrace itself, or the machine it runs on.
    Agent,
}

macro_rules! error_types {
    ($($blame:ident { $($(#[$doc:meta])* $variant:ident = $name:literal),+ $(,)? })+) => {
        /// One class of failure. Its text is `error.type` on span and metric and `error_type` in JSON.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum ErrorType {
            $($($(#[$doc])* $variant,)+)+
        }

        impl ErrorType {
            /// All classes, in the order of docs/telemetry.md.
            pub const ALL: &[Self] = &[$($(Self::$variant,)+)+];

            /// The class as users see it.
            pub fn as_str(self) -> &'static str {
                match self { $($(Self::$variant => $name,)+)+ }
            }

            /// Who has to act.
            pub fn blame(self) -> Blame {
                match self { $($(Self::$variant)|+ => Blame::$blame,)+ }
            }
        }
    };
}

error_types! {
    Network {
        /// The name does not exist (RFC 1035 RCODE 3).
        DnsNxdomain = "dns_nxdomain",
        /// The name exists but has no address of the requested family.
        DnsNodata = "dns_nodata",
        /// The name server failed or refused.
        DnsServfail = "dns_servfail",
        /// No answer to the query in time.
        TimeoutResolve = "timeout_resolve",
        /// RST in answer to SYN: nothing listens there.
        ConnectRefused = "connect_refused",
        /// No route, or ICMP unreachable.
        ConnectUnreachable = "connect_unreachable",
        /// No answer to SYN in time.
        TimeoutConnect = "timeout_connect",
        /// RST in an established connection, or the kernel has given the connection up.
        Reset = "reset",
        /// The connection ended in the middle; see `imaptrace.tls.close_notify`.
        Eof = "eof",
    }
    Server {
        /// The handshake failed in a way that no other class names.
        TlsHandshake = "tls_handshake",
        /// No TLS spoken there, or no common version.
        TlsProtocol = "tls_protocol",
        /// The server sent a fatal alert.
        TlsAlert = "tls_alert",
        /// The notAfter of a certificate in the chain has passed.
        TlsCertExpired = "tls_cert_expired",
        /// The notBefore of a certificate in the chain is in the future.
        TlsCertNotYetValid = "tls_cert_not_yet_valid",
        /// The certificate is for another name, or has one only as its common name (RFC 7817 §3).
        TlsCertName = "tls_cert_name",
        /// No chain to a trusted root.
        TlsCertUntrusted = "tls_cert_untrusted",
        /// Key or signature of a certificate too weak for the local policy.
        TlsCertWeak = "tls_cert_weak",
        /// The handshake did not end in time.
        TimeoutTls = "timeout_tls",
        /// STARTTLS is not advertised.
        StarttlsUnavailable = "starttls_unavailable",
        /// STARTTLS was advertised and then refused.
        StarttlsRefused = "starttls_refused",
        /// Bytes stood behind the OK to STARTTLS (RFC 9051 §11.1).
        StarttlsInjection = "starttls_injection",
        /// PREAUTH in clear text where TLS is required (RFC 9051 §7.1.4).
        PreauthPlaintext = "preauth_plaintext",
        /// The server greeted with BYE.
        GreetingBye = "greeting_bye",
        /// The first line is no IMAP greeting.
        ProtocolGreeting = "protocol_greeting",
        /// No greeting in time.
        TimeoutGreeting = "timeout_greeting",
        /// A line that breaks framing: literal size, bare CR.
        ProtocolSyntax = "protocol_syntax",
        /// A tagged line with a tag that is not the running command's.
        ProtocolTag = "protocol_tag",
        /// A `+` without a command that waits for one.
        ProtocolContinuation = "protocol_continuation",
        /// A line over the limit.
        LimitLine = "limit_line",
        /// More bytes for a command or a run than the limit.
        LimitBytes = "limit_bytes",
        /// More untagged responses for a command than the limit.
        LimitResponses = "limit_responses",
        /// Parentheses nested deeper than the limit.
        LimitDepth = "limit_depth",
        /// No tagged line in time.
        TimeoutCommand = "timeout_command",
        /// The server did not take our bytes in time.
        TimeoutWrite = "timeout_write",
        /// The run's time was up between two steps.
        TimeoutRun = "timeout_run",
        /// BYE inside a command.
        Bye = "bye",
        /// Tagged NO.
        No = "no",
        /// Tagged BAD of no other class.
        Bad = "bad",
        /// NO or BAD with `[UNAVAILABLE]` (RFC 5530 §3) or in a known wording.
        Unavailable = "unavailable",
        /// NO or BAD with `[LIMIT]` or `[INUSE]` (RFC 5530 §3) or in a known wording.
        LimitServer = "limit_server",
        /// NO or BYE with a referral (RFC 2221), which is never followed.
        Referral = "referral",
        /// The mailbox is empty, and usually holds 100 messages or more.
        MailboxEmpty = "mailbox_empty",
    }
    Credentials {
        /// User name or password refused, or the account.
        AuthFailed = "auth_failed",
        /// The login was refused with `[EXPIRED]` (RFC 5530 §3).
        AuthExpired = "auth_expired",
        /// The login was refused with `[PRIVACYREQUIRED]` (RFC 5530 §3).
        AuthPrivacy = "auth_privacy",
        /// No mechanism that both sides can use, or LOGINDISABLED.
        AuthMechanism = "auth_mechanism",
        /// The SASL exchange broke its own rules.
        AuthProtocol = "auth_protocol",
    }
    Configuration {
        /// The password could not be had from its source, or a file for TLS or the CA certificates could not be read.
        SecretUnavailable = "secret_unavailable",
        /// The configuration forbids all addresses of the name, or its source address is none of this host's.
        AddressDenied = "address_denied",
    }
    Agent {
        /// No file descriptor left, or no memory of the kernel's for sockets.
        OverloadFd = "overload_fd",
        /// No local port left.
        OverloadPort = "overload_port",
        /// This process got too little CPU to judge: the answer lay unread, or there was no time left to wait for it.
        OverloadCpu = "overload_cpu",
        /// The machine slept during the run, or this process was stopped.
        Suspended = "suspended",
        /// imaptrace was stopped.
        Cancelled = "cancelled",
        /// A fault in imaptrace, or of its machine's that has no class of its own.
        Internal = "internal",
    }
}

impl ErrorType {
    /// Whether a run that ends so is void: the agent could not judge, and `up` stays as it was.
    pub fn is_void(self) -> bool {
        matches!(self.blame(), Blame::Agent | Blame::Configuration)
    }
}

impl fmt::Display for ErrorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ErrorType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .iter()
            .copied()
            .find(|class| class.as_str() == text)
            .ok_or_else(|| format!("no error type is called {text:?}"))
    }
}

text_in_json!(ErrorType);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_found_by_its_name_and_named_once() {
        for class in ErrorType::ALL {
            assert_eq!(class.as_str().parse(), Ok(*class));
        }
    }

    #[test]
    fn only_agent_and_configuration_make_a_run_void() {
        assert!(ErrorType::Cancelled.is_void() && ErrorType::SecretUnavailable.is_void());
        assert!(!ErrorType::AuthFailed.is_void() && !ErrorType::DnsNxdomain.is_void() && !ErrorType::No.is_void());
    }
}

//! What to try, for every way in which a run can fail. One short sentence part, in plain ASCII, that ends a line.

use crate::record::{ErrorType, Step};

/// The same for the step that failed: a refused SELECT is mostly a mailbox that is not there.
pub(super) fn advice(step: Option<&Step>, class: ErrorType) -> &'static str {
    match (step.map(|step| step.name.as_str()), class) {
        (Some("SELECT" | "EXAMINE"), ErrorType::No) => {
            "is there such a mailbox? check --mailbox, or the path in the URL"
        }
        _ => hint(class),
    }
}

/// What to look at first when a run ended with `class`. ASCII, lower case, no full stop, at most 76 characters:
/// with its indent it stays one line on 80 columns.
pub fn hint(class: ErrorType) -> &'static str {
    match class {
        ErrorType::DnsNxdomain => "check the spelling of the host name, and whether its zone still holds it",
        ErrorType::DnsNodata => "the name has no address of this family: try --address any, or add the record",
        ErrorType::DnsServfail => "ask the resolver by hand (dig HOST); look at its log and at DNSSEC",
        ErrorType::TimeoutResolve => "see that the servers in /etc/resolv.conf answer from this machine",
        ErrorType::ConnectRefused => "see that the server runs and listens on this port; is the port right?",
        ErrorType::ConnectUnreachable => "check routes and firewalls; --address v4 or v6 shows which family fails",
        ErrorType::TimeoutConnect => "a firewall drops the packets, or the host is down: try from elsewhere",
        ErrorType::Reset => "look into the log of the server, or of a proxy, for a crash or a limit",
        ErrorType::Eof => "the server hung up: look into its log at this time for a crash or a limit",
        ErrorType::TlsHandshake => "repeat it by hand with openssl s_client -connect HOST:PORT and compare",
        ErrorType::TlsProtocol => "is it the right port? 993 speaks TLS at once, 143 wants --security starttls",
        ErrorType::TlsAlert => "look into the server's TLS log: does it want a client certificate?",
        ErrorType::TlsCertExpired => "renew the certificate, and reload the server if the new one is there already",
        ErrorType::TlsCertNotYetValid => "compare this machine's clock with the one that issued the certificate",
        ErrorType::TlsCertName => "use a name that the certificate holds, or give it with --server-name",
        ErrorType::TlsCertUntrusted => "send the whole chain from the server, or give your own CA with --ca-file",
        ErrorType::TlsCertWeak => "issue the certificate anew with a longer key and a current signature",
        ErrorType::TimeoutTls => "the port is open but no TLS answers: wrong port, or a busy server?",
        ErrorType::StarttlsUnavailable => "switch STARTTLS on at the server, or use imaps:// on port 993",
        ErrorType::StarttlsRefused => "STARTTLS is offered, then refused: look at its certificate and TLS log",
        ErrorType::StarttlsInjection => "bytes stood behind the OK to STARTTLS: an attack, or a proxy to be updated",
        ErrorType::PreauthPlaintext => "PREAUTH rules out STARTTLS: use imaps://, or --security none if meant",
        ErrorType::GreetingBye => "the server turns connections away: look at its limits and into its log",
        ErrorType::ProtocolGreeting => "is it an IMAP server? another service, or TLS, may listen on this port",
        ErrorType::TimeoutGreeting => "a slow DNS or block list holds it, it is overloaded, or it speaks TLS here",
        ErrorType::ProtocolSyntax => "the answer breaks IMAP's grammar: is a proxy in between? update the server",
        ErrorType::ProtocolTag => "the answer bears a foreign tag: if long tags trouble it, tag = \"short\"",
        ErrorType::ProtocolContinuation => "the server waits for data that nobody owes it: look for a proxy in between",
        ErrorType::LimitLine => "a line is longer than [limits] allow: look at what the server sends",
        ErrorType::LimitBytes => "the answer is larger than [limits] allow: try a smaller --newest",
        ErrorType::LimitResponses => "more answers than [limits] allow: is the mailbox or folder list that large?",
        ErrorType::LimitDepth => "parentheses nest too deep to be meant: look at what the server sends",
        ErrorType::TimeoutCommand => "look into the server's log for this command: disk, lock, index, load",
        ErrorType::TimeoutWrite => "the server stopped reading: look for a hung process or a stalled proxy",
        ErrorType::TimeoutRun => "no step alone was too long, all together were: see the bars, or --timeout",
        ErrorType::Bye => "the server ended the session itself: its words and its log say why",
        ErrorType::No => "the server refused the command: its words and its log say why",
        ErrorType::Bad => "the server did not understand the command: see its words and its version",
        ErrorType::Unavailable => "a part behind the server is down, often storage or the user database",
        ErrorType::LimitServer => "too many sessions, or the account is locked: raise the limit, or wait",
        ErrorType::Referral => "the mailbox lives on another server: probe that one directly",
        ErrorType::AuthFailed => "check user name and password, and whether the account is locked or wants 2FA",
        ErrorType::AuthExpired => "the password has expired: set a new one and give it to imaptrace",
        ErrorType::AuthPrivacy => "the server wants TLS before a login: use imaps:// or --security starttls",
        ErrorType::AuthMechanism => "no mechanism is common to both: enable PLAIN or LOGIN over TLS",
        ErrorType::AuthProtocol => "the login exchange broke its own rules: look into the server's auth log",
        ErrorType::SecretUnavailable => "check where the password comes from: file, variable or command",
        ErrorType::AddressDenied => "set source_address to an address of this host, or leave it out",
        ErrorType::OverloadFd => "raise the limit on open files (ulimit -n, LimitNOFILE=), or run fewer",
        ErrorType::OverloadPort => "no local port is left: run fewer at once, or widen ip_local_port_range",
        ErrorType::Suspended => "this machine slept during the run: the run says nothing about the server",
        ErrorType::Cancelled => "imaptrace was told to stop: the run says nothing about the server",
        ErrorType::Internal => "this is a fault in imaptrace: please report it with the JSON line of the run",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_a_short_plain_hint_of_its_own() {
        let mut seen = std::collections::BTreeSet::new();
        for class in ErrorType::ALL {
            let text = hint(*class);
            assert!((20..=76).contains(&text.len()) && text.is_ascii(), "{class}: {text}");
            assert!(!text.ends_with('.') && !text.contains(char::is_control), "{class}: {text}");
            assert!(seen.insert(text), "{class} shares its hint with another class");
        }
    }
}

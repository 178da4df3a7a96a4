//! What to try after each kind of failure: the short end of a line, in ASCII. `wait_hints` is for runs that passed and were
//! slow. Called by `failure`, `table` and `waterfall`.

use std::borrow::Cow;

use imaptrace_imap::{CommandName, Condition, LoginMethod, Mechanism, ResponseCode};
use imaptrace_record::{ErrorType, Run, SetupStep, Step, StepName, not_now};

use super::{Style, text::safe, tls_hints};

/// What to try after a failed run, by its response code (RFC 9051 §7.1, RFC 5530 §3), its mechanism and its server.
pub(super) fn failure_hint(run: &Run, class: ErrorType, style: Style) -> Cow<'static, str> {
    let step = run.failing_step();
    if class == ErrorType::No
        && let Some(mailbox) = &run.suggested_mailbox
    {
        let mailbox = safe(mailbox, style);
        let separator = run.server.hierarchy_separator.as_ref().map(|separator| safe(separator.as_str(), style));
        return Cow::Owned(match separator.filter(|separator| mailbox.contains(separator.as_str())) {
            Some(separator) => format!("the mailbox separator is {separator}; did you mean {mailbox}?"),
            None => format!("mailbox names are plain UTF-8 here; did you mean {mailbox}?"),
        });
    }
    Cow::Borrowed(of_login(run, class).unwrap_or_else(|| of_step(step, class)))
}

/// A hint for a failed login from the whole run.
fn of_login(run: &Run, class: ErrorType) -> Option<&'static str> {
    match class {
        ErrorType::AuthMechanism | ErrorType::AuthFailed if run.server.oauth_only == Some(true) => Some(OAUTH_ONLY),
        // The general hint recommends TLS, which is there already.
        ErrorType::AuthMechanism if run.server.tls_version.is_some() => {
            Some("no mechanism is common to both: enable PLAIN there, or set auth to another")
        }
        _ => None,
    }
}

const OAUTH_ONLY: &str = "the server takes OAuth only: imaptrace needs an account with a password";

fn of_step(step: Option<&Step>, class: ErrorType) -> &'static str {
    let mechanism = step.and_then(|step| step.mechanism);
    let code = step.and_then(|step| step.code);
    let status = step.and_then(|step| step.status);
    let was_ok = status == Some(Condition::Ok);
    if let Some(fault) = step.and_then(|step| step.tls_fault) {
        return tls_hints::hint(fault);
    }
    let name = step.map(|step| &step.name);
    let command = name.and_then(StepName::command);
    let words = step.and_then(|step| step.text.as_ref()).map_or("", |text| text.as_str());
    let opens = command.is_some_and(CommandName::opens_mailbox);
    match (name, class) {
        // NetEase and other Coremail servers.
        (_, ErrorType::No) if opens && words.to_ascii_lowercase().contains("unsafe login") => {
            "the server requires ID before SELECT, but does not advertise or accept it"
        }
        (_, ErrorType::No) => of_code(code, opens).unwrap_or_else(|| hint(class)),
        (_, ErrorType::LimitServer)
            if code == Some(ResponseCode::InUse) && !command.is_some_and(CommandName::is_login) =>
        {
            "another session holds it: look for a lock, a migration or a POP3 session"
        }
        // Dovecot before 2.3 reports its limit as UNAVAILABLE.
        (_, ErrorType::Unavailable) if not_now(command, words.as_bytes()) == Some(ErrorType::LimitServer) => {
            hint(ErrorType::LimitServer)
        }
        (_, ErrorType::Unavailable) if words.starts_with("User is authenticated but not connected") => {
            "Exchange: has the account a mailbox, a licence and IMAP, or is it throttled?"
        }
        // A timeout has a status only after a refusal without a tag.
        (_, ErrorType::TimeoutCommand) if matches!(status, Some(Condition::No | Condition::Bad)) => {
            "refused without a tag, and the command never ended: see its words and log"
        }
        (_, ErrorType::AuthFailed) if code == Some(ResponseCode::ContactAdmin) => {
            of_code(code, false).unwrap_or_else(|| hint(class))
        }
        // Exchange and Exchange Online.
        (_, ErrorType::AuthFailed) if starts_with(words, "basic authentication is disabled") => OAUTH_ONLY,
        (_, ErrorType::AuthFailed) if words.contains("BasicAuthBlocked") => OAUTH_ONLY,
        (_, ErrorType::AuthFailed)
            if words == "AUTHENTICATE failed." && mechanism == Some(LoginMethod::Sasl(Mechanism::Plain)) =>
        {
            "is the password right? Exchange may need auth login, or take OAuth only"
        }
        (_, ErrorType::AuthFailed) if words == "LOGIN failed." => {
            "is the password right? Exchange Online and Outlook.com take OAuth only"
        }
        // A line that is no greeting, but a refusal.
        (
            Some(StepName::Setup(SetupStep::Greeting)),
            ErrorType::ProtocolGreeting | ErrorType::Eof | ErrorType::TimeoutGreeting,
        ) if matches!(status, Some(Condition::No | Condition::Bad | Condition::Bye)) => hint(ErrorType::GreetingBye),
        // The authentication succeeded, the authorization did not (RFC 5530 §3).
        (_, ErrorType::AuthFailed) if code == Some(ResponseCode::AuthorizationFailed) => {
            "the login is right, but not allowed to act for this user: see its rights"
        }
        (_, ErrorType::Bad)
            if words.split(|c: char| !c.is_ascii_alphabetic()).any(|word| word.eq_ignore_ascii_case("tag")) =>
        {
            "the server may refuse long tags: try --tag short"
        }
        // No password was in it.
        (_, ErrorType::AuthFailed) if mechanism == Some(LoginMethod::Sasl(Mechanism::External)) => {
            "does the server trust the client certificate, and does it name this user?"
        }
        // A server that offers it may store this user's password in another form.
        (_, ErrorType::AuthFailed) if mechanism == Some(LoginMethod::Sasl(Mechanism::ScramSha256)) => {
            "is the password right, and stored in a form for SCRAM? try auth plain"
        }
        // A missing response before an OK, not a syntax error.
        (_, ErrorType::ProtocolSyntax) if opens && was_ok => {
            "the response lacks EXISTS: look at the server, or a proxy that edits lines"
        }
        (Some(StepName::Command(CommandName::Fetch)), ErrorType::ProtocolSyntax) if was_ok => {
            "the server counts messages it does not give: look at the mailbox's index"
        }
        // Earlier tags came back unchanged, so they are not the cause.
        (
            Some(StepName::Command(CommandName::Fetch)),
            ErrorType::ProtocolSyntax | ErrorType::ProtocolTag | ErrorType::ProtocolContinuation,
        ) => "a row is cut wrongly: a literal's size, or a line end in a quoted string?",
        // The text is of `probe`.
        (_, ErrorType::TimeoutCommand)
            if words.contains(" of a literal of ") && words.ends_with(" are still awaited") =>
        {
            "the rest of a literal did not come: its size, or a path that drops packets"
        }
        (Some(StepName::Setup(SetupStep::Connect)), ErrorType::AddressDenied) => {
            "source_address has to be an address of this machine"
        }
        (Some(StepName::Setup(SetupStep::Resolve)), ErrorType::Internal) => {
            "the fault is on this machine: see the text above, resolv.conf and [dns]"
        }
        _ => hint(class),
    }
}

fn starts_with(words: &str, start: &str) -> bool {
    words.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start))
}

/// The meaning of a NO by its response code; `opens` if the command is SELECT or EXAMINE.
fn of_code(code: Option<ResponseCode>, opens: bool) -> Option<&'static str> {
    match code.unwrap_or(ResponseCode::Other) {
        ResponseCode::ServerBug => Some("a fault inside the server: see its log at this time"),
        ResponseCode::NoPerm => Some("this account may not do that: look at its rights (ACL) on the mailbox"),
        ResponseCode::Corruption => Some("the server finds its own data damaged: see its log, and repair the mailbox"),
        ResponseCode::OverQuota => Some("the account is over a quota or limit: make space, or raise the limit"),
        ResponseCode::ContactAdmin => Some("only the server's administrator can repair this: see the server's words"),
        ResponseCode::Cannot => Some("the server cannot do that with this name: does it only hold other mailboxes?"),
        ResponseCode::NonExistent | ResponseCode::TryCreate => {
            opens.then_some("there is no such mailbox: check --mailbox, or the path in the URL")
        }
        ResponseCode::Alert
        | ResponseCode::AlreadyExists
        | ResponseCode::AppendUid
        | ResponseCode::AuthenticationFailed
        | ResponseCode::AuthorizationFailed
        | ResponseCode::BadCharset
        | ResponseCode::Capability
        | ResponseCode::ClientBug
        | ResponseCode::Closed
        | ResponseCode::CompressionActive
        | ResponseCode::CopyUid
        | ResponseCode::Expired
        | ResponseCode::ExpungeIssued
        | ResponseCode::HasChildren
        | ResponseCode::HighestModSeq
        | ResponseCode::InProgress
        | ResponseCode::InUse
        | ResponseCode::Limit
        | ResponseCode::MailboxId
        | ResponseCode::MessageLimit
        | ResponseCode::Modified
        | ResponseCode::NewName
        | ResponseCode::NoModSeq
        | ResponseCode::NotSaved
        | ResponseCode::Other
        | ResponseCode::Parse
        | ResponseCode::PermanentFlags
        | ResponseCode::PrivacyRequired
        | ResponseCode::ReadOnly
        | ResponseCode::ReadWrite
        | ResponseCode::Referral
        | ResponseCode::TooBig
        | ResponseCode::UidNext
        | ResponseCode::UidNotSticky
        | ResponseCode::UidValidity
        | ResponseCode::Unavailable
        | ResponseCode::UnknownCte
        | ResponseCode::Unseen => {
            opens.then_some("the server refused to open the mailbox: see its words, and check --mailbox")
        }
    }
}

/// What to examine first when a run ended with `class`: ASCII, lower case, no full stop, at most 76 characters.
pub fn hint(class: ErrorType) -> &'static str {
    match class {
        ErrorType::DnsNxdomain => "check the spelling of the host name, and whether its zone still holds it",
        ErrorType::DnsNodata => "the name has no address of this family: try --address any, or add the record",
        ErrorType::DnsServfail => "ask each server of /etc/resolv.conf (dig @SERVER HOST); see its log, DNSSEC",
        ErrorType::TimeoutResolve => "see that each server in /etc/resolv.conf answers (dig @SERVER HOST)",
        ErrorType::ConnectRefused => "see that the server runs and listens on this port; is the port right?",
        ErrorType::ConnectUnreachable => "check routes and firewalls; --address v4 or v6 shows which family fails",
        ErrorType::TimeoutConnect => "a firewall drops the packets, or the host is down: try from elsewhere",
        ErrorType::Reset => "look into the log of the server, or of a proxy, for a crash or a limit",
        ErrorType::Eof => "the server hung up: look into its log at this time for a crash or a limit",
        ErrorType::TlsHandshake => "repeat it by hand with openssl s_client -connect HOST:PORT and compare",
        ErrorType::TlsProtocol => "is it the right port? 993 begins with TLS, 143 needs --security starttls",
        ErrorType::TlsAlert => "look into the server's TLS log: its alert names what it refused",
        ErrorType::TlsCertExpired => "see which certificate of the chain has expired: openssl s_client -showcerts",
        ErrorType::TlsCertNotYetValid => "compare this machine's clock with the one that issued the certificate",
        ErrorType::TlsCertName => "use a name that the certificate holds, or give it with --server-name",
        ErrorType::TlsCertUntrusted => "send the whole chain from the server, or give your own CA with --ca-file",
        ErrorType::TlsCertWeak => "issue a new certificate with a longer key and a signature by SHA-256",
        ErrorType::TimeoutTls => "the port is open but no TLS answers: wrong port, or a busy server?",
        ErrorType::StarttlsUnavailable => "switch STARTTLS on at the server, or use imaps:// on port 993",
        ErrorType::StarttlsRefused => "STARTTLS is offered, then refused: look at its certificate and TLS log",
        ErrorType::StarttlsInjection => "bytes followed the OK to STARTTLS: an attack, or a proxy to be updated",
        ErrorType::PreauthPlaintext => "PREAUTH rules out STARTTLS: use imaps://, or --security none if meant",
        ErrorType::GreetingBye => "the server turns connections away: look at its limits and into its log",
        ErrorType::ProtocolGreeting => "is it an IMAP server? another service, or TLS, may listen on this port",
        ErrorType::TimeoutGreeting => "a slow DNS or block list holds it, it is overloaded, or it speaks TLS here",
        ErrorType::ProtocolSyntax => "the response violates IMAP's grammar: proxy in between? update the server",
        ErrorType::ProtocolTag => "the response has an unknown tag: are long tags the cause? try --tag short",
        ErrorType::ProtocolContinuation => "the server waits for data without a reason: look for a proxy in between",
        ErrorType::LimitLine => "a line is longer than [limits] allow: look at what the server sends",
        ErrorType::LimitBytes => "the response is larger than [limits] allow: try a smaller --newest",
        ErrorType::LimitResponses => "more responses than [limits] allow: are there so many mailboxes or messages?",
        ErrorType::LimitDepth => "parentheses are nested too deep: look at what the server sends",
        ErrorType::TimeoutCommand => "look into the server's log for this command: disk, lock, index, load",
        ErrorType::TimeoutWrite => "the server stopped reading: look for a hung process or a stalled proxy",
        ErrorType::TimeoutRun => "no step alone was too long, all together were: see the bars, or --timeout",
        ErrorType::Bye => "the server ended the session itself: see its words and its log",
        ErrorType::No => "the server refused the command: see its words and its log",
        ErrorType::Bad => "the server did not understand the command: see its words and its version",
        ErrorType::Unavailable => "a part behind the server is down, often storage or the user database",
        ErrorType::LimitServer => "too many sessions, or the account is locked: raise the limit, or wait",
        ErrorType::Referral => "the mailbox is on another server: probe that one directly",
        ErrorType::MailboxEmpty => "are its storage and index whole? if it may be empty: allow_empty = true",
        ErrorType::AuthFailed => "check user name and password, and whether the account is locked or needs 2FA",
        ErrorType::AuthExpired => "the password has expired: set a new one and give it to imaptrace",
        ErrorType::AuthPrivacy => "the server requires TLS before a login: use imaps:// or --security starttls",
        ErrorType::AuthMechanism => "no mechanism is common to both: log in over TLS, or set auth to one offered",
        ErrorType::AuthProtocol => "the login exchange broke its own rules: look into the server's auth log",
        ErrorType::SecretUnavailable => "check where the password comes from: file, variable or command",
        ErrorType::AddressDenied => "the name leads where [dns] deny forbids: look at its addresses and at deny",
        ErrorType::OverloadFd => "raise the limit on open files (ulimit -n, LimitNOFILE=), or run fewer",
        ErrorType::OverloadPort => "no local port is left: run fewer at once, or widen ip_local_port_range",
        ErrorType::OverloadCpu => "imaptrace got too little CPU to judge: give it more, or run fewer",
        ErrorType::Suspended => "this machine slept, or imaptrace was paused: no fault of the server",
        ErrorType::Cancelled => "imaptrace was stopped during the run: no fault of the server",
        ErrorType::Internal => "this is a fault in imaptrace: please report it with the JSON line of the run",
    }
}

#[cfg(test)]
mod tests {
    use imaptrace_record::ServerText;

    use super::*;
    use crate::terminal::samples;

    const PLAIN: Style = Style { width: 100, colour: false, ascii: true };

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

    #[test]
    fn the_hint_after_a_refused_login_depends_on_its_mechanism_and_code() {
        let refused = samples::login_refused();
        let mut step = refused.failing_step().unwrap().clone();
        for (mechanism, code, expected) in [
            ("PLAIN", "AUTHENTICATIONFAILED", hint(ErrorType::AuthFailed)),
            (
                "SCRAM-SHA-256",
                "AUTHENTICATIONFAILED",
                "is the password right, and stored in a form for SCRAM? try auth plain",
            ),
            ("EXTERNAL", "ALERT", "does the server trust the client certificate, and does it name this user?"),
            (
                "PLAIN",
                "AUTHORIZATIONFAILED",
                "the login is right, but not allowed to act for this user: see its rights",
            ),
        ] {
            (step.mechanism, step.code) = (mechanism.parse().ok(), code.parse().ok());
            let advice = of_step(Some(&step), ErrorType::AuthFailed);
            assert_eq!(advice, expected);
            assert!(advice.len() <= 76 && advice.is_ascii());
        }
    }

    #[test]
    fn the_hint_after_a_refused_command_depends_on_its_response_code() {
        let mut step = samples::passed().steps[7].clone();
        let mut advice = |name: &str, code: Option<&str>, class| {
            (step.name, step.code) = (name.into(), code.and_then(|code| code.parse().ok()));
            let advice = of_step(Some(&step), class);
            assert!(advice.len() <= 76 && advice.is_ascii() && !advice.ends_with('.'), "{advice}");
            advice
        };
        for (code, word) in [
            ("SERVERBUG", "inside the server"),
            ("NOPERM", "ACL"),
            ("CORRUPTION", "damaged"),
            ("OVERQUOTA", "quota"),
            ("CONTACTADMIN", "administrator"),
            ("CANNOT", "with this name"),
        ] {
            for name in ["SELECT", "EXAMINE", "LIST", "FETCH"] {
                assert!(advice(name, Some(code), ErrorType::No).contains(word), "{name} {code}");
            }
        }
        for code in ["NONEXISTENT", "TRYCREATE"] {
            assert!(advice("SELECT", Some(code), ErrorType::No).contains("no such mailbox"));
            assert_eq!(advice("FETCH", Some(code), ErrorType::No), hint(ErrorType::No));
        }
        assert!(advice("EXAMINE", None, ErrorType::No).contains("refused to open the mailbox"));
        assert_eq!(advice("LIST", None, ErrorType::No), hint(ErrorType::No));
        assert!(advice("SELECT", Some("INUSE"), ErrorType::LimitServer).contains("another session"));
        for (name, code) in [("LOGIN", "INUSE"), ("SELECT", "LIMIT")] {
            assert_eq!(advice(name, Some(code), ErrorType::LimitServer), hint(ErrorType::LimitServer));
        }
    }

    #[test]
    fn a_refusal_that_names_the_tag_has_a_hint_about_short_ones() {
        let mut step = samples::passed().steps[7].clone();
        let mut advice = |words: &str| {
            step.text = Some(ServerText::new(words.as_bytes(), ServerText::STATUS));
            of_step(Some(&step), ErrorType::Bad)
        };
        for words in ["tag too long", "Invalid command: Tag is too long", "missing tag."] {
            assert!(advice(words).contains("--tag short"), "{words}");
        }
        assert_eq!(advice("unknown command at this stage"), hint(ErrorType::Bad));
    }

    #[test]
    fn a_wait_inside_a_literal_has_its_own_hint() {
        let mut step = samples::passed().steps[7].clone();
        (step.status, step.text) = (None, None);
        assert_eq!(of_step(Some(&step), ErrorType::TimeoutCommand), hint(ErrorType::TimeoutCommand));
        step.text = Some(ServerText::new(b"927 octets of a literal of 1000 are still awaited", 256));
        let advice = of_step(Some(&step), ErrorType::TimeoutCommand);
        assert!(advice.contains("literal") && advice.len() <= 76 && advice.is_ascii(), "{advice}");
    }

    #[test]
    fn the_hint_after_a_violation_depends_on_where_it_was_found() {
        let mut step = samples::passed().steps[7].clone();
        for (name, class, status, word) in [
            ("SELECT", ErrorType::ProtocolSyntax, Some(Condition::Ok), "EXISTS"),
            ("EXAMINE", ErrorType::ProtocolSyntax, Some(Condition::Ok), "EXISTS"),
            ("SELECT", ErrorType::ProtocolSyntax, None, "grammar"),
            ("FETCH", ErrorType::ProtocolSyntax, Some(Condition::Ok), "index"),
            ("FETCH", ErrorType::ProtocolSyntax, None, "literal"),
            ("FETCH", ErrorType::ProtocolTag, None, "literal"),
            ("LIST", ErrorType::ProtocolTag, None, "long tags"),
        ] {
            step.name = name.into();
            step.status = status;
            let advice = of_step(Some(&step), class);
            assert!(advice.contains(word), "{name} {class} {status:?}: {advice}");
            assert!(advice.len() <= 76 && advice.is_ascii());
        }
    }

    #[test]
    fn a_temporary_refusal_has_no_hint_about_passwords_and_a_timeout_with_words_points_to_them() {
        let mut step = samples::login_refused().failing_step().unwrap().clone();
        for (class, words, expected) in [
            (
                ErrorType::Unavailable,
                "Maximum number of connections from user+IP exceeded (mail_max_userip_connections=10)",
                "raise the limit",
            ),
            (ErrorType::Unavailable, "User is authenticated but not connected.", "licence"),
            (ErrorType::Unavailable, "storage is away", "a part behind the server is down"),
            (ErrorType::TimeoutCommand, "not today", "without a tag"),
        ] {
            step.text = Some(ServerText::new(words.as_bytes(), ServerText::STATUS));
            let advice = of_step(Some(&step), class);
            assert!(advice.contains(expected) && !advice.contains("password"), "{words}: {advice}");
            assert!(advice.len() <= 76 && advice.is_ascii(), "{advice}");
        }
    }

    #[test]
    fn a_server_that_takes_oauth_only_has_no_hint_about_tls() {
        let mut run = samples::login_refused();
        let step = run.steps.iter_mut().rev().find(|step| step.name == "LOGIN").unwrap();
        (step.code, step.mechanism) = (None, Some(LoginMethod::Login));
        step.text = Some(ServerText::new(b"Basic authentication is disabled.", ServerText::STATUS));
        assert!(failure_hint(&run, ErrorType::AuthFailed, PLAIN).contains("OAuth only"));
        run.steps.iter_mut().for_each(|step| step.text = None);
        for (only, tls, class, word) in [
            (Some(true), Some("1.3"), ErrorType::AuthMechanism, "OAuth only"),
            (Some(true), None, ErrorType::AuthMechanism, "OAuth only"),
            (Some(true), Some("1.3"), ErrorType::AuthFailed, "OAuth only"),
            (None, Some("1.3"), ErrorType::AuthMechanism, "enable PLAIN"),
            (None, None, ErrorType::AuthMechanism, "over TLS"),
            (None, Some("1.3"), ErrorType::AuthFailed, "user name and password"),
        ] {
            (run.server.oauth_only, run.server.tls_version) = (only, tls.map(str::to_owned));
            let advice = failure_hint(&run, class, PLAIN);
            assert!(advice.contains(word) && advice.len() <= 76 && advice.is_ascii(), "{advice}");
            assert_eq!(advice.contains("over TLS"), word == "over TLS", "{advice}");
        }
    }

    #[test]
    fn a_greeting_that_refuses_and_a_terse_exchange_have_hints_of_their_own() {
        let mut step = samples::login_refused().failing_step().unwrap().clone();
        step.code = None;
        for (name, class, status, mechanism, words, expected) in [
            ("greeting", ErrorType::ProtocolGreeting, Some(Condition::No), None, "not today", "limits"),
            ("greeting", ErrorType::Eof, Some(Condition::Bye), None, "not tod", "limits"),
            ("greeting", ErrorType::ProtocolGreeting, None, None, "220 hi", "is it an IMAP server"),
            (
                "AUTHENTICATE",
                ErrorType::AuthFailed,
                Some(Condition::No),
                Some("PLAIN"),
                "AUTHENTICATE failed.",
                "auth login",
            ),
            ("LOGIN", ErrorType::AuthFailed, Some(Condition::No), Some("LOGIN"), "LOGIN failed.", "OAuth"),
            (
                "SELECT",
                ErrorType::No,
                Some(Condition::No),
                None,
                "SELECT Unsafe Login. Please contact x",
                "ID before SELECT",
            ),
        ] {
            (step.name, step.status) = (name.into(), status);
            step.mechanism = mechanism.and_then(|mechanism: &str| mechanism.parse().ok());
            step.text = Some(ServerText::new(words.as_bytes(), ServerText::STATUS));
            let advice = of_step(Some(&step), class);
            assert!(advice.contains(expected) && advice.len() <= 76 && advice.is_ascii(), "{words}: {advice}");
        }
    }

    #[test]
    fn a_suggested_mailbox_is_in_the_hint() {
        let mut run = samples::passed();
        (run.suggested_mailbox, run.error_type) = (Some("Archive/2024".to_owned()), Some(ErrorType::No));
        run.server.hierarchy_separator = Some(ServerText::new(b"/", 8));
        let asks = |run: &Run, class| failure_hint(run, class, PLAIN).into_owned();
        assert_eq!(asks(&run, ErrorType::No), "the mailbox separator is /; did you mean Archive/2024?");
        assert_eq!(asks(&run, ErrorType::Bye), hint(ErrorType::Bye), "another failure is not the name's");
        (run.suggested_mailbox, run.server.hierarchy_separator) = (Some("Entw\u{fc}rfe\u{1b}".to_owned()), None);
        let styled = |ascii| failure_hint(&run, ErrorType::No, Style { ascii, ..PLAIN }).into_owned();
        assert_eq!(styled(false), "mailbox names are plain UTF-8 here; did you mean Entw\u{fc}rfe\\x1b?");
        assert!(styled(true).is_ascii());
    }

    #[test]
    fn a_denied_address_is_the_names_or_the_source_address() {
        let mut step = samples::passed().steps[0].clone();
        for (name, word) in [(SetupStep::Resolve, "[dns] deny"), (SetupStep::Connect, "source_address")] {
            step.name = name.into();
            assert!(of_step(Some(&step), ErrorType::AddressDenied).contains(word));
        }
    }

    #[test]
    fn a_look_up_that_this_machine_refused_is_no_fault_to_be_reported() {
        let mut step = samples::passed().steps[0].clone();
        step.name = SetupStep::Resolve.into();
        let advice = of_step(Some(&step), ErrorType::Internal);
        assert!(advice.contains("resolv.conf") && advice.len() <= 76 && advice.is_ascii());
        assert!(hint(ErrorType::Internal).contains("report"));
    }
}

//! One step of a run: a thing that takes time and has one span.

use std::net::{IpAddr, SocketAddr};

use imaptrace_imap::{CommandName, Condition, LoginMethod, ResponseCode};
use serde::{Deserialize, Serialize};

use super::{
    ErrorType, Seconds, ServerText, SpanId, StepName, StepOutcome, Timestamp, TlsFault,
    names::{known_code, known_name},
    server_wait::{ServerWait, read_waits},
};

/// One step. Times count from the start of the run unless said otherwise. Absent = does not apply.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Step {
    /// `resolve`, `connect`, `tls`, `greeting`, or the IMAP command as sent, in capitals.
    pub name: StepName,
    /// The configured mailbox that the command is about, as UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mailbox: Option<String>,
    /// The step's span, and the command's tag. A skipped step has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub span_id: Option<SpanId>,
    /// Start: just before the first byte is sent.
    pub start_s: Seconds,
    /// Start to end: the arrival of the last byte of the tagged line.
    pub duration_s: Seconds,
    /// Start to the first byte of an untagged or tagged response; a `+` is no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_byte_s: Option<Seconds>,
    /// Part of the duration in which the server owed us bytes and none came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_s: Option<Seconds>,
    /// Part of the duration that the line's round trips took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_s: Option<Seconds>,
    /// The rest of the duration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transfer_s: Option<Seconds>,
    /// The time that the server reports for the command in its tagged text (Dovecot: the first of its terms); shown, never used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reported_s: Option<Seconds>,
    /// The time that the server reports as spent waiting for us inside the command (Dovecot: the second of its terms), to send more
    /// or to take what was sent; only if it is not 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reported_wait_s: Option<Seconds>,
    /// `OK`, `NO`, `BAD`, `BYE` or `PREAUTH`.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "known_name")]
    pub status: Option<Condition>,
    /// Response code without its arguments, one of the known ones, else `_OTHER`.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "known_name::serialize")]
    #[serde(deserialize_with = "known_code")]
    pub code: Option<ResponseCode>,
    /// The server's words; only on a failing step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<ServerText>,
    /// Plain IMAP bytes sent for the step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_bytes: Option<u64>,
    /// Plain IMAP bytes received since the previous step's last byte, up to this one's tagged CRLF.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received_bytes: Option<u64>,
    /// Of the bytes received, those in literals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub literal_bytes: Option<u64>,
    /// Literals received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub literals: Option<u64>,
    /// Untagged responses received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub untagged: Option<u64>,
    /// FETCH: requested messages that came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<u64>,
    /// SELECT: messages in the mailbox (EXISTS).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mailbox_messages: Option<u64>,
    /// SELECT: the usual number of messages (a running median); only if the mailbox holds fewer than a tenth of it, and the
    /// target's `allow_empty` is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usual_messages: Option<u64>,
    /// The session's state when the command was sent (RFC 9051 §3).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<CommandState>,
    /// SASL mechanism, or `LOGIN` for the command.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "known_name")]
    pub mechanism: Option<LoginMethod>,
    /// Deviations from the grammar that were tolerated.
    #[serde(rename = "lenient", skip_serializing_if = "Option::is_none")]
    pub deviations: Option<u64>,
    /// Host that a referral in this step named; recorded, never followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub referral_host: Option<ServerText>,
    /// `resolve` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<Box<ResolveFacts>>,
    /// `connect` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<ConnectFacts>,
    /// `tls` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Box<TlsFacts>>,
    /// What exactly was wrong with TLS, on a step that failed over it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_fault: Option<TlsFault>,
    /// How the TLS connection ended, on the step that saw it end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub close_notify: Option<CloseNotify>,
    /// `2` on the steps of a second connection (the first ended over ID).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<u32>,
    /// Smallest round trip that the kernel had seen on the connection when the step ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_min_s: Option<Seconds>,
    /// `kernel` when every arrival of the step has the kernel's stamp, else `user`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock_source: Option<ClockSource>,
    /// Its duration, or the server's or transfer's part of it, could be wrong by more than 1 ms and by more than 5 %
    /// ([`Seconds::is_uncertain_by`]): loss or reordering on the line, or imaptrace itself was late. Never on LOGOUT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uncertain: Option<bool>,
    /// How far off the worst of these figures could be, at most; only beside `uncertain`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uncertainty_s: Option<Seconds>,
    /// For how long pauses of imaptrace's own process delayed it, at most: before it began, and inside it. In a run that is
    /// delayed itself where it is 1 ms or more, else where it is more than 10 ms and more than 5 % of both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delayed_s: Option<Seconds>,
    /// Segments that our kernel sent again during the step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retransmits: Option<u64>,
    /// Segments that arrived out of order during the step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out_of_order: Option<u64>,
    /// Events inside the step, in order, at most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<StepEvent>,
    /// The longest times of [`ServerWait::SHORTEST`] or more in which the server owed bytes and none came, in order, at most
    /// [`ServerWait::MOST`]; of a command that failed or was slow, and in a single run of the one that took longest.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "read_waits")]
    pub waits: Vec<ServerWait>,
    /// How it ended.
    pub outcome: StepOutcome,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_type: Option<ErrorType>,
    /// It was slow by its history.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow: Option<bool>,
    /// Duration ÷ `baseline_s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// The running median of this step's duration: of the last 63 passed runs before this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline_s: Option<Seconds>,
    /// Duration ÷ `baseline_day_s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_day: Option<f64>,
    /// The median of this step's medians of the last 24 hours in which runs passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline_day_s: Option<Seconds>,
    /// Duration ÷ First Loading Latency.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
}

/// What the texts of [`TlsFacts`] take, names and a hash of 64 digits.
const TLS_TEXTS: usize = 256;

impl Step {
    /// At most this many [`Step::events`].
    pub const MAX_EVENTS: usize = 64;

    /// Whether the step is an IMAP command, and not `resolve`, `connect`, `tls` or `greeting`.
    pub fn is_command(&self) -> bool {
        !matches!(self.name, StepName::Setup(_))
    }

    /// Whether the step is LOGOUT, the one command that never counts for First Loading Latency.
    pub fn is_logout(&self) -> bool {
        self.name == CommandName::Logout
    }

    /// Whether the step has a span in the trace: it has an id, and was not skipped.
    pub fn has_span(&self) -> bool {
        self.span_id.is_some() && self.outcome != StepOutcome::Skipped
    }

    /// Whether the step really began: one that could not start has a span of length 0, received nothing, and enters no histogram.
    /// A greeting that came with the connection may have length 0, too.
    pub fn was_started(&self) -> bool {
        let is_empty = self.duration_s == Seconds::ZERO && self.received_bytes.unwrap_or_default() == 0;
        self.span_id.is_some() && !(self.outcome == StepOutcome::Failed && is_empty)
    }

    /// The lower of its two baselines, which decides whether it is slow.
    pub fn lower_baseline(&self) -> Option<Seconds> {
        self.baseline_s.into_iter().chain(self.baseline_day_s).min()
    }

    /// Its ratio to the lower of its two baselines.
    pub fn highest_ratio(&self) -> Option<f64> {
        self.ratio.into_iter().chain(self.ratio_day).reduce(f64::max)
    }

    /// Bytes of memory that the step holds, nearly.
    pub(super) fn held_bytes(&self) -> usize {
        let name = if let StepName::Other(name) = &self.name { name.len() } else { 0 };
        let texts = name + self.mailbox.as_ref().map_or(0, String::len);
        let details = |text: &Option<ServerText>| text.as_ref().map_or(0, |text| text.as_str().len());
        let events = self.events.iter().map(|event| size_of::<StepEvent>() + details(&event.text)).sum::<usize>();
        let waits = self.waits.len() * size_of::<ServerWait>();
        let facts = [
            self.dns.as_ref().map_or(0, |_| size_of::<ResolveFacts>()),
            self.connect.as_ref().map_or(0, |facts| facts.attempts.len() * size_of::<ConnectAttempt>()),
            self.tls.as_ref().map_or(0, |facts| {
                let texts = |entry: &ChainCertificate| entry.subject.as_str().len() + entry.issuer.as_str().len();
                let chain = facts.chain.iter().map(|entry| size_of::<ChainCertificate>() + texts(entry));
                size_of::<TlsFacts>() + TLS_TEXTS + chain.sum::<usize>()
            }),
        ];
        size_of::<Self>() + texts + details(&self.text) + events + waits + facts.into_iter().sum::<usize>()
    }

    /// When the step ended, since the start of the run.
    pub fn end_s(&self) -> Seconds {
        self.start_s.saturating_add(self.duration_s)
    }
}

words! {
    /// State of the session when a command was sent (RFC 9051 §3).
    CommandState {
        /// Before login.
        NotAuthenticated = "not_authenticated",
        /// After login, no mailbox open.
        Authenticated = "authenticated",
        /// A mailbox is open.
        Selected = "selected",
        /// LOGOUT was sent or BYE received.
        Logout = "logout",
    }

    /// Whether the server's certificate was verified.
    #[derive(Default)]
    Verified {
        /// Chain and name are good.
        Yes = "yes",
        /// The handshake failed before or over it.
        #[default]
        No = "no",
        /// `--insecure`: not checked.
        Insecure = "insecure",
    }

    /// How a TLS connection ended (RFC 8446 §6.1).
    CloseNotify {
        /// With the alert: the server meant it.
        True = "true",
        /// Without: cut off.
        False = "false",
        /// Could not be seen.
        Unknown = "unknown",
    }

    /// What stamped an arrival.
    ClockSource {
        /// The kernel, when the packet came.
        Kernel = "kernel",
        /// imaptrace, when it read the bytes.
        User = "user",
    }

    /// Kinds of [`StepEvent`].
    EventName {
        /// The server asked for more with `+`.
        Continuation = "continuation",
        /// The first byte of the answer arrived.
        FirstByte = "first_byte",
        /// `[ALERT]`: words meant for a person (RFC 9051 §7.1).
        Alert = "alert",
    }
}

/// The result of the name query.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ResolveFacts {
    /// The name in the query.
    pub question: String,
    /// The addresses that came, in the order in which they are tried; no more than [`ResolveFacts::KEPT`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<IpAddr>,
}

impl ResolveFacts {
    /// A name with a thousand addresses must not make a record of a thousand; eight of them are tried.
    pub const KEPT: usize = 32;
}

/// How the connection came about (RFC 8305 §5).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConnectFacts {
    /// Every attempt in the order of its start, the winning one included.
    pub attempts: Vec<ConnectAttempt>,
}

/// One attempt to connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectAttempt {
    /// The peer.
    pub peer: SocketAddr,
    /// Since the start of the run.
    pub start_s: Seconds,
    /// SYN to established, or to its abandonment.
    pub duration_s: Seconds,
    /// How it ended; `skipped` for one that was still waiting when another won.
    pub outcome: StepOutcome,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_type: Option<ErrorType>,
}

/// What the TLS handshake showed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TlsFacts {
    /// `1.2` or `1.3`, from the ServerHello; absent when none came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// IANA name of the cipher suite, from the ServerHello.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cipher: Option<String>,
    /// Start of the step to the first byte of the ServerHello, or of the request to begin again that came before it
    /// (RFC 8446 §4.1.4).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_hello_s: Option<Seconds>,
    /// The protocol that ALPN chose (RFC 7301), up to TLS 1.2: `imap`. In TLS 1.3 the choice is encrypted and not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpn: Option<String>,
    /// Whether chain and name were checked.
    pub verified: Verified,
    /// The name that went out as SNI and was checked against the certificate.
    pub server_name: String,
    /// The leaf's notAfter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
    /// The leaf's subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<ServerText>,
    /// The leaf's issuer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<ServerText>,
    /// SHA-256 of the leaf's DER, upper-case hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Kind and size of the leaf's key, such as `RSA 2048` or `EC 256`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The leaf's notBefore; this and all below only of a handshake that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// The certificates by depth, the leaf first; at most ten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<ChainCertificate>,
    /// The depth of the certificate that was refused: 0 is the leaf.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused_depth: Option<u32>,
    /// When the certificates were read, if not in the run's own handshake but over a further connection after a run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_at: Option<Timestamp>,
}

/// One certificate of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainCertificate {
    /// Its subject.
    pub subject: ServerText,
    /// Its issuer.
    pub issuer: ServerText,
    /// Its notBefore.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Its notAfter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
}

/// An event inside a step, and of its span.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepEvent {
    /// What.
    pub name: EventName,
    /// Since the start of the run.
    pub at_s: Seconds,
    /// The server's words, for an alert.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<ServerText>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A step of a recorded run.
    fn step(name: &str) -> Step {
        let run: crate::Run = serde_json::from_str(imaptrace_testkit::PASSED_RUN).unwrap();
        run.steps.into_iter().find(|step| step.name.as_str() == name).unwrap()
    }

    #[test]
    fn a_code_of_a_newer_version_is_other_and_a_status_or_mechanism_is_absent() {
        let mut json = serde_json::to_value(step("SELECT")).unwrap();
        for key in ["code", "mechanism", "status"] {
            json[key] = "BRANDNEW".into();
        }
        let read: Step = serde_json::from_value(json).unwrap();
        assert_eq!((read.code, read.mechanism, read.status), (Some(ResponseCode::Other), None, None));
        assert!(serde_json::to_string(&read).unwrap().contains(r#""code":"_OTHER""#));
    }

    #[test]
    fn a_step_is_a_command_unless_it_comes_before_the_first_and_ends_after_its_duration() {
        for (name, is_command) in [("tls", false), ("greeting", false), ("SELECT", true), ("XNEW", true)] {
            let [start_s, duration_s] = [2, 3].map(Seconds::from_micros);
            let step = Step { name: name.into(), start_s, duration_s, ..Step::default() };
            assert_eq!((step.is_command(), step.end_s()), (is_command, Seconds::from_micros(5)), "{name}");
        }
    }

    #[test]
    fn a_step_that_failed_without_time_and_bytes_was_not_started() {
        for (outcome, duration_s, received_bytes, started) in [
            (StepOutcome::Failed, Seconds::ZERO, None, false),
            (StepOutcome::Failed, Seconds::ZERO, Some(1), true),
            (StepOutcome::Failed, Seconds::from_micros(1), None, true),
            (StepOutcome::Passed, Seconds::ZERO, None, true),
        ] {
            let mut step = Step { duration_s, received_bytes, outcome, ..step("SELECT") };
            assert_eq!(step.was_started(), started, "{step:?}");
            step.span_id = None;
            assert!(!step.was_started());
        }
    }

    #[test]
    fn the_lower_baseline_and_the_higher_ratio_decide() {
        let [low, high] = [20_000, 30_000].map(|micros| Some(Seconds::from_micros(micros)));
        for (baseline_s, baseline_day_s, expected) in
            [(low, high, low), (high, low, low), (None, high, high), (low, None, low)]
        {
            let [ratio, ratio_day] = [baseline_s, baseline_day_s].map(|time| time.map(|time| 0.06 / time.as_f64()));
            let step = Step { ratio, baseline_s, ratio_day, baseline_day_s, ..Step::default() };
            assert_eq!(step.lower_baseline(), expected);
            assert_eq!(step.highest_ratio(), expected.map(|low| 0.06 / low.as_f64()));
        }
    }

    #[test]
    fn the_held_bytes_of_a_step_grow_with_each_thing_in_it() {
        let mut connect = step("connect");
        let before = connect.held_bytes();
        let facts = connect.connect.as_mut().unwrap();
        let attempt = facts.attempts[0].clone();
        facts.attempts.extend([attempt.clone(), attempt.clone(), attempt]);
        assert_eq!(connect.held_bytes() - before, 3 * size_of::<ConnectAttempt>());

        let mut tls = step("tls");
        let before = tls.held_bytes();
        let text = |text: &str| ServerText::new(text.as_bytes(), ServerText::STATUS);
        let [subject, issuer] = ["CN=a", "CN=bcd"].map(text);
        let entry = ChainCertificate { subject, issuer, not_before: None, not_after: None };
        let facts = tls.tls.as_mut().unwrap();
        facts.chain.push(entry.clone());
        facts.chain.push(entry);
        assert_eq!(tls.held_bytes() - before, 2 * (size_of::<ChainCertificate>() + 10));

        let mut alerted = step("SELECT");
        let before = alerted.held_bytes();
        alerted.text = Some(text("four"));
        let at_s = Seconds::ZERO;
        alerted.events.push(StepEvent { name: EventName::Alert, at_s, text: Some(text("words")) });
        assert_eq!(alerted.held_bytes() - before, 4 + size_of::<StepEvent>() + 5);

        let mut fetch = step("FETCH");
        let before = fetch.held_bytes();
        let (start_s, duration_s) = (fetch.start_s, fetch.duration_s);
        let wait = ServerWait { span_id: SpanId::random(), start_s, duration_s, server_s: duration_s };
        fetch.waits = vec![wait.clone(), wait];
        assert_eq!(fetch.held_bytes() - before, 2 * size_of::<ServerWait>());

        let mut login = step("SELECT");
        let before = login.held_bytes();
        login.mailbox = Some("x".repeat(before));
        assert!(login.held_bytes() >= 2 * before - "INBOX".len());
        let before = login.held_bytes();
        login.name = StepName::Other("made-up".to_owned());
        assert_eq!(login.held_bytes() - before, "made-up".len());
    }
}

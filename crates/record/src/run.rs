//! One run: the record itself (docs/record.md).

use std::{collections::BTreeMap, fmt, net::SocketAddr};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, SeqAccess, Visitor},
};

use super::{
    AddressFamily, ClockSource, ErrorType, JourneyName, RunOutcome, Seconds, ServerEvents, ServerText, SpanId, Step,
    StepName, StepOutcome, Timestamp, TraceId, Verdict,
};

/// The version of the JSON line. It grows when a field changes its meaning, not when one is added.
pub const SCHEMA: u32 = 1;

/// One execution of a journey for one account. Absent = does not apply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The trace that this run is.
    pub trace_id: TraceId,
    /// The root span.
    pub span_id: SpanId,
    /// The span outside imaptrace that the root hangs under (TRACEPARENT).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_span_id: Option<SpanId>,
    /// The target's name.
    pub target: String,
    /// The account's alias, never the user name.
    pub account: String,
    /// The journey's name, `first-load`.
    pub journey: JourneyName,
    /// The target's own labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// When the run started, by the wall clock. All else is monotonic, counted from here.
    pub started_at: Timestamp,
    /// How it ended.
    pub outcome: RunOutcome,
    /// Why it did not pass; the same as the failing step's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_type: Option<ErrorType>,
    /// The `name` of the entry in `steps` that failed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_step: Option<StepName>,
    /// First Loading Latency: start of the run to the tagged OK of FETCH, or of SELECT for an empty mailbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_loading_latency_s: Option<Seconds>,
    /// Start of the run to the first FETCH response; absent for an empty mailbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_row_s: Option<Seconds>,
    /// Start of the run to the end of its last step, LOGOUT included.
    pub duration_s: Seconds,
    /// First Loading Latency less the steps that make it up: what imaptrace itself took between them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_s: Option<Seconds>,
    /// The run's times could be wrong: those of a step that counts for First Loading Latency could be, or First Loading
    /// Latency itself, by more than 1 ms and by more than 5 % ([`Seconds::is_uncertain_by`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uncertain: Option<bool>,
    /// How far off First Loading Latency could be, at most, where it is uncertain itself: what its steps could be off by,
    /// and `agent_s`. Of a run without First Loading Latency, its duration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uncertainty_s: Option<Seconds>,
    /// How long pauses of imaptrace's own process delayed the run, at most, if more than 10 ms and more than 5 % of the duration,
    /// or of First Loading Latency before that: it does not measure the server then ([`Run::counted_latency`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delayed_s: Option<Seconds>,
    /// The `name` of the step to examine first, of those in First Loading Latency: past its limit, else slow, else the longest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slowest_step: Option<StepName>,
    /// First Loading Latency was slow by its history, or some step was slow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow: Option<bool>,
    /// First Loading Latency ÷ `baseline_s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// The running median of First Loading Latency: of the last 63 passed runs before this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline_s: Option<Seconds>,
    /// First Loading Latency ÷ `baseline_day_s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_day: Option<f64>,
    /// The median of its medians of the last 24 hours in which runs passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline_day_s: Option<Seconds>,
    /// What else is usual for the account; only of an agent's run that is slow or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usual: Option<Box<UsualFacts>>,
    /// Planned start to real start, for runs that a schedule started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_lag_s: Option<Seconds>,
    /// LOGIN was held back since the last one was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_backoff: Option<bool>,
    /// The configured mailbox as the server would write it, when SELECT or EXAMINE refused the name and the name bears
    /// another hierarchy separator than the server's (RFC 9051 §5.1.1), or is modified UTF-7 (RFC 3501 §5.1.3).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggested_mailbox: Option<String>,
    /// Only set when the target asks for a run per address family: `ipv4` or `ipv6`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::names::known_family")]
    pub family: Option<AddressFamily>,
    /// The peer and the connection.
    pub server: Server,
    /// Bytes sent on the TCP connection, TLS included.
    pub wire_sent_bytes: u64,
    /// Bytes received on the TCP connection, TLS included.
    pub wire_received_bytes: u64,
    /// What each thing took, in order. In JSON no more than 10,000: a run of ours has some twenty.
    #[serde(deserialize_with = "read_steps")]
    pub steps: Vec<Step>,
    /// What imaptrace logged at INFO or above during the run, at most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Note>,
    /// What the mail server reported about the session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_events: Option<Box<ServerEvents>>,
    /// Why the run was slow or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Box<Verdict>>,
}

/// The peer of a run, and its connection.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Server {
    /// Host name or address as configured.
    pub address: String,
    /// TCP port as configured.
    pub port: u16,
    /// Address and port that answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<SocketAddr>,
    /// Our own end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<SocketAddr>,
    /// How the connection was to be secured.
    pub security: Security,
    /// `1.2` or `1.3`, from the ServerHello.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_version: Option<String>,
    /// IANA name of the cipher suite, from the ServerHello.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cipher: Option<String>,
    /// The leaf certificate's notAfter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_not_after: Option<Timestamp>,
    /// The name in the server's ID answer (RFC 2971).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_name: Option<ServerText>,
    /// The version in the server's ID answer (RFC 2971).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_version: Option<ServerText>,
    /// `4rev1` or `4rev2`: the protocol by the server's capabilities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The hierarchy separator of the account's own mailboxes (RFC 9051 §5.1.1), on a run whose mailbox was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hierarchy_separator: Option<ServerText>,
    /// Hash of the sorted capability list after login: a changed value is a changed server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capability_hash: Option<String>,
    /// The login failed, and all SASL mechanisms that the server offered are those of OAuth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oauth_only: Option<bool>,
    /// The greeting was PREAUTH.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preauth: Option<bool>,
    /// Deviations from the grammar that were tolerated, of all steps.
    #[serde(rename = "lenient", skip_serializing_if = "Option::is_none")]
    pub deviations: Option<u64>,
    /// Host that a referral named; recorded, never followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub referral_host: Option<ServerText>,
    /// Smallest round trip that the kernel saw on the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_min_s: Option<Seconds>,
    /// Segments that our kernel sent again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retransmits: Option<u64>,
    /// Segments that arrived out of order: loss or reordering on the server's side of the line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out_of_order: Option<u64>,
    /// Acknowledgements were sent at once, so that no server waited 40 ms for ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quickack: Option<bool>,
    /// What stamped the arrivals: `kernel` when it was the kernel in every step of an answer, else `user`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock_source: Option<ClockSource>,
}

/// What was usual for the account before the run, beside how long things take: by its last 63 passed runs of the same journey.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UsualFacts {
    /// The running median of the number of messages in the mailbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<u64>,
    /// The running median of the smallest round trip on the connection ([`Server::rtt_min_s`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_min_s: Option<Seconds>,
    /// Whether the server's certificate is newer than the baselines: the runs or the hours of one of them are mostly from
    /// before it was first seen. Absent when the run saw no certificate, or too few runs before it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_changed: Option<bool>,
    /// SHA-256 of the certificate that was usual instead, in the form of [`TlsFacts::sha256`](super::TlsFacts::sha256);
    /// only beside `certificate_changed: true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_sha256: Option<String>,
}

words! {
    /// How a connection is secured.
    #[derive(Default)]
    Security {
        /// TLS from the first byte (RFC 8314 §3).
        #[default]
        Tls = "tls",
        /// STARTTLS, required (RFC 9051 §6.2.1).
        StartTls = "starttls",
        /// Clear text.
        None = "none",
    }

    /// Level of a [`Note`].
    NoteLevel {
        /// Worth knowing.
        Info = "info",
        /// Worth examining.
        Warn = "warn",
        /// A fault of imaptrace.
        Error = "error",
    }
}

/// Something imaptrace logged while the run was under way. An event of the root span.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Since the start of the run.
    pub at_s: Seconds,
    /// How serious.
    pub level: NoteLevel,
    /// What was logged, fields included.
    pub text: String,
}

/// A step takes more memory than its shortest JSON, so that a line of 16 MiB could take some hundred.
const MOST_STEPS: usize = 10_000;

fn read_steps<'de, D: Deserializer<'de>>(json: D) -> Result<Vec<Step>, D::Error> {
    struct Steps;
    impl<'de> Visitor<'de> for Steps {
        type Value = Vec<Step>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of steps")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<Step>, A::Error> {
            let mut steps = Vec::new();
            while let Some(step) = list.next_element()? {
                if steps.len() == MOST_STEPS {
                    return Err(A::Error::custom(format_args!("it has more than {MOST_STEPS} steps")));
                }
                steps.push(step);
            }
            Ok(steps)
        }
    }
    json.deserialize_seq(Steps)
}

impl Run {
    /// Bytes of memory that the run holds, nearly: what the allocator adds is left out.
    pub fn held_bytes(&self) -> usize {
        let labels = self.labels.iter().map(|(key, value)| 2 * size_of::<String>() + key.len() + value.len());
        let notes = self.notes.iter().map(|note| size_of::<Note>() + note.text.len());
        let steps = self.steps.iter().map(Step::held_bytes);
        let texts = self.target.len() + self.account.len() + self.journey.as_str().len() + self.server.address.len();
        let usual = self
            .usual
            .as_ref()
            .map_or(0, |usual| size_of::<UsualFacts>() + usual.certificate_sha256.as_ref().map_or(0, String::len));
        let server = self.server_events.as_ref().map_or(0, |events| events.held_bytes());
        let verdict = self.verdict.as_ref().map_or(0, |verdict| verdict.held_bytes());
        size_of::<Self>() + texts + server + verdict + usual + labels.chain(notes).chain(steps).sum::<usize>()
    }

    /// The entry in `steps` that failed the run.
    pub fn failing_step(&self) -> Option<&Step> {
        let name = self.failed_step.as_ref()?;
        self.steps.iter().rev().find(|step| step.name == *name && step.outcome == StepOutcome::Failed)
    }

    /// The lower of First Loading Latency's two baselines, which decides whether it is slow.
    pub fn lower_baseline(&self) -> Option<Seconds> {
        self.baseline_s.into_iter().chain(self.baseline_day_s).min()
    }

    /// How many spans the run's trace has: the root, one for each step that has one and for each of its waits, and one for each
    /// event of the server.
    pub fn exported_spans(&self) -> usize {
        let events = self.server_events.as_ref().map_or(0, |server| server.events.len());
        let steps = self.steps.iter().filter(|step| step.has_span());
        1 + steps.map(|step| 1 + step.waits.len()).sum::<usize>() + events
    }

    /// The steps that make up First Loading Latency: all of the connection that got there, except LOGOUT.
    pub fn loading_steps(&self) -> impl Iterator<Item = &Step> {
        let last = self.steps.iter().filter_map(|step| step.connection).max();
        self.steps.iter().filter(move |step| step.connection == last && !step.is_logout())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ServerEvent, ServerWait, SpanId};

    #[test]
    fn the_failing_step_is_the_last_of_that_name_that_failed() {
        let mut run: Run = serde_json::from_str(imaptrace_testkit::FAILED_RUN).unwrap();
        let failed = run.failing_step().unwrap().clone();
        assert_eq!(Some(&failed.name), run.failed_step.as_ref());
        // A step that passed later, and one of another name that failed, are none.
        let mut passed = failed.clone();
        passed.outcome = StepOutcome::Passed;
        let mut other = failed.clone();
        other.name = StepName::Other("OTHER".to_owned());
        run.steps.extend([passed, other]);
        assert_eq!(run.failing_step(), Some(&failed));
        run.failed_step = None;
        assert_eq!(run.failing_step(), None);
    }

    #[test]
    fn a_trace_has_a_span_for_the_run_and_one_for_each_step_that_has_an_id_and_was_not_skipped() {
        let mut run: Run = serde_json::from_str(imaptrace_testkit::PASSED_RUN).unwrap();
        run.steps.retain(Step::has_span);
        let all = run.steps.len();
        assert!(all > 3);
        assert_eq!(run.exported_spans(), 1 + all);
        run.steps[0].span_id = None;
        run.steps[1].outcome = StepOutcome::Skipped;
        assert_eq!(run.exported_spans(), all - 1);
        let wait = ServerWait {
            span_id: SpanId::random(),
            start_s: Seconds::ZERO,
            duration_s: Seconds::ZERO,
            server_s: Seconds::ZERO,
        };
        run.steps[2].waits = vec![wait; 3];
        assert_eq!(run.exported_spans(), all + 2);
        let event = r#"{"host":0,"name":"auth_request_finished","span_id":"00f067aa0ba902b7",
            "parent_span_id":"00f067aa0ba902b8","started_at":"2026-11-30T10:00:00.000000Z","duration_s":0.1}"#;
        let event: ServerEvent = serde_json::from_str(event).unwrap();
        run.server_events = Some(Box::new(ServerEvents { events: vec![event; 2], ..ServerEvents::default() }));
        assert_eq!(run.exported_spans(), all + 4);
        (run.steps, run.server_events) = (Vec::new(), None);
        assert_eq!(run.exported_spans(), 1);
    }

    #[test]
    fn the_loading_steps_are_those_of_the_last_connection_without_logout() {
        let mut run: Run = serde_json::from_str(imaptrace_testkit::PASSED_RUN).unwrap();
        let all = run.steps.len();
        assert!(run.steps.iter().any(Step::is_logout));
        assert_eq!(run.loading_steps().count(), all - 1);
        for step in &mut run.steps[4..] {
            step.connection = Some(2);
        }
        let loading: Vec<_> = run.loading_steps().map(|step| step.name.clone()).collect();
        let last: Vec<_> = run.steps[4..all - 1].iter().map(|step| step.name.clone()).collect();
        assert_eq!(loading, last);
    }

    #[test]
    fn the_held_bytes_of_a_run_grow_with_each_thing_in_it() {
        let mut run: Run = serde_json::from_str(imaptrace_testkit::PASSED_RUN).unwrap();
        let names = run.held_bytes();
        run.target.push('1');
        run.account.push_str("12");
        run.server.address.push_str("123");
        let before = run.held_bytes();
        assert_eq!(before - names, 6);
        let step = run.steps[0].clone();
        run.steps.push(step);
        assert_eq!(run.held_bytes() - before, run.steps[0].held_bytes());
        run.steps.pop();
        run.labels.insert("place".to_owned(), "Bern".to_owned());
        let labelled = run.held_bytes();
        assert_eq!(labelled - before, 2 * size_of::<String>() + 9);
        run.notes.push(Note { at_s: Seconds::ZERO, level: NoteLevel::Info, text: "a note".to_owned() });
        assert_eq!(run.held_bytes() - labelled, size_of::<Note>() + 6);
        (run.usual, run.verdict, run.server_events) = (None, None, None);
        let noted = run.held_bytes();
        run.usual = Some(Box::default());
        assert_eq!(run.held_bytes() - noted, size_of::<UsualFacts>());
        run.usual.as_mut().unwrap().certificate_sha256 = Some("AB".to_owned());
        assert_eq!(run.held_bytes() - noted, size_of::<UsualFacts>() + 2);
        let compared = run.held_bytes();
        let verdict: Verdict =
            serde_json::from_str(r#"{"cause":"disk","share":1.0,"excess_s":0.5,"evidence":["SELECT"]}"#).unwrap();
        let of_verdict = verdict.held_bytes();
        run.verdict = Some(Box::new(verdict));
        assert_eq!(run.held_bytes() - compared, of_verdict);
        run.server_events = Some(Box::default());
        let of_events = run.server_events.as_ref().unwrap().held_bytes();
        assert_eq!(run.held_bytes() - compared, of_verdict + of_events);
    }

    #[test]
    fn a_run_has_as_many_steps_as_may_be_and_no_more() {
        let mut run: Run = serde_json::from_str(imaptrace_testkit::PASSED_RUN).unwrap();
        let step = run.steps[0].clone();
        run.steps = vec![step; MOST_STEPS];
        let json = serde_json::to_string(&run).unwrap();
        let read: Run = serde_json::from_str(&json).unwrap();
        assert_eq!(read.steps.len(), MOST_STEPS);
        run.steps.push(read.steps[0].clone());
        let error = serde_json::from_str::<Run>(&serde_json::to_string(&run).unwrap()).unwrap_err();
        assert!(error.to_string().starts_with("it has more than 10000 steps"), "{error}");
        let error = serde_json::from_str::<Run>(&json.replacen("\"steps\":[", "\"steps\":7,\"x\":[", 1)).unwrap_err();
        assert!(error.to_string().contains("expected a list of steps"), "{error}");
    }
}

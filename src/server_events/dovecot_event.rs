//! One event of Dovecot's exporter (`format = json`), as 2.3 and 2.4 write it.
//!
//! By a closed list of fields: users, arguments, mailbox names and all other fields are skipped while they are read, and the
//! addresses serve as a key alone. Input is untrusted. Called by `store` with the body of a request.

use std::net::{IpAddr, SocketAddr};

use imaptrace_imap::{CommandName, Condition};
use imaptrace_record::{Seconds, ServerEventName, ServerText, Timestamp};
use serde::{Deserialize, Deserializer, de::IgnoredAny};

/// The longest name of a host that is kept, in bytes.
const HOST: usize = 64;
/// The longest reason for opening a mail that is kept, in bytes.
const REASON: usize = 64;
/// The longest session id or tag that is a key, in bytes.
pub(super) const KEY: usize = 128;

/// One event that is of use for a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportedEvent {
    pub(super) what: ReportedKind,
    pub(super) host: ServerText,
    pub(super) started_at: Timestamp,
    pub(super) ended_at: Timestamp,
    /// The duration that the event reports itself.
    pub(super) reported: Option<Seconds>,
    pub(super) session: Option<String>,
    pub(super) tag: Option<String>,
    pub(super) ends: Option<ConnectionEnds>,
    pub(super) command: Option<CommandName>,
    pub(super) status: Option<Condition>,
    pub(super) running: Option<Seconds>,
    pub(super) lock_wait: Option<Seconds>,
    pub(super) in_bytes: Option<u64>,
    pub(super) out_bytes: Option<u64>,
    pub(super) reason: Option<ServerText>,
    pub(super) success: Option<bool>,
    /// How many further events of its kind, with the same command and reason, it stands for.
    pub(super) further: u64,
}

/// What kind of event it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReportedKind {
    /// One that has a span.
    Span(ServerEventName),
    /// A mail file was opened: counted with its command.
    MailOpened,
}

/// What an event is joined with a run by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventKeys {
    /// Dovecot's id of the session.
    pub session: Option<String>,
    /// The tag of the command.
    pub tag: Option<String>,
    /// Both ends of the connection.
    pub ends: Option<ConnectionEnds>,
    /// It is the last event of its session.
    pub finishes: bool,
}

/// Both ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionEnds {
    /// The address and port of the server.
    pub server: SocketAddr,
    /// The address and port of the client.
    pub client: SocketAddr,
}

impl ConnectionEnds {
    /// An IPv4-mapped address is its IPv4 address.
    pub fn new(server: SocketAddr, client: SocketAddr) -> Self {
        let plain = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
        Self { server: plain(server), client: plain(client) }
    }

    /// The ends by the fields `local_ip`, `local_port`, `remote_ip` and `remote_port` of an event, if all of them are there.
    pub(super) fn from_fields(
        server: (Option<IpAddr>, Option<u16>),
        client: (Option<IpAddr>, Option<u16>),
    ) -> Option<Self> {
        let end = |(ip, port): (Option<IpAddr>, Option<u16>)| Some(SocketAddr::new(ip?, port?));
        Some(Self::new(end(server)?, end(client)?))
    }
}

impl ReportedEvent {
    /// What it is joined with a run by.
    pub fn keys(&self) -> EventKeys {
        EventKeys {
            session: self.session.clone(),
            tag: self.tag.clone(),
            ends: self.ends,
            finishes: self.what == ReportedKind::Span(ServerEventName::MailUserSessionFinished),
        }
    }

    /// Bytes of memory that it holds, nearly.
    pub fn held_bytes(&self) -> usize {
        let texts = [&self.session, &self.tag].into_iter().flatten().map(String::len).sum::<usize>();
        let safe = self.reason.iter().chain([&self.host]).map(|text| text.as_str().len()).sum::<usize>();
        size_of::<Self>() + texts + safe
    }

    /// How long it took, begin to end.
    pub(super) fn duration(&self) -> Seconds {
        let micros = self.ended_at.epoch_micros().saturating_sub(self.started_at.epoch_micros());
        Seconds::from_micros(u64::try_from(micros).unwrap_or_default())
    }
}

/// The name of a mail server's host as the record has it: printable, at most 64 bytes.
pub fn host_text(name: &str) -> ServerText {
    ServerText::new(name.as_bytes(), HOST)
}

/// Reads an event; none when it is no JSON object of an event that is of use for a run.
pub fn parse(body: &[u8]) -> Option<ReportedEvent> {
    let event: JsonEvent = serde_json::from_slice(body).ok()?;
    let what = match &*event.event {
        "mail_opened" => ReportedKind::MailOpened,
        name => ReportedKind::Span(*ServerEventName::ALL.iter().find(|known| known.as_str() == name)?),
    };
    let fields = event.fields;
    let success = success(what, &fields);
    let key = |text: Option<String>| text.filter(|text| !text.is_empty() && text.len() <= KEY);
    let micros = |micros: Option<u64>| micros.map(Seconds::from_micros);
    Some(ReportedEvent {
        what,
        host: host_text(&event.hostname.unwrap_or_default()),
        started_at: event.start_time.0,
        ended_at: event.end_time.0,
        reported: micros(fields.duration),
        session: key(fields.session),
        tag: key(fields.cmd_tag),
        ends: ConnectionEnds::from_fields((fields.local_ip, fields.local_port), (fields.remote_ip, fields.remote_port)),
        command: fields.cmd_name.and_then(|name| name.to_ascii_uppercase().parse().ok()),
        status: fields.tagged_reply_state.and_then(|state| state.parse().ok()),
        running: micros(fields.running_usecs),
        lock_wait: micros(fields.lock_wait_usecs),
        in_bytes: fields.bytes_in,
        out_bytes: fields.bytes_out,
        reason: fields.reason.map(|reason| ServerText::new(reason.as_bytes(), REASON)),
        success,
        further: 0,
    })
}

/// Whether an authentication request succeeded, as far as its event shows it.
///
/// Dovecot 2.3.19 and 2.4.1 have no one field for that: the event of `passdb` and `userdb` has `result`; that of `auth` has
/// `success` after a success alone, and of others at most an `error`; that of `auth client` has `error` after a refusal
/// alone.
fn success(what: ReportedKind, fields: &JsonFields) -> Option<bool> {
    use ServerEventName::{AuthRequestFinished, ImapCommandFinished, MailUserSessionFinished};
    let name = match what {
        ReportedKind::MailOpened | ReportedKind::Span(ImapCommandFinished | MailUserSessionFinished) => return None,
        ReportedKind::Span(name) => name,
    };
    match fields.success.as_ref().or(fields.result.as_ref()) {
        _ if fields.error.is_some() => Some(false),
        Some(answer) => Some(matches!(answer.as_str(), "yes" | "ok" | "true")),
        None => (name == AuthRequestFinished).then_some(false),
    }
}

#[derive(Deserialize)]
struct JsonEvent {
    event: String,
    #[serde(default)]
    hostname: Option<String>,
    start_time: EventTime,
    end_time: EventTime,
    #[serde(default)]
    fields: JsonFields,
}

/// A field of another type than its own counts as absent; the event is used without it.
#[derive(Deserialize, Default)]
#[serde(default)]
struct JsonFields {
    #[serde(deserialize_with = "lenient")]
    duration: Option<u64>,
    #[serde(deserialize_with = "lenient")]
    session: Option<String>,
    #[serde(deserialize_with = "lenient")]
    cmd_tag: Option<String>,
    #[serde(deserialize_with = "lenient")]
    cmd_name: Option<String>,
    #[serde(deserialize_with = "lenient")]
    tagged_reply_state: Option<String>,
    #[serde(deserialize_with = "lenient")]
    local_ip: Option<IpAddr>,
    #[serde(deserialize_with = "lenient")]
    remote_ip: Option<IpAddr>,
    #[serde(deserialize_with = "lenient")]
    local_port: Option<u16>,
    #[serde(deserialize_with = "lenient")]
    remote_port: Option<u16>,
    #[serde(deserialize_with = "lenient")]
    running_usecs: Option<u64>,
    #[serde(deserialize_with = "lenient")]
    lock_wait_usecs: Option<u64>,
    /// `net_in_bytes` since 2.4.
    #[serde(alias = "net_in_bytes", deserialize_with = "lenient")]
    bytes_in: Option<u64>,
    /// `net_out_bytes` since 2.4.
    #[serde(alias = "net_out_bytes", deserialize_with = "lenient")]
    bytes_out: Option<u64>,
    #[serde(deserialize_with = "lenient")]
    reason: Option<String>,
    #[serde(deserialize_with = "lenient")]
    success: Option<String>,
    #[serde(deserialize_with = "lenient")]
    result: Option<String>,
    /// Whether there is one: its text is not used.
    error: Option<IgnoredAny>,
}

fn lenient<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: serde::de::DeserializeOwned,
    D: Deserializer<'de>,
{
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).ok())
}

/// The times of an event in microseconds since the Unix epoch, 1970 to 2200: their differences cannot overflow.
const ACCEPTED_TIMES: std::ops::Range<i64> = 0..7_258_118_400_000_000;

/// `time-rfc3339` writes a text, `time-unix` a number of seconds.
struct EventTime(Timestamp);

impl<'de> Deserialize<'de> for EventTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Text(Timestamp),
            Number(f64),
        }
        let within = |at: Timestamp| {
            let is_within = ACCEPTED_TIMES.contains(&at.epoch_micros());
            if is_within {
                Ok(Self(at))
            } else {
                Err(serde::de::Error::custom("the time is not between 1970 and 2200"))
            }
        };
        match Form::deserialize(deserializer)? {
            Form::Text(at) => within(at),
            Form::Number(seconds) => {
                let since = std::time::Duration::try_from_secs_f64(seconds).map_err(serde::de::Error::custom)?;
                // Such a number has not quite a microsecond's digits: to the nearest one.
                let at = std::time::UNIX_EPOCH.checked_add(since + std::time::Duration::from_nanos(500));
                at.map(Timestamp::from)
                    .ok_or_else(|| serde::de::Error::custom("no calendar has this time"))
                    .and_then(within)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const COMMAND: &str = r#"{"event":"imap_command_finished","hostname":"mail01","start_time":"2026-11-29T00:47:31.423205Z",
        "end_time":"2026-11-29T00:47:31.464180Z","categories":["imap"],"fields":{"user":"user1","local_ip":"::ffff:127.0.0.1",
        "local_port":993,"remote_ip":"127.0.0.1","remote_port":43234,"session":"ZXBlo19h4qh","duration":38716,
        "cmd_tag":"6b0fa3966642a123","cmd_name":"SELECT","cmd_args":"\"INBOX\"","tagged_reply_state":"OK",
        "running_usecs":38691,"lock_wait_usecs":74,"bytes_in":7,"bytes_out":359,"mailbox":"INBOX"}}"#;

    #[test]
    fn a_command_of_either_version_has_its_numbers_and_nothing_of_the_user() {
        let event = parse(COMMAND.as_bytes()).unwrap();
        assert_eq!((event.command, event.status), (Some(CommandName::Select), Some(Condition::Ok)));
        let micros = |time: Option<Seconds>| time.map(Seconds::as_micros);
        assert_eq!((micros(event.running), micros(event.lock_wait)), (Some(38_691), Some(74)));
        assert_eq!((event.duration().as_micros(), event.out_bytes), (40_975, Some(359)));
        let keys = event.keys();
        assert_eq!(keys.tag.as_deref(), Some("6b0fa3966642a123"));
        assert_eq!(keys.ends.unwrap().server.to_string(), "127.0.0.1:993");
        assert!(!keys.finishes);
        let newer = COMMAND.replace("bytes_in", "net_in_bytes").replace("bytes_out", "net_out_bytes");
        assert_eq!(parse(newer.as_bytes()), Some(event.clone()));
        let debug = format!("{event:?}");
        assert!(!debug.contains("user1") && !debug.contains("INBOX"), "{debug}");
    }

    #[test]
    fn a_time_may_be_a_number() {
        let text = COMMAND
            .replace("\"2026-11-29T00:47:31.423205Z\"", "1795913251.5")
            .replace("\"2026-11-29T00:47:31.464180Z\"", "1795913252");
        assert_eq!(parse(text.as_bytes()).unwrap().duration().as_micros(), 500_000);
    }

    #[test]
    fn a_field_of_another_type_is_absent() {
        let odd = COMMAND.replace("38691", "\"many\"").replace("43234", "99999");
        let event = parse(odd.as_bytes()).unwrap();
        assert_eq!((event.running, event.ends, event.out_bytes), (None, None, Some(359)));
    }

    #[test]
    fn what_is_no_event_of_use_is_none() {
        for text in ["", "{}", "[]", "null", &COMMAND.replace("imap_command_finished", "http_request_finished")] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
        for never in ["\"never\"", "\"0001-01-01T00:00:00Z\"", "\"2200-01-01T00:00:00Z\"", "1e12", "1e15", "-1"] {
            let late = COMMAND.replace("\"2026-11-29T00:47:31.423205Z\"", never);
            assert_eq!(parse(late.as_bytes()), None, "{never}");
        }
    }

    /// As Dovecot 2.3.19 and 2.4.1 sent them for a wrong password and for the right one.
    #[test]
    fn a_refused_login_is_refused_in_each_of_its_events() {
        let success = |event: &str, fields: &str| {
            let body = COMMAND.replace("imap_command_finished", event).replace("\"bytes_in\":7", fields);
            parse(body.as_bytes()).unwrap().success
        };
        for (event, refused, passed, of_passed) in [
            ("auth_client_request_finished", r#""error":"Authentication failed""#, r#""mechanism":"PLAIN""#, None),
            ("auth_request_finished", r#""policy_result":"ok""#, r#""success":"yes","policy_result":"ok""#, Some(true)),
            ("auth_request_finished", r#""error":"internal failure""#, r#""success":"yes""#, Some(true)),
            ("auth_passdb_request_finished", r#""result":"password_mismatch""#, r#""result":"ok""#, Some(true)),
        ] {
            assert_eq!(success(event, refused), Some(false), "{event} {refused}");
            assert_eq!(success(event, passed), of_passed, "{event} {passed}");
        }
        assert_eq!(success("imap_command_finished", r#""error":"x","success":"no""#), None);
    }

    proptest! {
        #[test]
        fn no_body_breaks_it(body in vec(any::<u8>(), 0..200), at in 0usize..600, with in any::<char>()) {
            parse(&body);
            let mut text: Vec<char> = COMMAND.chars().collect();
            let at = at % text.len();
            text[at] = with;
            parse(text.into_iter().collect::<String>().as_bytes());
        }
    }
}

//! One event of Dovecot's exporter (`format = json`), as 2.3 and 2.4 write it.
//!
//! By a closed list of fields: users, arguments, mailbox names and all other fields are skipped while they are read, and the
//! addresses serve as a key alone. Input is untrusted. Called by `store` with the body of a request.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, UNIX_EPOCH},
};

use imaptrace_imap::{CommandName, Condition};
use imaptrace_record::{Seconds, ServerEventName, ServerText, Timestamp};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::value::RawValue;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EventKeys<'a> {
    /// Dovecot's id of the session.
    pub session: Option<&'a str>,
    /// The tag of the command.
    pub tag: Option<&'a str>,
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
    pub fn keys(&self) -> EventKeys<'_> {
        EventKeys {
            session: self.session.as_deref(),
            tag: self.tag.as_deref(),
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
    let event: JsonEvent<'_> = serde_json::from_slice(body).ok()?;
    let what = match &*event.event {
        "mail_opened" => ReportedKind::MailOpened,
        name => ReportedKind::Span(*ServerEventName::ALL.iter().find(|known| known.as_str() == name)?),
    };
    let fields = event.fields;
    let key = |field: &RawField<'_>| field.parsed().filter(|text: &String| !text.is_empty() && text.len() <= KEY);
    let micros = |field: &RawField<'_>| field.parsed().map(Seconds::from_micros);
    let text = |field: &RawField<'_>| field.parsed::<String>();
    Some(ReportedEvent {
        what,
        host: host_text(&event.hostname.unwrap_or_default()),
        started_at: event.start_time.parsed()?,
        ended_at: event.end_time.parsed()?,
        reported: micros(&fields.duration),
        session: key(&fields.session),
        tag: key(&fields.cmd_tag),
        ends: ConnectionEnds::from_fields(
            (fields.local_ip.parsed(), fields.local_port.parsed()),
            (fields.remote_ip.parsed(), fields.remote_port.parsed()),
        ),
        command: text(&fields.cmd_name).and_then(|name| name.to_ascii_uppercase().parse().ok()),
        status: text(&fields.tagged_reply_state).and_then(|state| state.parse().ok()),
        running: micros(&fields.running_usecs),
        lock_wait: micros(&fields.lock_wait_usecs),
        in_bytes: fields.bytes_in.parsed(),
        out_bytes: fields.bytes_out.parsed(),
        reason: text(&fields.reason).map(|reason| ServerText::new(reason.as_bytes(), REASON)),
        success: success(what, &fields),
        further: 0,
    })
}

/// Whether an authentication request succeeded, as far as its event shows it.
///
/// Dovecot 2.3.19 and 2.4.1 have no one field for that: the event of `passdb` and `userdb` has `result`; that of `auth` has
/// `success` after a success alone, and of others at most an `error`; that of `auth client` has `error` after a refusal
/// alone.
fn success(what: ReportedKind, fields: &JsonFields<'_>) -> Option<bool> {
    use ServerEventName::{AuthRequestFinished, ImapCommandFinished, MailUserSessionFinished};
    let name = match what {
        ReportedKind::MailOpened | ReportedKind::Span(ImapCommandFinished | MailUserSessionFinished) => return None,
        ReportedKind::Span(name) => name,
    };
    match fields.success.parsed::<String>().or_else(|| fields.result.parsed()) {
        _ if fields.error.is_some() => Some(false),
        Some(answer) => Some(matches!(&*answer, "yes" | "ok" | "true")),
        None => (name == AuthRequestFinished).then_some(false),
    }
}

#[derive(Deserialize)]
struct JsonEvent<'a> {
    event: String,
    #[serde(default)]
    hostname: Option<String>,
    #[serde(borrow)]
    start_time: EventTime<'a>,
    #[serde(borrow)]
    end_time: EventTime<'a>,
    #[serde(default, borrow)]
    fields: JsonFields<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct JsonFields<'a> {
    #[serde(borrow)]
    duration: RawField<'a>,
    #[serde(borrow)]
    session: RawField<'a>,
    #[serde(borrow)]
    cmd_tag: RawField<'a>,
    #[serde(borrow)]
    cmd_name: RawField<'a>,
    #[serde(borrow)]
    tagged_reply_state: RawField<'a>,
    #[serde(borrow)]
    local_ip: RawField<'a>,
    #[serde(borrow)]
    remote_ip: RawField<'a>,
    #[serde(borrow)]
    local_port: RawField<'a>,
    #[serde(borrow)]
    remote_port: RawField<'a>,
    #[serde(borrow)]
    running_usecs: RawField<'a>,
    #[serde(borrow)]
    lock_wait_usecs: RawField<'a>,
    /// `net_in_bytes` since 2.4.
    #[serde(borrow, alias = "net_in_bytes")]
    bytes_in: RawField<'a>,
    /// `net_out_bytes` since 2.4.
    #[serde(borrow, alias = "net_out_bytes")]
    bytes_out: RawField<'a>,
    #[serde(borrow)]
    reason: RawField<'a>,
    #[serde(borrow)]
    success: RawField<'a>,
    #[serde(borrow)]
    result: RawField<'a>,
    /// Whether there is one: its text is not used.
    error: Option<IgnoredAny>,
}

/// The JSON of a field, parsed as the type that it is used as. Of another type it counts as absent; the event is used without
/// it.
#[derive(Deserialize, Default)]
#[serde(transparent)]
struct RawField<'a>(#[serde(borrow)] Option<&'a RawValue>);

impl RawField<'_> {
    fn parsed<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_str(self.0?.get()).ok()
    }
}

/// The times of an event in microseconds since the Unix epoch, 1970 to 2200: their differences cannot overflow.
const ACCEPTED_TIMES: std::ops::Range<i64> = 0..7_258_118_400_000_000;

/// `time-rfc3339` writes a text, `time-unix` a number of seconds.
#[derive(Deserialize)]
#[serde(transparent)]
struct EventTime<'a>(#[serde(borrow)] &'a RawValue);

impl EventTime<'_> {
    /// None when it is no time, or too far from today.
    fn parsed(&self) -> Option<Timestamp> {
        let json = self.0.get();
        let at: Timestamp = if json.starts_with('"') {
            serde_json::from_str(json).ok()?
        } else {
            let since = Duration::try_from_secs_f64(serde_json::from_str(json).ok()?).ok()?;
            // Such a number has not quite a microsecond's digits: to the nearest one.
            UNIX_EPOCH.checked_add(since + Duration::from_nanos(500))?.into()
        };
        ACCEPTED_TIMES.contains(&at.epoch_micros()).then_some(at)
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
        assert_eq!(keys.tag, Some("6b0fa3966642a123"));
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

//! What the mail server itself reported about the session of a run: its events, and what its processes used (docs/record.md).
//!
//! Plain data. `server_events` of the main package reads the events and joins them with a run; `telemetry` makes SERVER spans of
//! them and `diagnosis` reads them. No user, no argument, no mailbox name and no address is in it.

use imaptrace_imap::{CommandName, Condition};
use serde::{Deserialize, Serialize};

use super::{Seconds, ServerText, SignedSeconds, SpanId, Timestamp, names::known_name};

/// What the server side reported about the session of a run. Absent = does not apply.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ServerEvents {
    /// The hosts that reported, in the order of their first event.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<ServerHost>,
    /// The events, by their start, at most [`ServerEvents::MAX_EVENTS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<ServerEvent>,
    /// Further events of the session, for which there was no room.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropped: Option<u64>,
    /// What the server's processes used, by `/proc`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<ServerProcess>,
}

/// A host that sent events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerHost {
    /// Its name, as its events have it.
    pub name: ServerText,
    /// Its clock less ours: what was subtracted from the times of its spans. Absent where no single value fits all of its events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock_offset_s: Option<SignedSeconds>,
    /// No single clock offset puts all of its spans inside their parents: they are clipped alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uncertain: Option<bool>,
}

/// An event of the server, and a SERVER span of the trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerEvent {
    /// The index of its host in [`ServerEvents::hosts`].
    pub host: u32,
    /// The event's name.
    pub name: ServerEventName,
    /// Its span.
    pub span_id: SpanId,
    /// Its parent: the span of a step, of another event, or the root.
    pub parent_span_id: SpanId,
    /// When it began, by the server's clock.
    pub started_at: Timestamp,
    /// Begin to end, by the server's clock.
    pub duration_s: Seconds,
    /// What the server itself reports as its duration, where that is shorter by 1 ms or more: the rest passed before its process
    /// ran again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reported_s: Option<Seconds>,
    /// The command, of `imap_command_finished`.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "known_name")]
    pub command: Option<CommandName>,
    /// `OK`, `NO` or `BAD`: the state of the tagged reply.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "known_name")]
    pub status: Option<Condition>,
    /// Time in the command: running, in storage, waiting for a lock or for a CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running_s: Option<Seconds>,
    /// Of it, waiting for locks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock_wait_s: Option<Seconds>,
    /// Bytes that the server read for the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_bytes: Option<u64>,
    /// Bytes that the server wrote for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out_bytes: Option<u64>,
    /// How many mail files it opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mail_opened: Option<u64>,
    /// Why it opened them, each reason once, at most [`ServerEvents::MAX_REASONS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<ServerText>,
    /// Whether an authentication request succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub success: Option<bool>,
}

/// What one process of the server used, by the kernel's accounting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerProcess {
    /// The index of its host in [`ServerEvents::hosts`].
    pub host: u32,
    /// What it is.
    pub process: ServerProcessName,
    /// The step whose time it was sampled for; absent for all of the session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub span_id: Option<SpanId>,
    /// The time between the samples that the figures are the difference of.
    pub sampled_s: Seconds,
    /// Time on a CPU.
    pub cpu_s: Seconds,
    /// Time in which it could have run and waited for a CPU.
    pub run_queue_s: Seconds,
    /// Time in which it waited for block devices, where the kernel counts that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_wait_s: Option<Seconds>,
    /// The running time of the step's command less CPU, run queue and locks: storage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rest_s: Option<Seconds>,
}

impl ServerEvents {
    /// The most events of a run.
    pub const MAX_EVENTS: usize = 64;
    /// The most bytes of JSON of a run's events.
    pub const MAX_BYTES: usize = 8_000;
    /// The most hosts of a run: a proxy and its back ends.
    pub const MAX_HOSTS: usize = 8;
    /// The most reasons of an event.
    pub const MAX_REASONS: usize = 8;
    /// The most entries of processes of a run.
    pub const MAX_PROCESSES: usize = 64;

    /// The events of this name, by their start.
    pub fn named(&self, name: ServerEventName) -> impl Iterator<Item = &ServerEvent> {
        self.events.iter().filter(move |event| event.name == name)
    }

    /// Bytes of memory that it holds beside its own, nearly.
    pub(super) fn held_bytes(&self) -> usize {
        let hosts = self.hosts.iter().map(|host| size_of::<ServerHost>() + host.name.as_str().len());
        let events = self.events.iter().map(|event| {
            let reasons = event.reasons.iter().map(|text| size_of::<ServerText>() + text.as_str().len());
            size_of::<ServerEvent>() + reasons.sum::<usize>()
        });
        let processes = self.processes.len() * size_of::<ServerProcess>();
        size_of::<Self>() + hosts.sum::<usize>() + events.sum::<usize>() + processes
    }
}

words! {
    /// Events of Dovecot that enter a record.
    ServerEventName {
        /// A command after login.
        ImapCommandFinished = "imap_command_finished",
        /// One lookup in a password database.
        AuthPassdbRequestFinished = "auth_passdb_request_finished",
        /// One lookup in a user database.
        AuthUserdbRequestFinished = "auth_userdb_request_finished",
        /// The authentication in the auth process, penalty and delays included.
        AuthRequestFinished = "auth_request_finished",
        /// The authentication as the login process sees it.
        AuthClientRequestFinished = "auth_client_request_finished",
        /// The session after login.
        MailUserSessionFinished = "mail_user_session_finished",
    }

    /// Processes of Dovecot that are sampled.
    ServerProcessName {
        /// Serves a session after login.
        Imap = "imap",
        /// Serves a connection until login, TLS included.
        ImapLogin = "imap-login",
        /// Checks credentials.
        Auth = "auth",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events() -> ServerEvents {
        serde_json::from_str(
            r#"{"hosts":[{"name":"mail01","clock_offset_s":-0.25}],"events":[{"host":0,"name":"imap_command_finished",
            "span_id":"b7ad6b7169203331","parent_span_id":"b7ad6b7169203332","started_at":"2026-11-23T11:42:40Z",
            "duration_s":0.5,"command":"SELECT","status":"OK","running_s":0.5,"lock_wait_s":0.1,"reasons":["a"]}],
            "processes":[{"host":0,"process":"imap","sampled_s":0.5,"cpu_s":0.1,"run_queue_s":0.2}]}"#,
        )
        .unwrap()
    }

    #[test]
    fn what_was_written_is_read_back() {
        let events = events();
        let json = serde_json::to_string(&events).unwrap();
        assert_eq!(serde_json::from_str::<ServerEvents>(&json).unwrap(), events);
        assert!(json.contains(r#""clock_offset_s":-0.25"#), "{json}");
        assert_eq!(serde_json::from_str::<ServerEvents>("{}").unwrap(), ServerEvents::default());
    }

    #[test]
    fn what_it_holds_is_the_sum_of_its_parts() {
        let held = |events: &ServerEvents| events.held_bytes();
        let all = events();
        let without = |change: fn(&mut ServerEvents)| {
            let mut less = all.clone();
            change(&mut less);
            held(&all) - held(&less)
        };
        assert_eq!(without(|it| it.hosts.clear()), size_of::<ServerHost>() + "mail01".len());
        assert_eq!(without(|it| it.processes.clear()), size_of::<ServerProcess>());
        assert_eq!(without(|it| it.events[0].reasons.clear()), size_of::<ServerText>() + "a".len());
        assert_eq!(without(|it| it.events.clear()), size_of::<ServerEvent>() + size_of::<ServerText>() + "a".len());
        assert_eq!(held(&ServerEvents::default()), size_of::<ServerEvents>());
    }

    #[test]
    fn a_command_of_another_version_is_absent() {
        let mut json = serde_json::to_value(events()).unwrap();
        json["events"][0]["command"] = "BRANDNEW".into();
        let read: ServerEvents = serde_json::from_value(json).unwrap();
        assert_eq!((read.events[0].command, read.events[0].status), (None, Some(Condition::Ok)));
    }

    #[test]
    fn its_held_bytes_grow_with_each_thing_in_it() {
        let mut events = events();
        let before = events.held_bytes();
        events.events.push(events.events[0].clone());
        let after = events.held_bytes();
        assert_eq!(after - before, size_of::<ServerEvent>() + size_of::<ServerText>() + 1);
        events.processes.push(events.processes[0].clone());
        assert_eq!(events.held_bytes() - after, size_of::<ServerProcess>());
    }
}

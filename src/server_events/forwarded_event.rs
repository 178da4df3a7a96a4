//! The JSON of an event that is forwarded: that of Dovecot, with the fields of the closed list alone. Called by `relay`.

use std::net::IpAddr;

use imaptrace_imap::{CommandName, Condition};
use imaptrace_record::{Seconds, ServerText};
use serde::Serialize;
use serde_json::Value;

use super::dovecot_event::{ReportedEvent, ReportedKind};

#[derive(Serialize)]
struct ForwardedEvent<'a> {
    event: &'a str,
    hostname: &'a str,
    start_time: Value,
    end_time: Value,
    fields: ForwardedFields<'a>,
}

/// The closed list of fields, by Dovecot's names.
#[derive(Serialize)]
struct ForwardedFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    local_ip: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    local_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_ip: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cmd_tag: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cmd_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tagged_reply_state: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    running_usecs: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lock_wait_usecs: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_in: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_out: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    success: Option<&'a str>,
}

impl ReportedEvent {
    /// The event as Dovecot 2.3 writes it, without the user and all else that is not used.
    pub(super) fn to_json(&self) -> Option<Vec<u8>> {
        let (server, client) = self.ends.map(|ends| (ends.server, ends.client)).unzip();
        let fields = ForwardedFields {
            duration: self.reported.map(Seconds::as_micros),
            session: self.session.as_deref(),
            local_ip: server.map(|end| end.ip()),
            local_port: server.map(|end| end.port()),
            remote_ip: client.map(|end| end.ip()),
            remote_port: client.map(|end| end.port()),
            cmd_tag: self.tag.as_deref(),
            cmd_name: self.command.map(CommandName::as_str),
            tagged_reply_state: self.status.map(Condition::as_str),
            running_usecs: self.running.map(Seconds::as_micros),
            lock_wait_usecs: self.lock_wait.map(Seconds::as_micros),
            bytes_in: self.in_bytes,
            bytes_out: self.out_bytes,
            reason: self.reason.as_ref().map(ServerText::as_str),
            success: self.success.map(|success| if success { "yes" } else { "no" }),
        };
        let event = ForwardedEvent {
            event: match self.what {
                ReportedKind::Span(name) => name.as_str(),
                ReportedKind::MailOpened => "mail_opened",
            },
            hostname: self.host.as_str(),
            start_time: serde_json::to_value(self.started_at).ok()?,
            end_time: serde_json::to_value(self.ended_at).ok()?,
            fields,
        };
        serde_json::to_vec(&event).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::super::dovecot_event::parse;

    #[test]
    fn what_is_passed_on_is_read_as_the_same_event_and_has_no_other_field() {
        let ends = r#""local_ip":"::ffff:192.0.2.1","local_port":993,"remote_ip":"2001:db8::7","remote_port":43234"#;
        for (event, fields) in [
            (
                "imap_command_finished",
                r#""cmd_tag":"T6b0fa3","cmd_name":"SELECT","tagged_reply_state":"NO","duration":38716,
                "running_usecs":38691,"lock_wait_usecs":0,"net_in_bytes":7,"net_out_bytes":359,"cmd_args":"planted"#,
            ),
            ("auth_passdb_request_finished", r#""result":"ok","user":"planted"#),
            ("auth_request_finished", r#""success":"no","original_user":"planted"#),
            ("mail_opened", r#""reason":"9/9 headers not cached","mailbox":"planted"#),
            ("mail_user_session_finished", r#""utime":"planted"#),
        ] {
            let body = format!(
                r#"{{"event":"{event}","hostname":"mail01","start_time":"2026-11-29T00:47:31.423205Z",
                "end_time":"2026-11-29T00:47:31.464180Z","fields":{{{ends},"session":"ZXBlo19h4qh",{fields}"}}}}"#
            );
            let read = parse(body.as_bytes()).unwrap_or_else(|| panic!("{body}"));
            let json = read.to_json().unwrap();
            assert_eq!(parse(&json), Some(read), "{event}");
            assert!(!String::from_utf8(json).unwrap().contains("planted"), "{event}");
        }
    }
}

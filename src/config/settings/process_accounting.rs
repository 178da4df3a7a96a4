//! `proc`, `users` and `mail_log` of `[server_events]`: whether the processes of a Dovecot on this host are accounted, and
//! the users whose sessions are. Called by `server_events`.

use crate::{
    config::sources::readers::{Field, Table},
    plan::Glob,
    process_accounting::{MailLog, ProcessAccountingSettings},
};

/// None without `proc = true`, or where a key that it needs cannot be used.
pub(super) fn read(table: &Table<'_>) -> Option<ProcessAccountingSettings> {
    let is_on = table.read("proc", Field::bool).unwrap_or(false);
    let users = table.get("users").map(|field| read_users(&field));
    let mail_log = table.read("mail_log", read_mail_log);
    if !is_on {
        for key in ["users", "mail_log"].into_iter().filter(|key| table.has(key)) {
            table.warn(key, "it is not used without proc", "add proc = true, or take it out");
        }
        return None;
    }
    if !ProcessAccountingSettings::SUPPORTED {
        table.error("proc", "processes are accounted only on Linux", "take it out, with users and mail_log");
    }
    if users.is_none() {
        let help = "add users = [\"probe*\"]: the probes' users, as Dovecot logs them";
        table.error("proc", "there are no users whose sessions to account", help);
    }
    if !table.has("mail_log") {
        let help = "add mail_log = \"/var/log/mail.log\", or mail_log = \"journal\"";
        table.error("proc", "there is no mail log, which has the logins", help);
    }
    Some(ProcessAccountingSettings { users: users?, mail_log: mail_log? })
}

fn read_users(field: &Field<'_>) -> Vec<Glob> {
    let words = field.list().unwrap_or_default();
    if words.is_empty() && field.is_list() {
        field.error("it is empty", "name the probes' users, with * for any characters");
    }
    if let Some((word, _)) = words.iter().find(|(_, text)| text.bytes().all(|byte| byte == b'*')) {
        let help = "name the probes' users alone: 64 sessions are sampled at once";
        word.warn("the sessions of all users are accounted", help);
    }
    words.iter().map(|(_, text)| Glob::new(text)).collect()
}

fn read_mail_log(field: &Field<'_>) -> Option<MailLog> {
    match field.as_text() {
        Some("journal") => Some(MailLog::Journal),
        Some(text) if !text.is_empty() && !text.starts_with('/') => {
            field.error("it is neither an absolute path nor \"journal\"", "write /var/log/mail.log or journal");
            None
        }
        _ => field.file().map(MailLog::File),
    }
}

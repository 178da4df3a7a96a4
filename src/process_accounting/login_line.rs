//! The line that Dovecot logs for a login: which process serves the session. Does no I/O and keeps nothing. Called by `sampler`.
//!
//! Others than Dovecot write to a mail log too, and a client chooses the user name that it fails with. So the line must be
//! of a login process by its first words, where no client's text is yet, and a line with a field twice is not used.

use std::{
    net::{IpAddr, SocketAddr},
    str,
};

/// What precedes a message of Dovecot's IMAP login process.
pub(super) const SERVICE: &[u8] = b"imap-login: ";
/// The level, which is there in files that Dovecot itself writes.
const LEVEL: &str = "Info: ";
/// What a login is called: until 2.3, and from 2.4 on.
const LOGINS: [&str; 2] = ["Login: ", "Logged in: "];
/// The most words before a message: date, time, host, and name with process id.
const WORDS: usize = 6;

/// A login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LoginLine<'a> {
    /// The user name.
    pub(super) user: &'a str,
    /// The process that serves the session.
    pub(super) pid: i32,
    /// Dovecot's name of the session.
    pub(super) session: Option<&'a str>,
    /// The client's address, and the server's.
    pub(super) client: Option<IpAddr>,
    pub(super) server: Option<IpAddr>,
    /// The server's and the client's end of the connection, where `login_log_format_elements` has both ports.
    pub(super) ends: Option<(SocketAddr, SocketAddr)>,
}

impl<'a> LoginLine<'a> {
    /// Reads a line of the mail log; none if it is not certain that it is of a login.
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        let message = message(str::from_utf8(line).ok()?)?;
        let message = message.strip_prefix(LEVEL).unwrap_or(message);
        let fields = LOGINS.iter().find_map(|login| message.strip_prefix(login))?;
        let mut known: [Option<&str>; NAMES.len()] = Default::default();
        for field in fields.trim_end().split(", ") {
            let Some((name, value)) = field.split_once('=') else { continue };
            if let Some(slot) = NAMES.iter().position(|known| *known == name).and_then(|at| known.get_mut(at))
                && slot.replace(value).is_some()
            {
                return None;
            }
        }
        let [user, pid, session, client, server, client_port, server_port] = known;
        let ip = |text: Option<&str>| Some(text?.parse::<IpAddr>().ok()?.to_canonical());
        let port = |text: Option<&str>| text?.parse::<u16>().ok();
        let end = |host, number| Some(SocketAddr::new(ip(host)?, port(number)?));
        Some(Self {
            user: in_brackets(user?)?,
            pid: pid?.parse().ok().filter(|pid| *pid > 0)?,
            session: session.and_then(in_brackets),
            client: ip(client),
            server: ip(server),
            ends: end(server, server_port).zip(end(client, client_port)),
        })
    }
}

const NAMES: [&str; 7] = ["user", "mpid", "session", "rip", "lip", "rport", "lport"];

/// The message of a line of the login process, behind its prefix.
fn message(line: &str) -> Option<&str> {
    let service = str::from_utf8(SERVICE).ok()?;
    let (prefix, message) = line.split_once(service)?;
    let mut words = prefix.split_ascii_whitespace();
    let last = words.next_back();
    // A colon ends the name of a program. Only Dovecot's may be before the message, and it is the last word.
    let is_dovecot = |word: &str| word.starts_with("dovecot") || !word.ends_with(':');
    let is_other = |word: &str| word.ends_with(':') || !is_of_prefix(word);
    let is_plain = last.is_none_or(|word| is_dovecot(word) && is_of_prefix(word)) && !words.clone().any(is_other);
    (is_plain && words.count() < WORDS && (prefix.is_empty() || prefix.ends_with(' '))).then_some(message)
}

/// Whether a word may be of a date, of a host's name, or of a program's with a process id.
fn is_of_prefix(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".:+-_/[]".contains(&byte))
}

/// `<…>` without the brackets, and with none inside.
fn in_brackets(text: &str) -> Option<&str> {
    text.strip_prefix('<')?.strip_suffix('>').filter(|inner| !inner.is_empty() && !inner.contains(['<', '>']))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: &str =
        "user=<probe1>, method=PLAIN, rip=192.0.2.7, lip=192.0.2.1, mpid=4711, TLS, session=<u7Trol9hrKt/AAAB>";

    fn parse(line: &str) -> Option<LoginLine<'_>> {
        LoginLine::parse(line.as_bytes())
    }

    #[test]
    fn a_login_is_read_in_the_forms_of_syslog_the_journal_and_dovecots_own_file() {
        for prefix in [
            "",
            "Nov  9 08:51:33 mail01 dovecot: ",
            "Nov 30 18:51:33 mail01 dovecot[812]: ",
            "2026-11-30T18:51:33.123456+00:00 mail01.example.net dovecot: ",
            "Nov 30 18:51:33 mail01 dovecot-imap: ",
            "Nov 30 18:51:33 ",
            "2026-11-30 18:51:33.123456 ",
        ] {
            for login in ["Login: ", "Info: Login: ", "Logged in: "] {
                let line = format!("{prefix}imap-login: {login}{FIELDS}");
                let read = parse(&line).unwrap_or_else(|| panic!("{line}"));
                assert_eq!((read.user, read.pid, read.session), ("probe1", 4711, Some("u7Trol9hrKt/AAAB")), "{line}");
                assert_eq!((read.client, read.ends), (Some([192, 0, 2, 7].into()), None));
            }
        }
    }

    #[test]
    fn both_ends_are_read_where_they_are_logged() {
        let line = format!("imap-login: Login: {FIELDS}, rport=50123, lport=993");
        let ends = parse(&line).unwrap().ends.unwrap();
        assert_eq!((ends.0.to_string(), ends.1.to_string()), ("192.0.2.1:993".into(), "192.0.2.7:50123".into()));
        let mapped = line.replace("=192.0.2.", "=::ffff:192.0.2.");
        assert_eq!(parse(&mapped).unwrap().ends, Some(ends));
        let ipv6 = line.replace("=192.0.2.", "=2001:db8::");
        assert_eq!(parse(&ipv6).unwrap().ends.unwrap().0.to_string(), "[2001:db8::1]:993");
    }

    #[test]
    fn a_line_that_a_client_or_another_program_has_forged_is_no_login() {
        let login = format!("imap-login: Login: {FIELDS}");
        for line in [
            // A user name that failed, with a login inside.
            format!("dovecot: imap-login: Disconnected (auth failed): user=<{login}>, method=PLAIN, rip=192.0.2.66"),
            format!("dovecot: imap-login: Login aborted: user=<a>, {login}"),
            // Names and texts of other services and programs.
            format!("Nov 30 18:51:33 mail01 dovecot: imap({login})<1><x>: Disconnected"),
            format!("Nov 30 18:51:33 mail01 dovecot: auth: Error: {login}"),
            format!("Nov 30 18:51:33 mail01 dovecot: pop3-login: Disconnected: user=<{login}>"),
            format!("Nov 30 18:51:33 mail01 postfix/smtpd[9]: {login}"),
            format!("Nov 30 18:51:33 mail01 postfix/smtpd[9]: warning: dovecot: {login}"),
            format!("Nov 30 18:51:33 mail01 postfix/smtpd[9]: dovecot: {login}"),
            format!("Nov 30 18:51:33 mail01 a b c d dovecot: {login}"),
            format!("from=<x> {login}"),
            format!("Nov 30 18:51:33 mail01 dovecot: x{login}"),
            // A user who logged in and whose name has fields of another one in it.
            login.replace("probe1", "a>, mpid=1, user=<probe1"),
            login.replace("probe1", "a>, mpid=1, b=<probe1"),
            login.replace("<probe1>", "<probe1>, session=<other>"),
            login.replace("probe1", "a<b"),
            login.replace("probe1", "a>b"),
            // Not all that is needed.
            login.replace("mpid=4711, ", ""),
            login.replace("4711", "-1"),
            login.replace("4711", "0"),
            login.replace("4711", "4711x"),
            login.replace("<probe1>", "<>"),
            login.replace("user=<probe1>, ", ""),
            login.replace("Login: ", "Login:"),
            login.replace("imap-login", "submission-login"),
            String::new(),
        ] {
            assert_eq!(parse(&line), None, "{line}");
        }
        assert_eq!(LoginLine::parse(b"imap-login: Login: user=<\xff>, mpid=1"), None);
    }
}

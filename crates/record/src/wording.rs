//! Known wordings of refusals that mean "not now" and have no standard response code for it.
//!
//! The list is closed and documented in `docs/protocol.md`; a test compares them. `probe` uses it for the class of a NO or BAD
//! whose code gives none, `terminal` for the advice that fits.

use imaptrace_imap::CommandName;

use super::ErrorType;

/// A wording, and its class. `#` is a number. Case and a full stop at the end do not matter.
const WORDINGS: &[(&str, ErrorType)] = &[
    // Exchange and Exchange Online; the second is also what an account without a mailbox, a licence or IMAP gets.
    ("Request is throttled. Suggested Backoff Time: # milliseconds", ErrorType::LimitServer),
    ("User is authenticated but not connected", ErrorType::Unavailable),
    ("Server Unavailable. #", ErrorType::Unavailable),
    ("Server Unavailable", ErrorType::Unavailable),
    // Gmail
    ("Too many simultaneous connections", ErrorType::LimitServer),
    ("Account exceeded command or bandwidth limits", ErrorType::LimitServer),
    ("Temporary System Error", ErrorType::Unavailable),
    ("Temporary System Problem. Try again later", ErrorType::Unavailable),
    // Yahoo and AOL, behind the name of the command
    ("Rate limit hit", ErrorType::LimitServer),
    ("Server error - Please try again later", ErrorType::Unavailable),
    // iCloud
    ("Service temporarily unavailable", ErrorType::Unavailable),
    // Dovecot
    ("Maximum number of connections from user+IP exceeded (mail_max_userip_connections=#)", ErrorType::LimitServer),
    ("Maximum number of connections from user+IP exceeded", ErrorType::LimitServer),
    ("Temporary authentication failure", ErrorType::Unavailable),
    ("Internal error occurred. Refer to server log for more information", ErrorType::Unavailable),
    ("Server shutting down", ErrorType::Unavailable),
    // Courier
    ("Temporary problem, please try again later", ErrorType::Unavailable),
    // Cyrus, whose authentication is a service of its own
    ("Login failed: remote authentication server unavailable", ErrorType::Unavailable),
    ("Too many open connections", ErrorType::LimitServer),
    // Mail.ru, NetEase, Tencent and others
    ("Login frequency limited", ErrorType::LimitServer),
    ("Too many connections", ErrorType::LimitServer),
    ("Too many concurrent connections", ErrorType::LimitServer),
    ("Temporarily unavailable", ErrorType::Unavailable),
    ("Temporary unavailable", ErrorType::Unavailable),
    ("Internal error. Try again later", ErrorType::Unavailable),
];

/// The class of a refusal of `command` that means "not now", if its human text is one of the known wordings.
///
/// The wording has to be the whole text, but for the name of the command before it, and remarks in brackets or parentheses behind
/// it, as `(Failure)` or `[mx1:2024-01-01]`. So a text that repeats a user or mailbox name matches nothing.
pub fn not_now(command: Option<CommandName>, text: &[u8]) -> Option<ErrorType> {
    let name = command.map(|command| command.as_str().as_bytes());
    let behind_name = strip_prefix(text, name.unwrap_or_default()).and_then(|rest| rest.strip_prefix(b" "));
    let texts = [Some(text), behind_name];
    let known = |wording: &str| texts.into_iter().flatten().any(|text| is_wording(text, wording));
    WORDINGS.iter().find(|(wording, _)| known(wording)).map(|(_, class)| *class)
}

fn strip_prefix<'a>(text: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

fn is_wording(mut text: &[u8], wording: &str) -> bool {
    for (place, part) in wording.split('#').enumerate() {
        if place > 0 {
            let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
            match text.split_at_checked(digits) {
                Some((_, rest)) if digits > 0 => text = rest,
                _ => return false,
            }
        }
        match strip_prefix(text, part.as_bytes()) {
            Some(rest) => text = rest,
            None => return false,
        }
    }
    is_remarks(text)
}

/// Full stops, and text in brackets or parentheses behind a space.
fn is_remarks(mut rest: &[u8]) -> bool {
    loop {
        let full_stops = rest.iter().take_while(|byte| **byte == b'.').count();
        rest = rest.get(full_stops..).unwrap_or_default().trim_ascii_end();
        let Some(remark) = rest.strip_prefix(b" ").map(<[u8]>::trim_ascii_start) else { return rest.is_empty() };
        let end = match remark.first() {
            Some(b'(') => b')',
            Some(b'[') => b']',
            _ => return false,
        };
        let Some(length) = memchr::memchr(end, remark) else { return false };
        rest = remark.get(length + 1..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_wording_is_found_in_any_case_with_its_numbers_and_remarks() {
        for (command, text, class) in [
            (CommandName::Login, "Too many simultaneous connections. (Failure)", ErrorType::LimitServer),
            (
                CommandName::Fetch,
                "Request is throttled. Suggested Backoff Time: 89117 milliseconds",
                ErrorType::LimitServer,
            ),
            (CommandName::List, "User is authenticated but not connected.", ErrorType::Unavailable),
            (CommandName::List, "Server Unavailable. 15", ErrorType::Unavailable),
            (CommandName::Login, "LOGIN Rate limit hit", ErrorType::LimitServer),
            (CommandName::Login, "login rate limit hit.", ErrorType::LimitServer),
            (
                CommandName::Authenticate,
                "Maximum number of connections from user+IP exceeded (mail_max_userip_connections=10)",
                ErrorType::LimitServer,
            ),
            (CommandName::Login, "Temporary authentication failure. [mx1:2024-01-01 10:00:00]", ErrorType::Unavailable),
            (CommandName::Select, "Temporary System Error (Failure) (0.001 + 0.000 secs).", ErrorType::Unavailable),
        ] {
            assert_eq!(not_now(Some(command), text.as_bytes()), Some(class), "{text}");
        }
    }

    #[test]
    fn a_text_that_only_holds_a_wording_is_none() {
        for (command, text) in [
            (CommandName::Login, ""),
            (CommandName::Login, "Invalid credentials (Failure)"),
            (CommandName::Login, "LOGIN failed."),
            (CommandName::Login, "System error"),
            // A user, a mailbox or a password that is repeated.
            (CommandName::Login, "Too many connections@example.org: no such user"),
            (CommandName::Login, "Too many connections: wrong password"),
            (CommandName::Login, "unknown user Too many connections"),
            (CommandName::Select, "Mailbox doesn't exist: Server Unavailable"),
            (CommandName::Select, "\"Server Unavailable\" does not exist"),
            (CommandName::Select, "Server Unavailable does not exist"),
            (CommandName::Select, "Server Unavailable. 15 does not exist"),
            (CommandName::Login, "Request is throttled. Suggested Backoff Time: many milliseconds"),
            (CommandName::Login, "Request is throttled. Suggested Backoff Time:  milliseconds"),
            (CommandName::Login, "Server Unavailable. x"),
            (CommandName::Login, "FETCH Rate limit hit"),
            (CommandName::Login, "Too many connections(x)"),
            (CommandName::Login, "Too many connections (x"),
            (CommandName::Login, "Too many connections (x]"),
            (CommandName::Login, "Too many connections (never closed"),
            // Which of them it is cannot be decided.
            (
                CommandName::Login,
                "Login fail. Account is abnormal, service is not open, password is incorrect, login frequency limited, \
                 or system is busy.",
            ),
        ] {
            assert_eq!(not_now(Some(command), text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn every_wording_stands_for_not_now_is_found_by_itself_and_is_in_the_documentation() {
        let page = include_str!("../../../docs/protocol.md");
        for (wording, class) in WORDINGS {
            assert!(page.contains(&format!("| `{wording}` | `{class}` |")), "{wording}");
            assert!(matches!(class, ErrorType::Unavailable | ErrorType::LimitServer), "{wording}");
            assert_eq!(
                not_now(Some(CommandName::Login), wording.replace('#', "12").as_bytes()),
                Some(*class),
                "{wording}"
            );
        }
    }
}

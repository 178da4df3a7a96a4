//! One line for standard error when a run did not pass: what, where, and what to try.

use std::fmt::Write as _;

use imaptrace_record::{CloseNotify, ErrorType, Run, RunOutcome, Step};

use super::{Style, hints::advice, text::safe};

/// What went wrong in `run`, where, and what to try; none when it passed. One line, however long: nothing of the
/// server's words is cut here.
pub fn failure(run: &Run, style: Style) -> Option<String> {
    if run.outcome == RunOutcome::Passed {
        return None;
    }
    let family = run.family.map(|family| format!(", {}", family.as_str())).unwrap_or_default();
    let place = format!("{}{family}", endpoint(run, style));
    let mut line = format!("{} ({place}): {}", safe(&run.target, style), verdict(run, style));
    if let Some(class) = run.error_type {
        let _ = write!(line, "; {}", advice(run, class, style));
    }
    line.push('\n');
    Some(line)
}

/// `LOGIN failed: auth_failed: NO [AUTHENTICATIONFAILED] Authentication failed.`
pub(super) fn verdict(run: &Run, style: Style) -> String {
    let mut text = match &run.failed_step {
        Some(step) => format!("{} failed", safe(step.as_str(), style)),
        None => run.outcome.as_str().to_owned(),
    };
    match (run.failing_step(), run.error_type) {
        (Some(step), class) => text = format!("{text}: {}", finding(step, class, style)),
        (None, Some(class)) => text = format!("{text}: {class}"),
        (None, None) => {}
    }
    if run.auth_backoff == Some(true) {
        text.push_str(" (held back: an earlier login was refused)");
    }
    text
}

/// What a step that failed found: `auth_failed: NO [AUTHENTICATIONFAILED] Authentication failed.`
pub(super) fn finding(step: &Step, class: Option<ErrorType>, style: Style) -> String {
    let mut text = step.error_type.or(class).map_or_else(|| "failed".to_owned(), |class| class.to_string());
    let mut words = Vec::new();
    words.extend(step.status.map(|status| status.to_string()));
    words.extend(step.code.map(|code| format!("[{code}]")));
    words.extend(step.text.as_ref().map(|text| safe(text.as_str(), style)));
    words.extend((step.close_notify == Some(CloseNotify::False)).then(|| "cut off without close_notify".to_owned()));
    if !words.is_empty() {
        text.push_str(": ");
        text.push_str(&words.join(" "));
    }
    text
}

/// `mail01.example.org:993`, brackets around an IPv6 address.
pub(super) fn endpoint(run: &Run, style: Style) -> String {
    let address = safe(&run.server.address, style);
    let port = run.server.port;
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::samples;

    const PLAIN: Style = Style { width: 40, colour: false, ascii: true };

    #[test]
    fn the_line_says_what_where_and_what_to_try_however_narrow_the_terminal() {
        assert_eq!(
            failure(&samples::login_refused(), PLAIN).unwrap(),
            "mail01 (mail01.example.org:993): LOGIN failed: auth_failed: NO [AUTHENTICATIONFAILED] \
             Authentication failed.; check user name and password, and whether the account is locked or wants 2FA\n"
        );
    }

    #[test]
    fn a_run_that_passed_has_none() {
        assert_eq!(failure(&samples::passed(), PLAIN), None);
    }
}

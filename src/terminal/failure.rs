//! One line for standard error when a run did not pass: the failure, its place, and what to try.

use imaptrace_record::{CloseNotify, ErrorType, Run, RunOutcome, Step};

use super::{Style, hints::failure_hint, text::safe};

/// The failure of `run`, its place, and what to try; none when it passed. One line, which is not cut.
pub fn failure(run: &Run, style: Style) -> Option<String> {
    if run.outcome == RunOutcome::Passed {
        return None;
    }
    let family = run.family.map(|family| format!(", {}", family.as_str())).unwrap_or_default();
    let place = format!("{}{family}", endpoint(run, style));
    let advice = run.error_type.map(|class| format!("; {}", failure_hint(run, class, style))).unwrap_or_default();
    Some(format!("{} ({place}): {}{advice}\n", safe(&run.target, style), outcome_text(run, style)))
}

/// `LOGIN failed: auth_failed: NO [AUTHENTICATIONFAILED] Authentication failed.`
pub(super) fn outcome_text(run: &Run, style: Style) -> String {
    let mut text = match &run.failed_step {
        Some(step) => format!("{} failed", safe(step.as_str(), style)),
        None => run.outcome.as_str().to_owned(),
    };
    let finding = run.failing_step().map(|step| finding(step, run.error_type, style));
    text.extend(finding.or_else(|| run.error_type.map(|class| class.to_string())).map(|found| format!(": {found}")));
    if run.auth_backoff == Some(true) {
        text.push_str(" (held back: an earlier login was refused)");
    }
    text
}

/// The finding of a failed step: `auth_failed: NO [AUTHENTICATIONFAILED] Authentication failed.`
pub(super) fn finding(step: &Step, class: Option<ErrorType>, style: Style) -> String {
    let text = step.error_type.or(class).map_or_else(|| "failed".to_owned(), |class| class.to_string());
    let mut words = Vec::new();
    words.extend(step.status.map(|status| status.to_string()));
    words.extend(step.code.map(|code| format!("[{code}]")));
    words.extend(step.text.as_ref().map(|text| safe(text.as_str(), style)));
    words.extend((step.close_notify == Some(CloseNotify::False)).then(|| "cut off without close_notify".to_owned()));
    if words.is_empty() { text } else { format!("{text}: {}", words.join(" ")) }
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
    fn the_line_has_failure_place_and_hint_however_narrow_the_terminal() {
        assert_eq!(
            failure(&samples::login_refused(), PLAIN).unwrap(),
            "mail01 (mail01.example.org:993): LOGIN failed: auth_failed: NO [AUTHENTICATIONFAILED] \
             Authentication failed.; check user name and password, and whether the account is locked or needs 2FA\n"
        );
    }

    #[test]
    fn a_run_that_passed_has_none() {
        assert_eq!(failure(&samples::passed(), PLAIN), None);
    }
}

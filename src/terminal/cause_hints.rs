//! Why a run was slow, by its verdict, and what to examine: the short end of a line. Called by `waterfall`.

use imaptrace_record::{Cause, Run, RunOutcome, Verdict};

use super::{Style, text::safe};

/// The verdict of a run: its cause, the strongest evidence, and what to examine. None without one.
pub(super) fn cause_hint(run: &Run, style: Style) -> Option<String> {
    let verdict = run.verdict.as_deref()?;
    // The step that failed has a remedy of its own, which says as much.
    let is_said = matches!(verdict.cause, Cause::Limit | Cause::Prober | Cause::Server | Cause::Unknown);
    if run.outcome != RunOutcome::Passed && is_said {
        return None;
    }
    let evidence = verdict.evidence.first().map(|text| format!(" - {}", safe(text, style))).unwrap_or_default();
    Some(format!("{}{evidence}; {}; {}", causes(verdict), remedy(verdict), runbook(verdict.cause)))
}

/// The page about a cause, in the repository. `tests/house` checks that each cause has one.
fn runbook(cause: Cause) -> String {
    format!("docs/runbooks/cause-{}.md", cause.as_str())
}

/// The cause in words, how sure it is, and the second one.
fn causes(verdict: &Verdict) -> String {
    let first = name(verdict.cause);
    match verdict.second {
        Some(second) => format!("{first}, or {}", name(second)),
        None if verdict.is_probable() => format!("probably {first}"),
        None => first.to_owned(),
    }
}

fn name(cause: Cause) -> &'static str {
    match cause {
        Cause::Prober => "imaptrace's own machine",
        Cause::Dns => "the name server",
        Cause::Distance => "longer round trips",
        Cause::Bandwidth => "the bandwidth of the line",
        Cause::Loss => "loss on the line",
        Cause::Tls => "the TLS handshake",
        Cause::AuthBackend => "the authentication back end",
        Cause::AuthPenalty => "the server's delay after wrong passwords",
        Cause::Limit => "a limit of the server",
        Cause::Lock => "a lock on the mailbox",
        Cause::ServerCpu => "the server's CPU",
        Cause::Disk => "the server's storage",
        Cause::MailboxSize => "the size of the mailbox",
        Cause::Server => "inside the server",
        Cause::Unknown => "nothing that was measured",
    }
}

/// What to examine.
fn remedy(verdict: &Verdict) -> &'static str {
    match verdict.cause {
        Cause::Prober => "give imaptrace CPU, and look at what else runs on its machine",
        Cause::Dns => "query the name server directly, or set [dns] servers to a nearer one",
        Cause::Distance => "look at the route (mtr); only a shorter path helps",
        Cause::Bandwidth => "look at the line's use at this time, and at backups and transfers",
        Cause::Loss => "look at the line's error counters, its duplex and queues (mtr, ethtool -S)",
        Cause::Tls => "look at the key's kind and size, and at the CPU of login processes",
        Cause::AuthBackend => "look at the database or directory of its passdb and userdb",
        Cause::AuthPenalty => "find who sends wrong passwords from this address (auth_failed in its log)",
        Cause::Limit => "look for process_limit, client_limit and mail_max_userip_connections in its log",
        Cause::Lock => "look at other sessions, deliveries and backups of this mailbox (lsof, doveadm who)",
        Cause::ServerCpu => "look at its load, at other services on it, and at its CPU quota",
        Cause::Disk => "look at latency and queue of its storage (iostat -x, nfsiostat)",
        Cause::MailboxSize => "archive mail, or look at its index and at new mail that is not indexed",
        Cause::Server => "its events tell whether it is disk, lock, CPU or size ([server_events])",
        Cause::Unknown => "look at the steps above",
    }
}

#[cfg(test)]
mod tests {
    use imaptrace_record::Seconds;

    use super::*;
    use crate::terminal::samples;

    const PLAIN: Style = Style { width: 100, colour: false, ascii: true };

    fn with(cause: Cause, share: f64, second: Option<Cause>) -> Run {
        let verdict = Verdict {
            cause,
            share,
            second,
            step: None,
            excess_s: Seconds::from_micros(900_000),
            evidence: vec!["SELECT: 900 ms".to_owned(), "more".to_owned()],
            against: Vec::new(),
            usual_latency_s: None,
            usual_rtt_s: None,
            usual_messages: None,
        };
        Run { verdict: Some(Box::new(verdict)), ..samples::passed() }
    }

    #[test]
    fn a_cause_is_named_as_surely_as_it_is_known() {
        let line = |run: &Run| cause_hint(run, PLAIN).unwrap();
        let sure = line(&with(Cause::Lock, 0.9, None));
        assert_eq!(
            sure,
            "a lock on the mailbox - SELECT: 900 ms; look at other sessions, deliveries and backups of this mailbox \
             (lsof, doveadm who); docs/runbooks/cause-lock.md"
        );
        assert!(line(&with(Cause::Lock, 0.55, None)).starts_with("probably a lock on the mailbox - "));
        let two = line(&with(Cause::AuthBackend, 0.49, Some(Cause::Limit)));
        assert!(two.starts_with("the authentication back end, or a limit of the server - "), "{two}");
        assert_eq!(cause_hint(&samples::passed(), PLAIN), None);
    }

    #[test]
    fn every_cause_has_a_name_and_a_remedy_in_ascii() {
        let lines: Vec<_> =
            Cause::ALL.iter().map(|cause| cause_hint(&with(*cause, 1.0, None), PLAIN).unwrap()).collect();
        let distinct: std::collections::BTreeSet<_> = lines.iter().collect();
        assert!(lines.iter().all(|line| line.is_ascii()) && distinct.len() == Cause::ALL.len());
        for (line, cause) in lines.iter().zip(Cause::ALL) {
            assert!(line.ends_with(&format!("; docs/runbooks/cause-{}.md", cause.as_str())), "{line}");
        }
    }
}

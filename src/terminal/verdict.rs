//! The verdict of a kept run in full: cause, share, and all evidence for and against. The waterfall's `→` line is shorter.
//! Called by `kept` and `markdown`.

use imaptrace_record::{Run, Seconds, Verdict};

use super::{
    Style,
    text::{duration, safe},
};

/// The facts of the verdict, each with its name; none without a verdict.
pub(super) fn verdict_facts(run: &Run, style: Style) -> Vec<(&'static str, String)> {
    let Some(verdict) = run.verdict.as_deref() else { return Vec::new() };
    let mut facts = vec![("Cause", cause(verdict, style))];
    let usual = [
        verdict.usual_latency_s.map(|time| format!("First Loading Latency {}", duration(time, style))),
        verdict.usual_rtt_s.map(|time| format!("round trip {}", duration(time, style))),
        verdict.usual_messages.map(|count| format!("{count} messages")),
    ];
    let usual: Vec<_> = usual.into_iter().flatten().collect();
    facts.extend((!usual.is_empty()).then(|| ("Usual", usual.join(", "))));
    facts.extend(verdict.evidence.iter().map(|text| ("For", safe(text, style))));
    facts.extend(verdict.against.iter().map(|text| ("Against", safe(text, style))));
    facts
}

/// `probably lock in SELECT, 48 % of 1.20 s over the usual; next disk`.
fn cause(verdict: &Verdict, style: Style) -> String {
    let probably = if verdict.is_probable() { "probably " } else { "" };
    let step = verdict.step.as_ref().map(|step| format!(" in {}", safe(step.as_str(), style))).unwrap_or_default();
    // A file may hold any number.
    let share = (verdict.share.clamp(0.0, 1.0) * 100.0).round();
    let over = if verdict.excess_s > Seconds::ZERO {
        let usual = if verdict.usual_latency_s.is_some() { " over the usual" } else { "" };
        format!(", {share} % of {}{usual}", duration(verdict.excess_s, style))
    } else {
        format!(", {share} %")
    };
    let second = verdict.second.map(|second| format!("; next {}", second.as_str())).unwrap_or_default();
    format!("{probably}{}{step}{over}{second}", verdict.cause.as_str())
}

#[cfg(test)]
mod tests {
    use imaptrace_record::Cause;

    use super::*;
    use crate::terminal::{kept, markdown, samples};

    const PLAIN: Style = Style { width: 60, colour: false, ascii: true };

    fn judged(share: f64) -> Run {
        let verdict = Verdict {
            cause: Cause::Lock,
            share,
            second: Some(Cause::Disk),
            step: Some("SELECT".into()),
            excess_s: Seconds::from_micros(1_200_000),
            evidence: vec!["lock_wait 1.10 s of 1.20 s".to_owned(), "a\x1b[31mb".to_owned()],
            against: vec!["`|@all".to_owned()],
            usual_latency_s: Some(Seconds::from_micros(53_400)),
            usual_rtt_s: None,
            usual_messages: Some(200),
        };
        Run { verdict: Some(Box::new(verdict)), ..samples::slow_fetch() }
    }

    #[test]
    fn a_verdict_has_its_share_and_all_evidence_for_and_against() {
        let page = kept(judged(0.48), "-", PLAIN);
        let lines = [
            "cause    probably lock in SELECT, 48 % of 1.20 s over the",
            "         usual; next disk",
            "usual    First Loading Latency 53.4 ms, 200 messages",
            "for      lock_wait 1.10 s of 1.20 s",
            "for      a\\x1b[31mb",
            "against  `|@all",
        ];
        assert!(page.ends_with(&(lines.join("\n") + "\n")), "{page}");
        let page = markdown(judged(0.48));
        let lines = [
            "- Cause: `probably lock in SELECT, 48 % of 1.20 s over the usual; next disk`",
            "- For: `lock_wait 1.10 s of 1.20 s`",
            "- Against: `\\x60\\x7c@all`",
        ];
        assert!(lines.iter().all(|line| page.lines().any(|found| found == *line)), "{page}");
        assert_eq!(verdict_facts(&samples::slow_fetch(), PLAIN), []);
    }

    #[test]
    fn a_share_of_a_file_is_between_none_and_all_and_its_texts_are_few_and_short() {
        for (share, shown) in [(1e308, "100 %"), (-1e308, "0 %"), (0.804, "80 %")] {
            let facts = verdict_facts(&judged(share), PLAIN);
            assert!(facts[0].1.contains(&format!(", {shown} of")), "{facts:?}");
        }
        let mut run = judged(0.9);
        run.verdict.as_mut().unwrap().evidence = vec!["x".repeat(1 << 20); 100];
        let page = kept(run, "-", PLAIN);
        assert!(page.len() < 8_000 && page.contains("not shown: 95 more texts of the verdict"), "{page}");
    }
}

//! Runs and comparisons in Markdown (GitHub's), for a ticket or a chat.
//!
//! Text of servers and files stands in code spans only, so that it makes no link, no mention and no formatting. Called by `cli`
//! for `show`.

use std::fmt::Write as _;

use imaptrace_record::{Run, RunOutcome, ServerText, Step, StepOutcome};

use super::{
    Style,
    comparison::{ComparedRun, ComparedTime, Comparison},
    comparison_text::{difference, ratio},
    failure::{endpoint, outcome_text},
    hints::failure_hint,
    inner_rows::{InnerRow, InnerRows, reporters},
    kept::bounded,
    table::{doubtful, label, slowest},
    text::{duration, safe, size, times},
    verdict::verdict_facts,
    wait_hints::wait_hint,
    waterfall::{delays, doubts, security},
};

/// Markdown is UTF-8 of any width.
const STYLE: Style = Style { width: usize::MAX, colour: false, ascii: false };

/// A run: its result, a table of its steps, and the facts beside the times.
pub fn markdown(run: Run) -> String {
    let (run, cut) = bounded(run);
    let run = &run;
    let mut page = format!(
        "### {}: {}, {} {} UTC\n\n",
        code(&format!("{}/{}", run.target, run.account)),
        run.outcome.as_str(),
        run.started_at.date(),
        run.started_at.time_of_day()
    );
    let latency = run.first_loading_latency_s.map_or_else(
        || "No First Loading Latency".to_owned(),
        |latency| format!("First Loading Latency **{}**", doubtful(latency, run.is_latency_uncertain(), STYLE)),
    );
    let row = run.first_row_s.map(|row| format!(", first row {}", duration(row, STYLE))).unwrap_or_default();
    write!(page, "{latency}{row}, run {}\n\n", duration(run.duration_s, STYLE)).unwrap_or(());
    let mut facts = Vec::new();
    if run.outcome != RunOutcome::Passed {
        facts.push(("Failure", outcome_text(run, STYLE)));
        facts.extend(run.error_type.map(|class| ("Try", failure_hint(run, class, STYLE).into_owned())));
    }
    facts.extend(wait_hint(run, STYLE).map(|hint| ("Hint", hint)));
    facts.extend(verdict_facts(run, STYLE));
    facts.extend(doubts(run, STYLE).map(|doubts| ("Timing", doubts)));
    facts.extend(delays(run, STYLE).map(|delays| ("Delayed", delays)));
    let peer = run.server.peer.map(|peer| format!(" ({})", peer.ip())).unwrap_or_default();
    facts.push(("Server", format!("{}{peer}, {}", endpoint(run, STYLE), security(run, STYLE))));
    let id = [&run.server.id_name, &run.server.id_version].into_iter().flatten();
    let id: Vec<_> = id.map(ServerText::as_str).collect();
    facts.extend((!id.is_empty()).then(|| ("Software", id.join(" "))));
    facts.extend(run.server.rtt_min_s.map(|rtt| ("Round trip", duration(rtt, STYLE))));
    facts.extend(reporters(run, STYLE).map(|words| ("Events", words)));
    facts.push(("Trace", run.trace_id.to_string()));
    if !run.steps.is_empty() {
        page.push_str("| Step | Took | Usual | Server | Network | Transfer | Received | Status | |\n");
        page.push_str("|:--|--:|--:|--:|--:|--:|--:|:--|:--|\n");
        for step in &run.steps {
            row_of(run, step, &mut page);
        }
        page.push('\n');
    }
    inside(run, &mut page);
    for (name, text) in facts {
        writeln!(page, "- {name}: {}", code(&text)).unwrap_or(());
    }
    if let Some(cut) = cut {
        writeln!(page, "- {cut}").unwrap_or(());
    }
    page
}

/// A second table, of the inside of the steps, where anything is known of it.
fn inside(run: &Run, page: &mut String) {
    let rows = InnerRows::of(run, STYLE);
    if rows.all().next().is_none() {
        return;
    }
    page.push_str("| Inside | What | From | Took | |\n|:--|:--|--:|--:|:--|\n");
    let mut line = |of: &str, row: &InnerRow| {
        let from = row.times.map(|(from, _)| duration(from, STYLE)).unwrap_or_default();
        // The time between a sum's samples is in its facts.
        let took = row.times.map(|_| duration(row.took, STYLE)).unwrap_or_default();
        let cells = [code(of), code(&row.name), from, took, code(&row.facts.join(", "))];
        writeln!(page, "| {} |", cells.join(" | ")).unwrap_or(());
    };
    for (index, step) in run.steps.iter().enumerate() {
        rows.of_step(index).iter().for_each(|row| line(&label(step, STYLE), row));
    }
    rows.of_session().iter().for_each(|row| line("session", row));
    page.push('\n');
}

fn row_of(run: &Run, step: &Step, page: &mut String) {
    let took = match step.outcome {
        StepOutcome::Skipped => "skipped".to_owned(),
        StepOutcome::Failed if !step.was_started() => "unsent".to_owned(),
        _ => doubtful(step.duration_s, step.uncertain == Some(true), STYLE),
    };
    let is_slowest = slowest(run).is_some_and(|slowest| std::ptr::eq(slowest, step));
    let took = if is_slowest { format!("**{took}**") } else { took };
    let times_of = |time: Option<_>| time.map(|time| duration(time, STYLE)).unwrap_or_default();
    let status = [step.status.map(|status| status.to_string()), step.code.map(|code| format!("[{code}]"))];
    let status = status.into_iter().flatten().collect::<Vec<_>>().join(" ");
    let mut marks = Vec::new();
    if run.failing_step().is_some_and(|failing| std::ptr::eq(failing, step)) {
        marks.push("failed".to_owned());
    } else if step.outcome == StepOutcome::Failed {
        marks.push("failed, not decisive".to_owned());
    }
    if step.slow == Some(true) {
        let ratio = step.ratio.map(|ratio| format!(" {}", times(ratio, STYLE))).unwrap_or_default();
        marks.push(format!("slow{ratio}"));
    }
    let cells = [
        code(&label(step, STYLE)),
        took,
        times_of(step.baseline_s),
        times_of(step.server_s),
        times_of(step.network_s),
        times_of(step.transfer_s),
        step.received_bytes.map(size).unwrap_or_default(),
        code(&status),
        marks.join(", "),
    ];
    writeln!(page, "| {} |", cells.join(" | ")).unwrap_or(());
}

/// A comparison: both runs, a table of the times, and what else differs.
pub fn comparison_markdown(comparison: &Comparison) -> String {
    let mut page = String::from("| | Run | Started (UTC) | Outcome | Trace |\n|:--|:--|:--|:--|:--|\n");
    for (name, run) in [("A", &comparison.a), ("B", &comparison.b)] {
        let ComparedRun { target, account, started_at, outcome, trace_id, .. } = run;
        writeln!(
            page,
            "| {name} | {} | {} {} | {} | `{trace_id}` |",
            code(&format!("{target}/{account}")),
            started_at.date(),
            started_at.time_of_day(),
            outcome.as_str()
        )
        .unwrap_or(());
    }
    page.push_str("\n| | A | B | B - A | B / A | Mostly |\n|:--|--:|--:|--:|--:|:--|\n");
    for time in &comparison.times {
        let of = |side: Option<_>| side.map_or_else(|| "-".to_owned(), |time| duration(time, STYLE));
        let ComparedTime { a_s, b_s, .. } = time;
        let mostly = time.mostly().map(|(part, by)| format!("{} {}", part.name(), difference(by, STYLE)));
        writeln!(
            page,
            "| {} | {} | {} | {} | {} | {} |",
            code(&time.label()),
            of(*a_s),
            of(*b_s),
            time.difference().map(|by| difference(by, STYLE)).unwrap_or_default(),
            time.ratio.map(|by| ratio(by, STYLE)).unwrap_or_default(),
            mostly.unwrap_or_default()
        )
        .unwrap_or(());
    }
    if !comparison.changed.is_empty() {
        page.push_str("\n| Changed | A | B |\n|:--|:--|:--|\n");
    }
    for change in &comparison.changed {
        let of = |side: &Option<String>| side.as_deref().map_or_else(|| "-".to_owned(), code);
        writeln!(page, "| {} | {} | {} |", change.what, of(&change.a), of(&change.b)).unwrap_or(());
    }
    page
}

/// A code span that ends nowhere inside and breaks no table.
fn code(text: &str) -> String {
    let text = safe(text, STYLE).replace('`', "\\x60").replace('|', "\\x7c");
    if text.trim().is_empty() { String::new() } else { format!("`{}`", text.trim()) }
}

#[cfg(test)]
mod tests {
    use imaptrace_record::StepName;
    use proptest::prelude::*;

    use super::*;
    use crate::terminal::samples;

    #[test]
    fn the_cases_that_users_meet_look_like_this() {
        let reported = crate::terminal::server_samples::reported(samples::slow_fetch());
        let pages = [
            ("slow_fetch", samples::slow_fetch()),
            ("login_refused", samples::login_refused()),
            ("reported", reported),
        ];
        for (name, run) in pages {
            insta::assert_snapshot!(name, markdown(run));
        }
        let comparison = Comparison::new(samples::passed(), samples::slow_fetch());
        insta::assert_snapshot!("comparison", comparison_markdown(&comparison));
    }

    #[test]
    fn text_of_others_is_in_code_spans_alone() {
        let hostile = "`|@all https://x.example <img src=x> **b** [a](b)\n# c";
        let mut run = samples::login_refused();
        run.target = hostile.to_owned();
        run.server.id_name = Some(ServerText::new(hostile.as_bytes(), 256));
        run.server.address = hostile.to_owned();
        run.steps[4].mailbox = Some(hostile.to_owned());
        run.steps[3].name = StepName::Other(hostile.to_owned());
        for step in &mut run.steps {
            step.text = Some(ServerText::new(hostile.as_bytes(), 256));
        }
        let comparison = comparison_markdown(&Comparison::new(samples::passed(), run.clone()));
        for page in [markdown(run), comparison] {
            for line in page.lines() {
                assert_eq!(line.matches('`').count() % 2, 0, "{line}");
                let outside: String = line.split('`').step_by(2).collect();
                for piece in ["@all", "https", "<img", "[a]", "# c"] {
                    assert!(!outside.contains(piece), "{line}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_table_has_as_many_cells_in_each_row_whatever_a_run_holds(run in samples::any_run()) {
            let page = markdown(run.clone());
            let lines: Vec<_> = page.lines().collect();
            for table in lines.split(|line| !line.starts_with('|')).filter(|table| !table.is_empty()) {
                let cells = |line: &str| line.matches('|').count();
                let head = cells(table[0]);
                prop_assert!(head == 10 || head == 6, "{}", table[0]);
                prop_assert!(table.iter().all(|line| cells(line) == head), "{table:?}");
            }
            let page = comparison_markdown(&Comparison::new(samples::passed(), run));
            prop_assert!(!page.contains(|character: char| character.is_control() && character != '\n'), "{page}");
        }
    }
}

//! Why a run was slow: the accounting of causes (docs/diagnosis.md).
//!
//! What a run took over its usual time is divided among causes. Each rule claims seconds of a step's excess by its evidence;
//! what is claimed is left to no other rule, so that the shares add up to 1 at most. The cause with the most seconds is the
//! verdict, and its share is how sure it is. A cause is named only where its evidence is in the record: `server` is as far
//! as times of the client alone lead.
//!
//! ```text
//! occasion       whether a run gets a verdict
//! ledger         the excess of each step, and what was claimed of it
//! server_side    what the server's events and processes report about each step
//! own_machine    imaptrace's own pauses
//! line           distance, bandwidth, loss
//! before_login   name, connection, TLS, greeting
//! login          authentication and the start of the session
//! commands       locks, size, CPU, disk
//! conclusion     the claims → the verdict
//! usual          what a run is compared with
//! wording        times in evidence
//! ```
//!
//! Pure: a run with its baselines in, a verdict out. Called by `agent` after `latency`, and by the example `diagnose`.

mod before_login;
mod commands;
mod conclusion;
mod ledger;
mod line;
mod login;
mod occasion;
mod own_machine;
mod server_side;
mod usual;
mod wording;

use imaptrace_record::{Cause, ErrorType, Run, RunOutcome, StepName, Verdict};

use self::{conclusion::conclude, ledger::Ledger, occasion::is_due, server_side::ServerSide};

/// Why the run was slow or failed; none when it was neither, or without anything to divide among causes.
///
/// It has to be compared with its baselines before ([`History::evaluate`](crate::latency::History::evaluate)).
pub fn diagnose(run: &Run) -> Option<Verdict> {
    if !is_due(run) {
        return None;
    }
    if let Some(certain) = certain(run) {
        return Some(certain);
    }
    let server = ServerSide::of(run);
    let mut ledger = Ledger::of(run);
    own_machine::claim_pauses(&mut ledger);
    before_login::claim_resolve(&mut ledger);
    line::claim_round_trips(&mut ledger, &server);
    before_login::claim_connect(&mut ledger);
    line::claim_counted_loss(&mut ledger);
    line::claim_transfer(&mut ledger, &server);
    line::claim_silent_loss(&mut ledger, &server);
    before_login::claim_handshake(&mut ledger, &server);
    login::claim_lookups(&mut ledger, &server);
    commands::claim(&mut ledger, &server);
    login::claim_hand_over(&mut ledger, &server);
    own_machine::claim_rest(&mut ledger, &server);
    ledger.claim_unknown();
    conclude(ledger)
}

/// A verdict that needs no accounting: a response of the server or a fault of this machine is the cause.
fn certain(run: &Run) -> Option<Verdict> {
    let step = run.failing_step();
    let name = step.map(|step| step.name.clone());
    if run.outcome == RunOutcome::Void {
        let class = run.error_type?;
        let text = format!("this run was void: {class}");
        return Some(conclusion::single(run, Cause::Prober, name, text));
    }
    if run.error_type == Some(ErrorType::LimitServer) {
        let code = step.and_then(|step| step.code).map(|code| format!(" [{code}]")).unwrap_or_default();
        let command = name.as_ref().map_or("the command", StepName::as_str);
        return Some(conclusion::single(
            run,
            Cause::Limit,
            name.clone(),
            format!("the server refused {command}{code}"),
        ));
    }
    // Such a run is not compared with its baselines.
    if run.is_latency_delayed() {
        let delay = wording::time(run.delayed_s.unwrap_or_default().as_f64());
        return Some(conclusion::single(run, Cause::Prober, None, format!("imaptrace itself did not run for {delay}")));
    }
    None
}

#[cfg(test)]
mod tests;

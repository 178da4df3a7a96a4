//! Rules for imaptrace itself: its pauses inside steps and between them. Called by `diagnose`, first and last.

use imaptrace_record::{Cause, Seconds};

use super::{before_login::is_login_storm, ledger::Ledger, line::is_same_host, server_side::ServerSide, wording::time};

/// Claims the pauses inside steps that were noticed at the time.
pub(super) fn claim_pauses(ledger: &mut Ledger<'_>) {
    for at in 0..ledger.entries.len() {
        let name = ledger.entries[at].name().to_owned();
        let delayed = ledger.entries[at].step.delayed_s.map_or(0.0, Seconds::as_f64);
        ledger.claim(at, Cause::Prober, delayed, |seconds| {
            format!("{name}: imaptrace did not run for {}", time(seconds))
        });
    }
}

/// Claims the time between the steps.
pub(super) fn claim_rest(ledger: &mut Ledger<'_>, server: &ServerSide<'_>) {
    let pauses = time(ledger.pauses);
    // On one machine with the server the same shortage of CPUs makes both wait.
    if is_same_host(ledger.run) && is_login_storm(ledger, server) {
        ledger.claim_pauses(Cause::Tls, format!("imaptrace on the same host waited for {pauses}, too"));
        return;
    }
    ledger.claim_pauses(Cause::Prober, format!("imaptrace itself took {pauses} more than usual between the steps"));
}

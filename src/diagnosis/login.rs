//! Rules for the login: lookups of the authentication, its penalties, and the start of the session after it. Called by
//! `diagnose`.

use imaptrace_record::{Cause, StepOutcome};

use super::{
    ledger::{Ledger, QUEUE},
    server_side::{LoginTimes, ServerSide},
    usual::{has_new_certificate, usual_step},
    wording::{excess, time},
};

/// Dovecot's delays of a login from an address that has sent wrong passwords, in seconds.
const PENALTIES: [f64; 3] = [4.0, 8.0, 15.0];
/// How exactly the delay has to be met where the server reports nothing, in seconds.
const EXACT: f64 = 0.05;
/// Other waits of the server in this proportion to the login's mean that it lacks more than processes.
const ELSEWHERE: f64 = 0.25;
/// A process that waits for a CPU for more than this part of the login's excess explains it.
const STARVED: f64 = 0.4;
/// A slow handshake of more than this part of the login's excess explains the login, too.
const OF_HANDSHAKE: f64 = 0.5;
/// The parts of the excess that a back end and a process limit get where nothing distinguishes them: neither is half.
const BACKEND_PART: f64 = 0.49;
const LIMIT_PART: f64 = 0.48;
/// A delay beside the lookups from this on.
const DELAY: f64 = 0.02;

/// Claims lookups and delays that the server reports.
pub(super) fn claim_lookups(ledger: &mut Ledger<'_>, server: &ServerSide<'_>) {
    let (Some(at), Some(LoginTimes { lookups, delay, .. })) = (ledger.login(), server.login) else { return };
    let name = ledger.entries[at].name().to_owned();
    let usual = ledger.entries[at].usual;
    if lookups > usual {
        ledger.claim(at, Cause::AuthBackend, lookups - usual, |_| {
            format!("{name}: lookups of password and user took {}", time(lookups))
        });
    }
    if delay > DELAY {
        ledger.claim(at, Cause::AuthPenalty, delay, |seconds| {
            format!("{name}: the auth process held it back for {} beside its lookups", time(seconds))
        });
    }
}

/// Claims what the login took beside its lookups: the hand-over to the process that serves the session.
pub(super) fn claim_hand_over(ledger: &mut Ledger<'_>, server: &ServerSide<'_>) {
    let Some(at) = ledger.login() else { return };
    let left = ledger.entries[at].left;
    if left <= 0.0 {
        return;
    }
    if server.is_reported() {
        claim_reported(ledger, server, at);
    } else {
        claim_alone(ledger, at);
    }
}

fn claim_reported(ledger: &mut Ledger<'_>, server: &ServerSide<'_>, at: usize) {
    let (left, name) = (ledger.entries[at].left, ledger.entries[at].name().to_owned());
    let of = |causes: &[Cause]| causes.iter().map(|cause| ledger.claimed(*cause)).sum::<f64>();
    let work = [Cause::Lock, Cause::Disk, Cause::MailboxSize];
    let elsewhere = of(&[Cause::ServerCpu, Cause::Server]) + of(&work);
    let cpu_is_first = work.iter().all(|cause| of(&[*cause]) <= of(&[Cause::ServerCpu]));
    let queue = server.run_queue_in(&ledger.entries[at]);
    // Until there was a process. Without a look-up of it nothing shows that none was free.
    let until_process = server.login.and_then(|login| login.until_process).unwrap_or_default().min(left);
    if has_new_certificate(ledger.run) && ledger.claimed(Cause::Tls) >= left {
        // The login process that is late with the handshake hands over, too.
        claim_rest(ledger, at);
    } else if let Some(queue) = queue.filter(|queue| *queue > STARVED * left) {
        ledger.claim(at, Cause::ServerCpu, f64::MAX, |_| {
            format!("{name}: a process waited for a CPU for {}", time(queue))
        });
    } else if ledger.claimed(Cause::Tls) > elsewhere.max(OF_HANDSHAKE * left) {
        claim_rest(ledger, at);
    } else if elsewhere > ELSEWHERE * left {
        if cpu_is_first && of(&[Cause::ServerCpu]) > 0.0 {
            ledger.claim(at, Cause::ServerCpu, f64::MAX, |seconds| {
                format!("{name}: {} beside its lookups, as other steps", time(seconds))
            });
        } else {
            claim_rest(ledger, at);
        }
    } else {
        if until_process > QUEUE {
            ledger.claim(at, Cause::Limit, until_process, |seconds| {
                format!("{name}: {} from the authentication to the session: no imap process was free", time(seconds))
            });
        }
        claim_rest(ledger, at);
    }
}

fn claim_rest(ledger: &mut Ledger<'_>, at: usize) {
    let (name, usual) = (ledger.entries[at].name().to_owned(), ledger.entries[at].usual);
    ledger
        .claim_weak(at, Cause::Server, f64::MAX, |seconds| format!("{name}: {} in the server", excess(seconds, usual)));
}

/// Without a word of the server.
fn claim_alone(ledger: &mut Ledger<'_>, at: usize) {
    let entry = &ledger.entries[at];
    let (left, name, step) = (entry.left, entry.name().to_owned(), entry.step);
    let usual = usual_step(step).unwrap_or_default().as_f64();
    let over = step.duration_s.as_f64() - usual;
    let is_dovecot = ledger.run.server.id_name.as_ref().is_none_or(|name| name.as_str() == "Dovecot");
    let penalty = PENALTIES.iter().find(|penalty| (over - **penalty).abs() <= EXACT);
    let elsewhere = ledger.claimed(Cause::Server);
    if let Some(penalty) = penalty.filter(|_| is_dovecot && step.outcome == StepOutcome::Passed) {
        ledger.claim(at, Cause::AuthPenalty, f64::MAX, |_| {
            format!("{name}: exactly {penalty} s: Dovecot's delay after wrong passwords from this address")
        });
    } else if left < QUEUE || elsewhere > ELSEWHERE * left {
        if left < QUEUE && elsewhere <= ELSEWHERE * left {
            claim_rest(ledger, at);
        } else {
            ledger.claim(at, Cause::Server, f64::MAX, |seconds| {
                format!("{name}: {} in the server, as other steps", excess(seconds, usual))
            });
        }
    } else {
        // Its back end and a full process limit look alike from outside.
        ledger.claim(at, Cause::AuthBackend, BACKEND_PART * left, |_| {
            format!("{name}: {}: its back end, or", excess(left, usual))
        });
        ledger.claim(at, Cause::Limit, LIMIT_PART * left, |_| {
            format!("{name}: no process was free for the session; events of the server would tell")
        });
    }
}

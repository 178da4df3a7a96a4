//! Rules for what comes before the first command: name, connection, TLS handshake, greeting. Called by `diagnose`.

use imaptrace_record::{Cause, Seconds, SetupStep, StepOutcome};

use super::{
    ledger::{Ledger, QUEUE},
    server_side::{LoginProcesses, ServerSide},
    usual::has_new_certificate,
    wording::{excess, time},
};

/// What a connection takes beside its round trip up to this is as usual.
const LATE_CONNECTION: f64 = 0.005;
/// Handshake and greeting that are late by no more together are as usual.
const LATE_HANDSHAKE: f64 = 0.003;
/// The imap process waits for a CPU, too, if it does so for this part of the login process's wait.
const LIKEWISE: f64 = 0.3;
/// Part of the excess in which a process has to wait for a CPU to explain it.
const STARVED: f64 = 0.6;
/// Commands that are late by less than this part of the handshake's excess are as usual.
const MOST: f64 = 0.5;
/// The greeting is quick if its excess is less than this part of the handshake's: a login process that took the connection and
/// lacks CPU is late with both.
const QUICK: f64 = 0.15;
/// Commands that are late outside the server's own time by this part of handshake and greeting lack CPU as these do …
const LATE: f64 = 0.35;
/// … if it is more than noise.
const LEAST: f64 = 0.015;
/// Login processes that use this part of a core, several of them, are busy with handshakes of others; one of them has to use more.
const STORM: f64 = 0.09;
const STORM_OF_ONE: f64 = 0.2;
/// They also wait for a CPU, for at least this part of what they use.
const STORM_QUEUE: f64 = 0.3;
/// The part of that CPU time that the second of several has at least.
const SECOND: f64 = 0.1;

/// Claims the excess of the name's resolution.
pub(super) fn claim_resolve(ledger: &mut Ledger<'_>) {
    if let Some(at) = ledger.setup(SetupStep::Resolve) {
        let usual = ledger.entries[at].usual;
        ledger.claim(at, Cause::Dns, f64::MAX, |seconds| format!("the name server took {}", excess(seconds, usual)));
    }
}

/// Claims what the connection took beside a round trip: the kernel answers for the server, so it is our own machine unless a
/// segment was sent again.
pub(super) fn claim_connect(ledger: &mut Ledger<'_>) {
    let Some(at) = ledger.setup(SetupStep::Connect) else { return };
    let entry = &ledger.entries[at];
    let (left, step) = (entry.left, entry.step);
    if step.retransmits.unwrap_or_default() > 0 {
        ledger.claim(at, Cause::Loss, f64::MAX, |seconds| {
            format!("connect: the first segment was sent again, {} later than usual", time(seconds))
        });
    } else if step.outcome != StepOutcome::Passed {
        ledger.claim(at, Cause::Unknown, f64::MAX, |_| "connect: nothing answered".to_owned());
    } else if left > LATE_CONNECTION {
        let round_trip = step.rtt_min_s.map_or(0.0, Seconds::as_f64);
        ledger.claim(at, Cause::Prober, left - round_trip, |seconds| {
            format!(
                "connect: {} beside a round trip of {}, and nothing was sent again",
                time(seconds),
                time(round_trip)
            )
        });
    }
}

/// Claims the excess of handshake and greeting.
pub(super) fn claim_handshake(ledger: &mut Ledger<'_>, server: &ServerSide<'_>) {
    let (tls, greeting) = (ledger.setup(SetupStep::Tls), ledger.setup(SetupStep::Greeting));
    let left = |at: Option<usize>| at.map_or(0.0, |at| ledger.entries[at].left);
    let (of_tls, of_greeting) = (left(tls), left(greeting));
    let both = of_tls + of_greeting;
    if both <= LATE_HANDSHAKE {
        return;
    }
    let others = ledger.left(&ledger.commands());
    let failed = |at: Option<usize>| at.is_some_and(|at| ledger.entries[at].step.outcome == StepOutcome::Failed);
    let queue = run_queue(ledger, server, [tls, greeting]);
    let starved = queue.is_some_and(|queue| queue > STARVED * both);
    let of_imap = server.imap(None).map(|imap| imap.run_queue);
    let key = tls.and_then(|at| ledger.entries[at].step.tls.as_ref()?.key.clone());
    let waited = time(queue.unwrap_or_default());
    let outside = late_outside(ledger, server);
    let has_failed = failed(tls) || failed(greeting);
    let is_queue = !has_failed && of_tls > QUEUE && of_greeting < QUICK * of_tls && others < MOST * of_tls;
    let (cause, evidence): (Cause, String) = if tls.is_some() && has_new_certificate(ledger.run) {
        let key = key.map(|key| format!(", {key}")).unwrap_or_default();
        (Cause::Tls, format!("handshake and greeting are slow since the certificate is new{key}"))
    } else if tls.is_some() && is_queue && !starved && outside <= LATE * both {
        (Cause::Limit, "the handshake began late and its greeting came at once: no login process took it".to_owned())
    } else if is_login_storm(ledger, server) {
        (Cause::Tls, storm_text(server))
    } else if starved
        && (has_failed || tls.is_none() || of_imap.is_some_and(|imap| imap > LIKEWISE * queue.unwrap_or_default()))
    {
        (Cause::ServerCpu, format!("a login process waited for a CPU for {waited}"))
    } else if starved {
        (Cause::Tls, format!("a login process waited for a CPU for {waited}, and the imap process did not"))
    } else if has_failed {
        if queue.is_some() && failed(tls) {
            (Cause::Limit, "no login process took the connection, and none of them waited for a CPU".to_owned())
        } else {
            (
                Cause::Server,
                "before the login: its login processes are at a limit, stand still or lack a CPU".to_owned(),
            )
        }
    } else if outside > LATE * both && outside > LEAST {
        (Cause::ServerCpu, format!("commands are late, too: {} outside the server's own time", time(outside)))
    } else if tls.is_none() && of_greeting > QUEUE && of_greeting > others {
        (Cause::Limit, "the connection was open and no greeting came: no login process took it".to_owned())
    } else if tls.is_some() && others < MOST * both {
        (Cause::Tls, "handshake and greeting are slow, and the commands are not".to_owned())
    } else {
        (Cause::Server, "handshake or greeting are slow, and commands too".to_owned())
    };
    for at in [tls, greeting].into_iter().flatten() {
        let (name, usual) = (ledger.entries[at].name().to_owned(), ledger.entries[at].usual);
        ledger.claim(at, cause, f64::MAX, |seconds| format!("{name}: {}; {evidence}", excess(seconds, usual)));
    }
}

/// How long commands took outside the time that the server's events report for them.
fn late_outside(ledger: &Ledger<'_>, server: &ServerSide<'_>) -> f64 {
    let others = ledger.other_commands().into_iter().map(|at| &ledger.entries[at]);
    others.filter(|entry| server.command(entry).is_some()).filter_map(|entry| server.outside(entry)).sum()
}

/// How long a login process waited for a CPU in these steps; in all of the run where no sample lies near their ends.
fn run_queue(ledger: &Ledger<'_>, server: &ServerSide<'_>, places: [Option<usize>; 2]) -> Option<f64> {
    let in_steps = places.into_iter().flatten().filter_map(|at| server.run_queue_in(&ledger.entries[at]));
    in_steps.reduce(|one, other| one + other).or_else(|| server.login_processes().map(|all| all.longest_queue))
}

/// Whether login processes themselves use up the CPUs, with handshakes of others.
pub(super) fn is_login_storm(ledger: &Ledger<'_>, server: &ServerSide<'_>) -> bool {
    let has_tls = ledger.setup(SetupStep::Tls).is_some();
    server.login_processes().is_some_and(|all| {
        let LoginProcesses { cpu, second_cpu, run_queue, sampled, .. } = all;
        let several = cpu >= STORM * sampled && second_cpu >= SECOND * cpu;
        has_tls && cpu > 0.0 && run_queue >= STORM_QUEUE * cpu && (several || cpu >= STORM_OF_ONE * sampled)
    })
}

/// What shows a storm of handshakes.
pub(super) fn storm_text(server: &ServerSide<'_>) -> String {
    let LoginProcesses { cpu, sampled, .. } = server.login_processes().unwrap_or_default();
    format!("login processes used {} of CPU in {}: handshakes of others", time(cpu), time(sampled))
}

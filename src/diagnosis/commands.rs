//! Commands in the server: locks, the size of the mailbox, CPU, disk.
//!
//! `running = CPU + run queue + lock + rest`, and the rest is storage. The running time and the lock are those of the server's
//! events, CPU and run queue those of `/proc`. Without processes the rest of the running time is storage unless the server is late
//! outside its commands too. Without events there is only `server`. Called by `diagnose`.

use imaptrace_record::{Cause, SetupStep, SpanId, StepOutcome};

use super::{
    before_login::{is_login_storm, storm_text},
    ledger::Ledger,
    server_side::{ImapProcess, ServerSide},
    usual::{has_new_certificate, usual_messages},
    wording::{excess, time},
};

/// A wait for locks up to this is as usual.
const LOCK: f64 = 0.002;
/// A mailbox is large from so many messages on …
const LARGE: u64 = 20_000;
/// … or with so many times the usual number, and no fewer than this.
const TIMES_USUAL: u64 = 3;
const NOT_SMALL: u64 = 2_000;
/// Part of the running time without waits for a CPU that the CPU has to be in a large mailbox.
const CPU_PART: f64 = 0.25;
/// Gaps outside of commands in this proportion to all mean that the running time is a wait for a CPU, too.
const GAPS: f64 = 0.22;
/// And of at least this length.
const LEAST_GAPS: f64 = 0.015;

/// A handshake that is late by this part of the gaps outside of commands, or more, explains them.
const OF_HANDSHAKE: f64 = 0.5;
/// The session's start before its process and the running time that are late in such a proportion are late alike: the start by more
/// than this part of the running time, …
const START_PART: f64 = 0.6;
/// … and the running time by more than this part of the start.
const RUNNING_PART: f64 = 0.25;
/// A login process that waits for a CPU for so many times the imap process's wait …
const TIMES_IMAP: f64 = 2.0;
/// … and for more than this part of what is left of the commands delays them.
const OF_COMMANDS: f64 = 0.5;

/// The excess of each command in the server's running time and outside it.
struct Parts {
    /// Places of the commands that the server reported.
    places: Vec<usize>,
    running: Vec<f64>,
    /// Outside the running time.
    gaps: f64,
    /// Commands whose own time is in their tagged line alone, with its excess: whether they waited for a lock is not known.
    unreported: Vec<(usize, f64)>,
}

/// Claims what the commands beside the login took.
pub(super) fn claim(ledger: &mut Ledger<'_>, server: &ServerSide<'_>) {
    let others = ledger.other_commands();
    if !server.is_reported() {
        return claim_alone(ledger, server, &others);
    }
    claim_locks(ledger, server, &others);
    let mut parts = Parts::of(ledger, server, &others);
    claim_unreported(ledger, &parts);
    claim_for_login_process(ledger, server, &mut parts);
    let login = ledger.login().and_then(|at| ledger.entries[at].span());
    match server.imap(login) {
        Some(imap) => claim_by_process(ledger, server, imap, &parts),
        None => claim_by_events(ledger, server, &parts),
    }
    claim_gaps(ledger, server, &parts, login);
}

impl Parts {
    fn of(ledger: &Ledger<'_>, server: &ServerSide<'_>, others: &[usize]) -> Self {
        let mut parts = Self { places: Vec::new(), running: Vec::new(), gaps: 0.0, unreported: Vec::new() };
        for at in others {
            let entry = &ledger.entries[*at];
            let event = server.command(entry).map(|times| times.running - times.lock);
            let Some(own) = event.or_else(|| server.own_time(entry)) else { continue };
            let running = (own - entry.usual).clamp(0.0, entry.left);
            parts.gaps += entry.left - running;
            if event.is_some() {
                parts.places.push(*at);
                parts.running.push(running);
            } else {
                parts.unreported.push((*at, running));
            }
        }
        parts
    }

    fn all_running(&self) -> f64 {
        self.running.iter().sum()
    }
}

/// Claims with the times of the client alone.
fn claim_alone(ledger: &mut Ledger<'_>, server: &ServerSide<'_>, others: &[usize]) {
    let new_certificate = has_new_certificate(ledger.run) && ledger.claimed(Cause::Tls) > 0.0;
    for at in others {
        let (name, own) = (ledger.entries[*at].name().to_owned(), server.own_time(&ledger.entries[*at]));
        let usual = ledger.entries[*at].usual;
        if let Some(outside) = server.outside(&ledger.entries[*at]).filter(|_| new_certificate) {
            ledger.claim(*at, Cause::Tls, outside, |seconds| {
                format!("{name}: {} outside the command; its TLS goes through the same login process", time(seconds))
            });
        }
        let said = own.map(|own| format!(", {} as it reports", time(own))).unwrap_or_default();
        ledger.claim(*at, Cause::Server, f64::MAX, |seconds| {
            format!("{name}: {} in the server{said}: disk, lock or CPU; its events would tell", excess(seconds, usual))
        });
    }
}

/// Claims the own time of commands of which no event came.
fn claim_unreported(ledger: &mut Ledger<'_>, parts: &Parts) {
    for (at, running) in &parts.unreported {
        let name = ledger.entries[*at].name().to_owned();
        ledger.claim_weak(*at, Cause::Server, *running, |seconds| {
            format!("{name}: {} in the command, and the server sent no event for it: disk, lock or CPU", time(seconds))
        });
    }
}

fn claim_locks(ledger: &mut Ledger<'_>, server: &ServerSide<'_>, others: &[usize]) {
    for at in others {
        let Some(times) = server.command(&ledger.entries[*at]) else { continue };
        if times.lock > LOCK {
            let name = ledger.entries[*at].name().to_owned();
            let running = time(times.running);
            ledger.claim(*at, Cause::Lock, times.lock, |_| {
                format!("{name}: {} of {running} in the command it waited for a lock", time(times.lock))
            });
        }
    }
}

/// Gaps of commands whose connection goes through a login process that is slow: TLS is its work until the end.
fn claim_for_login_process(ledger: &mut Ledger<'_>, server: &ServerSide<'_>, parts: &mut Parts) {
    let storm = is_login_storm(ledger, server);
    let slow_handshake = ledger.claimed(Cause::Tls);
    let new_key =
        has_new_certificate(ledger.run) && slow_handshake >= OF_HANDSHAKE * parts.gaps && slow_handshake > 0.0;
    if !storm && !new_key {
        return;
    }
    let evidence = if storm { storm_text(server) } else { "its TLS goes through the same login process".to_owned() };
    for (at, running) in parts.places.iter().zip(&parts.running) {
        let entry = &ledger.entries[*at];
        let (gap, name) = (entry.left - running, entry.name().to_owned());
        ledger.claim(*at, Cause::Tls, gap, |seconds| {
            format!("{name}: {} outside the command; {evidence}", time(seconds))
        });
    }
    parts.gaps = 0.0;
    if storm {
        // Commands before the login have no events.
        for at in ledger.other_commands().into_iter().filter(|at| !parts.places.contains(at)) {
            let name = ledger.entries[at].name().to_owned();
            ledger.claim(at, Cause::Tls, f64::MAX, |seconds| format!("{name}: {}; {evidence}", time(seconds)));
        }
    }
}

/// Whether the mailbox holds unusually many messages, and how many.
fn large_mailbox(ledger: &Ledger<'_>) -> Option<(u64, Option<u64>)> {
    let messages = ledger.entries.iter().find_map(|entry| entry.step.mailbox_messages)?;
    let usual = usual_messages(ledger.run);
    let has_grown = usual.is_some_and(|usual| messages >= usual.saturating_mul(TIMES_USUAL) && messages > NOT_SMALL);
    (messages > LARGE || has_grown).then_some((messages, usual))
}

fn size_text(name: &str, seconds: f64, (messages, usual): (u64, Option<u64>)) -> String {
    let usual = usual.map(|usual| format!(", usually {usual}")).unwrap_or_default();
    format!("{name}: {} over the usual for {messages} messages{usual}", time(seconds))
}

/// Divides the running time by what the kernel counted for the process.
fn claim_by_process(ledger: &mut Ledger<'_>, server: &ServerSide<'_>, imap: ImapProcess, parts: &Parts) {
    let running = parts.all_running();
    if running <= 0.0 {
        return;
    }
    // A process that waits for a CPU before it reads the command does so outside of the command.
    let queue = (imap.run_queue - imap.run_queue.min(parts.gaps)).min(running);
    if let Some(size) = large_mailbox(ledger)
        && imap.cpu > CPU_PART * (running - imap.run_queue.min(running))
    {
        for (at, running) in parts.places.iter().zip(&parts.running) {
            let name = ledger.entries[*at].name().to_owned();
            ledger.claim(*at, Cause::MailboxSize, *running, |seconds| {
                format!("{}, {} of CPU", size_text(&name, seconds, size), time(imap.cpu))
            });
        }
        return;
    }
    let cpu = imap.cpu.min(running - queue);
    let storage = (running - queue - cpu) / running;
    for (at, running) in parts.places.iter().zip(&parts.running) {
        let name = ledger.entries[*at].name().to_owned();
        let opened = server.command(&ledger.entries[*at]).map_or(0, |times| times.opened);
        ledger.claim(*at, Cause::Disk, running * storage, |seconds| {
            disk_text(&name, seconds, opened, "neither lock nor CPU")
        });
        let (queue, cpu) = (time(queue), time(cpu));
        ledger.claim(*at, Cause::ServerCpu, running * (1.0 - storage), |seconds| {
            format!("{name}: {}; the imap process waited {queue} for a CPU and used {cpu}", time(seconds))
        });
    }
}

/// Divides the running time by events alone.
fn claim_by_events(ledger: &mut Ledger<'_>, server: &ServerSide<'_>, parts: &Parts) {
    let running = parts.all_running();
    let size = large_mailbox(ledger);
    // LOGOUT counts for no latency, and shows whether the server is late.
    let gaps = parts.gaps + server.late_logout(ledger.run);
    let is_late = gaps > LEAST_GAPS && gaps >= GAPS * (gaps + running);
    // What the session's process took before its first command.
    let hand_over = ledger.login().map_or(0.0, |at| ledger.entries[at].left);
    let start = hand_over - server.login.and_then(|login| login.until_process).unwrap_or_default();
    let starts_late = start > START_PART * running && running > RUNNING_PART * start;
    for (at, running) in parts.places.iter().zip(&parts.running) {
        let name = ledger.entries[*at].name().to_owned();
        let opened = server.command(&ledger.entries[*at]).map_or(0, |times| times.opened);
        if let Some(size) = size {
            ledger.claim(*at, Cause::MailboxSize, *running, |seconds| size_text(&name, seconds, size));
        } else if is_late || starts_late {
            ledger.claim(*at, Cause::ServerCpu, *running, |seconds| {
                format!("{name}: {} in the command, and other steps are late outside theirs", time(seconds))
            });
        } else {
            ledger.claim(*at, Cause::Disk, *running, |seconds| {
                disk_text(&name, seconds, opened, "not waiting for a lock")
            });
        }
    }
}

fn disk_text(name: &str, seconds: f64, opened: u64, other: &str) -> String {
    let mails = if opened > 0 { format!(", {opened} mails opened") } else { String::new() };
    format!("{name}: {} in the command, {other}{mails}", time(seconds))
}

/// Claims what is left of the commands: it passed before the server saw the command, or after it had answered.
fn claim_gaps(ledger: &mut Ledger<'_>, server: &ServerSide<'_>, parts: &Parts, login: Option<SpanId>) {
    let others = ledger.other_commands();
    let imap_queue = server.imap(login).map_or(0.0, |imap| imap.run_queue);
    let login_queue = server.login_processes().map_or(0.0, |all| all.longest_queue);
    let of_login_process = login_queue > TIMES_IMAP * imap_queue && login_queue > OF_COMMANDS * ledger.left(&others);
    for at in others {
        let entry = &ledger.entries[at];
        let name = entry.name().to_owned();
        let (own, usual, left) = (server.own_time(entry), entry.usual, entry.left);
        // A command without a time of its own is late for the reason of the others only where these are as late outside theirs.
        let is_alike = entry.step.outcome == StepOutcome::Passed && parts.gaps >= GAPS * (parts.gaps + left);
        let text = |seconds: f64| match own {
            Some(own) => format!("{name}: {} outside the command, which took the server {}", time(seconds), time(own)),
            None => format!("{name}: {} in the server", excess(seconds, usual)),
        };
        if own.is_none() && !(is_alike && parts.gaps > 0.0) {
            ledger.claim_weak(at, Cause::Server, f64::MAX, |seconds| {
                format!("{}, and the server sent no event for it", text(seconds))
            });
        } else if of_login_process && has_tls(ledger) {
            ledger.claim(at, Cause::Tls, f64::MAX, |seconds| {
                format!("{}; a login process waited {} for a CPU", text(seconds), time(login_queue))
            });
        } else {
            ledger.claim(at, Cause::ServerCpu, f64::MAX, text);
        }
    }
}

fn has_tls(ledger: &Ledger<'_>) -> bool {
    ledger.setup(SetupStep::Tls).is_some()
}

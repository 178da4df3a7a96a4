//! Rules for the line: longer round trips, a full or narrow line, lost segments. Called by `diagnose`.

use imaptrace_record::{Cause, Run, Seconds, SetupStep, StepOutcome};

use super::{
    ledger::{Ledger, StepExcess},
    server_side::ServerSide,
    usual::usual_round_trip,
    wording::time,
};

/// A round trip that grew by less is as usual.
const GROWN: f64 = 0.002;
const GROWN_PART: f64 = 0.25;
/// Turns that take so much longer than the quickest wait in a queue: the line is full, and not longer.
const QUEUED: f64 = 0.004;
const QUEUED_PART: f64 = 0.12;
/// A connection whose first round trip was longer than the quickest by more than both of these met a queue at once.
const QUEUED_AT_FIRST: f64 = 0.005;
const QUEUED_AT_FIRST_PART: f64 = 0.3;
/// A step of fewer round trips has one.
const ONE_TURN: f64 = 1.5;
/// How much a server sends before it waits for an acknowledgement (RFC 6928), in bytes.
const FIRST_WINDOW: f64 = 14_600.0;
/// What a response is more than its bytes on the line: headers of IP, TCP and TLS.
const OVERHEAD: f64 = 100.0;
/// The shortest round trip over a line that can lose a segment.
const LOCAL: f64 = 0.000_2;
/// Transfer up to this is as usual, and so much of a longer one.
const LATE_TRANSFER: f64 = 0.003;
const USUAL_TRANSFER: f64 = 0.001;
/// An answer of so many bytes shows the rate of the line …
const BULK: f64 = 3_000.0;
/// … if it took longer than this …
const LATE_BULK: f64 = 0.01;
/// … came bit by bit: its first byte within this part of its time …
const FIRST_PART: f64 = 0.6;
/// … and for this part of its excess outside the server's own time, or as two small answers at least took by their bytes.
const OUTSIDE_PART: f64 = 0.6;
/// A small answer of so many bytes that is late by so much agrees if it took between these parts of what the rate lets expect.
const SMALL: f64 = 200.0;
const LATE_SMALL: f64 = 0.005;
const AGREES: std::ops::RangeInclusive<f64> = 0.4..=2.5;
/// What small answers took over so many times the expected, beside [`LATE_SMALL`], speaks against a narrow line …
const OVER_EXPECTED: f64 = 2.0;
/// … from this part of the large answer's time on.
const OVER_PART: f64 = 0.3;
/// Small answers are claimed up to so many times the expected.
const CLAIMED: f64 = 1.5;
/// A timeout is met between this part of it with half a round trip …
const TIMEOUT_PART: f64 = 0.95;
const LEAST_TURNS: f64 = 0.5;
/// … and so many round trips and this time more.
const MOST_TURNS: f64 = 2.5;
const TIMEOUT_MORE: f64 = 0.04;
/// The shortest time after which Linux sends a segment again.
const RETRANSMISSION: f64 = 0.2;

/// Whether server and imaptrace are on one machine, where no segment is lost.
pub(super) fn is_same_host(run: &Run) -> bool {
    let (peer, local) = (run.server.peer, run.server.local);
    peer.is_some_and(|peer| {
        peer.ip().to_canonical().is_loopback() || local.is_some_and(|local| local.ip() == peer.ip())
    })
}

/// Claims what longer round trips took: `distance` if each took the same, `bandwidth` if they wait in a queue.
pub(super) fn claim_round_trips(ledger: &mut Ledger<'_>, server: &ServerSide<'_>) {
    let Some(usual) = usual_round_trip(ledger.run).map(Seconds::as_f64) else { return };
    let round_trip = ledger.round_trip();
    let grown = round_trip - usual;
    if grown <= GROWN.max(GROWN_PART * usual) {
        return;
    }
    let queued = queued(ledger, usual, round_trip);
    for at in 0..ledger.entries.len() {
        let entry = &ledger.entries[at];
        if entry.step.name == SetupStep::Resolve {
            continue;
        }
        let name = entry.name().to_owned();
        if let Some(turn) = queued {
            let own = server.command(entry).map_or(0.0, |times| times.running);
            ledger.claim(at, Cause::Bandwidth, ledger.entries[at].left - own, |seconds| {
                let (turn, quickest) = (time(turn), time(round_trip));
                format!("{name}: {}; round trips took {turn}, the quickest {quickest}: a queue", time(seconds))
            });
            continue;
        }
        let turns = turns(entry, round_trip, ledger.run);
        ledger.claim(at, Cause::Distance, turns * grown, |seconds| {
            format!("{name}: {}; a round trip takes {}, usually {}", time(seconds), time(round_trip), time(usual))
        });
        // A large answer waits for acknowledgements until the window has grown.
        let entry = &ledger.entries[at];
        let bytes = bytes(entry);
        let rounds = if bytes > FIRST_WINDOW { (bytes / FIRST_WINDOW + 1.0).log2().ceil() - 1.0 } else { 0.0 };
        let transfer = entry.step.transfer_s.map_or(0.0, Seconds::as_f64);
        ledger.claim(at, Cause::Distance, transfer.min(rounds * grown), |seconds| {
            format!("{name}: {} of transfer in {rounds:.0} round trips", time(seconds))
        });
    }
}

/// How long a turn takes in the middle, if turns wait in a queue.
fn queued(ledger: &Ledger<'_>, usual: f64, round_trip: f64) -> Option<f64> {
    let passed = ledger
        .entries
        .iter()
        .filter(|entry| entry.step.outcome == StepOutcome::Passed && entry.step.name != SetupStep::Resolve);
    let mut each: Vec<f64> = passed
        .filter_map(|entry| {
            let turns = turns(entry, round_trip, ledger.run);
            let first =
                entry.step.first_byte_s.filter(|_| turns < ONE_TURN).map_or_else(|| entry.took(), Seconds::as_f64);
            let own = (entry.usual - usual * turns).max(0.0);
            (turns > 0.0).then(|| (first - own).max(0.0) / turns)
        })
        .collect();
    each.sort_by(f64::total_cmp);
    let middle = *each.get(each.len() / 2)?;
    let connect = ledger.setup(SetupStep::Connect).and_then(|at| ledger.entries[at].step.rtt_min_s);
    let at_first = connect.map_or(round_trip, Seconds::as_f64);
    let waits = middle - round_trip > QUEUED.max(QUEUED_PART * round_trip)
        || at_first - round_trip > QUEUED_AT_FIRST.max(QUEUED_AT_FIRST_PART * round_trip);
    waits.then_some(middle.max(at_first))
}

/// How many round trips a step has.
fn turns(entry: &StepExcess<'_>, round_trip: f64, run: &Run) -> f64 {
    let step = entry.step;
    if step.name == SetupStep::Connect || step.name == SetupStep::Greeting {
        return 1.0;
    }
    if step.name == SetupStep::Tls {
        return if run.server.tls_version.as_deref() == Some("1.2") { 2.0 } else { 1.0 };
    }
    let each = step.rtt_min_s.map_or(round_trip, Seconds::as_f64);
    let network = step.network_s.map_or(0.0, Seconds::as_f64);
    if each > 0.0 { network / each } else { 0.0 }
}

/// Claims the rest of steps in which segments were sent again or arrived out of order.
pub(super) fn claim_counted_loss(ledger: &mut Ledger<'_>) {
    for at in 0..ledger.entries.len() {
        let step = ledger.entries[at].step;
        let (again, disorder) = (step.retransmits.unwrap_or_default(), step.out_of_order.unwrap_or_default());
        if again + disorder == 0 {
            continue;
        }
        let name = ledger.entries[at].name().to_owned();
        ledger.claim(at, Cause::Loss, f64::MAX, |seconds| {
            format!("{name}: {}; {again} segments sent again, {disorder} out of order", time(seconds))
        });
    }
}

/// Claims for a loss on the server's side that no counter of ours shows: a wait of one timeout of TCP, outside the server, while
/// other steps are as usual.
pub(super) fn claim_silent_loss(ledger: &mut Ledger<'_>, server: &ServerSide<'_>) {
    let round_trip = ledger.round_trip();
    if is_same_host(ledger.run) || round_trip <= LOCAL {
        return;
    }
    // A lone last segment is probed for after 200 ms and two round trips (RFC 8985 §7.2), and then again by the timeout.
    let least = TIMEOUT_PART * RETRANSMISSION + LEAST_TURNS * round_trip;
    let most = RETRANSMISSION + MOST_TURNS * round_trip + TIMEOUT_MORE;
    let again = 2.0 * RETRANSMISSION;
    let is_timeout = |wait: f64, known: bool| {
        let once = least..=most;
        let twice = least + again..=most + again + 2.0 * round_trip;
        once.contains(&wait) || (known && twice.contains(&wait))
    };
    let fits = |entry: &StepExcess<'_>| {
        let outside = server.outside(entry);
        let is_skipped = entry.step.name == SetupStep::Resolve || entry.step.name == SetupStep::Connect;
        let known = outside.is_some() || !entry.step.is_command();
        !is_skipped && entry.step.outcome == StepOutcome::Passed && is_timeout(outside.unwrap_or(entry.left), known)
    };
    let (lost, rest): (Vec<usize>, Vec<usize>) = (0..ledger.entries.len()).partition(|at| fits(&ledger.entries[*at]));
    if ledger.left(&lost) <= ledger.left(&rest) {
        return;
    }
    for at in lost {
        let name = ledger.entries[at].name().to_owned();
        ledger.claim(at, Cause::Loss, f64::MAX, |seconds| {
            format!("{name}: {} are one timeout of TCP, and the other steps are as usual", time(seconds))
        });
    }
}

/// Claims what bytes took on a narrow line.
pub(super) fn claim_transfer(ledger: &mut Ledger<'_>, server: &ServerSide<'_>) {
    // A handshake's transfer has our own work in it.
    for at in ledger.commands() {
        let (transfer, bytes) = {
            let entry = &ledger.entries[at];
            (entry.step.transfer_s.map_or(0.0, Seconds::as_f64), bytes(entry))
        };
        if transfer > LATE_TRANSFER {
            let name = ledger.entries[at].name().to_owned();
            ledger.claim(at, Cause::Bandwidth, transfer - USUAL_TRANSFER, |seconds| {
                format!("{name}: {} of transfer for {bytes:.0} bytes", time(seconds))
            });
        }
    }
    claim_by_bytes(ledger, server);
}

/// Claims waits in proportion to bytes: of the largest answer, which came bit by bit, and of others if they fit.
fn claim_by_bytes(ledger: &mut Ledger<'_>, server: &ServerSide<'_>) {
    let commands = ledger.commands();
    let largest = commands.iter().copied().filter(|at| bytes(&ledger.entries[*at]) > BULK);
    let Some(bulk) =
        largest.max_by(|one, other| bytes(&ledger.entries[*one]).total_cmp(&bytes(&ledger.entries[*other])))
    else {
        return;
    };
    let wait = |entry: &StepExcess<'_>| server.outside(entry).unwrap_or(entry.left);
    let entry = &ledger.entries[bulk];
    let (of_bulk, is_known, took) = (wait(entry), server.outside(entry).is_some(), entry.took());
    let per_byte = of_bulk / (bytes(entry) + OVERHEAD);
    let came_early = entry.step.first_byte_s.is_some_and(|first| first.as_f64() <= FIRST_PART * took);
    let is_outside = is_known && of_bulk > OUTSIDE_PART * entry.left;
    let login = ledger.login();
    let small: Vec<usize> = commands.into_iter().filter(|at| *at != bulk && Some(*at) != login).collect();
    let (mut over, mut agree) = (0.0, 0);
    for at in &small {
        let entry = &ledger.entries[*at];
        let (waited, expected) = (wait(entry), per_byte * (bytes(entry) + OVERHEAD));
        over += (waited - OVER_EXPECTED * expected - LATE_SMALL).max(0.0);
        let (least, most) = (AGREES.start() * expected, AGREES.end() * expected);
        let fits = waited > LATE_SMALL && bytes(entry) >= SMALL && (least..=most).contains(&waited);
        agree += u32::from(fits);
    }
    if of_bulk <= LATE_BULK || over >= OVER_PART * of_bulk || !came_early || !(agree >= 2 || is_outside) {
        return;
    }
    for at in small.into_iter().chain([bulk]) {
        let entry = &ledger.entries[at];
        let bytes = bytes(entry);
        let expected = if at == bulk { f64::MAX } else { CLAIMED * per_byte * (bytes + OVERHEAD) };
        let name = entry.name().to_owned();
        ledger.claim(at, Cause::Bandwidth, wait(entry).min(expected), |seconds| {
            let rate = 8.0 / per_byte / 1e6;
            format!("{name}: {} outside the server for {bytes:.0} bytes, as at {rate:.1} Mbit/s", time(seconds))
        });
    }
}

fn bytes(entry: &StepExcess<'_>) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "exact below 8 PiB")]
    entry.step.received_bytes.map_or(0.0, |bytes| bytes as f64)
}

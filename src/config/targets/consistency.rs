//! Checks that the values of a target's keys go together: times, a certificate and its key, addresses and their family.
//!
//! Called by `target`, `group` and `otlp`.

use std::time::Duration;

use super::options::{self, Options, family};
use crate::{
    config::sources::{readers::Table, units::print_duration},
    plan::{AddressChoice, Auth, Choice as _},
};

/// Most servers limit a client that logs in more often.
const SHORT_INTERVAL: Duration = Duration::from_secs(10);

/// Checks times. A problem of `[defaults]` is reported there, once for all targets.
pub(crate) fn check_times(table: &Table<'_>, defaults: &Table<'_>, settings: &Options<'_>) {
    check_cadence(table, defaults, settings);
    check_deadlines(table, defaults, settings);
}

/// Checks interval and timeout.
pub(crate) fn check_cadence(table: &Table<'_>, defaults: &Table<'_>, settings: &Options<'_>) {
    let (interval, timeout) = (settings.interval(), settings.timeout());
    let places = [(table, "interval"), (table, "timeout"), (defaults, "interval"), (defaults, "timeout")];
    let (place, key) = places.into_iter().find(|(table, key)| table.has(key)).unwrap_or((table, "interval"));
    if interval <= timeout {
        let (interval, timeout) = (print_duration(interval), print_duration(timeout));
        place.error(
            key,
            format!("the interval ({interval}) is not longer than the timeout ({timeout}): runs would overlap"),
            "make interval longer or timeout shorter",
        );
    } else if interval < SHORT_INTERVAL {
        let what = format!("a login every {} may look like an attack to the server", print_duration(interval));
        let place = if table.has("interval") { table } else { defaults };
        place.warn("interval", what, "make interval longer, or make sure that the server has no limit on logins");
    }
}

/// Warns of deadlines after the end of the run.
fn check_deadlines(table: &Table<'_>, defaults: &Table<'_>, settings: &Options<'_>) {
    // A timeout that could not be read would be the default here.
    if table.has_errors() || defaults.has_errors() {
        return;
    }
    let timeout = settings.timeout();
    let [own, common] = [table, defaults].map(|table| table.table("deadlines", &options::DEADLINES));
    for (key, deadline) in [
        ("resolve", settings.resolve),
        ("connect", settings.connect),
        ("tls", settings.tls),
        ("greeting", settings.greeting),
        ("command", settings.command),
        ("write", settings.write),
    ] {
        let Some(deadline) = deadline.filter(|deadline| *deadline > timeout) else { continue };
        // A target with a shorter timeout need not repeat the default deadlines.
        let place = if own.has(key) { &own } else { &common };
        if !own.has(key) && table.has("timeout") {
            continue;
        }
        let (deadline, timeout) = (print_duration(deadline), print_duration(timeout));
        let what = format!("it is longer ({deadline}) than the timeout of the run ({timeout}), which ends it before");
        place.warn(key, what, "make it shorter, or timeout longer");
    }
}

/// A certificate needs its key, on any level.
pub(crate) fn check_pair(table: &Table<'_>, client_cert: bool, client_key: bool) {
    let (here, missing) = match (client_cert, client_key) {
        (true, false) => ("client_cert", "client_key"),
        (false, true) => ("client_key", "client_cert"),
        _ => return,
    };
    let missing = table.spelt(missing);
    table.error(here, format!("there is no {missing} with it"), format!("add {missing}"));
}

/// The same for a target or a group, and what `auth = "external"` needs.
pub(crate) fn check_own_pair(table: &Table<'_>, settings: &Options<'_>) {
    check_pair(table, settings.client_cert.is_some(), settings.client_key.is_some());
    if settings.auth == Some(Auth::External) {
        if settings.client_cert.is_none() {
            let what = "external is a login by a client certificate, and there is none";
            let (certificate, key) = (table.spelt("client_cert"), table.spelt("client_key"));
            table.error("auth", what, format!("add {certificate} and {key}"));
        }
        if table.has("master_user") {
            table.error("master_user", "with auth \"external\" it is the certificate that logs in", "take it out");
        }
    }
}

/// The URL's address, the source address and the choice must be of one family.
pub(crate) fn check_families(table: &Table<'_>, options: &Options<'_>) {
    let (literal, choice, source) = (options.literal, options.address(), options.source_address.map(family));
    let fits = |family: Option<AddressChoice>| {
        family.is_none_or(|family| matches!(choice, AddressChoice::Any) || choice == family)
    };
    if !fits(literal) {
        let what = format!("address {:?} does not go with an IP address in the URL", choice.word());
        table.error("address", what, "take address out: there is only this one to try");
    }
    if !fits(source) {
        let what = format!("a source address binds one family, address {:?} asks for another", choice.word());
        table.error("source_address", what, "set address to the family of source_address");
    } else if let (Some(source), Some(literal)) = (source, literal)
        && source != literal
    {
        table.error("source_address", "it is of another family than the IP address in the URL", "use one of the same");
    }
}

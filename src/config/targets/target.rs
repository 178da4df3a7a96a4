//! From `[defaults]` and `[[targets]]`, or from the `probe` command line, to [`plan::Target`](crate::plan::Target).
//!
//! `options` has the keys and merges the levels, `consistency` checks which values go together. Reads no file and resolves no
//! name. Called by `load` and `group`.

use std::collections::BTreeMap;

use super::{
    account::{self, TargetAccounts, TargetOrigin},
    consistency::{check_families, check_own_pair, check_times},
    options::{Options, TARGETS},
    url::{self, ServerUrl},
};
use crate::{
    config::sources::readers::{Field, Table},
    plan::{AccountOptions, Auth, Deadlines, Endpoint, Limits, Security, Target, Timing, TlsOptions},
};

/// What all targets have in common.
pub(crate) struct SharedSettings<'a, 'b> {
    pub(crate) root: &'b Table<'a>,
    /// `[defaults]`, for the place of its keys, and its values.
    pub(crate) defaults_table: &'b Table<'a>,
    pub(crate) defaults: &'b Options<'a>,
    pub(crate) limits: Limits,
    pub(crate) timing: Timing,
}

/// Reads one target. None when there is an error, which is noted.
pub(crate) fn read(table: &Table<'_>, shared: &SharedSettings<'_, '_>, origin: &TargetOrigin<'_>) -> Option<Target> {
    let listed = matches!(origin, TargetOrigin::Listed);
    let own = Options::read(table, TARGETS);
    let url = read_url(table);
    let name = if listed {
        table.required("name", "the target has no name", "add name = \"…\": traces and metrics show it")
    } else {
        url.as_ref().map(|url| url.host.to_string())
    };
    let of_url = url.as_ref().map(Options::of_url).unwrap_or_default();
    let options = own.over(&of_url.over(shared.defaults));
    let host = url.as_ref().map(|url| url.host.to_string()).unwrap_or_default();
    let names = (host.as_str(), name.as_deref().unwrap_or_default());
    let accounts =
        account::read(table, url.as_ref(), &options, origin, (names, &BTreeMap::new(), shared.defaults_table));
    if listed {
        check_times(table, shared.defaults_table, &options);
    }
    check_own_pair(table, &options);
    let server = find_server(table, table, &options, &url?)?;
    check_external(table, server.0, &accounts);
    Some(assemble((name?, None), server, accounts, options, shared))
}

/// Security and endpoint. None when URL and keys do not go together.
///
/// A problem of a key is reported in the table `keys`, once; one of the target in `entry`.
pub(crate) fn find_server(
    keys: &Table<'_>,
    entry: &Table<'_>,
    options: &Options<'_>,
    url: &ServerUrl,
) -> Option<(Security, Endpoint)> {
    check_families(entry, options);
    let help = "change the scheme of the URL, or the security";
    let (security, endpoint) =
        url::resolve(url, options.security).map_err(|what| entry.error("security", what, help)).ok()?;
    if security == Security::None {
        let help = "use it only on a network that no one else can read";
        keys.warn("security", "user name, password and mail go over the network in clear text", help);
    } else if options.insecure() {
        let help = if keys.is_command_line() {
            "give the server's own root certificate with --ca-file instead"
        } else {
            "set ca_file to the server's own root certificate instead"
        };
        keys.warn("insecure", "the server's certificate is not checked: anybody could answer", help);
    }
    Some((security, endpoint))
}

/// A login by a certificate needs TLS.
pub(crate) fn check_external(keys: &Table<'_>, security: Security, accounts: &TargetAccounts) {
    let own = accounts.accounts.iter().map(|account| account.own.as_ref().map_or(&accounts.common, |own| own));
    if security == Security::None && own.into_iter().any(|options| options.journey.auth == Auth::External) {
        let what = "external is a login by a client certificate, which needs TLS";
        keys.error("auth", what, "set security = \"tls\" or \"starttls\"");
    }
}

pub(crate) fn assemble(
    (name, group): (String, Option<String>),
    (security, endpoint): (Security, Endpoint),
    accounts: TargetAccounts,
    options: Options<'_>,
    shared: &SharedSettings<'_, '_>,
) -> Target {
    let TargetAccounts { accounts, common: AccountOptions { labels, journey, interval, timeout } } = accounts;
    Target {
        name,
        group,
        endpoint,
        security,
        accounts,
        labels,
        journey,
        interval,
        deadlines: Deadlines {
            run: timeout,
            resolve: options.resolve(),
            connect: options.connect(),
            tls: options.tls(),
            greeting: options.greeting(),
            command: options.command(),
            write: options.write(),
            logout: options.logout(),
        },
        limits: shared.limits,
        timing: shared.timing,
        address: options.address(),
        source_address: options.source_address,
        proxy_protocol: options.proxy_protocol(),
        tls: TlsOptions {
            insecure: options.insecure(),
            alpn: options.alpn(),
            ca_file: options.ca_file,
            server_name: options.server_name,
            client_cert: options.client_cert,
            client_key: options.client_key,
        },
    }
}

fn read_url(table: &Table<'_>) -> Option<ServerUrl> {
    let text = table.required("url", "the target has no url", "add url = \"imaps://HOST\"")?;
    let refuse = |error| {
        let help = url::meant(&text).map(|meant| format!("did you mean {meant}?")).unwrap_or_default();
        table.error("url", format!("it cannot be used: {error}"), help);
    };
    url::parse(&text).map_err(refuse).ok()
}

/// Notes every name that is used twice.
pub(crate) fn check_unique(targets: &[Table<'_>]) {
    let mut seen = BTreeMap::new();
    for (index, table) in targets.iter().enumerate() {
        let Some(name) = table.read("name", Field::as_text) else { continue };
        let first = *seen.entry(name).or_insert(index);
        if first != index {
            table.error("name", format!("targets[{first}] has the same name"), "give each target a name of its own");
        }
    }
}

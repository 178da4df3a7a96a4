//! A target's accounts, and every reference to a secret.
//!
//! No secret is loaded here, and no problem contains one. Called by `target`, `group` and `otlp`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{
    config::{
        sources::{
            readers::{Field, Table, shown},
            schema::TableKeys,
        },
        targets::{
            consistency::{check_cadence, check_own_pair},
            expand::{Placeholders, expand_accounts, filled, has_account},
            labels::read_labels,
            options::{self, ACCOUNTS, LoginValue, Needs, Options},
            url::ServerUrl,
        },
    },
    plan::{Account, AccountOptions, Mailbox, UserName},
    secret::{Edge, SecretError, SecretSource},
};

pub(crate) static SECRET: TableKeys =
    TableKeys::new("password", &["file", "env", "command", "credential", "insecure_mode", "exact"]);

/// The name of an account without one.
const DEFAULT: &str = "default";

const FORMS: &str = "write { file = \"…\" }, { env = \"…\" }, { command = [\"…\"] } or { credential = \"…\" }";

/// What a target is made from.
pub(crate) enum TargetOrigin<'a> {
    /// `[[targets]]`, or a URL in a file.
    Listed,
    /// `probe SERVER`, with the password from neither flags nor URL.
    Probe(Option<&'a SecretSource>),
    /// A group.
    Member,
}

/// The accounts of a target, and what is probed of the first; the others have what differs.
pub(crate) struct TargetAccounts {
    pub(crate) accounts: Vec<Account>,
    pub(crate) common: AccountOptions,
}

/// What all accounts of a target are read with.
#[derive(Clone, Copy)]
struct AccountContext<'a, 'b> {
    table: &'b Table<'a>,
    /// The values of `{host}` and `{name}`.
    names: (&'b str, &'b str),
    /// The labels that a file has for the target.
    labels: &'b BTreeMap<String, String>,
    given: Option<&'b SecretSource>,
}

/// Reads the accounts: the target's own by `options`, its merged levels, then `[[targets.accounts]]`, which inherit from it key by
/// key. `more`: the target's host and name, the labels that a file has for it, and `[defaults]`.
pub(crate) fn read(
    table: &Table<'_>,
    url: Option<&ServerUrl>,
    options: &Options<'_>,
    origin: &TargetOrigin<'_>,
    (names, labels, defaults): ((&str, &str), &BTreeMap<String, String>, &Table<'_>),
) -> TargetAccounts {
    let given = if let TargetOrigin::Probe(given) = origin { *given } else { None };
    let is_member = matches!(origin, TargetOrigin::Member);
    let context = AccountContext { table, names, labels, given };
    let needs = options.needs();
    if url.is_some_and(|url| url.password.is_some()) {
        let help =
            "everyone who can read the file, or the list of processes, can read it too: keep it in a file of its own";
        table.warn("url", "the URL contains the password", help);
    }
    let listed = table.tables("accounts", &options::ACCOUNT);
    let has_user = options.user.is_some();
    let has_password = options.password.is_some() || given.is_some();
    let inherits = |key: &'static str| listed.iter().any(|entry| !entry.has(key));
    // A URL that cannot be read may contain both.
    if url.is_some() {
        let (no_user, no_password) = match origin {
            TargetOrigin::Probe(_) => (
                "give it with --user, or as USER@ in SERVER",
                "give it with --password-file, --password-env or --password-command",
            ),
            _ => ("add user = \"…\"", FORMS),
        };
        if !has_user && (listed.is_empty() || has_password && !inherits("password")) {
            table.error("user", "there is no user name", no_user);
        }
        if !has_password && needs == Needs::Password && (listed.is_empty() || has_user && !inherits("user")) {
            table.error("password", "there is no password", no_password);
        }
    }

    if let Some(LoginValue::Key(field)) = &options.master_user
        && !has_user
        && !listed.is_empty()
        && !inherits("password")
    {
        field.error("there is no user for whom to log in", "add user, or move master_user to the accounts");
    }

    let mut found = Vec::new();
    let mut aliases = BTreeSet::new();
    // A login with `{account}`, or an incomplete one, is only inherited: it makes no account `default`.
    let is_incomplete = has_user != (has_password || needs != Needs::Password);
    let differs = has_placeholder(options.user.as_ref()) || has_placeholder(options.password.as_ref());
    let is_template = !listed.is_empty() && (differs || is_incomplete);
    if !is_template {
        found.extend(account(&context, table, DEFAULT.to_owned(), options, is_member));
        if has_user || has_password {
            aliases.insert(DEFAULT.to_owned());
        }
    }
    for entry in &listed {
        let own = Options::read(entry, ACCOUNTS);
        let has_own_password = own.password.is_some();
        let mut merged = own.over(options);
        // A master user goes with its password.
        if has_own_password && !entry.has("master_user") {
            merged.master_user = None;
        }
        if merged.user.is_none() {
            entry.error("user", "there is no user name", "add user = \"…\"");
        }
        if merged.password.is_none() && merged.needs() == Needs::Password {
            entry.error("password", "there is no password", FORMS);
        }
        if entry.has("interval") || entry.has("timeout") {
            check_cadence(entry, defaults, &merged);
        }
        if entry.has("auth") {
            check_own_pair(entry, &merged);
        }
        for alias in account_names(entry) {
            if !aliases.insert(alias.clone()) {
                let what = format!("another account of this target has the name {}", shown(&alias));
                let help = "give each account of a target a name of its own; one without is called \"default\"";
                entry.error("name", what, help);
            }
            found.extend(account(&context, entry, alias, &merged, true));
        }
    }
    warn_of_equals(table, &found);
    let common = found.first().map(|(_, options)| options.clone());
    let common = common.unwrap_or_else(|| own_options(&context, table, options, None));
    let accounts = found.into_iter().map(|(account, options)| {
        let own = (options != common).then(|| Box::new(options));
        Account { own, ..account }
    });
    TargetAccounts { accounts: accounts.collect(), common }
}

/// The names that the name of an account stands for; none after an error in it.
fn account_names(entry: &Table<'_>) -> Vec<String> {
    let Some(field) = entry.get("name") else { return vec![DEFAULT.to_owned()] };
    let Some(text) = field.text() else { return Vec::new() };
    expand_accounts(&text).unwrap_or_else(|(what, _)| {
        field.error(what, "write vol{1..5}, or vol{a,b}");
        Vec::new()
    })
}

/// Whether a part of a login differs by account.
fn has_placeholder<T>(value: Option<&LoginValue<'_, T>>) -> bool {
    let Some(LoginValue::Key(field)) = value else { return false };
    if !field.is_table() {
        return field.as_text().is_some_and(has_account);
    }
    let entries = field.entries();
    entries.iter().any(|(_, value)| match value.as_text() {
        Some(text) => has_account(text),
        None => value.is_list() && value.list().unwrap_or_default().iter().any(|(_, word)| has_account(word)),
    })
}

/// Warns of accounts that open the same mailbox of the same user in the same way.
fn warn_of_equals(table: &Table<'_>, found: &[(Account, AccountOptions)]) {
    let mut seen = HashMap::new();
    for (account, options) in found {
        let master = account.master_user.as_ref().map(UserName::expose);
        let journey = &options.journey;
        let key = (account.user.expose(), master, journey.mailbox.as_str(), journey.name());
        let first = *seen.entry(key).or_insert(&account.alias);
        if *first != account.alias {
            let (first, second) = (shown(first), shown(&account.alias));
            let what = format!("the accounts {first} and {second} open the same mailbox of the same user");
            table.warn("accounts", what, "put {account} into user or mailbox, or leave one of them out");
            return;
        }
    }
}

/// One account with its options. None when a part of it is missing, which its caller notes, or cannot be read.
fn account(
    context: &AccountContext<'_, '_>,
    table: &Table<'_>,
    alias: String,
    options: &Options<'_>,
    fills: bool,
) -> Option<(Account, AccountOptions)> {
    let (host, name) = context.names;
    let placeholders = Placeholders { host, name, account: &alias };
    let placeholders = fills.then_some(&placeholders);
    let needs = options.needs();
    let user = options.user.as_ref().and_then(|user| user_name(user, placeholders));
    let password = match &options.password {
        Some(LoginValue::Key(field)) => {
            if needs == Needs::NoPassword {
                table.warn(
                    "password",
                    "with auth \"external\" the certificate logs in, and no password is used",
                    "take it out",
                );
            }
            filled_secret(field, placeholders)
        }
        Some(LoginValue::Url(secret)) => {
            if let Some(edge) = Edge::of(secret.expose()) {
                let help =
                    "take it out; one that is meant needs a file, a variable or a command, and `exact` beside it";
                table.error("url", format!("the password in the URL {edge}"), help);
            }
            Some(SecretSource::Given(secret.clone()))
        }
        None => context.given.cloned(),
    };
    let master_user = options.master_user.as_ref().and_then(|user| user_name(user, placeholders));
    // One that is not used is not loaded.
    let password = if needs == Needs::Password { password } else { Some(SecretSource::Nowhere) };
    let own = own_options(context, table, options, placeholders);
    Some((Account { alias, user: user?, master_user, password: password?, own: None }, own))
}

/// The options of the account in `table`, or of the target itself.
fn own_options(
    context: &AccountContext<'_, '_>,
    table: &Table<'_>,
    options: &Options<'_>,
    placeholders: Option<&Placeholders<'_>>,
) -> AccountOptions {
    let mut labels = read_labels(context.table, placeholders);
    labels.extend(context.labels.clone());
    if !std::ptr::eq(table, context.table) {
        labels.extend(read_labels(table, placeholders));
    }
    let mailbox = options.mailbox();
    let filled = placeholders.map(|placeholders| placeholders.fill(mailbox.as_str()));
    let mailbox = match filled.filter(|filled| filled != mailbox.as_str()) {
        Some(filled) => Mailbox::new(&filled).unwrap_or_else(|error| {
            table.error("mailbox", error.to_string(), "");
            mailbox
        }),
        None => mailbox,
    };
    AccountOptions {
        labels,
        journey: options.journey_in(mailbox),
        interval: options.interval(),
        timeout: options.timeout(),
    }
}

fn user_name(user: &LoginValue<'_, UserName>, placeholders: Option<&Placeholders<'_>>) -> Option<UserName> {
    match user {
        LoginValue::Key(field) => UserName::new(&filled(field, placeholders)?),
        LoginValue::Url(user) => Some(user.clone()),
    }
}

/// Reads a reference to a secret. A secret itself is refused: every copy of the file would contain it.
pub(crate) fn secret(field: &Field<'_>) -> Option<SecretSource> {
    filled_secret(field, None)
}

/// The same; in a group, with placeholders filled in.
fn filled_secret(field: &Field<'_>, placeholders: Option<&Placeholders<'_>>) -> Option<SecretSource> {
    if !field.is_table() {
        field.error("a secret cannot be in the configuration itself", FORMS);
        return None;
    }
    let table = field.table(&SECRET);
    let exact = table.read("exact", Field::bool).unwrap_or(false);
    let sources = ["file", "env", "command", "credential"].map(|key| table.get(key));
    let count = sources.iter().flatten().count();
    if count != 1 {
        field.error(format!("a secret has exactly one source, this one has {count}"), FORMS);
        return None;
    }
    let insecure_mode = table.read("insecure_mode", Field::bool).unwrap_or(false);
    let [file, variable, command, credential] = sources;
    if let Some(field) = table.get("insecure_mode").filter(|_| file.is_none()) {
        field.error("insecure_mode goes with `file` alone", "take it out");
        return None;
    }
    let with_exact = |source: SecretSource| if exact { SecretSource::Exact(Box::new(source)) } else { source };
    if let Some(field) = file {
        let path = filled(&field, placeholders)?;
        if insecure_mode {
            let help = "take insecure_mode out and run `chmod 600` on the file if you can";
            table.warn("insecure_mode", "a secret's file may be read by others", help);
        }
        let source = with_exact(SecretSource::File { path: path.clone().into(), insecure_mode });
        // All targets of a group may have the same file.
        let problem = field.reader.check_secret(&(path, insecure_mode, exact), || {
            let error = source.check().err()?;
            let help = match error {
                SecretError::Mode(_) => "where others have to read it, set insecure_mode = true beside `file`",
                SecretError::Directory(_) => "where that cannot be, set insecure_mode = true beside `file`",
                SecretError::Unanswered(..) => "see whether its file system hangs: runs are void until it answers",
                SecretError::Owner(_) => "run `chown` on it",
                SecretError::Empty(_) => "write the secret on its first line",
                // Its text has the help.
                SecretError::Content(_) => "",
                _ => "give the path of a file that can be read",
            };
            Some((error.to_string(), help))
        });
        if let Some((what, help)) = problem {
            field.unusable(what, help);
        }
        return Some(source);
    }
    if let Some(field) = command {
        // A program's arguments may contain other braces: an unknown word in them is kept.
        let mut words = field.command()?;
        if let Some(placeholders) = placeholders {
            words = words.iter().map(|word| placeholders.fill(word)).collect();
        }
        return Some(with_exact(SecretSource::Command(words)));
    }
    if let Some(field) = variable {
        let name = filled(&field, placeholders)?;
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !plain || name.starts_with(|first: char| first.is_ascii_digit()) {
            field.error("it is not the name of an environment variable", "give the variable's name, not the secret");
            return None;
        }
        field.check_variable(&name);
        return Some(with_exact(SecretSource::Env(name)));
    }
    let field = credential?;
    let name = filled(&field, placeholders)?;
    if name.contains('/') || name == "." || name == ".." {
        field.error("it is not the name of a credential", "give the name in LoadCredential=NAME:…, not a path");
        return None;
    }
    Some(with_exact(SecretSource::Credential(name)))
}

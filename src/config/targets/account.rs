//! A target's accounts, and every reference to a secret.
//!
//! No secret is loaded here, and no problem contains one. Called by `target`, `group` and `otlp`.

use std::collections::BTreeSet;

use crate::{
    config::{
        sources::{
            readers::{Field, Table},
            schema::TableKeys,
        },
        targets::{
            expand::{Placeholders, unknown},
            options::{self, ACCOUNTS, LoginValue, Needs, Options},
            url::ServerUrl,
        },
    },
    plan::{Account, UserName},
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
    /// A group, whose keys have these placeholders.
    Member(Placeholders<'a>),
}

/// Reads the accounts: the target's own by `options`, its merged levels, then `[[targets.accounts]]`.
pub(crate) fn read(
    table: &Table<'_>,
    url: Option<&ServerUrl>,
    options: &Options<'_>,
    origin: &TargetOrigin<'_>,
) -> Vec<Account> {
    let (given, placeholders) = match origin {
        TargetOrigin::Listed => (None, None),
        TargetOrigin::Probe(given) => (*given, None),
        TargetOrigin::Member(placeholders) => (None, Some(placeholders)),
    };
    let needs = options.needs();
    if url.is_some_and(|url| url.password.is_some()) {
        let help =
            "everyone who can read the file, or the list of processes, can read it too: keep it in a file of its own";
        table.warn("url", "the URL contains the password", help);
    }
    let listed = table.tables("accounts", &options::ACCOUNT);
    let has_user = options.user.is_some();
    let has_password = options.password.is_some() || given.is_some();
    let own = account(table, Some(DEFAULT.to_owned()), options, given, (needs, placeholders));
    if let Some(LoginValue::Key(field)) = &options.master_user
        && !has_user
        && !listed.is_empty()
    {
        field.error("there is no user for whom to log in", "add user, or move master_user to the accounts");
    }
    // A URL that cannot be read may contain both.
    if url.is_some() {
        let (no_user, no_password) = match origin {
            TargetOrigin::Probe(_) => (
                "give it with --user, or as USER@ in SERVER",
                "give it with --password-file, --password-env or --password-command",
            ),
            _ => ("add user = \"…\"", FORMS),
        };
        if !has_user && (has_password || listed.is_empty()) {
            table.error("user", "there is no user name", no_user);
        }
        if !has_password && needs == Needs::Password && (has_user || listed.is_empty()) {
            table.error("password", "there is no password", no_password);
        }
    }

    let mut accounts = Vec::from_iter(own);
    let mut aliases = BTreeSet::new();
    if has_user || has_password {
        aliases.insert(DEFAULT.to_owned());
    }
    for entry in listed {
        let own = Options::read(&entry, ACCOUNTS);
        let alias = entry.get("name").map_or_else(|| Some(DEFAULT.to_owned()), |field| field.text());
        if own.user.is_none() {
            entry.error("user", "there is no user name", "add user = \"…\"");
        }
        if own.password.is_none() && needs == Needs::Password {
            entry.error("password", "there is no password", FORMS);
        }
        if alias.as_ref().is_some_and(|alias| !aliases.insert(alias.clone())) {
            let help = "give each account of a target a name of its own; one without is called \"default\"";
            entry.error("name", "another account of this target has the same name", help);
        }
        accounts.extend(account(&entry, alias, &own, None, (needs, placeholders)));
    }
    accounts
}

/// One account. None when a part of it is missing, which its caller notes, or cannot be read.
fn account(
    table: &Table<'_>,
    alias: Option<String>,
    options: &Options<'_>,
    given: Option<&SecretSource>,
    (needs, placeholders): (Needs, Option<&Placeholders<'_>>),
) -> Option<Account> {
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
        None => given.cloned(),
    };
    let master_user = options.master_user.as_ref().and_then(|user| user_name(user, placeholders));
    // One that is not used is not loaded.
    let password = if needs == Needs::Password { password } else { Some(SecretSource::Nowhere) };
    Some(Account { alias: alias?, user: user?, master_user, password: password? })
}

fn user_name(user: &LoginValue<'_, UserName>, placeholders: Option<&Placeholders<'_>>) -> Option<UserName> {
    match user {
        LoginValue::Key(field) => UserName::new(&filled(field, placeholders)?),
        LoginValue::Url(user) => Some(user.clone()),
    }
}

/// The text of a key; in a group, with its placeholders filled in.
pub(crate) fn filled(field: &Field<'_>, placeholders: Option<&Placeholders<'_>>) -> Option<String> {
    let text = field.text()?;
    let Some(placeholders) = placeholders else { return Some(text) };
    if let Some(word) = unknown(&text, &["host", "name"]) {
        field.error(format!("there is no placeholder {{{word}}}"), "there are {host} and {name}");
        return None;
    }
    Some(placeholders.fill(&text))
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

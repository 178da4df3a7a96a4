//! A target's accounts, and references to secrets wherever they stand.
//!
//! No secret is fetched here, and none is ever repeated in a problem. Called by `target` and `otlp`.

use std::collections::BTreeSet;

use crate::{
    config::{
        sources::{
            readers::{Field, Table},
            schema::TableKeys,
        },
        targets::{
            expand::{Placeholders, unknown},
            options::{self, Needs},
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

const UNUSED: &str = "with auth \"external\" the certificate logs in, and no password is used";

const FORMS: &str = "write { file = \"…\" }, { env = \"…\" }, { command = [\"…\"] } or { credential = \"…\" }";

/// What the accounts belong to.
pub(crate) enum Owner<'a> {
    /// A target's own.
    Target,
    /// The command line's, with a password that was found, if any, outside flags and URL.
    Probe(Option<&'a SecretSource>),
    /// A group's, for one of its members.
    Member {
        /// What the group's keys leave open.
        placeholders: Placeholders<'a>,
        /// The URL is the member's own, so what stands in it beats the group's keys.
        own_url: bool,
    },
}

/// Reads the accounts: the target's own `user` and `password` (or those in its URL) first, then `[[targets.accounts]]`.
///
/// A key beats the URL, and the URL beats a password that the command line found elsewhere.
pub(crate) fn read(table: &Table<'_>, url: Option<&ServerUrl>, owner: &Owner<'_>, needs: Needs) -> Vec<Account> {
    let given = if let Owner::Probe(given) = owner { *given } else { None };
    let (placeholders, own_url) = match owner {
        Owner::Member { placeholders, own_url } => (Some(placeholders), *own_url),
        _ => (None, false),
    };
    let in_url = url.and_then(|url| url.password.clone());
    if in_url.is_some() {
        let help = "whoever sees the file, or the list of processes, sees it too: keep it in a file of its own";
        table.warn("url", "the password stands in the URL", help);
    }
    let listed = table.tables("accounts", &options::ACCOUNT);
    let own_user = own_url && url.is_some_and(|url| url.user.is_some());
    let user_field = table.get("user").filter(|_| !own_user);
    let password_field = table.get("password").filter(|_| !own_url || in_url.is_none());
    let has_user = user_field.is_some() || url.is_some_and(|url| url.user.is_some());
    let here = password_field.is_some() || in_url.is_some();
    let has_password = here || given.is_some();
    let in_url_used = in_url.clone().filter(|_| password_field.is_none());
    let user = user_field
        .as_ref()
        .map_or_else(|| url.and_then(|url| url.user.clone()), |field| user_name(field, placeholders));
    let password = password_field
        .as_ref()
        .map_or_else(|| in_url.map(SecretSource::Given), |field| filled_secret(field, placeholders));
    if let Some(edge) = in_url_used.and_then(|secret| Edge::of(secret.expose())) {
        let help = "take it out; one that is meant needs a file, a variable or a command, and `exact` beside it";
        table.error("url", format!("the password in the URL {edge}"), help);
    }
    // One that nobody will ask for is not fetched either.
    let nowhere = (needs != Needs::Password).then_some(SecretSource::Nowhere);
    let password = nowhere.clone().or_else(|| if here { password } else { given.cloned() });
    if needs == Needs::NoPassword && password_field.is_some() {
        table.warn("password", UNUSED, "take it out");
    }

    let master_user = table.get("master_user").and_then(|field| user_name(&field, placeholders));

    let mut accounts = Vec::new();
    if let (Some(user), Some(password)) = (user, password) {
        accounts.push(Account { alias: DEFAULT.to_owned(), user, master_user, password });
    } else if let Some(field) = table.get("master_user").filter(|_| !has_user && !listed.is_empty()) {
        field.error("there is no user for whom to log in", "add user, or move master_user to the accounts");
    }
    // With a URL that cannot be read, nobody knows what stands in it.
    if url.is_some() {
        let (no_user, no_password) = if matches!(owner, Owner::Probe(_)) {
            (
                "give it with --user, or as USER@ in SERVER",
                "give it with --password-file, --password-env or --password-command",
            )
        } else {
            ("add user = \"…\"", FORMS)
        };
        if !has_user && (has_password || listed.is_empty()) {
            table.error("user", "there is no user name", no_user);
        }
        if !has_password && needs == Needs::Password && (has_user || listed.is_empty()) {
            table.error("password", "there is no password", no_password);
        }
    }

    let mut aliases = BTreeSet::new();
    if has_user || has_password {
        aliases.insert(DEFAULT.to_owned());
    }
    for entry in listed {
        let alias = match entry.get("name") {
            Some(field) => field.text(),
            None => Some(DEFAULT.to_owned()),
        };
        let user = entry.get("user");
        let password = entry.get("password");
        if user.is_none() {
            entry.error("user", "there is no user name", "add user = \"…\"");
        }
        if password.is_none() && needs == Needs::Password {
            entry.error("password", "there is no password", FORMS);
        }
        let user = user.as_ref().and_then(|field| user_name(field, placeholders));
        let master_user = entry.get("master_user").and_then(|field| user_name(&field, placeholders));
        if needs == Needs::NoPassword && password.is_some() {
            entry.warn("password", UNUSED, "take it out");
        }
        let read = password.as_ref().and_then(|field| filled_secret(field, placeholders));
        let password = nowhere.clone().or(read);
        let Some(alias) = alias else { continue };
        if !aliases.insert(alias.clone()) {
            let help = "give each account of a target a name of its own; one without is called \"default\"";
            entry.error("name", "another account of this target has the same name", help);
        }
        if let (Some(user), Some(password)) = (user, password) {
            accounts.push(Account { alias, user, master_user, password });
        }
    }
    accounts
}

fn user_name(field: &Field<'_>, placeholders: Option<&Placeholders<'_>>) -> Option<UserName> {
    UserName::new(&filled(field, placeholders)?)
}

/// The text of a key, with what a group fills in.
pub(crate) fn filled(field: &Field<'_>, placeholders: Option<&Placeholders<'_>>) -> Option<String> {
    let text = field.text()?;
    let Some(placeholders) = placeholders else { return Some(text) };
    if let Some(word) = unknown(&text, &["host", "name"]) {
        field.error(format!("nothing stands for {{{word}}}"), "there are {host} and {name}");
        return None;
    }
    Some(placeholders.fill(&text))
}

/// Reads a reference to a secret. A secret in plain text is refused: it would stand in every copy of the file.
pub(crate) fn secret(field: &Field<'_>) -> Option<SecretSource> {
    filled_secret(field, None)
}

/// The same, with what a group fills in.
fn filled_secret(field: &Field<'_>, blanks: Option<&Placeholders<'_>>) -> Option<SecretSource> {
    if !field.is_table() {
        field.error("a secret does not stand in the configuration itself", FORMS);
        return None;
    }
    let table = field.table(&SECRET);
    let file = table.get("file");
    let env = table.get("env");
    let command = table.get("command");
    let credential = table.get("credential");
    let insecure_mode = table.get("insecure_mode");
    let exact = table.get("exact").as_ref().and_then(Field::bool).unwrap_or(false);
    let as_said = |source: SecretSource| if exact { SecretSource::Exact(Box::new(source)) } else { source };
    let count = [&file, &env, &command, &credential].into_iter().flatten().count();
    if count != 1 {
        field.error(format!("a secret has exactly one source, this one has {count}"), FORMS);
        return None;
    }
    let insecure = insecure_mode.as_ref().and_then(Field::bool).unwrap_or(false);
    if let Some(field) = insecure_mode.filter(|_| file.is_none()) {
        field.error("insecure_mode goes with `file` alone", "take it out");
        return None;
    }
    if let Some(field) = file {
        let path_text = filled(&field, blanks)?;
        let path = path_text.clone().into();
        if insecure {
            let help = "take insecure_mode out and run `chmod 600` on the file if you can";
            table.warn("insecure_mode", "a secret's file may be read by others", help);
        }
        let source = as_said(SecretSource::File { path, insecure_mode: insecure });
        // A group's file is that of all its targets, and looked at once.
        let problem = field.checked_secret(&(path_text, insecure, exact), || {
            let error = source.check().err()?;
            let help = match error {
                SecretError::Mode(_) => "where others have to read it, set insecure_mode = true beside `file`",
                SecretError::Directory(_) => "where that cannot be, set insecure_mode = true beside `file`",
                SecretError::Unanswered(..) => "see whether its file system hangs: runs are void until it answers",
                SecretError::Owner(_) => "run `chown` on it",
                SecretError::Empty(_) => "write the secret on its first line",
                // Its text says what to do.
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
    if let Some(field) = env {
        let name = filled(&field, blanks)?;
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !plain || name.starts_with(|first: char| first.is_ascii_digit()) {
            field.error("it is not the name of an environment variable", "give the variable's name, not the secret");
            return None;
        }
        field.check_variable(&name);
        return Some(as_said(SecretSource::Env(name)));
    }
    if let Some(field) = command {
        let words = field.command()?;
        // A program's own arguments may hold braces of any kind, so a word that is not known stays as it is.
        let words = words.iter().map(|word| blanks.map_or_else(|| word.clone(), |blanks| blanks.fill(word)));
        return Some(as_said(SecretSource::Command(words.collect())));
    }
    let field = credential?;
    let name = filled(&field, blanks)?;
    if name.contains('/') || name == "." || name == ".." {
        field.error("it is not the name of a credential", "give the name in LoadCredential=NAME:…, not a path");
        return None;
    }
    Some(as_said(SecretSource::Credential(name)))
}

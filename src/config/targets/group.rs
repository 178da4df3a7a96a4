//! Many targets in few lines: `[[groups]]`, `targets_from`, and what `discovery` has of a group's sources.
//!
//! A group's keys are read once and apply to each of its members, from `targets`, a file or a source. A problem of a key is
//! reported at the key, a problem of a member at the member. Called by `load`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::PathBuf,
    rc::Rc,
};

use crate::{
    config::{
        problem::Place,
        sources::readers::{Field, Table, shown},
        targets::{
            account::{self, TargetOrigin},
            consistency::{check_own_pair, check_times},
            expand,
            file_sd::{self, ListedTarget},
            labels::NO_LABEL,
            options::{self, GROUPS, Needs, Options},
            target::{self, SharedSettings},
            target_sources,
            url::{self, ServerUrl},
        },
    },
    discovery::{Discovered, DiscoveredTargets, SourceId, TargetSource},
    plan::{Endpoint, Target, is_label},
    telemetry::MOST_SOURCES,
};

/// The label with the name of a member's group.
const GROUP: &str = "__imaptrace_group__";
/// The label with the target's name; `{host}` is its host.
const NAME: &str = "__imaptrace_name__";
/// The default of a group's `url`: the member's address, with the scheme of `security`.
const URL: &str = "{host}";

/// One `[[groups]]` entry.
struct Group<'a> {
    table: Table<'a>,
    name: String,
    options: Options<'a>,
    /// `options` over `[defaults]`.
    settings: Options<'a>,
    url: String,
    /// Where members come from, beside `targets` and files.
    sources: Vec<TargetSource>,
}

/// What groups and files give.
pub(crate) struct GroupTargets {
    pub(crate) targets: Vec<Target>,
    /// The sources of all groups.
    pub(crate) sources: Vec<TargetSource>,
    /// The targets of a source that are none here, which was noted; none of a source that has not answered.
    pub(crate) refused: BTreeMap<SourceId, u64>,
}

/// All targets of groups and files. `listed` are the tables of `[[targets]]`, whose names are taken; files and directories that
/// are read are added to `watched`. `discovered` is what the sources of groups have answered.
pub(crate) fn read<'a>(
    shared: &SharedSettings<'a, '_>,
    listed: &[Table<'_>],
    discovered: &Discovered,
    watched: &mut Vec<PathBuf>,
) -> GroupTargets {
    let groups = read_groups(shared);
    let mut expansion = GroupExpansion {
        shared,
        groups: groups.iter().flatten().map(|group| (group.name.as_str(), group)).collect(),
        complete: groups.iter().all(Option::is_some),
        names: HashMap::new(),
        targets: Vec::new(),
        populated: HashSet::new(),
        members: 0,
        accounts: 0,
        full: false,
    };
    for (index, table) in listed.iter().enumerate() {
        let name = table.read("name", Field::as_text);
        expansion.names.extend(name.map(|name| (name.to_owned(), format!("targets[{index}]"))));
    }
    for group in groups.iter().flatten() {
        for (field, template) in group.table.read("targets", Field::list).unwrap_or_default() {
            // It may contain a password, so it is neither shown nor expanded.
            if template.contains(['@', '/']) {
                let help = "the rest belongs in url and user: url = \"imap://{host}\"";
                field.error("it is more than HOST or HOST:PORT", help);
                continue;
            }
            match expand::expand(&template) {
                Ok(texts) if expansion.takes(texts.len(), &field) => {
                    for text in texts {
                        expansion.expanded(group, &field, text);
                    }
                }
                Ok(_) => {}
                Err((what, help)) => field.error(what, help),
            }
        }
    }
    let mut seen = HashSet::new();
    let mut read_files = |table: &Table<'_>, own: Option<&Group<'a>>| {
        for (field, pattern) in table.read("targets_from", Field::list).unwrap_or_default() {
            for path in file_sd::files(&field, &pattern, watched) {
                // Two patterns may match one file.
                if !seen.insert((path.clone(), own.map(|group| group.name.clone()))) {
                    continue;
                }
                for entry in file_sd::read(&field, &pattern, &path) {
                    if !expansion.takes(1, &field) {
                        break;
                    }
                    expansion.listed(own, entry);
                }
            }
        }
    };
    for group in groups.iter().flatten() {
        read_files(&group.table, Some(group));
    }
    read_files(shared.root, None);
    let mut refused = BTreeMap::new();
    for group in groups.iter().flatten() {
        for source in &group.sources {
            let answer = discovered.of(&source.id).map(|answer| expansion.discovered(group, source, answer));
            refused.extend(answer.map(|count| (source.id.clone(), count)));
        }
    }
    // An error in a source was noted.
    let asks = |group: &Group<'_>| target_sources::KEYS.iter().any(|key| group.table.has(key));
    let is_empty = |group: &&Group<'_>| !asks(group) && !expansion.populated.contains(&group.name);
    for group in groups.iter().flatten().filter(is_empty) {
        let help = "add targets, targets_from or a source of targets, or name it in a file of targets";
        group.table.warn("", format!("the group {:?} has no target", group.name), help);
    }
    let sources: Vec<_> = groups.iter().flatten().flat_map(|group| group.sources.clone()).collect();
    if sources.len() > MOST_SOURCES {
        let what = format!("all groups together have more than {MOST_SOURCES} sources of targets");
        shared.root.error("groups", what, "share them out among several agents");
    }
    GroupTargets { targets: expansion.targets, sources, refused }
}

/// None for a group with an error in its own keys.
fn read_groups<'a>(shared: &SharedSettings<'a, '_>) -> Vec<Option<Group<'a>>> {
    let mut names = HashMap::new();
    let tables = shared.root.tables("groups", &options::GROUP);
    let read = tables.into_iter().enumerate().map(|(index, table)| {
        let options = Options::read(&table, GROUPS);
        let settings = options.over(shared.defaults);
        check_times(&table, shared.defaults_table, &settings);
        check_own_pair(&table, &settings);
        // After an error in it, those of the members are noted too.
        let url = table.read("url", read_url).unwrap_or_else(|| URL.to_owned());
        let help = "add name = \"…\": windows, files of targets and metrics use it";
        let name = table.required("name", "the group has no name", help)?;
        if let Some(first) = names.insert(name.clone(), index) {
            table.error("name", format!("groups[{first}] has the same name"), "give each group a name of its own");
            return None;
        }
        let sources = read_sources(&table, &name, &options, &url, shared);
        Some(Group { table, name, options, settings, url, sources })
    });
    read.collect()
}

/// The sources of a group. Their targets come later: a login that no target could have is reported now.
fn read_sources<'a>(
    table: &Table<'a>,
    name: &str,
    options: &Options<'a>,
    url: &str,
    shared: &SharedSettings<'a, '_>,
) -> Vec<TargetSource> {
    // An error in it is reported of each member.
    let example = url::parse(&url.replace(URL, "host.invalid")).ok();
    let of_url = example.as_ref().map(Options::of_url).unwrap_or_default();
    let member = options.over(&of_url.over(shared.defaults));
    let security = example.and_then(|example| url::security(example.scheme, member.security).ok());
    let sources = target_sources::read(table, name, security);
    if !sources.is_empty() && !table.has("accounts") {
        if member.user.is_none() {
            table.error("user", "there is no user name", "add user = \"…\"");
        }
        if member.password.is_none() && member.needs() == Needs::Password {
            table.error("password", "there is no password", "add password = { file = \"…\" }");
        }
    }
    sources
}

fn read_url(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    if let Some(word) = expand::unknown(&text, &["host"]) {
        field.error(format!("there is no placeholder {{{word}}}"), "there is {host}");
        return None;
    }
    if !text.contains(URL) {
        field.error("there is no {host} in it: all targets would be the same server", "write \"imaps://{host}\"");
        return None;
    }
    Some(text)
}

/// The targets so far, and what the next ones are checked against.
struct GroupExpansion<'a, 'b> {
    shared: &'b SharedSettings<'a, 'b>,
    groups: BTreeMap<&'b str, &'b Group<'a>>,
    /// `groups` has all groups: none has an error.
    complete: bool,
    /// Each name that is taken, with its origin.
    names: HashMap<String, String>,
    targets: Vec<Target>,
    /// Groups with a member, valid or not.
    populated: HashSet<String>,
    /// Members of all groups, valid or not.
    members: usize,
    /// Accounts of all members.
    accounts: usize,
    /// There are too many, which was noted.
    full: bool,
}

impl<'a> GroupExpansion<'a, '_> {
    /// Whether `more` members are within the limit: a few lines can be a template of any number.
    fn takes(&mut self, more: usize, field: &Field<'_>) -> bool {
        if self.members + more <= expand::MOST {
            self.members += more;
            return true;
        }
        if !std::mem::replace(&mut self.full, true) {
            let what = format!("groups and files have more than {} targets in all", expand::MOST);
            field.error(what, "share them out among several agents");
        }
        false
    }

    /// A text of a group's `targets`; it is the target's name.
    fn expanded(&mut self, group: &Group<'a>, field: &Field<'_>, text: String) {
        self.populated.insert(group.name.clone());
        let entry = field.entry(&options::GROUP, &text);
        let Some(address) = read_address(&entry, Some(group), &text) else { return };
        let origin = format!("a target of the group {:?}", group.name);
        self.add(Some(group), &entry, address, (Some(text), origin), &BTreeMap::new());
    }

    /// The targets of a source. Returns how many of them the configuration cannot have, which is noted of each.
    fn discovered(&mut self, group: &Group<'a>, source: &TargetSource, answer: &DiscoveredTargets) -> u64 {
        let mut refused = 0;
        for entry in &answer.0 {
            let labels = Rc::new(entry.labels.clone());
            for target in &entry.targets {
                let place = || Place::Discovered(source.id.to_string());
                let reader = self.shared.root.reader;
                let entry = reader.entry(&options::GROUP, place(), target.clone());
                let before = self.targets.len();
                let is_refused = reader.refusing(|| self.discovered_target((group, source), target, &labels, place()));
                if is_refused && self.targets.len() > before {
                    // A key of the group cannot be filled in for it, which was noted there.
                    let what = "the group's keys cannot be filled in for this target";
                    reader.refusing(|| entry.error("", what, "see the problem of the key, or give it another name"));
                    if let Some(unfit) = self.targets.pop() {
                        self.accounts -= unfit.accounts.len();
                        self.names.remove(&unfit.name);
                    }
                }
                refused += u64::from(self.targets.len() == before);
            }
        }
        refused
    }

    fn discovered_target(
        &mut self,
        (group, source): (&Group<'a>, &TargetSource),
        target: &str,
        labels: &Rc<BTreeMap<String, String>>,
        place: Place,
    ) {
        let listed = ListedTarget { text: target.to_owned(), labels: labels.clone(), place, key: target.to_owned() };
        let refuse = |listed: ListedTarget, what: String, help: &str| {
            self.shared.root.reader.entry(&options::GROUP, listed.place, listed.key).error("", what, help);
        };
        // `discovery` has checked both; a password depends on it.
        if target.contains(['@', '/']) || !source.allows_target(target) {
            let what = "the group's `hosts` does not have this host".to_owned();
            refuse(listed, what, "add it if it may get the passwords");
        } else if self.members == expand::MOST {
            let what = format!("groups, files and sources have more than {} targets in all", expand::MOST);
            refuse(listed, what, "share them out among several agents");
        } else {
            self.members += 1;
            self.listed(Some(group), listed);
        }
    }

    /// A target of a file or a source, for the group in its labels, or else for `own`.
    fn listed(&mut self, own: Option<&Group<'a>>, listed: ListedTarget) {
        let origin = format!("{}, {}", listed.place, listed.key);
        let entry = self.shared.root.reader.entry(&options::GROUP, listed.place, listed.key);
        let mut labels = BTreeMap::new();
        let (mut group, mut name) = (own, None);
        for (key, value) in &*listed.labels {
            match key.as_str() {
                // Another group has other passwords, and its own `hosts`.
                GROUP if entry.is_discovered() => {
                    if own.is_none_or(|own| own.name != *value) {
                        let what = format!(
                            "the label {GROUP} names the group {}, which does not have this source",
                            shown(value)
                        );
                        return entry.error("", what, "take the label out, or name the source in that group");
                    }
                }
                GROUP => {
                    group = self.groups.get(value.as_str()).copied();
                    if group.is_none() {
                        // A group with an error was noted.
                        if self.complete {
                            let near = self.shared.root.reader.nearest(value, self.groups.keys().copied());
                            let help = near.map_or_else(
                                || "add [[groups]] with this name".to_owned(),
                                |near| format!("did you mean {near:?}?"),
                            );
                            entry.error("", format!("there is no group {}", shown(value)), help);
                        }
                        return;
                    }
                }
                NAME => name = Some(value),
                own if own.starts_with("__imaptrace") => {
                    let what = format!("there is no label {}", shown(own));
                    return entry.error("", what, format!("there are {GROUP} and {NAME}"));
                }
                // Prometheus's own, for relabelling.
                other if other.starts_with("__") => {}
                _ if value.is_empty() => {}
                other if !is_label(other) => {
                    return entry.error("", format!("{}: {NO_LABEL}", shown(other)), "rename it");
                }
                _ if value.chars().any(char::is_control) => {
                    let what = format!("the label {key} holds a control character");
                    return entry.error("", what, "take out line ends, tabs and the like");
                }
                _ => {
                    labels.insert(key.clone(), value.clone());
                }
            }
        }
        self.populated.extend(group.map(|group| group.name.clone()));
        let Some(address) = read_address(&entry, group, &listed.text) else { return };
        let name = name.map(|name| name.replace("{host}", &address.0.host.to_string()));
        self.add(group, &entry, address, (name, origin), &labels);
    }

    fn add(
        &mut self,
        group: Option<&Group<'a>>,
        entry: &Table<'_>,
        (url, is_own): (ServerUrl, bool),
        (name, origin): (Option<String>, String),
        labels: &BTreeMap<String, String>,
    ) {
        let of_url = Options::of_url(&url);
        let options = match group {
            Some(group) if is_own => of_url.over(&group.settings),
            Some(group) => group.options.over(&of_url.over(self.shared.defaults)),
            None => of_url.over(self.shared.defaults),
        };
        let keys = group.map_or(entry, |group| &group.table);
        let Some(server) = target::find_server(keys, entry, &options, &url) else { return };
        let (security, endpoint) = &server;
        let host = endpoint.host.to_string();
        let is_default = endpoint.port == Endpoint::default_port(*security);
        let name = name.unwrap_or_else(|| if is_default { host.clone() } else { endpoint.to_string() });
        if let Some(word) = [&name, &host].into_iter().find(|word| is_unfit(word)) {
            let what = format!("{} cannot be a target's name: it may become a part of a secret's path", shown(word));
            let help = "a name is made of letters, digits and `.-_:[]@+`, and begins with neither `.` nor `-`";
            return entry.error("", what, help);
        }
        if let Some(first) = self.names.get(&name) {
            let what = format!("{} is the name of {first} already", shown(&name));
            return entry.error("", what, "give each target a name of its own");
        }
        if group.is_none() && (url.user.is_none() || url.password.is_none()) {
            let help = format!("name its group in the label {GROUP}, or move targets_from into [[groups]]");
            return entry.error("", "it has no group, so there is no user name and no password for it", help);
        }
        let member = if group.is_some() { TargetOrigin::Member } else { TargetOrigin::Listed };
        let more = ((host.as_str(), name.as_str()), labels, self.shared.defaults_table);
        let accounts = account::read(keys, Some(&url), &options, &member, more);
        target::check_external(keys, server.0, &accounts);
        self.accounts += accounts.accounts.len();
        if self.accounts > expand::MOST && entry.is_discovered() {
            self.accounts -= accounts.accounts.len();
            let what = format!("groups, files and sources have more than {} accounts in all", expand::MOST);
            return entry.error("", what, "share them out among several agents");
        }
        if self.accounts > expand::MOST {
            if !std::mem::replace(&mut self.full, true) {
                let what = format!("groups and files have more than {} accounts in all", expand::MOST);
                keys.error("accounts", what, "share them out among several agents");
            }
            return;
        }
        self.names.insert(name.clone(), origin);
        let names = (name, group.map(|group| group.name.clone()));
        self.targets.push(target::assemble(names, server, accounts, options, self.shared));
    }
}

/// A file of targets may have another author than the configuration. A name from it must not lead from a directory of secrets
/// to another, nor be an option or a command of a program.
fn is_unfit(word: &str) -> bool {
    let plain = |letter: char| letter.is_alphanumeric() || ".-_:[]@+".contains(letter);
    word.is_empty() || word.starts_with(['.', '-']) || !word.chars().all(plain)
}

/// A member's URL, and whether it is its own: otherwise the group's with the member's host. None when it cannot be read. A URL
/// is not shown, since it may contain a password.
fn read_address(entry: &Table<'_>, group: Option<&Group<'_>>, text: &str) -> Option<(ServerUrl, bool)> {
    let refuse = |error: url::ServerError| {
        let subject = if text.contains(['@', '/']) { "the address".to_owned() } else { shown(text) };
        let what = format!("{subject} cannot be used: {error}");
        entry.error("", what, "write HOST, HOST:PORT or imaps://HOST[:PORT]");
    };
    if text.contains("://") {
        return Some((url::parse(text).map_err(refuse).ok()?, true));
    }
    let (host, port) = url::parse_place(text).map_err(refuse).ok()?;
    let template = group.map_or(URL, |group| &group.url);
    let mut url = url::parse(&template.replace(URL, &host.bracketed())).map_err(refuse).ok()?;
    url.port = port.or(url.port);
    Some((url, false))
}

//! Many targets in few lines: `[[groups]]` and `targets_from`.
//!
//! A group's keys are read once and hold for each of its members, whether it comes from `targets` or from a file. A problem
//! with a key is reported at the key, a problem with a member at the member. Called by `load`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    path::PathBuf,
};

use crate::{
    config::{
        sources::readers::{Field, Table, TreeReader, shown},
        targets::{
            account::{self, Owner},
            consistency::{check_own_pair, check_times},
            expand::{self, Placeholders},
            file_sd::{self, ListedTarget},
            options::{self, Needs, Options},
            target::{self, NO_LABEL, ReportPlaces, SecuredEndpoint, SharedSettings, TargetOrigin},
            url::{self, ServerUrl},
        },
    },
    plan::{Endpoint, Host, Target},
};

/// The label that names a member's group.
const GROUP: &str = "__imaptrace_group__";
/// The label that names the target; `{host}` stands for its host.
const NAME: &str = "__imaptrace_name__";
/// Where a group does not say, a member is its own address: the scheme follows from `security`.
const URL: &str = "{host}";

/// One `[[groups]]` entry.
struct Group<'a> {
    table: Table<'a>,
    name: String,
    options: Options,
    /// With `[defaults]` below.
    settings: Options,
    url: String,
}

/// Groups by their names.
struct GroupsByName<'a, 'b> {
    groups: BTreeMap<&'b str, &'b Group<'a>>,
    /// Every group is here: none was left out because of an error in it.
    complete: bool,
}

/// What was read before, and holds for all groups.
pub(crate) struct GroupContext<'a, 'b> {
    pub(crate) reader: &'a TreeReader,
    pub(crate) root: &'b Table<'a>,
    pub(crate) defaults_table: &'b Table<'a>,
    pub(crate) defaults: &'b Options,
    pub(crate) common: SharedSettings,
}

/// All targets of groups and files. `listed` are the tables of `[[targets]]`, whose names are taken; files and directories that
/// are read are added to `watched`.
pub(crate) fn read(context: &GroupContext<'_, '_>, listed: &[Table<'_>], watched: &mut Vec<PathBuf>) -> Vec<Target> {
    let groups = read_groups(context);
    let named = GroupsByName {
        groups: groups.iter().flatten().map(|group| (group.name.as_str(), group)).collect(),
        complete: groups.iter().all(Option::is_some),
    };
    let mut expansion = GroupExpansion {
        context,
        names: HashMap::new(),
        targets: Vec::new(),
        populated: HashSet::new(),
        members: 0,
        full: false,
    };
    for (index, table) in listed.iter().enumerate() {
        if let Some(name) = table.get("name").and_then(|field| field.as_text()) {
            expansion.names.insert(name.to_owned(), format!("targets[{index}]"));
        }
    }
    for group in groups.iter().flatten() {
        for (field, template) in group.table.get("targets").and_then(|field| field.list()).unwrap_or_default() {
            // Not repeated, and so not expanded either: a password may stand in it.
            if template.contains(['@', '/']) {
                let help = "let url and user say the rest: url = \"imap://{host}\"";
                field.error("it is more than HOST or HOST:PORT", help);
                continue;
            }
            match expand::expand(&template) {
                Ok(texts) => {
                    if !expansion.takes(texts.len(), &field) {
                        continue;
                    }
                    for text in texts {
                        expansion.expanded(group, &field, text);
                    }
                }
                Err(error @ expand::ExpandError::TooMany) => field.error(error.to_string(), "split it up"),
                Err(error) => {
                    field.error(error.to_string(), "write mail{01..20}.example.org, or {a,b}.example.org");
                }
            }
        }
    }
    let mut seen = HashSet::new();
    let mut read_files = |table: &Table<'_>, own: Option<&Group<'_>>| {
        for (field, pattern) in table.get("targets_from").and_then(|field| field.list()).unwrap_or_default() {
            for path in file_sd::files(context.reader, &field, &pattern, watched) {
                // Two patterns may name one file.
                if !seen.insert((path.clone(), own.map(|group| group.name.clone()))) {
                    continue;
                }
                for entry in file_sd::read(context.reader, &field, &path) {
                    if !expansion.takes(1, &field) {
                        break;
                    }
                    expansion.listed(&named, own, entry);
                }
            }
        }
    };
    for group in groups.iter().flatten() {
        read_files(&group.table, Some(group));
    }
    read_files(context.root, None);
    for group in groups.iter().flatten().filter(|group| !expansion.populated.contains(&group.name)) {
        let help = "add targets or targets_from, or name it in a file of targets";
        group.table.warn("", format!("the group {:?} has no target", group.name), help);
    }
    expansion.targets
}

/// None for a group with an error in its own keys.
fn read_groups<'a>(context: &GroupContext<'a, '_>) -> Vec<Option<Group<'a>>> {
    let mut names = HashMap::new();
    let tables = context.root.tables("groups", &options::GROUP);
    let read = tables.into_iter().enumerate().map(|(index, table)| {
        let options = Options::read(&table);
        let settings = options.over(context.defaults);
        check_times(&table, context.defaults_table, &settings);
        check_own_pair(&table, &settings);
        // An error of one was noted; those of the others are noted too.
        let url = table.get("url").and_then(|field| read_url(&field)).unwrap_or_else(|| URL.to_owned());
        let Some(field) = table.get("name") else {
            let help = "add name = \"…\": windows, files of targets and metrics call it so";
            table.error("name", "the group has no name", help);
            return None;
        };
        let name = field.text()?;
        if let Some(first) = names.insert(name.clone(), index) {
            table.error("name", format!("groups[{first}] has the same name"), "give each group a name of its own");
            return None;
        }
        Some(Group { table, name, options, settings, url })
    });
    read.collect()
}

fn read_url(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    if let Some(word) = expand::unknown(&text, &["host"]) {
        field.error(format!("nothing stands for {{{word}}}"), "there is {host}");
        return None;
    }
    if !text.contains(URL) {
        field.error("there is no {host} in it: all targets would be the same server", "write \"imaps://{host}\"");
        return None;
    }
    Some(text)
}

/// The targets made so far, and what later ones are checked against.
struct GroupExpansion<'a, 'b> {
    context: &'b GroupContext<'a, 'b>,
    /// Each name that is taken, with where it is from.
    names: HashMap<String, String>,
    targets: Vec<Target>,
    /// Groups with a member, right or wrong.
    populated: HashSet<String>,
    /// Members of all groups, right or wrong.
    members: usize,
    /// There were too many; that was noted already.
    full: bool,
}

impl GroupExpansion<'_, '_> {
    /// Whether `more` members are within the limit. A few lines can stand for more than any memory holds.
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

    /// A text out of a group's `targets`; it is the target's name.
    fn expanded(&mut self, group: &Group<'_>, field: &Field<'_>, text: String) {
        self.populated.insert(group.name.clone());
        let entry = field.entry(&options::GROUP, &text);
        let Some(address) = Address::read(&entry, Some(group), &text) else { return };
        let origin = format!("a target of the group {:?}", group.name);
        self.add(Some(group), &entry, &address, Some(text), BTreeMap::new(), origin);
    }

    /// A target out of a file, for the group that its labels name, else for `own`.
    fn listed(&mut self, named: &GroupsByName<'_, '_>, own: Option<&Group<'_>>, listed: ListedTarget) {
        let origin = format!("{}, {}", listed.place, listed.key);
        let entry = self.context.reader.entry(&options::GROUP, listed.place, listed.key);
        let mut labels = BTreeMap::new();
        let (mut group, mut name) = (own, None);
        for (key, value) in &*listed.labels {
            match key.as_str() {
                GROUP => {
                    group = named.groups.get(value.as_str()).copied();
                    if group.is_none() {
                        // One with an error was noted already.
                        if named.complete {
                            let near = self.context.reader.nearest(value, named.groups.keys().copied());
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
                other if !target::is_label(other) => {
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
        if let Some(group) = group {
            self.populated.insert(group.name.clone());
        }
        let Some(address) = Address::read(&entry, group, &listed.text) else { return };
        let host = address.url.host.to_string();
        let name = name.map(|name| name.replace("{host}", &host));
        self.add(group, &entry, &address, name, labels, origin);
    }

    fn add(
        &mut self,
        group: Option<&Group<'_>>,
        entry: &Table<'_>,
        address: &Address,
        name: Option<String>,
        labels: BTreeMap<String, String>,
        origin: String,
    ) {
        let Address { url, whole } = address;
        let of_url = Options::of_url(url);
        // What a member says itself beats its group: then the group's keys are as good as defaults.
        let options = match group {
            Some(group) if *whole => of_url.over(&group.settings),
            Some(group) => group.options.over(&of_url.over(self.context.defaults)),
            None => of_url.over(self.context.defaults),
        };
        let keys = group.map_or(entry, |group| &group.table);
        let place = ReportPlaces { keys, entry, kind: &TargetOrigin::Listed };
        let Some(server) = SecuredEndpoint::find(&place, &options, url) else { return };
        let name = name.unwrap_or_else(|| {
            let standard = server.endpoint.port == Endpoint::default_port(server.security);
            if standard { server.endpoint.host.to_string() } else { server.endpoint.to_string() }
        });
        let host = url.host.to_string();
        if let Some(word) = [&name, &host].into_iter().find(|word| is_unfit(word)) {
            let what = format!("{} cannot be a target's name: it may become a part of a secret's path", shown(word));
            return entry.error(
                "",
                what,
                "a name is made of letters, digits and `.-_:[]@+`, and begins with neither `.` nor `-`",
            );
        }
        if let Some(first) = self.names.get(&name) {
            let what = format!("{} is the name of {first} already", shown(&name));
            return entry.error("", what, "give each target a name of its own");
        }
        let fill = Placeholders { host: &host, name: &name };
        let accounts = match group {
            Some(group) => {
                let owner = Owner::Member { placeholders: fill, own_url: *whole };
                account::read(&group.table, Some(url), &owner, group.settings.needs())
            }
            None if url.user.is_some() && url.password.is_some() => {
                account::read(entry, Some(url), &Owner::Target, Needs::Password)
            }
            None => {
                let help = format!("name its group in the label {GROUP}, or move targets_from into [[groups]]");
                return entry.error("", "it has no group, so there is no user name and no password for it", help);
            }
        };
        let mut all = group.map(|group| target::read_labels(&group.table, Some(&fill))).unwrap_or_default();
        all.extend(labels);
        let group = group.map(|group| group.name.clone());
        self.names.insert(name.clone(), origin);
        let target = target::settle(name, group, server, accounts, all, options, self.context.common);
        self.targets.extend(target);
    }
}

/// A file of targets may be written by others than who wrote the configuration. What comes out of it must not lead from a
/// folder of secrets into another, nor be an option to a program that prints one, nor a command to a shell.
fn is_unfit(word: &str) -> bool {
    let plain = |letter: char| letter.is_alphanumeric() || ".-_:[]@+".contains(letter);
    word.is_empty() || word.starts_with(['.', '-']) || !word.chars().all(plain)
}

/// Where a member is.
struct Address {
    url: ServerUrl,
    /// It is a URL of its own, not a host that was put into the group's.
    whole: bool,
}

impl Address {
    /// None when it cannot be read. A URL is not repeated: a password may stand in it.
    fn read(entry: &Table<'_>, group: Option<&Group<'_>>, text: &str) -> Option<Self> {
        let wrong = |error: url::ServerError| {
            let secret = text.contains(['@', '/']);
            let subject = if secret { "the address".to_owned() } else { shown(text) };
            entry.error(
                "",
                format!("{subject} cannot be used: {error}"),
                "write HOST, HOST:PORT or imaps://HOST[:PORT]",
            );
        };
        if text.contains("://") {
            let url = url::parse(text).map_err(wrong).ok()?;
            return Some(Self { url, whole: true });
        }
        let (host, port) = url::parse_place(text).map_err(wrong).ok()?;
        let host = match host {
            Host::Address(IpAddr::V6(address)) => format!("[{address}]"),
            host => host.to_string(),
        };
        let template = group.map_or(URL, |group| &group.url);
        let mut url = url::parse(&template.replace(URL, &host)).map_err(wrong).ok()?;
        url.port = port.or(url.port);
        Some(Self { url, whole: false })
    }
}

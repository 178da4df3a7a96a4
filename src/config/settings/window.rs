//! Maintenance windows: `[[windows]]`. Reads no clock, so a window may be in the past. Called by `load`.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use jiff::{
    Timestamp,
    civil::{Time, Weekday},
    tz::TimeZone,
};

use crate::{
    config::{
        sources::{
            readers::{Field, Table},
            schema::TableKeys,
        },
        targets::options,
    },
    plan::{Glob, Hours, Maintenance, Scope, Target},
};

pub(crate) static KEYS: TableKeys =
    TableKeys::new("windows", &["name", "days", "from", "to", "time_zone", "targets", "groups", "labels"]);

const DAYS: [(&str, Weekday); 7] = [
    ("mon", Weekday::Monday),
    ("tue", Weekday::Tuesday),
    ("wed", Weekday::Wednesday),
    ("thu", Weekday::Thursday),
    ("fri", Weekday::Friday),
    ("sat", Weekday::Saturday),
    ("sun", Weekday::Sunday),
];

/// Reads all windows. `targets`, for the warning of a window without one, are absent after an error in one of them.
pub(crate) fn read(root: &Table<'_>, targets: Option<&[Target]>) -> Vec<Maintenance> {
    let tables = root.tables("windows", &KEYS);
    let groups: BTreeSet<String> = root
        .tables("groups", &options::GROUP)
        .iter()
        .filter_map(|group| group.read("name", Field::as_text).map(str::to_owned))
        .collect();
    let mut names = HashSet::new();
    let mut windows = Vec::new();
    for table in &tables {
        let name = table.required("name", "the window has no name", "add name = \"…\": the log shows it");
        let hours = read_hours(table);
        let scope = read_scope(table, &groups);
        let (Some(name), Some(hours), Some(scope)) = (name, hours, scope) else { continue };
        if !names.insert(name.clone()) {
            table.error("name", "another window has the same name", "give each window a name of its own");
        }
        if targets.is_some_and(|targets| {
            !targets.iter().any(|target| target.probed().any(|(_, probed)| scope.contains(&probed)))
        }) {
            let help = "a target has to fit targets, groups and labels, as far as they are given";
            table.warn("", "the window is for none of the targets", help);
        }
        windows.push(Maintenance { name, hours, scope });
    }
    windows
}

/// The beginning or the end of a window.
enum WindowEnd {
    Absent,
    /// It could not be read, which was noted.
    Misread,
    /// `"22:00"`; none is `"24:00"`.
    Daily(Option<Time>),
    /// `"2026-12-01T22:00:00+01:00"`.
    Moment(Timestamp),
}

fn read_hours(table: &Table<'_>) -> Option<Hours> {
    let days = table.get("days").map(|field| read_days(&field));
    let zone = table.get("time_zone").map(|field| read_zone(&field));
    let [from, to] = ["from", "to"].map(|key| match table.get(key) {
        None => WindowEnd::Absent,
        Some(field) => read_end(&field).unwrap_or(WindowEnd::Misread),
    });
    match (from, to) {
        (WindowEnd::Absent, WindowEnd::Absent) if days.is_none() => {
            table.error("from", "the window has no time", "add days, or from and to");
            None
        }
        (WindowEnd::Moment(from), WindowEnd::Moment(to)) => {
            for key in ["days", "time_zone"] {
                if table.has(key) {
                    let what = format!("{key} goes with times of the day alone, not with dates");
                    table.error(key, what, "take it out: a date has its offset from UTC with it");
                }
            }
            if from >= to {
                table.error("to", "the window ends before it begins", "make to later than from");
                return None;
            }
            Some(Hours::Once { from, to })
        }
        (WindowEnd::Moment(_), other) | (other, WindowEnd::Moment(_)) => {
            if !matches!(other, WindowEnd::Misread) {
                let help = "write both as a time of the day, or both with date and offset from UTC";
                table.error("from", "from and to are not of one kind", help);
            }
            None
        }
        (from, to) => {
            let from = match from {
                WindowEnd::Absent => Time::midnight(),
                WindowEnd::Daily(Some(time)) => time,
                WindowEnd::Daily(None) => {
                    table.error("from", "no window begins at the end of a day", "write \"00:00\" and the day after");
                    return None;
                }
                _ => return None,
            };
            let to = match to {
                WindowEnd::Absent => None,
                WindowEnd::Daily(time) => time,
                _ => return None,
            };
            if to == Some(from) {
                table.error("to", "the window ends when it begins", "for whole days take from and to out");
                return None;
            }
            let days = days.unwrap_or_else(|| Some(DAYS.map(|(_, day)| day).to_vec()))?;
            Some(Hours::Weekly { days, from, to, zone: zone.unwrap_or(Some(TimeZone::UTC))? })
        }
    }
}

fn read_days(field: &Field<'_>) -> Option<Vec<Weekday>> {
    let mut days = Vec::new();
    let words = field.list()?;
    if words.is_empty() {
        field.error("it names no day", "name one, or take it out: then it is every day");
    }
    let count = words.len();
    for (word, text) in words {
        match DAYS.iter().find(|(name, _)| *name == text) {
            Some((_, day)) => days.push(*day),
            None => word.error("it is not a day", format!("the days are {}", DAYS.map(|(name, _)| name).join(", "))),
        }
    }
    Some(days).filter(|days| !days.is_empty() && days.len() == count)
}

fn read_zone(field: &Field<'_>) -> Option<TimeZone> {
    let name = field.text()?;
    let help = "take one from the list of IANA, such as \"Europe/Berlin\"";
    TimeZone::get(&name).map_err(|_| field.error("there is no such time zone", help)).ok()
}

fn read_end(field: &Field<'_>) -> Option<WindowEnd> {
    let text = field.text()?;
    let end = time_of_day(&text).or_else(|| text.parse().map(WindowEnd::Moment).ok());
    if end.is_none() {
        let help = "write \"22:00\", or \"2026-12-01T22:00:00+01:00\" for a window of one time";
        field.error("it is neither a time of the day nor a date and time with its offset from UTC", help);
    }
    end
}

/// `HH:MM`; `24:00` is the end of the day.
fn time_of_day(text: &str) -> Option<WindowEnd> {
    let (hour, minute) = text.split_once(':')?;
    let number = |digits: &str| -> Option<i8> {
        (digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
    };
    match (number(hour)?, number(minute)?) {
        (24, 0) => Some(WindowEnd::Daily(None)),
        (hour, minute) => Time::new(hour, minute, 0, 0).ok().map(|time| WindowEnd::Daily(Some(time))),
    }
}

fn read_scope(table: &Table<'_>, groups: &BTreeSet<String>) -> Option<Scope> {
    let mut complete = true;
    let mut list = |key| {
        let words = table.read(key, Field::list);
        if words.as_ref().is_some_and(Vec::is_empty) {
            table.error(key, "it is empty", "name some, or take it out: then it is all");
        }
        complete &= words.is_some() || !table.has(key);
        words.unwrap_or_default()
    };
    let targets = list("targets").into_iter().map(|(_, text)| Glob::new(&text)).collect();
    let mut named = Vec::new();
    for (field, name) in list("groups") {
        if !groups.contains(&name) {
            let near = field.reader.nearest(&name, groups.iter().map(String::as_str));
            let help = near.map(|near| format!("did you mean {near:?}?")).unwrap_or_default();
            field.error("there is no such group", help);
        }
        named.push(name);
    }
    let mut labels = BTreeMap::new();
    for (key, value) in table.get("labels").map(|field| field.entries()).unwrap_or_default() {
        labels.extend(value.text().map(|text| (key.to_owned(), Glob::new(&text))));
    }
    complete.then_some(Scope { targets, groups: named, labels })
}

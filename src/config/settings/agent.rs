//! `[agent]`: the agent's name, its labels, its shard and its log. Called by `load`.

use std::collections::BTreeMap;

use tracing::Level;

use crate::{
    config::{
        sources::{
            readers::{Field, Table, shown},
            schema::TableKeys,
            tree::ShardScope,
        },
        targets::labels::{check_prometheus_labels, read_labels},
    },
    plan::{Choice, Shard, ordinal_of},
    telemetry::{ResourceSettings, logs::LogFormat},
};

pub(crate) static KEYS: TableKeys =
    TableKeys::new("agent", &["instance", "labels", "shard", "copies", "log_format", "log_level"]);

/// The most agents that probe the same targets.
const MOST_COPIES: u64 = 100;

/// Settings of the agent itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// The labels of the agent's own metrics.
    pub labels: BTreeMap<String, String>,
    /// The number of agents that probe each target of this one, itself included. The agent only exports it.
    pub copies: u64,
    /// The format of log lines.
    pub log_format: LogFormat,
    /// The lowest level that is logged.
    pub log_level: Level,
}

impl Choice for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

impl Choice for Level {
    const WORDS: &'static [(&'static str, Self)] =
        &[("error", Self::ERROR), ("warn", Self::WARN), ("info", Self::INFO), ("debug", Self::DEBUG)];
}

/// Reads `[agent]`. Its `instance` is of the resource, where it takes precedence over the attribute `service.instance.id`.
pub(crate) fn read(table: &Table<'_>, resource: &mut ResourceSettings) -> Agent {
    let attribute = resource.attributes.iter().position(|(key, _)| key == "service.instance.id");
    let attribute = attribute.map(|index| resource.attributes.remove(index).1);
    resource.instance = table.read("instance", Field::text).or(attribute);
    let labels = read_labels(table, None);
    if let Some(field) = table.get("labels") {
        check_prometheus_labels(&field, labels.keys());
    }
    Agent {
        labels,
        copies: table.read("copies", |field| field.number(1..=MOST_COPIES)).unwrap_or(1),
        log_format: table.read("log_format", Field::choice).unwrap_or(LogFormat::Text),
        log_level: table.read("log_level", Field::choice).unwrap_or(Level::INFO),
    }
}

/// Reads the shard whose targets are wanted; none: those of all shards.
pub(crate) fn shard(table: &Table<'_>, scope: &ShardScope) -> Option<Shard> {
    let shard = table.read("shard", |field| {
        let text = field.text()?;
        let help = "write \"I/N\", with I from 0 to N-1, or \"ordinal/N\" for the number at the end of the host's name";
        let Some((index, count)) = text.split_once('/') else {
            field.error(format!("{} is no shard: expected \"I/N\", such as \"0/5\"", shown(&text)), help);
            return None;
        };
        let number =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u32>().ok()).flatten();
        let Some(count) = number(count).filter(|count| (1..=Shard::MOST).contains(count)) else {
            let most = Shard::MOST;
            field.error(format!("{} is no number of shards: expected 1 to {most}", shown(count)), help);
            return None;
        };
        let index = if index == "ordinal" {
            match scope {
                ShardScope::All => return None,
                ShardScope::OfHost(name) => {
                    let ordinal = ordinal_of(name);
                    if ordinal.is_none() {
                        let what = format!("the name of this host, {}, does not end in -NUMBER", shown(name));
                        field.error(what, "write the shard as \"I/N\" where no StatefulSet names the hosts");
                    }
                    ordinal?
                }
                ShardScope::OfNoHost => {
                    let what = "the shard is by the name of the agent's host, so the targets of all shards are checked";
                    field.warn(what, "set IMAPTRACE__AGENT__SHARD to check one shard");
                    return None;
                }
            }
        } else if let Some(index) = number(index) {
            index
        } else {
            field.error(format!("{} is no shard: expected a number or \"ordinal\"", shown(index)), help);
            return None;
        };
        let shard = Shard::new(index, count);
        if shard.is_none() {
            let last = count - 1;
            field.error(format!("there is no shard {index} of {count}: expected 0 to {last}"), "count shards from 0");
        }
        shard
    });
    shard.filter(|_| *scope != ShardScope::All)
}

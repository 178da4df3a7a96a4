//! `[agent]`: the agent's name and its log. Called by `load`.

use tracing::Level;

use crate::{
    config::sources::{
        readers::{Field, Table},
        schema::TableKeys,
    },
    plan::Choice,
    telemetry::{ResourceSettings, logs::LogFormat},
};

pub(crate) static KEYS: TableKeys = TableKeys::new("agent", &["instance", "log_format", "log_level"]);

/// Settings of the agent itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
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
    Agent {
        log_format: table.read("log_format", Field::choice).unwrap_or(LogFormat::Text),
        log_level: table.read("log_level", Field::choice).unwrap_or(Level::INFO),
    }
}

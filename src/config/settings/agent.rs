//! `[agent]`: who the agent is and how it logs.
//!
//! Reads the table into plain values; nothing is done with them here. Called by `load`.

use crate::{
    config::sources::{readers::Table, schema::TableKeys},
    telemetry::{ResourceSettings, logs::LogFormat},
};

pub(crate) static KEYS: TableKeys = TableKeys::new("agent", &["instance", "log_format", "log_level"]);

/// The agent itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// How log lines look.
    pub log_format: LogFormat,
    /// The least level that is logged.
    pub log_level: LogLevel,
}

/// The least level that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Only what needs an action.
    Error,
    /// And what may need one.
    Warn,
    /// And changes of state.
    Info,
    /// And every step.
    Debug,
}

impl LogLevel {
    /// The word in the configuration, which `tracing` understands too.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

/// Reads `[agent]`. Its `instance` is of the resource, where it takes precedence over the attribute `service.instance.id`.
pub(crate) fn read(table: &Table<'_>, resource: &mut ResourceSettings) -> Agent {
    let attribute = resource.attributes.iter().position(|(key, _)| key == "service.instance.id");
    let attribute = attribute.map(|index| resource.attributes.remove(index).1);
    resource.instance = table.get("instance").and_then(|field| field.text()).or(attribute);
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let levels =
        [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug].map(|level| (level.as_str(), level));
    Agent {
        log_format: table.get("log_format").and_then(|field| field.choice(&formats)).unwrap_or(LogFormat::Text),
        log_level: table.get("log_level").and_then(|field| field.choice(&levels)).unwrap_or(LogLevel::Info),
    }
}

//! How a run and a step ended, and why a planned run did not start (docs/record.md).

use serde::{Deserialize, Serialize};

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunOutcome {
    /// The message list was there.
    Passed,
    /// Server, network or credentials kept the user from the message list.
    Failed,
    /// The agent could not judge: overloaded, suspended, cancelled, mis-configured. Says nothing of the target.
    Void,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepOutcome {
    /// It did what it is for.
    Passed,
    /// It did not, or could not even start.
    Failed,
    /// It was not needed, or its turn never came in a state to speak. It has no span.
    Skipped,
}

/// Why a planned run did not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// The account's last run was still in flight.
    Running,
    /// The limit on runs in flight or on logins left no room for it in time.
    Limit,
    /// It is in a maintenance window.
    Window,
    /// The process did not get to run in time.
    Overload,
}

impl SkipReason {
    /// All reasons.
    pub const ALL: [Self; 4] = [Self::Running, Self::Limit, Self::Window, Self::Overload];

    /// The word in telemetry and text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Limit => "limit",
            Self::Window => "window",
            Self::Overload => "overload",
        }
    }
}

impl RunOutcome {
    /// The word in JSON and text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Void => "void",
        }
    }
}

impl StepOutcome {
    /// The word in JSON and text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

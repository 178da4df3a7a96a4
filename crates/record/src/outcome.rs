//! How a run and a step ended (docs/record.md).

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

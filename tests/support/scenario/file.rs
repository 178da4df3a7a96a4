//! How a scenario is written down: `tests/scenarios/*.toml`. What is read here is only what stands there.

use std::{fmt, path::Path};

use figment::{
    Figment,
    providers::{Format as _, Toml},
};
use imaptrace_record::{ErrorType, RunOutcome};
use serde::Deserialize;

/// One thing that a server does, and what has to come of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The file's name without `.toml`.
    #[serde(default)]
    pub file: String,
    /// Rows of the table in `docs/testing.md`.
    pub rows: Vec<u32>,
    /// What the server does, in plain words.
    pub name: String,
    /// The target's `security`, one after the other.
    pub over: Vec<Over>,
    pub outcome: RunOutcome,
    pub error: Option<ErrorType>,
    /// The step that fails.
    pub step: Option<String>,
    /// See `support::scenario`.
    pub script: String,
    #[serde(default)]
    pub set: Set,
    #[serde(default)]
    pub expect: Expect,
}

/// `security` of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Over {
    None,
    Tls,
    StartTls,
}

/// What is set for the target, where it is not the default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Set {
    /// `login` or `plain`.
    pub auth: Option<String>,
    /// Tags are `T` and six digits.
    pub short_tags: bool,
    /// The user name is this long.
    pub user_bytes: Option<usize>,
    /// Nobody listens.
    pub closed: bool,
    /// The certificate is for this name, not for the address.
    pub certificate: Option<String>,
    pub line: Option<usize>,
    pub command_bytes: Option<u64>,
    pub responses: Option<u64>,
    /// Deadlines in milliseconds. All that are not set are a minute.
    pub tls_ms: Option<u64>,
    pub greeting_ms: Option<u64>,
    pub command_ms: Option<u64>,
    pub write_ms: Option<u64>,
}

/// What must be so beside outcome and class.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// All steps as `support::run::steps` has them, over clear text.
    pub steps: Option<String>,
    /// Stands in the failing step's text.
    pub text: Option<String>,
    /// Is the failing step's code.
    pub code: Option<String>,
    /// The most plain bytes that were read in all.
    pub most_received: Option<u64>,
    /// The exact number that the failing step reports.
    pub received: Option<u64>,
    /// The number of tolerated deviations.
    pub lenient: Option<u64>,
    /// The number of alerts in the record.
    pub alerts: Option<usize>,
    /// The text of the first of them.
    pub alert: Option<String>,
    /// The number of FETCH.
    pub messages: Option<u64>,
    /// The referral's host on record; `-` for none.
    pub referral: Option<String>,
    /// Name in the answer to ID; `-` for none.
    pub id: Option<String>,
    /// How the TLS connection ended.
    pub close_notify: Option<String>,
    pub preauth: bool,
    /// The client said no word, but for its part of TLS.
    pub nothing_heard: bool,
    /// The server received this.
    pub heard: Vec<String>,
    /// The server never received this.
    pub unheard: Vec<String>,
}

impl Over {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Tls => "tls",
            Self::StartTls => "starttls",
        }
    }
}

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Scenario {
    /// All of them, by their files' names.
    pub fn all() -> Vec<Self> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
        let mut paths: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
            .iter()
            .map(|path| Self::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
            .collect()
    }

    /// Whether it ends at a deadline.
    pub fn waits(&self) -> bool {
        self.error.is_some_and(|class| class.as_str().starts_with("timeout"))
    }

    fn read(path: &Path) -> Result<Self, String> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let file = name.strip_suffix(".toml").ok_or("it is no .toml file")?.to_owned();
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        Ok(Self { file, ..Self::parse(&text)? })
    }

    /// Reads what stands in a file.
    pub fn parse(text: &str) -> Result<Self, String> {
        let scenario: Self = Figment::from(Toml::string(text)).extract().map_err(|error| error.to_string())?;
        match () {
            () if scenario.rows.is_empty() || scenario.over.is_empty() => Err("it has no row, or is run over nothing"),
            () if (scenario.outcome == RunOutcome::Passed) != scenario.error.is_none() => {
                Err("passed goes without error")
            }
            () if scenario.error.is_none() != scenario.step.is_none() => Err("an error goes with the step that fails"),
            () => return Ok(scenario),
        }
        .map_err(str::to_owned)
    }
}

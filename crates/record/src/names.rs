//! The names in a record as types: steps, journeys, address families; and the words of `imaptrace-imap` in JSON.
//!
//! A record may be of another version. A step's name that this version does not have is kept as it is; a status, a response code,
//! a login method or an address family that it does not have is read as absent. Used by `run` and `step`.

use std::{borrow::Cow, fmt, str::FromStr};

use imaptrace_imap::{CommandName, ResponseCode, UnknownName};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

words! {
    /// What comes before the first command, in order.
    SetupStep {
        /// Name query to answer.
        Resolve = "resolve",
        /// SYN to established.
        Connect = "connect",
        /// First ClientHello byte to the end of the handshake.
        Tls = "tls",
        /// From established (or the handshake's end) to the greeting's CRLF.
        Greeting = "greeting",
    }

    /// The address family that a run was confined to.
    AddressFamily {
        /// IPv4.
        Ipv4 = "ipv4",
        /// IPv6.
        Ipv6 = "ipv6",
    }
}

/// The name of a step.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StepName {
    /// A step before the first command.
    Setup(SetupStep),
    /// An IMAP command.
    Command(CommandName),
    /// A name that this version does not have, as the record spells it.
    Other(String),
}

impl StepName {
    /// The name in JSON and text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Setup(step) => step.as_str(),
            Self::Command(command) => command.as_str(),
            Self::Other(name) => name,
        }
    }

    /// The command, if the step is one that this version has.
    pub fn command(&self) -> Option<CommandName> {
        match self {
            Self::Command(command) => Some(*command),
            Self::Setup(_) | Self::Other(_) => None,
        }
    }
}

impl Default for StepName {
    fn default() -> Self {
        Self::Other(String::new())
    }
}

impl From<SetupStep> for StepName {
    fn from(step: SetupStep) -> Self {
        Self::Setup(step)
    }
}

impl From<CommandName> for StepName {
    fn from(command: CommandName) -> Self {
        Self::Command(command)
    }
}

impl From<&str> for StepName {
    fn from(name: &str) -> Self {
        let setup = SetupStep::ALL.iter().find(|step| step.as_str() == name);
        let command = || name.parse().map(Self::Command).ok();
        setup.map(|step| Self::Setup(*step)).or_else(command).unwrap_or_else(|| Self::Other(name.to_owned()))
    }
}

impl PartialEq<SetupStep> for StepName {
    fn eq(&self, other: &SetupStep) -> bool {
        matches!(self, Self::Setup(step) if step == other)
    }
}

impl PartialEq<CommandName> for StepName {
    fn eq(&self, other: &CommandName) -> bool {
        self.command() == Some(*other)
    }
}

impl PartialEq<&str> for StepName {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl fmt::Display for StepName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for StepName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for StepName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::from(&*String::deserialize(deserializer)?))
    }
}

/// The name of a journey: lower-case letters, digits and hyphens, a letter first, at most 64 characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JourneyName(Cow<'static, str>);

/// A text that is no name of a journey.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a journey's name is up to 64 lower-case letters, digits and hyphens, a letter first")]
pub struct JourneyNameError;

impl JourneyName {
    /// What a mail program does until its message list shows.
    pub const FIRST_LOAD: Self = Self(Cow::Borrowed("first-load"));
    /// The same with a window of messages that changes with every run.
    pub const FIRST_LOAD_RANDOM: Self = Self(Cow::Borrowed("first-load-random"));
    /// The same with whole headers of old messages.
    pub const FIRST_LOAD_COLD: Self = Self(Cow::Borrowed("first-load-cold"));

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for JourneyName {
    type Err = JourneyNameError;

    fn from_str(name: &str) -> Result<Self, JourneyNameError> {
        let is_valid = name.len() <= 64
            && name.starts_with(|first: char| first.is_ascii_lowercase())
            && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if is_valid { Ok(Self(Cow::Owned(name.to_owned()))) } else { Err(JourneyNameError) }
    }
}

impl fmt::Display for JourneyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

text_in_json!(JourneyName);

/// JSON of an optional name of `imaptrace-imap`, which has no serde.
pub(super) mod known_name {
    use super::{Deserialize, Deserializer, FromStr, Serializer, UnknownName, fmt};

    #[expect(clippy::ref_option, reason = "serde calls it with a reference to the field")]
    pub(crate) fn serialize<T: fmt::Display, S: Serializer>(
        name: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match name {
            Some(name) => serializer.collect_str(name),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err = UnknownName>,
        D: Deserializer<'de>,
    {
        Ok(Option::<String>::deserialize(deserializer)?.and_then(|name| name.parse().ok()))
    }
}

/// The response code in JSON; one that this version does not have is `_OTHER`.
pub(super) fn known_code<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ResponseCode>, D::Error> {
    let name = Option::<String>::deserialize(deserializer)?;
    Ok(name.map(|name| name.parse().unwrap_or(ResponseCode::Other)))
}

/// The address family in JSON, or none if this version does not have it.
pub(super) fn known_family<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<AddressFamily>, D::Error> {
    let name = Option::<String>::deserialize(deserializer)?;
    Ok(AddressFamily::ALL.iter().copied().find(|family| name.as_deref() == Some(family.as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_step_is_given_back_as_it_was_read() {
        for (name, read) in [
            ("tls", StepName::from(SetupStep::Tls)),
            ("FETCH", StepName::from(CommandName::Fetch)),
            ("fetch", StepName::Other("fetch".to_owned())),
            ("XSECRET", StepName::Other("XSECRET".to_owned())),
            ("", StepName::default()),
        ] {
            let json = serde_json::to_string(name).unwrap();
            assert_eq!(serde_json::from_str::<StepName>(&json).unwrap(), read, "{name}");
            assert_eq!(serde_json::to_string(&read).unwrap(), json);
            assert!(read == name && read != "another", "{name}");
        }
    }

    #[test]
    fn the_name_of_a_step_equals_its_own_step_or_command_alone_and_is_shown_as_it_is_written() {
        let [tls, fetch] = [StepName::from(SetupStep::Tls), StepName::from(CommandName::Fetch)];
        assert!(tls == SetupStep::Tls && tls != SetupStep::Connect && fetch != SetupStep::Tls);
        assert!(fetch == CommandName::Fetch && fetch != CommandName::List && tls != CommandName::Fetch);
        assert_eq!((fetch.command(), tls.command()), (Some(CommandName::Fetch), None));
        assert_eq!(format!("{tls} {fetch} {}", StepName::from("odd")), "tls FETCH odd");
    }

    #[test]
    fn a_journey_has_a_name_that_can_stand_in_a_label() {
        let long = "a".repeat(64);
        for name in ["first-load", "a", "b2", &long] {
            let json = serde_json::to_string(name).unwrap();
            assert_eq!(serde_json::from_str::<JourneyName>(&json).unwrap().as_str(), name);
        }
        for wrong in ["", "First", "2a", "-a", "a b", "a_b", "ä", &format!("{long}a")] {
            assert_eq!(wrong.parse::<JourneyName>(), Err(JourneyNameError), "{wrong}");
        }
    }

    #[test]
    fn what_another_version_wrote_is_read_without_the_names_that_are_not_known() {
        let text = imaptrace_testkit::PASSED_RUN;
        let run = |family: &str| {
            let mut run: serde_json::Value = serde_json::from_str(text).unwrap();
            run["family"] = family.into();
            run["steps"][4]["status"] = "PERHAPS".into();
            serde_json::from_value::<crate::Run>(run).unwrap()
        };
        assert_eq!((run("ipv6").family, run("ipv9").family), (Some(AddressFamily::Ipv6), None));
        assert_eq!(run("ipv6").steps[4].status, None);
    }
}

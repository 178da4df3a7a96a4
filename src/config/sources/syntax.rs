//! Why a text is not TOML, and what to write instead.
//!
//! Derived from the start of lines. Shows a key, and a value only if it is a duration or a size: others may be a password.
//! Called by `tree` when the parser fails.

use serde::de::IgnoredAny;

use crate::config::sources::units;

/// An explanation in place of the parser's.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SyntaxProblem {
    /// The line, counted from 1, in place of the parser's.
    pub(crate) line: Option<usize>,
    /// In place of the parser's message.
    pub(crate) what: Option<String>,
    pub(crate) help: Option<String>,
}

const SAMPLE: &str =
    "write TOML: `[defaults]` on a line, `interval = \"30s\"` below it; imaptrace.toml is a complete sample";

/// Explains a text in which the parser stopped at this line.
pub(crate) fn explain(text: &str, stopped: usize) -> SyntaxProblem {
    let text = text.trim_start_matches('\u{feff}');
    let mut lines = text.lines().map(str::trim_end).enumerate();
    let first = lines.find(|(_, line)| !line.trim_start().is_empty() && !line.trim_start().starts_with('#'));
    let other = first.and_then(|(at, line)| Some((at + 1, language(text, line)?)));
    if let Some((line, language)) = other {
        let what = format!("this is {language}, and the configuration is TOML");
        return SyntaxProblem { line: Some(line), what: Some(what), help: Some(SAMPLE.to_owned()) };
    }
    let help = text.lines().nth(stopped.saturating_sub(1)).and_then(in_line);
    SyntaxProblem { line: None, what: None, help }
}

/// The language of a text with this first line, if it is not TOML.
fn language(text: &str, first: &str) -> Option<&'static str> {
    let start = first.trim_start();
    let brace = |start: &str| start.strip_prefix('{').map(|rest| rest.trim_start().starts_with(['"', '}']));
    let after = text.get(text.find(start)?..)?;
    match start.as_bytes().first()? {
        b'{' if brace(after) == Some(true) => Some("JSON"),
        b'{' => Some("YAML"),
        b'[' if serde_json::from_str::<IgnoredAny>(text).is_ok() => Some("JSON"),
        b'[' if after.get(1..).is_some_and(|rest| brace(rest.trim_start()) == Some(true)) => Some("JSON"),
        b'<' => Some("XML"),
        _ if start == "---" || start.starts_with("--- ") || start.starts_with("%YAML") => Some("YAML"),
        _ if start == "-" || start.starts_with("- ") || yaml_key(start).is_some() => Some("YAML"),
        _ => None,
    }
}

/// The key of `key: value` or `key:`.
fn yaml_key(line: &str) -> Option<&str> {
    let (key, rest) = if let Some(quote) = line.chars().next().filter(|first| matches!(first, '"' | '\'')) {
        let inner = line.get(1..)?;
        let end = inner.find(quote)?;
        (inner.get(..end)?, inner.get(end + 1..)?)
    } else {
        let end = line.find(|char: char| !is_bare(char))?;
        (line.get(..end)?, line.get(end..)?)
    };
    let after = rest.trim_start().strip_prefix(':')?;
    (!key.is_empty() && (after.is_empty() || after.starts_with([' ', '\t']))).then_some(key)
}

fn is_bare(char: char) -> bool {
    char.is_ascii_alphanumeric() || matches!(char, '_' | '-' | '.')
}

/// What to write in place of a line.
fn in_line(line: &str) -> Option<String> {
    let line = line.trim();
    if line.starts_with([';', '/']) {
        return Some("a comment begins with `#`".to_owned());
    }
    if line.starts_with("- ") {
        return Some("this is how YAML writes a list; TOML writes [\"a\", \"b\"]".to_owned());
    }
    if let Some(key) = yaml_key(line) {
        return Some(format!("write `{key} = …`: a colon is YAML's, and text and durations need quotes"));
    }
    let (key, value) = line.split_once('=')?;
    let (key, value) = (key.trim(), value.split('#').next()?.trim());
    if !key.chars().all(is_bare) {
        return None;
    }
    if value.starts_with(['“', '”', '„', '‘', '’', '«', '`']) {
        return Some(format!("write `{key} = \"…\"` with straight quotes"));
    }
    let reads = units::parse_duration(value).is_ok() || units::parse_size(value).is_ok();
    if reads && value != "0" {
        return Some(format!("write `{key} = \"{value}\"`"));
    }
    let meant = units::meant_duration(value).or_else(|| units::meant_size(value));
    if let Some(meant) = meant.filter(|_| value.ends_with(|last: char| last.is_ascii_alphabetic())) {
        return Some(format!("write `{key} = \"{meant}\"`"));
    }
    let booleans = ["true", "false"];
    if let Some(word) = booleans.into_iter().find(|word| word.eq_ignore_ascii_case(value)) {
        return Some(format!("write `{key} = {word}`"));
    }
    if value.is_empty() {
        return Some(format!("give `{key}` a value, or take the line out"));
    }
    let bare = !value.starts_with(['"', '\'', '[', '{']);
    bare.then(|| format!("write `{key} = \"…\"`: text and durations need quotes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_languages_are_recognized_by_their_start() {
        for (text, language, line) in [
            ("defaults:\n  interval: 30s\n", "YAML", 1),
            ("# for the agent\n\n---\ndefaults:\n", "YAML", 3),
            ("\"defaults\": {}\n", "YAML", 1),
            ("targets_from: [a.json]\n", "YAML", 1),
            ("- name: mail01\n", "YAML", 1),
            ("%YAML 1.2\n---\n", "YAML", 1),
            ("\u{feff}defaults:\r\n  newest: 5\r\n", "YAML", 1),
            ("{defaults: {interval: 30s}}", "YAML", 1),
            ("{\n  \"defaults\": {\"interval\": \"30s\"}\n}\n", "JSON", 1),
            ("{ }", "JSON", 1),
            ("[{\"targets\": [\"a\"]}]\n", "JSON", 1),
            ("[\n  {\n \"targets\": [\"a\",] }]\n", "JSON", 1),
            ("<config/>", "XML", 1),
        ] {
            let found = explain(text, 1);
            let what = format!("this is {language}, and the configuration is TOML");
            assert_eq!((found.what, found.line), (Some(what), Some(line)), "{text}");
        }
    }

    #[test]
    fn toml_with_an_error_is_not_taken_for_another_language() {
        for text in [
            "[defaults]\ninterval: 30s\n",
            "interval = 30s\n",
            "[[targets]]\nname = \"a\n",
            "[defaults\n",
            "[\"defaults\"]\n=",
            "\"a: b\" = 1 2\n",
            "a.b = \n",
            "url=imaps://mail01\n",
            "",
        ] {
            let found = explain(text, 1);
            assert_eq!((found.what, found.line), (None, None), "{text}");
        }
    }

    #[test]
    fn a_line_is_corrected_without_what_may_be_a_secret() {
        for (line, help) in [
            ("interval = 30s", "write `interval = \"30s\"`"),
            ("interval = 30 sec # often", "write `interval = \"30s\"`"),
            ("line = 16MB", "write `line = \"16MiB\"`"),
            ("insecure = True", "write `insecure = true`"),
            ("password: planted", "write `password = …`: a colon is YAML's, and text and durations need quotes"),
            ("user = planted", "write `user = \"…\"`: text and durations need quotes"),
            ("user = “planted”", "write `user = \"…\"` with straight quotes"),
            ("user =", "give `user` a value, or take the line out"),
            ("; interval", "a comment begins with `#`"),
            ("// interval", "a comment begins with `#`"),
            ("  - mail01", "this is how YAML writes a list; TOML writes [\"a\", \"b\"]"),
        ] {
            assert_eq!(in_line(line).as_deref(), Some(help), "{line}");
        }
        for line in ["", "[defaults", "name = \"a", "planted planted = 1", "labels = { a = 1"] {
            assert_eq!(in_line(line), None, "{line}");
        }
    }
}

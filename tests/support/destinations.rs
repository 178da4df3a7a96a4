//! `docs/destinations.md` as tests take it: the configuration of each destination, with the receiver's address put in.

use std::{fs, path::Path};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Where the page has its secrets.
const SECRETS: &str = "/run/secrets/";

/// The page.
pub fn page() -> String {
    fs::read_to_string(format!("{ROOT}/docs/destinations.md")).unwrap()
}

/// The headings whose part has a configuration, in order.
pub fn names() -> Vec<String> {
    let page = page();
    let parts = page.split("\n## ").skip(1).filter(|part| configuration_of(part).is_some());
    parts.map(|part| part.lines().next().unwrap().to_owned()).collect()
}

/// The configuration of a destination, as it stands there.
pub fn configuration(name: &str) -> String {
    configuration_of(&part(name)).unwrap_or_else(|| panic!("docs/destinations.md has no [otlp] for {name}"))
}

/// The indented block of a destination that begins with this word.
pub fn block(name: &str, begins: &str) -> Option<String> {
    blocks(&part(name)).into_iter().find(|block| block.starts_with(begins))
}

/// A configuration whose endpoints lead to this `http://HOST:PORT`, and whose secrets are in this directory.
pub fn redirected(configuration: &str, receiver: &str, secrets: &Path) -> String {
    let line = |line: &str| match line.strip_prefix("endpoint = \"").and_then(|url| url.split_once("://")) {
        Some((_, rest)) => {
            let path = rest.find(['/', '"']).and_then(|end| rest.get(end..)).unwrap();
            format!("endpoint = \"{receiver}{path}\n")
        }
        None => format!("{line}\n"),
    };
    with_secrets(&configuration.lines().map(line).collect::<String>(), secrets)
}

/// A text whose secrets are in this directory.
pub fn with_secrets(text: &str, secrets: &Path) -> String {
    text.replace(SECRETS, &format!("{}/", secrets.display()))
}

fn part(name: &str) -> String {
    let page = page();
    let part = page.split("\n## ").find(|part| part.lines().next() == Some(name));
    part.unwrap_or_else(|| panic!("docs/destinations.md has no part {name}")).to_owned()
}

fn configuration_of(part: &str) -> Option<String> {
    blocks(part).into_iter().find(|block| block.starts_with("[otlp"))
}

/// Runs of lines that are indented by four, without the indent; empty lines inside are part of a block.
fn blocks(part: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    let mut is_inside = false;
    for line in part.lines() {
        match line.strip_prefix("    ") {
            Some(text) if is_inside => blocks.last_mut().unwrap().extend([text, "\n"]),
            Some(text) => blocks.push(format!("{text}\n")),
            None if line.is_empty() && is_inside => blocks.last_mut().unwrap().push('\n'),
            None => {}
        }
        is_inside = line.starts_with("    ") || (is_inside && line.is_empty());
    }
    blocks
}

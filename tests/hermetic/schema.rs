//! `imaptrace schema`: a stock validator and `check` agree on every sample and on every refused case that a schema can
//! express.

use std::{collections::BTreeSet, fs, path::PathBuf};

use imaptrace::config::tables;
use jsonschema::Validator;
use serde_json::Value;

use crate::support::program::Program;

const TEXT: &str = include_str!("../../schema/imaptrace.schema.json");
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn validator() -> Validator {
    let schema: Value = serde_json::from_str(TEXT).unwrap();
    assert!(jsonschema::meta::is_valid(&schema));
    jsonschema::validator_for(&schema).unwrap()
}

/// What the validator finds wrong with a configuration; none where it is no TOML.
fn faults(validator: &Validator, text: &str) -> Option<Vec<String>> {
    let value: Value = toml::from_str(text).ok()?;
    Some(validator.iter_errors(&value).map(|error| format!("{} at {}", error, error.instance_path())).collect())
}

#[tokio::test]
async fn the_command_prints_it() {
    let output = Program::new(["schema"]).run().await;
    assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (Some(0), TEXT, ""));
}

/// A case that `check` refuses is refused by the schema, or has a line `# schema: ` that says why a schema cannot.
#[test]
fn refused_cases_are_refused_by_both() {
    let validator = validator();
    let mut accepted = Vec::new();
    let mut count = 0;
    for entry in fs::read_dir(PathBuf::from(ROOT).join("tests/config/invalid")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let Some(faults) = faults(&validator, &text) else { continue };
        let reason = text.lines().find_map(|line| line.strip_prefix("# schema: "));
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        match (faults.is_empty(), reason) {
            (true, None) => accepted.push(name),
            (false, Some(reason)) => panic!("{name} is refused, and has `# schema: {reason}`: {faults:?}"),
            (true, Some(_)) | (false, None) => count += 1,
        }
    }
    assert!(accepted.is_empty(), "the schema accepts what check refuses: {accepted:#?}");
    assert!(count >= 60, "{count}");
}

/// The configurations in TOML of the pages: whole ones are accepted.
#[test]
fn samples_are_accepted_by_both() {
    let validator = validator();
    let mut samples =
        vec![("imaptrace.toml".to_owned(), fs::read_to_string(format!("{ROOT}/imaptrace.toml")).unwrap())];
    for page in fs::read_dir(format!("{ROOT}/docs")).unwrap() {
        let path = page.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "md") {
            let text = fs::read_to_string(&path).unwrap();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            samples.extend(blocks(&text).into_iter().map(|block| (name.clone(), block)));
        }
    }
    let mut whole = 0;
    for (name, text) in samples {
        let Some(faults) = faults(&validator, &text) else { continue };
        // A piece of a configuration has no target; all that it has is known.
        let faults: Vec<_> = faults.into_iter().filter(|fault| !fault.ends_with(" at ")).collect();
        assert_eq!(faults, [""; 0], "{name}:\n{text}");
        whole += 1;
    }
    assert!(whole >= 10, "{whole}");
}

/// The indented blocks of a page that begin like a configuration.
fn blocks(page: &str) -> Vec<String> {
    let mut blocks = vec![String::new()];
    for line in page.lines() {
        match (line.strip_prefix("    "), blocks.last_mut()) {
            (Some(code), Some(block)) => {
                block.push_str(code);
                block.push('\n');
            }
            (None, Some(block)) if line.is_empty() && !block.is_empty() => block.push('\n'),
            (None, Some(block)) if !block.is_empty() => blocks.push(String::new()),
            _ => {}
        }
    }
    blocks.retain(|block| block.starts_with('[') && block.contains(']'));
    blocks
}

#[test]
fn it_has_each_key_of_each_table_and_no_other() {
    let schema: Value = serde_json::from_str(TEXT).unwrap();
    let keys = |node: &Value| -> BTreeSet<String> { node["properties"].as_object().unwrap().keys().cloned().collect() };
    for table in tables() {
        let place = match table.path {
            "" => &schema,
            "targets" => &schema["$defs"]["target"],
            "groups" => &schema["$defs"]["group"],
            "targets.accounts" => &schema["$defs"]["account"],
            "defaults.deadlines" => &schema["$defs"]["deadlines"],
            "otlp.traces" | "otlp.metrics" => &schema["$defs"]["signal"],
            "server_events.senders" => &schema["$defs"]["sender"],
            "windows" => &schema["$defs"]["window"],
            "password" => &schema["$defs"]["secret"],
            "groups.targets_from_http" => &schema["$defs"]["http_source"],
            path => &schema["$defs"][path],
        };
        let expected: BTreeSet<String> = table.keys.iter().map(|key| (*key).to_owned()).collect();
        assert_eq!(keys(place), expected, "[{}]", table.path);
        assert_eq!(place["additionalProperties"], Value::Bool(false), "[{}]", table.path);
    }
}

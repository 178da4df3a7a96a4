//! `check --output json`: what is wrong with a configuration and where, for programs that roll it out.

use std::fs;

use serde_json::{Value, json};

use crate::support::program::Program;

/// The exit code, and the one line that was printed.
async fn check(text: &str) -> (Option<i32>, Value) {
    let program = Program::new(["--version"]);
    let path = program.home().join("imaptrace.toml");
    fs::write(&path, text).unwrap();
    let path = path.display().to_string();
    let output = Program::new(["check", "--output", "json", "--config", &path]).run().await;
    assert_eq!(output.stderr, "", "{output:?}");
    assert!(output.stdout.ends_with("}\n") && output.stdout.lines().count() == 1, "{output:?}");
    (output.code, serde_json::from_str(&output.stdout.replace(&path, "FILE")).unwrap())
}

fn target(more: &str) -> String {
    format!(
        "[[targets]]\nname = \"mail01\"\nurl = \"imaps://mail01.example.org\"\nuser = \"u\"\n{more}\n\
         [[targets.accounts]]\nname = \"vol{{1..3}}\"\n"
    )
}

#[tokio::test]
async fn a_valid_configuration_has_its_size_and_its_warnings() {
    let text = target("password = { env = \"NOT_SET\" }") + "[otlp]\nendpoint = \"http://localhost:4318\"\n";
    let (code, report) = check(&text).await;
    assert_eq!((code, &report["schema"], &report["valid"]), (Some(0), &json!(1), &json!(true)), "{report}");
    assert_eq!((&report["targets"], &report["accounts"], &report["errors"]), (&json!(1), &json!(4), &json!([])));
    assert!(report["series"].as_u64().is_some_and(|series| series > 100), "{report}");
    let warning = &report["warnings"][0];
    assert_eq!(
        (&warning["file"], &warning["line"], &warning["column"], &warning["key"]),
        (&json!("FILE"), &json!(5), &json!(14), &json!("targets[0].password.env")),
        "{report}"
    );
    assert!(warning["message"].is_string() && warning["help"].is_string(), "{report}");
}

#[tokio::test]
async fn each_error_has_its_place_and_no_secret_is_shown() {
    let (code, report) = check(&target("intervall = \"60s\"\npassword = \"planted\"")).await;
    assert_eq!((code, &report["valid"], report.get("targets")), (Some(2), &json!(false), None), "{report}");
    let errors = report["errors"].as_array().unwrap();
    let places: Vec<_> = errors.iter().map(|error| (&error["line"], error["key"].as_str().unwrap())).collect();
    assert_eq!(places, [(&json!(5), "targets[0].intervall"), (&json!(6), "targets[0].password")], "{report}");
    assert!(!report.to_string().contains("planted"), "{report}");
}

#[tokio::test]
async fn a_variable_is_a_place_too() {
    let output = Program::new(["check", "--output", "json", "--config", "not/there.toml"])
        .env("TOKIO_WORKER_THREADS", "many")
        .run()
        .await;
    let report: Value = serde_json::from_str(&output.stdout).unwrap();
    let errors = report["errors"].as_array().unwrap();
    assert_eq!((output.code, errors.len()), (Some(2), 2), "{report}");
    assert_eq!(errors[0]["file"], "not/there.toml", "{report}");
    assert_eq!(errors[1]["variable"], "TOKIO_WORKER_THREADS", "{report}");
    assert!(errors[1]["help"].as_str().unwrap().starts_with("unset it"), "{report}");
}

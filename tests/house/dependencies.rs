//! The crates that imaptrace is built on stay its dependencies, and the program uses each of them.

use std::{fs, path::Path};

/// async-native-tls is used where TLS is spoken to mail servers, the exporters where telemetry leaves, figment where the
/// configuration is merged.
const BUILT_ON: &[&str] = &[
    "tokio",
    "async-native-tls",
    "opentelemetry",
    "opentelemetry_sdk",
    "opentelemetry-otlp",
    "tracing-opentelemetry",
    "figment",
];

fn sources(directory: &Path, text: &mut String) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn each_crate_that_it_is_built_on_is_a_dependency_and_imported() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let dependencies = manifest.split("\n[dependencies]\n").nth(1).unwrap().split("\n[").next().unwrap();
    let mut text = String::new();
    sources(&root.join("src"), &mut text);
    for name in BUILT_ON {
        assert!(dependencies.lines().any(|line| line.starts_with(&format!("{name} ="))), "{name} is no dependency");
        let path = format!("{}::", name.replace('-', "_"));
        let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        assert!(lines.filter(|line| line.contains(&path)).count() > 0, "{name} is not used");
    }
}

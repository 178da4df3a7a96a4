//! Clocks are read in one file, in tests too: only so can a test move them.

use std::{fs, path::Path};

use crate::imports::files_under;

#[test]
fn no_test_and_no_file_but_one_reads_a_clock() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = ["src", "crates", "tests"].iter().flat_map(|part| files_under(&root.join(part)));
    let sources: Vec<_> = files.filter(|path| path.extension().is_some_and(|name| name == "rs")).collect();
    let reads = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        // Put together, so that it is not found here.
        ["Instant", "SystemTime"].iter().any(|clock| text.contains(&format!("{clock}::{}", "now()")))
    };
    let readers: Vec<_> = sources.iter().filter(|path| reads(path)).collect();
    assert_eq!(readers, [&root.join("src/clock.rs")]);
}

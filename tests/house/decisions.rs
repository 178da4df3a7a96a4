//! The records of decisions in `docs/adr`: each has a number of its own, and its heading has the same.

#[test]
fn decisions_are_numbered_without_gap_or_double() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/adr");
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for (index, path) in files.iter().enumerate() {
        let number = index + 1;
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with(&format!("{number:04}-")), "{name} is where number {number} should be");
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.starts_with(&format!("# {number}. ")), "{name} has another number in its heading");
    }
}

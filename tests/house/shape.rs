//! Files are short, and a type's name stands for one thing.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use crate::imports::files_under;

/// The head of a longer file has the reason after these words.
const LINES: usize = 500;
const REASON: &str = "//! One file, because ";

/// Type names that stand for two things each, with the reason.
const TWICE: &[(&str, &str)] =
    &[("Bundle", "the twin of the CA bundle for systems other than Linux, where there is none")];

/// Product sources below the root, tests and fuzz bodies left out.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directories = [root.join("src"), root.join("crates/imap/src"), root.join("crates/record/src")];
    let files = directories.iter().flat_map(|directory| files_under(directory));
    let is_product = |path: &PathBuf| {
        let parts: Vec<_> = path.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
        path.extension().is_some_and(|name| name == "rs")
            && !parts.iter().any(|part| matches!(part.as_str(), "tests" | "tests.rs" | "fuzzed" | "fuzzed.rs"))
    };
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        (path.strip_prefix(root).unwrap().to_owned(), text)
    };
    files.filter(is_product).map(read).collect()
}

#[test]
fn a_file_over_500_lines_says_why() {
    let long = sources().into_iter().filter(|(_, text)| text.lines().count() > LINES);
    let says_why =
        |text: &str| text.lines().take_while(|line| line.starts_with("//!")).any(|line| line.starts_with(REASON));
    let without: Vec<_> = long
        .filter(|(_, text)| !says_why(text))
        .map(|(path, text)| format!("{}: {} lines", path.display(), text.lines().count()))
        .collect();
    assert!(without.is_empty(), "split them, or say why in the head (`{REASON}…`):\n{}", without.join("\n"));
}

/// Names of the types that a source defines outside of tests.
fn types(text: &str) -> Vec<String> {
    let parsed = syn::parse_file(text).unwrap();
    let is_test = |attributes: &[syn::Attribute]| {
        attributes.iter().any(|attribute| {
            attribute.path().is_ident("cfg")
                && matches!(&attribute.meta, syn::Meta::List(list) if list.tokens.to_string().contains("test"))
        })
    };
    let mut names = Vec::new();
    let mut open = parsed.items;
    while let Some(item) = open.pop() {
        match item {
            syn::Item::Struct(item) if !is_test(&item.attrs) => names.push(item.ident.to_string()),
            syn::Item::Enum(item) if !is_test(&item.attrs) => names.push(item.ident.to_string()),
            syn::Item::Trait(item) if !is_test(&item.attrs) => names.push(item.ident.to_string()),
            syn::Item::Type(item) if !is_test(&item.attrs) => names.push(item.ident.to_string()),
            syn::Item::Mod(item) if !is_test(&item.attrs) => {
                open.extend(item.content.into_iter().flat_map(|(_, items)| items));
            }
            _ => {}
        }
    }
    names
}

#[test]
fn a_type_name_stands_for_one_thing() {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, text) in sources() {
        for name in types(&text) {
            found.entry(name).or_default().push(path.display().to_string());
        }
    }
    assert!(found.len() > 300, "only {} types were found", found.len());
    let listed = |name: &str| TWICE.iter().any(|(twice, _)| *twice == name);
    let twice: Vec<_> = found.iter().filter(|(name, files)| files.len() > 1 && !listed(name)).collect();
    assert!(twice.is_empty(), "{} names stand for two things, which are not listed: {twice:#?}", twice.len());
    let single: Vec<_> =
        TWICE.iter().filter(|(name, _)| found.get(*name).is_none_or(|files| files.len() < 2)).collect();
    assert!(single.is_empty() && TWICE.len() <= 10, "listed and not twice: {single:?}");
}

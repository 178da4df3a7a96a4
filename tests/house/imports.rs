//! Who may import whom in `src/`, and what no file may hold.
//!
//! Every path that leaves a module is looked at: `crate::NAME` everywhere, and `super::NAME` in a module's first file, where it
//! means the same. Comments, literals and test code do not count. An edge that is not in the table fails, and so does a module
//! without a line in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The first word may import the others, and nothing else of ours.
const ALLOWED: &[(&str, &[&str])] = &[
    ("secret", &["clock"]),
    ("clock", &[]),
    ("blocking", &["clock"]),
    ("follow", &["clock"]),
    ("synthetic_mail", &[]),
    ("plan", &["secret", "imap", "record"]),
    (
        "config",
        &[
            "plan",
            "secret",
            "clock",
            "delivery",
            "latency",
            "telemetry",
            "server_events",
            "process_accounting",
            "discovery",
        ],
    ),
    ("discovery", &["plan", "net", "secret", "state", "telemetry", "clock"]),
    ("net", &["plan", "secret", "clock", "follow"]),
    ("schedule", &["plan", "record", "clock"]),
    ("probe", &["plan", "net", "imap", "record", "secret", "clock"]),
    ("latency", &["record"]),
    ("diagnosis", &["imap", "record"]),
    ("process_accounting", &["plan", "record", "clock"]),
    ("telemetry", &["record"]),
    ("terminal", &["record"]),
    ("status", &["record", "delivery", "listener", "server_events"]),
    (
        "server_events",
        &["plan", "secret", "imap", "record", "telemetry", "listener", "clock", "process_accounting", "delivery"],
    ),
    ("listener", &[]),
    ("state", &["clock"]),
    ("delivery", &["record", "telemetry", "clock", "state"]),
    ("demo", &[]),
];
/// All may import these: whatever may block goes by them.
const COMMON: &[&str] = &["blocking"];
/// These connect the modules, so they may import all.
const WIRING: &[&str] = &["agent", "cli", "main", "lib"];

#[test]
fn modules_import_only_what_the_table_allows() {
    let src = Path::new(ROOT).join("src");
    let mut sources: BTreeMap<PathBuf, String> = BTreeMap::new();
    for path in files_under(&src).into_iter().filter(|path| path.extension().is_some_and(|name| name == "rs")) {
        let text = fs::read_to_string(&path).unwrap();
        sources.insert(path.strip_prefix(&src).unwrap().to_owned(), text);
    }
    assert!(
        sources.contains_key(Path::new("lib.rs")),
        "the scan found no src/lib.rs: it would find nothing wrong either"
    );
    let faults = faults_in(&sources);
    assert!(faults.is_empty(), "{}\nThe table is in {}", faults.join("\n"), file!());
}

/// Commands that no probe may ever send; a canary mailbox is filled with them.
const FILLING: &[&str] = &["Create", "Append", "SearchHeader"];

#[test]
fn nothing_but_the_filler_can_build_a_command_that_writes() {
    let src = Path::new(ROOT).join("src");
    let mut builders = BTreeMap::new();
    for path in files_under(&src).into_iter().filter(|path| path.extension().is_some_and(|name| name == "rs")) {
        let shown = path.strip_prefix(&src).unwrap().to_owned();
        let tokens = without_tests(&tokens(&fs::read_to_string(&path).unwrap()), &mut BTreeSet::new());
        // In `imap` they are written out, not made up.
        if module_of(&shown) == "imap" {
            continue;
        }
        for name in FILLING {
            // As a variant of `Command`; `CommandName` is a name alone.
            let is_built = |at: usize| tokens[at] == *name && (at < 2 || tokens[at - 2] != "CommandName");
            if (0..tokens.len()).any(is_built) {
                builders.entry(*name).or_insert_with(Vec::new).push(shown.clone());
            }
        }
    }
    let filler = Path::new("probe/fill.rs").to_owned();
    let expected: BTreeMap<_, _> = FILLING.iter().map(|name| (*name, vec![filler.clone()])).collect();
    assert_eq!(builders, expected);
}

/// All forbidden edges in sources given by their path below `src/`.
fn faults_in(sources: &BTreeMap<PathBuf, String>) -> Vec<String> {
    let scans: BTreeMap<&Path, Scan> =
        sources.iter().map(|(path, text)| (path.as_path(), Scan::of(path, text))).collect();
    // A whole file is test code when its `mod` line marks it, and with it all files below.
    let tests: BTreeSet<PathBuf> = scans
        .iter()
        .flat_map(|(path, scan)| scan.test_modules.iter().map(|name| children_of(path).join(name)))
        .collect();
    let mut faults = Vec::new();
    for (path, scan) in scans.iter().filter(|(path, _)| !is_below(path, &tests)) {
        let module = module_of(path);
        let shown = path.display();
        if scan.climbs_twice {
            faults.push(format!("src/{shown}: super::super: say crate:: and the module's name"));
        }
        if WIRING.contains(&module.as_str()) {
            continue;
        }
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == module) else {
            faults.push(format!("src/{shown}: the module `{module}` has no line in the table"));
            continue;
        };
        let may = |name: &str| name == module || allowed.contains(&name) || COMMON.contains(&name);
        for name in scan.imports.iter().filter(|name| !may(name)) {
            faults.push(format!("src/{shown}: `{module}` may not import `{name}`"));
        }
    }
    faults
}

/// Is the file one of these modules, or inside one?
fn is_below(path: &Path, modules: &BTreeSet<PathBuf>) -> bool {
    path.with_extension("").ancestors().any(|module| modules.contains(module))
}

/// What one file uses of others.
#[derive(Debug, Default)]
struct Scan {
    /// The first name of each path that starts at the crate's root; `*` for a glob.
    imports: BTreeSet<String>,
    climbs_twice: bool,
    /// Modules in files of their own that exist in tests alone.
    test_modules: BTreeSet<String>,
}

impl Scan {
    fn of(path: &Path, text: &str) -> Self {
        let mut scan = Self::default();
        let tokens = without_tests(&tokens(text), &mut scan.test_modules);
        for (at, token) in tokens.iter().enumerate() {
            if tokens.get(at + 1).map(String::as_str) != Some("::") {
                continue;
            }
            let climbs = token == "super";
            scan.climbs_twice |= climbs && tokens.get(at + 2).is_some_and(|next| next == "super");
            if token == "crate" || (climbs && is_first_of_module(path)) {
                scan.imports.extend(first_names(&tokens[at + 2..]));
            }
            scan.imports.extend(package_parts(token, &tokens[at + 2..]));
        }
        scan
    }
}

/// What a path into another package of ours takes of it, as the table calls it. A secret that is held, the names in a record, and
/// text that is escaped, are for all; what the compiler forbids between packages needs no line.
fn package_parts(package: &str, tokens: &[String]) -> BTreeSet<String> {
    let (part, for_all): (&str, &[&str]) = match package {
        "imaptrace_imap" => {
            ("imap", &["Secret", "CommandName", "Condition", "LoginMethod", "Mechanism", "ResponseCode"])
        }
        "imaptrace_record" => ("record", &["JourneyName", "SetupStep", "printable", "escape"]),
        _ => return BTreeSet::new(),
    };
    let names = first_names(tokens);
    names.iter().filter(|name| !for_all.contains(&name.as_str())).map(|_| part.to_owned()).collect()
}

/// The names right behind a `::`: one, or those of a group.
fn first_names(tokens: &[String]) -> Vec<String> {
    if tokens.first().map(String::as_str) != Some("{") {
        return tokens.first().cloned().into_iter().collect();
    }
    let (mut names, mut depth, mut expected) = (Vec::new(), 0, false);
    for token in tokens {
        match token.as_str() {
            "{" => {
                depth += 1;
                expected = depth == 1;
            }
            "}" => {
                depth -= 1;
                if depth == 0 {
                    break;
                }
            }
            "," => expected = depth == 1,
            name if expected => {
                names.push(name.to_owned());
                expected = false;
            }
            _ => {}
        }
    }
    names
}

/// Words and marks of a Rust source, without comments, literals and lifetimes. `::` is one mark.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let starts = |at: usize, what: &str| what.chars().enumerate().all(|(n, c)| chars.get(at + n) == Some(&c));
    let is_word = |at: usize| chars.get(at).is_some_and(|c| c.is_alphanumeric() || *c == '_');
    let (mut tokens, mut at) = (Vec::new(), 0);
    while at < chars.len() {
        if starts(at, "//") {
            while at < chars.len() && chars[at] != '\n' {
                at += 1;
            }
        } else if starts(at, "/*") {
            let mut depth = 0;
            while at < chars.len() {
                let step = if starts(at, "/*") {
                    1
                } else if starts(at, "*/") {
                    -1
                } else {
                    0
                };
                depth += step;
                at += if step == 0 { 1 } else { 2 };
                if depth == 0 {
                    break;
                }
            }
        } else if chars[at] == '"' {
            at += 1;
            while at < chars.len() && chars[at] != '"' {
                at += if chars[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if chars[at] == '\'' {
            // 'x' or '\…' is a character; 'x without the second quote is a lifetime.
            if starts(at + 1, "\\") {
                at += 3;
                while at < chars.len() && chars[at] != '\'' {
                    at += 1;
                }
                at += 1;
            } else {
                at += if chars.get(at + 2) == Some(&'\'') { 3 } else { 1 };
            }
        } else if is_word(at) {
            let begin = at;
            while is_word(at) {
                at += 1;
            }
            let word: String = chars[begin..at].iter().collect();
            let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
            let raw = matches!(word.as_str(), "r" | "br" | "cr");
            if raw && chars.get(at + hashes) == Some(&'"') {
                let end = format!("\"{}", "#".repeat(hashes));
                at += hashes + 1;
                while at < chars.len() && !starts(at, &end) {
                    at += 1;
                }
                at += end.len();
            } else if word == "r" && hashes == 1 {
                at += 1; // r#name: the name comes next
            } else {
                tokens.push(word);
            }
        } else if starts(at, "::") {
            tokens.push("::".to_owned());
            at += 2;
        } else {
            if !chars[at].is_whitespace() {
                tokens.push(chars[at].to_string());
            }
            at += 1;
        }
    }
    tokens
}

/// Takes out each item under `#[cfg(test)]`, `#[cfg(all(test, …))]` or `#[cfg(any(test, fuzzing))]`; modules without a
/// body are named in `modules`.
fn without_tests(tokens: &[String], modules: &mut BTreeSet<String>) -> Vec<String> {
    let marks = |at: usize, words: &[&str]| {
        words.iter().enumerate().all(|(n, word)| tokens.get(at + n).is_some_and(|token| token == word))
    };
    let (mut kept, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        let open = ["#", "[", "cfg", "("];
        if !(marks(at, &[&open[..], &["test", ")", "]"]].concat())
            || marks(at, &[&open[..], &["all", "(", "test"]].concat())
            || marks(at, &[&open[..], &["any", "(", "test", ",", "fuzzing", ")"]].concat()))
        {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        // To the end of the item: the `}` of its first brace, or a `;` outside of all brackets.
        let (mut depth, begin) = (0_i32, at);
        while at < tokens.len() {
            match tokens[at].as_str() {
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" => depth -= 1,
                _ => {}
            }
            at += 1;
            if depth == 0 && matches!(tokens[at - 1].as_str(), "}" | ";") {
                break;
            }
        }
        if let [.., keyword, name, end] = &tokens[begin..at]
            && keyword == "mod"
            && end == ";"
        {
            modules.insert(name.clone());
        }
    }
    kept
}

/// `probe/driver.rs` and `probe.rs` are both in `probe`.
fn module_of(path: &Path) -> String {
    let first = path.components().next().unwrap().as_os_str().to_string_lossy();
    first.strip_suffix(".rs").unwrap_or(&first).to_owned()
}

/// Is it the file where `super` is the crate itself?
fn is_first_of_module(path: &Path) -> bool {
    let parts = path.components().count();
    parts == 1 || (parts == 2 && path.ends_with("mod.rs"))
}

/// The directory in which a file's own modules are.
fn children_of(path: &Path) -> PathBuf {
    match path.file_name().and_then(|name| name.to_str()) {
        Some("mod.rs" | "lib.rs" | "main.rs") => path.parent().unwrap().to_owned(),
        _ => path.with_extension(""),
    }
}

pub(crate) fn files_under(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_under(&path)) } else { files.push(path) }
    }
    files
}

/// Marks of unfinished or switched-off work, put together here so that this file holds none.
const FORBIDDEN: &[&str] = &[
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
    concat!("dbg", "!("),
    concat!("#[ign", "ore"),
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("<<<<", "<<< "),
    concat!(">>>>", ">>> "),
];

#[test]
fn no_file_holds_a_mark_of_unfinished_work() {
    let mut found = Vec::new();
    let mut looked_at = 0;
    for entry in fs::read_dir(ROOT).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let files = match name.as_str() {
            ".git" | "target" | "Cargo.lock" => continue,
            _ if path.is_dir() => files_under(&path),
            _ => vec![path],
        };
        for file in files {
            // What is no text is none of this test's business.
            let Ok(text) = fs::read_to_string(&file) else { continue };
            looked_at += 1;
            for (number, line) in text.lines().enumerate() {
                if let Some(mark) = forbidden_in(line) {
                    found.push(format!("{}:{}: {mark}", file.display(), number + 1));
                }
            }
        }
    }
    assert!(looked_at > 20, "only {looked_at} files were looked at");
    assert!(found.is_empty(), "{}", found.join("\n"));
}

fn forbidden_in(line: &str) -> Option<&'static str> {
    FORBIDDEN.iter().copied().find(|mark| line.contains(mark))
}

#[test]
fn the_scan_for_marks_finds_each_of_them() {
    for mark in FORBIDDEN {
        assert_eq!(forbidden_in(&format!("    {mark} later")), Some(*mark));
    }
    assert_eq!(forbidden_in("a method todo(), a word ignored, a <<< b"), None);
}

/// The faults of a tree with only these files.
fn faults(files: &[(&str, &str)]) -> Vec<String> {
    faults_in(&files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect())
}

#[test]
fn an_edge_of_the_table_passes_and_any_other_fails() {
    assert_eq!(faults(&[("plan/target.rs", "use crate::secret::SecretSource; use crate::plan::url;")]), [""; 0]);
    assert_eq!(
        faults(&[("plan/target.rs", "use crate::secret::SecretSource; use crate::net::Stream;")]),
        ["src/plan/target.rs: `plan` may not import `net`"]
    );
}

#[test]
fn an_edge_to_another_package_is_one_of_the_table_but_for_what_all_may_have() {
    for text in ["use imaptrace_imap::Secret;", "fn f() { imaptrace_record::printable::escape(text) }"] {
        assert_eq!(faults(&[("plan/target.rs", text)]), [""; 0], "{text}");
    }
    assert_eq!(
        faults(&[("net/tls.rs", "use imaptrace_imap::{Command, Secret}; use imaptrace_record::Run;")]),
        ["src/net/tls.rs: `net` may not import `imap`", "src/net/tls.rs: `net` may not import `record`"]
    );
}

#[test]
fn an_edge_is_found_in_every_form() {
    for text in [
        "use crate::{record::{Run, plan}, net};",
        "use crate::{\n    self_made,\n    net::{self},\n};",
        "fn f(x: &'static crate::net::X) {}",
        "fn f() -> crate :: net :: X { todo }",
        "macro_rules! m { () => { $crate::net::go() } }",
        "/* a /* nested */ comment */ use crate::net;",
        "const Q: char = '\"'; use crate::net;",
        "const Q: &str = \"\\\"\"; use crate::net;",
        "const Q: &str = r#\"\"\"#; use crate::net;",
        "const Q: char = '\\''; use crate::net;",
        "#[cfg(not(test))] use crate::net;",
        "#[cfg(test)] use crate::plan; use crate::net;",
        "#[cfg(any(test, windows))] use crate::net;",
    ] {
        let found = faults(&[("terminal/json.rs", text)]);
        assert!(found.iter().any(|fault| fault.ends_with("may not import `net`")), "{text}: {found:?}");
    }
}

#[test]
fn comments_literals_and_tests_are_no_edges() {
    for text in [
        "// crate::net",
        "/// [`crate::net`] /*\nfn f() {}",
        "/* /* */ crate::net */",
        "const Q: &str = \"crate::net\";",
        "const Q: &str = r##\"\" \"# crate::net\"##;",
        "#[cfg(test)]\nmod tests {\n    use crate::net;\n    fn f() {}\n}",
        "#[cfg(all(test, unix))] fn f(x: [u8; 2]) { crate::net::go() }",
        "#[cfg(test)] use crate::{net, plan};",
        "#[cfg(any(test, fuzzing))] use crate::net;",
        "fn f<'a>(x: &'a str) { let crate_net = '\\u{41}'; }",
    ] {
        assert_eq!(faults(&[("latency/run.rs", text)]), [""; 0], "{text}");
    }
}

#[test]
fn a_file_that_is_all_tests_is_left_out_by_the_line_that_declares_it() {
    let tests = "use crate::net;";
    assert_eq!(faults(&[("latency/mod.rs", "#[cfg(test)]\nmod samples;"), ("latency/samples.rs", tests)]), [""; 0]);
    assert_eq!(faults(&[("latency/run.rs", "#[cfg(test)] mod samples;"), ("latency/run/samples.rs", tests)]), [""; 0]);
    let below = [("latency/mod.rs", "#[cfg(test)] mod a;"), ("latency/a/mod.rs", "mod b;"), ("latency/a/b.rs", tests)];
    assert_eq!(faults(&below), [""; 0]);
    assert_eq!(
        faults(&[("latency/mod.rs", "mod samples;"), ("latency/samples.rs", tests)]),
        ["src/latency/samples.rs: `latency` may not import `net`"]
    );
}

#[test]
fn super_is_an_edge_in_a_modules_first_file_and_nowhere_climbs_twice() {
    assert_eq!(
        faults(&[("latency/mod.rs", "use super::net;")]),
        ["src/latency/mod.rs: `latency` may not import `net`"]
    );
    assert_eq!(faults(&[("secret.rs", "use super::{net};")]), ["src/secret.rs: `secret` may not import `net`"]);
    assert_eq!(faults(&[("latency/run.rs", "use super::net;")]), [""; 0]);
    let [fault] = faults(&[("cli.rs", "use super::super::net;")]).try_into().unwrap();
    assert!(fault.contains("super::super"), "{fault}");
}

#[test]
fn a_glob_and_a_module_without_a_line_fail_and_the_wiring_may_import_all() {
    assert_eq!(faults(&[("latency/run.rs", "use crate::*;")]), ["src/latency/run.rs: `latency` may not import `*`"]);
    assert_eq!(faults(&[("cellar/mod.rs", "")]), ["src/cellar/mod.rs: the module `cellar` has no line in the table"]);
    assert_eq!(faults(&[("agent.rs", "use crate::{net, probe};"), ("main.rs", "use crate::cli;")]), [""; 0]);
}

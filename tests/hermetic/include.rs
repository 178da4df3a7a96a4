//! `include`: a configuration in several files is one, and each problem is in the file that it is from.

use std::{fmt::Write as _, fs, path::Path};

use imaptrace::config::{self, Config, Problems, Sources};

struct Files(tempfile::TempDir);

impl Files {
    /// A configuration that includes `conf.d/*.toml`, and these files there.
    fn new(main: &str, included: &[(&str, &str)]) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        fs::create_dir(files.path().join("conf.d")).unwrap();
        let pattern = files.path().join("conf.d/*.toml").display().to_string();
        fs::write(files.path().join("imaptrace.toml"), format!("include = [{pattern:?}]\n{main}")).unwrap();
        for (name, text) in included {
            fs::write(files.path().join("conf.d").join(name), text).unwrap();
        }
        files
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn load(&self, environment: &[(&str, &str)]) -> Result<Config, Problems> {
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        config::load(&Sources { file: Some(self.path().join("imaptrace.toml")), environment, ..Sources::default() })
    }

    /// The errors, each in one line, with paths from the directory on.
    fn errors(&self, environment: &[(&str, &str)]) -> Vec<String> {
        let directory = format!("{}/", self.path().display());
        let errors = self.load(environment).unwrap_err().errors;
        errors.iter().map(|error| error.to_string().replace(&directory, "").replace("\n  help: ", "; ")).collect()
    }
}

fn target(name: &str, more: &str) -> String {
    format!(
        "[[targets]]\nname = \"{name}\"\nurl = \"imaps://{name}.example.org\"\nuser = \"u\"\npassword = {{ env = \"P\" }}\n{more}"
    )
}

#[test]
fn lists_of_tables_are_appended_and_tables_merged_in_the_order_of_the_names() {
    let sender = |name: &str| {
        format!("[[server_events.senders]]\nname = \"{name}\"\nsecret = {{ env = \"S\" }}\ntargets = [\"*\"]\n")
    };
    let files = Files::new(
        &(target("main", "") + "[defaults]\ninterval = \"40s\"\n[server_events]\nlisten = \"127.0.0.1:0\"\n"),
        &[
            ("20.toml", &(target("c", "") + &sender("two"))),
            ("10.toml", &(target("a", "") + &target("b", "") + &sender("one") + "[defaults]\nnewest = 5\n[otlp]\n")),
            (".hidden.toml", "["),
            ("note.txt", "["),
        ],
    );
    let config = files.load(&[]).unwrap();
    let targets: Vec<_> = config.targets.iter().map(|target| target.name.as_str()).collect();
    assert_eq!(targets, ["main", "a", "b", "c"]);
    assert!(config.targets.iter().all(|target| target.journey.newest == 5), "{:?}", config.targets);
    let senders: Vec<_> = config.server_events.senders.iter().map(|sender| sender.name.as_str()).collect();
    assert_eq!(senders, ["one", "two"]);
    let watched: Vec<_> = config.watched.iter().map(|path| path.strip_prefix(files.path()).unwrap()).collect();
    assert_eq!(watched, ["conf.d", "conf.d/10.toml", "conf.d/20.toml", "imaptrace.toml"].map(Path::new));
}

#[test]
fn each_problem_is_in_the_file_that_it_is_from() {
    let files = Files::new(
        &target("main", "intervall = \"1s\"\n"),
        &[
            ("10.toml", &(target("a", "") + &target("b", "intervall = \"2s\"\n"))),
            ("20.toml", &target("c", "intervall = \"3s\"\n")),
            ("30.toml", "[dns]\nresolver = \"sistem\"\n"),
            ("40.toml", &("include = [\"more.toml\"]\n".to_owned() + &target("main", ""))),
            ("50.toml", "[[targets]]\nname = \"d\"\n"),
        ],
    );
    let errors = files.errors(&[]);
    let expected = [
        "imaptrace.toml:7:1: targets[0].intervall: ",
        "conf.d/10.toml:11:1: targets[2].intervall: ",
        "conf.d/20.toml:6:1: targets[3].intervall: ",
        "conf.d/30.toml:2:1: dns.resolver: ",
        "conf.d/40.toml:1:1: include: an included file includes no others; name them in `include` of imaptrace.toml",
        "conf.d/40.toml:3:1: targets[4].name: ",
        "conf.d/50.toml:1:1: targets[5].url: ",
    ];
    for start in expected {
        assert!(errors.iter().any(|error| error.starts_with(start)), "{start} is not in {errors:#?}");
    }
}

#[test]
fn a_key_that_two_files_set_is_an_error_with_both_places() {
    let files = Files::new(
        "[defaults]\ninterval = \"40s\"\n",
        &[
            ("10.toml", &(target("a", "") + "[defaults]\ninterval = \"30s\"\nnewest = 3\n")),
            ("20.toml", "defaults = 1\n"),
        ],
    );
    assert_eq!(
        files.errors(&[]),
        [
            "conf.d/10.toml:7:1: defaults.interval: imaptrace.toml:3:1 sets it too; take it out of one of the two files",
            "conf.d/20.toml:1:1: defaults: imaptrace.toml:2:2 sets it too; take it out of one of the two files",
        ]
    );
}

#[test]
fn what_cannot_be_included_is_said_with_its_place() {
    let files = Files::new(&target("main", ""), &[("10.toml", "[otlp\n"), ("20.toml", "\u{0}")]);
    let errors = files.errors(&[]);
    assert!(errors[0].starts_with("conf.d/10.toml:1:") && errors[1].starts_with("conf.d/20.toml:1:"), "{errors:#?}");
    fs::remove_dir_all(files.path().join("conf.d")).unwrap();
    let errors = files.errors(&[]);
    assert!(errors[0].starts_with("imaptrace.toml:1:12: include[0]: cannot read conf.d: No such file"), "{errors:#?}");
    for (pattern, what) in [
        ("a*/b.toml", "`*` is allowed in the last component of a path only"),
        ("conf.d/*", "it does not end in .toml"),
        ("/nowhere/x.toml", "cannot be read: No such file"),
    ] {
        fs::write(files.path().join("imaptrace.toml"), format!("include = [{pattern:?}]\n{}", target("a", "")))
            .unwrap();
        let errors = files.errors(&[]);
        assert!(errors.len() == 1 && errors[0].contains(what), "{errors:#?}");
    }
    fs::write(files.path().join("imaptrace.toml"), target("a", "")).unwrap();
    let errors = files.errors(&[("IMAPTRACE__INCLUDE", "x.toml")]);
    assert_eq!(
        errors,
        ["variable IMAPTRACE__INCLUDE: include: only the configuration file includes others; write it there"]
    );
    fs::write(files.path().join("imaptrace.toml"), "include = [1]\n".to_owned() + &target("a", "")).unwrap();
    assert!(files.errors(&[])[0].starts_with("imaptrace.toml:1:12: include[0]: "), "{:?}", files.errors(&[]));
}

#[test]
fn a_list_of_tables_that_is_none_is_said_so_and_a_file_is_read_once_by_whichever_path() {
    let files = Files::new(&target("main", ""), &[("10.toml", "[targets]\nname = \"a\"\n")]);
    assert_eq!(
        files.errors(&[]),
        [
            "conf.d/10.toml:1:2: targets: here or in imaptrace.toml:2:3 it is no list of tables; begin each table with double \
          brackets, such as [[targets]]"
        ]
    );
    fs::write(files.path().join("conf.d/10.toml"), target("a", "")).unwrap();
    std::os::unix::fs::symlink(files.path().join("imaptrace.toml"), files.path().join("conf.d/20.toml")).unwrap();
    std::os::unix::fs::symlink("10.toml", files.path().join("conf.d/30.toml")).unwrap();
    assert_eq!(files.load(&[]).unwrap().targets.len(), 2);
}

#[test]
fn an_empty_directory_and_a_file_that_two_patterns_fit_are_fine() {
    let files = Files::new(&target("main", ""), &[]);
    assert!(files.load(&[]).is_ok_and(|config| config.targets.len() == 1));
    fs::write(files.path().join("conf.d/a.toml"), target("a", "")).unwrap();
    let mut text = fs::read_to_string(files.path().join("imaptrace.toml")).unwrap();
    text = text.replace(
        "include = [",
        &format!("include = [{:?}, ", files.path().join("conf.d/a.toml").display().to_string()),
    );
    fs::write(files.path().join("imaptrace.toml"), text).unwrap();
    assert_eq!(files.load(&[]).unwrap().targets.len(), 2);
}

#[test]
fn included_files_take_no_more_memory_than_one() {
    let files = Files::new(&target("main", ""), &[]);
    for file in 0..4 {
        let mut text = String::from("[agent.labels]\n");
        for key in 0..250_000 {
            writeln!(text, "k{file}_{key} = \"v\"").unwrap();
        }
        fs::write(files.path().join(format!("conf.d/{file}.toml")), text).unwrap();
    }
    let errors = files.errors(&[]);
    assert!(errors.iter().any(|error| error.contains("more than 300MiB of memory")), "{errors:#?}");
}

//! Secrets that are not as they should be, from files and from everywhere else: refused by the name of their source before
//! anything is probed, and never used.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    command_line::{GOOD, heard},
    support::{
        program::{Output, Program},
        script::Script,
    },
};

const PASSWORD: &str = "planted-91ce";

fn write(path: &Path, content: &[u8], mode: u32) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A text as PowerShell writes it into a file.
fn utf16(text: &str) -> Vec<u8> {
    format!("\u{feff}{text}\r\n").encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// What `check` says of a target whose password is in the file `password` of a directory that was prepared so.
async fn check(prepare: impl FnOnce(&Path)) -> Output {
    let program = Program::new(["check", "--config", "imaptrace.toml"]);
    prepare(program.home());
    let path = program.home().join("password");
    let config = format!(
        "[[targets]]\nname = \"a\"\nurl = \"imaps://a.example.org\"\nuser = \"u\"\npassword = {{ file = \"{}\" }}\n",
        path.display()
    );
    fs::write(program.home().join("imaptrace.toml"), config).unwrap();
    let output = program.run().await;
    assert!(!output.stdout.contains("planted") && !output.stderr.contains("planted"), "{output:?}");
    output
}

#[tokio::test]
async fn a_file_that_is_not_as_it_should_be_is_an_error_with_its_key() {
    type Case = (&'static str, fn(&Path), &'static str);
    let cases: [Case; 12] = [
        ("others can read it", |home| write(&home.join("password"), PASSWORD.as_bytes(), 0o644), "has mode 0644"),
        ("a group can change it", |home| write(&home.join("password"), PASSWORD.as_bytes(), 0o620), "has mode 0620"),
        ("it is not there", |_| {}, "No such file"),
        ("it is empty", |home| write(&home.join("password"), b"", 0o600), "is empty"),
        (
            "10 MB",
            |home| write(&home.join("password"), &[PASSWORD.as_bytes(), &vec![b'x'; 10 << 20]].concat(), 0o600),
            "larger than 64 KiB",
        ),
        (
            "a byte order mark",
            |home| write(&home.join("password"), &[b"\xef\xbb\xbf", PASSWORD.as_bytes()].concat(), 0o600),
            "begins with a byte order mark",
        ),
        (
            "a blank behind it",
            |home| write(&home.join("password"), format!("{PASSWORD} \n").as_bytes(), 0o600),
            "ends with a space",
        ),
        ("UTF-16", |home| write(&home.join("password"), &utf16(PASSWORD), 0o600), "is in UTF-16, not UTF-8"),
        ("a directory", |home| fs::create_dir(home.join("password")).unwrap(), "is not a regular file"),
        ("a device", |home| symlink("/dev/zero", home.join("password")).unwrap(), "is not a regular file"),
        (
            "a link to one that others can read",
            |home| {
                write(&home.join("real"), PASSWORD.as_bytes(), 0o644);
                symlink(home.join("real"), home.join("password")).unwrap();
            },
            "has mode 0644",
        ),
        ("a link to nowhere", |home| symlink(home.join("real"), home.join("password")).unwrap(), "No such file"),
    ];
    for (what, prepare, says) in cases {
        let output = check(prepare).await;
        assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{what}: {output:?}");
        assert!(output.stderr.contains("5:14: targets[0].password.file: "), "{what}: {output:?}");
        assert!(output.stderr.contains(says), "{what}: {output:?}");
    }
}

#[tokio::test]
async fn a_link_to_a_good_file_is_one_as_kubernetes_makes_it() {
    let linked = |home: &Path| {
        write(&home.join("real"), PASSWORD.as_bytes(), 0o600);
        symlink(home.join("real"), home.join("password")).unwrap();
    };
    assert_eq!(check(linked).await.code, Some(0));
}

#[tokio::test]
async fn the_line_end_is_no_part_of_the_password_whatever_system_wrote_it() {
    for end in ["", "\n", "\r\n", "\r\nsecond line\r\n"] {
        let server = Script::play(GOOD).await;
        let url = format!("imap://someone@{}", server.address);
        let program =
            Program::new(["probe", &url, "--security", "none", "--output", "json", "--password-file", "password"]);
        write(&program.home().join("password"), format!("{PASSWORD}{end}").as_bytes(), 0o600);
        let output = program.run().await;
        assert_eq!(output.code, Some(0), "{end:?}: {output:?}");
        let login = heard(server).await.swap_remove(0);
        assert!(login.ends_with(&format!(" LOGIN \"someone\" \"{PASSWORD}\"")), "{end:?}: {login}");
    }
}

#[tokio::test]
async fn a_probe_whose_password_cannot_be_loaded_does_not_connect() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("imap://someone@{}", listener.local_addr().unwrap());
    let program = Program::new(["probe", &url, "--security", "none", "--password-file", "password"]);
    write(&program.home().join("password"), PASSWORD.as_bytes(), 0o644);
    let output = program.run().await;
    assert!(output.code == Some(2) && output.stderr.contains("has mode 0644"), "{output:?}");
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "it was connected to");
}

// === What stands at the ends of a secret ===

/// What comes with editors, shells and the clipboard, and what it is called.
const EDGES: &[(&str, &str)] = &[
    ("\u{feff}", "a byte order mark (U+FEFF)"),
    (" ", "a space"),
    ("\t", "a tab"),
    ("\r", "a carriage return (CR)"),
    ("\u{a0}", "a no-break space (U+00A0)"),
    ("\u{3000}", "invisible U+3000"),
    ("\u{200b}", "invisible U+200B"),
];

/// A secret with each of them at either end, and what a refusal says of it.
fn edged() -> impl Iterator<Item = (String, String)> {
    EDGES.iter().flat_map(|(edge, name)| {
        [
            (format!("{edge}{PASSWORD}"), format!("begins with {name}")),
            (format!("{PASSWORD}{edge}"), format!("ends with {name}")),
        ]
    })
}

/// A server that must get no connection: a probe whose password is refused opens none.
struct Untouched(std::net::TcpListener);

impl Untouched {
    fn new() -> Self {
        Self(std::net::TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn probe(&self, more: &[&str]) -> Program {
        let url = format!("imap://someone@{}", self.0.local_addr().unwrap());
        Program::new([&["probe", &url, "--security", "none"], more].concat())
    }
}

impl Drop for Untouched {
    fn drop(&mut self) {
        self.0.set_nonblocking(true).unwrap();
        assert!(self.0.accept().is_err() || std::thread::panicking(), "it was connected to");
    }
}

/// A refusal that names source and fault, and neither the value nor a part of it.
fn refuses(output: &Output, source: &str, says: &str) {
    let all = format!("{}{}", output.stdout, output.stderr);
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(all.contains(source) && all.contains(says), "{source}, {says}: {output:?}");
    assert!(!all.contains("91ce"), "{output:?}");
}

#[tokio::test]
async fn a_blank_or_a_mark_at_an_end_is_refused_by_the_name_of_its_source_wherever_it_is_from() {
    let server = Untouched::new();
    for (secret, says) in edged() {
        let file = server.probe(&["--password-file", "password"]);
        write(&file.home().join("password"), format!("{secret}\r\n").as_bytes(), 0o600);
        refuses(&file.run().await, "file password", &says);
        let variable = server.probe(&["--password-env", "MAIL_1"]).env("MAIL_1", &secret);
        refuses(&variable.run().await, "environment variable MAIL_1", &says);
        let usual = server.probe(&[]).env("IMAPTRACE_PASSWORD", &secret);
        refuses(&usual.run().await, "environment variable IMAPTRACE_PASSWORD", &says);
        let command = server.probe(&["--password-command", "cat secret"]);
        write(&command.home().join("secret"), format!("{secret}\r\n").as_bytes(), 0o600);
        refuses(&command.run().await, "command \"cat\"", &says);
    }
    for (value, says) in [("\n", "ends with a line end (LF)"), ("\r\n", "ends with a line end (LF)")] {
        let variable = server.probe(&[]).env("IMAPTRACE_PASSWORD", format!("{PASSWORD}{value}"));
        refuses(&variable.run().await, "environment variable IMAPTRACE_PASSWORD", says);
    }
    let command = server.probe(&["--password-command", "cat secret"]);
    write(&command.home().join("secret"), &utf16(PASSWORD), 0o600);
    refuses(&command.run().await, "command \"cat\"", "is in UTF-16");
    for (variable, says) in [("", "environment variable IMAPTRACE_PASSWORD is empty"), ("\t", "begins with a tab")] {
        refuses(&server.probe(&[]).env("IMAPTRACE_PASSWORD", variable).run().await, "IMAPTRACE_PASSWORD", says);
    }
}

#[tokio::test]
async fn a_blank_at_an_end_of_a_password_in_the_url_is_wrong_usage() {
    for password in ["%20planted-91ce", "planted-91ce%09", "%EF%BB%BFplanted-91ce", "planted-91ce%C2%A0"] {
        let server = Untouched::new();
        let url = format!("imap://someone:{password}@{}", server.0.local_addr().unwrap());
        let output = Program::new(["probe", &url, "--security", "none"]).run().await;
        refuses(&output, "SERVER: the password in the URL", "s with ");
        assert_eq!(output.stdout, "");
        let output = Program::new(["probe", &url, "--security", "none", "--password-exact"]).run().await;
        refuses(&output, "--password-exact", "the URL contains the password");
    }
}

#[tokio::test]
async fn what_is_meant_to_begin_and_end_so_is_sent_as_it_is() {
    let plain =
        GOOD.replace("IMAP4rev1] hi", "IMAP4rev1 AUTH=PLAIN SASL-IR] hi").replace("C: LOGIN", "C: AUTHENTICATE");
    for secret in edged().map(|(secret, _)| secret).filter(|secret| !secret.contains('\r')) {
        for place in
            [["--password-file", "password"], ["--password-env", "MAIL_1"], ["--password-command", "cat password"]]
        {
            let server = Script::play(&plain).await;
            let url = format!("imap://someone@{}", server.address);
            let arguments = ["probe", &url, "--security", "none", "--password-exact"];
            let program = Program::new(arguments.iter().chain(&place)).env("MAIL_1", &secret);
            write(&program.home().join("password"), format!("{secret}\r\n").as_bytes(), 0o600);
            let output = program.run().await;
            assert_eq!(output.code, Some(0), "{place:?} {secret:?}: {output:?}");
            let login = heard(server).await.swap_remove(0);
            let sent = STANDARD.encode(format!("\0someone\0{secret}"));
            assert!(login.ends_with(&format!(" AUTHENTICATE PLAIN {sent}")), "{place:?} {secret:?}: {login}");
        }
    }
}

#[tokio::test]
async fn a_headers_secret_is_held_to_the_same_and_one_in_plain_text_cannot_have_a_blank_there() {
    let server = Untouched::new();
    let probe = |key: &str, value: &str| {
        let program = server.probe(&["--otlp-endpoint", "http://127.0.0.1:1"]).env("IMAPTRACE_PASSWORD", "x");
        program.env(key, value)
    };
    for (secret, says) in edged() {
        let program = probe("IMAPTRACE__OTLP__HEADERS__AUTHORIZATION__FILE", "key");
        write(&program.home().join("key"), format!("{secret}\r\n").as_bytes(), 0o600);
        let output = program.run().await;
        refuses(&output, "file key", &says);
    }
    for value in ["authorization=%20planted-91ce", "authorization=planted-91ce%20"] {
        let output = probe("OTEL_EXPORTER_OTLP_HEADERS", value).run().await;
        refuses(&output, "variable OTEL_EXPORTER_OTLP_HEADERS: ", "s with a space");
    }
}

#[tokio::test]
async fn check_takes_a_secret_that_says_that_it_is_exact_and_shows_it_in_the_plan() {
    let program = Program::new(["check", "--config", "imaptrace.toml"]);
    write(&program.home().join("password"), format!("{PASSWORD} \n").as_bytes(), 0o600);
    let path = program.home().join("password");
    let text = format!(
        "[[targets]]\nname = \"a\"\nurl = \"imaps://a.example.org\"\nuser = \"u\"\n\
         password = {{ file = \"{}\", exact = true }}\n",
        path.display()
    );
    fs::write(program.home().join("imaptrace.toml"), text).unwrap();
    let output = program.run().await;
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.stdout.contains("/password, exact\n"), "{output:?}");
}

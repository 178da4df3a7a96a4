//! Files with passwords that are not as they should be: told with their key before anything is probed, and never used.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use crate::{
    command_line::{GOOD, heard},
    support::{
        program::{Output, Program},
        script::Script,
    },
};

const PASSWORD: &str = "canary-91ce";

fn write(path: &Path, content: &[u8], mode: u32) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// What `check` says of a target whose password is in the file `password` of a folder that was prepared so.
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
    assert!(!output.stdout.contains("canary") && !output.stderr.contains("canary"), "{output:?}");
    output
}

#[tokio::test]
async fn a_file_that_is_not_as_it_should_be_is_an_error_with_its_key() {
    type Case = (&'static str, fn(&Path), &'static str);
    let cases: [Case; 9] = [
        ("others can read it", |home| write(&home.join("password"), PASSWORD.as_bytes(), 0o644), "has mode 0644"),
        ("a group can change it", |home| write(&home.join("password"), PASSWORD.as_bytes(), 0o620), "has mode 0620"),
        ("it is not there", |_| {}, "No such file"),
        ("it is empty", |home| write(&home.join("password"), b"", 0o600), "is empty"),
        (
            "10 MB",
            |home| write(&home.join("password"), &[PASSWORD.as_bytes(), &vec![b'x'; 10 << 20]].concat(), 0o600),
            "larger than 64 KiB",
        ),
        ("a folder", |home| fs::create_dir(home.join("password")).unwrap(), "is not a regular file"),
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
async fn a_probe_whose_password_cannot_be_had_connects_to_nobody() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("imap://someone@{}", listener.local_addr().unwrap());
    let program = Program::new(["probe", &url, "--security", "none", "--password-file", "password"]);
    write(&program.home().join("password"), PASSWORD.as_bytes(), 0o644);
    let output = program.run().await;
    assert!(output.code != Some(0) && output.stderr.contains("has mode 0644"), "{output:?}");
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "it was connected to");
}

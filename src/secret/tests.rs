use std::{os::unix::fs::PermissionsExt as _, path::PathBuf};

use super::{buffer::LARGEST, *};

fn file(content: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("password");
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    (directory, path)
}

async fn load(source: SecretSource) -> Result<String, String> {
    source.load().await.map(|secret| secret.expose().to_owned()).map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_file_gives_its_first_line_without_the_line_end() {
    let (_keep, path) = file(b"two words \"q\" \\ p\xc3\xa4ss\r\nsecond", 0o600);
    assert_eq!(load(SecretSource::File { path, insecure_mode: false }).await.unwrap(), "two words \"q\" \\ päss");
}

#[tokio::test]
async fn a_file_that_others_can_read_is_refused_unless_configured() {
    let (_keep, path) = file(b"planted", 0o644);
    let error = load(SecretSource::File { path: path.clone(), insecure_mode: false }).await.unwrap_err();
    assert!(error.contains("0644") && error.contains("chmod 600") && !error.contains("planted"), "{error}");
    assert_eq!(load(SecretSource::File { path, insecure_mode: true }).await.unwrap(), "planted");
}

#[tokio::test]
async fn a_command_gives_its_first_line_and_a_failing_one_shows_nothing_of_it() {
    let command = |script: &str| SecretSource::Command(vec!["sh".into(), "-c".into(), script.into()]);
    assert_eq!(load(command("echo planted; echo more")).await.unwrap(), "planted");
    let error = load(command("echo planted; exit 3")).await.unwrap_err();
    assert!(error.contains("exit status: 3") && !error.contains("planted"), "{error}");
}

#[tokio::test]
async fn empty_and_huge_values_are_errors() {
    let (_keep, path) = file(b"\n", 0o600);
    assert!(load(SecretSource::File { path, insecure_mode: false }).await.unwrap_err().contains("empty"));
    let (_keep, path) = file(&vec![b'x'; 70_000], 0o600);
    assert!(load(SecretSource::File { path, insecure_mode: false }).await.unwrap_err().contains("64 KiB"));
}

#[tokio::test]
async fn a_value_of_any_length_comes_whole_and_the_largest_is_the_largest() {
    for length in [1, 255, 256, 257, 5000, LARGEST] {
        let long: String = ('a'..='w').cycle().take(length).collect();
        let (_keep, path) = file(long.as_bytes(), 0o600);
        assert!(load(SecretSource::File { path: path.clone(), insecure_mode: false }).await.as_ref() == Ok(&long));
        let cat = SecretSource::Command(vec!["cat".into(), path.display().to_string()]);
        assert!(load(cat).await.as_ref() == Ok(&long), "{length}");
    }
    for larger in [LARGEST + 1, 1 << 20] {
        let (_keep, path) = file(&vec![b'x'; larger], 0o600);
        let cat = SecretSource::Command(vec!["cat".into(), path.display().to_string()]);
        assert!(load(cat).await.unwrap_err().contains("64 KiB"), "{larger}");
    }
}

#[tokio::test]
async fn a_file_in_a_directory_that_others_write_into_is_refused_unless_configured_or_sticky() {
    let (keep, path) = file(b"planted", 0o600);
    let mode_of_directory =
        |mode| std::fs::set_permissions(keep.path(), std::fs::Permissions::from_mode(mode)).unwrap();
    let strict = || SecretSource::File { path: path.clone(), insecure_mode: false };
    mode_of_directory(0o777);
    let error = load(strict()).await.unwrap_err();
    assert!(error.contains("chmod o-w") && !error.contains("planted"), "{error}");
    assert_eq!(load(SecretSource::File { path: path.clone(), insecure_mode: true }).await.unwrap(), "planted");
    for mode in [0o1777, 0o775] {
        mode_of_directory(mode);
        assert_eq!(load(strict()).await.unwrap(), "planted", "{mode:o}");
    }
}

#[tokio::test]
async fn a_links_target_must_not_belong_to_another_user() {
    let (keep, path) = file(b"planted", 0o644);
    let link = keep.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let strict = || SecretSource::File { path: link.clone(), insecure_mode: false };
    assert!(load(strict()).await.unwrap_err().contains("0644"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
    assert_eq!(load(strict()).await.unwrap(), "planted");
    assert!(load(SecretSource::File { path: keep.path().into(), insecure_mode: false }).await.is_err());
}

#[test]
fn a_key_is_read_whole_and_only_if_others_cannot() {
    let (_keep, path) = file(b"-----BEGIN\nmore\n", 0o600);
    assert_eq!(*read_key(&path).unwrap(), b"-----BEGIN\nmore\n");
    for mode in [0o644, 0o620, 0o606] {
        let (_keep, path) = file(b"planted", mode);
        let error = read_key(&path).unwrap_err().to_string();
        assert!(error.contains("chmod 600") && !error.contains("planted"), "{mode:o}: {error}");
    }
    let (_keep, path) = file(&vec![b'x'; 70_000], 0o600);
    assert!(read_key(&path).unwrap_err().to_string().contains("64 KiB"));
}

#[test]
fn no_printable_form() {
    assert_eq!(format!("{:?}", SecretSource::Given(Secret::new("planted".into()))), "Given([secret])");
    assert_eq!(format!("{:?}", SecretSource::Env("MAIL_1".into())), "Env(\"MAIL_1\")");
    let variable = SecretSource::Env("planted7".into());
    let details = format!("{variable:?} {}", source::no_variable("planted7"));
    assert!(!details.contains("planted7"), "{details}");
    let command = SecretSource::Command(vec!["pass".into(), "--key=planted".into()]);
    assert_eq!(format!("{command:?}"), "Command(\"pass\", …)");
}

/// A directory below one that is ours, at a path without links.
fn directory() -> (tempfile::TempDir, PathBuf) {
    let keep = tempfile::tempdir().unwrap();
    let path = keep.path().canonicalize().unwrap();
    (keep, path)
}

fn set_mode(path: &std::path::Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn secret_at(path: &std::path::Path) {
    std::fs::write(path, "planted").unwrap();
    set_mode(path, 0o400);
}

#[tokio::test]
async fn each_directory_on_the_way_to_a_link_and_to_its_target_must_be_closed_to_others() {
    use std::os::unix::fs::symlink;
    let (_keep, top) = directory();
    std::fs::create_dir_all(top.join("links/deep")).unwrap();
    std::fs::create_dir_all(top.join("files/deep")).unwrap();
    secret_at(&top.join("files/deep/password"));
    symlink("../../files/deep/password", top.join("links/deep/relative")).unwrap();
    symlink(top.join("files/deep/password"), top.join("links/deep/absolute")).unwrap();
    symlink("links/deep", top.join("short")).unwrap();
    for name in ["links/deep/relative", "links/deep/absolute", "short/relative", "short/absolute"] {
        let load = |insecure_mode| load(SecretSource::File { path: top.join(name), insecure_mode });
        assert_eq!(load(false).await.as_deref(), Ok("planted"), "{name}");
        for open in ["links", "links/deep", "files", "files/deep"] {
            let directory = top.join(open);
            set_mode(&directory, 0o757);
            let error = load(false).await.unwrap_err();
            assert!(
                error.contains(&format!("directory {}", directory.display())) && error.contains("chmod o-w"),
                "{error}"
            );
            assert_eq!(load(true).await.as_deref(), Ok("planted"));
            for closed in [0o1777, 0o775, 0o755] {
                set_mode(&directory, closed);
                assert_eq!(load(false).await.as_deref(), Ok("planted"), "{name} {open} {closed:o}");
            }
        }
    }
}

#[tokio::test]
async fn what_kubelet_makes_for_a_secret_passes() {
    use std::os::unix::fs::symlink;
    let (_keep, top) = directory();
    // A tmpfs, root's; with fsGroup its directories are the group's, and the files 0440.
    for (mount, version, file) in [(0o1777, 0o755, 0o400), (0o3777, 0o2775, 0o440), (0o1777, 0o2755, 0o640)] {
        let volume = top.join("volume");
        let data = volume.join("..2026_11_29_12_00_00.1234567890");
        std::fs::create_dir_all(&data).unwrap();
        secret_at(&data.join("password"));
        set_mode(&data.join("password"), file);
        symlink(data.file_name().unwrap(), volume.join("..data")).unwrap();
        symlink("..data/password", volume.join("password")).unwrap();
        set_mode(&data, version);
        set_mode(&volume, mount);
        let loaded = load(SecretSource::File { path: volume.join("password"), insecure_mode: false }).await;
        assert_eq!(loaded.as_deref(), Ok("planted"), "{mount:o} {version:o} {file:o}");
        // Its default, which no chmod in the pod can change.
        set_mode(&data.join("password"), 0o644);
        let source = SecretSource::File { path: volume.join("password"), insecure_mode: false };
        let error = source.check().unwrap_err().to_string();
        assert!(
            error.contains("mode 0644") && error.contains("defaultMode: 0440") && !error.contains("chmod"),
            "{error}"
        );
        std::fs::remove_dir_all(&volume).unwrap();
    }
}

#[test]
fn a_directory_or_a_link_of_another_user_on_the_way_is_refused() {
    use std::os::unix::fs::{MetadataExt as _, symlink};
    let (_keep, top) = directory();
    std::fs::create_dir_all(top.join("theirs/deep")).unwrap();
    std::fs::create_dir(top.join("sticky")).unwrap();
    set_mode(&top.join("sticky"), 0o1777);
    secret_at(&top.join("theirs/deep/password"));
    secret_at(&top.join("password"));
    symlink(top.join("password"), top.join("sticky/link")).unwrap();
    symlink(top.join("password"), top.join("link")).unwrap();
    // Only root could give them away: whose they are is made up.
    let examined = |path: &str, theirs: &str| {
        let theirs = std::fs::symlink_metadata(top.join(theirs)).unwrap().ino();
        file::examined(&top.join(path), |found| found.ino() != theirs).map(drop).map_err(|error| error.to_string())
    };
    let error = examined("theirs/deep/password", "theirs").unwrap_err();
    assert!(
        error.contains(&format!("{} on the way", top.join("theirs").display())) && error.contains("chown"),
        "{error}"
    );
    // Where anybody may put a link, whose it is counts; elsewhere it was put there by who may.
    let error = examined("sticky/link", "sticky/link").unwrap_err();
    assert!(error.contains("sticky/link on the way"), "{error}");
    assert_eq!(examined("link", "link"), Ok(()));
    assert_eq!(examined("theirs/deep/password", "link"), Ok(()));
}

#[tokio::test]
async fn links_in_a_circle_and_paths_through_a_file_end() {
    let (_keep, top) = directory();
    std::os::unix::fs::symlink("circle", top.join("circle")).unwrap();
    secret_at(&top.join("password"));
    for (name, error) in [("circle", "symbolic links"), ("password/x", "directory"), ("nowhere/x", "No such file")] {
        let said = load(SecretSource::File { path: top.join(name), insecure_mode: false }).await.unwrap_err();
        assert!(said.contains(error), "{name}: {said}");
    }
}

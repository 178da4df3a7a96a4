use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use super::*;

fn run() -> Run {
    serde_json::from_str(imaptrace_testkit::PASSED_RUN).unwrap()
}

fn open(dir: &Path) -> LatencyStore {
    open_for(dir, |_, _| true)
}

fn open_for(dir: &Path, wanted: impl Fn(&str, &str) -> bool) -> LatencyStore {
    let store = LatencyStore::new(Settings::default(), Some(StateDir::open(dir).unwrap()));
    store.load(wanted);
    store
}

/// As after so many passed runs.
fn learned(dir: &Path, runs: usize) -> LatencyStore {
    let store = open(dir);
    (0..runs).for_each(|_| drop(store.evaluate(&mut run())));
    store
}

/// Whether every started step of the next run has a baseline.
fn has_baselines(store: &LatencyStore) -> bool {
    let mut run = run();
    store.evaluate(&mut run);
    run.steps.iter().all(|step| step.baseline_s.is_some() == step.was_started())
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    // It exists as long as the directory is open.
    names.retain(|name| name != "lock");
    names.sort();
    names
}

#[tokio::test]
async fn what_was_learned_outlives_the_process_in_a_file_that_only_its_owner_can_read() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("imaptrace");
    assert!(!has_baselines(&open(&dir)));
    Arc::new(learned(&dir, 20)).save().await;
    assert!(has_baselines(&open(&dir)));
    assert_eq!(names(&dir), [FILE], "nothing is left beside it");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir), mode(&dir.join(FILE))), (0o700, 0o600));
}

#[tokio::test]
async fn a_save_replaces_the_file_as_a_whole_and_only_when_something_was_learned() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(learned(dir.path(), 19));
    store.save().await;
    let file = dir.path().join(FILE);
    fs::remove_file(&file).unwrap();
    store.save().await;
    assert!(!file.exists());
    // A leftover of a save that a crash cut short is overwritten.
    fs::write(file.with_extension("new"), "half a li").unwrap();
    store.evaluate(&mut run());
    store.save().await;
    drop(store);
    assert!(has_baselines(&open(dir.path())));
    assert_eq!(names(dir.path()), [FILE]);
}

#[test]
fn accounts_that_the_configuration_has_no_more_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    learned(dir.path(), 20).save_now();
    let wanted = |target: &str, account: &str| target == "mail01" && account == "default";
    assert!(has_baselines(&open_for(dir.path(), wanted)));
    assert!(!has_baselines(&open_for(dir.path(), |_, _| false)));
}

#[test]
fn a_damaged_line_costs_its_account_alone_and_the_file_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    learned(dir.path(), 20).save_now();
    let file = dir.path().join(FILE);
    let damaged = fs::read_to_string(&file).unwrap() + "{\"target\":\"mail02\",\"acc";
    fs::write(&file, &damaged).unwrap();
    assert!(has_baselines(&open(dir.path())));
    assert_eq!(names(dir.path()), ["latency.damaged"]);
    assert_eq!(fs::read_to_string(dir.path().join("latency.damaged")).unwrap(), damaged);
}

#[test]
fn a_file_of_another_kind_is_set_aside_and_all_is_learned_again() {
    for content in [&b"{\"format\":\"imaptrace latency\",\"version\":2}\n"[..], b"", b"\xff\x00\n"] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), content).unwrap();
        let store = open(dir.path());
        assert!(!has_baselines(&store));
        assert_eq!(fs::read(dir.path().join("latency.damaged")).unwrap(), content);
        (0..20).for_each(|_| drop(store.evaluate(&mut run())));
        store.save_now();
        drop(store);
        assert!(has_baselines(&open(dir.path())));
    }
}

#[test]
fn a_second_damaged_file_takes_nothing_from_the_first() {
    let dir = tempfile::tempdir().unwrap();
    for content in ["one", "two", "three"] {
        fs::write(dir.path().join(FILE), content).unwrap();
        open(dir.path());
    }
    let aside = ["latency-2.damaged", "latency-3.damaged", "latency.damaged"];
    assert_eq!(names(dir.path()), aside);
    assert_eq!(aside.map(|name| fs::read_to_string(dir.path().join(name)).unwrap()), ["two", "three", "one"]);
}

#[test]
fn what_is_no_file_is_set_aside_and_leads_nowhere() {
    let home = tempfile::tempdir().unwrap();
    let elsewhere = home.path().join("elsewhere");
    let make: [&dyn Fn(&Path); 4] = [
        &|path| symlink(&elsewhere, path).unwrap(),
        &|path| symlink("nowhere", path).unwrap(),
        &|path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
        &|path| fs::create_dir(path).unwrap(),
    ];
    for (number, make) in make.iter().enumerate() {
        fs::write(&elsewhere, "another's").unwrap();
        for name in [FILE, NEW] {
            let dir = home.path().join(format!("{number}-{name}"));
            fs::create_dir(&dir).unwrap();
            make(&dir.join(name));
            assert!(learned(&dir, 20).save_now());
            assert!(has_baselines(&open(&dir)), "{number} {name}");
            assert!(fs::symlink_metadata(dir.join(FILE)).unwrap().is_file());
            assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "another's");
        }
        let dir = home.path().join(format!("{number}-{FILE}"));
        assert_eq!(names(&dir), ["latency.damaged", FILE]);
    }
}

#[test]
fn what_cannot_be_read_stays_and_is_taken_up_before_the_first_save() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("state");
    learned(&dir, 30).save_now();
    let kept = home.path().join("kept");
    fs::rename(&dir, &kept).unwrap();
    fs::write(&dir, "a file where the directory should be").unwrap();
    let store = learned(&dir, 5);
    for _ in 0..2 {
        store.save_now();
        assert!(store.saving().unread && store.changed.load(Ordering::Relaxed));
    }
    fs::remove_file(&dir).unwrap();
    fs::rename(&kept, &dir).unwrap();
    store.save_now();
    assert!(has_baselines(&store), "5 runs would not do");
    drop(store);
    assert!(has_baselines(&open(&dir)));
    assert_eq!(names(&dir), [FILE]);
}

#[test]
fn a_file_that_could_be_read_late_takes_nothing_from_what_was_learned_meanwhile() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("state");
    learned(&dir, 5).save_now();
    let kept = home.path().join("kept");
    fs::rename(&dir, &kept).unwrap();
    fs::write(&dir, "a file where the directory should be").unwrap();
    let store = learned(&dir, 20);
    store.save_now();
    fs::remove_file(&dir).unwrap();
    fs::rename(&kept, &dir).unwrap();
    store.save_now();
    drop(store);
    assert!(has_baselines(&open(&dir)));
}

#[test]
fn an_error_names_what_is_in_the_way() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("state");
    let error_of = |path: &Path| StateDir::open(path).unwrap().ready().unwrap_err().to_string();
    let deeper = dir.join("deeper");
    assert!(error_of(&deeper).starts_with(&format!("{}: ", deeper.display())), "{}", error_of(&deeper));
    fs::write(&dir, "a file where the directory should be").unwrap();
    assert!(error_of(&dir).starts_with(&format!("{}: ", dir.display())), "{}", error_of(&dir));
}

#[test]
fn a_save_that_failed_is_tried_again() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("state");
    fs::write(&dir, "a file where the directory should be").unwrap();
    let store = learned(&dir, 20);
    for _ in 0..2 {
        store.save_now();
        assert!(store.saving().failing && store.changed.load(Ordering::Relaxed));
    }
    fs::remove_file(&dir).unwrap();
    store.save_now();
    assert!(!store.saving().failing);
    drop(store);
    assert!(has_baselines(&open(&dir)));
}

#[test]
fn without_a_directory_all_is_in_memory() {
    let store = LatencyStore::new(Settings::default(), None);
    store.load(|_, _| true);
    (0..20).for_each(|_| drop(store.evaluate(&mut run())));
    store.save_now();
    assert!(has_baselines(&store));
}

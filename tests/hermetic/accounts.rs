//! Accounts of a target: what they have of their own, and what they take from it.

use std::time::Duration;

use imaptrace::{
    config::{self, Config, Problems, Sources},
    plan::{Auth, Target, UserName, Window},
};

fn load(text: &str) -> Result<Config, Problems> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let environment = vec![("SET".to_owned(), "x".to_owned())];
    config::load(&Sources { file: Some(file.path().to_owned()), environment, ..Sources::default() })
}

fn loaded(text: &str) -> Config {
    load(text).unwrap_or_else(|problems| panic!("{problems}"))
}

/// A target with these keys and accounts.
fn target(lines: &str) -> String {
    format!("[[targets]]\nname = \"a\"\nurl = \"imaps://a.example\"\n{lines}")
}

const PASSWORD: &str = "password = { env = \"SET\" }\n";

/// Of each account: name, user, mailbox, labels, interval in seconds, and the journey.
fn shown(target: &Target) -> Vec<String> {
    let line = |(account, probed): (&imaptrace::plan::Account, std::borrow::Cow<'_, Target>)| {
        let labels: Vec<_> = probed.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        format!(
            "{} {} {} [{}] {} {}",
            account.alias,
            account.user.expose(),
            probed.journey.mailbox.as_str(),
            labels.join(" "),
            probed.interval.as_secs(),
            probed.journey.name(),
        )
    };
    target.probed().map(line).collect()
}

/// The example of docs/configuration.md, as it stands there.
fn documented() -> String {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md")).unwrap();
    let (_, behind) = text.split_once("one canary on each of five storage volumes of 120 servers is:").unwrap();
    let lines = behind.lines().skip(1).take_while(|line| line.is_empty() || line.starts_with("    "));
    lines.map(|line| line.trim().to_owned() + "\n").collect()
}

#[test]
fn five_canaries_on_each_of_120_servers_take_less_than_25_lines() {
    let text = documented();
    assert!(text.lines().count() < 25, "{text}");
    let config = loaded(&text);
    assert!(config.warnings.iter().all(|problem| problem.key.starts_with("otlp")), "{:?}", config.warnings);
    assert_eq!(config.targets.len(), 120);
    assert_eq!(config.targets.iter().map(|target| target.accounts.len()).sum::<usize>(), 600);
    let last = config.targets.last().unwrap();
    assert_eq!(
        shown(last),
        ["vol1", "vol2", "vol3", "vol4", "vol5"]
            .map(|volume| format!("{volume} canary-{volume}@example.org INBOX [volume={volume}] 60 first-load"))
    );
    let place = format!("{:?}", last.accounts[4].password);
    assert!(place.contains("/run/secrets/mail120.example.org/vol5"), "{place}");
}

#[test]
fn an_account_has_keys_of_its_own_and_the_rest_from_target_group_and_defaults() {
    let config = loaded(&format!(
        "[defaults]\ninterval = \"2m\"\nwindow = \"random\"\nmailbox = \"D\"\n\
         [[groups]]\nname = \"g\"\ntargets = [\"m.example\"]\nuser = \"u\"\nmailbox = \"Canary/{{account}}\"\n\
         labels = {{ site = \"fra\", rack = \"a\" }}\n{PASSWORD}\
         [[groups.accounts]]\nname = \"slow\"\ninterval = \"10m\"\ntimeout = \"40s\"\nlabels = {{ rack = \"b\" }}\n\
         [[groups.accounts]]\nname = \"cold\"\nuser = \"v-{{account}}\"\ncold = true\nnewest = 7\nauth = \"login\"\n\
         [[groups.accounts]]\nname = \"new\"\nmailbox = \"E\"\nwindow = \"newest\"\nallow_empty = true\n"
    ));
    let target = &config.targets[0];
    assert_eq!(
        shown(target),
        [
            "default u Canary/default [rack=a site=fra] 120 first-load-random",
            "slow u Canary/slow [rack=b site=fra] 600 first-load-random",
            "cold v-cold Canary/cold [rack=a site=fra] 120 first-load-cold",
            "new u E [rack=a site=fra] 120 first-load",
        ]
    );
    let [_, slow, cold, new] = &target.accounts[..] else { panic!("{target:?}") };
    let [slow, cold, new] = [slow, cold, new].map(|account| target.for_account(account).into_owned());
    assert_eq!((slow.deadlines.run, cold.deadlines.run), (Duration::from_secs(40), Duration::from_secs(30)));
    assert_eq!((cold.journey.newest, cold.journey.auth, cold.journey.window), (7, Auth::Login, Window::Random));
    assert!(new.journey.allow_empty && !cold.journey.allow_empty && new.journey.auth == Auth::Auto);
    assert_eq!(slow.accounts.len(), 1);
    assert!(target.accounts[0].own.is_none(), "the first account is as the target");
    assert!(config.warnings.iter().all(|problem| problem.key.starts_with("otlp")), "{:?}", config.warnings);
}

#[test]
fn a_login_of_the_target_is_an_account_unless_it_is_only_for_the_others() {
    let names = |text: &str| -> Vec<String> {
        let config = loaded(&target(text));
        config.targets[0].accounts.iter().map(|account| account.alias.clone()).collect()
    };
    let account = |name: &str, more: &str| format!("[[targets.accounts]]\nname = \"{name}\"\n{more}");
    let user = "user = \"u\"\n";
    let (b, c) = (account("b", "user = \"b\"\n"), account("c", &format!("user = \"c\"\n{PASSWORD}")));
    assert_eq!(names(&format!("{user}{PASSWORD}{b}{c}")), ["default", "b", "c"]);
    assert_eq!(names(&format!("{PASSWORD}{b}{c}")), ["b", "c"]);
    assert_eq!(names(&format!("user = \"u-{{account}}\"\n{PASSWORD}{}", account("{x,y}", ""))), ["x", "y"]);
    let secret = "password = { command = [\"pass\", \"mail/{account}\"] }\n";
    assert_eq!(names(&format!("{user}{secret}{}", account("b", "mailbox = \"B\"\n"))), ["b"]);
    assert_eq!(names(&format!("{user}{}", account("b", PASSWORD))), ["b"]);
    // Of a user without accounts nothing is filled in.
    let config = loaded(&target(&format!("user = \"u-{{account}}\"\n{PASSWORD}")));
    assert_eq!(config.targets[0].accounts[0].user.expose(), "u-{account}");
}

#[test]
fn a_master_user_goes_with_its_password() {
    let config = loaded(&target(&format!(
        "master_user = \"m\"\n{PASSWORD}[[targets.accounts]]\nname = \"b\"\nuser = \"b\"\n\
         [[targets.accounts]]\nname = \"c\"\nuser = \"c\"\n{PASSWORD}"
    )));
    let masters = config.targets[0].accounts.iter().map(|account| account.master_user.as_ref().map(UserName::expose));
    assert_eq!(masters.collect::<Vec<_>>(), [Some("m"), None]);
}

#[test]
fn what_is_wrong_with_an_account_is_said_with_its_place_and_once_for_all_targets() {
    let group = |accounts: &str| {
        format!(
            "[[groups]]\nname = \"g\"\ntargets = [\"m{{1..9}}.example\"]\nuser = \"u-{{account}}\"\n{PASSWORD}\
             [[groups.accounts]]\n{accounts}"
        )
    };
    for (text, error) in [
        (group("name = \"v{1..10000}\""), "groups[0].accounts[0].name: it expands to more than 1000 accounts"),
        (group("name = \"v{1..2\""), "groups[0].accounts[0].name: a brace is left open"),
        (
            group("name = \"v{1..2}\"\n[[groups.accounts]]\nname = \"v2\""),
            "groups[0].accounts[1].name: another account of this target has the name \"v2\"",
        ),
        (
            group("name = \"v\"\nlabels = { volume = \"{volume}\" }"),
            "groups[0].accounts[0].labels.volume: there is no placeholder {volume}",
        ),
        (
            group("name = \"v\"\ninterval = \"20s\""),
            "groups[0].accounts[0].interval: the interval (20s) is not longer than the timeout (30s)",
        ),
        (group("name = \"v\"\nsecurity = \"tls\""), "groups[0].accounts[0].security"),
        (
            group("name = \"v\"\nauth = \"external\""),
            "groups[0].accounts[0].auth: external is a login by a client certificate, and there is none",
        ),
        (
            target("[[targets.accounts]]\nname = \"v\"\nuser = \"u\""),
            "targets[0].accounts[0].password: there is no password",
        ),
        (
            target(&format!("[[targets.accounts]]\nname = \"v\"\n{PASSWORD}")),
            "targets[0].accounts[0].user: there is no user name",
        ),
    ] {
        let problems = load(&text).unwrap_err();
        let said = problems.errors.iter().map(ToString::to_string).filter(|line| line.contains(error)).count();
        assert_eq!(said, 1, "{error} in {problems}");
    }
    let many = group("name = \"v{1..1000}\"").replace("m{1..9}", "m{1..101}");
    assert!(load(&many).unwrap_err().to_string().contains("groups and files have more than 100000 accounts in all"));
}

#[test]
fn two_accounts_that_open_the_same_mailbox_are_a_warning() {
    let warned = |user: &str, more: &str| {
        let config = loaded(&format!(
            "[[groups]]\nname = \"g\"\ntargets = [\"m{{1..9}}.example\"]\nuser = \"{user}\"\n\
             password = {{ env = \"SET\" }}\n{more}[[groups.accounts]]\nname = \"vol{{1..3}}\"\n"
        ));
        let own = |problem: &&config::Problem| problem.to_string().contains("the same mailbox of the same user");
        config.warnings.iter().filter(own).count()
    };
    assert_eq!(warned("canary", ""), 1);
    assert_eq!(warned("canary", "mailbox = \"{account}\"\n"), 0);
    assert_eq!(warned("canary-{account}", ""), 0);
}

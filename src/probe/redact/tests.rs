#![allow(clippy::string_slice, clippy::format_collect, reason = "what is cut here is ASCII, and short")]

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use proptest::prelude::*;

use super::*;
use crate::secret::SecretSource;

const USER: &str = "planted@example.org";
const PASSWORD: &str = "pass word\"\\ä%7+";

fn redactor(user: &str, password: &str) -> Redactor {
    let account = Account {
        alias: "default".into(),
        user: UserName::new(user).unwrap(),
        master_user: None,
        password: SecretSource::Env("X".into()),
        own: None,
    };
    Redactor::new(&account, Some(&Secret::new(password.into())))
}

fn response(text: &str) -> String {
    redactor(USER, PASSWORD).text(text.as_bytes(), 256).as_str().to_owned()
}

#[test]
fn every_form_of_the_password_goes() {
    let each =
        |form: &dyn Fn(u8) -> String, between: &str| PASSWORD.bytes().map(form).collect::<Vec<_>>().join(between);
    let forms = [
        PASSWORD.to_owned(),
        PASSWORD.to_uppercase(),
        "pass word\\\"\\\\ä%7+".to_owned(),
        format!("{PASSWORD:?}"),
        serde_json::to_string(PASSWORD).unwrap(),
        "pass word\\\"\\\\\\u00e4%7+".to_owned(),
        "pass word\\\"\\\\\\u{E4}%7+".to_owned(),
        "pass word\\x22\\x5C\\303\\244%7+".to_owned(),
        "pass%20word%22%5C%C3%A4%257%2B".to_owned(),
        "pass+word%22%5c%c3%a4%257%2b".to_owned(),
        "pa%73s wor%64\"%5c\u{e4}%257+".to_owned(),
        "pass word&quot;\\&#228;%7+".to_owned(),
        "pass&#x20;word&#34;&#92;&#xE4;%7+".to_owned(),
        each(&|byte| format!("%{byte:02x}"), ""),
        each(&|byte| format!("{byte:02x}"), ""),
        each(&|byte| format!("{byte:02X}"), ":"),
        each(&|byte| format!("0x{byte:02x}"), ", "),
        each(&|byte| format!("\\x{byte:02x}"), ""),
        each(&|byte| format!("\\X{byte:02X}"), ""),
        each(&|byte| format!("\\U00{byte:02X}"), "").replace("\\U00C3\\U00A4", "\\U00E4"),
        each(&|byte| format!("\\u00{byte:02x}"), "").replace("\\u00c3\\u00a4", "\\u00e4"),
        format!("{:?}", PASSWORD.as_bytes()),
        each(&|byte| byte.to_string(), " "),
        STANDARD.encode(PASSWORD),
        URL_SAFE_NO_PAD.encode(PASSWORD),
        STANDARD.encode(PASSWORD).to_uppercase(),
        STANDARD.encode(PASSWORD).to_lowercase(),
        STANDARD.encode(format!("\0{USER}\0{PASSWORD}")),
        STANDARD.encode(format!("x{PASSWORD}")).to_lowercase(),
        STANDARD.encode(format!("xy{PASSWORD}")).to_lowercase(),
        PASSWORD.bytes().flat_map(|byte| [char::from(byte), '\0']).collect::<String>().replace("Ã\0¤", "ä"),
    ];
    for form in forms {
        let clean = response(&format!("no {form} !"));
        let bare =
            clean.replace('"', "").replace("0x[", "[").replace("\\x00", "").replace("[[redacted]]", "[redacted]");
        assert_eq!(bare, "no [redacted] !", "{form}");
    }
}

#[test]
fn base64_goes_at_any_place_of_a_message_folded_and_with_its_ends_cut_off() {
    for lead in 0..7 {
        let whole = STANDARD_NO_PAD.encode(format!("{}{PASSWORD}tail", "x".repeat(lead)));
        for cut in 0..5 {
            let text = &whole[cut.min(lead)..whole.len() - cut];
            assert_eq!(response(&format!("<{text}>")), "<[redacted]>", "{lead} {cut}");
            let folded: Vec<&str> = text.as_bytes().chunks(5).map(|five| std::str::from_utf8(five).unwrap()).collect();
            let clean = response(&format!("<{}>", folded.join("\r\n ")));
            // Each line of it that is the password's alone.
            let own = (8 * lead).div_ceil(6)..8 * (lead + PASSWORD.len()) / 6;
            let first = cut.min(lead);
            for (line, part) in folded
                .iter()
                .enumerate()
                .filter(|(line, _)| own.contains(&(first + 5 * line)) && own.contains(&(first + 5 * line + 4)))
            {
                assert!(!clean.contains(part), "{lead} {cut}: line {line} of {clean}");
            }
            assert!(clean.contains("[redacted]"), "{clean}");
        }
    }
}

#[test]
fn six_characters_in_a_row_go_and_five_may_stay() {
    let secret = "Zy7-mQ4_kd9";
    let redactor = redactor("u", secret);
    for from in 0..secret.len() {
        for to in from + 1..=secret.len() {
            let piece = &secret[from..to];
            let clean = redactor.text(format!("it is {piece}").as_bytes(), 256);
            let expected = if to - from >= 6 { "it is [redacted]".to_owned() } else { format!("it is {piece}") };
            assert_eq!(clean.as_str(), expected);
        }
    }
}

#[test]
fn a_short_password_goes_whole() {
    let redactor = redactor("someone", "a1b");
    let text = format!("a1b A1B 613162 [97, 49, 98] {} a1 %611b", STANDARD.encode("--a1b"));
    assert_eq!(
        redactor.text(text.as_bytes(), 256).as_str(),
        "[redacted] [redacted] [redacted] [[redacted]] [redacted] a1 [redacted]"
    );
}

#[test]
fn the_user_name_becomes_the_alias_without_its_domain_and_cut_short_too() {
    let blob = STANDARD.encode(format!("\0{USER}\0other"));
    let escaped = "planted%40example.org";
    let clean = response(&format!("Planted@Example.org planted {blob} {escaped} plantedx planted@exam"));
    assert_eq!(clean, "[default] [default] [default] [default] plantedx [default]");
    assert_eq!(response("* BYE planted@example.o"), "* BYE [default]");
    assert_eq!(response(&format!("<{}>", STANDARD.encode(USER).to_uppercase())), "<[default]>");
    assert_eq!(response("&lt;planted&#64;example&#x2e;org&gt;"), "&lt;[default]&gt;");
    assert_eq!(response(&format!("* BYE {}", &STANDARD.encode(USER)[..14])), "* BYE [default]");
    let short = redactor("me", PASSWORD);
    assert_eq!(short.text(b"some of me", 256).as_str(), "some of [default]");
}

#[test]
fn text_without_a_secret_or_name_stays_as_it_is() {
    let text = "NO [ALERT] 7 mails in a%20folder, cafe:babe 0xbeef {5} \\o/ AHBsYW50ZWQ= (0.036 secs) päss wörd";
    assert_eq!(response(text), text.replace("AHBsYW50ZWQ=", "[default]"));
    assert_eq!(redactor("u", "").text(b"all of it", 256).as_str(), "all of it");
}

#[test]
fn only_the_start_of_a_long_text_is_searched_and_kept() {
    let clean = response(&format!("{}{PASSWORD}", PASSWORD.repeat(100_000)));
    assert_eq!(clean, "[redacted]");
    let redactor = redactor(USER, PASSWORD);
    let long = redactor.bytes(&vec![b'x'; 1 << 20]);
    assert_eq!(long.len(), KEPT);
}

proptest! {
    /// Whatever stands around it and however it is cut, no piece comes through.
    #[test]
    fn no_six_characters_come_through(
        before in "[ -~]{0,20}", after in "[ -~]{0,20}", cut in 0..9_usize, lead in 0..3_usize
    ) {
        let secret = "Zy7-mQ4_kd9";
        let piece = &secret[..secret.len() - cut.min(5)];
        let redactor = redactor("nobody", secret);
        for form in [
            piece.to_owned(),
            STANDARD.encode(format!("{}{piece}", "x".repeat(lead))),
            piece.bytes().map(|byte| format!("{byte:02x}")).collect(),
        ] {
            let clean = redactor.text(format!("{before}{form}{after}").as_bytes(), 256);
            prop_assert!(!clean.as_str().contains(&form), "{form}: {clean}");
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        redactor(USER, PASSWORD).text(&bytes, 256);
    }
}

#[test]
fn the_master_user_is_not_named_either() {
    let account = Account {
        alias: "shop".into(),
        user: UserName::new("planted@example.org").unwrap(),
        master_user: UserName::new("overseer"),
        password: SecretSource::Env("X".into()),
        own: None,
    };
    let redactor = Redactor::new(&account, Some(&Secret::new("password".into())));
    let blob = STANDARD.encode("planted@example.org\0overseer\0password");
    let response = format!("{blob} / planted@example.org*overseer / OVERSEER for planted@example.org");
    let text = redactor.text(response.as_bytes(), 256);
    let (blob, names) = text.as_str().split_once(" / ").unwrap();
    assert_eq!(names, "[shop] / [shop] for [shop]");
    assert_eq!(blob, "[redacted]");
}

#[test]
fn sasl_messages_are_removed_whole_and_in_parts() {
    let mut redactor = redactor("user", "password");
    let message = b"c=biws,r=abcdef,p=cHJvb2Y=";
    redactor.learn(message);
    let response = format!("{} / c=biws,r=abcdef,p=cHJvb2Y= / p is cHJvb2Y=", STANDARD.encode(message));
    assert_eq!(redactor.text(response.as_bytes(), 256).as_str(), "[redacted] / [redacted] / p is [redacted]");
}

#[test]
fn what_began_an_exchange_leaves_the_name_its_alias_and_others_of_its_domain_alone() {
    let mut redactor = redactor(USER, PASSWORD);
    redactor.learn(format!("n,,n={USER},r=abcdefgh").as_bytes());
    let response = format!("n,,n={USER},r=abcdefgh of example.org");
    assert_eq!(redactor.text(response.as_bytes(), 256).as_str(), "n,,n=[default][redacted] of example.org");
}

//! Templates: expands `mail{001..120}.example.org` and `{a,b}`, and fills in `{host}`, `{name}` and `{account}`.
//!
//! ```text
//! TEMPLATE = *( TEXT / "{" CHOICE *( "," CHOICE ) "}" )     several braces multiply, the last one changes fastest
//! CHOICE   = TEXT / NUMBER ".." NUMBER                      a leading zero keeps the width: 08..11 is 08 09 10 11
//! ```
//!
//! Called by `group`, `account` and `labels`.

use crate::config::sources::readers::{Field, shown};

/// The targets of all groups and files of a configuration, and their accounts.
pub(crate) const MOST: usize = 100_000;
/// The accounts that one name of an account stands for.
const MOST_ACCOUNTS: usize = 1_000;
/// The length of an expanded text in bytes: more than a host's name and a port.
const LONGEST: usize = 300;

/// A template that cannot be expanded: what is wrong, and what to do about it.
type ExpandError = (String, &'static str);

fn malformed(what: impl Into<String>) -> ExpandError {
    (what.into(), "write mail{01..20}.example.org, or {a,b}.example.org")
}

/// The texts of a template of targets; at least one.
pub(crate) fn expand(template: &str) -> Result<Vec<String>, ExpandError> {
    expand_up_to(template, MOST, "targets")
}

/// The texts of an account's name; at least one.
pub(crate) fn expand_accounts(template: &str) -> Result<Vec<String>, ExpandError> {
    expand_up_to(template, MOST_ACCOUNTS, "accounts")
}

fn expand_up_to(template: &str, most: usize, what: &str) -> Result<Vec<String>, ExpandError> {
    let mut parts = Vec::new();
    let mut rest = template;
    let unopened = || malformed("there is a `}` without its `{`");
    while let Some((text, behind)) = rest.split_once('{') {
        let (inner, behind) = behind.split_once('}').ok_or_else(|| malformed("a brace is left open"))?;
        if text.contains('}') {
            return Err(unopened());
        }
        if inner.contains('{') {
            return Err(malformed("there are braces inside braces"));
        }
        parts.push((text, choices(inner)?));
        rest = behind;
    }
    if rest.contains('}') {
        return Err(unopened());
    }
    // Counted before any text is made.
    let count = parts.iter().try_fold(1_usize, |count, (_, choices)| {
        let choices = choices.iter().try_fold(0_usize, |sum, choice| sum.checked_add(choice.count()))?;
        count.checked_mul(choices)
    });
    if count.is_none_or(|count| count > most) {
        return Err((format!("it expands to more than {most} {what}"), "split it up"));
    }
    let longest = |choices: &[BraceChoice<'_>]| choices.iter().map(BraceChoice::length).max().unwrap_or_default();
    let length: usize = parts.iter().map(|(text, choices)| text.len() + longest(choices)).sum();
    if length + rest.len() > LONGEST {
        return Err(malformed(format!("it expands to a text of more than {LONGEST} bytes")));
    }
    let mut made = vec![String::new()];
    for (text, choices) in &parts {
        let choices: Vec<String> = choices.iter().flat_map(BraceChoice::texts).collect();
        made =
            made.iter().flat_map(|start| choices.iter().map(move |choice| format!("{start}{text}{choice}"))).collect();
    }
    for text in &mut made {
        text.push_str(rest);
    }
    Ok(made)
}

enum BraceChoice<'a> {
    Text(&'a str),
    Range { from: u32, to: u32, width: usize },
}

impl BraceChoice<'_> {
    fn count(&self) -> usize {
        match self {
            Self::Text(_) => 1,
            Self::Range { from, to, .. } => usize::try_from(to - from).unwrap_or(usize::MAX).saturating_add(1),
        }
    }

    /// The bytes of a text, or the width of a padded number.
    fn length(&self) -> usize {
        match *self {
            Self::Text(text) => text.len(),
            Self::Range { width, .. } => width.max(1),
        }
    }

    fn texts(&self) -> Vec<String> {
        match *self {
            Self::Text(text) => vec![text.to_owned()],
            Self::Range { from, to, width } => (from..=to).map(|number| format!("{number:0width$}")).collect(),
        }
    }
}

fn choices(inner: &str) -> Result<Vec<BraceChoice<'_>>, ExpandError> {
    if !inner.contains(',') && !inner.contains("..") {
        let braces = shown(&format!("{{{inner}}}"));
        return Err(malformed(format!("{braces} is neither a range nor a choice: expected {{1..9}} or {{a,b}}")));
    }
    inner.split(',').map(choice).collect()
}

fn choice(text: &str) -> Result<BraceChoice<'_>, ExpandError> {
    let Some((from, to)) = text.split_once("..") else { return Ok(BraceChoice::Text(text)) };
    let number = |digits: &str| -> Option<u32> {
        (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
    };
    let padded = |digits: &str| digits.len() > 1 && digits.starts_with('0');
    let width = if padded(from) || padded(to) { from.len().max(to.len()) } else { 0 };
    match (number(from), number(to)) {
        (Some(from), Some(to)) if from <= to => Ok(BraceChoice::Range { from, to, width }),
        _ => {
            let range = shown(text);
            Err(malformed(format!("{range} is not a range: expected two whole numbers, the smaller one first")))
        }
    }
}

/// The values of `{host}`, `{name}` and `{account}`, for one account of one target.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placeholders<'a> {
    pub(crate) host: &'a str,
    pub(crate) name: &'a str,
    pub(crate) account: &'a str,
}

impl Placeholders<'_> {
    /// The text with all filled in, once: a value is not expanded.
    pub(crate) fn fill(&self, text: &str) -> String {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once('{') {
            let known = [("host}", self.host), ("name}", self.name), (ACCOUNT, self.account)];
            let found = known.iter().find_map(|(word, value)| Some((*value, behind.strip_prefix(word)?)));
            let (value, behind) = found.unwrap_or(("{", behind));
            filled.push_str(before);
            filled.push_str(value);
            rest = behind;
        }
        filled + rest
    }
}

/// The placeholder of an account, without its opening brace.
const ACCOUNT: &str = "account}";

/// Whether a text differs by account.
pub(crate) fn has_account(text: &str) -> bool {
    text.split('{').skip(1).any(|rest| rest.starts_with(ACCOUNT))
}

/// The text of a key, with its placeholders filled in if there are any.
pub(crate) fn filled(field: &Field<'_>, placeholders: Option<&Placeholders<'_>>) -> Option<String> {
    let text = field.text()?;
    let Some(placeholders) = placeholders else { return Some(text) };
    if let Some(word) = unknown(&text, &["host", "name", "account"]) {
        field.error(format!("there is no placeholder {{{word}}}"), "there are {host}, {name} and {account}");
        return None;
    }
    Some(placeholders.fill(&text))
}

/// The first unknown word in braces, which is probably mistyped.
pub(crate) fn unknown<'a>(text: &'a str, known: &[&str]) -> Option<&'a str> {
    let words = text.split('{').skip(1).filter_map(|rest| Some(rest.split_once('}')?.0));
    words
        .filter(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_'))
        .find(|word| !known.contains(word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_and_choices_multiply_and_zeros_in_front_stay() {
        let texts = |template: &str| expand(template).unwrap().join(" ");
        assert_eq!(texts("mail"), "mail");
        assert_eq!(texts("mail{08..11}"), "mail08 mail09 mail10 mail11");
        assert_eq!(texts("{8..11}"), "8 9 10 11");
        assert_eq!(texts("{1..010}").split(' ').next_back(), Some("010"));
        assert_eq!(texts("{0..1}"), "0 1");
        assert_eq!(texts("{a,b}{1..2}.x"), "a1.x a2.x b1.x b2.x");
        assert_eq!(texts("m{01..02,07,x}"), "m01 m02 m07 mx");
        assert_eq!(texts("m{,-b}"), "m m-b");
        assert_eq!(expand("mail{001..120}.example.org").unwrap().len(), 120);
    }

    #[test]
    fn a_malformed_template_is_an_error_with_its_reason() {
        for (template, error) in [
            ("mail{1..9", "a brace is left open"),
            ("mail1..9}", "there is a `}` without its `{`"),
            ("a}b{1..2}", "there is a `}` without its `{`"),
            ("{a,{b,c}}", "there are braces inside braces"),
            ("{host}.example", "\"{host}\" is neither a range nor a choice: expected {1..9} or {a,b}"),
            ("{}", "\"{}\" is neither a range nor a choice: expected {1..9} or {a,b}"),
            ("{9..1}", "\"9..1\" is not a range: expected two whole numbers, the smaller one first"),
            ("{a..c}", "\"a..c\" is not a range: expected two whole numbers, the smaller one first"),
            ("{1..}", "\"1..\" is not a range: expected two whole numbers, the smaller one first"),
            ("{-1..3}", "\"-1..3\" is not a range: expected two whole numbers, the smaller one first"),
            (
                "{1..99999999999}",
                "\"1..99999999999\" is not a range: expected two whole numbers, the smaller one first",
            ),
            ("{0..100000}", "it expands to more than 100000 targets"),
            ("{0..4294967295}{0..4294967295}{0..4294967295}", "it expands to more than 100000 targets"),
        ] {
            assert_eq!(expand(template).unwrap_err().0, error, "{template}");
        }
        assert_eq!(expand_accounts("vol{1..10000}").unwrap_err().0, "it expands to more than 1000 accounts");
        assert_eq!(expand("{1..100000}").map(|texts| texts.len()), Ok(MOST));
    }

    #[test]
    fn a_template_of_any_length_makes_no_texts_that_are_longer_than_a_host() {
        let long = "x".repeat(LONGEST);
        assert_eq!(expand(&long), Ok(vec![long.clone()]));
        // A hundred thousand of these would be 30 GB, and no formatter writes a number that wide.
        let filled = format!("{{{}1..2}}", "0".repeat(70_000));
        let many = format!("{{{}}}", vec!["mail.example.org"; 1000].join(","));
        for template in [format!("{long}x"), format!("{{1..100000}}{long}x"), filled, format!("{{a,{long}x}}")] {
            assert_eq!(expand(&template).unwrap_err().0, "it expands to a text of more than 300 bytes");
        }
        assert_eq!(expand(&many).map(|texts| texts.len()), Ok(1000));
    }

    #[test]
    fn what_is_filled_in_is_not_filled_in_again() {
        let fill = Placeholders { host: "{name}", name: "n", account: "{host}" };
        assert_eq!(fill.fill("a{host}b{name}{account}{other}{"), "a{name}bn{host}{other}{");
        assert!(has_account("{x{account}") && !has_account("{accounts}") && !has_account("account}"));
        assert_eq!(unknown("{host} {hots} {x}", &["host"]), Some("hots"));
        assert_eq!(unknown("{host} {} {1} {", &["host"]), None);
    }

    proptest! {
        #[test]
        fn no_template_makes_it_panic(template in "[a-b0-3{},.]{0,24}") {
            if let Ok(texts) = expand(&template) {
                let plain = texts.iter().all(|text| !text.contains(['{', '}']));
                prop_assert!(!texts.is_empty() && plain);
            }
        }
    }
}

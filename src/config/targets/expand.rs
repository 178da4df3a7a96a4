//! Templates: `mail{001..120}.example.org` and `{a,b}` to the texts they stand for, and `{host}`, `{name}` filled in.
//!
//! ```text
//! TEMPLATE = *( TEXT / "{" CHOICE *( "," CHOICE ) "}" )     several braces multiply, the last one runs fastest
//! CHOICE   = TEXT / NUMBER ".." NUMBER                      a zero in front keeps the width: 08..11 is 08 09 10 11
//! ```
//!
//! Pure text; knows no key. Called by `group` and `account`.

use crate::config::sources::readers::shown;

/// No configuration has more targets than this in all its groups and files.
pub(crate) const MOST: usize = 100_000;
/// No text that a template stands for is longer, in bytes. No host's name is, with a port behind it.
const LONGEST: usize = 300;

/// A template that stands for nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ExpandError {
    #[error("a brace is left open")]
    Open,
    #[error("there is a `}}` without its `{{`")]
    Close,
    #[error("there are braces inside braces")]
    Nested,
    #[error("{} is neither a range nor a choice: expected {{1..9}} or {{a,b}}", shown(.0))]
    Alone(String),
    #[error("{} is not a range: expected two whole numbers, the smaller one first", shown(.0))]
    Range(String),
    #[error("it stands for more than {MOST} targets")]
    TooMany,
    #[error("it stands for a text of more than {LONGEST} bytes")]
    TooLong,
}

/// All that a template stands for; at least one text.
pub(crate) fn expand(template: &str) -> Result<Vec<String>, ExpandError> {
    let mut parts = Vec::new();
    let mut rest = template;
    while let Some((text, behind)) = rest.split_once('{') {
        let (inner, behind) = behind.split_once('}').ok_or(ExpandError::Open)?;
        if text.contains('}') {
            return Err(ExpandError::Close);
        }
        if inner.contains('{') {
            return Err(ExpandError::Nested);
        }
        parts.push((text, choices(inner)?));
        rest = behind;
    }
    if rest.contains('}') {
        return Err(ExpandError::Close);
    }
    // Counted before any of it is made.
    let count = parts.iter().try_fold(1_usize, |count, (_, choices)| {
        let choices = choices.iter().try_fold(0_usize, |sum, choice| sum.checked_add(choice.count()))?;
        count.checked_mul(choices)
    });
    if count.is_none_or(|count| count > MOST) {
        return Err(ExpandError::TooMany);
    }
    let longest = |choices: &[Choice<'_>]| choices.iter().map(Choice::length).max().unwrap_or_default();
    let length: usize = parts.iter().map(|(text, choices)| text.len() + longest(choices)).sum();
    if length + rest.len() > LONGEST {
        return Err(ExpandError::TooLong);
    }
    let mut made = vec![String::new()];
    for (text, choices) in &parts {
        let choices: Vec<String> = choices.iter().flat_map(Choice::texts).collect();
        made =
            made.iter().flat_map(|start| choices.iter().map(move |choice| format!("{start}{text}{choice}"))).collect();
    }
    for text in &mut made {
        text.push_str(rest);
    }
    Ok(made)
}

enum Choice<'a> {
    Text(&'a str),
    Range { from: u32, to: u32, width: usize },
}

impl Choice<'_> {
    fn count(&self) -> usize {
        match self {
            Self::Text(_) => 1,
            Self::Range { from, to, .. } => usize::try_from(to - from).unwrap_or(usize::MAX).saturating_add(1),
        }
    }

    /// Bytes of the longest text; of a number, as many as it is filled up to.
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

fn choices(inner: &str) -> Result<Vec<Choice<'_>>, ExpandError> {
    if !inner.contains(',') && !inner.contains("..") {
        return Err(ExpandError::Alone(format!("{{{inner}}}")));
    }
    inner.split(',').map(choice).collect()
}

fn choice(text: &str) -> Result<Choice<'_>, ExpandError> {
    let Some((from, to)) = text.split_once("..") else { return Ok(Choice::Text(text)) };
    let number = |digits: &str| -> Option<u32> {
        (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
    };
    let padded = |digits: &str| digits.len() > 1 && digits.starts_with('0');
    let width = if padded(from) || padded(to) { from.len().max(to.len()) } else { 0 };
    match (number(from), number(to)) {
        (Some(from), Some(to)) if from <= to => Ok(Choice::Range { from, to, width }),
        _ => Err(ExpandError::Range(text.to_owned())),
    }
}

/// What stands for `{host}` and `{name}` in what a group says of its targets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placeholders<'a> {
    pub(crate) host: &'a str,
    pub(crate) name: &'a str,
}

impl Placeholders<'_> {
    /// The text with both filled in, once: what is filled in is not looked at again.
    pub(crate) fn fill(&self, text: &str) -> String {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once('{') {
            filled.push_str(before);
            let known = [("host}", self.host), ("name}", self.name)];
            let found = known.iter().find_map(|(word, value)| Some((behind.strip_prefix(word)?, value)));
            rest = if let Some((behind, value)) = found {
                filled.push_str(value);
                behind
            } else {
                filled.push('{');
                behind
            };
        }
        filled + rest
    }
}

/// The first word in braces that is none of the known ones: mistyped, most likely.
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
    fn what_stands_for_nothing_says_why() {
        for (template, error) in [
            ("mail{1..9", ExpandError::Open),
            ("mail1..9}", ExpandError::Close),
            ("a}b{1..2}", ExpandError::Close),
            ("{a,{b,c}}", ExpandError::Nested),
            ("{host}.example", ExpandError::Alone("{host}".into())),
            ("{}", ExpandError::Alone("{}".into())),
            ("{9..1}", ExpandError::Range("9..1".into())),
            ("{a..c}", ExpandError::Range("a..c".into())),
            ("{1..}", ExpandError::Range("1..".into())),
            ("{-1..3}", ExpandError::Range("-1..3".into())),
            ("{1..99999999999}", ExpandError::Range("1..99999999999".into())),
            ("{0..100000}", ExpandError::TooMany),
            ("{0..4294967295}{0..4294967295}{0..4294967295}", ExpandError::TooMany),
        ] {
            assert_eq!(expand(template), Err(error), "{template}");
        }
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
            assert_eq!(expand(&template), Err(ExpandError::TooLong));
        }
        assert_eq!(expand(&many).map(|texts| texts.len()), Ok(1000));
    }

    #[test]
    fn what_is_filled_in_is_not_filled_in_again() {
        let fill = Placeholders { host: "{name}", name: "n" };
        assert_eq!(fill.fill("a{host}b{name}{other}{"), "a{name}bn{other}{");
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

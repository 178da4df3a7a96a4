//! Words of a closed list, lists of texts, and commands.
//!
//! Called by every reader of such a key.

use figment::value::Value;

use super::{Field, shown};
use crate::{
    config::{problem::nearest, sources::schema::listed},
    plan::Choice,
};

impl Field<'_> {
    /// One word of a closed list.
    pub(crate) fn choice<T: Choice>(&self) -> Option<T> {
        self.one_of(T::WORDS)
    }

    /// One of these words.
    pub(crate) fn one_of<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let Some(text) = self.as_text() else {
            self.unfit(format!("not known: expected {}", quoted(words)), "");
            return None;
        };
        self.word(text, words)
    }

    /// One of these words; `text` is the field's or a part of it.
    pub(crate) fn word<T: Copy>(&self, text: &str, words: &[(&str, T)]) -> Option<T> {
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let help = nearest(text, words.iter().map(|(word, _)| *word));
            let help = help.map(|near| format!("did you mean \"{near}\"?")).unwrap_or_default();
            self.error(format!("{} is not known: expected {}", shown(text), quoted(words)), help);
        }
        found.map(|(_, value)| *value)
    }

    /// A list of texts; raw text has commas between them.
    pub(crate) fn list(&self) -> Option<Vec<(Self, String)>> {
        match self.value {
            Value::Array(_, elements) => {
                let elements = elements.iter().enumerate().map(|(index, value)| self.element(index, value));
                Some(elements.filter_map(|element| Some((element.clone(), element.text()?))).collect())
            }
            Value::String(_, text) if self.is_raw() => {
                let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
                Some(words.map(|word| (self.clone(), word.to_owned())).collect())
            }
            _ => {
                self.mismatch("a list of texts", "write [\"a\", \"b\"]");
                None
            }
        }
    }

    /// A program and its arguments; raw text is split into words, without a shell.
    pub(crate) fn command(&self) -> Option<Vec<String>> {
        let words = match self.value {
            Value::String(_, text) if self.is_raw() => {
                let words = shlex::split(text);
                if words.is_none() {
                    self.error("it cannot be split into words: a quotation mark is left open", "close it");
                }
                words?
            }
            Value::Array(..) => self.list()?.into_iter().map(|(_, word)| word).collect(),
            _ => {
                self.mismatch("a list of a program and its arguments", "write [\"pass\", \"show\", \"mail01\"]");
                return None;
            }
        };
        if words.is_empty() {
            self.error("it names no program", "");
            return None;
        }
        Some(words)
    }
}

/// The words of a closed list, as in `"a", "b" or "c"`.
fn quoted<T>(words: &[(&str, T)]) -> String {
    let words: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
    listed(&words)
}

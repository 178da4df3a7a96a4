//! Removes the password and the user name from all server text, in every form in which a server may repeat them.
//!
//! The rule: no six characters in a row of the password stay (of a shorter one: not all of it), and the user name is replaced by
//! the alias. That holds for the text as it is and in any case, with quotes or escapes as in IMAP, JSON, C or Rust, as in HTML,
//! percent-encoded, and, for values from three bytes on, in hex, as a list of numbers, and in base64 at any place of a larger
//! message, folded or cut short. Other forms (reversed, encoded twice) are not found: a server can always reveal a password.
//!
//! A text is whole here, however many reads it took. Only its start is kept, and no more is searched.

mod find;
mod view;

use imaptrace_imap::Secret;
use imaptrace_record::ServerText;
use zeroize::Zeroizing;

use self::find::Needle;
use crate::plan::{Account, UserName};

/// The values to find, and their replacements.
pub(super) struct Redactor {
    needles: Vec<Needle>,
}

/// How much of a text is searched: many times what is kept of one.
const SEARCHED: usize = 4096;
/// A piece that begins before this ends within the text that is searched, however it is encoded.
const KEPT: usize = SEARCHED - 256;

impl Redactor {
    pub(super) fn new(account: &Account, secret: Option<&Secret>) -> Self {
        let user = account.user.expose();
        let alias = format!("[{}]", account.alias);
        let mut needles = Vec::new();
        // Where two overlap, the first wins.
        needles.extend(secret.map(|secret| Needle::pieces(secret.expose(), "[redacted]")));
        // Both names, and the two together as LOGIN has them.
        let master = account.master_user.as_ref().map(UserName::expose);
        needles.extend(master.map(|_| Needle::name(&account.login_name(), &alias)));
        for name in [Some(user), master].into_iter().flatten() {
            needles.push(Needle::name(name, &alias));
            // A server with one domain leaves it out.
            needles.extend(name.rsplit_once('@').map(|(local, _)| Needle::word(local, &alias)));
        }
        needles.retain(|needle| !needle.is_empty());
        Self { needles }
    }

    /// Adds a message of a SASL exchange, against which passwords could be tried; its names are replaced by the alias anyway.
    pub(super) fn learn(&mut self, message: &[u8]) {
        let message = Zeroizing::new(String::from_utf8_lossy(message).into_owned());
        let nonce = if message.contains(",p=") { None } else { message.find(",r=") };
        let message = Needle::pieces(message.get(nonce.unwrap_or_default()..).unwrap_or_default(), "[redacted]");
        if !message.is_empty() {
            self.needles.insert(0, message);
        }
    }

    /// Server text as it may enter the record.
    pub(super) fn text(&self, raw: &[u8], max: usize) -> ServerText {
        ServerText::new(&self.bytes(raw), max)
    }

    fn bytes(&self, raw: &[u8]) -> Zeroizing<Vec<u8>> {
        let searched = raw.get(..SEARCHED).unwrap_or(raw);
        let kept = if searched.len() < raw.len() { KEPT } else { raw.len() };
        let mut marks: Vec<Option<usize>> = vec![None; searched.len()];
        for view in view::all(searched) {
            // The lowest number wins.
            for (number, needle) in self.needles.iter().enumerate().rev() {
                needle.mark(&view, |range| {
                    for mark in marks.get_mut(range).unwrap_or_default() {
                        *mark = Some(mark.map_or(number, |other| other.min(number)));
                    }
                });
            }
        }
        let mut clean = Zeroizing::new(Vec::with_capacity(2 * kept));
        let mut before = None;
        for (byte, mark) in searched.iter().zip(marks).take(kept) {
            match mark {
                None => clean.push(*byte),
                Some(_) if mark == before => {}
                Some(number) => clean.extend(self.needles.get(number).map(Needle::replacement).unwrap_or_default()),
            }
            before = mark;
        }
        clean
    }
}

#[cfg(test)]
mod tests;

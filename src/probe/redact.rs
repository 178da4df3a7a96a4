//! Takes what the server must not make us repeat out of its words: the password and the user name, in every form in
//! which they can be said back. Called by `journey`, `reach` and `fill` for whatever came from outside.
//!
//! The rule: of the password, whole or in pieces, no six characters in a row stay (of a shorter one: not all of it). Of the
//! user name, what stays is the alias. That holds for the text as it is and in any case, with quotes or escapes as in
//! IMAP, JSON, C or Rust, as in HTML, percent-encoded, and, of values from three bytes on, in hex, as a list of numbers, and in base64
//! at any place of a larger message, folded or cut short. What is changed in another way (reversed, in another character
//! set, encoded twice) is not found: a server that means to give a password away can always do so.
//!
//! A text comes here whole, however many reads it took. Only its start is kept anyway, and no more than that is looked at.

mod find;
mod view;

use imaptrace_imap::Secret;
use imaptrace_record::ServerText;
use zeroize::Zeroizing;

use self::find::Sought;
use crate::plan::{Account, UserName};

/// What to look for, and what to put there.
pub(super) struct Redactor {
    sought: Vec<Sought>,
}

/// So much of a text is looked at: many times what is kept of one.
const LOOKED_AT: usize = 4096;
/// A piece that begins before this ends before the text does, however it is written.
const KEPT: usize = LOOKED_AT - 256;

impl Redactor {
    pub(super) fn new(account: &Account, secret: Option<&Secret>) -> Self {
        let user = account.user.expose();
        let alias = format!("[{}]", account.alias);
        let mut sought = Vec::new();
        // What is first wins where two would be put in the same place.
        sought.extend(secret.map(|secret| Sought::pieces(secret.expose(), "[redacted]")));
        // Both names, and the two together as LOGIN has them.
        let master = account.master_user.as_ref().map(UserName::expose);
        sought.extend(master.map(|_| Sought::name(&account.login_name(), &alias)));
        for name in [Some(user), master].into_iter().flatten() {
            sought.push(Sought::name(name, &alias));
            // A server that knows one domain leaves it out.
            sought.extend(name.rsplit_once('@').map(|(local, _)| Sought::word(local, &alias)));
        }
        sought.retain(|sought| !sought.is_empty());
        Self { sought }
    }

    /// Messages of a SASL exchange: passwords could be tried against them. Names in it are sought
    /// already, and stand for themselves.
    pub(super) fn learn(&mut self, message: &[u8]) {
        let message = Zeroizing::new(String::from_utf8_lossy(message).into_owned());
        let nonce = if message.contains(",p=") { None } else { message.find(",r=") };
        let message = Sought::pieces(message.get(nonce.unwrap_or_default()..).unwrap_or_default(), "[redacted]");
        if !message.is_empty() {
            self.sought.insert(0, message);
        }
    }

    /// Server text as it may enter the record.
    pub(super) fn text(&self, raw: &[u8], max: usize) -> ServerText {
        ServerText::new(&self.bytes(raw), max)
    }

    fn bytes(&self, raw: &[u8]) -> Zeroizing<Vec<u8>> {
        let looked_at = raw.get(..LOOKED_AT).unwrap_or(raw);
        let kept = if looked_at.len() < raw.len() { KEPT } else { raw.len() };
        let mut marks: Vec<Option<usize>> = vec![None; looked_at.len()];
        for view in view::all(looked_at) {
            // From the last to the first: the first has the last word.
            for (number, sought) in self.sought.iter().enumerate().rev() {
                sought.mark(&view, |range| {
                    for mark in marks.get_mut(range).unwrap_or_default() {
                        *mark = Some(mark.map_or(number, |other| other.min(number)));
                    }
                });
            }
        }
        let mut clean = Zeroizing::new(Vec::with_capacity(2 * kept));
        let mut before = None;
        for (byte, mark) in looked_at.iter().zip(marks).take(kept) {
            match mark {
                None => clean.push(*byte),
                Some(_) if mark == before => {}
                Some(number) => clean.extend(self.sought.get(number).map(Sought::put).unwrap_or_default()),
            }
            before = mark;
        }
        clean
    }
}

#[cfg(test)]
mod tests;

//! Takes what the server must not make us repeat out of its words: the password in every form in which we sent it, and
//! the user name. Works on the whole text, before it is cut short.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use crate::{plan::Account, record::ServerText, secret::Secret};

/// What to look for, and what to put there.
pub(super) struct Redactor {
    needles: Vec<(Zeroizing<Vec<u8>>, Vec<u8>)>,
}

impl Redactor {
    pub(super) fn new(account: &Account, secret: Option<&Secret>) -> Self {
        let mut needles = Vec::new();
        let user = account.user.expose();
        let (owner, login) = account.master_user.as_ref().map_or(("", user), |master| (user, master.expose()));
        if let Some(secret) = secret {
            let password = secret.expose();
            let blob = [owner.as_bytes(), b"\0", login.as_bytes(), b"\0", password.as_bytes()].concat();
            let blob = Zeroizing::new(blob);
            let quoted = password.replace('\\', "\\\\").replace('"', "\\\"");
            let percent =
                percent_encoding::utf8_percent_encode(password, percent_encoding::NON_ALPHANUMERIC).to_string();
            for form in [STANDARD.encode(&*blob), STANDARD.encode(password), quoted, percent, password.to_owned()] {
                needles.push((Zeroizing::new(form.into_bytes()), b"[redacted]".to_vec()));
            }
        }
        // Both names, and the two together as LOGIN has them.
        for name in [user, login, &account.login_name()] {
            needles.push((Zeroizing::new(name.as_bytes().to_vec()), format!("[{}]", account.alias).into_bytes()));
        }
        let mut redactor = Self { needles };
        redactor.settle();
        redactor
    }

    /// What was said in a SASL exchange: nobody is told from what a password could be guessed.
    pub(super) fn learn(&mut self, message: &[u8]) {
        let base64 = STANDARD.encode(message).into_bytes();
        let proof = message.rsplit(|byte| *byte == b',').next().and_then(|field| field.strip_prefix(b"p="));
        for form in [base64, message.to_vec(), proof.unwrap_or_default().to_vec()] {
            self.needles.push((Zeroizing::new(form), b"[redacted]".to_vec()));
        }
        self.settle();
    }

    fn settle(&mut self) {
        self.needles.retain(|(needle, _)| !needle.is_empty());
        // The longest first: a form must not be broken up by one that it contains.
        self.needles.sort_by_key(|(needle, _)| std::cmp::Reverse(needle.len()));
    }

    /// Server text as it may enter the record.
    pub(super) fn text(&self, raw: &[u8], max: usize) -> ServerText {
        ServerText::new(&self.bytes(raw), max)
    }

    fn bytes(&self, raw: &[u8]) -> Vec<u8> {
        let mut clean = Vec::with_capacity(raw.len());
        let mut at = 0;
        while let Some(rest) = raw.get(at..).filter(|rest| !rest.is_empty()) {
            if let Some((needle, put)) = self.needles.iter().find(|(needle, _)| starts_with(rest, needle)) {
                clean.extend_from_slice(put);
                at += needle.len();
            } else {
                clean.extend(rest.first());
                at += 1;
            }
        }
        clean
    }
}

/// In any case: a server may shout back.
fn starts_with(text: &[u8], needle: &[u8]) -> bool {
    text.get(..needle.len()).is_some_and(|head| head.eq_ignore_ascii_case(needle))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{plan::UserName, secret::SecretSource};

    #[test]
    fn every_form_of_the_password_and_the_user_name_go() {
        let account = Account {
            alias: "default".into(),
            user: UserName::new("canary@example.org").unwrap(),
            master_user: None,
            password: SecretSource::Env("X".into()),
        };
        let secret = Secret::new("pass word\"\\ä".into());
        let redactor = Redactor::new(&account, Some(&secret));
        let blob = STANDARD.encode("\0canary@example.org\0pass word\"\\ä");
        let said = format!(
            "no {blob} / pass word\"\\ä / pass word\\\"\\\\ä / {} / pass%20word%22%5C%C3%A4 / Canary@Example.org!",
            STANDARD.encode("pass word\"\\ä")
        );
        assert_eq!(
            redactor.text(said.as_bytes(), 256).as_str(),
            "no [redacted] / [redacted] / [redacted] / [redacted] / [redacted] / [default]!"
        );
    }

    #[test]
    fn whoever_logs_in_for_somebody_else_is_not_named_either() {
        let account = Account {
            alias: "shop".into(),
            user: UserName::new("canary@example.org").unwrap(),
            master_user: UserName::new("overseer"),
            password: SecretSource::Env("X".into()),
        };
        let secret = Secret::new("pass".into());
        let redactor = Redactor::new(&account, Some(&secret));
        let blob = STANDARD.encode("canary@example.org\0overseer\0pass");
        let said = format!("{blob} / canary@example.org*overseer / OVERSEER for canary@example.org");
        assert_eq!(redactor.text(said.as_bytes(), 256).as_str(), "[redacted] / [shop] / [shop] for [shop]");
    }

    #[test]
    fn what_was_said_to_prove_the_password_is_cut_out_whole_and_in_parts() {
        let account = Account {
            alias: "default".into(),
            user: UserName::new("user").unwrap(),
            master_user: None,
            password: SecretSource::Env("X".into()),
        };
        let mut redactor = Redactor::new(&account, None);
        let message = b"c=biws,r=abcdef,p=cHJvb2Y=";
        redactor.learn(message);
        let said = format!("{} / c=biws,r=abcdef,p=cHJvb2Y= / p is cHJvb2Y=", STANDARD.encode(message));
        assert_eq!(redactor.text(said.as_bytes(), 256).as_str(), "[redacted] / [redacted] / p is [redacted]");
    }
}

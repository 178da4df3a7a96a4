//! A value without a printable form.
//!
//! It and every copy made here are wiped when dropped. Guaranteed is "never in an output", not "never in memory": the TLS library,
//! the kernel and the environment have copies that it cannot reach.

use std::fmt;

use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

/// A password. It cannot be printed, compared in telemetry or serialised.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Takes the value over.
    pub fn new(value: String) -> Self {
        // Copied: a text with room to spare would be moved to give it back, and leave its words where it was.
        Self(SecretString::from(Zeroizing::new(value).as_str()))
    }

    /// The value, for the wire and for finding it in what a server echoes.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl From<&str> for Secret {
    /// Copies the value; the caller wipes its own.
    fn from(value: &str) -> Self {
        Self(SecretString::from(value))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for Secret {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_equal_to_itself_alone_and_not_shown() {
        let secret = Secret::new("planted".to_owned());
        assert_eq!(secret, Secret::from("planted"));
        assert_ne!(secret, Secret::from("plante"));
        assert_eq!(format!("{secret:?}"), "[secret]");
    }
}

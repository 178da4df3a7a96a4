//! Trace and span ids as W3C Trace Context writes them: lower-case hex, never all zero.

use std::{
    fmt,
    num::{NonZeroU64, NonZeroU128},
    str::FromStr,
};

/// A string that is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} lower-case hex digits that are not all zero")]
pub struct IdError {
    /// How many digits the id has.
    pub expected: usize,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $number:ident, $integer:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name($number);

        impl $name {
            /// Draws an id from a cryptographically secure source: a server must not be able to guess the next one.
            pub fn random() -> Self {
                Self(rand::random())
            }

            /// The id of these bytes, most significant first; none when they are all zero.
            pub fn from_bytes(bytes: [u8; size_of::<$integer>()]) -> Option<Self> {
                $number::new($integer::from_be_bytes(bytes)).map(Self)
            }

            /// The bytes, most significant first.
            pub fn to_bytes(self) -> [u8; size_of::<$integer>()] {
                self.0.get().to_be_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:0digits$x}", self.0, digits = 2 * size_of::<$integer>())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let expected = 2 * size_of::<$integer>();
                let is_hex = text.len() == expected && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
                let number = $integer::from_str_radix(text, 16).ok().filter(|_| is_hex);
                number.and_then($number::new).map(Self).ok_or(IdError { expected })
            }
        }

        text_in_json!($name);
    };
}

id! {
    /// Names one run: all its spans share it.
    TraceId, NonZeroU128, u128
}
id! {
    /// Names one span. A command's span id is also its IMAP tag (docs/telemetry.md).
    SpanId, NonZeroU64, u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_own_text() {
        let id = SpanId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(
            "4bf92f3577b34da6a3ce929d0e0e4736".parse::<TraceId>().map(|id| id.to_string()).as_deref(),
            Ok("4bf92f3577b34da6a3ce929d0e0e4736")
        );
    }

    #[test]
    fn zero_short_and_upper_case_are_no_ids() {
        for wrong in ["0000000000000000", "b7ad6b716920333", "B7AD6B7169203331", "b7ad6b716920333g", ""] {
            assert_eq!(wrong.parse::<SpanId>(), Err(IdError { expected: 16 }), "{wrong}");
        }
    }
}

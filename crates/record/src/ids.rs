//! Trace and span ids as W3C Trace Context writes them: lower-case hex, never all zero.

use std::{fmt, str::FromStr};

use rand::Rng;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A string that is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} lower-case hex digits that are not all zero")]
pub struct IdError {
    /// How many digits the id has.
    pub expected: usize,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// Draws an id from a cryptographically secure source: a server must not be able to guess the next one.
            pub fn random() -> Self {
                loop {
                    let bytes: [u8; $bytes] = rand::rng().random();
                    if bytes != [0; $bytes] {
                        return Self(bytes);
                    }
                }
            }

            /// The id of these bytes, or none when they are all zero.
            pub fn from_bytes(bytes: [u8; $bytes]) -> Option<Self> {
                (bytes != [0; $bytes]).then_some(Self(bytes))
            }

            /// The bytes, most significant first.
            pub fn to_bytes(self) -> [u8; $bytes] {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // In one piece: an id is written some thirty times a run.
                let mut digits = [0_u8; 2 * $bytes];
                for (pair, byte) in digits.chunks_exact_mut(2).zip(self.0) {
                    pair.copy_from_slice(&[b"0123456789abcdef"[usize::from(byte >> 4)], b"0123456789abcdef"[usize::from(byte & 15)]]);
                }
                f.write_str(std::str::from_utf8(&digits).unwrap_or_default())
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
                let wrong = IdError { expected: 2 * $bytes };
                let digits = text.as_bytes();
                if digits.len() != 2 * $bytes {
                    return Err(wrong);
                }
                let mut bytes = [0u8; $bytes];
                for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
                    let (Some(high), Some(low)) = (nibble(pair[0]), nibble(pair[1])) else { return Err(wrong) };
                    *byte = high << 4 | low;
                }
                Self::from_bytes(bytes).ok_or(wrong)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id! {
    /// Names one run: all its spans share it.
    TraceId, 16
}
id! {
    /// Names one span. A command's span id is also its IMAP tag (docs/telemetry.md).
    SpanId, 8
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
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

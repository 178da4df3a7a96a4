//! A time inside a command in which the server owed bytes (docs/record.md).

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{IgnoredAny, SeqAccess, Visitor},
};

use super::{Seconds, SpanId};

/// A time inside a command in which the server owed bytes and none came, and its span.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerWait {
    /// The span.
    pub span_id: SpanId,
    /// Since the start of the run: our last bytes left, or the server's last ones arrived.
    pub start_s: Seconds,
    /// From then to the arrival that ended it, or to the end of the command; the round trip included.
    pub duration_s: Seconds,
    /// The server's part of it: less a round trip, and the time that the bytes which ended it need on the line.
    pub server_s: Seconds,
}

impl ServerWait {
    /// A wait with less of the server's time is left out.
    pub const SHORTEST: Seconds = Seconds::from_micros(10_000);
    /// At most this many of a step.
    pub const MOST: usize = 5;
}

/// Reads no more than [`ServerWait::MOST`], however many a line holds: each becomes a span, which takes more memory than its JSON.
pub(super) fn read_waits<'de, D: Deserializer<'de>>(json: D) -> Result<Vec<ServerWait>, D::Error> {
    struct Waits;
    impl<'de> Visitor<'de> for Waits {
        type Value = Vec<ServerWait>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of waits")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<ServerWait>, A::Error> {
            let mut waits = Vec::new();
            while waits.len() < ServerWait::MOST
                && let Some(wait) = list.next_element()?
            {
                waits.push(wait);
            }
            while list.next_element::<IgnoredAny>()?.is_some() {}
            Ok(waits)
        }
    }
    json.deserialize_seq(Waits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_line_with_many_waits_as_many_are_read_as_a_step_can_have() {
        let wait = |start| ServerWait {
            span_id: SpanId::random(),
            start_s: Seconds::from_micros(start),
            duration_s: ServerWait::SHORTEST,
            server_s: ServerWait::SHORTEST,
        };
        for (written, read) in [(0, 0), (1, 1), (5, 5), (6, 5), (1_000, 5)] {
            let waits: Vec<_> = (0..written).map(wait).collect();
            let json = serde_json::to_string(&waits).unwrap();
            let again = read_waits(&mut serde_json::Deserializer::from_str(&json)).unwrap();
            assert_eq!(again, waits[..read], "{written}");
        }
    }
}

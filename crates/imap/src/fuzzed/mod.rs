//! What fuzzing asks of the protocol: each function takes any bytes and panics when something does not hold.
//!
//! `fuzz/` calls them with what it makes up, the tests below with what the corpus and proptest have. In no build but
//! those two. An input begins with bytes that choose (limits, cuts, commands); the rest is the server's.

mod framer;
mod response;
mod sasl;
mod session;

pub use framer::framer;
pub use response::response;
pub use sasl::sasl;
pub use session::session;

use super::Limits;

/// The byte that chooses, and what it is for.
fn choice(input: &[u8]) -> (u8, &[u8]) {
    input.split_first().map_or((0, input), |(first, rest)| (*first, rest))
}

/// The limits as they are, or such that a few bytes pass them.
fn limits(choice: u8) -> Limits {
    let small = Limits { line: 96, command_bytes: 700, session_bytes: 1500, responses: 12, depth: 4, literal_kept: 24 };
    if choice & 1 == 0 { Limits::default() } else { small }
}

/// The same bytes cut in three ways: not at all, after each byte, and as `choice` draws it.
fn cuts(choice: u8, bytes: &[u8]) -> [Vec<&[u8]>; 3] {
    let mut drawn = Vec::new();
    let (mut rest, mut random) = (bytes, u32::from(choice) * 2 + 1);
    while !rest.is_empty() {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Short ones more often than long ones.
        let most = [3, 3, 17, 90][usize::from(random.to_be_bytes()[1] & 3)];
        let (piece, behind) = rest.split_at((1 + usize::from(random.to_be_bytes()[0]) % most).min(rest.len()));
        drawn.push(piece);
        rest = behind;
    }
    [vec![bytes], bytes.chunks(1).collect(), drawn]
}

/// Whether `part` is a piece of `whole`, not only alike: nothing was copied, and nothing read beyond the end.
fn lies_in(part: &[u8], whole: &[u8]) -> bool {
    part.is_empty() || {
        let (part, whole) = (part.as_ptr_range(), whole.as_ptr_range());
        whole.start <= part.start && part.end <= whole.end
    }
}

#[cfg(test)]
mod tests;

//! Splits what is read of a mail log into lines, in bounded memory. Does no I/O. Called by `log_file` and `journal`.

use memchr::{memchr, memmem};

use super::login_line::SERVICE;

/// The longest line that is kept, in bytes; a longer one is dropped whole. A login takes some 300 bytes.
const LONGEST: usize = 8 << 10;

/// Gives the complete lines that may be of a login process.
#[derive(Debug, Default)]
pub(super) struct LineSplitter {
    /// The begin of a line whose end has not been read.
    begun: Vec<u8>,
    /// The present line is too long.
    is_dropped: bool,
}

impl LineSplitter {
    /// Takes the next bytes, and passes on each line that ends in them, without its line end.
    pub(super) fn add(&mut self, mut bytes: &[u8], on_line: &mut dyn FnMut(&[u8])) {
        while let Some(end) = memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(end);
            bytes = rest.get(1..).unwrap_or_default();
            if self.begun.is_empty() && !self.is_dropped && line.len() <= LONGEST {
                pass(line, on_line);
            } else if self.keep(line) {
                pass(&self.begun, on_line);
            }
            self.clear();
        }
        self.keep(bytes);
    }

    /// Drops the line that has begun.
    pub(super) fn clear(&mut self) {
        self.begun.clear();
        self.is_dropped = false;
    }

    /// Adds to the line that has begun. Returns whether it is not too long.
    fn keep(&mut self, bytes: &[u8]) -> bool {
        self.is_dropped |= self.begun.len() + bytes.len() > LONGEST;
        if self.is_dropped {
            self.begun.clear();
        } else {
            self.begun.extend_from_slice(bytes);
        }
        !self.is_dropped
    }
}

fn pass(line: &[u8], on_line: &mut dyn FnMut(&[u8])) {
    if memmem::find(line, SERVICE).is_some() {
        on_line(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let (mut splitter, mut lines) = (LineSplitter::default(), Vec::new());
        for piece in pieces {
            splitter.add(piece, &mut |line| lines.push(String::from_utf8_lossy(line).into_owned()));
            assert!(splitter.begun.len() <= LONGEST);
        }
        lines
    }

    #[test]
    fn lines_are_put_together_of_any_pieces_and_others_are_left_out() {
        let text = b"imap-login: a\nmaster: b\n\nx imap-login: c\nimap-login: d";
        let expected = ["imap-login: a", "x imap-login: c"];
        assert_eq!(lines(&[text]), expected);
        for size in 1..text.len() {
            assert_eq!(lines(&text.chunks(size).collect::<Vec<_>>()), expected, "{size}");
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_dropped_whole_and_the_next_is_read() {
        let long = [b"imap-login: ".as_slice(), &vec![b'x'; LONGEST]].concat();
        let all = [long.as_slice(), b"imap-login: y\nimap-login: z\n"].concat();
        for size in [100, 4_096, all.len()] {
            assert_eq!(lines(&all.chunks(size).collect::<Vec<_>>()), ["imap-login: z"], "{size}");
        }
    }
}

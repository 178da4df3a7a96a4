//! Reads one command: its line, literals and arguments (RFC 9051 §2.2.1, §4.3), within bounds.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Longest line, and longest command with its literals.
const LONGEST: usize = 8 << 10;

/// A command, or what was received in its place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    Command(ClientCommand),
    /// Cannot be split into words; the tag if there was one.
    Malformed(String),
    TooLong,
    End,
}

/// A command's words: the content of quoted strings and literals; lists and sections as they were sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ClientCommand {
    pub(super) tag: String,
    /// In capitals.
    pub(super) name: String,
    pub(super) args: Vec<String>,
}

/// Reads the next command; sends `+` for a synchronizing literal.
pub(super) async fn read<S: AsyncBufRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<Input> {
    let mut words = Vec::new();
    let mut length = 0;
    loop {
        let line = match read_line(stream).await? {
            Ok(line) => line,
            Err(input) => return Ok(input),
        };
        length += line.len();
        let (text, literal) = split_literal(&line);
        let Some(more) = split_words(text) else {
            let tag = words.into_iter().next().or_else(|| text.split(' ').next().map(str::to_owned));
            return Ok(Input::Malformed(tag.unwrap_or_default()));
        };
        words.extend(more);
        let Some((size, synchronizing)) = literal else { break };
        length = length.saturating_add(size);
        if length > LONGEST {
            return Ok(Input::TooLong);
        }
        if synchronizing {
            stream.write_all(b"+ OK\r\n").await?;
            stream.flush().await?;
        }
        let mut content = vec![0; size];
        stream.read_exact(&mut content).await?;
        words.push(String::from_utf8_lossy(&content).into_owned());
    }
    let mut words = words.into_iter();
    Ok(match (words.next(), words.next()) {
        (Some(tag), Some(name)) if !tag.is_empty() => {
            Input::Command(ClientCommand { tag, name: name.to_ascii_uppercase(), args: words.collect() })
        }
        (tag, _) => Input::Malformed(tag.unwrap_or_default()),
    })
}

/// Reads a line and removes its end; [`Input::TooLong`] or [`Input::End`] if there is none.
pub(super) async fn read_line<S: AsyncBufRead + Unpin>(stream: &mut S) -> io::Result<Result<String, Input>> {
    let mut line = Vec::new();
    let mut limited = (&mut *stream).take(LONGEST as u64);
    limited.read_until(b'\n', &mut line).await?;
    Ok(match line.strip_suffix(b"\n") {
        Some(text) => {
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            Ok(String::from_utf8_lossy(text).into_owned())
        }
        None if line.len() == LONGEST => Err(Input::TooLong),
        None => Err(Input::End),
    })
}

/// Splits a final `{5}` or `{5+}` (RFC 7888 §3) from a line: the text before, the size, and whether it is synchronizing.
fn split_literal(line: &str) -> (&str, Option<(usize, bool)>) {
    let split = line.strip_suffix('}').and_then(|rest| rest.rsplit_once('{')).and_then(|(text, size)| {
        let (digits, synchronizing) = size.strip_suffix('+').map_or((size, true), |digits| (digits, false));
        Some((text, Some((digits.parse().ok()?, synchronizing))))
    });
    split.unwrap_or((line, None))
}

/// Splits a line at its spaces, but not inside quotes, parentheses or brackets. None when one of them is not closed.
pub(super) fn split_words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word = String::new();
    let (mut depth, mut began) = (0_u32, false);
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            ' ' if depth == 0 => {
                if began {
                    words.push(std::mem::take(&mut word));
                }
                began = false;
                continue;
            }
            '"' if depth == 0 && !began => loop {
                match characters.next()? {
                    '"' => break,
                    '\\' => word.push(characters.next()?),
                    other => word.push(other),
                }
            },
            other => {
                match other {
                    '(' | '[' => depth += 1,
                    ')' | ']' => depth = depth.checked_sub(1)?,
                    _ => {}
                }
                word.push(other);
            }
        }
        began = true;
    }
    if began {
        words.push(word);
    }
    (depth == 0).then_some(words)
}

#[cfg(test)]
mod tests {
    use tokio::io::BufReader;

    use super::*;

    async fn read_all(bytes: &[u8]) -> (Vec<Input>, String) {
        let (client, server) = tokio::io::duplex(64 << 10);
        let (mut client_in, mut client_out) = tokio::io::split(client);
        client_out.write_all(bytes).await.unwrap();
        client_out.shutdown().await.unwrap();
        let mut server = BufReader::new(server);
        let mut inputs = Vec::new();
        loop {
            match read(&mut server).await.unwrap() {
                Input::End => break,
                Input::TooLong => {
                    inputs.push(Input::TooLong);
                    break;
                }
                input => inputs.push(input),
            }
        }
        drop(server);
        let mut answered = String::new();
        client_in.read_to_string(&mut answered).await.unwrap();
        (inputs, answered)
    }

    fn command(tag: &str, name: &str, args: &[&str]) -> Input {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Input::Command(ClientCommand { tag: tag.to_owned(), name: name.to_owned(), args })
    }

    #[tokio::test]
    async fn atoms_strings_literals_and_lists_become_words() {
        let (inputs, answered) = read_all(
            b"a login \"de mo\" \"p\\\"w\\\\\"\r\nb LOGIN {4}\r\ndemo {4+}\r\nd {m\r\nc FETCH 1:2 (UID BODY.PEEK[HEADER.FIELDS (FROM TO)])\r\n",
        )
        .await;
        let expected = [
            command("a", "LOGIN", &["de mo", "p\"w\\"]),
            command("b", "LOGIN", &["demo", "d {m"]),
            command("c", "FETCH", &["1:2", "(UID BODY.PEEK[HEADER.FIELDS (FROM TO)])"]),
        ];
        assert_eq!(inputs, expected);
        assert_eq!(answered, "+ OK\r\n", "only the literal without + waits");
    }

    #[tokio::test]
    async fn an_open_quote_or_parenthesis_is_malformed_and_costs_only_its_line() {
        let (inputs, _) = read_all(b"a LOGIN \"x\r\nb FETCH 1 (UID\r\n\r\nc NOOP\r\n").await;
        assert!(inputs[..3].iter().all(|input| matches!(input, Input::Malformed(_))), "{inputs:?}");
        assert_eq!(inputs[3], command("c", "NOOP", &[]));
    }

    #[tokio::test]
    async fn lines_and_literals_are_bounded() {
        assert_eq!(read_all(&vec![b'x'; 20_000]).await.0, [Input::TooLong]);
        assert_eq!(read_all(b"a LOGIN {99999999999}\r\n").await.0, [Input::TooLong]);
    }
}

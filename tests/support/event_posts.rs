//! The receiving side of Dovecot's `http-post`: the bodies that come over one connection. Each request is answered with 200.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
};

/// Passes each body to `take`, until the sender closes the connection.
pub fn receive(sender: TcpStream, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut answers = sender.try_clone()?;
    let mut reader = BufReader::new(sender);
    let (mut line, mut body) = (String::new(), Vec::new());
    loop {
        let mut length = 0;
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line == "\r\n" {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap();
            }
        }
        body.resize(length, 0);
        reader.read_exact(&mut body)?;
        answers.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
        take(&body)?;
    }
}

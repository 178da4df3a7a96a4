//! The floor: a blocking client that sends the very bytes of one of our runs and reads until each is answered.
//!
//! It parses nothing, measures nothing and tells nothing; what a run costs here, the kernel and TLS cost. Under TLS it
//! makes one context for all runs, or one for each as async-native-tls does, and shakes hands in full each time, the
//! certificate checked against the same CA.

use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
};

/// One run of imaptrace, as the server heard it: lines with their CRLF.
pub fn lines(dialogue: &[u8]) -> Vec<&[u8]> {
    dialogue.split_inclusive(|byte| *byte == b'\n').collect()
}

/// Plays the dialogue `runs` times, over TLS if there is a CA; with a context made `anew` each time.
pub fn replay(server: SocketAddr, ca: Option<&Path>, dialogue: &[u8], runs: u32, anew: bool) -> io::Result<()> {
    let lines = lines(dialogue);
    let root = ca.map(fs::read).transpose()?;
    let root = root.map(|pem| native_tls::Certificate::from_pem(&pem)).transpose().map_err(io::Error::other)?;
    let make = || root.clone().map(connector).transpose();
    let mut connector = make()?;
    let mut buffer = vec![0; 256 << 10];
    for _ in 0..runs {
        if anew {
            connector = make()?;
        }
        let tcp = TcpStream::connect(server)?;
        match &connector {
            None => play(tcp, &lines, &mut buffer)?,
            Some(tls) => {
                let stream = tls.connect(&server.ip().to_string(), tcp).map_err(io::Error::other)?;
                play(stream, &lines, &mut buffer)?;
            }
        }
    }
    Ok(())
}

fn connector(root: native_tls::Certificate) -> io::Result<native_tls::TlsConnector> {
    native_tls::TlsConnector::builder().add_root_certificate(root).build().map_err(io::Error::other)
}

fn play(mut stream: impl Read + Write, lines: &[&[u8]], buffer: &mut [u8]) -> io::Result<()> {
    answer(&mut stream, b"* ", buffer)?;
    for line in lines {
        stream.write_all(line)?;
        let tag = line.split_inclusive(|byte| *byte == b' ').next().unwrap_or_default();
        answer(&mut stream, tag, buffer)?;
    }
    Ok(())
}

/// Reads until the last line of what has come is whole and begins with `tag`. Our tags are random: no mail holds one.
fn answer(stream: &mut impl Read, tag: &[u8], buffer: &mut [u8]) -> io::Result<()> {
    let mut length = 0;
    loop {
        match stream.read(&mut buffer[length..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => length += more,
        }
        let Some(whole) = buffer[..length].strip_suffix(b"\r\n") else { continue };
        let last = memchr::memrchr(b'\n', whole).map_or(whole, |end| &whole[end + 1..]);
        if last.starts_with(tag) {
            return if tag == b"* " || last[tag.len()..].starts_with(b"OK") {
                Ok(())
            } else {
                Err(io::Error::other(String::from_utf8_lossy(last)))
            };
        }
    }
}

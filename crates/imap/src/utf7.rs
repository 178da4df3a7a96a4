//! Modified UTF-7, in which `IMAP4rev1` writes mailbox names (RFC 3501 §5.1.3).
//!
//! Names from a server are not shown, and never decoded; a configured name may be.

use base64::{
    Engine as _,
    alphabet::IMAP_MUTF7,
    engine::{GeneralPurpose, general_purpose::NO_PAD},
};

const BASE64: GeneralPurpose = GeneralPurpose::new(&IMAP_MUTF7, NO_PAD);

/// Writes a mailbox name: printable ASCII as it is, `&` as `&-`, all else as UTF-16 in base64 between `&` and `-`.
pub fn encode(name: &str) -> String {
    let mut wire = String::with_capacity(name.len());
    let mut shifted = Vec::new();
    let flush = |shifted: &mut Vec<u8>, wire: &mut String| {
        if !shifted.is_empty() {
            wire.push('&');
            wire.push_str(&BASE64.encode(&*shifted));
            wire.push('-');
            shifted.clear();
        }
    };
    for character in name.chars() {
        if matches!(character, ' '..='~') {
            flush(&mut shifted, &mut wire);
            wire.push(character);
            if character == '&' {
                wire.push('-');
            }
        } else {
            shifted.extend(character.encode_utf16(&mut [0; 2]).iter().flat_map(|unit| unit.to_be_bytes()));
        }
    }
    flush(&mut shifted, &mut wire);
    wire
}

/// Reads a name that is well-formed modified UTF-7; none for any other.
pub(super) fn decode(wire: &str) -> Option<String> {
    let mut name = String::with_capacity(wire.len());
    let mut rest = wire;
    while let Some((plain, shifted)) = rest.split_once('&') {
        let (base64, after) = shifted.split_once('-')?;
        name.push_str(plain);
        if base64.is_empty() {
            name.push('&');
        } else {
            let bytes = BASE64.decode(base64).ok().filter(|bytes| bytes.len() % 2 == 0)?;
            let units = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            name.extend(char::decode_utf16(units).collect::<Result<Vec<_>, _>>().ok()?);
        }
        rest = after;
    }
    name.push_str(rest);
    // One name has one form (RFC 3501 §5.1.3): what would be written otherwise was not meant so.
    (encode(&name) == wire).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_the_rfc_and_from_real_mailboxes() {
        for (name, wire) in [
            ("INBOX", "INBOX"),
            ("~peter/mail/台北/日本語", "~peter/mail/&U,BTFw-/&ZeVnLIqe-"),
            ("Entwürfe", "Entw&APw-rfe"),
            ("a&b", "a&-b"),
            ("Résumé/😀", "R&AOk-sum&AOk-/&2D3eAA-"),
            ("ü&ü", "&APw-&-&APw-"),
            ("tab\there", "tab&AAk-here"),
        ] {
            assert_eq!(encode(name), wire);
            assert_eq!(decode(wire).as_deref(), Some(name));
        }
    }

    #[test]
    fn what_is_not_modified_utf_7_is_not_decoded() {
        // No end, no base64, half a character, a lone surrogate, printable ASCII in base64, an 8-bit character.
        for other in ["Tom & Jerry", "R&D", "&!!-", "&AA-", "&2D0-", "&AGE-", "ü"] {
            assert_eq!(decode(other), None, "{other}");
        }
    }
}

use std::io::Read as _;

use super::*;

#[test]
fn an_endpoint_is_shown_without_its_password() {
    assert_eq!(shown("https://me:planted@otlp.example:4318/x"), "https://otlp.example:4318/x");
    assert_eq!(shown("http://localhost:4317"), "http://localhost:4317");
}

#[test]
fn a_message_of_grpc_is_one_frame_compressed_or_not() {
    for gzip in [false, true] {
        let signal = Signal { gzip, ..Signal::new("http://localhost:4317", Protocol::Grpc) };
        let body = OtlpClient::new(&signal, "/x").unwrap().body(b"message").unwrap();
        let length = u32::from_be_bytes(body[1..5].try_into().unwrap()) as usize;
        assert_eq!((body[0], length), (u8::from(gzip), body.len() - 5));
        let mut plain = String::new();
        if gzip {
            flate2::read::GzDecoder::new(&body[5..]).read_to_string(&mut plain).unwrap();
        } else {
            plain.push_str(std::str::from_utf8(&body[5..]).unwrap());
        }
        assert_eq!(plain, "message");
    }
}

//! The server's half of SCRAM-SHA-256 (RFC 5802 §3), by other code than the client's. Works on messages without base64.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};

/// One exchange, from the client's first message on.
pub struct Peer {
    first_bare: String,
    nonce: String,
    salt: Vec<u8>,
    iterations: u32,
    server_first: String,
}

impl Peer {
    /// Reads `n,[a=…],n=USER,r=NONCE`.
    pub fn new(client_first: &str) -> Self {
        let first_bare = client_first.splitn(3, ',').nth(2).unwrap().to_owned();
        let nonce = first_bare.rsplit_once(",r=").unwrap().1.to_owned();
        Self { first_bare, nonce, salt: b"salt".to_vec(), iterations: 4096, server_first: String::new() }
    }

    /// The client's nonce.
    pub fn nonce(&self) -> &str {
        &self.nonce
    }

    /// The server's first message.
    pub fn first(&mut self, more_nonce: &str, salt: &[u8], iterations: u32) -> String {
        (self.salt, self.iterations) = (salt.to_vec(), iterations);
        self.server_first = format!("r={}{more_nonce},s={},i={iterations}", self.nonce, STANDARD.encode(salt));
        self.server_first.clone()
    }

    /// The server's last message, if the client's proof is that of this password.
    pub fn last(&self, client_final: &str, password: &str) -> Option<String> {
        let (without_proof, proof) = client_final.rsplit_once(",p=").unwrap();
        let signed = format!("{},{},{without_proof}", self.first_bare, self.server_first);
        let mut salted = [0; 32];
        pbkdf2::pbkdf2::<Hmac<Sha256>>(password.as_bytes(), &self.salt, self.iterations, &mut salted).unwrap();
        let client_key = sign(&salted, b"Client Key");
        let signature = sign(&Sha256::digest(client_key), signed.as_bytes());
        let expected: Vec<u8> = client_key.iter().zip(signature).map(|(key, signature)| key ^ signature).collect();
        let verifier = sign(&sign(&salted, b"Server Key"), signed.as_bytes());
        (STANDARD.decode(proof).unwrap() == expected).then(|| format!("v={}", STANDARD.encode(verifier)))
    }
}

fn sign(key: &[u8], message: &[u8]) -> [u8; 32] {
    Hmac::<Sha256>::new_from_slice(key).unwrap().chain_update(message).finalize().into_bytes().into()
}

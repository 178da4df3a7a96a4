//! The PROXY protocol header (`HAProxy`'s specification, versions 1 and 2), which names this host as the client.

use std::net::SocketAddr;

use crate::plan::ProxyProtocol;

pub(super) fn header(version: ProxyProtocol, local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    match version {
        ProxyProtocol::V1 => {
            let family = if local.is_ipv4() { "TCP4" } else { "TCP6" };
            format!("PROXY {family} {} {} {} {}\r\n", local.ip(), peer.ip(), local.port(), peer.port()).into_bytes()
        }
        ProxyProtocol::V2 => {
            let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
            if let (SocketAddr::V4(local), SocketAddr::V4(peer)) = (local, peer) {
                header.extend([0x11, 0, 12]);
                header.extend(local.ip().octets());
                header.extend(peer.ip().octets());
            } else {
                header.extend([0x21, 0, 36]);
                header.extend(v6(local));
                header.extend(v6(peer));
            }
            header.extend(local.port().to_be_bytes());
            header.extend(peer.port().to_be_bytes());
            header
        }
    }
}

fn v6(address: SocketAddr) -> [u8; 16] {
    match address {
        SocketAddr::V4(address) => address.ip().to_ipv6_mapped().octets(),
        SocketAddr::V6(address) => address.ip().octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_as_the_specification_writes_them() {
        let (local, peer) = ("192.0.2.1:56324".parse().unwrap(), "192.0.2.2:143".parse().unwrap());
        assert_eq!(header(ProxyProtocol::V1, local, peer), b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 143\r\n");
        let v2 = header(ProxyProtocol::V2, local, peer);
        assert_eq!(v2, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\xdc\x04\0\x8f");
        let v6 = header(ProxyProtocol::V2, "[::1]:1".parse().unwrap(), "[::1]:2".parse().unwrap());
        assert_eq!((v6.len(), &v6[12..16]), (16 + 36, [0x21, 0x21, 0, 36].as_slice()));
    }
}

//! The system's own resolver: `getaddrinfo`, and with it all sources in nsswitch.conf (mDNS, LDAP, systemd-resolved).
//!
//! The call cannot be cancelled and may take minutes, so [`blocking`] makes it. Called by `resolve`.

use std::{ffi::CString, io, mem, net::IpAddr, ptr, time::Instant};

use socket2::SockAddr;

use super::{cause::ResolveCause, family::Family};
use crate::{
    blocking::{self, Origin, Unfinished},
    net::{ErrnoKind, descriptors, errno_kind},
};

/// The addresses of a name, in the order of the system (RFC 6724).
pub(super) async fn lookup(name: &str, family: Family, deadline: Instant) -> Result<Vec<IpAddr>, ResolveCause> {
    let question = CString::new(name).map_err(|_| ResolveCause::Local("the name holds a NUL".to_owned()))?;
    call(name, deadline, move || getaddrinfo(&question, family)).await
}

async fn call(
    name: &str,
    deadline: Instant,
    call: impl FnOnce() -> Result<Vec<IpAddr>, ResolveCause> + Send + 'static,
) -> Result<Vec<IpAddr>, ResolveCause> {
    let looked_up = blocking::run(Origin::Name(name.into()), deadline, call).await;
    looked_up.unwrap_or_else(|unfinished| {
        Err(match unfinished {
            Unfinished::Deadline(_) => ResolveCause::Timeout,
            Unfinished::NoThread(_) => ResolveCause::Local(unfinished.to_string()),
        })
    })
}

struct List(*mut libc::addrinfo);

impl Drop for List {
    #[expect(unsafe_code, reason = "the list is the C library's")]
    fn drop(&mut self) {
        // SAFETY: it came from `getaddrinfo` and is freed once.
        unsafe { libc::freeaddrinfo(self.0) };
    }
}

#[expect(unsafe_code, reason = "the standard library does not report the error code")]
fn getaddrinfo(name: &CString, family: Family) -> Result<Vec<IpAddr>, ResolveCause> {
    // SAFETY: all-zero bytes are a valid `addrinfo`: no flags, and null pointers.
    let mut hints: libc::addrinfo = unsafe { mem::zeroed() };
    hints.ai_socktype = libc::SOCK_STREAM;
    hints.ai_family = match family {
        Family::Any => libc::AF_UNSPEC,
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    let mut list = ptr::null_mut();
    // SAFETY: name and hints outlive the call, and `list` is a valid place for the pointer.
    let code = unsafe { libc::getaddrinfo(name.as_ptr(), ptr::null(), &raw const hints, &raw mut list) };
    if code != 0 {
        return Err(cause(code, &io::Error::last_os_error()));
    }
    let list = List(list);
    let mut addresses = Vec::new();
    let mut entry = list.0;
    // SAFETY: entries are valid until the list is freed, and a null pointer ends it.
    while let Some(found) = unsafe { entry.as_ref() } {
        // SAFETY: `ai_addr` points to `ai_addrlen` bytes of an address, which fit.
        let address = unsafe {
            SockAddr::try_init(|storage, length| {
                ptr::copy_nonoverlapping(found.ai_addr.cast::<u8>(), storage.cast(), found.ai_addrlen as usize);
                *length = found.ai_addrlen;
                Ok(())
            })
        };
        addresses.extend(address.ok().and_then(|((), address)| address.as_socket()).map(|address| address.ip()));
        entry = found.ai_next;
    }
    Ok(addresses)
}

// glibc's own, from its netdb.h; no constants of `libc` for them.
const EAI_NODATA: i32 = -5;
const EAI_ADDRFAMILY: i32 = -9;

fn cause(code: i32, system: &io::Error) -> ResolveCause {
    // Not always reported as EAI_SYSTEM with EMFILE.
    if descriptors::are_exhausted() {
        return ResolveCause::Exhausted("this process can open no more files".to_owned());
    }
    let text = |word: &str| format!("getaddrinfo: {word}");
    match code {
        libc::EAI_NONAME => ResolveCause::NxDomain,
        EAI_NODATA | EAI_ADDRFAMILY if cfg!(target_os = "linux") => ResolveCause::NoData,
        libc::EAI_AGAIN => ResolveCause::Failed(text("EAI_AGAIN, temporary failure in name resolution")),
        libc::EAI_FAIL => ResolveCause::Failed(text("EAI_FAIL, non-recoverable failure in name resolution")),
        libc::EAI_MEMORY => ResolveCause::Exhausted(text("EAI_MEMORY")),
        libc::EAI_SYSTEM => match errno_kind(system) {
            Some(ErrnoKind::Exhausted) => ResolveCause::Exhausted(text(&system.to_string())),
            Some(ErrnoKind::Network) => ResolveCause::Failed(text(&system.to_string())),
            Some(ErrnoKind::Local) | None => ResolveCause::Local(text(&system.to_string())),
        },
        code => ResolveCause::Local(text(&format!("error {code}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;
    use crate::clock;

    #[tokio::test]
    async fn addresses_come_by_family_and_need_no_name_server() {
        let deadline = clock::now() + Duration::from_secs(60);
        for (name, family, address) in [("127.0.0.1", Family::V4, "127.0.0.1"), ("::1", Family::V6, "::1")] {
            let found = lookup(name, family, deadline).await.unwrap();
            assert_eq!(found, [address.parse::<IpAddr>().unwrap()]);
        }
        let found = lookup("127.0.0.1", Family::V6, deadline).await;
        assert_eq!(found, Err(ResolveCause::NoData));
    }

    #[tokio::test]
    async fn a_call_that_does_not_end_costs_its_run_the_deadline_and_others_of_the_name_their_thread() {
        let name = "stuck.example";
        let mut ends = Vec::new();
        let soon = clock::now() + Duration::from_secs(60);
        let refused = loop {
            let (end, ended) = mpsc::channel::<()>();
            let hangs = move || ended.recv().map_or(Ok(Vec::new()), |()| Ok(Vec::new()));
            match call(name, clock::now(), hangs).await {
                Err(ResolveCause::Timeout) => ends.push(end),
                other => break other,
            }
        };
        // What this process refuses is not the network's; other names have their own threads.
        let Err(ResolveCause::Local(text)) = refused else { panic!("{refused:?}") };
        assert!(text.contains(name) && !ends.is_empty(), "{text} {}", ends.len());
        assert!(matches!(call(name, soon, || Ok(Vec::new())).await, Err(ResolveCause::Local(_))));
        assert_eq!(call("other.example", soon, || Ok(Vec::new())).await, Ok(Vec::new()));
        drop(ends);
        while call(name, soon, || Ok(Vec::new())).await.is_err() {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn errors_of_getaddrinfo_have_their_causes() {
        let of = |code, number| cause(code, &io::Error::from_raw_os_error(number));
        assert_eq!(of(libc::EAI_NONAME, 0), ResolveCause::NxDomain);
        assert_eq!(of(EAI_NODATA, 0), ResolveCause::NoData);
        assert!(matches!(of(libc::EAI_AGAIN, 0), ResolveCause::Failed(_)));
        assert!(matches!(of(libc::EAI_SYSTEM, libc::EMFILE), ResolveCause::Exhausted(_)));
        assert!(matches!(of(libc::EAI_SYSTEM, libc::EIO), ResolveCause::Local(_)));
        assert!(matches!(of(libc::EAI_FAMILY, 0), ResolveCause::Local(_)));
    }
}

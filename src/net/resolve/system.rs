//! The system's own resolver: `getaddrinfo`, and with it whatever nsswitch.conf names (mDNS, LDAP, systemd-resolved).
//!
//! The call cannot be broken off and may take minutes, so each has a thread of its own, at most so many at a time; a
//! look-up past its deadline is over for its run, and its thread ends when the call does. Called by `resolve`.

use std::{
    ffi::CString,
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ptr,
    sync::Arc,
    time::Instant,
};

use tokio::{
    sync::{Semaphore, oneshot},
    time::timeout_at,
};

use super::{Family, ResolveCause};
use crate::net::{Trouble, descriptors, trouble};

/// Calls at a time.
const THREADS: usize = 64;
/// Modules of NSS keep buffers on the stack; the default of 2 MiB for each would add up to 128 MiB.
const STACK: usize = 512 << 10;

/// Makes the calls.
#[derive(Debug)]
pub(super) struct SystemResolver {
    free: Arc<Semaphore>,
    most: usize,
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self::new(THREADS)
    }
}

impl SystemResolver {
    fn new(most: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(most)), most }
    }

    /// The addresses of a name, in the order of the system (RFC 6724).
    pub(super) async fn lookup(
        &self,
        name: &str,
        family: Family,
        deadline: Instant,
    ) -> Result<Vec<IpAddr>, ResolveCause> {
        let name = CString::new(name).map_err(|_| ResolveCause::Local("the name holds a NUL".to_owned()))?;
        self.call(move || getaddrinfo(&name, family), deadline).await
    }

    async fn call(
        &self,
        call: impl FnOnce() -> Result<Vec<IpAddr>, ResolveCause> + Send + 'static,
        deadline: Instant,
    ) -> Result<Vec<IpAddr>, ResolveCause> {
        let Ok(Ok(permit)) = timeout_at(deadline.into(), Arc::clone(&self.free).acquire_owned()).await else {
            let text = format!("no thread was free for the look-up: {} others have not ended", self.most);
            return Err(ResolveCause::Local(text));
        };
        let (answer, answered) = oneshot::channel();
        let thread = std::thread::Builder::new().name("getaddrinfo".to_owned()).stack_size(STACK);
        let started = thread.spawn(move || {
            let result = call();
            drop(permit);
            // A run whose time is up does not wait any more.
            let _over = answer.send(result);
        });
        if let Err(error) = started {
            return Err(ResolveCause::Local(format!("cannot start a thread for the look-up: {error}")));
        }
        match timeout_at(deadline.into(), answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(ResolveCause::Local("the thread of the look-up broke off".to_owned())),
            Err(_) => Err(ResolveCause::Timeout),
        }
    }
}

/// The list that `getaddrinfo` gives, which has to be given back.
struct List(*mut libc::addrinfo);

impl Drop for List {
    #[expect(unsafe_code, reason = "the list is the C library's")]
    fn drop(&mut self) {
        // SAFETY: it came from `getaddrinfo` and is given back once.
        unsafe { libc::freeaddrinfo(self.0) };
    }
}

#[expect(unsafe_code, reason = "the standard library's call keeps the code of an error to itself")]
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
    // SAFETY: name and hints live until the call is over, and there is room for the pointer.
    let code = unsafe { libc::getaddrinfo(name.as_ptr(), ptr::null(), &raw const hints, &raw mut list) };
    if code != 0 {
        return Err(cause(code, &io::Error::last_os_error()));
    }
    let list = List(list);
    let mut addresses = Vec::new();
    let mut entry = list.0;
    // SAFETY: entries stay valid until the list is given back, and a null pointer ends it.
    while let Some(found) = unsafe { entry.as_ref() } {
        let address = match found.ai_family {
            // SAFETY: the family says what the pointer points to.
            libc::AF_INET => {
                let address = unsafe { found.ai_addr.cast::<libc::sockaddr_in>().read_unaligned() };
                Some(IpAddr::V4(Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr))))
            }
            // SAFETY: likewise.
            libc::AF_INET6 => {
                let address = unsafe { found.ai_addr.cast::<libc::sockaddr_in6>().read_unaligned() };
                Some(IpAddr::V6(Ipv6Addr::from(address.sin6_addr.s6_addr)))
            }
            _ => None,
        };
        addresses.extend(address);
        entry = found.ai_next;
    }
    Ok(addresses)
}

// glibc's own, from its netdb.h; no constants of `libc` for them.
const EAI_NODATA: i32 = -5;
const EAI_ADDRFAMILY: i32 = -9;

/// What an error of `getaddrinfo` says (its manual page).
fn cause(code: i32, system: &io::Error) -> ResolveCause {
    // It does not always say why it could ask no server.
    if descriptors::are_spent() {
        return ResolveCause::Exhausted("this process can open no more files".to_owned());
    }
    let text = |word: &str| format!("getaddrinfo: {word}");
    match code {
        libc::EAI_NONAME => ResolveCause::NxDomain,
        EAI_NODATA | EAI_ADDRFAMILY if cfg!(target_os = "linux") => ResolveCause::NoData,
        libc::EAI_AGAIN => ResolveCause::Failed(text("EAI_AGAIN, temporary failure in name resolution")),
        libc::EAI_FAIL => ResolveCause::Failed(text("EAI_FAIL, non-recoverable failure in name resolution")),
        libc::EAI_MEMORY => ResolveCause::Exhausted(text("EAI_MEMORY")),
        libc::EAI_SYSTEM => match trouble(system) {
            Some(Trouble::Exhausted) => ResolveCause::Exhausted(text(&system.to_string())),
            Some(Trouble::Line) => ResolveCause::Failed(text(&system.to_string())),
            Some(Trouble::Local) | None => ResolveCause::Local(text(&system.to_string())),
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
        let (system, deadline) = (SystemResolver::default(), clock::now() + Duration::from_secs(60));
        for (name, family, address) in [("127.0.0.1", Family::V4, "127.0.0.1"), ("::1", Family::V6, "::1")] {
            let found = system.lookup(name, family, deadline).await.unwrap();
            assert_eq!(found, [address.parse::<IpAddr>().unwrap()]);
        }
        let found = system.lookup("127.0.0.1", Family::V6, deadline).await;
        assert_eq!(found, Err(ResolveCause::NoData));
    }

    #[tokio::test]
    async fn a_call_that_does_not_end_costs_its_run_the_deadline_and_others_their_thread() {
        let system = SystemResolver::new(1);
        let (end, ended) = mpsc::channel::<()>();
        let hangs = move || {
            let _end = ended.recv();
            Ok(Vec::new())
        };
        assert_eq!(system.call(hangs, clock::now()).await, Err(ResolveCause::Timeout));
        // What this process refuses is not the network's.
        let refused = system.call(|| Ok(Vec::new()), clock::now()).await;
        assert!(matches!(refused, Err(ResolveCause::Local(_))), "{refused:?}");
        end.send(()).unwrap();
        let freed = system.free.acquire().await;
        drop(freed);
        let deadline = clock::now() + Duration::from_secs(60);
        assert_eq!(system.call(|| Ok(Vec::new()), deadline).await, Ok(Vec::new()));
    }

    #[test]
    fn an_error_says_whose_it_is() {
        let of = |code, number| cause(code, &io::Error::from_raw_os_error(number));
        assert_eq!(of(libc::EAI_NONAME, 0), ResolveCause::NxDomain);
        assert_eq!(of(EAI_NODATA, 0), ResolveCause::NoData);
        assert!(matches!(of(libc::EAI_AGAIN, 0), ResolveCause::Failed(_)));
        assert!(matches!(of(libc::EAI_SYSTEM, libc::EMFILE), ResolveCause::Exhausted(_)));
        assert!(matches!(of(libc::EAI_SYSTEM, libc::EIO), ResolveCause::Local(_)));
        assert!(matches!(of(libc::EAI_FAMILY, 0), ResolveCause::Local(_)));
    }
}

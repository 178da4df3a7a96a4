//! Returns freed memory to the system.
//!
//! A configuration is read by one thread, used by others and dropped by a third, and the C library's allocator has a heap for
//! each of them: free memory of one is not used by another, so each reload would leave more behind. Called by `reload`.

/// Gives back what all heaps have free. Takes some 10 ms for 100 MiB, during which a heap that it is at is locked: not for a
/// thread that probes.
#[cfg_attr(all(target_os = "linux", target_env = "gnu"), expect(unsafe_code, reason = "the call has no wrapper"))]
pub(super) fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it may be called at any time, and changes nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Does so when it is dropped, behind what is dropped before it.
pub(super) struct GiveBack;

impl Drop for GiveBack {
    fn drop(&mut self) {
        give_back();
    }
}

//! Returns freed memory to the system.
//!
//! A configuration is read by one thread and dropped by another, and the C library's allocator has a heap for each: free memory
//! of one is not used by another, so each reload would use more. Called by `reload`.

/// Returns the free memory of all heaps. Takes some 10 ms for 100 MiB and locks a heap meanwhile: not for a thread that probes.
#[cfg_attr(all(target_os = "linux", target_env = "gnu"), expect(unsafe_code, reason = "the call has no wrapper"))]
pub(super) fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it may be called at any time, and changes nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Returns it when this is dropped, after the values before it.
pub(super) struct GiveBack;

impl Drop for GiveBack {
    fn drop(&mut self) {
        give_back();
    }
}

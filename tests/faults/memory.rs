//! What is allocated and not yet freed, to the byte: resident memory would tell of the allocator's habits.

#![expect(unsafe_code, reason = "an allocator is")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicIsize, Ordering},
};

struct Counting;

static LIVE: AtomicIsize = AtomicIsize::new(0);

#[global_allocator]
static COUNTING: Counting = Counting;

/// Bytes that Rust's code holds.
pub(crate) fn live() -> isize {
    LIVE.load(Ordering::SeqCst)
}

/// Bytes that the whole process holds of the C library's heap, OpenSSL's among them. What a thread keeps at hand for its
/// next small allocation counts as held.
pub(crate) fn live_in_all() -> isize {
    // SAFETY: it only reads the heap's own counters, under its locks.
    let info = unsafe { libc::mallinfo2() };
    isize::try_from(info.uordblks + info.hblkhd).unwrap()
}

fn count(bytes: usize, sign: isize) {
    LIVE.fetch_add(isize::try_from(bytes).unwrap_or_default() * sign, Ordering::SeqCst);
}

// SAFETY: all is the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

//! Memory that is about to be written, mapped in one call instead of by a fault for each page: a fault costs some
//! microseconds, more on a virtual machine, and a busy shard's log grows by thousands of pages a second.

const PAGE: usize = 4 << 10;

/// Has the kernel map the whole pages of what is reserved in `bytes` and not used. Only saves time: where the kernel can
/// not (before Linux 5.14), pages are mapped when they are written.
pub fn populate(bytes: &mut Vec<u8>) {
    let spare = bytes.spare_capacity_mut();
    let before = spare.as_ptr().align_offset(PAGE);
    let Some(pages) = spare.get_mut(before..) else { return };
    let length = pages.len() / PAGE * PAGE;
    if length > 0 {
        // SAFETY: the pages belong to the vector alone, and this reads and writes them as it would be without: it only
        // happens now that they are mapped.
        unsafe { libc::madvise(pages.as_mut_ptr().cast(), length, libc::MADV_POPULATE_WRITE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many whole pages of the capacity are in memory, and how many there are.
    fn mapped(bytes: &[u8], capacity: usize) -> (usize, usize) {
        let before = bytes.as_ptr().align_offset(PAGE);
        let count = capacity.saturating_sub(before) / PAGE;
        let mut states = vec![0u8; count];
        // SAFETY: the range is that of one allocation, and there is a byte of `states` for each of its pages.
        let result =
            unsafe { libc::mincore(bytes.as_ptr().add(before).cast_mut().cast(), count * PAGE, states.as_mut_ptr()) };
        assert_eq!(result, 0);
        (states.iter().filter(|state| **state & 1 == 1).count(), count)
    }

    #[test]
    fn pages_are_there_before_they_are_written() {
        // Large enough to be fresh from the kernel.
        let mut bytes: Vec<u8> = Vec::with_capacity(64 << 20);
        bytes.extend_from_slice(b"kept");
        let (some, all) = mapped(&bytes, bytes.capacity());
        assert!(some < all / 2, "{some} of {all} before");
        populate(&mut bytes);
        let (now, all) = mapped(&bytes, bytes.capacity());
        // The first page may be one that the contents are on.
        assert!(now >= all - 1, "{now} of {all}");
        assert_eq!(bytes, b"kept");
    }

    #[test]
    fn what_has_no_whole_page_is_left_alone() {
        for capacity in [0, 1, PAGE - 1, PAGE, PAGE + 1] {
            populate(&mut Vec::with_capacity(capacity));
        }
        populate(&mut vec![1; 3 * PAGE]);
    }
}

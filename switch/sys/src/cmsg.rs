//! Control messages of `sendmsg(2)` and `recvmsg(2)`, written and read without `unsafe`.
//!
//! The layout is the kernel's `struct cmsghdr` (`linux/socket.h`): length including the header (`size_t`), level and
//! type (`int`), the data, padding to a multiple of `size_t`. The kernel copies the buffer, so it needs no alignment.

const WORD: usize = size_of::<usize>();
const HEADER: usize = WORD + 2 * size_of::<libc::c_int>();

/// Bytes that one message with `len` bytes of data takes (`CMSG_SPACE`).
pub(crate) const fn space(len: usize) -> usize {
    (HEADER + len).next_multiple_of(WORD)
}

/// Writes control messages one after the other into a caller's buffer.
pub(crate) struct Encoder<'a> {
    buf: &'a mut [u8],
    len: usize,
}

impl<'a> Encoder<'a> {
    pub(crate) fn new(buf: &'a mut [u8]) -> Self {
        Self { buf, len: 0 }
    }

    /// Appends a message. The caller sized the buffer with [`space`]; one that does not fit is a bug.
    pub(crate) fn push(&mut self, level: libc::c_int, kind: libc::c_int, data: &[u8]) {
        let end = self.len + space(data.len());
        let message = &mut self.buf[self.len..end];
        message.fill(0);
        message[..WORD].copy_from_slice(&(HEADER + data.len()).to_ne_bytes());
        message[WORD..WORD + 4].copy_from_slice(&level.to_ne_bytes());
        message[WORD + 4..HEADER].copy_from_slice(&kind.to_ne_bytes());
        message[HEADER..HEADER + data.len()].copy_from_slice(data);
        self.len = end;
    }

    /// Bytes written, for `msg_controllen`.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

/// One received control message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) level: libc::c_int,
    pub(crate) kind: libc::c_int,
    pub(crate) data: &'a [u8],
}

impl Message<'_> {
    /// The data as one `int`; a single byte (as `IP_TOS` arrives) is widened.
    pub(crate) fn int(&self) -> Option<libc::c_int> {
        match *self.data {
            [byte] => Some(byte.into()),
            _ => Some(libc::c_int::from_ne_bytes(self.data.first_chunk().copied()?)),
        }
    }
}

/// Walks the control messages in `msg_controllen` bytes; stops at the first that does not fit.
pub(crate) struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    pub(crate) fn new(control: &'a [u8]) -> Self {
        Self(control)
    }
}

impl<'a> Iterator for Decoder<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::from_ne_bytes(*self.0.first_chunk()?);
        let level = libc::c_int::from_ne_bytes(*self.0.get(WORD..)?.first_chunk()?);
        let kind = libc::c_int::from_ne_bytes(*self.0.get(WORD + 4..)?.first_chunk()?);
        let data = self.0.get(HEADER..len)?;
        self.0 = len.checked_next_multiple_of(WORD).and_then(|next| self.0.get(next..)).unwrap_or_default();
        Some(Message { level, kind, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut buf = [0xff; space(2) + space(4) + space(1)];
        let mut encoder = Encoder::new(&mut buf);
        encoder.push(17, 103, &1400u16.to_ne_bytes());
        encoder.push(0, 1, &2i32.to_ne_bytes());
        encoder.push(41, 67, &[3]);
        let len = encoder.len();
        assert_eq!(len, buf.len());
        let read: Vec<_> =
            Decoder::new(&buf[..len]).map(|m| (m.level, m.kind, m.data.len(), m.int())).collect();
        assert_eq!(read, [(17, 103, 2, None), (0, 1, 4, Some(2)), (41, 67, 1, Some(3))]);
    }

    #[test]
    fn layout_is_that_of_the_c_library() {
        // SAFETY: CMSG_SPACE and CMSG_LEN only compute.
        let (space4, len4) = unsafe { (libc::CMSG_SPACE(4), libc::CMSG_LEN(4)) };
        assert_eq!((space(4), HEADER + 4), (space4 as usize, len4 as usize));
    }

    #[test]
    fn garbage_ends_the_walk() {
        assert_eq!(Decoder::new(&[0; 64]).next(), None, "length below the header");
        assert_eq!(Decoder::new(&[0xff; 64]).next(), None, "length beyond the buffer");
        assert_eq!(Decoder::new(&[1; 7]).next(), None);
        let mut one = [0; space(4)];
        Encoder::new(&mut one).push(1, 2, &[0; 4]);
        assert_eq!(Decoder::new(&one[..HEADER + 3]).next(), None, "cut data");
        assert_eq!(Decoder::new(&one[..HEADER + 4]).count(), 1, "the last one needs no padding");
    }
}

//! How every fixed header of this crate is seen: a `zerocopy` view with network-order fields.

/// Defines a fixed header: its layout, its length and its two checked views.
macro_rules! header {
    ($(#[$doc:meta])* $name:ident, $len:literal { $($(#[$fdoc:meta])* $field:ident: $ty:ty,)* }) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq,
            ::zerocopy::FromBytes, ::zerocopy::IntoBytes, ::zerocopy::KnownLayout,
            ::zerocopy::Immutable, ::zerocopy::Unaligned,
        )]
        #[repr(C)]
        pub struct $name { $($(#[$fdoc])* pub $field: $ty,)* }

        const _: () = assert!(size_of::<$name>() == $len);

        impl $name {
            /// Length of the fixed part, bytes.
            pub const LEN: usize = $len;

            /// The header at the start of `bytes`; `None` when they are too few.
            #[inline]
            pub fn of(bytes: &[u8]) -> Option<&Self> {
                <Self as ::zerocopy::FromBytes>::ref_from_prefix(bytes).ok().map(|(header, _)| header)
            }

            /// Like [`Self::of`], to change it.
            #[inline]
            pub fn of_mut(bytes: &mut [u8]) -> Option<&mut Self> {
                <Self as ::zerocopy::FromBytes>::mut_from_prefix(bytes).ok().map(|(header, _)| header)
            }
        }
    };
}
pub(crate) use header;

/// The big-endian u16 at `at`.
#[inline]
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The big-endian u32 at `at`.
#[inline]
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Writes a big-endian u16 at `at`.
#[inline]
pub(crate) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Writes a big-endian u32 at `at`.
#[inline]
pub(crate) fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

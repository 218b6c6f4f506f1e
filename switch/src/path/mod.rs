//! The fast path, in the order a frame meets it.

//! Two bounded in-process rings, for tests and benches.

/// A port without a kernel.
#[derive(Debug)]
pub struct MemDevice {}

//! Frame pool with headroom, frame, batch.

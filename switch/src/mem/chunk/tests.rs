use weft_sys::xdp::{Chunk, Umem};

use super::*;
use crate::mem::MAX_FRAME;
use crate::table::{PeerSlot, PortSlot};

fn memory(count: u32) -> (&'static Umem, Vec<Chunk>) {
    let (umem, chunks) = Umem::create(count, 2048).unwrap();
    (&**Box::leak::<'static>(Box::new(umem)), chunks)
}

fn from_port() -> Ingress {
    Ingress::Port(PortSlot(3))
}

#[test]
fn a_frame_in_a_chunk_is_edited_where_it_is() {
    let (umem, mut chunks) = memory(1);
    let mut chunk = chunks.remove(0);
    umem.bytes_mut(&mut chunk)[256..263].copy_from_slice(b"payload");
    let mut pool = Pool::new(4);
    let mut frame = pool.in_chunk(Buffer::of(umem, chunk), 256..263, from_port());
    assert!(frame.is_in_chunk() && frame.chunk().is_some_and(|buffer| umem.has(buffer)));
    assert_eq!((frame.bytes(), frame.vnet, frame.ingress), (&b"payload"[..], VnetHdr::NONE, from_port()));
    assert!(frame.push_front(4) && !frame.push_front(256));
    frame.bytes_mut()[..4].copy_from_slice(b"tag:");
    frame.set_len(usize::MAX);
    assert_eq!(frame.len(), 2048 - 252, "not beyond the chunk");
    frame.set_len(11);
    let copy = pool.copy(&frame).unwrap();
    assert!(!copy.is_in_chunk() && copy.chunk().is_none());
    assert_eq!((copy.bytes(), copy.ingress), (&b"tag:payload"[..], from_port()));
    let (buffer, range) = frame.exchange(Buffer::zeroed(MAX_FRAME).unwrap());
    assert!(frame.is_empty());
    assert_eq!(&buffer[range], b"tag:payload");
}

/// It is not mistaken for one of the pool's own, which have room for more.
#[test]
fn a_pool_keeps_chunks_for_their_device() {
    let (umem, chunks) = memory(2);
    let mut pool = Pool::new(1);
    let mut indices: Vec<u32> = chunks.iter().map(Chunk::index).collect();
    for chunk in chunks {
        let frame = pool.in_chunk(Buffer::of(umem, chunk), 0..14, from_port());
        pool.give(frame);
    }
    assert!(pool.has_chunks() && pool.available() == 1);
    let frame = pool.take().unwrap();
    assert!(!frame.is_in_chunk() && pool.take().is_none());
    pool.give(frame);
    let back = std::iter::from_fn(|| pool.take_chunk());
    let back: Vec<Chunk> = back.map(|buffer| umem.chunk_of(buffer).unwrap()).collect();
    indices.sort_unstable();
    let mut found: Vec<u32> = back.iter().map(Chunk::index).collect();
    found.sort_unstable();
    assert!(found == indices && !pool.has_chunks());
    // What they were in serves again.
    for chunk in back {
        let frame = pool.in_chunk(Buffer::of(umem, chunk), 100..114, Ingress::Peer(PeerSlot(7)));
        assert_eq!((frame.len(), frame.ingress), (14, Ingress::Peer(PeerSlot(7))));
        pool.give(frame);
    }
    assert!(pool.take_chunk().is_some() && pool.take_chunk().is_some() && pool.take_chunk().is_none());
}

#[test]
#[should_panic = "range.end <= buffer.len()"]
fn a_frame_that_is_not_inside_is_none() {
    let (umem, mut chunks) = memory(1);
    let _ = Pool::new(1).in_chunk(Buffer::of(umem, chunks.remove(0)), 2000..2049, from_port());
}

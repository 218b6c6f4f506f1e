use std::sync::Arc;

use super::*;

fn lasting(count: u32) -> (&'static Umem, Vec<Chunk>) {
    let (umem, chunks) = Umem::create(count, 2048).unwrap();
    (&**Box::leak::<'static>(Box::new(umem)), chunks)
}

#[test]
fn of_the_allocator() {
    let mut buffer = Buffer::zeroed(70_000).unwrap();
    assert!(buffer.len() == 70_000 && buffer.iter().all(|byte| *byte == 0));
    buffer[69_999] = 7;
    assert_eq!(buffer[69_999..], [7]);
    let (umem, _chunks) = lasting(1);
    assert!(!umem.has(&buffer));
    assert_eq!(umem.chunk_of(buffer).unwrap_err().len(), 70_000);
    assert!(Buffer::empty().is_empty() && !umem.has(&Buffer::empty()));
}

#[test]
#[should_panic = "a buffer of 4096 bytes"]
fn none_of_the_allocator_is_taken_for_a_chunk() {
    let _ = Buffer::zeroed(LONGEST_CHUNK);
}

/// A chunk goes there and back, with what was written meanwhile.
#[test]
fn of_a_chunk() {
    let (umem, mut chunks) = lasting(3);
    let (other, _others) = lasting(3);
    let mut chunk = chunks.remove(1);
    umem.bytes_mut(&mut chunk)[5] = 9;
    let index = chunk.index();
    let mut buffer = Buffer::of(umem, chunk);
    assert_eq!((buffer.len(), buffer[5]), (2048, 9));
    buffer[2047] = 8;
    assert!(umem.has(&buffer) && !other.has(&buffer));
    let buffer = other.chunk_of(buffer).unwrap_err();
    let chunk = umem.chunk_of(buffer).unwrap();
    assert_eq!((chunk.index(), umem.bytes(&chunk)[2047]), (index, 8));
}

#[test]
#[should_panic = "chunk of another memory"]
fn a_chunk_of_another_memory() {
    let ((umem, _own), (_, mut foreign)) = (lasting(1), lasting(1));
    let _ = Buffer::of(umem, foreign.remove(0));
}

/// What is renewed is whole again, with what sockets had that are gone, and its pages are the system's.
#[test]
fn a_memory_that_no_socket_has_is_renewed() {
    let (umem, mut chunks) = Umem::create(4, 2048).unwrap();
    umem.bytes_mut(&mut chunks[0]).fill(7);
    for ring in [8, 12] {
        umem.lend(chunks.pop().unwrap(), ring);
    }
    umem.lend(chunks.pop().unwrap(), 16);
    let _claimed = umem.claim(2 * 2048, 12).or_else(|| umem.claim(2048, 12)).unwrap();
    let other = Arc::clone(&umem);
    assert!(Umem::renew(&umem, &mut chunks).is_err());
    assert_eq!(chunks.len(), 1);
    drop(other);
    Umem::renew(&umem, &mut chunks).unwrap();
    let mut indices: Vec<u32> = chunks.iter().map(Chunk::index).collect();
    indices.sort_unstable();
    assert_eq!(indices, [0, 1, 2, 3]);
    assert!(chunks.iter().all(|chunk| umem.bytes(chunk).iter().all(|byte| *byte == 0)));
    assert_eq!(umem.claim(0, 8), None);
}

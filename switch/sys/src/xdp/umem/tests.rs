use super::*;

const RING: u64 = 8;
const OTHER: u64 = 12;

#[test]
fn a_chunk_has_one_owner() {
    let (umem, mut chunks) = Umem::create(4, 2048).unwrap();
    assert_eq!((umem.count(), umem.chunk_size(), chunks.len()), (4, 2048, 4));
    assert!(umem.size() >= 4 * 2048 + 4 * 8);
    for (number, chunk) in (0..).zip(&mut chunks) {
        umem.bytes_mut(chunk).fill(number);
    }
    for (number, chunk) in (0..).zip(&chunks) {
        assert!(umem.bytes(chunk).iter().all(|byte| *byte == number));
    }
    let chunk = chunks.pop().unwrap();
    let (index, address) = (chunk.index(), umem.address(&chunk));
    umem.lend(chunk, RING);
    assert_eq!(address, u64::from(index) * 2048);
    // Not what another ring says; not twice; nowhere outside.
    assert_eq!(umem.claim(address, OTHER), None);
    let (chunk, offset) = umem.claim(address + 7, RING).unwrap();
    assert_eq!((chunk.index(), offset), (index, 7));
    assert_eq!(umem.claim(address, RING), None);
    umem.settle(&chunk);
    assert_eq!(umem.claim(address, RING), None);
    for address in [4 * 2048, u64::MAX, 1 << 48] {
        assert_eq!(umem.claim(address, RING), None);
    }
}

#[test]
fn what_is_taken_back_is_the_rings() {
    let (umem, mut chunks) = Umem::create(4, 2048).unwrap();
    for ring in [RING, OTHER, RING | 1] {
        umem.lend(chunks.pop().unwrap(), ring);
    }
    umem.take_all([RING, RING | 1], &mut chunks);
    assert_eq!(chunks.len(), 3);
    umem.take_all([RING, RING | 1], &mut chunks);
    assert_eq!(chunks.len(), 3);
}

#[test]
fn a_memory_is_taken_over_with_what_the_kernel_does_not_have() {
    let (umem, mut chunks) = Umem::create(4, 2048).unwrap();
    umem.lend(chunks.pop().unwrap(), RING);
    let memory = umem.as_fd().try_clone_to_owned().unwrap();
    umem.bytes_mut(&mut chunks[0]).fill(9);
    let index = chunks[0].index();
    let again = || Umem::adopt(memory.try_clone().unwrap(), 2048);
    assert_eq!(again().unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    drop((umem, chunks));
    assert!(Umem::adopt(memory.try_clone().unwrap(), 4096).is_err());
    let (umem, chunks) = again().unwrap();
    assert_eq!(chunks.len(), 3);
    let chunk = chunks.iter().find(|chunk| chunk.index() == index).unwrap();
    assert!(umem.bytes(chunk).iter().all(|byte| *byte == 9));
    let other = tempfile::tempfile().unwrap();
    assert!(Umem::adopt(OwnedFd::from(other), 2048).is_err());
}

/// Kernel bytes of a memory that this process has mapped, by `/proc/self/smaps`.
fn resident(umem: &Umem) -> usize {
    let start = format!("{:x}-", umem.mapping.start().as_ptr() as usize);
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let rss = maps.lines().skip_while(|line| !line.starts_with(&start)).find(|line| line.starts_with("Rss:"));
    rss.unwrap().split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
fn a_memory_that_is_taken_over_is_mapped_later() {
    const COUNT: u32 = 2048;
    let (umem, chunks) = Umem::create(COUNT, 2048).unwrap();
    assert!(resident(&umem) >= umem.size());
    let memory = umem.descriptor();
    drop((umem, chunks));
    let (umem, mut chunks) = Umem::adopt(memory, 2048).unwrap();
    // What says who has which chunk was read.
    assert!(resident(&umem) < umem.size() / 8, "{} of {}", resident(&umem), umem.size());
    umem.bytes_mut(&mut chunks[0]).fill(7);
    umem.populate();
    assert!(resident(&umem) >= umem.size());
    assert_eq!(umem.bytes(&chunks[0]), [7; 2048]);
}

/// Pieces that are not inside of their chunk.
#[test]
fn bounds_of_pieces() {
    let (umem, mut chunks) = Umem::create(1, 2048).unwrap();
    let mut piece = Piece { chunk: chunks.pop().unwrap(), offset: 2000, len: 48, more: false };
    assert_eq!(umem.piece_mut(&mut piece).len(), 48);
    assert!(umem.is_valid(&piece));
    for (offset, len) in [(2000, 49), (0, 0), (u32::MAX, 1), (1, u32::MAX)] {
        (piece.offset, piece.len) = (offset, len);
        assert!(!umem.is_valid(&piece), "{offset} {len}");
    }
}

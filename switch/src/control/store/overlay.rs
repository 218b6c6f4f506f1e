//! A redb file that is read as it lies on disk, and written in memory only: to look into it without changing, repairing or
//! locking it, and without reading all of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

/// What is read from the file at a time, and kept once it is written to.
const BLOCK: usize = 4096;

/// The file, and what was written.
#[derive(Debug)]
pub(super) struct Overlay {
    file: File,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    len: u64,
    /// Where the file counts: it was never cut to less.
    file_len: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl Overlay {
    /// # Errors
    /// Those of `fstat(2)`.
    pub(super) fn new(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Overlay { file, written: Mutex::new(Written { len, file_len: len, blocks: BTreeMap::new() }) })
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills `out` from the file, and with zeros behind it.
    fn read_file(&self, written: &Written, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let there = written.file_len.saturating_sub(offset).min(out.len() as u64) as usize;
        let (there, behind) = out.split_at_mut(there);
        behind.fill(0);
        self.file.read_exact_at(there, offset)
    }
}

/// Blocks that `len` bytes from `offset` lie in: number, first byte in the block, bytes in it.
fn blocks(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = offset + len as u64;
    (offset / BLOCK as u64..end.div_ceil(BLOCK as u64)).map(move |block| {
        let (from, to) = (block * BLOCK as u64, (block + 1) * BLOCK as u64);
        let first = offset.max(from);
        (block, (first - from) as usize, (end.min(to) - first) as usize)
    })
}

fn in_range(written: &Written, offset: u64, len: usize) -> io::Result<()> {
    match offset.checked_add(len as u64) {
        Some(end) if end <= written.len => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written();
        in_range(&written, offset, out.len())?;
        self.read_file(&written, offset, out)?;
        let mut done = 0;
        for (block, first, len) in blocks(offset, out.len()) {
            if let Some(kept) = written.blocks.get(&block) {
                out[done..done + len].copy_from_slice(&kept[first..first + len]);
            }
            done += len;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut written = self.written();
        if len < written.len {
            written.file_len = written.file_len.min(len);
            let edge = len / BLOCK as u64;
            written.blocks.retain(|block, _| *block <= edge);
            if let Some(last) = written.blocks.get_mut(&edge) {
                last[(len % BLOCK as u64) as usize..].fill(0);
            }
        }
        written.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written();
        in_range(&written, offset, data.len())?;
        let mut done = 0;
        for (block, first, len) in blocks(offset, data.len()) {
            if !written.blocks.contains_key(&block) {
                let mut kept = vec![0; BLOCK];
                self.read_file(&written, block * BLOCK as u64, &mut kept)?;
                written.blocks.insert(block, kept);
            }
            if let Some(kept) = written.blocks.get_mut(&block) {
                kept[first..first + len].copy_from_slice(&data[done..done + len]);
            }
            done += len;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_file_with_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut model: Vec<u8> = (0..3 * BLOCK + 100).map(|at| (at % 251) as u8).collect();
        std::fs::write(&path, &model).unwrap();
        let before = model.clone();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let overlay = Overlay::new(file).unwrap();
        let check = |model: &[u8]| {
            assert_eq!(overlay.len().unwrap(), model.len() as u64);
            let mut all = vec![7; model.len()];
            overlay.read(0, &mut all).unwrap();
            assert!(all == model);
            let (from, to) = (BLOCK - 3, BLOCK + 5);
            let mut some = vec![7; to - from];
            overlay.read(from as u64, &mut some).unwrap();
            assert_eq!(some, model[from..to]);
        };
        check(&model);
        for (offset, data) in [(10, vec![1; 20]), (BLOCK - 5, vec![2; BLOCK + 9]), (3 * BLOCK + 99, vec![3])]
        {
            overlay.write(offset as u64, &data).unwrap();
            model[offset..offset + data.len()].copy_from_slice(&data);
            check(&model);
        }
        // What was cut off does not come back.
        for len in [2 * BLOCK + 17, 4 * BLOCK, BLOCK + 9, 2 * BLOCK, 5 * BLOCK + 1] {
            overlay.set_len(len as u64).unwrap();
            model.resize(len, 0);
            check(&model);
            let at = len - 5;
            overlay.write(at as u64, &[9, 9]).unwrap();
            model[at..at + 2].fill(9);
            check(&model);
        }
        assert!(overlay.read(5 * BLOCK as u64, &mut [0; 2]).is_err());
        assert!(overlay.write(u64::MAX, &[0]).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), before, "the file itself stays");
    }
}

//! DELs left on disk for a daemon that is down; it replays them at start (see [`weft_api::cni`]).

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use weft_api::cni::Attachment;

/// Leaves a DEL. Whole or not at all, and on disk when this returns.
pub(crate) fn put(directory: &Path, attachment: &Attachment) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let temporary = directory.join(format!(".{}.{}", attachment.queue_file(), std::process::id()));
    let written = write(&temporary, attachment)
        .and_then(|()| std::fs::rename(&temporary, directory.join(attachment.queue_file())));
    if let Err(error) = written {
        let _ = std::fs::remove_file(&temporary);
        return Err(error);
    }
    File::open(directory)?.sync_all()
}

/// Takes a DEL back; a missing one is fine.
pub(crate) fn remove(directory: &Path, attachment: &Attachment) -> io::Result<()> {
    match std::fs::remove_file(directory.join(attachment.queue_file())) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn write(path: &Path, attachment: &Attachment) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(&serde_json::to_vec(attachment)?)?;
    file.sync_all()
}

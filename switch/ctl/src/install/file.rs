//! Files that appear whole or not at all: written under a temporary name in the same directory, then renamed. Renaming
//! also replaces a binary that is running, which writing into it cannot ("text file busy").

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::InstallError;

/// Writes `content` to `path` with `mode`, making its directory if needed.
pub(crate) fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), InstallError> {
    replace(path, mode, |file| file.write_all(content))
}

/// Copies the binary `from` to `path`, executable by all.
pub(crate) fn copy(from: &Path, path: &Path) -> Result<(), InstallError> {
    let mut source = File::open(from).map_err(|cause| InstallError::File {
        what: "read",
        path: from.to_owned(),
        cause,
    })?;
    replace(path, 0o755, |file| io::copy(&mut source, file).map(drop))
}

fn replace(
    path: &Path,
    mode: u32,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), InstallError> {
    let attempt = || {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(dir)?;
        // Runtimes read *.conf, *.conflist and *.json: the temporary name is none of these.
        let mut file = tempfile::Builder::new().prefix(".weft-").suffix(".tmp").tempfile_in(dir)?;
        fill(file.as_file_mut())?;
        file.as_file().set_permissions(Permissions::from_mode(mode))?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        File::open(dir)?.sync_all()
    };
    attempt().map_err(|cause| InstallError::File { what: "write", path: path.to_owned(), cause })
}

//! Other networks' configurations that sort before ours.
//!
//! Container runtimes load the first file in lexical order whose name ends in `.conf`, `.conflist` or `.json`
//! (libcni `ConfFiles`), so any such file that sorts before ours wins.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{CONFLIST, InstallError};

/// Appended to the name of a configuration that is set aside.
const DISABLED: &str = ".weft-disabled";

/// Configurations in `dir` that sort before ours, in order.
pub(super) fn before(dir: &Path) -> Result<Vec<PathBuf>, InstallError> {
    let mut names = names(dir)?;
    names.retain(|name| name.as_str() < CONFLIST && is_configuration(name));
    Ok(names.iter().map(|name| dir.join(name)).collect())
}

/// Renames all of them, or none.
pub(super) fn set_aside(rivals: &[PathBuf]) -> Result<(), InstallError> {
    for (at, path) in rivals.iter().enumerate() {
        if let Err(cause) = fs::rename(path, disabled(path)) {
            for earlier in &rivals[..at] {
                let _ = fs::rename(disabled(earlier), earlier);
            }
            return Err(InstallError::File { what: "set aside", path: path.clone(), cause });
        }
    }
    Ok(())
}

/// Gives those set aside their names back; one whose name is taken meanwhile stays aside, with a note.
pub(super) fn put_back(dir: &Path, notes: &mut Vec<String>) -> Result<Vec<PathBuf>, InstallError> {
    let mut back = Vec::new();
    for name in names(dir)? {
        let Some(original) = name.strip_suffix(DISABLED) else { continue };
        let (aside, path) = (dir.join(&name), dir.join(original));
        if path.exists() {
            notes.push(format!("{} stays: {original} is there again", aside.display()));
            continue;
        }
        fs::rename(&aside, &path).map_err(|cause| InstallError::File {
            what: "put back",
            path: path.clone(),
            cause,
        })?;
        back.push(path);
    }
    Ok(back)
}

/// Names of the files in `dir`, sorted; none if there is no such directory.
fn names(dir: &Path) -> Result<Vec<String>, InstallError> {
    let failed = |cause| InstallError::File { what: "list", path: dir.to_owned(), cause };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if !entry.path().is_dir() {
            names.extend(entry.file_name().into_string());
        }
    }
    names.sort();
    Ok(names)
}

fn is_configuration(name: &str) -> bool {
    [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end))
}

fn disabled(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(DISABLED);
    name.into()
}

//! Where a token that was made at the start is left for `ziggurat admin`: a file that only its user can read, named by the admin address.
//!
//! It is in `$XDG_RUNTIME_DIR/ziggurat`, or, without that folder, in `ziggurat-UID` of the folder for temporary files. Both sides look whether the folder
//! is their user's alone, since others may write beside it.

use std::fs::{DirBuilder, File, OpenOptions, remove_file, symlink_metadata};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A token that was left in a file; the file goes when this is dropped.
#[derive(Debug)]
pub(crate) struct TokenFile {
    path: PathBuf,
}

/// A token is shorter than this.
const LONGEST: u64 = 4096;

impl TokenFile {
    /// Leaves a token for the listener at this address.
    ///
    /// # Errors
    /// When there is no place that is this user's alone, or the file cannot be written.
    pub(crate) fn leave(address: SocketAddr, token: &str) -> io::Result<Self> {
        // Where nobody is logged in, as in a container, the variable may name a folder that nobody made.
        let places = places();
        let place = places.iter().find(|(parent, _)| parent.is_dir());
        let (_, folder) = place.ok_or(io::ErrorKind::NotFound)?;
        Self::leave_in(folder, address, token)
    }

    fn leave_in(folder: &Path, address: SocketAddr, token: &str) -> io::Result<Self> {
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        check(folder)?;
        let path = file(folder, address);
        // Of one that was killed, and could not take it along.
        match remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut open = OpenOptions::new();
        let mut file = open.write(true).create_new(true).mode(0o600).open(&path)?;
        let this = Self { path };
        file.write_all(token.as_bytes())?;
        Ok(this)
    }

    /// The token that was left for the listener at this address, if one was. The two may have been started with different variables, so it looks into both folders.
    ///
    /// # Errors
    /// When the file is there and cannot be read, or others could have written it.
    pub(crate) fn find(address: SocketAddr) -> io::Result<Option<String>> {
        let folders: Vec<_> = places().into_iter().map(|(_, folder)| folder).collect();
        Self::find_among(&folders, address)
    }

    fn find_among(folders: &[PathBuf], address: SocketAddr) -> io::Result<Option<String>> {
        for folder in folders {
            if let Some(token) = Self::find_in(folder, address)? {
                return Ok(Some(token));
            }
        }
        Ok(None)
    }

    fn find_in(folder: &Path, address: SocketAddr) -> io::Result<Option<String>> {
        let path = file(folder, address);
        if !path.exists() {
            return Ok(None);
        }
        check(folder)?;
        let mut token = String::new();
        File::open(path)?.take(LONGEST).read_to_string(&mut token)?;
        Ok(Some(token.trim().to_owned()))
    }
}

impl Drop for TokenFile {
    fn drop(&mut self) {
        let _gone_already = remove_file(&self.path);
    }
}

/// The folders where it may be, the first choice first, each with the one that must be there already.
fn places() -> Vec<(PathBuf, PathBuf)> {
    let user = rustix::process::geteuid().as_raw();
    let temporary = std::env::temp_dir();
    let own = temporary.join(format!("ziggurat-{user}"));
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let runtime = runtime.map(|parent| {
        let folder = parent.join("ziggurat");
        (parent, folder)
    });
    runtime.into_iter().chain([(temporary, own)]).collect()
}

fn file(folder: &Path, address: SocketAddr) -> PathBuf {
    let name = address.to_string().replace([':', '[', ']', '%'], "_");
    folder.join(format!("admin-{name}.token"))
}

/// Whether nobody else can have put something into this folder.
fn check(folder: &Path) -> io::Result<()> {
    let found = symlink_metadata(folder)?;
    let own = found.uid() == rustix::process::geteuid().as_raw();
    if found.is_dir() && own && found.mode() & 0o077 == 0 {
        return Ok(());
    }
    let message = format!("{} is not a folder of this user alone", folder.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn address() -> SocketAddr {
        "[::1]:9901".parse().unwrap()
    }

    #[test]
    fn it_is_found_by_its_user_alone_and_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("ziggurat");
        assert_eq!(TokenFile::find_in(&folder, address()).unwrap(), None);
        let left = TokenFile::leave_in(&folder, address(), "secret").unwrap();
        let mode = |path: &Path| symlink_metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&left.path)), (0o700, 0o600));
        let found = TokenFile::find_in(&folder, address()).unwrap();
        assert_eq!(found.as_deref(), Some("secret"));
        let path = left.path.clone();
        drop(left);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_killed_one_left_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("ziggurat");
        std::mem::forget(TokenFile::leave_in(&folder, address(), "old").unwrap());
        let _new = TokenFile::leave_in(&folder, address(), "new").unwrap();
        let found = TokenFile::find_in(&folder, address()).unwrap();
        assert_eq!(found.as_deref(), Some("new"));
    }

    #[test]
    fn it_is_found_in_the_second_folder_too() {
        let dir = tempfile::tempdir().unwrap();
        let folders = [dir.path().join("none"), dir.path().join("ziggurat")];
        let _left = TokenFile::leave_in(&folders[1], address(), "secret").unwrap();
        let found = TokenFile::find_among(&folders, address()).unwrap();
        assert_eq!(found.as_deref(), Some("secret"));
    }

    #[test]
    fn a_folder_that_others_can_write_is_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("ziggurat");
        let left = TokenFile::leave_in(&folder, address(), "secret").unwrap();
        set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
        assert!(TokenFile::find_in(&folder, address()).is_err());
        assert!(TokenFile::leave_in(&folder, address(), "other").is_err());
        drop(left);
    }
}

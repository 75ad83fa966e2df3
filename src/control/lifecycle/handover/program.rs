//! How this process was started, so that it can be restarted from the same path, whatever program is there by then.
//!
//! In: the arguments and the environment at the start. Out: a [`Program`]. Next: `successor.rs` runs it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A program with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The file, as an absolute path.
    pub path: PathBuf,
    /// The arguments, without the name.
    pub arguments: Vec<OsString>,
}

impl Program {
    /// This process's own. The path is the one by which it was started, so that a link that leads to a new version is
    /// followed; where that is unknown it is the running file.
    pub fn of_this_process() -> Option<Program> {
        let mut arguments = std::env::args_os();
        let name = arguments.next()?;
        let running = std::env::current_exe().ok()?;
        let search = std::env::var_os("PATH").unwrap_or_default();
        let started = started_by(&name, &search).filter(|path| is_same_file(path, &running));
        Some(Program { path: started.unwrap_or(running), arguments: arguments.collect() })
    }
}

/// The absolute path that a shell runs for `name`.
fn started_by(name: &OsStr, search: &OsStr) -> Option<PathBuf> {
    let folder = std::env::current_dir().ok()?;
    if Path::new(name).components().count() > 1 {
        return Some(folder.join(name));
    }
    let found = std::env::split_paths(search).map(|place| place.join(name)).find(|path| path.is_file())?;
    Some(folder.join(found))
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    let file = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    file(one).is_some_and(|one| file(other) == Some(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_searched_and_a_path_is_taken_from_here() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(started_by("./statsring".as_ref(), "".as_ref()), Some(here.join("./statsring")));
        assert_eq!(started_by("/opt/statsring".as_ref(), "".as_ref()), Some("/opt/statsring".into()));
        assert_eq!(started_by("sh".as_ref(), "/nowhere:/bin".as_ref()), Some("/bin/sh".into()));
        assert_eq!(started_by("no-such-program".as_ref(), "/bin".as_ref()), None);
    }

    #[test]
    fn this_process_knows_its_program() {
        let program = Program::of_this_process().unwrap();
        assert!(program.path.is_absolute());
        assert!(is_same_file(&program.path, &std::env::current_exe().unwrap()));
    }
}

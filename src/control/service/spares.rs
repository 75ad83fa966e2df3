//! Descriptors kept back: what is needed most can be done once more when this process has no others.
//!
//! In: nothing. Out: the leave to open one file. Next: `health_checker.rs` checks a backend with it, `admin_service.rs` accepts a
//! connection.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::rc::Rc;

/// Kept back for checks.
const FOR_CHECKS: usize = 2;
/// Kept back for the admin port.
const FOR_ADMIN: usize = 1;
/// All of them.
pub const SPARES: usize = FOR_CHECKS + FOR_ADMIN;

/// Some descriptors.
#[derive(Debug)]
pub struct Spares {
    most: usize,
    lent: Cell<usize>,
    kept: RefCell<Vec<File>>,
}

impl Spares {
    /// As many as checks need.
    pub fn for_checks() -> Rc<Spares> {
        Spares::new(FOR_CHECKS)
    }

    /// As many as the admin port needs.
    pub fn for_admin() -> Rc<Spares> {
        Spares::new(FOR_ADMIN)
    }

    fn new(most: usize) -> Rc<Spares> {
        let spares = Rc::new(Spares { most, lent: Cell::new(0), kept: RefCell::default() });
        spares.keep();
        spares
    }

    /// Gives one up, for the caller to open what it needs at once; `None` if all are given up. It is taken back when the
    /// [`Lent`] is dropped: after what was opened is closed.
    pub fn lend(self: &Rc<Self>) -> Option<Lent> {
        // What could not be taken back then can be now, perhaps.
        self.keep();
        let kept = self.kept.borrow_mut().pop()?;
        drop(kept);
        self.lent.set(self.lent.get() + 1);
        Some(Lent(self.clone()))
    }

    /// Keeps all that are not lent, as far as they can be had.
    fn keep(&self) {
        let mut kept = self.kept.borrow_mut();
        while kept.len() + self.lent.get() < self.most {
            // A file of its own, since the host may be short of files and not of descriptors.
            let Ok(file) = File::open("/dev/null") else { return };
            kept.push(file);
        }
    }
}

/// The leave to have one file more open.
#[derive(Debug)]
pub struct Lent(Rc<Spares>);

impl Drop for Lent {
    fn drop(&mut self) {
        self.0.lent.set(self.0.lent.get() - 1);
        self.0.keep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lent_comes_back() {
        let spares = Spares::new(2);
        let (one, two) = (spares.lend().unwrap(), spares.lend().unwrap());
        assert!(spares.lend().is_none() && spares.kept.borrow().is_empty());
        drop(one);
        assert_eq!(spares.kept.borrow().len(), 1);
        let again = spares.lend().unwrap();
        assert!(spares.lend().is_none());
        drop((two, again));
        assert_eq!((spares.kept.borrow().len(), spares.lent.get()), (2, 0));
    }
}

//! Which build this is.
//!
//! In: the package's version, the commit (`build.rs`), what is compiled in. Out: one line's worth of text. Next: `cli.rs`
//! (`--version`), `admin/` (`version`, `status`), the handover's offer.

/// The package's version alone.
pub const NUMBER: &str = env!("CARGO_PKG_VERSION");

/// The first ten digits of the commit that the program was built from; empty if unknown at build time.
pub const COMMIT: &str = env!("STATSRING_COMMIT");

/// What is compiled in: the engines, and how the program is linked.
#[cfg(target_feature = "crt-static")]
macro_rules! features {
    () => {
        "io_uring, portable, static"
    };
}
#[cfg(not(target_feature = "crt-static"))]
macro_rules! features {
    () => {
        "io_uring, portable"
    };
}

/// The program's version, the commit if the build knew it, and what is compiled in, as
/// `0.1.0 (1a2b3c4d5e, io_uring, portable, static)`.
pub const VERSION: &str = if COMMIT.is_empty() {
    concat!(env!("CARGO_PKG_VERSION"), " (", features!(), ")")
} else {
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("STATSRING_COMMIT"), ", ", features!(), ")")
};

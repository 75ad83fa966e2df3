//! Which build this is.
//!
//! In: the package's version, the commit (`build.rs`), what is compiled in. Out: one line's worth of text. Next: `cli.rs`
//! (`--version`), `admin/` (`version`, `status`), the hand-over's offer.

/// What is compiled in: the engines, and how the program is linked.
#[cfg(target_feature = "crt-static")]
macro_rules! features {
    () => {
        "io_uring, static"
    };
}
#[cfg(not(target_feature = "crt-static"))]
macro_rules! features {
    () => {
        "io_uring"
    };
}

/// The program's version, the commit if the build knew it, and what is compiled in, as
/// `0.1.0 (1a2b3c4d5e, io_uring, static)`.
pub const VERSION: &str = if env!("STATSRING_COMMIT").is_empty() {
    concat!(env!("CARGO_PKG_VERSION"), " (", features!(), ")")
} else {
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("STATSRING_COMMIT"), ", ", features!(), ")")
};

//! The program: everything is in the library, so that tests and tools share it.
fn main() {}

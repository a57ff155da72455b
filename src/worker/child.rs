//! The worker's side of the pipe.

/// Stub.
pub fn run() -> i32 { 0 }

//! The worker's side of the pipe.

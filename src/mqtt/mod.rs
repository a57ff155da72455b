//! The mqtt room.

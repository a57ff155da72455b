//! The effects room.

//! The lua room.

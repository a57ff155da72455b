//! The bridge room.

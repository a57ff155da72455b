//! What a reader relies on and no compiler checks: which room may use which, what every file looks like, and that
//! everything the documentation shows really works.

#![expect(clippy::unwrap_used, reason = "a test that cannot read its own repository fails, and says where")]

mod docs;
mod files;
mod markdown;
mod rooms;
mod source;

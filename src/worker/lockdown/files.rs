//! Landlock: no file, no TCP port, no signal and no abstract socket. There are no exceptions, so there are no
//! rules, and newer rights than those tried here can only refuse more.

use landlock::{ABI, Access, AccessFs, AccessNet, LandlockStatus, Ruleset, RulesetAttr, RulesetError, Scope};

use super::{LockError, failed};
use crate::model::lockdown::Piece;

/// From which version of Landlock on a piece holds.
pub(super) const VERSIONS: [(Piece, u32); 3] = [(Piece::Files, 1), (Piece::Network, 4), (Piece::Scopes, 6)];
/// The newest version that this crate of ours asks for; the kernel gives what it has of it.
const NEWEST: ABI = ABI::V9;

/// Restricts this thread and all that it starts. Gives the kernel's version of Landlock, 0 for none.
pub(super) fn restrict() -> Result<u32, LockError> {
    let status = ruleset().map_err(|error| failed(Piece::Files)(&error))?;
    Ok(match status {
        // The number is the enum's text.
        LandlockStatus::Available { effective_abi, .. } => effective_abi.to_string().parse().unwrap_or(0),
        LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => 0,
    })
}

fn ruleset() -> Result<LandlockStatus, RulesetError> {
    let ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    Ok(ruleset.restrict_self()?.landlock)
}

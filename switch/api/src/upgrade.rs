//! The planned upgrade: another process takes the switch over.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpgradeRequest {
    /// The daemon's new program, as the daemon sees the path; absent: the file that it was started from.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub binary: Option<PathBuf>,
}

/// Who forwards now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UpgradeReply {
    /// Its process id.
    pub pid: u32,
    /// Its version.
    pub version: String,
}

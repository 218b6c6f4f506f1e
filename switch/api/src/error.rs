//! Errors as they cross the API.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What kind of error it is; each has one HTTP status and one exit code of `weft`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The request is malformed or out of range (400).
    Invalid,
    /// The caller may not do that (403).
    Forbidden,
    /// The named object does not exist (404).
    NotFound,
    /// The object exists already or differs from what is there (409).
    Conflict,
    /// The object belongs to another owner (409).
    Owned,
    /// No address, port or table entry is left (507).
    Exhausted,
    /// The daemon cannot do it now; try again (503).
    Unavailable,
    /// The kernel or the disk refused (500).
    Internal,
}

impl Code {
    /// The HTTP status that carries it.
    pub const fn http_status(self) -> u16 {
        match self {
            Code::Invalid => 400,
            Code::Forbidden => 403,
            Code::NotFound => 404,
            Code::Conflict | Code::Owned => 409,
            Code::Exhausted => 507,
            Code::Unavailable => 503,
            Code::Internal => 500,
        }
    }
}

/// An error with a message that says what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{message}")]
#[serde(deny_unknown_fields)]
pub struct ApiError {
    /// What kind.
    pub code: Code,
    /// Lower case, says what is wrong and what is expected.
    pub message: String,
    /// Index of the command of a transaction that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<usize>,
}

impl ApiError {
    /// An error of no particular command.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        ApiError { code, message: message.into(), command: None }
    }
}

//! VERSION: which versions are spoken. Needs no stdin.

use serde_json::{Value, json};

use crate::version::Version;

pub(crate) fn run() -> Value {
    json!({ "cniVersion": Version::CURRENT.as_str(), "supportedVersions": Version::list() })
}

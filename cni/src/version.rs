//! Versions of the specification.

use std::fmt;

/// A version that the plugin speaks. Ordered: later is greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Version {
    /// The first with `interfaces` and `ips`.
    V0_3_1,
    /// Adds CHECK.
    V0_4_0,
    /// Drops `ips[].version`.
    V1_0_0,
    /// Adds STATUS and GC, and `mtu` in results.
    V1_1_0,
}

impl Version {
    /// All of them, oldest first.
    pub(crate) const ALL: [Version; 4] = [Version::V0_3_1, Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];
    /// The newest.
    pub(crate) const CURRENT: Version = Version::V1_1_0;

    /// As it is written.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }

    /// The version that `text` names, if it is spoken here.
    pub(crate) fn parse(text: &str) -> Option<Version> {
        Version::ALL.into_iter().find(|version| version.as_str() == text)
    }

    /// All of them as text.
    pub(crate) fn list() -> Vec<&'static str> {
        Version::ALL.map(Version::as_str).to_vec()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

//! Prefixes as people type them.

use std::net::IpAddr;

use ipnet::IpNet;

/// Reads an address with its prefix length, such as `10.244.1.0/24`.
///
/// # Errors
/// A sentence that says what is expected; of an address alone, that its prefix length is missing.
pub fn prefix(text: &str) -> Result<IpNet, String> {
    text.parse().map_err(|_| match text.parse::<IpAddr>() {
        Ok(_) => format!("the prefix length is missing; expected {text}/N"),
        Err(_) => "expected an address with its prefix length, like 10.244.1.0/24".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_length_is_named() {
        assert_eq!(prefix("10.1.0.0/16"), "10.1.0.0/16".parse().map_err(|_| String::new()));
        let missing = |text: &str| format!("the prefix length is missing; expected {text}/N");
        for text in ["10.1.0.0", "fd00::"] {
            assert_eq!(prefix(text), Err(missing(text)));
        }
        for text in ["10.1.0.0/33", "10.1/16", ""] {
            assert!(prefix(text).unwrap_err().contains("like 10.244.1.0/24"), "{text}");
        }
    }
}

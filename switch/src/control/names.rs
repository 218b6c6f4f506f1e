//! What names may look like.

/// Longest name of a port, in characters.
pub const PORT_MAX: usize = 64;
/// Longest name of a device or bridge, in characters (IFNAMSIZ - 1, `linux/if.h`).
pub const DEVICE_MAX: usize = 15;

/// A name of a bridge or device: 1 to 15 characters of `[A-Za-z0-9_.-]`, not `.` or `..`.
///
/// # Errors
/// A sentence that says what is expected.
pub fn device(name: &str) -> Result<(), String> {
    check(name, DEVICE_MAX)
}

/// A name of a port: 1 to 64 characters of `[A-Za-z0-9_.-]`, not `.` or `..`.
///
/// # Errors
/// A sentence that says what is expected.
pub fn port(name: &str) -> Result<(), String> {
    check(name, PORT_MAX)
}

fn check(name: &str, max: usize) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    // A leading dash would read as a flag.
    let good = (1..=max).contains(&name.len())
        && name.bytes().all(plain)
        && !name.starts_with('-')
        && name != "."
        && name != "..";
    if good {
        Ok(())
    } else {
        Err(format!("`{name}`; expected a name of 1 to {max} characters of A-Z a-z 0-9 _ . -"))
    }
}

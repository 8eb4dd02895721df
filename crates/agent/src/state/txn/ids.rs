//! Ids as Consul reads them, with its texts for what it cannot read.

/// A node's id: strictly a UUID, in either case.
pub fn node_id(text: &str) -> Result<(), String> {
    if text.len() != 36 {
        return Err("uuid string is wrong length".to_owned());
    }
    const HYPHENS: [usize; 4] = [8, 13, 18, 23];
    if HYPHENS.iter().any(|at| text.as_bytes()[*at] != b'-') {
        return Err("uuid is improperly formatted".to_owned());
    }
    let digits = text.bytes().enumerate().filter(|(at, _)| !HYPHENS.contains(at));
    only_hexadecimal(digits.map(|(_, byte)| byte))
}

/// A session's id, as it is stored. It is read loosely: hexadecimal digits with up to four hyphens anywhere, 36 characters
/// in all.
pub fn session_id(text: &str) -> Result<String, String> {
    if text.len() != 36 {
        return Err("UUID must be 36 characters".to_owned());
    }
    let hyphens = text.bytes().filter(|b| *b == b'-').count();
    if hyphens > 4 {
        return Err(format!("UUID should have maximum of 4 \"-\"; got {hyphens}"));
    }
    if !(text.len() - hyphens).is_multiple_of(2) {
        return Err("Input (without hyphens) must be even length".to_owned());
    }
    let digits = text.replace('-', "");
    only_hexadecimal(digits.bytes()).map_err(|why| format!("Invalid UUID: {why}"))?;
    // more digits than a UUID has: well-formed to Consul, and nobody's
    Ok(uuid::Uuid::try_parse(&digits).map_or(digits, |id| id.to_string()))
}

fn only_hexadecimal(mut bytes: impl Iterator<Item = u8>) -> Result<(), String> {
    match bytes.find(|byte| !byte.is_ascii_hexdigit()) {
        None => Ok(()),
        Some(other) => Err(format!("encoding/hex: invalid byte: U+{other:04X} '{}'", char::from(other))),
    }
}

//! Passwords as Kong keeps them: SHA-1 over the password and the consumer's id.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA1_OUTPUT_LEN};
use http::HeaderValue;

/// A hashed password. `Debug` does not show it.
pub(in crate::plugins) struct Password {
    hash: [u8; SHA1_OUTPUT_LEN],
    salt: HeaderValue,
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password")
    }
}

fn sha1(password: &[u8], consumer: &HeaderValue) -> Option<[u8; SHA1_OUTPUT_LEN]> {
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    context.update(password);
    context.update(consumer.as_bytes());
    context.finish().as_ref().try_into().ok()
}

impl Password {
    /// From the password itself; `consumer` is the consumer's id as text.
    pub fn hash(password: &str, consumer: &HeaderValue) -> Option<Password> {
        Some(Password { hash: sha1(password.as_bytes(), consumer)?, salt: consumer.clone() })
    }

    /// From the hash in hex, as files with `_transform: false` hold it.
    pub fn hashed(hex: &str, consumer: HeaderValue) -> Option<Password> {
        let mut hash = [0; SHA1_OUTPUT_LEN];
        if hex.len() != 2 * hash.len() || !hex.is_ascii() {
            return None;
        }
        for (at, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
        }
        Some(Password { hash, salt: consumer })
    }

    /// In the same time whatever the password.
    pub fn fits(&self, password: &[u8]) -> bool {
        sha1(password, &self.salt).is_some_and(|hash| verify_slices_are_equal(&hash, &self.hash).is_ok())
    }
}

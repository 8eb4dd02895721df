//! Bearer tokens: who calls, and what the caller may do.
//!
//! Tokens are JWTs signed with HS256, RS256, ES256 or EdDSA. Keys are static (PEM files, a shared secret) or come
//! from a JWKS (file or URL) that is refreshed, refetched when a token names an unknown key, and kept when a
//! refresh fails. Each key is pinned to one algorithm, so a token cannot choose how it is verified. `iss`, `aud`
//! and `exp` are required and checked, `nbf` is checked when present. Scopes say what a caller may do: [`Scope`].

mod cache;
mod caller;
mod claims;
mod jwks;
mod keys;
mod scope;
mod settings;
mod token_key;
mod verify;

pub use caller::Caller;
pub use claims::Claims;
pub use scope::{Scope, ScopeError};
pub use settings::AuthSettings;
pub use token_key::{TokenKey, TokenKeyError};
pub use verify::{Auth, AuthError, Rejection};

/// Issuer of the tokens that `plinth token` signs, and the default of `auth.issuer`.
pub const DEFAULT_ISSUER: &str = "plinth";
/// Audience of the tokens that `plinth token` signs, and the default of `auth.audience`.
pub const DEFAULT_AUDIENCE: &str = "plinth";

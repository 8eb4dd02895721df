//! Who may do what: `services:read|write|admin[:<name glob>]`; `admin` includes the others.

use plinth_kit::auth::Caller;
use plinth_kit::problem::Problem;

const KIND: &str = "services";

/// Names that Plinth's own services register themselves with.
pub const PLATFORM_SERVICES: [&str; 4] =
    ["registry-service", "config-service", "health-aggregator", "gateway"];

/// What a caller wants to do with a service.
#[derive(Debug, Clone, Copy)]
pub enum Action {
    Read,
    Write,
    /// Change other owners' instances, have other hosts probed, register under the name of one of Plinth's own services.
    Admin,
}

impl Action {
    fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

/// True when the caller may.
pub fn allows(caller: &Caller, action: Action, service_name: &str) -> bool {
    caller.allows(KIND, action.word(), Some(service_name))
}

/// # Errors
/// 403 that names the missing scope.
pub fn check(caller: &Caller, action: Action, service_name: &str) -> Result<(), Problem> {
    caller.require(KIND, action.word(), Some(service_name))
}

/// The right to register under a name. Plinth's own services send each other bearer tokens by name, so whoever may merely
/// register something must not be able to take one of these names.
///
/// # Errors
/// 403 that names the missing scope.
pub fn check_registration(caller: &Caller, service_name: &str) -> Result<(), Problem> {
    let ours = PLATFORM_SERVICES.iter().any(|name| name.eq_ignore_ascii_case(service_name));
    check(caller, if ours { Action::Admin } else { Action::Write }, service_name)
}

/// For requests that name no service: the caller must be allowed the action on some service.
///
/// # Errors
/// 403 that names the missing scope.
pub fn check_any(caller: &Caller, action: Action) -> Result<(), Problem> {
    let some = caller.scopes().iter().any(|scope| {
        let text = scope.to_string();
        let mut parts = text.splitn(3, ':');
        parts.next() == Some(KIND)
            && parts.next().is_some_and(|word| [action.word(), "admin", "*"].contains(&word))
    });
    if some { Ok(()) } else { caller.require(KIND, action.word(), None) }
}

//! From instances to services to the whole system.

use std::collections::BTreeMap;

use plinth_core::health::{Overall, Status};

/// How many instances are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub passing: u32,
    pub warning: u32,
    pub critical: u32,
}

impl Tally {
    pub fn count(&mut self, status: Status) {
        match status {
            Status::Passing => self.passing += 1,
            Status::Warning => self.warning += 1,
            Status::Critical => self.critical += 1,
        }
    }

    pub fn total(&self) -> u32 {
        self.passing + self.warning + self.critical
    }

    /// Healthy: all pass. Unhealthy: none does. Degraded: in between.
    pub fn overall(&self) -> Overall {
        match (self.passing, self.total()) {
            (passing, total) if passing == total => Overall::Healthy,
            (0, _) => Overall::Unhealthy,
            _ => Overall::Degraded,
        }
    }
}

impl std::ops::Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            passing: self.passing + other.passing,
            warning: self.warning + other.warning,
            critical: self.critical + other.critical,
        }
    }
}

/// Tallies by service.
pub fn services<'a>(instances: impl Iterator<Item = (&'a str, Status)>) -> BTreeMap<String, Tally> {
    let mut services: BTreeMap<String, Tally> = BTreeMap::new();
    for (name, status) in instances {
        match services.get_mut(name) {
            Some(tally) => tally.count(status),
            None => services.entry(name.to_owned()).or_default().count(status),
        }
    }
    services
}

/// Unhealthy when a service has no passing instance left, degraded when one is less than healthy.
pub fn system<'a>(services: impl Iterator<Item = &'a Tally>) -> Overall {
    services.map(Tally::overall).fold(Overall::Healthy, |worst, service| match (worst, service) {
        (Overall::Unhealthy, _) | (_, Overall::Unhealthy) => Overall::Unhealthy,
        (Overall::Degraded, _) | (_, Overall::Degraded) => Overall::Degraded,
        _ => Overall::Healthy,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_service_decides() {
        use Status::{Critical, Passing, Warning};
        let of = |instances: &[(&str, Status)]| {
            let services = services(instances.iter().copied());
            system(services.values())
        };
        assert_eq!(of(&[]), Overall::Healthy);
        assert_eq!(of(&[("a", Passing), ("b", Passing)]), Overall::Healthy);
        assert_eq!(of(&[("a", Passing), ("a", Critical), ("b", Passing)]), Overall::Degraded);
        assert_eq!(of(&[("a", Warning), ("b", Passing)]), Overall::Unhealthy);
        assert_eq!(of(&[("a", Passing), ("b", Critical)]), Overall::Unhealthy);
    }
}

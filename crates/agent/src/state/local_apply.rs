//! Registrations with the agent itself. The agent's table and the catalog change in one step, so there is
//! no anti-entropy to wait for.

use std::sync::Arc;

use super::local::{LocalCheck, LocalService, Runner};
use super::{Change, Command, Fault, Outcome, State, members};

impl State {
    pub fn local_services(&self) -> impl Iterator<Item = &Arc<LocalService>> {
        self.local_services.values()
    }

    pub fn local_service(&self, id: &str) -> Option<&Arc<LocalService>> {
        self.local_services.get(id)
    }

    pub fn local_checks(&self) -> impl Iterator<Item = &Arc<LocalCheck>> {
        self.local_checks.values()
    }

    pub fn local_check(&self, id: &str) -> Option<&Arc<LocalCheck>> {
        self.local_checks.get(id)
    }

    pub(super) fn apply_local(&mut self, command: &Command, change: &mut Change) -> Result<Outcome, Fault> {
        match command {
            Command::AgentService { node, service, checks, replace_checks } => {
                self.local_register(node, service, checks, *replace_checks, change)?;
            }
            Command::AgentServiceRemove { node, id } => self.local_remove(node, id, change),
            Command::AgentCheck { check, .. } => self.local_put_check(check, change)?,
            Command::AgentCheckRemove { node, id } => self.local_remove_check(node, id, change),
            Command::AgentCheckStatus { node, id, status, output } => {
                self.local_status(node, id, status, output, change)?;
            }
            Command::AgentOutputs { node } => self.local_outputs(node, change)?,
            _ => {}
        }
        Ok(Outcome::Done)
    }

    fn local_register(
        &mut self,
        node: &str,
        service: &LocalService,
        checks: &[LocalCheck],
        replace_checks: bool,
        change: &mut Change,
    ) -> Result<(), Fault> {
        let id = service.service.id.as_str();
        if self.local_services.get(id).is_none_or(|old| **old != *service) {
            self.local_services.insert(Arc::from(id), Arc::new(service.clone()));
            change.quiet = true;
        }
        self.put_service(node, &service.service, change)?;
        if replace_checks {
            let gone = self.local_checks_of(id).into_iter();
            for check in gone.filter(|old| !checks.iter().any(|new| new.check.check_id == *old)) {
                self.local_remove_check(node, &check, change);
            }
        }
        for check in checks {
            self.local_put_check(check, change)?;
        }
        Ok(())
    }

    /// Ids of the checks registered for a service.
    fn local_checks_of(&self, service_id: &str) -> Vec<String> {
        let prefix = of_service(service_id, "");
        members(&self.local_checks_of, &prefix).map(|key| key[prefix.len()..].to_owned()).collect()
    }

    pub(super) fn store_local_check(&mut self, check: Arc<LocalCheck>) {
        let (id, service) = (check.check.check_id.as_str(), check.check.service_id.as_str());
        let key = of_service(service, id);
        let old = self.local_checks.insert(Arc::from(id), check);
        match old {
            Some(old) if of_service(&old.check.service_id, &old.check.check_id) == key => {}
            old => {
                if let Some(old) = old {
                    self.local_checks_of.remove(&of_service(&old.check.service_id, &old.check.check_id));
                }
                self.local_checks_of.insert(key);
            }
        }
    }

    fn drop_local_check(&mut self, id: &str) -> bool {
        let Some(old) = self.local_checks.remove(id) else { return false };
        self.local_checks_of.remove(&of_service(&old.check.service_id, id));
        true
    }

    fn local_remove_check(&mut self, node: &str, id: &str, change: &mut Change) {
        if self.drop_local_check(id) {
            change.quiet = true;
            self.remove_check(node, id, change);
        }
    }

    fn local_remove(&mut self, node: &str, id: &str, change: &mut Change) {
        if self.local_services.remove(id).is_none() {
            return;
        }
        change.quiet = true;
        for check in self.local_checks_of(id) {
            self.local_remove_check(node, &check, change);
        }
        self.remove_service(node, id, change);
    }

    /// A check registered again keeps its state, whatever status the registration names: no flapping.
    fn local_put_check(&mut self, check: &LocalCheck, change: &mut Change) -> Result<(), Fault> {
        let id = check.check.check_id.as_str();
        let mut stored = check.clone();
        if !stored.check.service_id.is_empty() {
            let Some(service) = self.local_services.get(stored.check.service_id.as_str()) else {
                return Err(Fault::LocalServiceUnknown(stored.check.service_id));
            };
            stored.check.service_name.clone_from(&service.service.service);
            stored.check.service_tags.clone_from(&service.service.tags);
        }
        if let Some(old) = self.local_checks.get(id) {
            stored.check.status.clone_from(&old.check.status);
            stored.check.output.clone_from(&old.check.output);
            stored.critical_since = old.critical_since;
        }
        self.put_check(&stored.check, change)?;
        if self.local_checks.get(id).is_none_or(|old| **old != stored) {
            self.store_local_check(Arc::new(stored));
            change.quiet = true;
        }
        Ok(())
    }

    fn local_status(
        &mut self,
        node: &str,
        id: &str,
        status: &str,
        output: &str,
        change: &mut Change,
    ) -> Result<(), Fault> {
        let Some(old) = self.local_checks.get(id).cloned() else { return Err(Fault::NoTtl(id.to_owned())) };
        if old.runner == Runner::Maintenance {
            return Err(Fault::NoTtl(id.to_owned()));
        }
        let mut new = (*old).clone();
        status.clone_into(&mut new.check.status);
        output.clone_into(&mut new.check.output);
        new.critical_since = match status {
            "critical" => old.critical_since.or(Some(change.now)),
            _ => None,
        };
        if new == *old {
            return Ok(());
        }
        change.quiet = true;
        let turned = old.check.status != status || self.check(node, id).is_none();
        let check = new.check.clone();
        self.store_local_check(Arc::new(new));
        if turned {
            self.put_check(&check, change)?;
        }
        Ok(())
    }

    fn local_outputs(&mut self, node: &str, change: &mut Change) -> Result<(), Fault> {
        let lagging: Vec<_> = self
            .local_checks
            .values()
            .filter(|local| {
                self.check(node, &local.check.check_id).is_some_and(|c| c.output != local.check.output)
            })
            .map(|local| local.check.clone())
            .collect();
        for check in lagging {
            self.put_check(&check, change)?;
        }
        Ok(())
    }
}

/// Ids are case-sensitive, so this does not fold.
fn of_service(service_id: &str, check_id: &str) -> Arc<str> {
    Arc::from(format!("{service_id}\0{check_id}"))
}

//! Nodes, services and checks, with an index per service name so that a watcher of one service is not woken
//! by another.

use std::sync::Arc;

use super::command::{Registration, Target};
use super::model::{Check, Instance, Node, Service};
use super::{Change, Fault, Group, State, Table, Topic, fold, folded, join, joined, under};

impl State {
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.get(&*folded(name))
    }

    /// The machine of an id, whose case does not count.
    pub fn node_by_id(&self, id: &str) -> Option<&Arc<Node>> {
        self.node_ids.get(&*folded(id)).and_then(|name| self.nodes.get(name))
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    pub fn group(&self, service: &str) -> Option<&Arc<Group>> {
        self.groups.get(&*folded(service))
    }

    pub fn groups(&self) -> impl Iterator<Item = &Arc<Group>> {
        self.groups.values()
    }

    /// Index of everything known about one service name; when nobody has it, that of the last name that went.
    pub fn service_index(&self, service: &str) -> u64 {
        match self.groups.get(service) {
            Some(group) => group.index,
            None => self.groups.get(&*folded(service)).map_or(self.extinction, |g| g.index),
        }
        .max(1)
    }

    pub fn instance(&self, node: &str, id: &str) -> Option<&Arc<Instance>> {
        self.instances.get(joined(&[node, id]).as_str())
    }

    pub fn node_instances<'a>(&'a self, node: &str) -> Vec<&'a Arc<Instance>> {
        let prefix = joined(&[node, ""]);
        under(&self.instances, &prefix).map(|(_, i)| i).collect()
    }

    pub fn check(&self, node: &str, id: &str) -> Option<&Arc<Check>> {
        self.checks.get(joined(&[node, id]).as_str())
    }

    pub fn checks(&self) -> impl Iterator<Item = &Arc<Check>> {
        self.checks.values()
    }

    pub fn node_checks<'a>(&'a self, node: &str) -> Vec<&'a Arc<Check>> {
        let prefix = joined(&[node, ""]);
        under(&self.checks, &prefix).map(|(_, c)| c).collect()
    }

    /// Checks of one service instance, or with an empty id the node's own.
    pub fn checks_of<'a>(&'a self, node: &str, service_id: &str) -> Vec<&'a Arc<Check>> {
        let prefix = joined(&[node, service_id, ""]);
        under(&self.checks_of, &prefix).map(|(_, c)| c).collect()
    }

    pub(super) fn register(&mut self, registration: &Registration, change: &mut Change) -> Result<(), Fault> {
        let node = &registration.node.node;
        if !registration.skip_node_update || self.node(node).is_none() {
            self.put_node(&registration.node, change);
        }
        if let Some(service) = &registration.service {
            self.put_service(node, service, change)?;
        }
        for check in &registration.checks {
            self.put_check(check, change).map_err(|fault| match fault {
                Fault::ServiceUnknown => Fault::ServiceUnknownOnNode { node: check.node.clone() },
                Fault::CheckIdMissing => Fault::CheckIdMissingOnNode { node: check.node.clone() },
                other => other,
            })?;
        }
        Ok(())
    }

    pub(super) fn deregister(&mut self, node: &str, target: &Target, change: &mut Change) {
        match target {
            Target::Node => self.remove_node(node, change),
            Target::Service(id) => self.remove_service(node, id, change),
            Target::Check(id) => self.remove_check(node, id, change),
        }
    }

    pub(super) fn put_node(&mut self, node: &Node, change: &mut Change) {
        let key = fold(&node.node);
        let mut stored = node.clone();
        let mut created = None;
        if !node.id.is_empty() {
            let owner = self.node_ids.get(&*folded(&node.id)).cloned();
            if let Some(old) = owner.filter(|old| *old != key) {
                // the same machine under a new name: the old name goes with all it had
                created = self.nodes.get(&old).map(|n| n.create_index);
                self.remove_node(&old, change);
            }
        }
        let existing = self.nodes.get(&key).cloned();
        if let Some(old) = &existing {
            if stored.id.is_empty() {
                stored.id.clone_from(&old.id);
            }
            stored.create_index = old.create_index;
            stored.modify_index = old.modify_index;
            if stored == **old {
                return;
            }
            if old.id != stored.id {
                self.node_ids.remove(&*folded(&old.id));
            }
        } else {
            stored.create_index = created.unwrap_or(change.index);
        }
        stored.modify_index = change.index;
        if !stored.id.is_empty() {
            self.node_ids.insert(fold(&stored.id), key.clone());
        }
        self.nodes.insert(key, Arc::new(stored));
        self.move_table(Table::Nodes, change);
        if existing.is_some() {
            self.move_services_of_node(&node.node, change);
        }
    }

    pub(super) fn put_service(
        &mut self,
        node: &str,
        service: &Service,
        change: &mut Change,
    ) -> Result<(), Fault> {
        let Some(owner) = self.node(node).cloned() else { return Err(Fault::NodeUnknown) };
        let key = join(&[node, &service.id]);
        let mut stored = service.clone();
        let existing = self.instances.get(&key).cloned();
        if let Some(old) = &existing {
            stored.create_index = old.service.create_index;
            stored.modify_index = old.service.modify_index;
            if stored == old.service {
                return Ok(());
            }
            if fold(&old.service.service) != fold(&service.service) {
                self.leave_group(&key, old, change);
            }
        } else {
            stored.create_index = change.index;
        }
        stored.modify_index = change.index;
        let instance = Arc::new(Instance { node: owner.node.clone(), service: stored });
        self.instances.insert(key.clone(), instance.clone());
        self.join_group(key, instance, change);
        self.move_table(Table::Services, change);
        Ok(())
    }

    fn join_group(&mut self, key: Arc<str>, instance: Arc<Instance>, change: &mut Change) {
        let name = fold(&instance.service.service);
        match self.groups.get_mut(&name) {
            Some(group) => {
                let group = Arc::make_mut(group);
                group.index = change.index;
                group.put(key, instance);
            }
            None => {
                let mut group = Group {
                    name: Arc::from(instance.service.service.as_str()),
                    index: change.index,
                    instances: Default::default(),
                    tags: Default::default(),
                };
                group.put(key, instance);
                self.groups.insert(name.clone(), Arc::new(group));
            }
        }
        change.touch(Topic::Service(name));
    }

    fn leave_group(&mut self, key: &Arc<str>, instance: &Instance, change: &mut Change) {
        let name = fold(&instance.service.service);
        let Some(group) = self.groups.get_mut(&name) else { return };
        let group = Arc::make_mut(group);
        group.drop_tags(instance);
        group.instances.remove(key);
        group.index = change.index;
        if group.instances.is_empty() {
            self.groups.remove(&name);
            self.extinction = change.index;
        }
        change.touch(Topic::Service(name));
    }

    pub(super) fn put_check(&mut self, check: &Check, change: &mut Change) -> Result<(), Fault> {
        let Some(owner) = self.node(&check.node).cloned() else { return Err(Fault::NodeUnknown) };
        if check.check_id.is_empty() {
            return Err(Fault::CheckIdMissing);
        }
        let mut stored = check.clone();
        stored.node.clone_from(&owner.node);
        if stored.status.is_empty() {
            "critical".clone_into(&mut stored.status);
        }
        if !stored.service_id.is_empty() {
            let Some(instance) = self.instance(&check.node, &stored.service_id) else {
                return Err(Fault::ServiceUnknown);
            };
            stored.service_name.clone_from(&instance.service.service);
            stored.service_tags.clone_from(&instance.service.tags);
        }
        let key = join(&[&check.node, &check.check_id]);
        let existing = self.checks.get(&key).cloned();
        if let Some(old) = &existing {
            stored.create_index = old.create_index;
            stored.modify_index = old.modify_index;
            if stored == **old {
                return Ok(());
            }
            if old.service_id != stored.service_id {
                self.checks_of.remove(&join(&[&check.node, &old.service_id, &check.check_id]));
                self.move_checked(&check.node, &old.service_id, change);
            }
        } else {
            stored.create_index = change.index;
        }
        stored.modify_index = change.index;
        let critical = stored.status == "critical";
        let stored = Arc::new(stored);
        self.checks_of.insert(join(&[&check.node, &stored.service_id, &check.check_id]), stored.clone());
        self.checks.insert(key, stored.clone());
        self.move_table(Table::Checks, change);
        self.move_checked(&check.node, &stored.service_id, change);
        if critical {
            self.end_sessions_of_check(&check.node, &check.check_id, change);
        }
        Ok(())
    }

    /// Moves the index of the services a check speaks about: one, or all of the node.
    fn move_checked(&mut self, node: &str, service_id: &str, change: &mut Change) {
        if service_id.is_empty() {
            self.move_services_of_node(node, change);
        } else if let Some(instance) = self.instance(node, service_id).cloned() {
            self.move_service(&instance.service.service, change);
        }
    }

    fn move_services_of_node(&mut self, node: &str, change: &mut Change) {
        let mut names: Vec<Arc<str>> =
            self.node_instances(node).into_iter().map(|i| fold(&i.service.service)).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            self.move_service(&name, change);
        }
    }

    fn move_service(&mut self, name: &str, change: &mut Change) {
        let name = fold(name);
        match self.groups.get(&name) {
            None => return,
            Some(group) if group.index == change.index => {}
            Some(_) => {
                if let Some(group) = self.groups.get_mut(&name) {
                    Arc::make_mut(group).index = change.index;
                }
            }
        }
        change.touch(Topic::Service(name));
    }

    pub(super) fn remove_node(&mut self, name: &str, change: &mut Change) {
        let key = fold(name);
        let Some(node) = self.nodes.get(&key).cloned() else { return };
        let services: Vec<String> =
            self.node_instances(name).into_iter().map(|i| i.service.id.clone()).collect();
        for id in services {
            self.remove_service(name, &id, change);
        }
        let checks: Vec<String> = self.node_checks(name).into_iter().map(|c| c.check_id.clone()).collect();
        for id in checks {
            self.remove_check(name, &id, change);
        }
        self.end_sessions_of_node(name, change);
        self.coordinate_forget(name, change);
        self.nodes.remove(&key);
        if !node.id.is_empty() {
            self.node_ids.remove(&*folded(&node.id));
        }
        self.move_table(Table::Nodes, change);
    }

    pub(super) fn remove_service(&mut self, node: &str, id: &str, change: &mut Change) {
        let key = join(&[node, id]);
        let Some(instance) = self.instances.get(&key).cloned() else { return };
        let checks: Vec<String> = self.checks_of(node, id).into_iter().map(|c| c.check_id.clone()).collect();
        for check in checks {
            self.remove_check(node, &check, change);
        }
        self.instances.remove(&key);
        self.leave_group(&key, &instance, change);
        self.move_table(Table::Services, change);
    }

    pub(super) fn remove_check(&mut self, node: &str, id: &str, change: &mut Change) {
        let key = join(&[node, id]);
        let Some(check) = self.checks.remove(&key) else { return };
        self.checks_of.remove(&join(&[node, &check.service_id, id]));
        self.move_table(Table::Checks, change);
        self.move_checked(node, &check.service_id, change);
        self.end_sessions_of_check(node, id, change);
    }
}

impl Group {
    /// Adds an instance or replaces the one of the same key.
    pub(super) fn put(&mut self, key: Arc<str>, instance: Arc<Instance>) {
        for tag in instance.service.tags.iter().flatten() {
            match self.tags.get_mut(tag.as_str()) {
                Some(count) => *count += 1,
                None => {
                    self.tags.insert(Arc::from(tag.as_str()), 1);
                }
            }
        }
        if let Some(old) = self.instances.insert(key, instance) {
            self.drop_tags(&old);
        }
    }

    fn drop_tags(&mut self, instance: &Instance) {
        for tag in instance.service.tags.iter().flatten() {
            match self.tags.get_mut(tag.as_str()) {
                Some(count) if *count > 1 => *count -= 1,
                _ => {
                    self.tags.remove(tag.as_str());
                }
            }
        }
    }
}

//! What is done to a graph once it is put together.

use std::collections::{BTreeMap, BTreeSet};

use super::shapes::{Node, Split, Step};

const MOST_SPLITS: usize = 1000;

/// By `<kind>:<name>`.
pub type Nodes = BTreeMap<String, Node>;

pub fn refuse_cycles(nodes: &Nodes, start: &str) -> Result<(), String> {
    walk(nodes, start, &mut Vec::new(), &mut BTreeSet::new())
}

/// `good` are those that lead to no cycle: each is walked from once, however many ways lead there.
fn walk<'s>(
    nodes: &'s Nodes,
    key: &'s str,
    way: &mut Vec<&'s str>,
    good: &mut BTreeSet<&'s str>,
) -> Result<(), String> {
    if good.contains(key) {
        return Ok(());
    }
    let again = way.contains(&key);
    way.push(key);
    if again {
        return Err(format!("detected circular reference: [{}]", way.join(" -> ")));
    }
    let next = nodes.get(key).map(|node| node.step.leads_to()).unwrap_or_default();
    // the last one first, as Consul's stack has it: the text names the cycle that is found first
    for key in next.into_iter().rev() {
        walk(nodes, key, way, good)?;
    }
    way.pop();
    good.insert(key);
    Ok(())
}

/// Splits that lead to a splitter become that one's splits, with their part of the weight. Splitters that lead to each other
/// in many ways would multiply without end.
pub fn flatten_splitters(nodes: &mut Nodes) -> Result<(), String> {
    loop {
        let flat: Vec<(String, Vec<Split>)> =
            nodes.iter().filter_map(|(key, node)| Some((key.clone(), flattened(nodes, node)?))).collect();
        if flat.is_empty() {
            return Ok(());
        }
        if flat.iter().any(|(_, splits)| splits.len() > MOST_SPLITS) {
            return Err(format!(
                "a splitter has more than {MOST_SPLITS} splits with those of the splitters it leads to"
            ));
        }
        for (key, splits) in flat {
            if let Some(node) = nodes.get_mut(&key) {
                node.step = Step::Splitter(splits);
            }
        }
    }
}

/// None when there is nothing to flatten.
fn flattened(nodes: &Nodes, node: &Node) -> Option<Vec<Split>> {
    let inner = |split: &Split| match nodes.get(&split.next).map(|node| &node.step) {
        Some(Step::Splitter(splits)) => Some(splits),
        _ => None,
    };
    let Step::Splitter(splits) = &node.step else { return None };
    if !splits.iter().any(|split| inner(split).is_some()) {
        return None;
    }
    let mut flat = Vec::new();
    for split in splits {
        match inner(split) {
            None => flat.push(split.clone()),
            Some(parts) => flat.extend(parts.iter().map(|part| {
                let hundredths = (split.weight * part.weight / 100.0 * 100.0).round();
                Split { weight: hundredths / 100.0, next: part.next.clone() }
            })),
        }
    }
    Some(flat)
}

pub fn forget_unused(nodes: &mut Nodes, start: &str) {
    let mut used = BTreeSet::new();
    let mut todo = vec![start.to_owned()];
    while let Some(key) = todo.pop() {
        let Some(node) = nodes.get(&key).filter(|_| !used.contains(&key)) else { continue };
        todo.extend(node.step.leads_to().into_iter().map(str::to_owned));
        used.insert(key);
    }
    nodes.retain(|key, _| used.contains(key));
}

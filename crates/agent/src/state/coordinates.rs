//! Network coordinates of nodes, as their agents report them. Nobody is measured here: a node without one has none, and the
//! agent's own is the origin.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Change, State, Table, fold, folded};

/// Dimensions of the space.
pub const DIMENSIONS: usize = 8;

/// A node's place, round trips being distances in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Coordinate {
    pub node: String,
    pub segment: String,
    pub vec: Vec<f64>,
    pub error: f64,
    pub adjustment: f64,
    pub height: f64,
}

impl Coordinate {
    /// Seconds for the way there and back.
    pub fn distance(&self, other: &Coordinate) -> f64 {
        let squares = self.vec.iter().zip(&other.vec).map(|(a, b)| (a - b) * (a - b));
        let raw = squares.sum::<f64>().sqrt() + self.height + other.height;
        let adjusted = raw + self.adjustment + other.adjustment;
        if adjusted > 0.0 { adjusted } else { raw }
    }
}

impl State {
    pub fn coordinate(&self, node: &str) -> Option<&Arc<Coordinate>> {
        self.coordinates.get(&*folded(node))
    }

    pub fn coordinates(&self) -> impl Iterator<Item = &Arc<Coordinate>> {
        self.coordinates.values()
    }

    /// Of a node that there is; one that has gone in the meantime is no fault of who reports.
    pub(super) fn coordinate_set(&mut self, coordinate: &Coordinate, change: &mut Change) {
        let key = fold(&coordinate.node);
        let same = self.coordinates.get(&key).is_some_and(|known| **known == *coordinate);
        if same || !self.nodes.contains_key(&key) {
            return;
        }
        self.coordinates.insert(key, Arc::new(coordinate.clone()));
        self.move_table(Table::Coordinates, change);
    }

    /// The node goes, and its coordinate with it.
    pub(super) fn coordinate_forget(&mut self, node: &str, change: &mut Change) {
        if self.coordinates.remove(&*folded(node)).is_some() {
            self.move_table(Table::Coordinates, change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_what_the_way_takes() {
        let at = |first: f64, height: f64, adjustment: f64| Coordinate {
            node: String::new(),
            segment: String::new(),
            vec: vec![first, 0.0],
            error: 1.5,
            adjustment,
            height,
        };
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(near(at(0.0, 0.1, 0.0).distance(&at(0.3, 0.2, 0.0)), 0.6));
        assert!(near(at(0.0, 0.1, -0.2).distance(&at(0.3, 0.2, 0.0)), 0.4));
        assert!(near(at(0.0, 0.1, -5.0).distance(&at(0.3, 0.2, 0.0)), 0.6), "never negative");
    }
}

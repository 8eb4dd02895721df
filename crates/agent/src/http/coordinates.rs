//! `/v1/coordinate/`: where nodes are in the network, as their agents say. Nothing is measured here: the agent's own node is
//! the origin, and a distance only orders (`near=`).

use http::StatusCode;
use serde_json::Value;

use super::decode::{self, Fields, Malformed};
use super::misc::shapes::{Coordinate as Shown, DatacenterCoordinates, NodeCoordinate};
use super::query::ReadOptions;
use super::reply::{Handled, Reply};
use super::{Call, Server};
use crate::state::coordinates::{Coordinate, DIMENSIONS};
use crate::state::{Command, State, Table};

impl Server {
    pub(super) fn coordinate_datacenters(&self, call: &Call<'_>) -> Handled {
        let answer = [DatacenterCoordinates {
            datacenter: self.datacenter(),
            area_id: "wan",
            coordinates: [NodeCoordinate {
                node: self.identity.node.clone(),
                segment: String::new(),
                coord: Shown::default(),
            }],
        }];
        Ok(Reply::json(&answer, call.pretty))
    }

    pub(super) async fn coordinate_nodes(&self, call: &Call<'_>) -> Handled {
        let options = ReadOptions::parse(&call.query)?;
        let state = self.wait_table(&options, Table::Coordinates).await;
        let own = self.own_coordinate(&state);
        let mut all: Vec<&Coordinate> = state.coordinates().map(|c| &**c).collect();
        if state.coordinate(&own.node).is_none() {
            all.push(&own);
        }
        all.retain(|coordinate| in_segment(call, coordinate));
        all.sort_by(|a, b| a.node.cmp(&b.node));
        let shown: Vec<NodeCoordinate> = all.into_iter().map(NodeCoordinate::from).collect();
        Ok(Reply::json(&shown, call.pretty).at(state.table_index(Table::Coordinates)))
    }

    pub(super) async fn coordinate_node(&self, call: &Call<'_>) -> Handled {
        let options = ReadOptions::parse(&call.query)?;
        let state = self.wait_table(&options, Table::Coordinates).await;
        let found = self.coordinate_of(&state, call.rest).filter(|found| in_segment(call, found));
        let found = found.ok_or_else(|| Reply::empty(StatusCode::NOT_FOUND))?;
        Ok(Reply::json(&[NodeCoordinate::from(&found)], call.pretty)
            .at(state.table_index(Table::Coordinates)))
    }

    pub(super) async fn coordinate_update(&self, call: &Call<'_>) -> Handled {
        let failed = |Malformed(why)| Reply::bad(&format!("Request decode failed: {why}"));
        let coordinate = decode_coordinate(&call.body).map_err(failed)?;
        self.same_datacenter(call)?;
        let fits = coordinate.vec.len() == DIMENSIONS
            && coordinate
                .vec
                .iter()
                .chain([&coordinate.error, &coordinate.adjustment, &coordinate.height])
                .all(|n| n.is_finite());
        if !fits {
            return Err(Reply::internal("incompatible coordinate"));
        }
        self.engine.write(Command::CoordinateSet(Box::new(coordinate))).await?;
        Ok(Reply::ok())
    }

    fn own_coordinate(&self, state: &State) -> Coordinate {
        let node = &self.identity.node;
        state.coordinate(node).map(|known| Coordinate::clone(known)).unwrap_or_else(|| {
            let Shown { vec, error, adjustment, height } = Shown::default();
            Coordinate { node: node.clone(), segment: String::new(), vec, error, adjustment, height }
        })
    }

    fn coordinate_of(&self, state: &State, node: &str) -> Option<Coordinate> {
        if node.eq_ignore_ascii_case(&self.identity.node) {
            return Some(self.own_coordinate(state));
        }
        state.coordinate(node).map(|known| Coordinate::clone(known))
    }

    /// `near`: the nearest first, those without a coordinate last. Without one of the node that is named the order stays.
    pub(super) fn nearest_first<T>(&self, call: &Call<'_>, items: &mut [T], node_of: impl Fn(&T) -> &String) {
        let Some(near) = call.query.filled("near") else { return };
        let state = self.engine.state();
        let near = if near == "_agent" { self.node_name() } else { near };
        let Some(from) = self.coordinate_of(&state, near) else { return };
        items.sort_by_cached_key(|item| {
            let there = self.coordinate_of(&state, node_of(item));
            // a distance is not negative, and such numbers are ordered as their bits
            there.map_or(f64::INFINITY, |there| from.distance(&there)).to_bits()
        });
    }
}

fn in_segment(call: &Call<'_>, coordinate: &Coordinate) -> bool {
    call.query.get("segment").is_none_or(|segment| segment == coordinate.segment)
}

fn decode_coordinate(body: &[u8]) -> Result<Coordinate, Malformed> {
    let mut fields = Fields::new(decode::json(body)?)?;
    let node = fields.name(&["Node"])?;
    let segment = fields.text(&["Segment"])?;
    fields.ignore(&["Datacenter", "Token", "Partition", "Namespace"]);
    let mut inner = fields.nested(&["Coord"])?;
    fields.finish()?;
    let number = |value: Option<Value>| value.as_ref().and_then(Value::as_f64).unwrap_or(0.0);
    let vec = inner.list_of(&["Vec"], "[]float64")?.unwrap_or_default();
    let coordinate = Coordinate {
        node,
        segment,
        vec: vec.into_iter().map(|n| number(Some(n))).collect(),
        error: number(inner.take(&["Error"])),
        adjustment: number(inner.take(&["Adjustment"])),
        height: number(inner.take(&["Height"])),
    };
    inner.finish()?;
    Ok(coordinate)
}

impl From<&Coordinate> for NodeCoordinate {
    fn from(coordinate: &Coordinate) -> NodeCoordinate {
        let Coordinate { node, segment, vec, error, adjustment, height } = coordinate.clone();
        NodeCoordinate { node, segment, coord: Shown { vec, error, adjustment, height } }
    }
}

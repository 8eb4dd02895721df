//! `/v1/event/`: user events, of which a node keeps those that are for it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use regex::Regex;
use serde::Serialize;

use super::query::ReadOptions;
use super::reply::{Handled, Reply};
use super::{Call, Server};
use crate::regexp;

/// Events kept.
const MOST: usize = 256;
/// Bytes of an event's message, as in Consul.
const LARGEST: usize = 512;

/// A user event as fired.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Event {
    #[serde(rename = "ID")]
    id: String,
    name: String,
    payload: Option<String>,
    node_filter: String,
    service_filter: String,
    tag_filter: String,
    version: u32,
    #[serde(rename = "LTime")]
    l_time: u64,
}

/// What an event that was fired tells the next ones.
#[derive(Debug)]
pub(super) struct Events {
    kept: Vec<Event>,
    next: u64,
}

impl Default for Events {
    fn default() -> Events {
        Events { kept: Vec::new(), next: 2 }
    }
}

/// Who an event is for; none: everybody.
struct Filters {
    node: Option<Regex>,
    service: Option<Regex>,
    tag: Option<Regex>,
}

impl Filters {
    fn of(event: &Event) -> Result<Filters, Reply> {
        if !event.tag_filter.is_empty() && event.service_filter.is_empty() {
            return Err(Reply::internal("Cannot provide tag filter without service filter"));
        }
        let compiled = |text: &str, of: &str| {
            let regex = (!text.is_empty()).then(|| regexp::compile(text)).transpose();
            regex.map_err(|why| Reply::internal(&format!("Invalid {of} filter: {why}")))
        };
        Ok(Filters {
            node: compiled(&event.node_filter, "node")?,
            service: compiled(&event.service_filter, "service")?,
            tag: compiled(&event.tag_filter, "tag")?,
        })
    }
}

impl Server {
    pub(super) fn event_fire(&self, call: &Call<'_>) -> Handled {
        if call.rest.is_empty() {
            return Err(Reply::bad("Missing name"));
        }
        let text = |name: &str| call.query.get(name).unwrap_or_default().to_owned();
        let fired = Event {
            id: uuid::Uuid::new_v4().to_string(),
            name: call.rest.to_owned(),
            payload: (!call.body.is_empty()).then(|| STANDARD.encode(&call.body)),
            node_filter: text("node"),
            service_filter: text("service"),
            tag_filter: text("tag"),
            version: 1,
            l_time: 0,
        };
        let filters = Filters::of(&fired)?;
        let own = self.concerns(&filters);
        let mut refused = None;
        self.events.send_modify(|events| {
            refused = too_large(&fired, call.body.len(), events.next);
            if refused.is_some() {
                return;
            }
            if own {
                events.kept.push(Event { l_time: events.next, ..fired.clone() });
                let excess = events.kept.len().saturating_sub(MOST);
                events.kept.drain(..excess);
            }
            events.next += 1;
        });
        match refused {
            Some(when) => Err(Reply::internal(&format!(
                "1 error occurred:\n\t* error broadcasting event to segment \"\": user event exceeds configured limit of {LARGEST} bytes {when} encoding\n\n"
            ))),
            None => Ok(Reply::json(&fired, call.pretty)),
        }
    }

    fn concerns(&self, filters: &Filters) -> bool {
        if filters.node.as_ref().is_some_and(|node| !node.is_match(self.node_name())) {
            return false;
        }
        let Some(wanted) = &filters.service else { return true };
        let tagged = |tags: &Option<Vec<String>>| {
            filters.tag.as_ref().is_none_or(|tag| tags.iter().flatten().any(|own| tag.is_match(own)))
        };
        let state = self.engine.state();
        state.local_services().any(|own| wanted.is_match(&own.service.service) && tagged(&own.service.tags))
    }

    /// The index is the last event's id, its halves xor-ed; it blocks only while that is the one given.
    pub(super) async fn event_list(&self, call: &Call<'_>) -> Handled {
        let options = ReadOptions::waiting(&call.query)?;
        let name = call.query.filled("name").map(str::to_owned);
        let chosen = |events: &Events| -> Vec<Event> {
            events.kept.iter().filter(|e| name.as_ref().is_none_or(|n| *n == e.name)).cloned().collect()
        };
        let mut changes = self.events.subscribe();
        let moved =
            changes.wait_for(|events| options.index == 0 || index_of(&chosen(events)) != options.index);
        // whether in time or not, the answer is what there is now
        let _ = tokio::time::timeout(options.wait, moved).await;
        let events = chosen(&self.events.borrow());
        let index = index_of(&events).to_string();
        Ok(Reply::json(&events, call.pretty).with_header("x-consul-index", &index))
    }
}

fn index_of(events: &[Event]) -> u64 {
    let Some(id) = events.last().and_then(|e| uuid::Uuid::try_parse(&e.id).ok()) else { return 1 };
    let (high, low) = id.as_u64_pair();
    high ^ low
}

/// Consul sends an event as MessagePack within a message of Serf's, and has a limit for both.
fn too_large(event: &Event, payload: usize, l_time: u64) -> Option<&'static str> {
    let text = |length: usize| {
        length
            + if length < 32 {
                1
            } else if length < 256 {
                2
            } else {
                3
            }
    };
    let field = |key: usize, length: usize| if length == 0 { 0 } else { 1 + key + text(length) };
    let filters = [&event.node_filter, &event.service_filter, &event.tag_filter];
    let filters: usize = filters.iter().map(|filter| field(2, filter.len())).sum();
    let name = event.name.len();
    // a map of the id (3 and its 36 characters), the name, the version (3) and what is given
    let inner = 1 + 3 + text(event.id.len()) + 2 + text(name) + field(1, payload) + filters + 3;
    let named = "consul:event:".len() + name;
    if named + inner > LARGEST {
        return Some("before");
    }
    let time = if l_time < 128 {
        1
    } else if l_time < 256 {
        2
    } else if l_time < 1 << 16 {
        3
    } else {
        5
    };
    // type, map, LTime, Name, Payload and CC
    let outer = 2 + 6 + time + 5 + text(named) + 8 + text(inner) + 4;
    (outer > LARGEST).then_some("after")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, node: &str, service: &str, tag: &str) -> Event {
        Event {
            id: uuid::Uuid::nil().to_string(),
            name: name.to_owned(),
            payload: None,
            node_filter: node.to_owned(),
            service_filter: service.to_owned(),
            tag_filter: tag.to_owned(),
            version: 1,
            l_time: 0,
        }
    }

    /// Found by trying on Consul 1.8.7.
    #[test]
    fn the_limit_is_consuls() {
        let long = "y".repeat(40);
        for (event, most, time) in [
            (event("d", "", "", ""), 414, 9),
            (event("dddddddddd", "", "", ""), 396, 30),
            (event(&"d".repeat(40), "", "", ""), 333, 200),
            (event("d", "x", "", ""), 409, 100),
            (event("d", "", "x", &long), 364, 100),
        ] {
            assert_eq!(too_large(&event, most, time), None, "{event:?}");
            assert_eq!(too_large(&event, most + 1, time), Some("after"), "{event:?}");
        }
        assert_eq!(too_large(&event("d", "", "", ""), 600, 2), Some("before"));
    }
}

//! When instances were last probed, as the health-aggregators tell it.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::Deserialize;

/// The newest probe time per service id. One immutable value, swapped whole by `tasks::probes`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Probed(HashMap<String, Timestamp, foldhash::fast::RandomState>);

/// One row of the health-aggregator's `GET /api/v1/health/instances`.
#[derive(Debug, Deserialize)]
pub struct ProbedInstance {
    pub service_id: String,
    pub last_check: Option<Timestamp>,
}

/// The answer of `GET /api/v1/health/instances`; other members are not looked at.
#[derive(Debug, Deserialize)]
pub struct ProbedInstances {
    pub instances: Vec<ProbedInstance>,
}

impl Probed {
    /// Merges the answers of several replicas, and what was `known` before if that still counts. Instances move
    /// between replicas, so the newest time is the true one.
    pub fn merge(answers: impl IntoIterator<Item = ProbedInstances>, known: Option<&Self>) -> Self {
        let mut newest = known.map(|known| known.0.clone()).unwrap_or_default();
        for row in answers.into_iter().flat_map(|answer| answer.instances) {
            let Some(time) = row.last_check else { continue };
            newest.entry(row.service_id).and_modify(|known| *known = time.max(*known)).or_insert(time);
        }
        Self(newest)
    }

    pub fn last_check(&self, service_id: &str) -> Option<Timestamp> {
        self.0.get(service_id).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_answer_counts() {
        let early =
            r#"{"instances":[{"service_id":"a","last_check":"2026-11-22T10:00:00Z"},{"service_id":"b"}]}"#;
        let late =
            r#"{"instances":[{"service_id":"a","last_check":"2026-11-22T10:00:09Z","status":"passing"}]}"#;
        let merged =
            Probed::merge([early, late, early].map(|text| serde_json::from_str(text).unwrap()), None);
        assert_eq!(merged.last_check("a"), Some("2026-11-22T10:00:09Z".parse().unwrap()));
        assert_eq!(merged.last_check("b"), None);
        assert_eq!(Probed::merge([], Some(&merged)), merged);
        assert_eq!(Probed::merge([], None), Probed::default());
    }
}

//! All entities of a configuration as the answer of `POST /config`. Ten thousand routes make five megabytes, so they are
//! written while they are sent.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use futures_util::stream;
use serde_json::Value;

use super::entities::KINDS;
use crate::reload::Configurator;
use crate::snapshot::Snapshot;

/// Bytes written at a time, and what the last entity is longer.
const PIECE: usize = 64 * 1024;

/// Every entity, by collection and id. Written where configurations are loaded, so that workers come first.
pub fn body(configurator: Arc<Configurator>, snapshot: Arc<Snapshot>) -> Body {
    let pieces = stream::unfold(Some(Progress::default()), move |progress| {
        let (configurator, snapshot) = (configurator.clone(), snapshot.clone());
        async move {
            let progress = progress?;
            let written = configurator.aside(move || progress.piece(&snapshot.config)).await;
            Some(match written {
                Ok(Ok((piece, rest))) => (Ok(Bytes::from(piece)), rest),
                Ok(Err(error)) => (Err(axum::Error::new(error)), None),
                Err(error) => (Err(axum::Error::new(error)), None),
            })
        }
    });
    Body::from_stream(pieces)
}

/// How far it has been written.
#[derive(Default)]
struct Progress {
    kind: usize,
    step: usize,
    /// A collection is there already.
    some: bool,
    /// The collection has been opened.
    within: bool,
}

impl Progress {
    /// The next piece and what is left after it.
    fn piece(mut self, config: &plinth_kong::Config) -> serde_json::Result<(Vec<u8>, Option<Self>)> {
        let mut out = Vec::with_capacity(PIECE + PIECE / 8);
        if self.kind == 0 && self.step == 0 {
            out.push(b'{');
        }
        while let Some(kind) = KINDS.get(self.kind) {
            let steps = kind.steps(config);
            while self.step < steps.count {
                for entity in (steps.entities)(self.step) {
                    self.entity(&mut out, kind.name, &entity)?;
                }
                self.step += 1;
                if out.len() >= PIECE {
                    return Ok((out, Some(self)));
                }
            }
            if self.within {
                out.push(b'}');
            }
            self = Self { kind: self.kind + 1, step: 0, within: false, ..self };
        }
        out.push(b'}');
        Ok((out, None))
    }

    fn entity(&mut self, out: &mut Vec<u8>, collection: &str, entity: &Value) -> serde_json::Result<()> {
        let Some(id) = entity["id"].as_str() else { return Ok(()) };
        if self.within || self.some {
            out.push(b',');
        }
        if !self.within {
            serde_json::to_writer(&mut *out, collection)?;
            out.extend_from_slice(b":{");
            (self.within, self.some) = (true, true);
        }
        serde_json::to_writer(&mut *out, id)?;
        out.push(b':');
        serde_json::to_writer(&mut *out, entity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(config: &plinth_kong::Config) -> (Value, usize) {
        let (mut text, mut rest, mut pieces) = (Vec::new(), Some(Progress::default()), 0);
        while let Some(progress) = rest {
            let (piece, after) = progress.piece(config).unwrap();
            assert!(piece.len() < PIECE + PIECE / 8, "{} bytes", piece.len());
            text.extend_from_slice(&piece);
            (rest, pieces) = (after, pieces + 1);
        }
        (serde_json::from_slice(&text).unwrap(), pieces)
    }

    #[test]
    fn pieces_make_one_document() {
        let mut text = "_format_version: '3.0'\nconsumers: [{username: c}]\nupstreams:\n".to_owned();
        for upstream in 0..100 {
            text +=
                &format!("- name: u{upstream}\n  targets: [{{target: 'a:1'}}, {{target: 'b:{upstream}'}}]\n");
        }
        text += "services:\n";
        for service in 0..200 {
            text += &format!("- {{name: s{service}, url: 'http://a', routes: [{{paths: [/{service}]}}]}}\n");
        }
        let config = plinth_kong::load(&text, plinth_kong::Format::Yaml).unwrap().config;
        let (document, pieces) = written(&config);
        assert!(pieces > 2, "{pieces}");
        let count = |collection: &str| document[collection].as_object().map_or(0, serde_json::Map::len);
        for (collection, entities) in
            [("services", 200), ("upstreams", 100), ("targets", 200), ("consumers", 1)]
        {
            assert_eq!(count(collection), entities, "{collection}");
        }
        for kind in KINDS {
            for entity in kind.each(&config) {
                assert_eq!(document[kind.name][entity["id"].as_str().unwrap()], entity);
            }
        }
    }

    #[test]
    fn nothing_is_an_empty_object() {
        let config = plinth_kong::load("_format_version: '3.0'", plinth_kong::Format::Yaml).unwrap().config;
        assert_eq!(written(&config), (serde_json::json!({}), 1));
    }
}

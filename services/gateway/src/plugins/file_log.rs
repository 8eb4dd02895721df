//! file-log: one JSON line for each request, written by a thread of its own.

mod entry;
mod writer;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use plinth_kong::FileLogConfig;
use prometheus::{IntCounterVec, Opts};
use serde_json::value::RawValue;

use super::Labels;
use crate::context::RequestContext;
use writer::Writer;

/// The writers in use, one for each file whatever the number of plugins.
#[derive(Debug)]
pub(super) struct Files {
    writers: Mutex<HashMap<(PathBuf, bool), Weak<Writer>>>,
    lost: IntCounterVec,
}

impl Files {
    pub fn new(registry: &prometheus::Registry) -> Result<Files, prometheus::Error> {
        let lost = IntCounterVec::new(
            Opts::new(
                "gateway_file_log_lost_total",
                "Log lines not written, by file and reason (queue_full, io).",
            ),
            &["path", "reason"],
        )?;
        registry.register(Box::new(lost.clone()))?;
        Ok(Files { writers: Mutex::default(), lost })
    }

    pub fn writer(&self, config: &FileLogConfig) -> Arc<Writer> {
        let key = (PathBuf::from(&config.path), config.reopen);
        let mut writers = self.writers.lock();
        writers.retain(|_, writer| writer.strong_count() > 0);
        if let Some(writer) = writers.get(&key).and_then(Weak::upgrade) {
            return writer;
        }
        let writer = Arc::new(Writer::start(key.0.clone(), config.reopen, &self.lost));
        writers.insert(key, Arc::downgrade(&writer));
        writer
    }

    pub fn flush(&self) {
        let writers: Vec<Arc<Writer>> = self.writers.lock().values().filter_map(Weak::upgrade).collect();
        for writer in writers {
            writer.flush();
        }
    }
}

/// The plugin; with the route's and service's entities once it is bound.
#[derive(Debug)]
pub(super) struct FileLog {
    writer: Arc<Writer>,
    route: Option<Box<RawValue>>,
    service: Option<Box<RawValue>>,
}

impl FileLog {
    pub fn new(writer: Arc<Writer>) -> FileLog {
        FileLog { writer, route: None, service: None }
    }

    pub fn bind(&self, at: &Labels<'_>) -> FileLog {
        FileLog {
            writer: Arc::clone(&self.writer),
            route: at.route.and_then(|route| serde_json::value::to_raw_value(route).ok()),
            service: at.service.and_then(|service| serde_json::value::to_raw_value(service).ok()),
        }
    }

    pub fn log(&self, ctx: &RequestContext) {
        if !self.writer.has_room() {
            return self.writer.lost();
        }
        match entry::line(ctx, self.route.as_deref(), self.service.as_deref()) {
            Ok(line) => self.writer.write(line),
            Err(error) => tracing::error!(%error, "file-log: an entry could not be made"),
        }
    }
}

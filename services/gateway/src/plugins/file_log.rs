//! file-log: one JSON line for each request, written by a thread of its own.

mod writer;

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use prometheus::{IntCounterVec, Opts};

use super::Labels;
use super::entry::{self, Entities};
use crate::context::RequestContext;
pub(super) use writer::Writer;

thread_local! {
    /// Where a worker makes its lines.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

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

    /// The file's writer; `reopen` opens it anew for each batch of lines.
    pub fn writer(&self, path: &Path, reopen: bool) -> Arc<Writer> {
        let key = (path.to_owned(), reopen);
        let mut writers = self.writers.lock();
        writers.retain(|_, writer| writer.strong_count() > 0);
        if let Some(writer) = writers.get(&key).and_then(Weak::upgrade) {
            return writer;
        }
        let writer = Arc::new(Writer::start(key.0.clone(), reopen, &self.lost));
        writers.insert(key, Arc::downgrade(&writer));
        writer
    }

    /// All files are opened anew before their next lines.
    pub fn reopen(&self) {
        for writer in self.writers.lock().values().filter_map(Weak::upgrade) {
            writer.reopen();
        }
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
    entities: Entities,
}

impl FileLog {
    pub fn new(writer: Arc<Writer>) -> FileLog {
        FileLog { writer, entities: Entities::default() }
    }

    pub fn bind(&self, at: &Labels<'_>) -> FileLog {
        FileLog { writer: Arc::clone(&self.writer), entities: Entities::of(at) }
    }

    pub fn log(&self, ctx: &RequestContext) {
        if !self.writer.has_room() {
            return self.writer.lost();
        }
        LINE.with_borrow_mut(|line| {
            line.clear();
            entry::write(ctx, &self.entities, line);
            self.writer.write(line);
        });
    }
}

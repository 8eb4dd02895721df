//! When certificates end, as one metric of the service.

use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, Opts};

/// Most certificates shown, those that end first: a gateway may have any number of them.
const MOST: usize = 100;

/// One certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    /// Which one, for people: a server name, or `default`.
    pub name: String,
    pub at: Timestamp,
}

type Source = Box<dyn Fn() -> Vec<Expiry> + Send + Sync>;

/// `plinth_certificate_expiry_timestamp_seconds{use, name}`: asked for when scraped. Clones share their sources.
#[derive(Clone)]
pub struct Certificates {
    gauge: GaugeVec,
    sources: Arc<Mutex<Vec<(&'static str, Source)>>>,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certificates")
    }
}

impl Certificates {
    pub(super) fn new() -> Result<Certificates, prometheus::Error> {
        let text = "When a certificate in use ends, in seconds since 1970";
        let gauge =
            GaugeVec::new(Opts::new("plinth_certificate_expiry_timestamp_seconds", text), &["use", "name"])?;
        Ok(Certificates { gauge, sources: Arc::default() })
    }

    /// Adds certificates that serve one purpose: `mtls`, `tls`, `proxy`.
    pub fn add(&self, purpose: &'static str, source: impl Fn() -> Vec<Expiry> + Send + Sync + 'static) {
        self.sources.lock().push((purpose, Box::new(source)));
    }
}

impl Collector for Certificates {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut all: Vec<(&'static str, Expiry)> = Vec::new();
        let sources = self.sources.lock();
        for (purpose, source) in sources.iter() {
            all.extend(source().into_iter().map(|expiry| (*purpose, expiry)));
        }
        all.sort_by_key(|(_, expiry)| expiry.at);
        self.gauge.reset();
        for (purpose, expiry) in all.into_iter().take(MOST) {
            let seconds = expiry.at.as_millisecond() as f64 / 1000.0;
            self.gauge.with_label_values(&[purpose, &expiry.name]).set(seconds);
        }
        // Still locked, so that two scrapes do not empty each other's gauge.
        self.gauge.collect()
    }
}

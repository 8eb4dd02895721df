//! Encryption between services: settings, and the listener's decision about who may call.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use plinth_core::consul;
use plinth_core::identity::{
    Caller, Clients, Decision, FileChanges, Files, IdPattern, Identity, Intentions, Refused,
};
use prometheus::core::Collector;
use prometheus::{IntCounterVec, IntGauge, Opts};
use rustls::pki_types::CertificateDer;

use crate::settings::Reader;

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Protocols of a listener.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Where certificate, key and trust come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MtlsSource {
    /// Consul's certificate authority; Consul's intentions say who may call.
    Connect {
        /// Longest wait for the first certificate.
        start_timeout: Duration,
        /// How long an answer about a caller counts.
        intention_cache: Duration,
    },
    /// Files, read again when they are replaced.
    Files {
        files: Files,
        /// SPIFFE ids that may call; none: whoever the authorities signed.
        allow: Vec<IdPattern>,
    },
}

/// `mtls.*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MtlsSettings {
    pub source: MtlsSource,
    /// Whether callers must show a certificate.
    pub clients: Clients,
}

impl MtlsSettings {
    /// Reads `mtls.*`; none when it is off. `tls` is true when the listener has a certificate of its own settings.
    pub fn read(reader: &mut Reader, tls: bool) -> Option<MtlsSettings> {
        let source = reader.get(
            "mtls.source",
            "mutual TLS between services: off, connect (identity and trust from Consul, intentions enforced) or files",
            "off".to_owned(),
        );
        let cert: Option<PathBuf> = reader.opt(
            "mtls.cert",
            "certificate chain for mtls.source = files, PEM; for both sides of connections",
        );
        let key: Option<PathBuf> = reader.opt("mtls.key", "private key of the certificate, PEM");
        let ca: Option<PathBuf> =
            reader.opt("mtls.ca", "authorities in PEM that sign the certificates of other services");
        let clients = reader.get(
            "mtls.clients",
            "certificates of callers: required, or optional (who shows none is let in; for the change-over)",
            "required".to_owned(),
        );
        let allow: Vec<IdPattern> = reader.list(
            "mtls.allow",
            "SPIFFE ids that may call, * for any characters, with mtls.source = files; none: all that the authorities signed",
            "",
        );
        let start_timeout = reader.duration_in(
            "mtls.start_timeout",
            "longest wait for the first certificate from Consul; the service does not start without one",
            Duration::from_secs(60),
            Duration::from_secs(1)..=Duration::from_secs(3600),
        );
        let intention_cache = reader.duration_in(
            "mtls.intention_cache",
            "how long Consul's word on a caller counts; longer only while Consul is away",
            Duration::from_secs(10),
            Duration::from_millis(100)..=Duration::from_secs(600),
        );
        let clients = match clients.as_str() {
            "required" => Clients::Required,
            "optional" => Clients::Optional,
            other => {
                reader.fault("mtls.clients", format!("{other:?} is none of required, optional"));
                Clients::Required
            }
        };
        let source = match source.as_str() {
            "files" => Self::files(reader, (cert, key, ca), allow)?,
            other => {
                for (key, given) in
                    [("mtls.cert", cert.is_some()), ("mtls.key", key.is_some()), ("mtls.ca", ca.is_some())]
                {
                    if given {
                        reader.fault(key, format!("has no meaning with mtls.source = {other}"));
                    }
                }
                if !allow.is_empty() {
                    let why = if other == "connect" {
                        "intentions say who may call"
                    } else {
                        "nobody is asked who it is"
                    };
                    reader.fault("mtls.allow", format!("has no meaning with mtls.source = {other}: {why}"));
                }
                match other {
                    "off" => return None,
                    "connect" => MtlsSource::Connect { start_timeout, intention_cache },
                    unknown => {
                        reader.fault("mtls.source", format!("{unknown:?} is none of off, connect, files"));
                        return None;
                    }
                }
            }
        };
        if tls {
            reader.fault(
                "mtls.source",
                "cannot be combined with tls.cert and tls.key: one certificate per listener",
            );
        }
        Some(MtlsSettings { source, clients })
    }

    fn files(
        reader: &mut Reader,
        (cert, key, ca): (Option<PathBuf>, Option<PathBuf>, Option<PathBuf>),
        allow: Vec<IdPattern>,
    ) -> Option<MtlsSource> {
        for (name, file) in [("mtls.cert", &cert), ("mtls.key", &key), ("mtls.ca", &ca)] {
            if file.is_none() {
                reader.fault(name, "is required with mtls.source = files");
            }
        }
        let files = Files { own: Some((cert?, key?)), ca: ca? };
        if let Err(error) = files.check() {
            reader.fault("mtls.cert", crate::problem::chain(&error));
        }
        Some(MtlsSource::Files { files, allow })
    }
}

/// The identity of a service and what its listeners do about callers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Mtls {
    pub identity: Identity,
    policy: Policy,
    clients: Clients,
    rejected: IntCounterVec,
}

/// Who may call.
#[derive(Debug, Clone)]
pub enum Policy {
    /// Whom Consul lets in.
    Intentions(Intentions),
    /// SPIFFE ids; none: whoever has a certificate.
    Patterns(Arc<[IdPattern]>),
}

/// Why a caller is not served.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    #[error("it shows no certificate")]
    NoCertificate,
    #[error("its certificate is not usable")]
    Identity(#[from] Refused),
    #[error("no intention allows {id}: {reason}")]
    Intention { id: String, reason: Arc<str> },
    #[error("Consul does not say whether {id} may call")]
    Unknown { id: String, source: plinth_core::Error },
    #[error("{0} is none of those in mtls.allow")]
    NotAllowed(String),
}

impl Rejection {
    /// Value of the label `reason`.
    fn reason(&self) -> &'static str {
        match self {
            Rejection::NoCertificate => "no_certificate",
            Rejection::Identity(_) => "identity",
            Rejection::Intention { .. } => "intention",
            Rejection::Unknown { .. } => "intention_unknown",
            Rejection::NotAllowed(_) => "not_allowed",
        }
    }
}

/// How a handshake came to nothing; value of the label `reason`.
pub(crate) fn handshake_reason(error: &std::io::Error) -> &'static str {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::NoCertificatesPresented) => "no_certificate",
        Some(rustls::Error::InvalidCertificate(_)) => "certificate",
        Some(rustls::Error::AlertReceived(_)) => "refused_by_caller",
        Some(rustls::Error::InvalidMessage(_)) => "not_tls",
        _ => "handshake",
    }
}

impl Mtls {
    /// Gets the identity. With Consul, waits for it up to `mtls.start_timeout`.
    ///
    /// # Errors
    /// No usable certificate.
    pub async fn start(
        settings: &MtlsSettings,
        service: &str,
        consul: &consul::Client,
        handle: &tokio::runtime::Handle,
    ) -> Result<Mtls, MtlsError> {
        let (identity, policy) = match &settings.source {
            MtlsSource::Connect { start_timeout, intention_cache } => {
                let identity = Identity::connect(consul, service, *start_timeout, handle).await?;
                let intentions = Intentions::new(consul.clone(), service, *intention_cache);
                (identity, Policy::Intentions(intentions))
            }
            MtlsSource::Files { files, allow } => {
                let identity = Identity::files(files.clone(), FileChanges::Every(LOOK_EVERY), Some(handle))?;
                (identity, Policy::Patterns(allow.clone().into()))
            }
        };
        Ok(Mtls::new(identity, policy, settings.clients)?)
    }

    /// An identity and who may call its listeners.
    ///
    /// # Errors
    /// None in practice.
    pub fn new(identity: Identity, policy: Policy, clients: Clients) -> Result<Mtls, prometheus::Error> {
        let rejected = IntCounterVec::new(
            Opts::new("plinth_mtls_rejected_total", "Connections refused by mutual TLS, by reason"),
            &["reason"],
        )?;
        Ok(Mtls { identity, policy, clients, rejected })
    }

    /// What a listener speaks TLS with.
    pub(crate) fn server_config(&self) -> Result<rustls::ServerConfig, plinth_core::Error> {
        self.identity.server_config(self.clients, &ALPN)
    }

    /// The metrics of all of it.
    ///
    /// # Errors
    /// They are there already.
    pub fn register(&self, registry: &prometheus::Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.rejected.clone()))?;
        registry.register(Box::new(Rotations::new(self.identity.clone())?))
    }

    /// A handshake failed.
    pub(crate) fn count_handshake(&self, reason: &str) {
        self.rejected.with_label_values(&[reason]).inc();
    }

    /// Decides about the caller of a finished handshake: who it is, none for one that shows nothing and need not.
    pub(crate) async fn admit(
        &self,
        certificates: Option<&[CertificateDer<'_>]>,
    ) -> Result<Option<Caller>, Rejection> {
        let outcome = self.judge(certificates).await;
        if let Err(rejection) = &outcome {
            self.rejected.with_label_values(&[rejection.reason()]).inc();
        }
        outcome
    }

    async fn judge(&self, certificates: Option<&[CertificateDer<'_>]>) -> Result<Option<Caller>, Rejection> {
        let Some(certificate) = certificates.and_then(<[_]>::first) else {
            return match self.clients {
                Clients::Optional => Ok(None),
                Clients::Required => Err(Rejection::NoCertificate),
            };
        };
        let caller = self.identity.caller(certificate)?;
        self.allowed(&caller).await?;
        Ok(Some(caller))
    }

    async fn allowed(&self, caller: &Caller) -> Result<(), Rejection> {
        let id = || {
            caller.id.as_ref().map_or_else(|| "a caller without a SPIFFE id".to_owned(), ToString::to_string)
        };
        match &self.policy {
            Policy::Patterns(patterns) if patterns.is_empty() => Ok(()),
            Policy::Patterns(patterns) => match &caller.id {
                Some(found) if patterns.iter().any(|pattern| pattern.matches(found)) => Ok(()),
                _ => Err(Rejection::NotAllowed(id())),
            },
            Policy::Intentions(intentions) => match intentions.decide(caller).await {
                Ok(Decision::Allowed) => Ok(()),
                Ok(Decision::Denied(reason)) => Err(Rejection::Intention { id: id(), reason }),
                Err(source) => Err(Rejection::Unknown { id: id(), source }),
            },
        }
    }

    /// Ends when a caller who was let in may no longer call. Never without intentions.
    pub(crate) async fn revoked(&self, caller: &Caller) -> Rejection {
        let Policy::Intentions(intentions) = &self.policy else { return std::future::pending().await };
        loop {
            tokio::time::sleep(intentions.fresh_for()).await;
            if let Err(rejection @ Rejection::Intention { .. }) = self.allowed(caller).await {
                self.rejected.with_label_values(&["revoked"]).inc();
                return rejection;
            }
        }
    }

    /// For `/health`: whose the identity is and until when.
    ///
    /// # Errors
    /// The certificate has ended.
    pub fn report(&self, now: jiff::Timestamp) -> Result<serde_json::Value, String> {
        let current = self.identity.current();
        if let Some(expires) = current.expires().filter(|expires| *expires <= now) {
            return Err(format!("the certificate ended at {expires}; other services refuse it"));
        }
        Ok(serde_json::json!({
            "id": current.id().map(ToString::to_string),
            "trust_domain": current.trust_domain(),
            "expires": current.expires().map(|expires| expires.to_string()),
            "roots": current.roots(),
            "rotations": self.identity.rotations(),
        }))
    }
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum MtlsError {
    #[error("no identity")]
    Identity(#[from] plinth_core::Error),
    #[error("its metrics cannot be set up")]
    Metrics(#[from] prometheus::Error),
}

/// The identity counts its rotations itself; this reads the count when scraped.
struct Rotations {
    identity: Identity,
    gauge: IntGauge,
}

impl Rotations {
    fn new(identity: Identity) -> Result<Rotations, prometheus::Error> {
        let text = "Times that certificate or roots of mutual TLS were replaced";
        Ok(Rotations { identity, gauge: IntGauge::new("plinth_mtls_rotations_total", text)? })
    }
}

impl Collector for Rotations {
    fn desc(&self) -> Vec<&prometheus::core::Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<prometheus::proto::MetricFamily> {
        let mut families = self.gauge.collect();
        for family in &mut families {
            family.set_field_type(prometheus::proto::MetricType::COUNTER);
            for metric in family.mut_metric() {
                let mut counter = prometheus::proto::Counter::default();
                #[expect(clippy::cast_precision_loss, reason = "rotations are few")]
                counter.set_value(self.identity.rotations() as f64);
                metric.set_counter(counter);
            }
        }
        families
    }
}

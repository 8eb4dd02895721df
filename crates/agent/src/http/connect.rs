//! `/v1/connect/ca/` and `/v1/agent/connect/ca/`: roots, the authority's configuration, certificates of services.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::decode::{self, Fields, Malformed};
use super::prepared::go_bool;
use super::query::ReadOptions;
use super::reply::{Handled, Reply};
use super::{Call, Server};
use crate::authority::{self, Leaf, Subject};
use crate::duration;
use crate::engine::watch::Interest;
use crate::feed::Level;
use crate::state::ca::{Authority, Root, Settings};
use crate::state::{Command, Outcome, State, Table, Topic};

const DEFAULT_LEAF_TTL: Duration = Duration::from_secs(72 * 3600);
const SHORTEST_LEAF_TTL: Duration = Duration::from_secs(3600);
const LONGEST_LEAF_TTL: Duration = Duration::from_secs(365 * 24 * 3600);
const INTERMEDIATE_TTL: Duration = Duration::from_secs(365 * 24 * 3600);
const SHORTEST_INTERMEDIATE_TTL: Duration = Duration::from_secs(3 * 3600);
/// From when on the end of a root that was given is told in the log.
const EXTERNAL_ROOT_WARNED_BEFORE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Most certificates kept; one that is dropped is made anew when it is asked for.
const MOST_LEAVES: usize = 4096;

/// The certificates handed out, by service. Lost with the process: then new ones are made, as with Consul's cache.
#[derive(Default)]
pub struct Leaves {
    by_service: Mutex<HashMap<String, Arc<Leaf>>>,
    /// Held while one is signed, so that two who ask at once get the same.
    signing: tokio::sync::Mutex<()>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Roots<'a> {
    #[serde(rename = "ActiveRootID")]
    active_root_id: &'a str,
    trust_domain: String,
    roots: Vec<ShownRoot<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownRoot<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'static str,
    serial_number: u64,
    #[serde(rename = "SigningKeyID")]
    signing_key_id: &'a str,
    external_trust_domain: &'a str,
    not_before: &'a str,
    not_after: &'a str,
    root_cert: &'a str,
    intermediate_certs: Option<Vec<&'a str>>,
    active: bool,
    private_key_type: &'a str,
    private_key_bits: u32,
    create_index: u64,
    modify_index: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownLeaf<'a> {
    serial_number: String,
    #[serde(rename = "CertPEM")]
    cert_pem: &'a str,
    #[serde(rename = "PrivateKeyPEM")]
    private_key_pem: &'a str,
    service: &'a str,
    #[serde(rename = "ServiceURI")]
    service_uri: &'a str,
    valid_after: String,
    valid_before: String,
    create_index: u64,
    modify_index: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownSettings<'a> {
    provider: &'a str,
    config: &'a Map<String, Value>,
    /// What the provider keeps for itself: nothing here, but clients' tests hand some through.
    state: Option<&'a Map<String, Value>>,
    force_without_cross_signing: bool,
    create_index: u64,
    modify_index: u64,
}

fn shown_root<'a>(root: &'a Root, cluster: &'a str) -> ShownRoot<'a> {
    ShownRoot {
        id: &root.id,
        name: "Consul CA Root Cert",
        serial_number: root.serial,
        signing_key_id: &root.signing_key_id,
        external_trust_domain: cluster,
        not_before: &root.not_before,
        not_after: &root.not_after,
        root_cert: &root.certificate,
        intermediate_certs: root.cross_signed.as_deref().map(|pem| vec![pem]),
        active: root.active,
        private_key_type: &root.key_type,
        private_key_bits: root.key_bits,
        create_index: root.create_index,
        modify_index: root.modify_index,
    }
}

fn shown_roots(authority: &Authority) -> Roots<'_> {
    Roots {
        active_root_id: authority.active().map_or("", |root| root.id.as_str()),
        trust_domain: authority.trust_domain(),
        roots: authority.roots.iter().map(|root| shown_root(root, &authority.cluster)).collect(),
    }
}

/// What a new authority is configured with.
pub(crate) fn default_settings() -> Settings {
    let config = json!({"IntermediateCertTTL": "8760h", "LeafCertTTL": "72h", "RotationPeriod": "2160h"});
    let Value::Object(config) = config else { return empty_settings() };
    Settings { config, ..empty_settings() }
}

fn empty_settings() -> Settings {
    Settings {
        provider: "consul".to_owned(),
        config: Map::new(),
        force_without_cross_signing: false,
        create_index: 0,
        modify_index: 0,
    }
}

pub(super) fn disabled() -> Reply {
    Reply::internal("Connect must be enabled in order to use this endpoint")
}

fn time_of(config: &Map<String, Value>, name: &str, default: Duration) -> Result<Duration, String> {
    match config.get(name) {
        None | Some(Value::Null) => Ok(default),
        Some(Value::String(text)) => duration::parse(text),
        Some(value) => Ok(Duration::from_nanos(value.as_u64().unwrap_or(0))),
    }
}

fn leaf_ttl(config: &Map<String, Value>) -> Result<Duration, String> {
    let ttl = time_of(config, "LeafCertTTL", DEFAULT_LEAF_TTL)?;
    if ttl < SHORTEST_LEAF_TTL {
        return Err("leaf cert TTL must be greater or equal than 1h0m0s".to_owned());
    }
    if ttl > LONGEST_LEAF_TTL {
        return Err(format!("leaf cert TTL must be less than {}", duration::format(LONGEST_LEAF_TTL)));
    }
    Ok(ttl)
}

/// What Consul refuses of a configuration, in its order.
fn check_config(config: &Map<String, Value>) -> Result<(), String> {
    let text = |name: &str| config.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    if text("RootCert").is_some() && text("PrivateKey").is_none() {
        return Err("must provide a private key when providing a root cert".to_owned());
    }
    let leaf = leaf_ttl(config)?;
    let intermediate = time_of(config, "IntermediateCertTTL", INTERMEDIATE_TTL)?;
    if intermediate < SHORTEST_INTERMEDIATE_TTL {
        return Err("Intermediate Cert TTL must be greater or equal than 3h".to_owned());
    }
    if intermediate < 3 * leaf {
        let least = duration::format(3 * leaf);
        return Err(format!(
            "Intermediate Cert TTL must be greater or equal than 3 * LeafCertTTL (>={least})."
        ));
    }
    let bits = match config.get("PrivateKeyBits") {
        None | Some(Value::Null) => Some(256),
        Some(Value::String(text)) => text.parse().ok(),
        Some(value) => value.as_u64(),
    };
    match config.get("PrivateKeyType").map_or(Some("ec"), Value::as_str) {
        Some("ec") if matches!(bits, Some(224 | 256 | 384 | 521)) => Ok(()),
        Some("ec") => Err("EC key length must be one of (224, 256, 384, 521) bits".to_owned()),
        Some("rsa") if matches!(bits, Some(2048 | 4096)) => Ok(()),
        Some("rsa") => Err("RSA key length must be 2048 or 4096 bits".to_owned()),
        _ => Err("private key type must be either 'ec' or 'rsa'".to_owned()),
    }
}

/// All roots, each with what links it to the one before.
fn pem_chain(authority: &Authority) -> String {
    let certificates =
        |root: &Root| [root.certificate.clone(), root.cross_signed.clone().unwrap_or_default()];
    authority.roots.iter().flat_map(certificates).collect()
}

impl Server {
    /// The same roots twice: the servers' list, and the agent's cached one.
    pub(super) async fn connect_roots(&self, call: &Call<'_>, of_agent: bool) -> Handled {
        let options = ReadOptions::parse(&call.query)?;
        let pem = match call.query.filled("pem").filter(|_| !of_agent) {
            None => false,
            Some(text) => go_bool(text).ok_or_else(|| {
                Reply::bad("Bad request: The 'pem' query parameter must be a boolean value")
            })?,
        };
        let refused = |reply: Reply| if of_agent { reply } else { reply.without_answer() };
        let state = self.wait_table(&options, Table::Ca).await;
        let Some(authority) = state.authority().filter(|_| self.connect) else {
            return Err(refused(disabled()));
        };
        if pem {
            // Consul has begun to answer before it knows the headers of a read
            let chain = Reply::encoded(pem_chain(authority).into());
            return Ok(chain.with_header("content-type", "application/pem-certificate-chain"));
        }
        let reply = Reply::json(&shown_roots(authority), call.pretty)
            .at(state.table_index(Table::Ca))
            .with_header("x-consul-knownleader", "false");
        Ok(if of_agent { self.asked.mark("roots".to_owned(), reply) } else { reply })
    }

    pub(super) async fn connect_configuration(&self, call: &Call<'_>) -> Handled {
        if *call.method == Method::PUT {
            return self.connect_configure(call).await;
        }
        let state = self.engine.state();
        let Some(authority) = state.authority().filter(|_| self.connect) else { return Err(disabled()) };
        self.same_datacenter(call)?;
        let settings = &authority.settings;
        let shown = ShownSettings {
            provider: &settings.provider,
            config: &settings.config,
            state: settings.config.get("test_state").and_then(Value::as_object),
            force_without_cross_signing: settings.force_without_cross_signing,
            create_index: settings.create_index,
            modify_index: settings.modify_index,
        };
        Ok(Reply::json(&shown, call.pretty))
    }

    async fn connect_configure(&self, call: &Call<'_>) -> Handled {
        let failed = |Malformed(why)| Reply::bad(&format!("Bad request: Request decode failed: {why}"));
        let mut fields = decode::json(&call.body).and_then(Fields::new).map_err(failed)?;
        let provider = fields.text(&["Provider"]).map_err(failed)?;
        let config = fields.object(&["Config"]).map_err(failed)?.unwrap_or_default();
        let force_without_cross_signing = fields.flag(&["ForceWithoutCrossSigning"]).map_err(failed)?;
        fields.ignore(&["State", "ClusterID", "CreateIndex", "ModifyIndex"]);
        fields.finish().map_err(failed)?;
        let state = self.engine.state();
        let Some(authority) = state.authority().filter(|_| self.connect) else { return Err(disabled()) };
        self.same_datacenter(call)?;
        let given = authority.active().is_some_and(|root| root.external);
        if provider == authority.settings.provider && config == authority.settings.config && !given {
            return Ok(Reply::ok());
        }
        if provider != "consul" {
            let text = format!("could not initialize provider: unknown CA provider {provider:?}");
            return Err(Reply::internal(&text));
        }
        let unfit = |why: &str| Reply::internal(&format!("error configuring provider: {why}"));
        check_config(&config).map_err(|why| unfit(&why))?;
        let text = |name: &str| config.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let failed = |error: authority::Error| unfit(&error.to_string());
        let active = authority.active();
        let root = match (text("RootCert"), text("PrivateKey")) {
            (Some(certificate), Some(key)) => {
                let serial = authority.serial + 1;
                let root = authority::external_root(certificate, key, serial, active);
                let root = root.map_err(|error| match error {
                    authority::Error::NotPem => {
                        Reply::internal(&format!("error parsing root fingerprint: {error}"))
                    }
                    error => failed(error),
                })?;
                Some(root).filter(|root| active.is_none_or(|active| active.id != root.id))
            }
            (None, Some(key)) => Some(self.next_root(authority, Some(key)).map_err(failed)?),
            // one that was given goes with the configuration that gave it
            (_, None) if active.is_some_and(|root| root.external) => {
                Some(self.next_root(authority, None).map_err(failed)?)
            }
            (_, None) => None,
        };
        // the key is in the root; the answer of this endpoint must not show it
        let mut config = config.clone();
        config.remove("PrivateKey");
        let settings = Settings { config, force_without_cross_signing, ..empty_settings() };
        self.set_authority(&authority.cluster, settings, root).await?;
        Ok(Reply::ok())
    }

    fn next_root(&self, authority: &Authority, key: Option<&str>) -> Result<Root, authority::Error> {
        let serial = authority.serial + 1;
        authority::new_root(&authority.cluster, serial, authority::now(), key, authority.active())
    }

    async fn set_authority(
        &self,
        cluster: &str,
        settings: Settings,
        root: Option<Root>,
    ) -> Result<(), Reply> {
        let command = Command::CaSet {
            cluster: cluster.to_owned(),
            settings: Box::new(settings),
            root: root.map(Box::new),
        };
        self.engine.write(command).await?;
        Ok(())
    }

    /// Sees to it that there is an authority, that its root is replaced in time, and that roots that ended are forgotten.
    pub(crate) async fn keep_authority(&self) -> Result<(), String> {
        let state = self.engine.state();
        let told = |error: authority::Error| error.to_string();
        let refused = |reply: Reply| String::from_utf8_lossy(&reply.body).into_owned();
        let Some(authority) = state.authority() else {
            let cluster = self.cluster.unwrap_or_else(uuid::Uuid::new_v4).to_string();
            let root = authority::new_root(&cluster, 1, authority::now(), None, None).map_err(told)?;
            let mut settings = default_settings();
            if self.cluster.is_some() {
                settings.config.insert("cluster_id".to_owned(), Value::from(cluster.as_str()));
            }
            return self.set_authority(&cluster, settings, Some(root)).await.map_err(refused);
        };
        let soon = authority::rfc3339(authority::now() + authority::ROOT_RENEWED_BEFORE.as_secs());
        let ending = authority.active().is_none_or(|root| root.not_after < soon);
        if let Some(root) = authority.active().filter(|root| ending && root.external) {
            // whoever gave it has to give the next one, and may want short ones
            if root.not_after < authority::rfc3339(authority::now() + EXTERNAL_ROOT_WARNED_BEFORE.as_secs()) {
                tracing::warn!(root = %root.id, ends = %root.not_after, "the mesh's root certificate ends soon: give the next one");
            }
        } else if ending {
            let root = self.next_root(authority, None).map_err(told)?;
            tracing::info!(root = %root.id, "the mesh has a new root certificate");
            let fields = || vec![("root", root.id.clone())];
            self.engine.feed().tell(
                Level::Info,
                "agent.connect",
                "the mesh has a new root certificate",
                fields,
            );
            self.set_authority(&authority.cluster, authority.settings.clone(), Some(root))
                .await
                .map_err(refused)?;
        }
        let now = authority::rfc3339(authority::now());
        for root in authority.roots.iter().filter(|root| !root.active && root.not_after < now) {
            let command = Command::CaForgetRoot { id: root.id.clone() };
            self.engine.write(command).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    pub(super) async fn connect_leaf(&self, call: &Call<'_>) -> Handled {
        let options = ReadOptions::parse(&call.query)?;
        if !self.connect {
            return Err(disabled());
        }
        if call.rest.is_empty() {
            return Err(Reply::internal("URI must be either service or agent"));
        }
        self.same_datacenter(call)?;
        let deadline = Instant::now() + options.wait;
        loop {
            let leaf = self.leaf(call.rest).await?;
            if leaf.index > options.index || options.index == 0 || Instant::now() >= deadline {
                return Ok(self.shown_leaf(call, &leaf));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let renewal = Duration::from_secs(leaf.renewed_at().saturating_sub(authority::now()).max(1));
            let seen = self.engine.state().table_index(Table::Ca);
            let interest = Interest::One(Topic::Table(Table::Ca));
            let index_of = |state: &State| state.table_index(Table::Ca);
            self.engine.wait(&interest, seen, left.min(renewal), index_of).await;
            if self.engine.stopping() {
                return Ok(self.shown_leaf(call, &leaf));
            }
        }
    }

    fn shown_leaf(&self, call: &Call<'_>, leaf: &Leaf) -> Reply {
        let serial = format!("{:02x}", leaf.serial);
        let serial = if serial.len() % 2 == 0 { serial } else { format!("0{serial}") };
        let pairs: Vec<&str> = (0..serial.len()).step_by(2).map(|at| &serial[at..at + 2]).collect();
        let shown = ShownLeaf {
            serial_number: pairs.join(":"),
            cert_pem: &leaf.certificate,
            private_key_pem: &leaf.key,
            service: &leaf.service,
            service_uri: &leaf.uri,
            valid_after: authority::rfc3339(leaf.valid_after),
            valid_before: authority::rfc3339(leaf.valid_before),
            create_index: leaf.index,
            modify_index: leaf.index,
        };
        let index = leaf.index.to_string();
        let reply = Reply::json(&shown, call.pretty).with_header("x-consul-index", &index);
        self.asked.mark(format!("leaf {:?}", leaf.service), reply)
    }

    /// The current certificate of a service: a new one when there is none, when its root is no longer the active
    /// one, and when it has lived long enough.
    async fn leaf(&self, service: &str) -> Result<Arc<Leaf>, Reply> {
        let _one_at_a_time = self.leaves.signing.lock().await;
        let state = self.engine.state();
        let Some(authority) = state.authority() else { return Err(disabled()) };
        let Some(root) = authority.active() else {
            return Err(Reply::internal("no active root certificate"));
        };
        let kept = self.leaves.by_service.lock().get(service).cloned();
        if let Some(leaf) = kept.filter(|leaf| leaf.root == root.id && leaf.renewed_at() > authority::now()) {
            return Ok(leaf);
        }
        let written = self.engine.write(Command::CaSerial).await?;
        let Outcome::Serial { number, index } = written.outcome else {
            return Err(Reply::internal("no serial number"));
        };
        let ttl = leaf_ttl(&authority.settings.config).unwrap_or(DEFAULT_LEAF_TTL);
        let subject = Subject { cluster: &authority.cluster, datacenter: self.datacenter(), service };
        let mut leaf = authority::issue(root, &subject, number, ttl, authority::now())
            .map_err(|error| Reply::internal(&error.to_string()))?;
        leaf.index = index;
        let leaf = Arc::new(leaf);
        let mut leaves = self.leaves.by_service.lock();
        if leaves.len() >= MOST_LEAVES {
            leaves.clear();
        }
        leaves.insert(service.to_owned(), leaf.clone());
        Ok(leaf)
    }
}

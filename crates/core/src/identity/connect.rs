//! An identity from Consul's certificate authority: the leaf certificate of a service and the roots, both by blocking queries.

use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::StreamExt as _;
use rustls::crypto::CryptoProvider;
use tokio_util::sync::CancellationToken;

use super::material::{Material, Pem};
use super::verify::fault;
use super::{Identity, Naming, Shared};
use crate::Error;
use crate::consul::wire::{CaRoots, LeafCertificate};
use crate::consul::{Client, Read, watch};

impl Identity {
    /// Gets certificate and roots for `service` and keeps them up to date on `handle`. Waits for them as long as
    /// `limit`: Consul may be starting at the same time.
    ///
    /// # Errors
    /// No usable certificate within `limit`; the source says what Consul answered last.
    pub async fn connect(
        client: &Client,
        service: &str,
        limit: Duration,
        handle: &tokio::runtime::Handle,
    ) -> Result<Self, Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut feed = Feed::new(client, service);
        let mut last = None;
        let first = async {
            loop {
                match feed.next(&provider).await {
                    Ok(material) => return material,
                    Err(error) => {
                        if last.is_none() {
                            tracing::warn!(
                                error = crate::error::chain(&error),
                                "no identity from Consul yet; waiting"
                            );
                        }
                        last = Some(error);
                    }
                }
            }
        };
        let waited = tokio::time::timeout(limit, first).await;
        let Ok(material) = waited else {
            let what =
                format!("of service {service:?} from Consul's certificate authority (waited {limit:?})");
            return Err(match last {
                Some(error) => Error::Tls { what, source: Box::new(error) },
                None => fault(&what, "Consul did not answer"),
            });
        };
        tracing::info!(id = ?material.id().map(ToString::to_string), expires = ?material.expires(), "identity received from Consul");
        let (identity, ended) = Self::new(material, Naming::Connect, provider);
        handle.spawn(keep_fresh(Arc::downgrade(&identity.shared), feed, ended));
        Ok(identity)
    }
}

/// The newest of both.
struct Feed {
    service: String,
    roots: Known<CaRoots>,
    leaf: Known<LeafCertificate>,
}

struct Known<T> {
    replies: futures_util::stream::BoxStream<'static, Result<crate::consul::Reply<T>, Error>>,
    value: Option<T>,
    index: u64,
}

impl<T> Known<T> {
    /// Waits for another state; an error is handed on, and the stream then pauses by itself.
    async fn changed(&mut self) -> Result<(), Error> {
        loop {
            let Some(reply) = self.replies.next().await else { std::future::pending().await };
            let reply = reply?;
            if self.value.is_none() || reply.index != self.index {
                self.index = reply.index;
                self.value = Some(reply.value);
                return Ok(());
            }
        }
    }
}

impl Feed {
    fn new(client: &Client, service: &str) -> Self {
        let name: Arc<str> = service.into();
        let roots =
            watch(
                client,
                Read::default(),
                |client, read| async move { client.connect().ca_roots(&read).await },
            );
        let leaf = watch(client, Read::default(), move |client, read| {
            let name = Arc::clone(&name);
            async move { client.connect().leaf(&name, &read).await }
        });
        Self {
            service: service.to_owned(),
            roots: Known { replies: roots, value: None, index: 0 },
            leaf: Known { replies: leaf, value: None, index: 0 },
        }
    }

    /// Waits for a change of either and puts both together.
    async fn next(&mut self, provider: &Arc<CryptoProvider>) -> Result<Material, Error> {
        loop {
            let (changed, other) = {
                let (roots, leaf) = (pin!(self.roots.changed()), pin!(self.leaf.changed()));
                tokio::select! {
                    changed = roots => (changed, "roots"),
                    changed = leaf => (changed, "leaf"),
                }
            };
            changed?;
            tracing::debug!(changed = other, "news from Consul's certificate authority");
            if let (Some(roots), Some(leaf)) = (&self.roots.value, &self.leaf.value) {
                return self.material(roots, leaf, provider);
            }
        }
    }

    fn material(
        &self,
        roots: &CaRoots,
        leaf: &LeafCertificate,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Material, Error> {
        let name = format!("the leaf certificate of {:?}", self.service);
        let key_name = format!("the key of {name}");
        let pem = Pem {
            own: Some((&leaf.cert_pem, &leaf.private_key_pem)),
            roots: roots.roots.iter().map(|root| root.root_cert.as_str()).collect(),
            trust_domain: Some(&roots.trust_domain),
            names: [&name, &key_name, "the roots of Consul's certificate authority"],
        };
        let material = Material::read(&pem, provider)?;
        let service = material.id().and_then(super::SpiffeId::connect_service);
        if service == Some(&self.service) { Ok(material) } else { Err(fault(&name, "it is for another one")) }
    }
}

async fn keep_fresh(shared: Weak<Shared>, mut feed: Feed, ended: CancellationToken) {
    let provider = match shared.upgrade() {
        Some(shared) => Arc::clone(&shared.provider),
        None => return,
    };
    let mut away = false;
    while let Some(next) = ended.run_until_cancelled(feed.next(&provider)).await {
        let Some(shared) = shared.upgrade() else { return };
        match next {
            Ok(material) => {
                away = false;
                let present = shared.material.load_full();
                if material.same_as(&present) {
                    continue;
                }
                tracing::info!(id = ?material.id().map(ToString::to_string), expires = ?material.expires(), roots = material.roots(), "identity rotated");
                shared.replace(material);
            }
            Err(error) if !away => {
                away = true;
                tracing::warn!(error = crate::error::chain(&error), "keeping the present identity");
            }
            Err(_) => {}
        }
    }
}

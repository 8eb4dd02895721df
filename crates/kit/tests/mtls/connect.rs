//! Identities from Consul's authority, intentions, rotation; each on a real Consul and on the embedded agent.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::Method;
use plinth_agent::Agent;
use plinth_core::consul::{Client, Settings};
use plinth_core::identity::{Clients, Identity, Intentions};
use plinth_kit::mtls::{Mtls, Policy};
use plinth_testbed::consul::RealConsul;
use plinth_testbed::{eventually, free_port, holds, http_client};
use rcgen::KeyPair;
use serde_json::{Value, json};

use crate::{LIMIT, Listener, Load, client, once};

/// How long an answer about intentions counts here.
const CACHE: Duration = Duration::from_millis(300);

pub enum Consul {
    Real(Box<RealConsul>),
    Embedded(Agent),
}

impl Consul {
    pub async fn real() -> Self {
        Self::Real(Box::new(RealConsul::start_with(&["connect { enabled = true }"]).await))
    }

    pub async fn embedded() -> Self {
        let settings =
            plinth_agent::Settings { http_port: 0, connect: true, ..plinth_agent::Settings::default() };
        Self::Embedded(Agent::start(settings).await.unwrap())
    }

    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Real(consul) => consul.addr,
            Self::Embedded(agent) => agent.address(),
        }
    }

    pub fn client(&self) -> Client {
        Client::new(Settings::http(self.address())).unwrap()
    }

    pub async fn identity(&self, service: &str) -> Identity {
        let handle = tokio::runtime::Handle::current();
        Identity::connect(&self.client(), service, Duration::from_secs(30), &handle).await.unwrap()
    }

    pub async fn listener(&self, service: &str) -> (Identity, Listener) {
        let identity = self.identity(service).await;
        let policy = Policy::Intentions(Intentions::new(self.client(), service, CACHE));
        let mtls = Mtls::new(identity.clone(), policy, Clients::Required).unwrap();
        (identity, Listener::start(mtls).await)
    }

    /// Sets what may happen between two services; returns the intention's id.
    pub async fn intend(&self, source: &str, destination: &str, action: &str) -> String {
        let body = json!({"SourceName": source, "DestinationName": destination, "SourceType": "consul", "Action": action});
        let answer = self.send(Method::POST, "/v1/connect/intentions", &body).await;
        answer["ID"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    pub async fn forget(&self, intention: &str) {
        self.send(Method::DELETE, &format!("/v1/connect/intentions/{intention}"), &Value::Null).await;
    }

    async fn send(&self, method: Method, path: &str, body: &Value) -> Value {
        let url = format!("http://{}{path}", self.address());
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = http_client::send(method, &url, &[], body).await.unwrap();
        assert_eq!(answer.status(), 200, "{path}: {:?}", answer.body());
        serde_json::from_slice(answer.body()).unwrap_or(Value::Null)
    }
}

macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        mod on_real_consul {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(super::Consul::real().await).await;
                }
            )*
        }
        mod on_embedded_agent {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(super::Consul::embedded().await).await;
                }
            )*
        }
    };
}

scenarios!(identities_and_intentions, a_new_root_loses_no_request);

async fn identities_and_intentions(consul: Consul) {
    let (server, listener) = consul.listener("registry-service").await;
    let caller = consul.identity("shop").await;
    let current = caller.current();
    let id = current.id().unwrap().clone();
    assert_eq!(id.connect_service(), Some("shop"));
    assert_eq!(current.trust_domain(), Some(id.trust_domain()));
    assert!(current.expires().unwrap() > jiff::Timestamp::now());
    assert_eq!(server.current().trust_domain(), current.trust_domain());

    // Without ACLs everything is allowed until an intention says otherwise.
    assert_eq!(once(Some(&caller), "registry-service", &listener.url()).await.unwrap(), id.to_string());
    let refused = once(Some(&caller), "config-service", &listener.url()).await.unwrap_err();
    assert!(refused.contains("expected the service \"config-service\""), "{refused}");

    // A connection that is open when the intention comes ends with the next look, and no new one is let in.
    let kept = client(Some(&caller), "registry-service");
    crate::ask(&kept, &listener.url()).await.unwrap();
    let intention = consul.intend("shop", "registry-service", "deny").await;
    eventually("the caller is refused", LIMIT, || async {
        match crate::ask(&kept, &listener.url()).await {
            Ok(_) => Err("still let in"),
            Err(_) => Ok(()),
        }
    })
    .await;
    assert!(once(Some(&caller), "registry-service", &listener.url()).await.is_err());
    assert!(listener.counted("intention") >= 1.0, "it is counted");
    // Others are not concerned.
    let other = consul.identity("desk").await;
    once(Some(&other), "registry-service", &listener.url()).await.unwrap();

    consul.forget(&intention).await;
    eventually("the caller is let in again", LIMIT, || async {
        once(Some(&caller), "registry-service", &listener.url()).await
    })
    .await;
}

/// A key for the authority's new root, as Consul reads them.
fn root_key() -> String {
    KeyPair::generate().unwrap().serialize_pem()
}

async fn a_new_root_loses_no_request(consul: Consul) {
    let (server, listener) = consul.listener("web").await;
    let caller = consul.identity("shop").await;
    let before = caller.current();
    let load = Load::start(&caller, "web", listener.url());
    // Certificates tell their end in whole seconds, and that is how a new one is told from the first here.
    let begun = Instant::now();
    eventually("the clock has moved on", LIMIT, || async {
        holds(begun.elapsed() > Duration::from_millis(2100), "not yet")
    })
    .await;
    let config = json!({"Provider": "consul", "Config": {
        "PrivateKey": root_key(), "LeafCertTTL": "72h", "RotationPeriod": "2160h", "IntermediateCertTTL": "8760h",
    }});
    consul.send(Method::PUT, "/v1/connect/ca/configuration", &config).await;
    let started = Instant::now();
    // Consul spreads the new certificates over half a minute.
    eventually("both have certificates of the new root", Duration::from_secs(90), || {
        let (server, caller) = (server.current(), caller.current());
        let renewed = server.expires() > before.expires() && caller.expires() > before.expires();
        let state = format!("{:?} {:?} {:?}", before.expires(), server.expires(), caller.expires());
        async move { holds(renewed && server.roots() == 2 && caller.roots() == 2, state) }
    })
    .await;
    let sent = load.sent();
    eventually("calls went on", LIMIT, || {
        let more = load.sent() - sent;
        async move { holds(more > 100, more.to_string()) }
    })
    .await;
    let sent = load.end().await;
    eprintln!("rotated within {:?}, {sent} requests, none failed", started.elapsed());
    assert!(caller.rotations() >= 1 && server.rotations() >= 1);
    let fresh = consul.identity("late").await;
    once(Some(&fresh), "web", &listener.url()).await.expect("who trusts both roots from the start");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_known_intention_counts_while_consul_is_away() {
    let mut consul = Consul::real().await;
    let (_server, listener) = consul.listener("web").await;
    let (caller, stranger) = (consul.identity("shop").await, consul.identity("desk").await);
    let denied = consul.identity("intruder").await;
    consul.intend("intruder", "web", "deny").await;
    once(Some(&caller), "web", &listener.url()).await.unwrap();
    assert!(once(Some(&denied), "web", &listener.url()).await.is_err());
    let Consul::Real(real) = &mut consul else { unreachable!() };
    real.kill();
    tokio::time::sleep(CACHE * 2).await;
    once(Some(&caller), "web", &listener.url()).await.expect("who was let in still is");
    assert!(once(Some(&denied), "web", &listener.url()).await.is_err(), "who was not is not");
    assert!(
        once(Some(&stranger), "web", &listener.url()).await.is_err(),
        "nobody has ever said a word on this one"
    );
    assert_eq!(listener.counted("intention_unknown"), 1.0);
}

#[tokio::test]
async fn without_consul_there_is_no_identity() {
    let away = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let client = Client::new(Settings::http(away)).unwrap();
    let handle = tokio::runtime::Handle::current();
    let error = Identity::connect(&client, "web", Duration::from_secs(2), &handle).await.unwrap_err();
    let error = plinth_core::error::chain(&error);
    assert!(
        error.contains("service \"web\"") && error.contains("2s") && error.contains("refused"),
        "{error}"
    );
    // Consul is there, but its mesh is off: its own words.
    let agent = plinth_agent::Settings { http_port: 0, ..plinth_agent::Settings::default() };
    let agent = Agent::start(agent).await.unwrap();
    let client = Client::new(Settings::http(agent.address())).unwrap();
    let error = Identity::connect(&client, "web", Duration::from_secs(2), &handle).await.unwrap_err();
    let error = plinth_core::error::chain(&error);
    assert!(error.contains("Connect must be enabled"), "{error}");
}

//! A client of services with mutual TLS, with an identity from Consul's authority.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use plinth_core::consul;
use plinth_core::identity::{Identity, MeshConnector};
use plinth_testbed::http_client;
use serde_json::Value;

/// Longest time for a connection.
const CONNECT: Duration = Duration::from_secs(5);

pub struct Mesh {
    identity: Identity,
}

impl Mesh {
    /// The identity of `service`, whoever that is.
    pub async fn of(consul: SocketAddr, service: &str) -> Self {
        let client = consul::Client::new(consul::Settings::http(consul)).unwrap();
        let handle = tokio::runtime::Handle::current();
        let identity = Identity::connect(&client, service, Duration::from_secs(30), &handle).await.unwrap();
        Self { identity }
    }

    pub async fn get(&self, service: &str, url: &str) -> Result<Response<Bytes>, String> {
        self.send(Method::GET, service, url, &[], "").await
    }

    /// One request, on a connection of its own, to this service and no other.
    pub async fn send(
        &self,
        method: Method,
        service: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Response<Bytes>, String> {
        let told = |error: &dyn std::error::Error| format!("{url}: {}", plinth_core::error::chain(error));
        let connector =
            MeshConnector::new(Some(&self.identity), service, CONNECT).map_err(|error| told(&error))?;
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap();
        let exchange = async {
            let answer = client.request(request).await.map_err(|error| told(&error))?;
            let (head, body) = answer.into_parts();
            let body = body.collect().await.map_err(|error| told(&error))?.to_bytes();
            Ok(Response::from_parts(head, body))
        };
        tokio::time::timeout(CONNECT * 2, exchange).await.map_err(|error| told(&error))?
    }
}

/// The certificate of a service and the roots as files, as an operator gets them from Consul: certificate, key, roots.
pub async fn files(consul: SocketAddr, service: &str, folder: &Path) -> [PathBuf; 3] {
    let ask = async |path: &str| -> Value {
        let answer = http_client::get(&format!("http://{consul}/v1/agent/connect/ca/{path}")).await.unwrap();
        serde_json::from_slice(answer.body()).unwrap()
    };
    let (leaf, roots) = (ask(&format!("leaf/{service}")).await, ask("roots").await);
    let write = |name: &str, text: &Value| {
        let path = folder.join(format!("{service}-{name}.pem"));
        std::fs::write(&path, text.as_str().unwrap()).unwrap();
        path
    };
    [
        write("cert", &leaf["CertPEM"]),
        write("key", &leaf["PrivateKeyPEM"]),
        write("ca", &roots["Roots"][0]["RootCert"]),
    ]
}

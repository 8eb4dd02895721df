use serde::{Deserialize, Serialize};

use super::or_default;
use crate::Secret;

/// The mesh's trusted roots.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CaRoots {
    #[serde(rename = "ActiveRootID", deserialize_with = "or_default")]
    pub active_root_id: String,
    #[serde(deserialize_with = "or_default")]
    pub trust_domain: String,
    #[serde(deserialize_with = "or_default")]
    pub roots: Vec<CaRoot>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CaRoot {
    #[serde(rename = "ID", deserialize_with = "or_default")]
    pub id: String,
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// PEM.
    #[serde(rename = "RootCert", deserialize_with = "or_default")]
    pub root_cert: String,
    pub active: bool,
}

/// A service's certificate and key (PEM); the key never shows in `Debug`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct LeafCertificate {
    #[serde(default)]
    pub serial_number: String,
    #[serde(rename = "CertPEM")]
    pub cert_pem: String,
    #[serde(rename = "PrivateKeyPEM", deserialize_with = "secret")]
    pub private_key_pem: Secret,
    pub service: String,
    #[serde(rename = "ServiceURI", default)]
    pub service_uri: String,
    pub valid_after: jiff::Timestamp,
    pub valid_before: jiff::Timestamp,
}

fn secret<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    String::deserialize(deserializer).map(Secret::new)
}

/// Asks whether a client certificate may talk to `target`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AuthorizeRequest {
    pub target: String,
    #[serde(rename = "ClientCertURI")]
    pub client_cert_uri: String,
    pub client_cert_serial: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AuthorizeResponse {
    pub authorized: bool,
    #[serde(deserialize_with = "or_default")]
    pub reason: String,
}

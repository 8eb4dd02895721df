//! What only the gateway sees wrong in a file that is valid for Kong. `plinth gateway check` says it before the file is deployed;
//! the same is found again when it is applied.

use std::sync::Arc;

use plinth_kong::{Config, Service};

use super::tls_spec;
use crate::certificates;
use crate::client::{TlsSpec, TlsTarget, mesh_service};
use crate::error::Error;
use crate::plugins;
use crate::router::Router;
use crate::upstream::Definition;

/// Every fault. What refers to a vault that has no value here is not looked at: it may have one where the gateway runs.
#[must_use]
pub fn faults(config: &Config) -> Vec<Error> {
    let config = &without_unresolved(config);
    let mut faults: Vec<Error> = Vec::new();
    faults.extend(Router::new(config).err().map(Error::from));
    for upstream in &config.upstreams {
        if let Err(source) = Definition::kong(upstream) {
            faults.push(Error::Upstream { upstream: upstream.name.clone(), source });
        }
    }
    let tls = config.services.iter().filter_map(|service| service_fault(config, service));
    faults.extend(tls);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    faults.extend(config.certificates.iter().filter_map(|one| certificates::given(one, &provider).err()));
    let credentials = plugins::credential_faults(config);
    if !credentials.is_empty() {
        faults.push(Error::Plugins(credentials));
    }
    faults
}

/// Whether the gateway has an identity for the mesh is a matter of its settings.
fn service_fault(config: &Config, service: &Service) -> Option<Error> {
    let checked = mesh_service(&service.tags, &service.host).and_then(|mesh| {
        if mesh.is_none() && service.protocol.is_tls() {
            TlsTarget::new(&TlsSpec { mesh, ..tls_spec(config, service) })?;
        }
        Ok(())
    });
    checked.err().map(|source| Error::UpstreamTls { service: service.label().to_owned(), source })
}

fn without_unresolved(config: &Config) -> Config {
    let open = |text: &str| text.starts_with("{vault://");
    let mut known = config.clone();
    known.certificates.retain(|one| !open(&one.cert) && !open(&one.key));
    known.ca_certificates.retain(|one| !open(&one.cert));
    known
}

#[cfg(test)]
mod tests {
    use plinth_kong::{Format, Secrets};

    use super::*;

    fn of(text: &str) -> Vec<String> {
        let secrets = Secrets::optional(|_| None);
        let loaded =
            plinth_kong::load_with(&format!("_format_version: '3.0'\n{text}"), Format::Yaml, &secrets);
        let faults = faults(&loaded.unwrap_or_else(|faults| panic!("{faults}")).config);
        faults.iter().map(|fault| plinth_kit::problem::chain(fault)).collect()
    }

    #[test]
    fn all_faults_come_at_once() {
        let found = of("
services: [{name: s, host: h, tags: [plinth.mtsl]}]
upstreams: [{name: a, tags: ['plinth.breaker:ratoi=5']}, {name: b, tags: [plinth.algorithm:best]}, {name: c, tags: [mine]}]
consumers: [{username: u, jwt_secrets: [{key: k, algorithm: RS256, rsa_public_key: \"-----BEGIN PUBLIC KEY-----\\nMAA=\\n-----END PUBLIC KEY-----\"}]}]
");
        for (fault, word) in found.iter().zip(["plinth.breaker", "plinth.algorithm", "plinth.mtsl", "'k'"]) {
            assert!(fault.contains(word), "{fault}");
        }
        assert_eq!(found.len(), 4, "{found:?}");
    }

    #[test]
    fn what_is_not_known_here_is_left_alone() {
        let file = "
services: [{name: s, host: a.service.consul, tags: [plinth.mtls]}]
upstreams: [{name: a, tags: ['plinth.breaker:ratio=5']}]
certificates: [{cert: '{vault://env/cert}', key: '{vault://env/key}', snis: [{name: a.example}]}]
";
        assert_eq!(of(file), Vec::<String>::new());
    }
}

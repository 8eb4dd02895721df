//! What authentication plugins share: the directory of consumers and credentials, and how a request is told who it is.

mod keys;
mod passwords;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use plinth_kong::{Acl, ClientType, Config, Consumer, ConsumerBy, JwtAlgorithm, JwtSecret};
use uuid::Uuid;

use crate::context::{Credential, EarlyResponse, RequestContext};

pub(super) use keys::VerifyingKey;
pub(super) use passwords::Password;

const CONSUMER_ID: HeaderName = HeaderName::from_static("x-consumer-id");
const CONSUMER_CUSTOM_ID: HeaderName = HeaderName::from_static("x-consumer-custom-id");
const CONSUMER_USERNAME: HeaderName = HeaderName::from_static("x-consumer-username");
const CREDENTIAL: HeaderName = HeaderName::from_static("x-credential-identifier");
const ANONYMOUS: HeaderName = HeaderName::from_static("x-anonymous-consumer");

/// How secrets are kept and compared.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    out
}

/// Map with short keys from the configuration.
pub(super) type Names<T> = HashMap<Box<str>, T, RandomState>;

/// A consumer with the headers the upstream gets, made once.
#[derive(Debug)]
pub(super) struct Identity {
    pub consumer: Arc<Consumer>,
    id: HeaderValue,
    custom_id: Option<HeaderValue>,
    username: Option<HeaderValue>,
}

impl Identity {
    fn new(consumer: &Arc<Consumer>) -> Identity {
        let value = |text: &str| HeaderValue::from_bytes(text.as_bytes()).ok();
        Identity {
            consumer: Arc::clone(consumer),
            id: value(&consumer.id.to_string()).unwrap_or(HeaderValue::from_static("")),
            custom_id: consumer.custom_id.as_deref().and_then(value),
            username: consumer.username.as_deref().and_then(value),
        }
    }

    fn announce(&self, headers: &mut HeaderMap) {
        headers.insert(CONSUMER_ID, self.id.clone());
        put(headers, CONSUMER_CUSTOM_ID, self.custom_id.as_ref());
        put(headers, CONSUMER_USERNAME, self.username.as_ref());
    }
}

/// Sets or removes: a copy sent by the client never passes.
fn put(headers: &mut HeaderMap, name: HeaderName, value: Option<&HeaderValue>) {
    match value {
        Some(value) => headers.insert(name, value.clone()),
        None => headers.remove(name),
    };
}

/// An accepted kind of credential, ready for the request.
#[derive(Debug)]
pub(super) struct Known {
    pub identity: Arc<Identity>,
    credential: Credential,
    identifier: Option<HeaderValue>,
}

impl Known {
    fn new(identity: Arc<Identity>, id: Uuid, identifier: &str) -> Known {
        let credential = Credential { id: id.to_string().into(), identifier: identifier.into() };
        Known { identity, credential, identifier: HeaderValue::from_str(identifier).ok() }
    }

    /// The request is this consumer's from here on.
    pub fn accept(&self, ctx: &mut RequestContext) {
        let headers = &mut ctx.head.headers;
        self.identity.announce(headers);
        put(headers, CREDENTIAL, self.identifier.as_ref());
        headers.remove(ANONYMOUS);
        ctx.consumer = Some(Arc::clone(&self.identity.consumer));
        ctx.credential = Some(self.credential.clone());
    }
}

/// The request is from here on whoever an outside identity says, if it is one of ours.
pub(super) fn accept(ctx: &mut RequestContext, identity: Option<&Arc<Identity>>, credential: Credential) {
    let headers = &mut ctx.head.headers;
    match identity {
        Some(identity) => identity.announce(headers),
        None => {
            for name in [CONSUMER_ID, CONSUMER_CUSTOM_ID, CONSUMER_USERNAME] {
                headers.remove(name);
            }
        }
    }
    put(headers, CREDENTIAL, HeaderValue::from_str(&credential.identifier).ok().as_ref());
    headers.remove(ANONYMOUS);
    ctx.consumer = identity.map(|identity| Arc::clone(&identity.consumer));
    ctx.credential = Some(credential);
}

/// An application of the oauth2 plugin.
#[derive(Debug)]
pub(super) struct OAuth2Client {
    pub known: Known,
    pub id: Uuid,
    pub kind: ClientType,
    /// SHA-256 of its secret.
    pub secret: [u8; 32],
    pub redirect_uris: Vec<String>,
}

impl OAuth2Client {
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            ClientType::Confidential => "confidential",
            ClientType::Public => "public",
        }
    }
}

/// A jwt credential and the key its tokens are verified with.
#[derive(Debug)]
pub(super) struct JwtCredential {
    pub known: Known,
    pub algorithm: JwtAlgorithm,
    /// `None`: the secret is not base64 though the plugin says so; its tokens get "Invalid key/secret".
    pub key: Option<VerifyingKey>,
}

/// An API key's owner.
#[derive(Debug)]
pub(super) struct KeyCredential {
    pub known: Known,
    pub expires: Option<Instant>,
}

/// A user name's owner and password.
#[derive(Debug)]
pub(super) struct BasicCredential {
    pub known: Known,
    pub password: Password,
}

/// A user name's owner and signing secret.
#[derive(Debug)]
pub(super) struct HmacCredential {
    pub known: Known,
    /// `None`: not given in the file, so nobody can sign with it.
    pub secret: Option<Secret>,
}

/// Bytes that `Debug` does not show.
pub(super) struct Secret(pub Box<[u8]>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// The groups of a consumer.
#[derive(Debug)]
pub(super) struct Groups {
    pub names: BTreeSet<String>,
    /// `X-Consumer-Groups`: in the file's order.
    pub header: Option<HeaderValue>,
}

/// Consumers and credentials of one configuration.
pub(super) struct Directory {
    by_name: HashMap<String, Arc<Identity>>,
    identities: Vec<Arc<Identity>>,
    pub oauth2: Arc<Names<Arc<OAuth2Client>>>,
    /// By `secret_is_base64`.
    jwt: [Arc<Names<Arc<JwtCredential>>>; 2],
    pub keys: Arc<Names<KeyCredential>>,
    pub basic: Arc<Names<BasicCredential>>,
    pub hmac: Arc<Names<HmacCredential>>,
    pub groups: Arc<HashMap<Uuid, Groups>>,
}

impl Directory {
    pub fn new(config: &Config, faults: &mut Vec<String>) -> Directory {
        let by_id: HashMap<Uuid, Arc<Identity>> = config
            .consumers
            .iter()
            .map(|consumer| (consumer.id, Arc::new(Identity::new(consumer))))
            .collect();
        let mut by_name = HashMap::new();
        for (id, identity) in &by_id {
            by_name.insert(id.to_string(), Arc::clone(identity));
        }
        // A username that looks like another's id loses against the id, as in Kong.
        for identity in by_id.values() {
            if let Some(name) = &identity.consumer.username {
                by_name.entry(name.clone()).or_insert_with(|| Arc::clone(identity));
            }
        }
        let plain = jwt_credentials(config, &by_id, false, faults);
        let decoded = jwt_credentials(config, &by_id, true, &mut Vec::new());
        let now = Instant::now();
        let keys = config.keyauth_credentials.iter().filter_map(|credential| {
            let identity = Arc::clone(by_id.get(&credential.consumer)?);
            let known = Known::new(identity, credential.id, &credential.id.to_string());
            // Kong reads a ttl of 0 as none.
            let ttl = credential.ttl.filter(|ttl| *ttl > 0).map(Duration::from_secs);
            let expires = ttl.and_then(|ttl| now.checked_add(ttl));
            Some((credential.key.as_str().into(), KeyCredential { known, expires }))
        });
        Directory {
            jwt: [Arc::new(plain), Arc::new(decoded)],
            keys: Arc::new(keys.collect()),
            basic: Arc::new(basic_credentials(config, &by_id)),
            hmac: Arc::new(hmac_credentials(config, &by_id)),
            oauth2: Arc::new(oauth2_clients(config, &by_id)),
            groups: Arc::new(groups(&config.acls)),
            identities: by_id.into_values().collect(),
            by_name,
        }
    }

    pub fn jwt(&self, secret_is_base64: bool) -> Arc<Names<Arc<JwtCredential>>> {
        Arc::clone(&self.jwt[usize::from(secret_is_base64)])
    }

    /// Consumers by what an outside identity may call them; of two who fit, the first kind counts.
    pub fn consumers_by(&self, kinds: &[ConsumerBy]) -> Arc<Names<Arc<Identity>>> {
        let mut names = Names::default();
        for kind in kinds.iter().rev() {
            for identity in &self.identities {
                let name = match kind {
                    ConsumerBy::Username => &identity.consumer.username,
                    ConsumerBy::CustomId => &identity.consumer.custom_id,
                };
                if let Some(name) = name {
                    names.insert(name.as_str().into(), Arc::clone(identity));
                }
            }
        }
        Arc::new(names)
    }

    pub fn consumers_by_id(&self) -> Arc<Names<Arc<Identity>>> {
        let named = self.identities.iter();
        Arc::new(
            named.map(|identity| (identity.consumer.id.to_string().into(), Arc::clone(identity))).collect(),
        )
    }

    /// How a plugin's failures end.
    pub fn fallback(&self, anonymous: Option<&str>) -> Fallback {
        match anonymous {
            None => Fallback::Refuse,
            Some(name) => {
                self.by_name.get(name).map_or(Fallback::Broken, |who| Fallback::Anonymous(Arc::clone(who)))
            }
        }
    }
}

fn oauth2_clients(config: &Config, consumers: &HashMap<Uuid, Arc<Identity>>) -> Names<Arc<OAuth2Client>> {
    let known = config.oauth2_credentials.iter().filter_map(|credential| {
        let identity = Arc::clone(consumers.get(&credential.consumer)?);
        let secret = credential.client_secret.as_deref().unwrap_or_default();
        let client = OAuth2Client {
            known: Known::new(identity, credential.id, &credential.client_id),
            id: credential.id,
            kind: credential.client_type,
            secret: sha256(secret.as_bytes()),
            redirect_uris: credential.redirect_uris.clone(),
        };
        Some((credential.client_id.as_str().into(), Arc::new(client)))
    });
    known.collect()
}

fn basic_credentials(config: &Config, consumers: &HashMap<Uuid, Arc<Identity>>) -> Names<BasicCredential> {
    let known = config.basicauth_credentials.iter().filter_map(|credential| {
        let identity = Arc::clone(consumers.get(&credential.consumer)?);
        let password = if config.transform {
            Password::hash(&credential.password, &identity.id)
        } else {
            Password::hashed(&credential.password, identity.id.clone())
        };
        let Some(password) = password else {
            tracing::warn!(
                username = credential.username,
                "basic-auth: the password is no SHA-1 hash though the file says _transform: false; it fits nothing"
            );
            return None;
        };
        let known = Known::new(identity, credential.id, &credential.username);
        Some((credential.username.as_str().into(), BasicCredential { known, password }))
    });
    known.collect()
}

fn hmac_credentials(config: &Config, consumers: &HashMap<Uuid, Arc<Identity>>) -> Names<HmacCredential> {
    let known = config.hmacauth_credentials.iter().filter_map(|credential| {
        let identity = Arc::clone(consumers.get(&credential.consumer)?);
        let known = Known::new(identity, credential.id, &credential.username);
        let secret = credential.secret.as_ref().map(|secret| Secret(secret.as_bytes().into()));
        Some((credential.username.as_str().into(), HmacCredential { known, secret }))
    });
    known.collect()
}

fn groups(acls: &[Arc<Acl>]) -> HashMap<Uuid, Groups> {
    let mut lists: HashMap<Uuid, Vec<&str>> = HashMap::new();
    for acl in acls {
        lists.entry(acl.consumer).or_default().push(&acl.group);
    }
    let made = lists.into_iter().map(|(consumer, list)| {
        let header = HeaderValue::from_bytes(list.join(", ").as_bytes()).ok();
        (consumer, Groups { names: list.into_iter().map(str::to_owned).collect(), header })
    });
    made.collect()
}

fn jwt_credentials(
    config: &Config,
    consumers: &HashMap<Uuid, Arc<Identity>>,
    base64: bool,
    faults: &mut Vec<String>,
) -> Names<Arc<JwtCredential>> {
    let mut credentials = Names::default();
    for secret in &config.jwt_secrets {
        let Some(identity) = consumers.get(&secret.consumer) else { continue };
        let key = match verifying_key(secret, base64) {
            Ok(key) => key,
            Err(why) => {
                faults
                    .push(format!("jwt_secrets '{}': in 'rsa_public_key': invalid key ({why})", secret.key));
                continue;
            }
        };
        let known = Known::new(Arc::clone(identity), secret.id, &secret.key);
        let credential = JwtCredential { known, algorithm: secret.algorithm, key };
        credentials.insert(secret.key.as_str().into(), Arc::new(credential));
    }
    credentials
}

fn verifying_key(secret: &JwtSecret, base64: bool) -> Result<Option<VerifyingKey>, String> {
    if !VerifyingKey::is_hmac(secret.algorithm) {
        let pem = secret.rsa_public_key.as_deref().unwrap_or_default();
        return VerifyingKey::public(secret.algorithm, pem).map(Some);
    }
    let text = secret.secret.as_deref().unwrap_or_default();
    Ok(if base64 {
        keys::decode_base64(text).map(|bytes| VerifyingKey::hmac(&bytes))
    } else {
        Some(VerifyingKey::hmac(text.as_bytes()))
    })
}

/// What happens when authentication fails.
#[derive(Debug)]
pub(super) enum Fallback {
    Refuse,
    Anonymous(Arc<Identity>),
    /// `anonymous` names nobody: Kong answers 500.
    Broken,
}

impl Fallback {
    /// With `anonymous` set, a plugin leaves alone a request that another one has authenticated.
    pub fn skips(&self, ctx: &RequestContext) -> bool {
        !matches!(self, Fallback::Refuse) && ctx.credential.is_some()
    }

    pub fn failed(
        &self,
        ctx: &mut RequestContext,
        refusal: impl FnOnce() -> EarlyResponse,
    ) -> Option<EarlyResponse> {
        match self {
            Fallback::Refuse => Some(refusal()),
            Fallback::Broken => {
                Some(EarlyResponse::error(StatusCode::INTERNAL_SERVER_ERROR, "An unexpected error occurred"))
            }
            Fallback::Anonymous(identity) => {
                let headers = &mut ctx.head.headers;
                identity.announce(headers);
                headers.remove(CREDENTIAL);
                headers.insert(ANONYMOUS, HeaderValue::from_static("true"));
                ctx.consumer = Some(Arc::clone(&identity.consumer));
                ctx.credential = None;
                None
            }
        }
    }
}

/// Values of one query parameter, decoded (`+` is a space).
pub(super) fn query_values<'q>(query: &'q str, name: &'q str) -> impl Iterator<Item = String> + 'q {
    query_pairs(query).filter(move |(key, _)| key == name).map(|(_, value)| value.unwrap_or_default())
}

/// All parameters of a query, decoded; no value where there is no `=`.
pub(super) fn query_pairs(query: &str) -> impl Iterator<Item = (String, Option<String>)> + '_ {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| match pair.split_once('=') {
        Some((key, value)) => (decode(key), Some(decode(value))),
        None => (decode(pair), None),
    })
}

fn decode(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

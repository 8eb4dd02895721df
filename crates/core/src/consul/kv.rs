//! Keys and values.

use bytes::Bytes;
use http::Method;

use super::call::Call;
use super::wire::KvPair;
use super::{Client, Read, Reply};
use crate::Error;

/// Largest value Consul takes.
pub const MAX_VALUE: usize = 512 << 10;

#[derive(Debug, Clone)]
pub struct Kv {
    client: Client,
}

/// Conditions of a put; the default writes unconditionally with flags 0.
#[derive(Debug, Clone, Default)]
pub struct PutOptions {
    pub flags: u64,
    /// Write only if the key's modify index is this (0: only if the key is missing).
    pub cas: Option<u64>,
    /// Take the lock with this session.
    pub acquire: Option<String>,
    /// Give the lock back.
    pub release: Option<String>,
}

impl Kv {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    /// A missing key is `None`, with an index that can be blocked on.
    pub async fn get(&self, key: &str, read: &Read) -> Result<Reply<Option<KvPair>>, Error> {
        let answer = self.client.send(Call::get("/v1/kv/").key(key).read(read).also(&[404])).await?;
        if answer.status() == 404 {
            return Ok(answer.with(None));
        }
        let reply: Reply<Vec<KvPair>> = answer.reply()?;
        Ok(reply.map(|pairs| pairs.into_iter().next()))
    }

    /// Everything whose key starts with `prefix`, in byte order.
    pub async fn list(&self, prefix: &str, read: &Read) -> Result<Reply<Vec<KvPair>>, Error> {
        let call = Call::get("/v1/kv/").key(prefix).flag("recurse").read(read).also(&[404]);
        let answer = self.client.send(call).await?;
        if answer.status() == 404 { Ok(answer.with(Vec::new())) } else { answer.reply() }
    }

    /// Keys below `prefix`, cut after the first `separator` behind it.
    pub async fn keys(
        &self,
        prefix: &str,
        separator: Option<&str>,
        read: &Read,
    ) -> Result<Reply<Vec<String>>, Error> {
        let mut call = Call::get("/v1/kv/").key(prefix).flag("keys").read(read).also(&[404]);
        if let Some(separator) = separator {
            call = call.pair("separator", separator);
        }
        let answer = self.client.send(call).await?;
        if answer.status() == 404 { Ok(answer.with(Vec::new())) } else { answer.reply() }
    }

    /// False when a condition in `options` did not hold. At most 512 KiB.
    pub async fn put(&self, key: &str, value: Bytes, options: PutOptions) -> Result<bool, Error> {
        let mut call = Call::put("/v1/kv/").key(key).bytes(value);
        if options.flags != 0 {
            call = call.pair("flags", &options.flags.to_string());
        }
        if let Some(index) = options.cas {
            call = call.pair("cas", &index.to_string());
        }
        if let Some(session) = &options.acquire {
            call = call.pair("acquire", session);
        }
        if let Some(session) = &options.release {
            call = call.pair("release", session);
        }
        self.client.send(call).await?.json()
    }

    /// True when the key (or with `recurse` everything below) is gone; false when `cas` did not match.
    pub async fn delete(&self, key: &str, cas: Option<u64>, recurse: bool) -> Result<bool, Error> {
        let mut call = Call::new(Method::DELETE, "/v1/kv/").key(key);
        if let Some(index) = cas {
            call = call.pair("cas", &index.to_string());
        }
        if recurse {
            call = call.flag("recurse");
        }
        self.client.send(call).await?.json()
    }
}

//! request-transformer: method, path, headers, body and query as the upstream wants them.

pub(super) mod edits;

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use plinth_kong::{Lookup, RenderError, RequestTransformerConfig, Template};
use serde_json::Value;

use super::auth::query_values;
use super::body::{Kind, Multipart, Object, Pairs, Parsed};
use crate::context::{EarlyResponse, RequestContext};
use edits::{Edits, Text, Texts, header_value};

#[derive(Debug)]
pub(super) struct RequestTransformer {
    method: Option<Method>,
    /// The whole upstream path.
    uri: Option<Text<String>>,
    headers: Edits<HeaderName, HeaderValue>,
    body: Edits<String, String>,
    query: Edits<String, String>,
    /// Every template there is; they see the request as it was before any edit.
    templates: Vec<Template>,
}

/// Kong's plugin would fail here; the answer is 500.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("a template cannot be evaluated")]
    Render(#[from] RenderError),
    #[error("a template gave no header value")]
    HeaderValue,
    #[error("a template gave a path that does not begin with /")]
    Path,
}

impl RequestTransformer {
    pub fn new(config: &RequestTransformerConfig) -> Result<RequestTransformer, String> {
        let mut templates = Vec::new();
        let replace = &config.replace.edits;
        let headers = Edits::headers(
            &config.remove.headers,
            &config.rename.headers,
            [&replace.headers, &config.add.headers, &config.append.headers],
            &mut templates,
        )?;
        let body = Edits::names(
            &config.remove.body,
            &config.rename.body,
            [&replace.body, &config.add.body, &config.append.body],
            &mut templates,
        )?;
        let query = Edits::names(
            &config.remove.querystring,
            &config.rename.querystring,
            [&replace.querystring, &config.add.querystring, &config.append.querystring],
            &mut templates,
        )?;
        let uri = config.replace.uri.as_deref();
        let uri = uri.map(|uri| Text::of(uri, &mut templates, |text| Ok(text.to_owned()))).transpose()?;
        let method = config.http_method.as_ref().map(|method| Method::from_bytes(method.as_bytes()));
        Ok(RequestTransformer {
            method: method.transpose().map_err(|_| "invalid http_method".to_owned())?,
            uri,
            headers,
            body,
            query,
            templates,
        })
    }

    pub fn looks_into_bodies(&self) -> bool {
        !self.body.is_empty() || self.form_becomes_query().is_some()
    }

    pub fn wants_body(&self, ctx: &RequestContext) -> bool {
        let kind = Kind::of(&ctx.head.headers);
        (!self.body.is_empty() && kind.is_some())
            || (self.form_becomes_query().is_some() && kind == Some(Kind::Form))
    }

    /// A method without a body takes the form along in the query.
    fn form_becomes_query(&self) -> Option<&Method> {
        self.method.as_ref().filter(|method| matches!(**method, Method::GET | Method::HEAD | Method::TRACE))
    }

    pub fn access(&self, ctx: &mut RequestContext) -> Option<EarlyResponse> {
        match self.transform(ctx) {
            Ok(()) => None,
            Err(fault) => {
                tracing::error!(request_id = ctx.request_id.as_str(), error = %fault, "request-transformer failed");
                Some(EarlyResponse::error(StatusCode::INTERNAL_SERVER_ERROR, "An unexpected error occurred"))
            }
        }
    }

    /// Kong's order: path, method, headers, body, query.
    fn transform(&self, ctx: &mut RequestContext) -> Result<(), Fault> {
        let texts: Vec<String> =
            self.templates.iter().map(|template| template.render(&Request(ctx))).collect::<Result<_, _>>()?;
        let texts = Texts(&texts);
        if let Some(uri) = &self.uri {
            let path = uri.get(&texts, |text| Some(text.to_owned())).ok_or(Fault::Path)?;
            if !path.starts_with('/') {
                return Err(Fault::Path);
            }
            ctx.upstream_path = Some(plinth_kong::encode_path(&path).into_owned());
        }
        let mut query = None;
        if let Some(method) = &self.method {
            if self.form_becomes_query().is_some() && Kind::of(&ctx.head.headers) == Some(Kind::Form) {
                let body = ctx.bodies.request.clone().unwrap_or_default();
                let pairs = query.get_or_insert_with(|| query_of(ctx));
                pairs.extend(Pairs::parse(&String::from_utf8_lossy(&body)));
            }
            ctx.head.method = method.clone();
        }
        // The content type before the headers are changed is the body's.
        let kind = Kind::of(&ctx.head.headers).filter(|_| !self.body.is_empty());
        let body = kind.and_then(|kind| self.transformed_body(ctx, kind, &texts));
        if !self.headers.is_empty() {
            self.transform_headers(ctx, &texts)?;
        }
        if let Some(body) = body {
            ctx.replace_body(body);
        }
        if !self.query.is_empty() {
            self.transform_query(query.get_or_insert_with(|| query_of(ctx)), &texts);
        }
        if let Some(query) = query {
            ctx.upstream_query = Some(query.encode());
        }
        Ok(())
    }

    fn transform_headers(&self, ctx: &mut RequestContext, texts: &Texts<'_>) -> Result<(), Fault> {
        let value = |text: &Text<HeaderValue>| {
            text.get(texts, |text| header_value(text).ok()).ok_or(Fault::HeaderValue)
        };
        let headers = &mut ctx.head.headers;
        for name in self.headers.remove.iter().filter(|name| **name != header::HOST) {
            headers.remove(name);
        }
        for (old, new) in &self.headers.rename {
            rename(headers, old, new);
        }
        for (name, text) in &self.headers.replace {
            if *name == header::HOST {
                ctx.upstream_host = Some(value(text)?);
            } else if headers.contains_key(name) {
                headers.insert(name.clone(), value(text)?);
            }
        }
        for (name, text) in self.headers.add.iter().filter(|(name, _)| *name != header::HOST) {
            if !headers.contains_key(name) {
                headers.insert(name.clone(), value(text)?);
            }
        }
        for (name, text) in self.headers.append.iter().filter(|(name, _)| *name != header::HOST) {
            headers.append(name.clone(), value(text)?);
        }
        Ok(())
    }

    fn transform_query(&self, query: &mut Pairs, texts: &Texts<'_>) {
        edit_pairs(&self.query, query, texts);
    }

    /// `None` when there is nothing to change, or the body is not what its content type says.
    fn transformed_body(&self, ctx: &RequestContext, kind: Kind, texts: &Texts<'_>) -> Option<Bytes> {
        let body = ctx.bodies.request.clone().unwrap_or_default();
        let parsed = match kind {
            // Kong takes an empty body for an empty object.
            Kind::Json if body.is_empty() => Parsed::Json(Object::default()),
            _ => Parsed::of(&ctx.head.headers, &body)?,
        };
        let (changed, parsed) = match parsed {
            Parsed::Json(mut object) => (self.edit_object(&mut object, texts), Parsed::Json(object)),
            Parsed::Form(mut pairs) => (edit_pairs(&self.body, &mut pairs, texts), Parsed::Form(pairs)),
            Parsed::Multipart(mut parts) => (self.edit_parts(&mut parts, texts), Parsed::Multipart(parts)),
        };
        changed.then(|| parsed.bytes())
    }

    fn edit_object(&self, object: &mut Object, texts: &Texts<'_>) -> bool {
        let mut changed = false;
        for name in &self.body.remove {
            changed |= object.remove(name);
        }
        for (old, new) in &self.body.rename {
            changed |= object.rename(old, new);
        }
        for (name, text) in &self.body.replace {
            if object.has(name) {
                object.set(name, &Value::String(text.text(texts)));
                changed = true;
            }
        }
        for (name, text) in &self.body.add {
            if !object.has(name) {
                object.set(name, &Value::String(text.text(texts)));
                changed = true;
            }
        }
        for (name, text) in &self.body.append {
            object.append(name, Value::String(text.text(texts)));
            changed = true;
        }
        changed
    }

    /// Kong appends nothing to multipart bodies.
    fn edit_parts(&self, parts: &mut Multipart, texts: &Texts<'_>) -> bool {
        let mut changed = false;
        for name in &self.body.remove {
            changed |= parts.remove(name);
        }
        for (old, new) in &self.body.rename {
            changed |= parts.rename(old, new);
        }
        for (name, text) in &self.body.replace {
            if parts.get(name).is_some() {
                parts.set(name, text.text(texts).into());
                changed = true;
            }
        }
        for (name, text) in &self.body.add {
            if parts.get(name).is_none() {
                parts.set(name, text.text(texts).into());
                changed = true;
            }
        }
        changed
    }
}

fn edit_pairs(edits: &Edits<String, String>, pairs: &mut Pairs, texts: &Texts<'_>) -> bool {
    let mut changed = false;
    for name in &edits.remove {
        changed |= pairs.remove(name);
    }
    for (old, new) in &edits.rename {
        changed |= pairs.rename(old, new);
    }
    for (name, text) in &edits.replace {
        if pairs.has(name) {
            pairs.set(name, text.text(texts));
            changed = true;
        }
    }
    for (name, text) in &edits.add {
        if !pairs.has(name) {
            pairs.append(name, text.text(texts));
            changed = true;
        }
    }
    for (name, text) in &edits.append {
        pairs.append(name, text.text(texts));
        changed = true;
    }
    changed
}

/// All values go by the new name, which loses its own.
pub(super) fn rename(headers: &mut HeaderMap, old: &HeaderName, new: &HeaderName) {
    if old == new || !headers.contains_key(old) {
        return;
    }
    let values: Vec<HeaderValue> = headers.get_all(old).iter().cloned().collect();
    headers.remove(old);
    headers.remove(new);
    for value in values {
        headers.append(new.clone(), value);
    }
}

/// The query as it stands, after other plugins.
fn query_of(ctx: &RequestContext) -> Pairs {
    Pairs::parse(ctx.upstream_query.as_deref().or_else(|| ctx.head.uri.query()).unwrap_or_default())
}

/// What templates see.
struct Request<'r>(&'r RequestContext);

impl Lookup for Request<'_> {
    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        if name == "host" {
            return self.0.host().map(Cow::Borrowed);
        }
        self.0.head.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()))
    }

    fn query(&self, name: &str) -> Option<Cow<'_, str>> {
        let query = self.0.upstream_query.as_deref().or_else(|| self.0.head.uri.query())?;
        query_values(query, name).next().map(Cow::Owned)
    }

    fn capture(&self, name: &str) -> Option<Cow<'_, str>> {
        self.0
            .captures
            .iter()
            .find(|(group, _)| &**group == name)
            .map(|(_, text)| Cow::Borrowed(text.as_str()))
    }
}

#[cfg(test)]
mod tests;

//! response-transformer: headers and JSON bodies of answers as the client wants them.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use plinth_kong::{JsonType, ResponseEdits, ResponseTransformerConfig, edit};
use serde_json::{Number, Value};

use super::body::Object;
use super::request_transformer::edits::{header_name, header_value};
use super::request_transformer::rename;

#[derive(Debug)]
pub(super) struct ResponseTransformer {
    remove: Vec<HeaderName>,
    rename: Vec<(HeaderName, HeaderName)>,
    replace: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
    append: Vec<(HeaderName, HeaderValue)>,
    json: Option<Json>,
    /// The header operations may make an answer JSON that was not.
    touches_content_type: bool,
}

/// Operations on members of a JSON object.
#[derive(Debug)]
struct Json {
    remove: Vec<String>,
    rename: Vec<(String, String)>,
    replace: Vec<(String, Value)>,
    add: Vec<(String, Value)>,
    append: Vec<(String, Value)>,
}

impl ResponseTransformer {
    pub fn new(config: &ResponseTransformerConfig) -> Result<ResponseTransformer, String> {
        let names = config.remove.headers.iter().map(|item| header_name(edit(item).name));
        let pairs = |items: &[String]| -> Result<Vec<_>, String> {
            let pairs = items.iter().map(|item| edit(item)).filter(|item| !item.value.is_empty());
            pairs.map(|item| Ok((header_name(item.name)?, header_value(item.value)?))).collect()
        };
        let renamed =
            config.rename.headers.iter().map(|item| edit(item)).filter(|item| !item.value.is_empty());
        let mut plugin = ResponseTransformer {
            remove: names.collect::<Result<_, _>>()?,
            rename: renamed
                .map(|item| Ok((header_name(item.name)?, header_name(item.value)?)))
                .collect::<Result<_, String>>()?,
            replace: pairs(&config.replace.headers)?,
            add: pairs(&config.add.headers)?,
            append: pairs(&config.append.headers)?,
            json: config.has_json().then(|| Json::new(config)),
            touches_content_type: false,
        };
        let set = [&plugin.replace, &plugin.add, &plugin.append].into_iter().flatten().map(|(name, _)| name);
        plugin.touches_content_type =
            plugin.rename.iter().map(|(_, new)| new).chain(set).any(|name| *name == header::CONTENT_TYPE);
        Ok(plugin)
    }

    pub fn rewrites(&self) -> bool {
        self.json.is_some()
    }

    /// Whether the body of an answer with these headers, before any plugin has seen them, may have to be rewritten.
    pub fn wants_body(&self, headers: &HeaderMap) -> bool {
        self.json.is_some() && (self.touches_content_type || is_json(headers))
    }

    pub fn header(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (old, new) in &self.rename {
            rename(headers, old, new);
        }
        for (name, value) in &self.replace {
            if headers.contains_key(name) {
                headers.insert(name.clone(), value.clone());
            }
        }
        for (name, value) in &self.add {
            if !headers.contains_key(name) {
                headers.insert(name.clone(), value.clone());
            }
        }
        for (name, value) in &self.append {
            headers.append(name.clone(), value.clone());
        }
    }

    /// The new body, when this one is JSON by its header and by its content.
    pub fn body(&self, headers: &HeaderMap, body: &Bytes) -> Option<Bytes> {
        let json = self.json.as_ref()?;
        if !is_json(headers) {
            return None;
        }
        let mut object = Object::parse(body)?;
        json.edit(&mut object);
        Some(object.bytes())
    }
}

impl Json {
    fn new(config: &ResponseTransformerConfig) -> Json {
        let names = |items: &[String]| items.iter().map(|item| edit(item).name.to_owned()).collect();
        let renamed = config.rename.json.iter().map(|item| edit(item)).filter(|item| !item.value.is_empty());
        Json {
            remove: names(&config.remove.json),
            rename: renamed.map(|item| (item.name.to_owned(), item.value.to_owned())).collect(),
            replace: values(&config.replace),
            add: values(&config.add),
            append: values(&config.append),
        }
    }

    fn edit(&self, object: &mut Object) {
        for name in &self.remove {
            object.remove(name);
        }
        for (old, new) in &self.rename {
            object.rename(old, new);
        }
        for (name, value) in &self.replace {
            if object.has(name) {
                object.set(name, value);
            }
        }
        for (name, value) in &self.add {
            if !object.has(name) {
                object.set(name, value);
            }
        }
        for (name, value) in &self.append {
            object.append(name, value.clone());
        }
    }
}

/// Items with their types; a value that is not of its type does nothing, as in Kong.
fn values(edits: &ResponseEdits) -> Vec<(String, Value)> {
    let items = edits.json.iter().enumerate().map(|(at, item)| (edit(item), edits.json_types.get(at)));
    let typed = items.filter(|(item, _)| !item.value.is_empty()).filter_map(|(item, kind)| {
        let value = match kind {
            Some(JsonType::Boolean) => Value::Bool(item.value == "true"),
            Some(JsonType::Number) => Value::Number(number(item.value)?),
            Some(JsonType::String) | None => Value::String(item.value.to_owned()),
        };
        Some((item.name.to_owned(), value))
    });
    typed.collect()
}

fn number(text: &str) -> Option<Number> {
    let text = text.trim();
    serde_json::from_str(text).ok().or_else(|| Number::from_f64(text.parse().ok()?))
}

/// `application/json`, whatever its parameters.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    kind.split(',').any(|kind| {
        kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
    })
}

#[cfg(test)]
mod tests;

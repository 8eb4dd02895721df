//! The five operations on one kind of things, compiled.

use http::{HeaderName, HeaderValue};
use plinth_kong::{Template, edit};

/// A value: known, or one of the templates'.
#[derive(Clone, Debug)]
pub(in crate::plugins) enum Text<V> {
    Known(V),
    Template(usize),
}

/// What the templates are for this request.
pub(in crate::plugins) struct Texts<'t>(pub &'t [String]);

impl<V: Clone> Text<V> {
    /// A text without expressions is made a value once.
    pub fn of(
        text: &str,
        templates: &mut Vec<Template>,
        known: impl Fn(&str) -> Result<V, String>,
    ) -> Result<Text<V>, String> {
        let template = Template::parse(text)?;
        if let Some(constant) = template.constant() {
            return known(constant).map(Text::Known);
        }
        templates.push(template);
        Ok(Text::Template(templates.len() - 1))
    }

    pub fn get(&self, texts: &Texts<'_>, made: impl Fn(&str) -> Option<V>) -> Option<V> {
        match self {
            Text::Known(value) => Some(value.clone()),
            Text::Template(at) => made(texts.0.get(*at)?),
        }
    }
}

impl Text<String> {
    pub fn text(&self, texts: &Texts<'_>) -> String {
        self.get(texts, |text| Some(text.to_owned())).unwrap_or_default()
    }
}

/// All operations, in the order they run.
#[derive(Debug)]
pub(in crate::plugins) struct Edits<N, V> {
    pub remove: Vec<N>,
    pub rename: Vec<(N, N)>,
    pub replace: Vec<(N, Text<V>)>,
    pub add: Vec<(N, Text<V>)>,
    pub append: Vec<(N, Text<V>)>,
}

impl<N, V: Clone> Edits<N, V> {
    pub fn is_empty(&self) -> bool {
        let named = self.remove.is_empty() && self.rename.is_empty();
        named && self.replace.is_empty() && self.add.is_empty() && self.append.is_empty()
    }

    fn of(
        remove: &[String],
        rename: &[String],
        [replace, add, append]: [&[String]; 3],
        templates: &mut Vec<Template>,
        name: impl Fn(&str) -> Result<N, String>,
        value: impl Fn(&str) -> Result<V, String>,
    ) -> Result<Edits<N, V>, String> {
        let mut set = |items: &[String]| -> Result<Vec<(N, Text<V>)>, String> {
            // An item without a value does nothing, as in Kong.
            let items = items.iter().map(|item| edit(item)).filter(|item| !item.value.is_empty());
            items.map(|item| Ok((name(item.name)?, Text::of(item.value, templates, &value)?))).collect()
        };
        let (replace, add, append) = (set(replace)?, set(add)?, set(append)?);
        let renamed = rename.iter().map(|item| edit(item)).filter(|item| !item.value.is_empty());
        Ok(Edits {
            remove: remove.iter().map(|item| name(edit(item).name)).collect::<Result<_, _>>()?,
            rename: renamed
                .map(|item| Ok((name(item.name)?, name(item.value)?)))
                .collect::<Result<_, String>>()?,
            replace,
            add,
            append,
        })
    }
}

impl Edits<String, String> {
    pub fn names(
        remove: &[String],
        rename: &[String],
        set: [&Vec<String>; 3],
        templates: &mut Vec<Template>,
    ) -> Result<Self, String> {
        let same = |text: &str| Ok(text.to_owned());
        Edits::of(remove, rename, set.map(Vec::as_slice), templates, same, same)
    }
}

impl Edits<HeaderName, HeaderValue> {
    pub fn headers(
        remove: &[String],
        rename: &[String],
        set: [&Vec<String>; 3],
        templates: &mut Vec<Template>,
    ) -> Result<Self, String> {
        Edits::of(remove, rename, set.map(Vec::as_slice), templates, header_name, header_value)
    }
}

/// Names of headers that messages are framed by cannot be edited.
pub(in crate::plugins) fn header_name(text: &str) -> Result<HeaderName, String> {
    match HeaderName::from_bytes(text.trim().as_bytes()) {
        Ok(name) if matches!(name.as_str(), "content-length" | "transfer-encoding" | "connection") => {
            Err(format!("the header '{name}' is the gateway's own and cannot be changed"))
        }
        Ok(name) => Ok(name),
        Err(_) => Err(format!("'{text}' is not a valid header")),
    }
}

/// Blanks around a value do not belong to it.
pub(in crate::plugins) fn header_value(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_bytes(text.trim().as_bytes())
        .map_err(|_| format!("'{text}' is not a valid header value"))
}

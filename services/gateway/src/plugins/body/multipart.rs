//! `multipart/form-data` (RFC 7578): parts are found, removed, added; those that stay keep their bytes.

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Map, Value};

/// Parts of one body; more are not looked at.
const MOST_PARTS: usize = 1000;

#[derive(Clone, Debug)]
pub(in crate::plugins) struct Multipart {
    boundary: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
struct Part {
    name: String,
    /// Headers and the empty line, as they were.
    head: Bytes,
    value: Bytes,
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    memchr::memmem::find(text, wanted)
}

/// A parameter of a header's value, quoted or not.
fn parameter(value: &str, wanted: &str) -> Option<String> {
    let mut rest = value;
    loop {
        let (_, after) = rest.split_once(';')?;
        let after = after.trim_start();
        let (name, text) = after.split_once('=')?;
        let (found, tail) = match text.strip_prefix('"') {
            Some(quoted) => {
                let end = quoted.find('"')?;
                (&quoted[..end], &quoted[end + 1..])
            }
            None => {
                let end = text.find(';').unwrap_or(text.len());
                (text[..end].trim(), &text[end..])
            }
        };
        if name.trim().eq_ignore_ascii_case(wanted) {
            return Some(found.to_owned());
        }
        rest = tail;
    }
}

/// The field's name in `Content-Disposition: form-data; name="x"`.
fn name(head: &[u8]) -> Option<String> {
    let head = String::from_utf8_lossy(head);
    head.lines().find_map(|line| {
        let (header, value) = line.split_once(':')?;
        header.trim().eq_ignore_ascii_case("content-disposition").then(|| parameter(value, "name")).flatten()
    })
}

impl Multipart {
    /// `None` for a body that does not follow its content type.
    pub fn parse(content_type: &str, body: &Bytes) -> Option<Multipart> {
        let boundary = parameter(content_type, "boundary").filter(|boundary| !boundary.is_empty())?;
        let mut parts = Vec::new();
        if body.is_empty() {
            return Some(Multipart { boundary, parts });
        }
        let line = format!("\r\n--{boundary}");
        // What comes before the first boundary means nothing.
        let first = &line[2..];
        let mut at = if body.starts_with(first.as_bytes()) {
            first.len()
        } else {
            find(body, line.as_bytes())? + line.len()
        };
        loop {
            let rest = &body[at..];
            if rest.starts_with(b"--") {
                return Some(Multipart { boundary, parts });
            }
            // Blanks may follow a boundary.
            let start = at + find(rest, b"\r\n")? + 2;
            let length = find(&body[start..], line.as_bytes())?;
            let part = body.slice(start..start + length);
            let (head, value) = match part.strip_prefix(b"\r\n".as_slice()) {
                Some(_) => (part.slice(..2), part.slice(2..)),
                None => {
                    let end = find(&part, b"\r\n\r\n")? + 4;
                    (part.slice(..end), part.slice(end..))
                }
            };
            if parts.len() == MOST_PARTS {
                return None;
            }
            parts.push(Part { name: name(&head).unwrap_or_default(), head, value });
            at = start + length + line.len();
        }
    }

    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.parts.iter().find(|part| part.name == name).map(|part| &part.value)
    }

    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.parts.len();
        self.parts.retain(|part| part.name != name);
        self.parts.len() < before
    }

    /// One plain part of that name, at the end, instead of all there were.
    pub fn set(&mut self, name: &str, value: Bytes) {
        self.remove(name);
        let quoted = name.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A");
        let head = Bytes::from(format!("Content-Disposition: form-data; name=\"{quoted}\"\r\n\r\n"));
        self.parts.push(Part { name: name.to_owned(), head, value });
    }

    pub fn rename(&mut self, old: &str, new: &str) -> bool {
        let Some(value) = self.get(old).cloned().filter(|_| old != new) else { return false };
        self.remove(old);
        self.set(new, value);
        true
    }

    pub fn bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        for part in &self.parts {
            out.put_slice(format!("--{}\r\n", self.boundary).as_bytes());
            out.put_slice(&part.head);
            out.put_slice(&part.value);
            out.put_slice(b"\r\n");
        }
        out.put_slice(format!("--{}--\r\n", self.boundary).as_bytes());
        out.freeze()
    }

    /// Names and values as texts, all of them.
    pub fn fields(&self) -> Vec<(String, String)> {
        let text = |part: &Part| String::from_utf8_lossy(&part.value).into_owned();
        self.parts.iter().map(|part| (part.name.clone(), text(part))).collect()
    }

    /// Names and values; the last of a name wins.
    pub fn value(&self) -> Value {
        let members = self.parts.iter().map(|part| {
            (part.name.clone(), Value::String(String::from_utf8_lossy(&part.value).into_owned()))
        });
        Value::Object(members.collect::<Map<_, _>>())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TYPE: &str = "multipart/form-data; boundary=\"a;b\"";
    const BODY: &str = "preamble\r\n--a;b\r\nContent-Disposition: form-data; name=\"one\"\r\n\r\n1\r\n--a;b  \r\n\
                        Content-Disposition: form-data; filename=\"f;x\"; name=two\r\nContent-Type: image/png\r\n\r\n\r\n--no\r\n\r\n--a;b--\r\n";

    #[test]
    fn parts_are_found_and_changed() {
        let mut parts = Multipart::parse(TYPE, &Bytes::from_static(BODY.as_bytes())).unwrap();
        assert_eq!(parts.get("one").unwrap(), "1");
        assert_eq!(parts.get("two").unwrap(), "\r\n--no\r\n");
        assert_eq!(parts.get("absent"), None);
        assert!(parts.rename("one", "three") && !parts.rename("one", "four"));
        parts.set("new \"x\"", Bytes::from_static(b"y"));
        let written = parts.bytes();
        let text = String::from_utf8(written.to_vec()).unwrap();
        assert!(text.contains("Content-Type: image/png\r\n\r\n\r\n--no\r\n\r\n--a;b\r\n"), "{text}");
        assert!(text.contains("name=\"new %22x%22\"\r\n\r\ny\r\n--a;b--\r\n"), "{text}");
        let again = Multipart::parse(TYPE, &written).unwrap();
        assert_eq!((again.get("three").unwrap(), again.parts.len()), (&Bytes::from_static(b"1"), 3));
    }

    #[test]
    fn what_is_no_multipart_body_is_not_read() {
        for (kind, body) in [
            ("multipart/form-data", BODY),
            (TYPE, "--a;b\r\nno end"),
            (TYPE, "--a;b\r\nContent-Disposition: form-data\r\n--a;b--"),
            (TYPE, "text"),
        ] {
            assert!(Multipart::parse(kind, &Bytes::from_static(body.as_bytes())).is_none(), "{kind} {body}");
        }
    }

    proptest! {
        #[test]
        fn any_body_is_survived(body in "(--x|\r\n|--|name=\"a\"|Content-Disposition: form-data; |[a-z]){0,20}") {
            let _ = Multipart::parse("multipart/form-data; boundary=x", &Bytes::from(body));
        }

        #[test]
        fn what_is_set_is_read_again(values in prop::collection::btree_map("[a-z]{1,4}", "[a-z\r\n-]{0,20}", 0..5)) {
            let mut parts = Multipart::parse("multipart/form-data; boundary=XYZ", &Bytes::new()).unwrap();
            for (name, value) in &values {
                parts.set(name, Bytes::from(value.clone()));
            }
            let again = Multipart::parse("multipart/form-data; boundary=XYZ", &parts.bytes()).unwrap();
            for (name, value) in &values {
                prop_assert_eq!(again.get(name).unwrap(), value.as_bytes());
            }
        }
    }
}

//! The head of the upstream request, written straight into the connection's buffer: no second header map, no copy of
//! what passes through.

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Request, Uri};

use crate::client::{Coding, repeatable};
use crate::context::RequestContext;
use crate::identity;
use crate::snapshot::{RouteEntry, ServiceEntry};

/// What a request head is made of besides the context.
pub struct UpstreamHead<'a> {
    /// The request.
    pub context: &'a RequestContext,
    /// Its route.
    pub route: &'a RouteEntry,
    /// Its service.
    pub service: &'a ServiceEntry,
    /// Name of the endpoint's target.
    pub name: &'a str,
    /// The endpoint's port.
    pub port: u16,
    /// How the body is announced.
    pub coding: Coding,
    /// The client asked for a websocket.
    pub upgrade: bool,
    /// `traceparent` of the gateway's own span.
    pub traceparent: Option<&'a HeaderValue>,
}

impl UpstreamHead<'_> {
    /// Writes request line, headers and the empty line.
    pub fn write(&self, out: &mut Vec<u8>) {
        let head = &self.context.head;
        out.extend_from_slice(head.method.as_str().as_bytes());
        out.push(b' ');
        self.write_target(out);
        out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
        self.write_host(out);
        out.extend_from_slice(b"\r\n");
        self.write_connection(out);
        self.write_framing(out);
        self.write_fields(out);
        out.extend_from_slice(b"\r\n");
    }

    /// The same head for HTTP/2.
    ///
    /// # Errors
    /// When host, path or a header of the client's is nothing HTTP/2 could carry.
    pub fn request(&self) -> Result<Request<()>, http::Error> {
        let mut lines = Vec::with_capacity(1024);
        self.write_host(&mut lines);
        let scheme = if self.service.tls.is_some() { "https" } else { "http" };
        let mut target = Vec::with_capacity(256);
        self.write_target(&mut target);
        let uri = Uri::builder().scheme(scheme).authority(&lines[..]).path_and_query(&target[..]).build()?;
        let mut request = Request::builder().method(&self.context.head.method).uri(uri);
        lines.clear();
        self.write_fields(&mut lines);
        // no value has a line end in it
        for line in lines.split(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if let Some(at) = line.windows(2).position(|two| two == b": ") {
                request = request.header(&line[..at], &line[at + 2..]);
            }
        }
        request.body(())
    }

    /// All headers but those about the connection and the body's length.
    fn write_fields(&self, out: &mut Vec<u8>) {
        let head = &self.context.head;
        self.write_forwarded(out);
        let listed = Listed::of(&head.headers);
        for (name, value) in &head.headers {
            if !ours(name) && !listed.contains(name) {
                line(out, name.as_str(), value.as_bytes());
            }
        }
        if te_trailers(&head.headers) {
            out.extend_from_slice(b"te: trailers\r\n");
        }
        match self.traceparent {
            Some(own) => line(out, "traceparent", own.as_bytes()),
            None => {
                if let Some(received) = head.headers.get("traceparent") {
                    line(out, "traceparent", received.as_bytes());
                }
            }
        }
    }

    /// Path and query.
    pub fn write_target(&self, out: &mut Vec<u8>) {
        let uri = &self.context.head.uri;
        match &self.context.upstream_path {
            Some(path) => out.extend_from_slice(path.as_bytes()),
            None => out.extend_from_slice(uri.path().as_bytes()),
        }
        let query = match &self.context.upstream_query {
            Some(query) => (!query.is_empty()).then_some(query.as_str()),
            None => uri.query(),
        };
        if let Some(query) = query {
            out.push(b'?');
            out.extend_from_slice(query.as_bytes());
        }
    }

    fn write_host(&self, out: &mut Vec<u8>) {
        if let Some(host) = &self.context.upstream_host {
            out.extend_from_slice(host.as_bytes());
            return;
        }
        if self.route.route.preserve_host
            && let Some(host) = self.context.host()
        {
            out.extend_from_slice(host.as_bytes());
            return;
        }
        let name = self.service.host_header.as_deref().unwrap_or(self.name);
        if name.contains(':') && !name.starts_with('[') {
            out.push(b'[');
            out.extend_from_slice(name.as_bytes());
            out.push(b']');
        } else {
            out.extend_from_slice(name.as_bytes());
        }
        if self.port != if self.service.tls.is_some() { 443 } else { 80 } {
            out.push(b':');
            number(out, u64::from(self.port));
        }
    }

    fn write_connection(&self, out: &mut Vec<u8>) {
        if self.upgrade {
            out.extend_from_slice(b"Connection: upgrade\r\nUpgrade: websocket\r\n");
        } else {
            out.extend_from_slice(b"Connection: keep-alive\r\n");
        }
    }

    fn write_framing(&self, out: &mut Vec<u8>) {
        match self.coding {
            // methods that imply a body say that there is none
            Coding::None if repeatable(&self.context.head.method) => {}
            Coding::None => out.extend_from_slice(b"Content-Length: 0\r\n"),
            Coding::Length(length) => {
                out.extend_from_slice(b"Content-Length: ");
                number(out, length);
                out.extend_from_slice(b"\r\n");
            }
            Coding::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        }
    }

    /// What tells the upstream about the client. Values a client sent are believed only from trusted peers.
    fn write_forwarded(&self, out: &mut Vec<u8>) {
        let context = self.context;
        let (client, headers) = (&context.client, &context.head.headers);
        let believed =
            |name: &str| if client.trusted { headers.get(name).map(HeaderValue::as_bytes) } else { None };

        out.extend_from_slice(b"X-Real-IP: ");
        if context.client_ip == client.peer.ip() {
            out.extend_from_slice(client.peer_ip_text.as_bytes());
        } else {
            display(out, context.client_ip);
        }
        out.extend_from_slice(b"\r\nX-Forwarded-For: ");
        for before in headers.get_all("x-forwarded-for") {
            out.extend_from_slice(before.as_bytes());
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(client.peer_ip_text.as_bytes());
        out.extend_from_slice(b"\r\nX-Forwarded-Proto: ");
        out.extend_from_slice(believed("x-forwarded-proto").unwrap_or(if client.tls.is_some() {
            b"https"
        } else {
            b"http"
        }));
        let (host, port) = split_port(context.host().unwrap_or_default());
        out.extend_from_slice(b"\r\nX-Forwarded-Host: ");
        out.extend_from_slice(believed("x-forwarded-host").unwrap_or(host.as_bytes()));
        out.extend_from_slice(b"\r\nX-Forwarded-Port: ");
        match believed("x-forwarded-port").or(port.map(str::as_bytes)) {
            Some(port) => out.extend_from_slice(port),
            None => number(out, u64::from(client.local_port)),
        }
        out.extend_from_slice(b"\r\nX-Forwarded-Path: ");
        out.extend_from_slice(believed("x-forwarded-path").unwrap_or(context.head.uri.path().as_bytes()));
        match believed("x-forwarded-prefix").or(context.stripped_prefix.as_deref().map(str::as_bytes)) {
            Some(prefix) if prefix != b"/" => {
                out.extend_from_slice(b"\r\nX-Forwarded-Prefix: ");
                out.extend_from_slice(prefix);
            }
            _ => {}
        }
        out.extend_from_slice(b"\r\nVia: ");
        for before in headers.get_all(header::VIA) {
            out.extend_from_slice(before.as_bytes());
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(identity::VIA.as_bytes());
        out.extend_from_slice(b"\r\nX-Kong-Request-Id: ");
        out.extend_from_slice(context.request_id.as_str().as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn display(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    out.extend_from_slice(value.to_string().as_bytes());
}

/// Host and port of a `Host` header; an IPv6 host keeps its brackets.
#[must_use]
pub fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            (name, Some(port))
        }
        _ => (host, None),
    }
}

/// Headers the gateway writes itself or that are about the client's connection only.
fn ours(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "host"
            | "connection"
            | "content-length"
            | "transfer-encoding"
            | "expect"
            | "keep-alive"
            | "proxy"
            | "proxy-connection"
            | "te"
            | "traceparent"
            | "upgrade"
            | "via"
            | "x-forwarded-for"
            | "x-forwarded-host"
            | "x-forwarded-path"
            | "x-forwarded-port"
            | "x-forwarded-prefix"
            | "x-forwarded-proto"
            | "x-kong-request-id"
            | "x-real-ip"
    )
}

/// Other headers that the client's `Connection` lists.
struct Listed(Vec<HeaderName>);

impl Listed {
    fn of(headers: &HeaderMap) -> Self {
        let mut names = Vec::new();
        for value in headers.get_all(header::CONNECTION) {
            for token in value.as_bytes().split(|byte| *byte == b',') {
                let token = token.trim_ascii();
                let usual = token.is_empty()
                    || token.eq_ignore_ascii_case(b"close")
                    || token.eq_ignore_ascii_case(b"keep-alive")
                    || token.eq_ignore_ascii_case(b"upgrade");
                if !usual && let Ok(name) = HeaderName::from_bytes(token) {
                    names.push(name);
                }
            }
        }
        Self(names)
    }

    fn contains(&self, name: &HeaderName) -> bool {
        !self.0.is_empty() && self.0.contains(name)
    }
}

fn te_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(header::TE).iter().any(|value| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_split_off_hosts() {
        assert_eq!(split_port("example.com"), ("example.com", None));
        assert_eq!(split_port("example.com:8080"), ("example.com", Some("8080")));
        assert_eq!(split_port("[::1]:80"), ("[::1]", Some("80")));
        assert_eq!(split_port("[::1]"), ("[::1]", None));
    }

    #[test]
    fn connection_lists_are_read() {
        let mut headers = HeaderMap::new();
        headers.append(header::CONNECTION, HeaderValue::from_static("keep-alive, X-One"));
        headers.append(header::CONNECTION, HeaderValue::from_static("x-two , close"));
        let listed = Listed::of(&headers);
        assert!(listed.contains(&HeaderName::from_static("x-one")));
        assert!(listed.contains(&HeaderName::from_static("x-two")));
        assert!(!listed.contains(&header::HOST));
    }
}

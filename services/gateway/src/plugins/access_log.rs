//! The access log: one line for each request in nginx's combined format, whatever plugins are configured.

use std::cell::RefCell;
use std::io::Write as _;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use http::{HeaderName, Version, header};

use super::file_log::Writer;
use crate::context::RequestContext;

#[derive(Debug)]
pub(super) struct AccessLog {
    writer: Arc<Writer>,
}

thread_local! {
    /// The last second that was written out, and how.
    static SECOND: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
}

impl AccessLog {
    pub fn new(writer: Arc<Writer>) -> AccessLog {
        AccessLog { writer }
    }

    pub fn log(&self, ctx: &RequestContext) {
        if self.writer.has_room() {
            self.writer.write(&line(ctx));
        } else {
            self.writer.lost();
        }
    }
}

/// `client - user [time] "request" status bytes "referer" "user agent"`. The user is Basic authentication's, as nginx has it,
/// or else the consumer's name.
fn line(ctx: &RequestContext) -> Vec<u8> {
    let mut line = Vec::with_capacity(256);
    let target = ctx.head.uri.path_and_query().map_or("/", |target| target.as_str());
    let user = ctx.consumer.as_ref().and_then(|consumer| consumer.username.as_deref()).unwrap_or("-");
    // Writing to memory does not fail.
    let _ = write!(line, "{} - ", ctx.client_ip);
    escape(user.as_bytes(), &mut line);
    line.extend_from_slice(b" [");
    time(ctx, &mut line);
    let _ = write!(line, "] \"{} ", ctx.head.method);
    escape(target.as_bytes(), &mut line);
    let _ = write!(
        line,
        " {}\" {} {} \"",
        protocol(ctx.head.version),
        ctx.outcome.status.as_u16(),
        ctx.outcome.response_body_bytes
    );
    header_value(ctx, &header::REFERER, &mut line);
    line.extend_from_slice(b"\" \"");
    header_value(ctx, &header::USER_AGENT, &mut line);
    line.extend_from_slice(b"\"\n");
    line
}

fn header_value(ctx: &RequestContext, name: &HeaderName, line: &mut Vec<u8>) {
    match ctx.head.headers.get(name) {
        Some(value) => escape(value.as_bytes(), line),
        None => line.push(b'-'),
    }
}

/// As nginx: quotes, backslashes and what is not printable ASCII as `\xHH`.
fn escape(bytes: &[u8], line: &mut Vec<u8>) {
    for byte in bytes {
        match byte {
            b'"' | b'\\' | 0..=31 | 127.. => {
                let _ = write!(line, "\\x{byte:02X}");
            }
            byte => line.push(*byte),
        }
    }
}

fn time(ctx: &RequestContext, line: &mut Vec<u8>) {
    let end = ctx.timing.started_at + ctx.timing.total();
    let second = end.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    SECOND.with_borrow_mut(|(known, text)| {
        if *known != second {
            let time =
                i64::try_from(second).ok().and_then(|second| jiff::Timestamp::from_second(second).ok());
            *text = time.unwrap_or_default().strftime("%d/%b/%Y:%H:%M:%S +0000").to_string();
            *known = second;
        }
        line.extend_from_slice(text.as_bytes());
    });
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::super::tests::Gateway;
    use super::*;

    #[tokio::test]
    async fn lines_are_nginxs_combined_format_and_cannot_be_forged() {
        let gateway = Gateway::new("services: [{host: h, routes: [{paths: [/]}]}]");
        let mut ctx = gateway.get("/a?b=c", &[("user-agent", "evil\" 200 1"), ("referer", "x\\y")]);
        ctx.outcome.status = StatusCode::NOT_FOUND;
        ctx.outcome.response_body_bytes = 12;
        ctx.timing.started_at = UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        ctx.timing.end = Some(ctx.timing.start);
        let line = String::from_utf8(line(&ctx)).unwrap();
        assert_eq!(
            line,
            "192.0.2.7 - - [09/Sep/2001:01:46:40 +0000] \"GET /a?b=c HTTP/1.1\" 404 12 \"x\\x5Cy\" \
             \"evil\\x22 200 1\"\n"
        );
    }
}

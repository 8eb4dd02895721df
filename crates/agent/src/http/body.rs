//! Reading a request's body, with its limits.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;

use super::reply::Reply;
use super::{Server, kv, snapshot};

/// A client that is in the middle of sending would see its connection reset instead of the answer: what it sends is read,
/// until it pauses for a quarter of a second or has sent 16 MiB.
async fn discard(mut body: Incoming) {
    const PAUSE: Duration = Duration::from_millis(250);
    const MOST: usize = 16 << 20;
    let mut read = 0;
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(PAUSE, body.frame()).await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > MOST {
            break;
        }
    }
}

impl Server {
    /// Reads the whole body first, so that the connection survives an error answer. Only a body over the limit
    /// ends the connection.
    pub(super) async fn read_body(
        &self,
        body: Incoming,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Bytes, Reply> {
        use hyper::body::Body as _;
        if body.is_end_stream() {
            return Ok(Bytes::new());
        }
        let limit = match path {
            "/v1/snapshot" => snapshot::LARGEST,
            path if path.starts_with("/v1/kv/") => kv::LARGEST_VALUE,
            _ => self.max_body,
        };
        let too_large = |size: u64| {
            let text = format!(
                "Request body({size} bytes) too large, max size: {limit} bytes. See https://www.consul.io/docs/agent/options.html#kv_max_value_size."
            );
            Reply::text(StatusCode::PAYLOAD_TOO_LARGE, &text).with_header("connection", "close")
        };
        let announced = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|l| l.to_str().ok())
            .and_then(|l| l.parse::<u64>().ok())
            .filter(|l| *l > limit as u64);
        if let Some(size) = announced {
            if !headers.contains_key(header::EXPECT) {
                discard(body).await;
            }
            return Err(too_large(size));
        }
        match Limited::new(body, limit).collect().await {
            Ok(whole) => Ok(whole.to_bytes()),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(too_large(limit as u64 + 1)),
            Err(error) => Err(Reply::bad(&format!("cannot read the body: {error}"))),
        }
    }
}

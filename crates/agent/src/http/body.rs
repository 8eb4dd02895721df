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

/// Consul's option for the length of a transaction.
const TRANSACTION: &str = "txn_max_req_len";

/// The largest body in bytes, and the option that Consul names for it.
fn limit_of(path: &str, other: usize) -> (usize, &'static str) {
    match path {
        "/v1/snapshot" => (snapshot::LARGEST, "kv_max_value_size"),
        // of the whole request, however many values it has
        "/v1/txn" => (kv::LARGEST_VALUE, TRANSACTION),
        path if path.starts_with("/v1/kv/") => (kv::LARGEST_VALUE, "kv_max_value_size"),
        _ => (other, "kv_max_value_size"),
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
        let (limit, option) = limit_of(path, self.max_body);
        let too_large = |size: Option<u64>| {
            // it was not announced: Consul stops counting at the limit, and says no size where it says anything
            let size = match size {
                None if option == TRANSACTION => String::new(),
                size => format!("({} bytes)", size.unwrap_or(limit as u64 + 1)),
            };
            let text = format!(
                "Request body{size} too large, max size: {limit} bytes. See https://www.consul.io/docs/agent/options.html#{option}."
            );
            Reply::text(StatusCode::PAYLOAD_TOO_LARGE, &text).with_header("connection", "close").vary()
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
            return Err(too_large(Some(size)));
        }
        match Limited::new(body, limit).collect().await {
            Ok(whole) => Ok(whole.to_bytes()),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(too_large(None)),
            Err(error) => Err(Reply::bad(&format!("cannot read the body: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_limited_as_a_whole() {
        assert_eq!(limit_of("/v1/txn", 8 << 20), (524_288, "txn_max_req_len"));
        assert_eq!(limit_of("/v1/kv/txn", 8 << 20), (524_288, "kv_max_value_size"));
        assert_eq!(limit_of("/v1/agent/service/register", 8 << 20).0, 8 << 20);
    }
}

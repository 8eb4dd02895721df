//! The gRPC health protocol (`grpc.health.v1`), its two tiny messages coded by hand.

use ::http::header::{CONTENT_TYPE, HeaderValue, TE, USER_AGENT};
use ::http::{HeaderMap, Method, Request, Uri};
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

use super::connect::{self, Believed};
use super::http::reason;
use super::{At, Finding};
use crate::health::Status;

const PATH: &str = "/grpc.health.v1.Health/Check";
/// A health answer is a handful of bytes.
const MOST_BYTES: usize = 16 * 1024;
/// The field numbers of both messages are 1.
const FIELD: u8 = 1;

/// One question.
pub(super) struct Asked<'a> {
    pub addr: &'a str,
    pub service: &'a str,
    /// With TLS: whom to believe.
    pub believed: Option<Believed<'a>>,
    pub at: Option<&'a At>,
}

pub(super) async fn look(asked: &Asked<'_>) -> Finding {
    let subject = subject(asked.addr, asked.service);
    match exchange(asked).await {
        Ok(Reported::Serving) => {
            Finding { status: Status::Passing, output: format!("{subject}: success"), http_status: None }
        }
        Ok(other) => Finding::critical(format!("{subject}: status {}", other.name())),
        Err(why) => Finding::critical(format!("{subject}: {why}")),
    }
}

pub(super) fn subject(addr: &str, service: &str) -> String {
    if service.is_empty() { format!("gRPC check {addr}") } else { format!("gRPC check {addr}/{service}") }
}

/// `HealthCheckResponse.ServingStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reported {
    Unknown,
    Serving,
    NotServing,
    ServiceUnknown,
    Other(u64),
}

impl Reported {
    fn name(self) -> String {
        match self {
            Self::Unknown => "UNKNOWN".to_owned(),
            Self::Serving => "SERVING".to_owned(),
            Self::NotServing => "NOT_SERVING".to_owned(),
            Self::ServiceUnknown => "SERVICE_UNKNOWN".to_owned(),
            Self::Other(number) => number.to_string(),
        }
    }
}

async fn exchange(asked: &Asked<'_>) -> Result<Reported, String> {
    let Asked { addr, service, believed, at } = asked;
    let scheme = if believed.is_some() { "https" } else { "http" };
    let uri: Uri = format!("{scheme}://{addr}{PATH}").parse().map_err(|e| format!("not an address: {e}"))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let stream = connect::tcp(addr, *at).await.map_err(|e| e.to_string())?;
    let Some(believed) = believed else { return answer(stream, uri, service).await };
    let name = at.and_then(|at| at.server_name.as_deref()).unwrap_or(&host);
    let stream =
        connect::tls(stream, name, believed, &[b"h2"]).await.map_err(|e| format!("TLS handshake: {e}"))?;
    answer(stream, uri, service).await
}

async fn answer<S>(stream: S, uri: Uri, service: &str) -> Result<Reported, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(|e| reason(&e))?;
    let mut request = Request::new(Full::new(encode_request(service)));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers
        .insert(USER_AGENT, HeaderValue::from_static(concat!("plinth-health/", env!("CARGO_PKG_VERSION"))));

    let exchange = async {
        let response = sender.send_request(request).await.map_err(|e| reason(&e))?;
        if response.status() != ::http::StatusCode::OK {
            return Err(format!("HTTP status {}", response.status().as_u16()));
        }
        // An error without a message comes as headers alone.
        grpc_status(response.headers())?;
        let body =
            Limited::new(response.into_body(), MOST_BYTES).collect().await.map_err(|e| e.to_string())?;
        if let Some(trailers) = body.trailers() {
            grpc_status(trailers)?;
        }
        decode_response(&body.to_bytes()).ok_or_else(|| "the answer is no health message".to_owned())
    };
    tokio::pin!(exchange, connection);
    tokio::select! {
        biased;
        result = &mut exchange => result,
        _ = &mut connection => exchange.await,
    }
}

fn grpc_status(headers: &HeaderMap) -> Result<(), String> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    match text("grpc-status") {
        None | Some("0") => Ok(()),
        Some("12") => Err("grpc-status 12: the server has no health service".to_owned()),
        Some(status) => Err(format!("grpc-status {status}: {}", text("grpc-message").unwrap_or_default())),
    }
}

/// The length-prefixed frame around `HealthCheckRequest { service }`.
fn encode_request(service: &str) -> Bytes {
    let mut message = BytesMut::with_capacity(service.len() + 8);
    if !service.is_empty() {
        message.put_u8((FIELD << 3) | 2);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(&message);
    frame.freeze()
}

/// The status in a framed `HealthCheckResponse`; unknown fields are skipped, an absent one is 0.
fn decode_response(frame: &[u8]) -> Option<Reported> {
    let (head, message) = frame.split_at_checked(5)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if head[0] != 0 {
        return None;
    }
    let mut message = message.get(..length)?;
    let mut status = 0;
    while !message.is_empty() {
        let key = take_varint(&mut message)?;
        match key & 7 {
            0 => {
                let value = take_varint(&mut message)?;
                if key >> 3 == u64::from(FIELD) {
                    status = value;
                }
            }
            1 => message = message.get(8..)?,
            2 => {
                let length = usize::try_from(take_varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            5 => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(match status {
        0 => Reported::Unknown,
        1 => Reported::Serving,
        2 => Reported::NotServing,
        3 => Reported::ServiceUnknown,
        other => Reported::Other(other),
    })
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value as u8) | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_request_is_as_on_the_wire() {
        assert_eq!(&encode_request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&encode_request("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = encode_request(&"x".repeat(300));
        assert_eq!(&long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 0x02]);
    }

    #[test]
    fn answers_are_read() {
        assert_eq!(decode_response(&[0, 0, 0, 0, 2, 8, 1]), Some(Reported::Serving));
        assert_eq!(decode_response(&[0, 0, 0, 0, 2, 8, 2]), Some(Reported::NotServing));
        assert_eq!(decode_response(&[0, 0, 0, 0, 0]), Some(Reported::Unknown));
        let with_an_unknown_field = [0, 0, 0, 0, 6, 0x12, 2, 9, 9, 8, 3];
        assert_eq!(decode_response(&with_an_unknown_field), Some(Reported::ServiceUnknown));
        assert_eq!(decode_response(&[]), None);
        assert_eq!(decode_response(&[0, 0, 0, 0, 9, 8, 1]), None, "cut off");
        assert_eq!(decode_response(&[1, 0, 0, 0, 2, 8, 1]), None, "compressed without having been offered");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode_response(&bytes);
        }

        #[test]
        fn varints_come_back(value in any::<u64>()) {
            let mut out = BytesMut::new();
            put_varint(&mut out, value);
            let mut bytes = &out[..];
            prop_assert_eq!(take_varint(&mut bytes), Some(value));
            prop_assert!(bytes.is_empty());
        }
    }
}

//! Consul's HTTP API over one kept connection, as a client that knows when it does not know.

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

pub struct Client {
    authority: String,
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// The connection ended before the answer: what was asked may have happened or not.
#[derive(Debug)]
pub struct Unknown;

pub type Answer = Result<Response<Bytes>, Unknown>;

impl Client {
    /// `base` is `http://host:port`.
    pub fn new(base: &str) -> Client {
        Client { authority: base.trim_start_matches("http://").to_owned(), connection: None }
    }

    pub async fn send(&mut self, method: Method, path: &str, body: impl Into<Bytes>) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.authority)
            .body(Full::new(body.into()))
            .unwrap();
        let answer = self.attempt(request).await;
        if answer.is_err() {
            self.connection = None;
        }
        answer
    }

    async fn attempt(&mut self, request: Request<Full<Bytes>>) -> Answer {
        if self.connection.as_ref().is_none_or(SendRequest::is_closed) {
            let stream = TcpStream::connect(&self.authority).await.map_err(|_| Unknown)?;
            let made = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
            let (sender, connection) = made.map_err(|_| Unknown)?;
            tokio::spawn(connection);
            self.connection = Some(sender);
        }
        let connection = self.connection.as_mut().ok_or(Unknown)?;
        connection.ready().await.map_err(|_| Unknown)?;
        let (head, body) = connection.send_request(request).await.map_err(|_| Unknown)?.into_parts();
        let body = body.collect().await.map_err(|_| Unknown)?.to_bytes();
        Ok(Response::from_parts(head, body))
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.send(Method::GET, path, "").await
    }

    pub async fn put(&mut self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.send(Method::PUT, path, body).await
    }
}

pub fn index(answer: &Response<Bytes>) -> u64 {
    answer.headers()["x-consul-index"].to_str().unwrap().parse().unwrap()
}

pub fn json(answer: &Response<Bytes>) -> serde_json::Value {
    serde_json::from_slice(answer.body()).unwrap_or_else(|error| panic!("{error}: {:?}", answer.body()))
}

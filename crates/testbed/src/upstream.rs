//! Programmable HTTP upstreams.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use crate::{eventually, holds};

type Answer = Pin<Box<dyn Future<Output = Response<Full<Bytes>>> + Send>>;
type Handler = Arc<dyn Fn(Request<Bytes>) -> Answer + Send + Sync>;

/// An HTTP/1.1 and cleartext HTTP/2 server whose answers the test decides; it keeps every request it got.
pub struct Upstream {
    pub addr: SocketAddr,
    requests: Arc<Mutex<Vec<Request<Bytes>>>>,
    handler: Arc<Mutex<Handler>>,
    task: AbortHandle,
}

impl Upstream {
    /// Answers 200 with the body `ok` until [`Upstream::respond`] says otherwise.
    pub async fn start() -> Self {
        Self::start_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await
    }

    pub async fn start_on(addr: SocketAddr) -> Self {
        let listener = TcpListener::bind(addr).await.expect("upstream listener");
        let addr = listener.local_addr().expect("bound address");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let handler: Handler = Arc::new(|_| Box::pin(async { Response::new(Full::from("ok")) }));
        let handler = Arc::new(Mutex::new(handler));
        let task = tokio::spawn(accept(listener, requests.clone(), handler.clone())).abort_handle();
        Self { addr, requests, handler, task }
    }

    /// Sets what later requests are answered with.
    pub fn respond<F, Fut>(&self, respond: F)
    where
        F: Fn(Request<Bytes>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        *self.handler.lock().unwrap() = Arc::new(move |request| Box::pin(respond(request)));
    }

    /// The same status for everyone, with an empty body.
    pub fn respond_status(&self, status: u16) {
        self.respond(move |_| async move {
            Response::builder().status(status).body(Full::default()).expect("valid status")
        });
    }

    pub fn requests(&self) -> Vec<Request<Bytes>> {
        self.requests.lock().unwrap().clone()
    }

    /// Stops listening and drops every open connection, at once or a moment later.
    pub fn kill(&self) {
        self.task.abort();
    }

    /// As [`Self::kill`], and waits until nobody can connect any more.
    pub async fn killed(&self) {
        self.kill();
        eventually("nobody listens", Duration::from_secs(10), || async {
            holds(TcpStream::connect(self.addr).await.is_err(), "somebody does")
        })
        .await;
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    requests: Arc<Mutex<Vec<Request<Bytes>>>>,
    handler: Arc<Mutex<Handler>>,
) {
    // Connections die with this set, and so with the listener's task.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                connections.spawn(serve(stream, requests.clone(), handler.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, requests: Arc<Mutex<Vec<Request<Bytes>>>>, handler: Arc<Mutex<Handler>>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let (requests, handler) = (requests.clone(), handler.clone());
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let request = Request::from_parts(head, body);
            requests.lock().unwrap().push(request.clone());
            let handler = handler.lock().unwrap().clone();
            Ok::<_, hyper::Error>(handler(request).await)
        }
    });
    let _client_gone = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await;
}

/// A TCP server whose connections the test drives byte by byte.
pub struct RawUpstream {
    pub addr: SocketAddr,
    task: AbortHandle,
}

impl RawUpstream {
    /// `serve` gets each accepted connection with its running number, from 0.
    pub async fn start<F, Fut>(serve: F) -> Self
    where
        F: Fn(TcpStream, usize) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("upstream listener");
        let addr = listener.local_addr().expect("bound address");
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            let mut number = 0;
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((stream, _)) = accepted else { continue };
                        let _ = stream.set_nodelay(true);
                        connections.spawn(serve(stream, number));
                        number += 1;
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        })
        .abort_handle();
        Self { addr, task }
    }
}

impl Drop for RawUpstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

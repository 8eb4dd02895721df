//! The smallest HTTP client a test needs: one request on a new connection, the whole answer.

use std::io;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// GET `url` (http only).
pub async fn get(url: &str) -> io::Result<Response<Bytes>> {
    send(Method::GET, url, &[], Bytes::new()).await
}

/// One request with `headers` and `body`; the connection is closed afterwards.
pub async fn send(
    method: Method,
    url: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> io::Result<Response<Bytes>> {
    let uri: Uri = url.parse().map_err(io::Error::other)?;
    let authority = uri.authority().ok_or_else(|| io::Error::other(format!("no host in {url}")))?.clone();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder().method(method).uri(path);
    let all = request.headers_mut().ok_or_else(|| io::Error::other(format!("bad request for {url}")))?;
    *all = collect(headers)?;
    if !all.contains_key(http::header::HOST) {
        all.insert(http::header::HOST, authority.as_str().parse().map_err(io::Error::other)?);
    }
    let request = request.body(Full::new(body.into())).map_err(io::Error::other)?;
    let stream =
        TcpStream::connect((authority.host().trim_matches(['[', ']']), authority.port_u16().unwrap_or(80)))
            .await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let driver = tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(io::Error::other)?;
    let (head, body) = answer.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    driver.abort();
    Ok(Response::from_parts(head, body))
}

fn collect(headers: &[(&str, &str)]) -> io::Result<HeaderMap> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(
            http::HeaderName::try_from(*name).map_err(io::Error::other)?,
            http::HeaderValue::try_from(*value).map_err(io::Error::other)?,
        );
    }
    Ok(map)
}

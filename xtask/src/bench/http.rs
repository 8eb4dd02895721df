//! Blocking HTTP/1.1, for setting a benchmark up and for sequential requests.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::process::Failed;

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// One exchange on a connection of its own. None when nothing answers.
pub fn ask(address: SocketAddr, method: &str, path: &str, headers: &[String], body: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n",
        body.len()
    );
    for header in headers {
        request.push_str(header);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    request.push_str(body);
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some(Answer { status: head.split_whitespace().nth(1)?.parse().ok()?, body: body.to_owned() })
}

/// A connection that is kept.
pub struct Client {
    address: SocketAddr,
    stream: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Result<Self, Failed> {
        let failed = |error: std::io::Error| Failed(format!("{address}: {error}"));
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_read_timeout(Some(Duration::from_secs(60))).map_err(failed)?;
        Ok(Self { address, stream: BufReader::with_capacity(64 * 1024, stream) })
    }

    /// An answer other than 2xx is a failure.
    pub fn send(&mut self, method: &str, path: &str, body: &str) -> Result<Answer, Failed> {
        let answer = self.exchange(method, path, body);
        let answer = answer.map_err(|error| Failed(format!("{method} {}{path}: {error}", self.address)))?;
        if (200..300).contains(&answer.status) {
            return Ok(answer);
        }
        Err(Failed(format!("{method} {}{path}: {}: {}", self.address, answer.status, answer.body)))
    }

    fn exchange(&mut self, method: &str, path: &str, body: &str) -> std::io::Result<Answer> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let status = self.line()?.split_whitespace().nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| std::io::Error::other("no status"))?;
        let (mut length, mut chunked) = (0, false);
        loop {
            let line = self.line()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(std::io::Error::other)?;
            }
            chunked |= line.starts_with("transfer-encoding:") && line.ends_with("chunked");
        }
        let mut body = Vec::new();
        if chunked {
            loop {
                let size = usize::from_str_radix(&self.line()?, 16).map_err(std::io::Error::other)?;
                (&mut self.stream).take(size as u64).read_to_end(&mut body)?;
                self.line()?;
                if size == 0 {
                    break;
                }
            }
        } else {
            (&mut self.stream).take(length).read_to_end(&mut body)?;
        }
        Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(std::io::Error::other("the connection was closed"));
        }
        line.truncate(line.trim_end().len());
        Ok(line)
    }
}

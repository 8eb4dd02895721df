//! What `/v1/agent/monitor` shows: lines about requests and about what the agent does by itself, in Consul's form. They are
//! made only while somebody reads; the program's own log is another thing and goes where the program says.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::Frame;
use serde_json::{Map, Value};
use tokio::sync::{broadcast, mpsc, watch};

/// Lines kept for a reader that is slow; it is told how many it missed.
const KEPT: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

impl Level {
    /// By the names that Consul takes.
    pub fn parse(text: &str) -> Option<Level> {
        Some(match text.to_ascii_uppercase().as_str() {
            "TRACE" => Level::Trace,
            "DEBUG" => Level::Debug,
            "INFO" => Level::Info,
            "WARN" => Level::Warn,
            "ERR" | "ERROR" => Level::Error,
            _ => return None,
        })
    }

    fn as_str(self) -> &'static str {
        match self {
            Level::Trace => "TRACE",
            Level::Debug => "DEBUG",
            Level::Info => "INFO",
            Level::Warn => "WARN",
            Level::Error => "ERROR",
        }
    }
}

type Fields = Vec<(&'static str, String)>;

#[derive(Debug)]
struct Entry {
    at: jiff::Timestamp,
    level: Level,
    part: &'static str,
    text: &'static str,
    fields: Fields,
}

impl Entry {
    fn line(&self, json: bool) -> Bytes {
        let Entry { at, level, part, text, fields } = self;
        if json {
            let mut object: Map<String, Value> =
                fields.iter().map(|(name, value)| ((*name).to_owned(), value.as_str().into())).collect();
            object.insert("@level".to_owned(), level.as_str().to_lowercase().into());
            object.insert("@message".to_owned(), (*text).into());
            object.insert("@module".to_owned(), (*part).into());
            object.insert("@timestamp".to_owned(), at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string().into());
            return Bytes::from(format!("{}\n", Value::Object(object)));
        }
        let mut line = format!("{} ", at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ"));
        line.push_str(&format!("{:<8}{part}: {text}", format!("[{}]", level.as_str())));
        for (at, (name, value)) in fields.iter().enumerate() {
            line.push_str(if at == 0 { ": " } else { " " });
            if value.is_empty() || value.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"') {
                line.push_str(&format!("{name}={value:?}"));
            } else {
                line.push_str(&format!("{name}={value}"));
            }
        }
        line.push('\n');
        Bytes::from(line)
    }
}

#[derive(Debug)]
pub struct Feed {
    entries: broadcast::Sender<Arc<Entry>>,
    readers: Arc<AtomicUsize>,
    ended: watch::Sender<bool>,
}

impl Default for Feed {
    fn default() -> Feed {
        Feed {
            entries: broadcast::Sender::new(KEPT),
            readers: Arc::default(),
            ended: watch::Sender::new(false),
        }
    }
}

/// One who reads.
struct Reading(Arc<AtomicUsize>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Feed {
    /// Whether anybody reads: what nobody reads need not be made.
    pub fn wanted(&self) -> bool {
        self.readers.load(Ordering::Relaxed) > 0
    }

    pub fn tell(
        &self,
        level: Level,
        part: &'static str,
        text: &'static str,
        fields: impl FnOnce() -> Fields,
    ) {
        if self.wanted() {
            let entry = Entry { at: jiff::Timestamp::now(), level, part, text, fields: fields() };
            // the last reader may just have gone
            let _ = self.entries.send(Arc::new(entry));
        }
    }

    /// Ends all readers' streams, for good.
    pub fn close(&self) {
        self.ended.send_replace(true);
    }

    /// What is told from now on, at this level and above. To be called in a runtime.
    pub fn read(&self, least: Level, json: bool) -> Lines {
        let mut entries = self.entries.subscribe();
        self.readers.fetch_add(1, Ordering::Relaxed);
        let reading = Reading(self.readers.clone());
        let mut ended = self.ended.subscribe();
        let (lines, received) = mpsc::channel(1);
        tokio::spawn(async move {
            let _reading = reading;
            let carry = async {
                loop {
                    let line = match entries.recv().await {
                        Ok(entry) if entry.level < least => continue,
                        Ok(entry) => entry.line(json),
                        Err(broadcast::error::RecvError::Lagged(missed)) => missing(missed).line(json),
                        Err(broadcast::error::RecvError::Closed) => return,
                    };
                    if lines.send(line).await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = carry => {}
                () = lines.closed() => {}
                // the other side is gone only with the feed
                _ = ended.wait_for(|ended| *ended) => {}
            }
        });
        Lines(received)
    }
}

fn missing(missed: u64) -> Entry {
    Entry {
        at: jiff::Timestamp::now(),
        level: Level::Warn,
        part: "agent.monitor",
        text: "the reader was too slow: lines are missing",
        fields: vec![("missing", missed.to_string())],
    }
}

/// A body that goes on until its reader leaves or the agent ends.
#[derive(Debug)]
pub struct Lines(mpsc::Receiver<Bytes>);

impl Lines {
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        self.0.poll_recv(cx).map(|line| line.map(Frame::data))
    }
}

/// A request's path and query as they may be shown: a token is not.
pub fn shown_url(uri: &http::Uri) -> String {
    let Some(query) = uri.query() else { return uri.path().to_owned() };
    let hidden = |pair: &str| match pair.split_once('=') {
        Some((name, _)) if percent_encoding::percent_decode_str(name).eq(*b"token") => {
            "token=<hidden>".to_owned()
        }
        _ => pair.to_owned(),
    };
    let pairs: Vec<String> = query.split('&').flat_map(|pair| pair.split(';')).map(hidden).collect();
    format!("{}?{}", uri.path(), pairs.join("&"))
}

impl Lines {
    #[cfg(test)]
    async fn next(&mut self) -> Option<String> {
        let frame = std::future::poll_fn(|cx| self.poll(cx)).await?;
        frame.into_data().ok().map(|data| String::from_utf8_lossy(&data).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_made_for_who_reads() {
        let feed = Feed::default();
        feed.tell(Level::Error, "agent", "nobody reads", || panic!("made for nobody"));
        let (mut plain, mut json) = (feed.read(Level::Info, false), feed.read(Level::Debug, true));
        feed.tell(Level::Debug, "agent.http", "Request finished", || vec![("method", "GET".to_owned())]);
        let fields = || vec![("method", "PUT".to_owned()), ("error", "it \"broke\"".to_owned())];
        feed.tell(Level::Error, "agent.http", "Request error", fields);
        let line = plain.next().await.unwrap();
        let end = "[ERROR] agent.http: Request error: method=PUT error=\"it \\\"broke\\\"\"\n";
        assert!(line.ends_with(end) && line.len() == "2026-11-26T06:42:37.559Z ".len() + end.len(), "{line}");
        let first: Value = serde_json::from_str(&json.next().await.unwrap()).unwrap();
        assert_eq!(first["@message"], "Request finished");
        assert_eq!((&first["@level"], &first["method"]), (&"debug".into(), &"GET".into()));
        assert!(json.next().await.unwrap().contains("Request error"));
        feed.close();
        assert_eq!((plain.next().await, json.next().await), (None, None));
        while feed.wanted() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_what_it_missed() {
        let feed = Feed::default();
        let mut lines = feed.read(Level::Trace, false);
        for _ in 0..3 * KEPT {
            feed.tell(Level::Info, "agent", "a line", Vec::new);
        }
        let mut seen = 0;
        let missed = loop {
            let line = lines.next().await.unwrap();
            match line.split_once("missing=") {
                Some((_, missed)) => break missed.trim().parse::<usize>().unwrap(),
                None => seen += 1,
            }
        };
        assert_eq!(seen + missed + KEPT, 3 * KEPT);
        drop(lines);
        while feed.wanted() {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn tokens_are_hidden() {
        for (given, shown) in [
            ("/v1/kv/a", "/v1/kv/a"),
            ("/v1/kv/a?token=s&raw", "/v1/kv/a?token=<hidden>&raw"),
            ("/v1/kv/a?raw;tok%65n=s", "/v1/kv/a?raw&token=<hidden>"),
            ("/v1/kv/a?tokens=s", "/v1/kv/a?tokens=s"),
        ] {
            assert_eq!(shown_url(&given.parse().unwrap()), shown);
        }
    }
}

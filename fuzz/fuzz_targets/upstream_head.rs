//! The first byte says how the request was asked. A head that is taken is taken the same however its bytes come, leaves what
//! is behind it alone, and says nothing about the connection to the client.
#![no_main]

mod client;

use bytes::BytesMut;
use client::head::{Asked, Framing, Head, take};
use http::Method;

const HOP_BY_HOP: [&str; 6] =
    ["connection", "transfer-encoding", "upgrade", "te", "keep-alive", "proxy-connection"];

fn same(one: &Head, other: &Head) -> bool {
    let of = |head: &Head| (head.status, head.headers.clone(), head.framing, head.keep_alive);
    of(one) == of(other)
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((way, bytes)) = data.split_first() else { return };
    let method = if way & 1 == 0 { Method::GET } else { Method::HEAD };
    let asked = Asked { method: &method, upgrade: way & 2 != 0 };
    let mut buffer = BytesMut::from(bytes);
    let head = match take(&mut buffer, asked) {
        Ok(Some(head)) => head,
        Ok(None) => return assert_eq!(buffer, bytes),
        Err(_) => return,
    };
    let used = bytes.len() - buffer.len();
    assert_eq!(buffer, bytes[used..]);
    for end in 0..used {
        let mut part = BytesMut::from(&bytes[..end]);
        assert!(matches!(take(&mut part, asked), Ok(None)), "{end} of {used} bytes");
    }
    let again = take(&mut BytesMut::from(&bytes[..used]), asked);
    assert!(matches!(again, Ok(Some(again)) if same(&again, &head)));
    if head.framing != Framing::Upgrade {
        assert!(HOP_BY_HOP.iter().all(|name| !head.headers.contains_key(*name)), "{:?}", head.headers);
    }
    if matches!(head.framing, Framing::Close | Framing::Upgrade) {
        assert!(!head.keep_alive);
    }
    if head.framing == Framing::Chunked {
        assert!(!head.headers.contains_key("content-length"));
    }
});

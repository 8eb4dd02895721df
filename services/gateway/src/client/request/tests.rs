use futures_util::{StreamExt as _, stream};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use proptest::prelude::*;

use super::*;

const TIMEOUT: Duration = Duration::from_secs(5);

fn pieces(pieces: Vec<Vec<u8>>, trailers: Option<HeaderMap>) -> RequestBody {
    let data = pieces.into_iter().map(|piece| Frame::data(Bytes::from(piece)));
    let frames: Vec<Result<Frame<Bytes>, BoxError>> =
        data.chain(trailers.map(Frame::trailers)).map(Ok).collect();
    RequestBody::boxed(StreamBody::new(stream::iter(frames)).boxed_unsync(), 0)
}

async fn sent(body: &mut RequestBody) -> (Vec<u8>, Option<HeaderMap>) {
    let (mut bytes, mut trailers) = (Vec::new(), None);
    loop {
        match std::future::poll_fn(|cx| body.poll_piece(cx)).await.unwrap() {
            Piece::Data(data) => bytes.extend_from_slice(&data),
            Piece::Trailers(fields) => trailers = Some(fields),
            Piece::End => return (bytes, trailers),
        }
    }
}

fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

proptest! {
    #[test]
    fn a_gathered_body_is_what_was_sent_any_number_of_times(
        parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..8), limit in 0..300_usize
    ) {
        block(async {
            let all = parts.concat();
            let mut body = pieces(parts, None);
            match body.gather(limit, TIMEOUT).await {
                Ok(whole) => {
                    assert!(all.len() <= limit);
                    assert_eq!(whole, all);
                    assert_eq!(body.coding(), Coding::Length(all.len() as u64));
                    for _ in 0..2 {
                        assert_eq!(sent(&mut body).await.0, all);
                        assert!(body.rewind());
                    }
                }
                Err(error) => assert!(matches!(error, Ungathered::TooLarge) && all.len() > limit),
            }
        });
    }
}

/// A body whose pieces come when told to.
fn kept(pieces: Vec<&'static [u8]>, keep: usize) -> RequestBody {
    let frames = pieces.into_iter().map(|piece| Ok(Frame::data(Bytes::from_static(piece))));
    RequestBody::boxed(StreamBody::new(stream::iter(frames)).boxed_unsync(), keep)
}

#[tokio::test]
async fn a_body_that_can_be_remembered_is_buffered_whole_and_has_a_length() {
    let mut body = kept(vec![b"ab", b"cd"], 4);
    body.buffer(TIMEOUT).await.unwrap();
    assert_eq!((body.coding(), body.received()), (Coding::Length(4), 4));
    for _ in 0..2 {
        assert_eq!(sent(&mut body).await.0, b"abcd");
        assert!(body.rewind());
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "1".parse().unwrap());
    let frames = [Ok(Frame::data(Bytes::from_static(b"ab"))), Ok(Frame::trailers(trailers.clone()))];
    let mut body = RequestBody::boxed(StreamBody::new(stream::iter(frames)).boxed_unsync(), 4);
    body.buffer(TIMEOUT).await.unwrap();
    assert_eq!(body.coding(), Coding::Chunked, "a length leaves no room for trailers");
    assert_eq!(sent(&mut body).await, (b"ab".to_vec(), Some(trailers)));
}

#[tokio::test]
async fn a_longer_body_is_streamed_from_its_first_byte() {
    let mut body = kept(vec![b"abc", b"de", b"f", b"g"], 4);
    body.buffer(TIMEOUT).await.unwrap();
    assert_eq!((body.coding(), body.received()), (Coding::Chunked, 5));
    assert!(body.rewind(), "nothing of it is lost yet");
    assert_eq!(sent(&mut body).await.0, b"abcdefg");
    assert!(!body.rewind(), "more than is remembered");
}

#[test]
fn a_client_that_stops_sending_is_told_so() {
    let first = stream::iter([Ok(Frame::data(Bytes::from_static(b"ab")))]).chain(stream::pending());
    let mut body = RequestBody::boxed(StreamBody::new(first).boxed_unsync(), 4);
    let stopped = block(tokio::task::LocalSet::new().run_until(async move {
        tokio::task::spawn_local(tick::run());
        body.buffer(Duration::from_millis(20)).await
    }));
    assert!(matches!(stopped, Err(Fault::RequestBodyTimeout)), "{stopped:?}");
}

#[tokio::test]
async fn trailers_stay_with_a_gathered_body() {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "1".parse().unwrap());
    let mut body = pieces(vec![b"ab".to_vec(), b"c".to_vec()], Some(trailers.clone()));
    assert_eq!(body.gather(10, TIMEOUT).await.unwrap(), "abc");
    assert_eq!(body.coding(), Coding::Chunked);
    assert_eq!(sent(&mut body).await, (b"abc".to_vec(), Some(trailers)));
}

#[tokio::test]
async fn another_body_takes_its_place() {
    let mut body = pieces(vec![b"abc".to_vec()], None);
    body.gather(10, TIMEOUT).await.unwrap();
    body.replace(Bytes::from_static(b"xy"));
    assert_eq!(sent(&mut body).await.0, b"xy");
    assert_eq!((body.coding(), body.received()), (Coding::Length(2), 3));
}

#[tokio::test]
async fn a_limit_holds_while_streaming_and_while_gathering() {
    let mut streamed = pieces(vec![b"abc".to_vec(), b"def".to_vec()], None);
    streamed.at_most(5);
    assert!(matches!(std::future::poll_fn(|cx| streamed.poll_piece(cx)).await, Ok(Piece::Data(_))));
    let error = std::future::poll_fn(|cx| streamed.poll_piece(cx)).await.unwrap_err();
    assert!(error.is::<TooLong>());
    let mut announced = RequestBody::boxed(
        Full::new(Bytes::from_static(b"abcdef")).map_err(|never| match never {}).boxed_unsync(),
        0,
    );
    announced.at_most(5);
    assert!(matches!(announced.gather(10, TIMEOUT).await, Err(Ungathered::TooLong(_))));
    assert_eq!(announced.received(), 0, "refused by its announced length");
}

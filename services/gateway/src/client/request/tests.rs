use futures_util::stream;
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

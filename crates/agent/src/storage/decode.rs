//! Decoding is most of a start's work, and needs no order: it is spread over threads, applying is not.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::available_parallelism;

use super::frame;

/// Frames that one thread decodes at a time.
const CHUNK: usize = 256;
/// Chunks that wait for being applied, of each thread.
const AHEAD: usize = 4;
/// More threads than this only wait for the one that applies.
const MOST_THREADS: usize = 8;

/// A frame's payload and where the frame begins.
pub(super) type Frame<'a> = (u64, &'a [u8]);

/// All whole frames from the beginning, and what is known of the rest.
pub(super) fn frames(bytes: &[u8]) -> (Vec<Frame<'_>>, frame::Reader<'_>) {
    let mut reader = frame::Reader::new(bytes);
    let mut frames = Vec::new();
    loop {
        let offset = reader.offset();
        let Some(payload) = reader.next_frame() else { return (frames, reader) };
        frames.push((offset, payload));
    }
}

/// Hands every frame's decoded value to `take`, in order, until one is refused.
pub(super) fn in_order<T: Send, E>(
    frames: &[Frame<'_>],
    decode: impl Fn(&[u8]) -> T + Sync,
    mut take: impl FnMut(u64, T) -> Result<(), E>,
) -> Result<(), E> {
    let threads = available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    if threads == 1 || frames.len() < 2 * CHUNK {
        return frames.iter().try_for_each(|(offset, payload)| take(*offset, decode(payload)));
    }
    let decode = &decode;
    std::thread::scope(|scope| {
        let work = |first: usize| -> Receiver<Vec<T>> {
            let (tell, told) = sync_channel(AHEAD);
            scope.spawn(move || {
                for chunk in frames.chunks(CHUNK).skip(first).step_by(threads) {
                    let decoded = chunk.iter().map(|(_, payload)| decode(payload)).collect();
                    // nobody listens any more after a refusal
                    if tell.send(decoded).is_err() {
                        return;
                    }
                }
            });
            told
        };
        let decoded: Vec<_> = (0..threads).map(work).collect();
        for (n, chunk) in frames.chunks(CHUNK).enumerate() {
            // a thread that panicked is reported by the scope
            let Ok(values) = decoded[n % threads].recv() else { break };
            for ((offset, _), value) in chunk.iter().zip(values) {
                take(*offset, value)?;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_come_in_order_and_a_refusal_ends_it() {
        let texts: Vec<String> = (0..5 * CHUNK + 7).map(|n| n.to_string()).collect();
        let frames: Vec<Frame<'_>> = (0..).zip(texts.iter().map(String::as_bytes)).collect();
        let number = |payload: &[u8]| std::str::from_utf8(payload).unwrap().parse::<u64>().unwrap();
        let mut seen = 0;
        let all = in_order(&frames, number, |offset, value| {
            assert_eq!((offset, value), (seen, seen));
            seen += 1;
            Ok::<_, ()>(())
        });
        assert_eq!((all, seen), (Ok(()), texts.len() as u64));
        let refused = in_order(&frames, number, |_, value| if value == 700 { Err(value) } else { Ok(()) });
        assert_eq!(refused, Err(700));
    }
}

//! Frames: `length: u32 LE`, `crc32c of length and payload: u32 LE`, payload (JSON values one after the other).
//!
//! The checksum covers the length too, so that a run of zeros is not taken for an empty frame. A frame is whole or it
//! is not there: what is written and synced together goes into one.

use std::io;

use serde::Serialize;

/// Bytes before the payload.
pub const HEADER: usize = 8;
/// A length beyond it is damage. JSON text read as a length is always beyond it, so no frame is ever seen inside of
/// another one's payload.
const LARGEST: usize = 256 << 20;
/// Most bytes of one value; the rest of a frame is for those it is written together with.
const LARGEST_VALUE: usize = LARGEST / 2;

/// Begins a frame at the end of `out`; [`finish`] wants the place back.
pub fn begin(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER]);
    start
}

/// Whether nothing was pushed, begun or not.
pub fn is_empty(frame: &[u8]) -> bool {
    frame.len() <= HEADER
}

/// Adds a value to the frame that was begun. On an error `out` is as before.
pub fn push<T: Serialize>(out: &mut Vec<u8>, value: &T) -> io::Result<()> {
    let before = out.len();
    let pushed = serde_json::to_writer(&mut *out, value).map_err(io::Error::from).and_then(|()| {
        if out.len() - before > LARGEST_VALUE {
            let text = format!("a record of {} bytes, more than {LARGEST_VALUE}", out.len() - before);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        Ok(())
    });
    match pushed {
        Ok(()) => out.push(b'\n'),
        Err(_) => out.truncate(before),
    }
    pushed
}

/// Fills in the length and checksum of the frame begun at `start`.
pub fn finish(out: &mut [u8], start: usize) {
    // `push` keeps it far below 4 GiB
    let length = ((out.len() - start - HEADER) as u32).to_le_bytes();
    let sum = crc32c::crc32c_append(crc32c::crc32c(&length), &out[start + HEADER..]).to_le_bytes();
    out[start..start + 4].copy_from_slice(&length);
    out[start + 4..start + HEADER].copy_from_slice(&sum);
}

/// Appends a frame with one value.
pub fn encode<T: Serialize>(out: &mut Vec<u8>, value: &T) -> io::Result<()> {
    let start = begin(out);
    match push(out, value) {
        Ok(()) => finish(out, start),
        Err(error) => {
            out.truncate(start);
            return Err(error);
        }
    }
    Ok(())
}

/// Reads frames until the first that is not whole.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, at: 0 }
    }

    /// Where the next frame would begin.
    pub fn offset(&self) -> u64 {
        self.at as u64
    }

    pub fn next_frame(&mut self) -> Option<&'a [u8]> {
        let payload = whole(self.bytes.get(self.at..)?)?;
        self.at += HEADER + payload.len();
        Some(payload)
    }

    /// Where a whole frame of objects begins beyond the place at which [`Reader::next_frame`] gave up, if there is one.
    pub fn beyond(&self) -> Option<u64> {
        (self.at + 1..self.bytes.len().saturating_sub(HEADER))
            .filter(|at| self.bytes[at + HEADER] == b'{')
            .find(|at| self.bytes.get(*at..).and_then(whole).is_some())
            .map(|at| at as u64)
    }
}

/// The payload of the frame at the beginning of `bytes`.
fn whole(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let size = u32::from_le_bytes(*length) as usize;
    if size > LARGEST {
        return None;
    }
    let payload = rest.get(..size)?;
    let right = crc32c::crc32c_append(crc32c::crc32c(length), payload) == u32::from_le_bytes(*sum);
    right.then_some(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Vec<u8> {
        let mut bytes = Vec::new();
        for n in 0..3 {
            encode(&mut bytes, &std::collections::BTreeMap::from([("record", n)])).unwrap();
        }
        bytes
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_seen() {
        let bytes = three();
        let frame = bytes.len() / 3;
        for cut in 0..bytes.len() {
            let mut reader = Reader::new(&bytes[..cut]);
            let mut whole = 0;
            while reader.next_frame().is_some() {
                whole += 1;
            }
            assert_eq!(whole, cut / frame, "cut at {cut}");
            assert_eq!(reader.beyond(), None, "cut at {cut}");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            let mut reader = Reader::new(&damaged);
            let mut whole = 0;
            while reader.next_frame().is_some() {
                whole += 1;
            }
            assert_eq!(whole, at / frame, "flipped byte {at}");
            let next = (whole + 1) * frame;
            let expected = (next < bytes.len()).then_some(next as u64);
            assert_eq!(reader.beyond(), expected, "what follows flipped byte {at}");
        }
    }

    #[test]
    fn zeros_are_no_frame() {
        let mut reader = Reader::new(&[0; 64]);
        assert!(reader.next_frame().is_none());
        assert_eq!(reader.beyond(), None);
    }

    #[test]
    fn a_refused_value_leaves_the_frame_as_it_was() {
        let mut bytes = three();
        let before = bytes.clone();
        let unprintable = std::collections::BTreeMap::from([(vec![1_u8], 1)]);
        encode(&mut bytes, &unprintable).unwrap_err();
        assert_eq!(bytes, before);
    }
}

//! Frames: `length: u32 LE`, `crc32c of length and payload: u32 LE`, payload (JSON).
//!
//! The checksum covers the length too, so that a run of zeros is not taken for an empty frame.

use std::io;

use serde::Serialize;

const HEADER: usize = 8;
/// More than any command can be: a length beyond it is damage.
const LARGEST: usize = 256 << 20;

/// Appends one frame.
pub fn encode<T: Serialize>(out: &mut Vec<u8>, value: &T) -> io::Result<()> {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER]);
    serde_json::to_writer(&mut *out, value)?;
    let length = u32::try_from(out.len() - start - HEADER).map_err(io::Error::other)?.to_le_bytes();
    let sum = crc32c::crc32c_append(crc32c::crc32c(&length), &out[start + HEADER..]).to_le_bytes();
    out[start..start + 4].copy_from_slice(&length);
    out[start + 4..start + HEADER].copy_from_slice(&sum);
    Ok(())
}

/// Reads frames until the first that is not whole.
#[derive(Debug)]
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
        let rest = self.bytes.get(self.at..)?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (sum, rest) = rest.split_first_chunk::<4>()?;
        let size = u32::from_le_bytes(*length) as usize;
        if size > LARGEST {
            return None;
        }
        let payload = rest.get(..size)?;
        if crc32c::crc32c_append(crc32c::crc32c(length), payload) != u32::from_le_bytes(*sum) {
            return None;
        }
        self.at += HEADER + size;
        Some(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cut_and_every_flipped_byte_is_seen() {
        let mut bytes = Vec::new();
        for n in 0..3 {
            encode(&mut bytes, &format!("record {n}")).unwrap();
        }
        let frame = bytes.len() / 3;
        for cut in 0..bytes.len() {
            let mut reader = Reader::new(&bytes[..cut]);
            let mut whole = 0;
            while reader.next_frame().is_some() {
                whole += 1;
            }
            assert_eq!(whole, cut / frame, "cut at {cut}");
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
        }
    }

    #[test]
    fn zeros_are_no_frame() {
        assert!(Reader::new(&[0; 64]).next_frame().is_none());
    }
}

//! Consul's snapshot archive: a gzipped tar of `meta.json` (what it is of), `state.bin` (the state) and `SHA256SUMS` (of both).
//! So `consul snapshot inspect` reads ours, and anybody can look into it; what `state.bin` holds is each program's own.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};

use aws_lc_rs::digest::{SHA256, digest};
use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;

/// Files of a tar begin at multiples of this.
const BLOCK: usize = 512;
const META: &str = "meta.json";
const STATE: &str = "state.bin";
const SUMS: &str = "SHA256SUMS";

pub struct Archive {
    pub meta: Vec<u8>,
    pub state: Vec<u8>,
}

fn sum(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `modified` is in seconds since the epoch.
pub fn pack(archive: &Archive, modified: u64) -> io::Result<Vec<u8>> {
    let Archive { meta, state } = archive;
    let sums = format!("{}  {META}\n{}  {STATE}\n", sum(meta), sum(state));
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    for (name, bytes) in [(META, &meta[..]), (STATE, state), (SUMS, sums.as_bytes())] {
        gzip.write_all(&header(name, bytes.len(), modified))?;
        gzip.write_all(bytes)?;
        gzip.write_all(&vec![0; bytes.len().next_multiple_of(BLOCK) - bytes.len()])?;
    }
    gzip.write_all(&[0; 2 * BLOCK])?;
    gzip.finish()
}

/// A file's header as POSIX has it since 1988.
fn header(name: &str, size: usize, modified: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000600");
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{size:011o}"));
    put(136, &format!("{modified:011o}"));
    // the checksum is made as if it were blanks
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\u{0}00");
    let sum = checksum(&block);
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn checksum(block: &[u8; BLOCK]) -> u32 {
    let blank = |at: usize, byte: u8| if (148..156).contains(&at) { b' ' } else { byte };
    block.iter().enumerate().map(|(at, byte)| u32::from(blank(at, *byte))).sum()
}

/// Takes an archive apart; `most` is how many bytes it may have unpacked. Refuses what is damaged in Consul's words.
pub fn unpack(body: &[u8], most: usize) -> Result<Archive, String> {
    let failed = |error: io::Error| {
        let ended = error.kind() == io::ErrorKind::UnexpectedEof;
        format!(
            "failed to decompress snapshot: {}",
            if ended { "unexpected EOF".to_owned() } else { error.to_string() }
        )
    };
    if body.is_empty() {
        return Err("failed to decompress snapshot: EOF".to_owned());
    }
    let mut tar = Vec::new();
    GzDecoder::new(body).take(most as u64 + 1).read_to_end(&mut tar).map_err(failed)?;
    if tar.len() > most {
        return Err(format!("failed to decompress snapshot: more than {most} bytes"));
    }
    let mut files = files(&tar).map_err(|why| format!("failed to read snapshot file: {why}"))?;
    let sums = files.remove(SUMS).unwrap_or_default();
    check(&files, sums).map_err(|why| {
        format!("failed to read snapshot file: failed checking integrity of snapshot: {why}")
    })?;
    let mut take = |name| files.remove(name).unwrap_or_default().to_vec();
    Ok(Archive { meta: take(META), state: take(STATE) })
}

fn files(tar: &[u8]) -> Result<BTreeMap<&str, &[u8]>, String> {
    let mut files = BTreeMap::new();
    let mut rest = tar;
    while let Some((block, behind)) = rest.split_first_chunk::<BLOCK>() {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(files);
        }
        let text = |from: usize, to: usize| {
            let field = &block[from..to];
            let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
            std::str::from_utf8(&field[..end]).map(str::trim).map_err(|_| damaged())
        };
        let number = |from, to| usize::from_str_radix(text(from, to)?, 8).map_err(|_| damaged());
        if number(148, 156)? != checksum(block) as usize {
            return Err(damaged());
        }
        let (name, size) = (text(0, 100)?, number(124, 136)?);
        if ![META, STATE, SUMS].contains(&name) {
            return Err(format!("unexpected file {name:?} in snapshot"));
        }
        let bytes = behind.get(..size).ok_or_else(|| "failed reading snapshot: unexpected EOF".to_owned())?;
        files.insert(name, bytes);
        rest = behind.get(size.next_multiple_of(BLOCK)..).unwrap_or_default();
    }
    Ok(files)
}

fn damaged() -> String {
    "failed reading snapshot: archive/tar: invalid tar header".to_owned()
}

fn check(files: &BTreeMap<&str, &[u8]>, sums: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(sums).map_err(|error| error.to_string())?;
    let mut listed = BTreeMap::new();
    for line in text.lines() {
        let (sum, name) = line.split_once("  ").ok_or_else(|| format!("malformed line {line:?}"))?;
        if ![META, STATE].contains(&name) {
            return Err(format!("list missing hash for {name:?}"));
        }
        listed.insert(name, sum);
    }
    for name in [META, STATE] {
        let wanted = listed.get(name).ok_or_else(|| format!("file missing for {name:?}"))?;
        if sum(files.get(name).copied().unwrap_or_default()) != *wanted {
            return Err(format!("hash check failed for {name:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed() -> Vec<u8> {
        let archive = Archive { meta: b"{}\n".to_vec(), state: vec![b's'; 2000] };
        pack(&archive, 1_700_000_000).unwrap()
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        let Archive { meta, state } = unpack(&packed(), 1 << 20).unwrap();
        assert_eq!((&meta[..], state), (&b"{}\n"[..], vec![b's'; 2000]));
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_noticed() {
        let whole = packed();
        for cut in 0..whole.len() {
            assert!(unpack(&whole[..cut], 1 << 20).is_err(), "cut at {cut}");
        }
        let mut refused = 0;
        // the header of gzip has a time and a name of the operating system that mean nothing
        for at in 10..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x20;
            match unpack(&damaged, 1 << 20) {
                Err(_) => refused += 1,
                // a run of zeros can be copied from more than one place before it: the same bytes come out
                Ok(same) => assert_eq!(
                    (&same.meta[..], same.state),
                    (&b"{}\n"[..], vec![b's'; 2000]),
                    "flipped byte {at}"
                ),
            }
        }
        assert!(refused > whole.len() / 2, "{refused} of {}", whole.len());
    }

    #[test]
    fn no_more_is_unpacked_than_is_allowed() {
        let why = unpack(&packed(), 1000).err().unwrap();
        assert_eq!(why, "failed to decompress snapshot: more than 1000 bytes");
    }
}

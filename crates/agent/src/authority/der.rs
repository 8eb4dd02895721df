//! As much of DER as a certificate's names, times and extensions need: nested elements of a tag, a length and a content.

use super::Error;

pub const INTEGER: u8 = 0x02;
pub const BIT_STRING: u8 = 0x03;
pub const OCTET_STRING: u8 = 0x04;
pub const OBJECT_ID: u8 = 0x06;
pub const SEQUENCE: u8 = 0x30;
pub const UTC_TIME: u8 = 0x17;
pub const GENERALIZED_TIME: u8 = 0x18;

/// One element: its tag, what it holds, and the whole of it.
#[derive(Clone, Copy, Debug)]
pub struct Element<'a> {
    pub tag: u8,
    pub content: &'a [u8],
    pub whole: &'a [u8],
}

impl<'a> Element<'a> {
    /// What it holds, which must be elements.
    pub fn inner(&self) -> Result<Vec<Element<'a>>, Error> {
        all(self.content)
    }
}

/// The only element of `bytes`.
pub fn one(bytes: &[u8], tag: u8) -> Result<Element<'_>, Error> {
    match first(bytes)? {
        (element, []) if element.tag == tag => Ok(element),
        _ => Err(Error::Certificate("not as it should be made up")),
    }
}

/// All elements of `bytes`, one after the other.
pub fn all(mut bytes: &[u8]) -> Result<Vec<Element<'_>>, Error> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (element, rest) = first(bytes)?;
        found.push(element);
        bytes = rest;
    }
    Ok(found)
}

fn first(bytes: &[u8]) -> Result<(Element<'_>, &[u8]), Error> {
    let short = || Error::Certificate("ends early");
    let (tag, length) = (*bytes.first().ok_or_else(short)?, *bytes.get(1).ok_or_else(short)?);
    let (start, length) = match usize::from(length) {
        length @ ..=0x7f => (2, length),
        // no certificate needs more than four bytes for a length
        long @ 0x81..=0x84 => {
            let digits = bytes.get(2..2 + (long - 0x80)).ok_or_else(short)?;
            (2 + digits.len(), digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)))
        }
        _ => return Err(Error::Certificate("has a length that is none")),
    };
    let end = start.checked_add(length).filter(|end| *end <= bytes.len()).ok_or_else(short)?;
    let (whole, rest) = bytes.split_at(end);
    Ok((Element { tag, content: &whole[start..], whole }, rest))
}

/// An element around `parts`.
pub fn wrap(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut whole = vec![tag];
    if content.len() < 0x80 {
        whole.push(content.len() as u8);
    } else {
        let digits: Vec<u8> =
            content.len().to_be_bytes().into_iter().skip_while(|digit| *digit == 0).collect();
        whole.push(0x80 | digits.len() as u8);
        whole.extend_from_slice(&digits);
    }
    whole.extend_from_slice(&content);
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrapped_is_read() {
        for size in [0, 1, 0x7f, 0x80, 0xff, 0x100, 0x1_0000] {
            let content = vec![7; size];
            let whole = wrap(OCTET_STRING, &[&content]);
            let element = one(&whole, OCTET_STRING).unwrap();
            assert_eq!((element.content, element.whole), (&content[..], &whole[..]));
            assert!(one(&whole, SEQUENCE).is_err());
            assert!(one(&whole[..whole.len() - 1], OCTET_STRING).is_err());
        }
        assert!(one(&[0x30, 0x80, 0, 0], SEQUENCE).is_err());
        assert!(one(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], SEQUENCE).is_err());
        assert!(one(&[], SEQUENCE).is_err());
    }
}

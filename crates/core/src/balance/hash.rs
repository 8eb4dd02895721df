//! The hash behind ring places, sticky tokens and ownership: its values may never change between versions or
//! machines, which is why no library hasher (free to change) is used.

/// 64 bits over any bytes: FNV-1a, then a finaliser that spreads the last bytes over all bits.
/// For placement only: it does not resist someone who picks keys to collide.
pub fn stable_hash(bytes: &[u8]) -> u64 {
    let folded = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    mix(folded)
}

/// Bijective scrambling of 64 bits (the finaliser of splitmix64).
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Maps 64 random bits to `0..bound` without a division; 0 for a bound of 0.
pub(super) fn scale(random: u64, bound: u64) -> u64 {
    ((u128::from(random) * u128::from(bound)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_pinned() {
        assert_eq!(stable_hash(b""), mix(0xcbf2_9ce4_8422_2325));
        assert_eq!(stable_hash(b"a"), mix(0xaf63_dc4c_8601_ec8c));
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn scale_stays_below_its_bound() {
        assert_eq!(scale(u64::MAX, 7), 6);
        assert_eq!(scale(0, 7), 0);
        assert_eq!(scale(u64::MAX, 0), 0);
    }
}

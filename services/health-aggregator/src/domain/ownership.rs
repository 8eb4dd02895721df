//! Who probes what: rendezvous hashing of instances over the members that are alive.

use plinth_core::balance::{mix, stable_hash};

/// The member with the highest score for this instance. Each replica computes it alone; equal member lists give equal owners,
/// and a member that goes moves only its own instances. `None` only for no members.
pub fn owner<'a>(instance: &str, members: &'a [String]) -> Option<&'a str> {
    let instance = stable_hash(instance.as_bytes());
    members
        .iter()
        // The name breaks a tie, so that the order of the list decides nothing.
        .max_by_key(|member| {
            (mix(stable_hash(member.as_bytes()) ^ instance.rotate_left(32)), member.as_str())
        })
        .map(String::as_str)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn members(count: usize) -> Vec<String> {
        (0..count).map(|i| format!("health-aggregator-{i}")).collect()
    }

    proptest! {
        #[test]
        fn the_order_of_members_decides_nothing(instance in ".{0,40}", count in 1_usize..8, seed in any::<u64>()) {
            let all = members(count);
            let mut shuffled = all.clone();
            fastrand::Rng::with_seed(seed).shuffle(&mut shuffled);
            prop_assert_eq!(owner(&instance, &all), owner(&instance, &shuffled));
        }

        #[test]
        fn a_member_that_goes_moves_only_its_own(instance in ".{0,40}", count in 2_usize..8, gone in any::<usize>()) {
            let all = members(count);
            let gone = &all[gone % count];
            let rest: Vec<String> = all.iter().filter(|m| *m != gone).cloned().collect();
            let before = owner(&instance, &all).unwrap();
            if before != gone {
                prop_assert_eq!(owner(&instance, &rest), Some(before));
            }
        }
    }

    #[test]
    fn shares_are_even() {
        for count in [2, 3, 5] {
            let all = members(count);
            let mut owned: HashMap<&str, u32> = HashMap::new();
            for i in 0..10_000 {
                *owned.entry(owner(&format!("orders-{i}"), &all).unwrap()).or_default() += 1;
            }
            let fair = 10_000 / count as u32;
            assert!(owned.values().all(|n| n.abs_diff(fair) < fair / 10), "{owned:?}");
        }
        assert_eq!(owner("a", &[]), None);
    }
}

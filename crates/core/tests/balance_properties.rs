//! What holds for every strategy, whatever the endpoints: property tests over `core::balance`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::sync::Arc;

use plinth_core::balance::{
    Address, Algorithm, Balancer, Down, Endpoint, Live, LiveTable, PanicPolicy, PickContext, Set, mix,
};
use proptest::prelude::*;

fn endpoint(id: &str, weight: u32, live: Arc<Live>) -> Endpoint {
    Endpoint::new(id, Address::new("127.0.0.1", 80), weight, live)
}

fn set(weights: &[u32]) -> Set {
    Set::new(weights.iter().enumerate().map(|(i, w)| endpoint(&format!("e{i}"), *w, Live::new())).collect())
}

fn balancer(algorithm: Algorithm, weights: &[u32], panic: PanicPolicy) -> Balancer {
    Balancer::new(algorithm, set(weights), panic, None)
}

fn down(balancer: &Balancer, places: impl IntoIterator<Item = usize>) {
    for place in places {
        balancer.endpoints()[place].live.set_down(Down::Checks, true);
    }
}

fn algorithms() -> impl Strategy<Value = Algorithm> {
    proptest::sample::select(Algorithm::ALL.to_vec())
}

/// Weight, down, tried, busy.
fn endpoints() -> impl Strategy<Value = Vec<(u32, bool, bool, u8)>> {
    let weight = prop_oneof![Just(0_u32), Just(1), Just(100), 0_u32..2000];
    // Mostly small sets; some beyond one index word and beyond what least connections compares in full.
    prop_oneof![
        4 => proptest::collection::vec((weight.clone(), any::<bool>(), any::<bool>(), any::<u8>()), 0..8),
        1 => proptest::collection::vec((weight, proptest::bool::weighted(0.9), any::<bool>(), any::<u8>()), 60..300),
    ]
}

fn pick(balancer: &Balancer, hash: Option<u64>, tried: &[u32], seed: u64) -> Option<usize> {
    let mut rng = fastrand::Rng::with_seed(seed);
    balancer.pick(&mut PickContext { hash, sticky: None, tried, rng: &mut rng, now_micros: 0 })
}

proptest! {
    #[test]
    fn only_healthy_weighted_and_untried_while_there_are_some(
        algorithm in algorithms(), endpoints in endpoints(), hash in any::<Option<u64>>(), seed in any::<u64>(),
    ) {
        let weights: Vec<u32> = endpoints.iter().map(|(weight, ..)| *weight).collect();
        let balancer = balancer(algorithm, &weights, PanicPolicy::Off);
        down(&balancer, (0..endpoints.len()).filter(|i| endpoints[*i].1));
        let busy: Vec<_> = endpoints.iter().zip(balancer.endpoints())
            .flat_map(|((.., busy), e)| (0..busy % 4).map(|_| e.live.start(0))).collect();
        let tried: Vec<u32> = (0..endpoints.len() as u32).filter(|i| endpoints[*i as usize].2).collect();

        let eligible = |i: usize| endpoints[i].0 > 0 && !endpoints[i].1;
        let any = (0..endpoints.len()).any(eligible);
        let untried = (0..endpoints.len()).any(|i| eligible(i) && !endpoints[i].2);
        for round in 0..20 {
            match pick(&balancer, hash.map(|h| h ^ round), &tried, seed ^ round) {
                None => prop_assert!(!any, "something was left"),
                Some(place) => {
                    prop_assert!(eligible(place));
                    prop_assert!(!untried || !endpoints[place].2, "tried again without need");
                }
            }
        }
        drop(busy);
        prop_assert_eq!(balancer.set().available() as usize, (0..endpoints.len()).filter(|i| eligible(*i)).count());
        let weight: u64 = (0..endpoints.len()).filter(|i| eligible(*i)).map(|i| u64::from(endpoints[i].0)).sum();
        prop_assert_eq!(balancer.set().available_weight(), weight);
        prop_assert!(balancer.endpoints().iter().all(|e| e.live.in_flight() == 0));
    }

    #[test]
    fn panic_ignores_health_below_its_share_and_only_there(
        algorithm in algorithms(), count in 1_usize..100, broken in 0_usize..100, percent in 1_u8..=100, seed in any::<u64>(),
    ) {
        let broken = broken % (count + 1);
        let balancer = balancer(algorithm, &vec![3; count], PanicPolicy::Below(percent));
        down(&balancer, 0..broken);
        let panics = (count - broken) * 100 < usize::from(percent) * count;
        prop_assert_eq!(balancer.in_panic(), panics);
        let picks: Vec<usize> =
            (0..64).filter_map(|i| pick(&balancer, Some(mix(i)), &[], seed ^ i)).collect();
        if panics || broken < count {
            prop_assert_eq!(picks.len(), 64);
        }
        if !panics {
            prop_assert!(picks.iter().all(|place| *place >= broken));
        }
        // What an operator took out stays out even so.
        for endpoint in balancer.endpoints() {
            endpoint.live.set_down(Down::Operator, true);
        }
        prop_assert_eq!(pick(&balancer, None, &[], seed), None);
    }

    #[test]
    fn round_robin_shares_are_exact_over_a_turn(weights in proptest::collection::vec(0_u32..50, 1..20)) {
        let balancer = balancer(Algorithm::RoundRobin, &weights, PanicPolicy::Off);
        let total: u32 = weights.iter().sum();
        let mut counts = vec![0_u32; weights.len()];
        for _ in 0..2 * total {
            counts[pick(&balancer, None, &[], 0).unwrap()] += 1;
        }
        let doubled: Vec<u32> = weights.iter().map(|w| 2 * w).collect();
        prop_assert_eq!(counts, doubled);
    }

    /// The share of one that is down goes to the others by weight, not to its neighbour on the wheel: over the turns in which
    /// the substitutes' own round closes, shares are exact again.
    #[test]
    fn round_robin_shares_are_exact_with_some_down(
        weights in proptest::collection::vec(1_u32..10, 2..8), broken in any::<usize>(),
    ) {
        let balancer = balancer(Algorithm::RoundRobin, &weights, PanicPolicy::Off);
        let broken = broken % weights.len();
        down(&balancer, [broken]);
        let total: u32 = weights.iter().sum();
        let healthy = total - weights[broken];
        let turns = healthy;
        let mut counts = vec![0_u32; weights.len()];
        for _ in 0..turns * total {
            counts[pick(&balancer, None, &[], 0).unwrap()] += 1;
        }
        for (place, weight) in weights.iter().enumerate() {
            let exact = if place == broken { 0 } else { turns * total * weight / healthy };
            prop_assert_eq!(counts[place], exact, "{:?} {:?}", &weights, &counts);
        }
    }

    /// No endpoint waits longer for its next turn than twice its fair distance.
    #[test]
    fn round_robin_is_smooth(weights in proptest::collection::vec(1_u32..30, 2..10)) {
        let balancer = balancer(Algorithm::RoundRobin, &weights, PanicPolicy::Off);
        let total: u32 = weights.iter().sum();
        let mut last: HashMap<usize, u32> = HashMap::new();
        for turn in 0..3 * total {
            let place = pick(&balancer, None, &[], 0).unwrap();
            if let Some(before) = last.insert(place, turn) {
                let fair = f64::from(total) / f64::from(weights[place]);
                prop_assert!(f64::from(turn - before) <= 2.0 * fair + 1.0);
            }
        }
    }

    #[test]
    fn hashing_moves_only_what_it_must_when_one_goes(
        count in 2_usize..40, weight in 1_u32..200, gone in any::<usize>(), order in any::<u64>(),
    ) {
        let gone = gone % count;
        let ids: Vec<String> = (0..count).map(|i| format!("10.0.0.{i}:80")).collect();
        let build = |ids: Vec<&String>| {
            let set = Set::new(ids.iter().map(|id| endpoint(id, weight, Live::new())).collect());
            Balancer::new(Algorithm::ConsistentHash, set, PanicPolicy::Off, None)
        };
        let place = |balancer: &Balancer, key: u64| {
            balancer.endpoints()[pick(balancer, Some(key), &[], 0).unwrap()].id.clone()
        };
        let all = build(ids.iter().collect());
        let mut shuffled: Vec<&String> = ids.iter().collect();
        fastrand::Rng::with_seed(order).shuffle(&mut shuffled);
        let same_in_another_order = build(shuffled);
        let rest = build(ids.iter().enumerate().filter(|(i, _)| *i != gone).map(|(_, id)| id).collect());
        let before: Vec<_> = (0..500).map(|key| place(&all, mix(key))).collect();
        for (key, owner) in before.iter().enumerate() {
            let key = mix(key as u64);
            prop_assert_eq!(owner, &place(&same_in_another_order, key));
            let after = place(&rest, key);
            if &**owner != ids[gone].as_str() {
                prop_assert_eq!(owner, &after, "a key moved although its endpoint stayed");
            }
            // Being down and being gone lead to the same neighbour, and coming back brings the key back.
            all.endpoints()[gone].live.set_down(Down::Checks, true);
            prop_assert_eq!(&after, &place(&all, key));
            all.endpoints()[gone].live.set_down(Down::Checks, false);
        }
    }

    /// Flips in any order leave the index as a recount would find it, in every set that holds the endpoint.
    #[test]
    fn the_index_follows_every_flip(
        weights in proptest::collection::vec(0_u32..5, 1..200),
        flips in proptest::collection::vec((any::<usize>(), any::<bool>(), any::<bool>()), 0..300),
    ) {
        let table = LiveTable::new();
        let build = || Set::new(weights.iter().enumerate()
            .map(|(i, w)| { let id = format!("e{i}"); endpoint(&id, *w, table.get(&id)) }).collect());
        let first = build();
        let mut second = None;
        for (n, (place, reason, value)) in flips.iter().enumerate() {
            if n == flips.len() / 2 {
                second = Some(build());
            }
            let reason = if *reason { Down::Checks } else { Down::Catalog };
            first.endpoints()[place % weights.len()].live.set_down(reason, *value);
        }
        for set in [Some(&first), second.as_ref()].into_iter().flatten() {
            let up = |e: &&Endpoint| e.weight > 0 && e.live.is_available();
            prop_assert_eq!(set.available() as usize, set.endpoints().iter().filter(up).count());
            let weight: u64 = set.endpoints().iter().filter(up).map(|e| u64::from(e.weight)).sum();
            prop_assert_eq!(set.available_weight(), weight);
        }
    }
}

#[test]
fn a_draining_endpoint_keeps_its_sessions_and_gets_no_new_ones() {
    let balancer = balancer(Algorithm::Sticky, &[1, 1, 1], PanicPolicy::Off);
    let leaving = &balancer.endpoints()[1];
    leaving.live.set_down(Down::Draining, true);
    let mut rng = fastrand::Rng::with_seed(1);
    let session = Some(leaving.token());
    for _ in 0..10 {
        let known = PickContext { sticky: session, ..PickContext::new(&mut rng, 0) };
        assert_eq!(balancer.pick(&mut { known }), Some(1));
        assert_ne!(balancer.pick(&mut PickContext::new(&mut rng, 0)), Some(1));
        let keyed = PickContext { hash: Some(7), ..PickContext::new(&mut rng, 0) };
        assert_ne!(balancer.pick(&mut { keyed }), Some(1));
    }
    leaving.live.set_down(Down::Checks, true);
    let known = PickContext { sticky: session, ..PickContext::new(&mut rng, 0) };
    assert_ne!(balancer.pick(&mut { known }), Some(1), "a broken one loses its sessions");
}

#[test]
fn the_turn_goes_on_over_a_snapshot_swap() {
    let table = LiveTable::new();
    let build = |previous: Option<&Balancer>| {
        let set = Set::new(["a", "b", "c"].map(|id| endpoint(id, 1, table.get(id))).into());
        Balancer::new(Algorithm::RoundRobin, set, PanicPolicy::Off, previous)
    };
    let mut current = build(None);
    let mut counts = [0; 3];
    for _ in 0..30 {
        counts[pick(&current, None, &[], 0).unwrap()] += 1;
        current = build(Some(&current));
    }
    assert_eq!(counts, [10; 3], "a restart of the wheel at each swap would favour one");
}

#[test]
fn weights_beyond_the_longest_wheel_keep_their_shares_nearly() {
    let weights: Vec<u32> = (0..200).map(|i| 65_535 - i * 7).collect();
    let balancer = balancer(Algorithm::RoundRobin, &weights, PanicPolicy::Off);
    let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
    let rounds = 2_000_000_u64;
    let mut counts = vec![0_u64; weights.len()];
    for _ in 0..rounds {
        counts[pick(&balancer, None, &[], 0).unwrap()] += 1;
    }
    for (weight, count) in weights.iter().zip(counts) {
        let exact = rounds as f64 * f64::from(*weight) / total as f64;
        assert!((count as f64 / exact - 1.0).abs() < 0.01, "{weight}: {count} of {exact}");
    }
}

#[test]
fn random_draws_follow_the_weights_also_with_most_down() {
    let weights = [1_u32, 2, 3, 4];
    for (algorithm, shares) in
        [(Algorithm::WeightedRandom, [0.1, 0.2, 0.3, 0.4]), (Algorithm::Random, [0.25; 4])]
    {
        // Then again behind 1,000 that are down, where nearly each pick comes from the index.
        for broken in [0, 1000] {
            let all: Vec<u32> = std::iter::repeat_n(5, broken).chain(weights).collect();
            let balancer = balancer(algorithm, &all, PanicPolicy::Off);
            down(&balancer, 0..broken);
            let mut rng = fastrand::Rng::with_seed(42);
            let mut counts = [0_u32; 4];
            for _ in 0..100_000 {
                counts[balancer.pick(&mut PickContext::new(&mut rng, 0)).unwrap() - broken] += 1;
            }
            for (count, share) in counts.iter().zip(shares) {
                let got = f64::from(*count) / 100_000.0;
                assert!((got - share).abs() < 0.01, "{algorithm} with {broken} down: {counts:?}");
            }
        }
    }
}

#[test]
fn hashing_spreads_keys_by_weight() {
    let weights = [100_u32, 100, 200, 400];
    let balancer = balancer(Algorithm::ConsistentHash, &weights, PanicPolicy::Off);
    let mut counts = [0_u32; 4];
    for key in 0..100_000 {
        counts[pick(&balancer, Some(mix(key)), &[], 0).unwrap()] += 1;
    }
    for (count, weight) in counts.iter().zip(weights) {
        let ratio = f64::from(*count) / (f64::from(weight) / 800.0 * 100_000.0);
        assert!((0.75..1.25).contains(&ratio), "{counts:?}");
    }
}

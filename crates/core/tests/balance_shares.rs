//! What the load-aware strategies do under unequal latency: a simulation in virtual time, the same on every run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use plinth_core::balance::{
    Address, Algorithm, Balancer, Endpoint, InFlight, Live, PanicPolicy, PickContext, Set,
};

const MILLI: u64 = 1_000;
const SECOND: u64 = 1_000_000;

/// What came of a simulated run.
#[derive(Debug)]
struct Run {
    /// Share of the requests per endpoint.
    shares: Vec<f64>,
    /// Mean time a request spent, milliseconds.
    mean_millis: f64,
}

/// Requests arrive evenly at `per_second` for `seconds`; endpoint i answers each after `latency(i, now)` microseconds. `slots`:
/// how many requests an endpoint works on at once, the others wait.
fn simulate(
    algorithm: Algorithm,
    weights: &[u32],
    per_second: u64,
    seconds: u64,
    latency: impl Fn(usize, u64) -> u64,
    slots: usize,
) -> Run {
    let endpoints = weights.iter().enumerate().map(|(i, weight)| {
        Endpoint::new(format!("e{i}"), Address::new("127.0.0.1", 80), *weight, Live::new())
    });
    let balancer = Balancer::new(algorithm, Set::new(endpoints.collect()), PanicPolicy::Off, None);
    let mut rng = fastrand::Rng::with_seed(7);
    let mut free_at = vec![vec![0_u64; slots]; weights.len()];
    let mut counts = vec![0_u64; weights.len()];
    let mut ends: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
    let mut running: Vec<Option<InFlight>> = Vec::new();
    let mut total_time = 0;
    let requests = per_second * seconds;
    for n in 0..requests {
        let now = n * SECOND / per_second;
        while let Some(Reverse((end, id))) = ends.peek().copied().filter(|Reverse((end, _))| *end <= now) {
            ends.pop();
            running[id].take().unwrap().responded(end);
        }
        let place = balancer.pick(&mut PickContext::new(&mut rng, now)).unwrap();
        counts[place] += 1;
        let slot = free_at[place].iter_mut().min().unwrap();
        let end = (*slot).max(now) + latency(place, now);
        *slot = end;
        total_time += end - now;
        running.push(Some(balancer.endpoints()[place].live.start(now)));
        ends.push(Reverse((end, n as usize)));
    }
    Run {
        shares: counts.iter().map(|count| *count as f64 / requests as f64).collect(),
        mean_millis: total_time as f64 / requests as f64 / MILLI as f64,
    }
}

#[test]
fn least_connections_shares_by_speed() {
    // Ten times slower, so at equal connection counts a tenth of the requests: 10/21, 10/21, 1/21.
    let latency = |place: usize, _| if place == 2 { 100 * MILLI } else { 10 * MILLI };
    let run = simulate(Algorithm::LeastConnections, &[1, 1, 1], 1_000, 30, latency, 100);
    println!("least connections, 10/10/100 ms: {run:?}");
    assert!((run.shares[0] - run.shares[1]).abs() < 0.02, "{run:?}");
    assert!((0.03..0.08).contains(&run.shares[2]), "{run:?}");
}

#[test]
fn least_connections_shares_by_weight_at_equal_speed() {
    let run = simulate(Algorithm::LeastConnections, &[1, 3], 2_000, 20, |_, _| 20 * MILLI, 1_000);
    println!("least connections, weights 1 and 3: {run:?}");
    assert!((run.shares[1] - 0.75).abs() < 0.02, "{run:?}");
}

#[test]
fn ewma_leaves_the_slow_one_and_beats_round_robin() {
    let latency = |place: usize, _| if place == 2 { 100 * MILLI } else { 10 * MILLI };
    let ewma = simulate(Algorithm::PeakEwma, &[1, 1, 1], 1_000, 30, latency, 100);
    let even = simulate(Algorithm::RoundRobin, &[1, 1, 1], 1_000, 30, latency, 100);
    println!("peak-EWMA {ewma:?}, round robin {even:?}");
    assert!(ewma.shares[2] < 0.15, "{ewma:?}");
    assert!(ewma.shares[2] > 0.0005, "it must still be asked now and then: {ewma:?}");
    assert!((ewma.shares[0] - ewma.shares[1]).abs() < 0.1, "{ewma:?}");
    assert!(ewma.mean_millis < 0.6 * even.mean_millis, "{ewma:?} against {even:?}");
}

#[test]
fn ewma_comes_back_to_one_that_recovered() {
    let latency =
        |place: usize, now: u64| if place == 0 && now < 10 * SECOND { 500 * MILLI } else { 10 * MILLI };
    let during = simulate(Algorithm::PeakEwma, &[1, 1], 500, 10, latency, 1_000);
    let after = simulate(Algorithm::PeakEwma, &[1, 1], 500, 120, latency, 1_000);
    println!("peak-EWMA, slow for 10 of 120 s: {during:?} then {after:?}");
    assert!(during.shares[0] < 0.15, "{during:?}");
    // An average of 500 ms needs 39 s to fall to the other's 10 ms; even shares in what is left are 0.296 of all.
    assert!(after.shares[0] > 0.27, "{after:?}");
}

#[test]
fn ewma_shares_evenly_at_equal_speed() {
    let run = simulate(Algorithm::PeakEwma, &[1, 1, 1, 1], 1_000, 20, |_, _| 10 * MILLI, 1_000);
    println!("peak-EWMA, four equal ones: {run:?}");
    assert!(run.shares.iter().all(|share| (share - 0.25).abs() < 0.05), "{run:?}");
}

//! Cost of one pick against the number of endpoints: `cargo bench -p plinth-core --bench balance`.
//! Flat for round robin, random, weighted random, peak-EWMA; logarithmic for hashing; least connections
//! grows up to 128 endpoints and is flat above.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use plinth_core::balance::{
    Address, Algorithm, Balancer, Clock, Down, Endpoint, Live, PanicPolicy, PickContext, Set, mix,
};

const SIZES: [usize; 4] = [1, 10, 1_000, 10_000];

fn balancer(algorithm: Algorithm, count: usize) -> Balancer {
    let endpoints = (0..count)
        .map(|i| {
            let id = format!("10.{}.{}.{}:80", i >> 16, (i >> 8) & 255, i & 255);
            Endpoint::new(id, Address::new("127.0.0.1", 80), 100, Live::new())
        })
        .collect();
    Balancer::new(algorithm, Set::new(endpoints), PanicPolicy::Off, None)
}

fn run(criterion: &mut Criterion, group: &str, prepare: impl Fn(&Balancer)) {
    let clock = Clock::new();
    let mut group = criterion.benchmark_group(group);
    for algorithm in Algorithm::ALL {
        for size in SIZES {
            let balancer = balancer(algorithm, size);
            for (i, endpoint) in balancer.endpoints().iter().enumerate() {
                endpoint.live.start(0).responded(1_000 + i as u64 % 100);
            }
            prepare(&balancer);
            let mut rng = fastrand::Rng::with_seed(1);
            let now_micros = clock.micros();
            let mut key = 0_u64;
            group.bench_function(BenchmarkId::new(algorithm.as_str(), size), |bencher| {
                bencher.iter(|| {
                    key = key.wrapping_add(1);
                    let mut context =
                        PickContext { hash: Some(mix(key)), ..PickContext::new(&mut rng, now_micros) };
                    black_box(balancer.pick(&mut context))
                });
            });
        }
    }
    group.finish();
}

fn picks(criterion: &mut Criterion) {
    run(criterion, "pick", |_| {});
    run(criterion, "pick-90%-down", |balancer| {
        for (i, endpoint) in balancer.endpoints().iter().enumerate() {
            endpoint.live.set_down(Down::Checks, i % 10 != 0);
        }
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(std::time::Duration::from_millis(100))
        .measurement_time(std::time::Duration::from_millis(400));
    targets = picks
}
criterion_main!(benches);

//! Random inputs on a stable compiler: what `cargo fuzz` runs with coverage, a test runs here for a bounded time, from the
//! same committed inputs (`fuzz/corpus/<target>/`). See docs/fuzzing.md.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use fastrand::Rng;

/// Time for each target; `PLINTH_FUZZ_SECONDS` changes it.
const SECONDS: f64 = 2.0;
/// Longest input that grows by itself.
const LONGEST: usize = 8 << 10;

/// Gives `target` the committed inputs, then mutations of them until the time is over. A panic of the target is the
/// test's, with the input in a file and in the message.
pub fn run(name: &str, words: &[&str], target: impl Fn(&[u8])) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let corpus = corpus(&folder);
    let seconds = std::env::var("PLINTH_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(SECONDS);
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let seed = std::env::var("PLINTH_FUZZ_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    let mut random = Rng::with_seed(seed);
    for input in &corpus {
        attempt(name, seed, input, &target);
    }
    let mut tried = 0_u64;
    while Instant::now() < end {
        let input = mutated(&corpus, words, &mut random);
        attempt(name, seed, &input, &target);
        tried += 1;
    }
    println!("{name}: {} committed inputs and {tried} mutations, seed {seed}", corpus.len());
}

fn corpus(folder: &PathBuf) -> Vec<Vec<u8>> {
    let listed = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = listed.map(|entry| entry.expect("an input").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} has no inputs", folder.display());
    paths.iter().map(|path| std::fs::read(path).expect("an input")).collect()
}

fn attempt(name: &str, seed: u64, input: &[u8], target: &impl Fn(&[u8])) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        let path = std::env::temp_dir().join(format!("fuzz-{name}-{}", std::process::id()));
        let kept = std::fs::write(&path, input).map(|()| path.display().to_string());
        // a target that keeps state between inputs needs those before it too: the seed gives them again
        eprintln!("{name} panics on {:?} (kept: {kept:?}; seed {seed})", String::from_utf8_lossy(input));
        std::panic::resume_unwind(panic);
    }
}

fn mutated(corpus: &[Vec<u8>], words: &[&str], random: &mut Rng) -> Vec<u8> {
    let mut input = corpus[random.usize(0..corpus.len())].clone();
    for _ in 0..random.usize(1..6) {
        let at = random.usize(0..=input.len());
        match random.u8(0..8) {
            0 if at < input.len() => input[at] ^= 1 << random.u8(0..8),
            1 if at < input.len() => input[at] = random.u8(..),
            2 => input.truncate(at),
            3 => drop(input.drain(at..input.len().min(at + random.usize(0..16)))),
            4 => insert(&mut input, at, &[random.u8(..)]),
            5 if !words.is_empty() => insert(&mut input, at, words[random.usize(0..words.len())].as_bytes()),
            6 => {
                let other = &corpus[random.usize(0..corpus.len())];
                let from = random.usize(0..=other.len());
                insert(&mut input, at, &other[from..random.usize(from..=other.len())]);
            }
            _ => {
                let end = random.usize(at..=input.len());
                let part = input[at..end].to_vec();
                for _ in 0..random.usize(1..20) {
                    insert(&mut input, at, &part);
                }
            }
        }
    }
    input
}

fn insert(input: &mut Vec<u8>, at: usize, part: &[u8]) {
    if input.len() + part.len() <= LONGEST {
        input.splice(at..at, part.iter().copied());
    }
}

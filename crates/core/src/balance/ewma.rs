//! Peak-sensitive moving average of an endpoint's latency, in one atomic word.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// After this long a sample has lost 63 % of its weight, and an idle endpoint's average as much of its value.
const DECAY_MILLIS: f32 = 10_000.0;

/// A busy endpoint that never answered yet is charged this much, so that a new one gets one request at a time.
const UNKNOWN_MICROS: f32 = 1e12;

/// Upper half: the average in microseconds as `f32` bits. Lower half: when it was taken, in milliseconds.
/// Zero = no sample yet.
#[derive(Debug, Default)]
pub(super) struct PeakEwma(AtomicU64);

impl PeakEwma {
    /// A slower sample counts in full at once (a stalled endpoint is left within one answer), a faster one by and by.
    pub fn observe(&self, latency_micros: u64, now_micros: u64) {
        let sample = (latency_micros.max(1)) as f32;
        let now = millis(now_micros);
        // A lost race loses one sample of many; spinning for it would cost the request path more than it is worth.
        for _ in 0..4 {
            let old = self.0.load(Relaxed);
            let value = match unpack(old) {
                None => sample,
                Some((average, _)) if sample > average => sample,
                Some((average, at)) => {
                    let keep = decay(now, at);
                    average * keep + sample * (1.0 - keep)
                }
            };
            if self.0.compare_exchange_weak(old, pack(value, now), Relaxed, Relaxed).is_ok() {
                return;
            }
        }
    }

    /// The average now, decayed for the time since its last sample.
    pub fn value(&self, now_micros: u64) -> Option<f32> {
        unpack(self.0.load(Relaxed)).map(|(average, at)| average * decay(millis(now_micros), at))
    }

    /// What one more request would cost here, `in_flight` being there already.
    pub fn cost(&self, in_flight: u32, now_micros: u64) -> f32 {
        match self.value(now_micros) {
            Some(average) => average * (in_flight as f32 + 1.0),
            None if in_flight == 0 => 0.0,
            None => UNKNOWN_MICROS + in_flight as f32,
        }
    }
}

fn millis(micros: u64) -> u32 {
    (micros / 1000) as u32
}

fn decay(now: u32, at: u32) -> f32 {
    // Wraps after 49 days; a sample "from the future" (another thread's clock reading) counts as just taken.
    let elapsed = now.wrapping_sub(at) as i32;
    if elapsed <= 0 { 1.0 } else { (-(elapsed as f32) / DECAY_MILLIS).exp() }
}

fn pack(value: f32, at: u32) -> u64 {
    (u64::from(value.max(f32::MIN_POSITIVE).to_bits()) << 32) | u64::from(at)
}

fn unpack(word: u64) -> Option<(f32, u32)> {
    (word != 0).then(|| (f32::from_bits((word >> 32) as u32), word as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_count_at_once_and_decay_slowly() {
        let ewma = PeakEwma::default();
        assert_eq!(ewma.value(0), None);
        ewma.observe(1_000, 0);
        ewma.observe(50_000, 1_000);
        assert_eq!(ewma.value(1_000), Some(50_000.0));
        ewma.observe(1_000, 1_001_000);
        let after_a_second = ewma.value(1_001_000).unwrap();
        assert!((44_000.0..50_000.0).contains(&after_a_second), "{after_a_second}");
        let idle_a_minute = ewma.value(61_001_000).unwrap();
        assert!(idle_a_minute < 200.0, "{idle_a_minute}");
    }

    #[test]
    fn an_unknown_endpoint_gets_one_request_at_a_time() {
        let ewma = PeakEwma::default();
        let known = PeakEwma::default();
        known.observe(5_000, 0);
        assert!(ewma.cost(0, 0) < known.cost(0, 0));
        assert!(ewma.cost(1, 0) > known.cost(1_000, 0));
    }
}

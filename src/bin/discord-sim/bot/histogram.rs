//! A histogram of latencies that takes a few kilobytes: each bucket is at most 1/32 of its value wide. Pure.

/// Number of buckets for each power of two.
const STEPS: u64 = 32;
const STEP_BITS: u32 = STEPS.trailing_zeros();

/// Counts of values by bucket.
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    most: u64,
}

impl Histogram {
    /// An empty histogram.
    pub fn new() -> Self {
        Self { counts: vec![0; ((64 - STEP_BITS) as usize + 1) * STEPS as usize], total: 0, most: 0 }
    }

    fn bucket(value: u64) -> usize {
        let magnitude = 63 - (value | 1).leading_zeros();
        let shift = magnitude.saturating_sub(STEP_BITS);
        // Below STEPS each value has its own bucket. Above, the leading bits of the value select the bucket.
        (u64::from(shift) * STEPS + (value >> shift)) as usize
    }

    /// The largest value of a bucket.
    fn top(bucket: usize) -> u64 {
        let bucket = bucket as u64;
        let shift = (bucket / STEPS).saturating_sub(1);
        // The last bucket ends at u64::MAX.
        ((bucket - shift * STEPS + 1) << shift).wrapping_sub(1)
    }

    /// Counts a value.
    pub fn add(&mut self, value: u64) {
        self.counts[Self::bucket(value)] += 1;
        self.total += 1;
        self.most = self.most.max(value);
    }

    /// Removes all values.
    pub fn clear(&mut self) {
        self.counts.fill(0);
        self.total = 0;
        self.most = 0;
    }

    /// Number of values.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The largest value.
    pub fn most(&self) -> u64 {
        self.most
    }

    /// The value that this share (0 to 1) of all values does not exceed, to within 1/32; 0 without values.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn quantile(&self, share: f64) -> u64 {
        let wanted = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Self::top(bucket).min(self.most);
            }
        }
        self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_a_bucket_that_is_narrow_enough() {
        let mut rng = fastrand::Rng::with_seed(1);
        let edges = [0, 1, 31, 32, 33, 63, 64, 65, 1_000, u64::MAX - 1, u64::MAX];
        for value in edges.into_iter().chain((0..10_000).map(|at| rng.u64(..) >> (at % 64))) {
            let bucket = Histogram::bucket(value);
            if value < u64::MAX >> 1 {
                let top = Histogram::top(bucket);
                assert!(top >= value && top - value <= value / 32, "{value} {top}");
                assert_eq!(Histogram::bucket(top + 1), bucket + 1);
            }
            let mut one = Histogram::new();
            one.add(value);
            assert_eq!(one.quantile(0.5), value);
        }
    }

    #[test]
    fn quantiles() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.quantile(0.5), 0);
        (1..=1_000).for_each(|value| histogram.add(value * 1_000));
        let close = |share: f64, value: u64| {
            let found = histogram.quantile(share);
            assert!(found >= value && found - value <= value / 32, "{share}: {found}");
        };
        close(0.5, 500_000);
        close(0.99, 990_000);
        assert_eq!((histogram.quantile(1.0), histogram.most(), histogram.total()), (1_000_000, 1_000_000, 1_000));
    }
}

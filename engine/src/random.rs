//! Counter-based random numbers: a pure function of (seed, stream, counter), so that a resumed run draws what an unbroken
//! one would have drawn, and no part of the engine disturbs another's numbers. SplitMix64 (Steele, Lea, Flood, 2014).

/// One stream of random numbers. Its whole state is the key, from seed and stream, and how many numbers were drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Random {
    key: u64,
    counter: u64,
}

impl Random {
    /// The stream `stream` of `seed`, at its beginning. Streams are independent: one for each purpose.
    pub fn new(seed: u64, stream: u64) -> Self {
        Self { key: finish(mix(seed) ^ stream.wrapping_mul(0xD6E8_FEB8_6659_FD93)), counter: 0 }
    }

    /// The number of 64-bit words drawn so far; with [`Random::seek`] the way to save and restore a stream.
    pub fn position(&self) -> u64 {
        self.counter
    }

    /// Goes to a position that [`Random::position`] gave.
    pub fn seek(&mut self, position: u64) {
        self.counter = position;
    }

    pub fn next_u64(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(1);
        finish(self.key.wrapping_add(self.counter.wrapping_mul(GOLDEN)))
    }

    /// Uniform in [0, 1), 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Standard normal, by Box and Muller; draws two words each time, so that the position says everything.
    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        (radius * (std::f64::consts::TAU * self.uniform()).cos()) as f32
    }

    /// Uniform in 0..n without bias (Lemire, 2019); 0 if n is 0.
    pub fn below(&mut self, n: usize) -> usize {
        let n = n as u64;
        if n == 0 {
            return 0;
        }
        let refused = n.wrapping_neg() % n;
        loop {
            let wide = u128::from(self.next_u64()) * u128::from(n);
            if wide as u64 >= refused {
                return (wide >> 64) as usize;
            }
        }
    }

    /// Puts the items in a random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// A key of 64 well mixed bits made of another: one step of SplitMix64.
pub fn mix(key: u64) -> u64 {
    finish(key.wrapping_add(GOLDEN))
}

/// The key `start` with a name mixed into it.
pub fn name_key(start: u64, name: &str) -> u64 {
    name.bytes().fold(start, |key, byte| mix(key ^ u64::from(byte)))
}

fn finish(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_a_function_of_seed_stream_and_position() {
        let (mut a, mut b) = (Random::new(42, 1), Random::new(42, 1));
        let first: Vec<u64> = (0..10).map(|_| a.next_u64()).collect();
        b.seek(5);
        assert_eq!(b.next_u64(), first[5]);
        assert_ne!(Random::new(42, 2).next_u64(), first[0]);
        assert_ne!(Random::new(43, 1).next_u64(), first[0]);
    }

    #[test]
    fn moments_are_right() {
        let mut random = Random::new(7, 0);
        let n = 100_000;
        let uniform: f64 = (0..n).map(|_| random.uniform()).sum::<f64>() / n as f64;
        assert!((uniform - 0.5).abs() < 0.005, "{uniform}");
        let normal: Vec<f64> = (0..n).map(|_| f64::from(random.normal())).collect();
        let mean = normal.iter().sum::<f64>() / n as f64;
        let variance = normal.iter().map(|x| x * x).sum::<f64>() / n as f64;
        let fourth = normal.iter().map(|x| x.powi(4)).sum::<f64>() / n as f64;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02 && (fourth - 3.0).abs() < 0.15);
    }

    #[test]
    fn below_is_even_and_shuffle_keeps_everything() {
        let mut random = Random::new(3, 9);
        let mut counts = [0usize; 6];
        (0..60_000).for_each(|_| counts[random.below(6)] += 1);
        assert!(counts.iter().all(|c| (9_500..10_500).contains(c)), "{counts:?}");
        assert_eq!(random.below(0), 0);
        let mut items: Vec<u32> = (0..100).collect();
        random.shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}

//! What cleaning costs at best, worked out on paper: device bytes per new byte, for overwrites at random that find the
//! given part of the disk in use.

/// Steps in the search for the best way to divide the free space.
const DIVISIONS: u32 = 1000;

/// All pages alike, the oldest segment cleaned first.
///
/// A segment that is written when the disk has been overwritten `t` times has `u = e^-t` of it left when its
/// turn comes, and the segments in between hold `(1 - u) / t` on average: that is the utilisation. To
/// free `1 - u` one writes `u`, so each new byte takes `1 / (1 - u)`.
pub fn age_ordered(utilisation: f64) -> f64 {
    let (mut low, mut high) = (f64::EPSILON, 1.0 - f64::EPSILON);
    while high - low > 1e-9 {
        let left = f64::midpoint(low, high);
        if (left - 1.0) / left.ln() < utilisation {
            low = left;
        } else {
            high = left;
        }
    }
    1.0 / (1.0 - low)
}

/// Nine in ten overwrites go to a tenth of the data: both parts on segments of their own, each cleaned by age, and the
/// free space divided between them as it is best.
pub fn separated(utilisation: f64) -> f64 {
    let free = 1.0 / utilisation - 1.0;
    let cost = |share: f64| {
        let hot = age_ordered(0.1 / (0.1 + free * share));
        let cold = age_ordered(0.9 / (0.9 + free * (1.0 - share)));
        0.9 * hot + 0.1 * cold
    };
    let shares = (1..DIVISIONS).map(|step| f64::from(step) / f64::from(DIVISIONS));
    shares.map(cost).fold(f64::INFINITY, f64::min)
}

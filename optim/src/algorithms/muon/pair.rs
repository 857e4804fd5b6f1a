//! Two steps of the iteration as one polynomial of the Gram matrix.

use fallline_core::math::sqrt;
use fallline_core::rule;

/// The most that rounding may grow by: `f32` keeps three digits then in the worst case, and two more in the usual one.
const MOST_GROWTH: f64 = 8192.0;

/// Points at which rounding is looked at.
const POINTS: usize = 32;

rule! {
    /// Three combinations of the powers of a matrix in [`Pair`].
    pub MuonPairRule(h: (), t) {}
    per_tensor(ua, um, un, va, vm, vn, wa, wm, wn, wk)
    element(a: Scratch) -> (m: Scratch, n: Scratch, k: Scratch) {
        let u = k + (ua * a + um * m + un * n);
        let v = k + (va * a + vm * m + vn * n);
        m = wk * k + (wa * a + wm * m + wn * n);
        n = v;
        k = u;
    }
}

/// With `s(x) = a + b x + c x²` a step is `X ← s(A) X`. Two of them are `X ← q(A) X` with `q(x) = s(x) s(x s(x)²)`,
/// which is of degree 12 and so takes four products. A², s(A) A s(A), its square and the last factor would take five:
///
/// ```text
/// M = α A² + β A,  N = A M + γ A,  K = N²
/// q(A) = q(0) I + U V + W
/// ```
///
/// with combinations U, V, W of A, M, N and K. Bader, Blanes, Casas 2019 (Computing the matrix exponential with an
/// optimized Taylor polynomial approximation) do the same with the exponential's. They come from q = (g − h)(g + h) +
/// r with g of degree 6 and cubic h and r. Where rounding would show they are not used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    /// q(0).
    pub(super) constant: f64,
    /// α, β and γ.
    pub(super) powers: [f64; 3],
    /// The scalars of [`MuonPairRule`].
    pub(super) combined: [f64; 10],
}

impl Pair {
    /// Returns the pair of steps with these coefficients a, b, c, where it is exact enough.
    pub(super) fn of((a, b, c): (f64, f64, f64)) -> Option<Pair> {
        let s = [a, b, c];
        let f: [f64; 6] = times(&[0.0, 1.0], &times::<5>(&s, &s));
        let mut outer: [f64; 11] = times(&f, &f).map(|x: f64| c * x);
        f.iter().zip(&mut outer).for_each(|(x, to)| *to += b * x);
        outer[0] += a;
        let q: [f64; 13] = times(&s, &outer);
        // g² has q's coefficients from the 7th power on. h² takes the next three, which needs a g(0) that is large
        // enough, and works best when it is a little larger. r is what remains.
        let mut g = [0.0; 7];
        g[6] = sqrt(q[12]);
        for k in (1..6).rev() {
            let known: f64 = (k + 1..6).map(|i| g[i] * g[6 + k - i]).sum();
            g[k] = (q[6 + k] - known) / (2.0 * g[6]);
        }
        let known: f64 = (1..6).map(|i| g[i] * g[6 - i]).sum();
        let least = (q[6] - known) / (2.0 * g[6]);
        g[0] = least + least.abs() / 8.0;
        let square: [f64; 13] = times(&g, &g);
        let left = |k: usize| q[k] - square[k];
        let h3 = sqrt(-left(6));
        let h2 = -left(5) / (2.0 * h3);
        let h1 = (-left(4) - h2 * h2) / (2.0 * h3);
        let r = [left(1), left(2) + h1 * h1, left(3) + 2.0 * h1 * h2];
        // N² has g's coefficients from the 4th power on.
        let alpha = sqrt(g[6]);
        let beta = g[5] / (2.0 * alpha);
        let gamma = (g[4] - beta * beta) / (2.0 * alpha);
        let low = [g[1], g[2] - gamma * gamma, g[3] - 2.0 * beta * gamma];
        // A cubic without a constant in A, M and N.
        let combined = |x: f64, x2: f64, x3: f64| {
            let on_n = x3 / alpha;
            let on_m = (x2 - on_n * beta) / alpha;
            [x - on_n * gamma - on_m * beta, on_m, on_n]
        };
        let twice = 2.0 * g[0];
        let [ua, um, un] = combined(low[0] - h1, low[1] - h2, low[2] - h3);
        let [va, vm, vn] = combined(low[0] + h1, low[1] + h2, low[2] + h3);
        let [wa, wm, wn] = combined(twice * low[0] + r[0], twice * low[1] + r[1], twice * low[2] + r[2]);
        let combined = [ua, um, un, va, vm, vn, wa, wm, wn, twice];
        let pair = Pair { constant: q[0], powers: [alpha, beta, gamma], combined };
        // Not `>`: it would let what is not a number pass.
        let exact = pair.growth(reach((a, b, c))) <= MOST_GROWTH;
        exact.then_some(pair)
    }

    /// Returns what the roundings of q's terms add up to at most, in units of one, up to an eigenvalue.
    fn growth(&self, largest: f64) -> f64 {
        let [ua, um, un, va, vm, vn, wa, wm, wn, wk] = self.combined;
        let points = (0..=POINTS).map(|i| largest * i as f64 / POINTS as f64);
        let growth = points.map(|x| {
            let [[_, n, k], [m_off, n_off, _]] = self.values(x);
            let k_off = k + 2.0 * n.abs() * n_off;
            let off =
                |a: f64, m: f64, n: f64, k: f64| k * k_off + a.abs() * x + m.abs() * m_off + n.abs() * n_off;
            let (u, v) = self.factors(x);
            v.abs() * off(ua, um, un, 1.0) + u.abs() * off(va, vm, vn, 1.0) + off(wa, wm, wn, wk.abs())
        });
        // Not `max`: it would hide what is not a number.
        growth.fold(0.0, |most: f64, growth| if growth <= most { most } else { growth })
    }

    /// Returns M, N and K of a number, and the magnitudes of what they are added up from.
    fn values(&self, x: f64) -> [[f64; 3]; 2] {
        let [alpha, beta, gamma] = self.powers;
        let m = alpha * x * x + beta * x;
        let m_off = alpha * x * x + beta.abs() * x;
        let n = x * m + gamma * x;
        [[m, n, n * n], [m_off, x * m_off + gamma.abs() * x, n * n]]
    }

    /// Returns U and V of a number.
    fn factors(&self, x: f64) -> (f64, f64) {
        let [ua, um, un, va, vm, vn, ..] = self.combined;
        let [[m, n, k], _] = self.values(x);
        (k + ua * x + um * m + un * n, k + va * x + vm * m + vn * n)
    }
}

/// Returns how large an eigenvalue of A gets that starts between 0 and 1.
fn reach((a, b, c): (f64, f64, f64)) -> f64 {
    let points = (0..=POINTS).map(|i| i as f64 / POINTS as f64);
    let largest = points.map(|start| {
        let step = |x: &f64| {
            let s = a + b * x + c * x * x;
            Some(x * s * s)
        };
        core::iter::successors(Some(start), step).take(POINTS / 4).fold(1.0, f64::max)
    });
    largest.fold(1.0, f64::max)
}

/// Returns the product of two polynomials, of at most N coefficients.
fn times<const N: usize>(p: &[f64], q: &[f64]) -> [f64; N] {
    let mut product = [0.0; N];
    for (i, x) in p.iter().enumerate() {
        for (j, y) in q.iter().enumerate() {
            product[i + j] += x * y;
        }
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: (f64, f64, f64) = (3.4445, -4.7750, 2.0315);

    #[test]
    fn a_pair_is_two_steps() {
        for (a, b, c) in [DEFAULT, (2.0, -1.5, 0.5), (15.0 / 8.0, -1.25, 0.375), (3.0, -3.2, 1.2)] {
            let pair = Pair::of((a, b, c)).unwrap();
            let [.., wa, wm, wn, wk] = pair.combined;
            let s = |x: f64| a + b * x + c * x * x;
            for x in (0..=100).map(|i| f64::from(i) / 70.0) {
                let ([[m, n, k], _], (u, v)) = (pair.values(x), pair.factors(x));
                let got = pair.constant + u * v + wk * k + wa * x + wm * m + wn * n;
                let expected = s(x) * s(x * s(x) * s(x));
                // q's coefficients are up to 6e4, its powers up to 1.43¹² = 73: 1e-16 of that, added up.
                assert!((got - expected).abs() <= 1e-8, "{a} {b} {c} at {x}: {got} instead of {expected}");
            }
        }
    }

    #[test]
    fn where_rounding_shows_there_is_none() {
        let grows =
            [(4.0848, -6.8946, 2.9270), (8.28, -23.6, 17.3), (1.0, 1.0, 1.0), (3.4445, -4.775, -2.0315)];
        for coefficients in grows.into_iter().chain([(1.5, -0.5, 0.0), (f64::NAN, 1.0, 1.0), (0.0, 0.0, 0.0)])
        {
            assert!(Pair::of(coefficients).is_none(), "{coefficients:?}");
        }
    }
}

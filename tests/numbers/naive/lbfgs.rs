//! L-BFGS (Nocedal & Wright 2006, algorithms 7.4, 7.5 and 3.5, 3.6), as torch 2.15 has it: on one vector.

use ndarray::Array1;

/// A loss and its gradient at a point.
pub type Function<'f> = &'f dyn Fn(&Array1<f64>) -> (f64, Array1<f64>);

pub struct Lbfgs {
    pub lr: f64,
    pub max_iter: usize,
    pub max_eval: usize,
    pub tolerance_grad: f64,
    pub tolerance_change: f64,
    pub history_size: usize,
    pub strong_wolfe: bool,
    iterations: usize,
    direction: Array1<f64>,
    t: f64,
    old_gradient: Array1<f64>,
    /// Changes of the gradient and of the position.
    pairs: Vec<(Array1<f64>, Array1<f64>)>,
    scale: f64,
}

fn largest(vector: &Array1<f64>) -> f64 {
    vector.iter().fold(0.0, |most, x| most.max(x.abs()))
}

impl Lbfgs {
    pub fn new(lr: f64, max_iter: usize, history_size: usize, strong_wolfe: bool) -> Lbfgs {
        Lbfgs {
            lr,
            max_iter,
            max_eval: max_iter * 5 / 4,
            tolerance_grad: 1e-7,
            tolerance_change: 1e-9,
            history_size,
            strong_wolfe,
            iterations: 0,
            direction: Array1::zeros(0),
            t: 0.0,
            old_gradient: Array1::zeros(0),
            pairs: Vec::new(),
            scale: 1.0,
        }
    }

    /// Takes a step; returns the loss before it.
    pub fn step(&mut self, x: &mut Array1<f64>, function: Function<'_>) -> f64 {
        let (first, mut gradient) = function(x);
        let mut loss = first;
        let mut evaluations = 1;
        if largest(&gradient) <= self.tolerance_grad {
            return first;
        }
        for n in 1..=self.max_iter {
            self.iterations += 1;
            self.turn(&gradient);
            self.old_gradient = gradient.clone();
            let old_loss = loss;
            self.t = self.lr;
            if self.iterations == 1 {
                let length: f64 = gradient.iter().map(|g| g.abs()).sum();
                self.t *= (1.0 / length).min(1.0);
            }
            let slope = gradient.dot(&self.direction);
            if slope > -self.tolerance_change {
                break;
            }
            if self.strong_wolfe {
                let most = self.max_eval - evaluations;
                let (found, count) = self.search(x, (loss, &gradient, slope), most, function);
                (self.t, loss, gradient) = found;
                evaluations += count;
                *x = &*x + self.t * &self.direction;
            } else {
                *x = &*x + self.t * &self.direction;
                if n != self.max_iter {
                    (loss, gradient) = function(x);
                    evaluations += 1;
                }
            }
            let still = largest(&(self.t * &self.direction)) <= self.tolerance_change;
            if n == self.max_iter
                || evaluations >= self.max_eval
                || largest(&gradient) <= self.tolerance_grad
                || still
                || (loss - old_loss).abs() < self.tolerance_change
            {
                break;
            }
        }
        first
    }

    /// Computes the next direction: two loops over the pairs.
    fn turn(&mut self, gradient: &Array1<f64>) {
        if self.iterations == 1 {
            self.direction = -gradient;
            return;
        }
        let (y, s) = (gradient - &self.old_gradient, self.t * &self.direction);
        let product = y.dot(&s);
        if product > 1e-10 {
            if self.pairs.len() == self.history_size {
                self.pairs.remove(0);
            }
            self.scale = product / y.dot(&y);
            self.pairs.push((y, s));
        }
        let mut q = -gradient;
        let mut alphas = vec![0.0; self.pairs.len()];
        for (i, (y, s)) in self.pairs.iter().enumerate().rev() {
            alphas[i] = s.dot(&q) / y.dot(s);
            q = q - alphas[i] * y;
        }
        q *= self.scale;
        for (i, (y, s)) in self.pairs.iter().enumerate() {
            let beta = y.dot(&q) / y.dot(s);
            q = q + (alphas[i] - beta) * s;
        }
        self.direction = q;
    }

    /// Returns a step length that satisfies the strong Wolfe conditions with 1e-4 and 0.9.
    fn search(
        &self,
        x: &Array1<f64>,
        (f0, g0, d0): (f64, &Array1<f64>, f64),
        most: usize,
        function: Function<'_>,
    ) -> ((f64, f64, Array1<f64>), usize) {
        let at = |t: f64| {
            let (f, g) = function(&(x + t * &self.direction));
            let slope = g.dot(&self.direction);
            (t, f, g, slope)
        };
        let too_high = |t: f64, f: f64| f > f0 + 1e-4 * t * d0;
        let flat = |slope: f64| slope.abs() <= -0.9 * d0;
        let mut new = at(self.t);
        let mut count = 1;
        let mut old = (0.0, f0, g0.clone(), d0);
        let mut iterations = 0;
        let mut bracket = None;
        while iterations < most {
            if too_high(new.0, new.1) || (iterations > 1 && new.1 >= old.1) {
                bracket = Some((old.clone(), new.clone()));
                break;
            }
            if flat(new.3) {
                return ((new.0, new.1, new.2), count);
            }
            if new.3 >= 0.0 {
                bracket = Some((old.clone(), new.clone()));
                break;
            }
            let (least, most) = (new.0 + 0.01 * (new.0 - old.0), new.0 * 10.0);
            let t = interpolate((old.0, old.1, old.3), (new.0, new.1, new.3), least, most);
            old = new;
            new = at(t);
            count += 1;
            iterations += 1;
        }
        let (mut low, mut high) = bracket.unwrap_or(((0.0, f0, g0.clone(), d0), new));
        // torch keeps the first of the bracket's ends and the second; the cubic is taken in that order.
        let mut swapped = low.1 > high.1;
        if swapped {
            core::mem::swap(&mut low, &mut high);
        }
        let mut insufficient = false;
        while iterations < most {
            if (high.0 - low.0).abs() * largest(&self.direction) < self.tolerance_change {
                break;
            }
            let (min, max) = (low.0.min(high.0), low.0.max(high.0));
            let (one, two) = if swapped { (&high, &low) } else { (&low, &high) };
            let mut t = interpolate((one.0, one.1, one.3), (two.0, two.1, two.3), min, max);
            let margin = 0.1 * (max - min);
            if (max - t).min(t - min) < margin {
                if insufficient || t >= max || t <= min {
                    t = if (t - max).abs() < (t - min).abs() { max - margin } else { min + margin };
                    insufficient = false;
                } else {
                    insufficient = true;
                }
            } else {
                insufficient = false;
            }
            let new = at(t);
            count += 1;
            iterations += 1;
            if too_high(new.0, new.1) || new.1 >= low.1 {
                high = new;
                // Where both are as low, torch takes the bracket's first end.
                let first_is_low = if swapped { high.1 <= low.1 } else { low.1 <= high.1 };
                if first_is_low == swapped {
                    core::mem::swap(&mut low, &mut high);
                    swapped = !swapped;
                }
            } else {
                let done = flat(new.3);
                if !done && new.3 * (high.0 - low.0) >= 0.0 {
                    high = low;
                }
                low = new;
                if done {
                    break;
                }
            }
        }
        ((low.0, low.1, low.2), count)
    }
}

/// Returns the minimum of the cubic through two points with slopes, within bounds.
fn interpolate(a: (f64, f64, f64), b: (f64, f64, f64), least: f64, most: f64) -> f64 {
    let d1 = a.2 + b.2 - 3.0 * (a.1 - b.1) / (a.0 - b.0);
    let square = d1 * d1 - a.2 * b.2;
    if square < 0.0 {
        return (least + most) / 2.0;
    }
    let d2 = square.sqrt();
    let t = if a.0 <= b.0 {
        b.0 - (b.0 - a.0) * ((b.2 + d2 - d1) / (b.2 - a.2 + 2.0 * d2))
    } else {
        a.0 - (a.0 - b.0) * ((a.2 + d2 - d1) / (a.2 - b.2 + 2.0 * d2))
    };
    t.max(least).min(most)
}

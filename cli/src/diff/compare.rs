//! Two tensors compared.

use crate::error::Result;
use crate::tensors::NamedTensor;
use crate::tensors::exact::{Number, Numbers};
use fallline::Format;
use half::{bf16, f16};

/// How a tensor compares.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It is equal.
    Equal,
    /// Elements differ.
    Different,
    /// Its shape is another: A's and B's.
    Shape(Vec<usize>, Vec<usize>),
    /// Its element type is another: A's and B's.
    Dtype(String, String),
    /// B has none of this name.
    OnlyInA,
    /// A has none of this name.
    OnlyInB,
}

impl Outcome {
    /// Returns its name in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Outcome::Equal => "equal",
            Outcome::Different => "different",
            Outcome::Shape(..) => "shape",
            Outcome::Dtype(..) => "dtype",
            Outcome::OnlyInA => "only_in_a",
            Outcome::OnlyInB => "only_in_b",
        }
    }

    /// Returns what there is to say where no numbers are compared.
    pub fn told(&self) -> String {
        match self {
            Outcome::Equal => "equal".into(),
            Outcome::Different => "its bytes differ".into(),
            Outcome::Shape(a, b) => format!("shape {a:?} and {b:?}"),
            Outcome::Dtype(a, b) => format!("{a} and {b}"),
            Outcome::OnlyInA => "only in A".into(),
            Outcome::OnlyInB => "only in B".into(),
        }
    }
}

/// A tensor, compared.
#[derive(Debug)]
pub struct Compared {
    /// Its name.
    pub name: String,
    /// How it compares.
    pub outcome: Outcome,
    /// What the differences come to, where both have numbers of one shape.
    pub numbers: Option<Differences>,
}

/// What the differences come to.
#[derive(Debug)]
pub struct Differences {
    /// The largest absolute difference; infinite where one of two numbers is not finite.
    pub max_abs: f64,
    /// The norm of the differences over that of A's numbers.
    pub relative_norm: f64,
    /// The largest distance in units of the last place, of floats of one type.
    pub max_ulps: Option<u64>,
    /// How many elements there are.
    pub elements: usize,
    /// How many of them differ.
    pub differing: usize,
    /// The first that differs.
    pub first: Option<First>,
}

/// An element that differs.
#[derive(Debug)]
pub struct First {
    /// Its index in each dimension.
    pub index: Vec<usize>,
    /// A's number.
    pub a: Number,
    /// B's number.
    pub b: Number,
}

/// Compares two tensors of one name.
pub fn compare(a: &NamedTensor<'_>, b: &NamedTensor<'_>, tolerance: Option<f64>) -> Result<Compared> {
    let compared = |outcome, numbers| Compared { name: a.name.clone(), outcome, numbers };
    if a.shape != b.shape {
        return Ok(compared(Outcome::Shape(a.shape.clone(), b.shape.clone()), None));
    }
    let type_of = |tensor: &NamedTensor<'_>| match &tensor.codes {
        Some((format, _)) => format.name().to_owned(),
        None => tensor.dtype.clone(),
    };
    let (type_a, type_b) = (type_of(a), type_of(b));
    // Files of safetensors and of torch have other words for the same types.
    let same_type = type_a == type_b || (a.float().is_some() && a.float() == b.float());
    let (Some(x), Some(y)) = (a.exact()?, b.exact()?) else {
        let outcome = match (same_type, a.raw().zip(b.raw()).is_some_and(|(a, b)| a == b)) {
            (true, true) => Outcome::Equal,
            (true, false) => Outcome::Different,
            (false, _) => Outcome::Dtype(type_a, type_b),
        };
        return Ok(compared(outcome, None));
    };
    let format = a.float().filter(|_| same_type);
    let numbers = differences(&a.shape, &x, &y, format);
    let outcome = match tolerance {
        Some(tolerance) if numbers.relative_norm <= tolerance => Outcome::Equal,
        None if !same_type => Outcome::Dtype(type_a, type_b),
        None if numbers.differing == 0 => Outcome::Equal,
        _ => Outcome::Different,
    };
    Ok(compared(outcome, Some(numbers)))
}

fn differences(shape: &[usize], a: &Numbers, b: &Numbers, format: Option<Format>) -> Differences {
    let mut found = Differences {
        max_abs: 0.0,
        relative_norm: 0.0,
        max_ulps: format.map(|_| 0),
        elements: a.len(),
        differing: 0,
        first: None,
    };
    let mut norm = Norm::default();
    let mut of_difference = Norm::default();
    for (place, (a, b)) in a.iter().zip(b.iter()).enumerate() {
        norm.add(a.value());
        if a.is(b) {
            continue;
        }
        found.differing += 1;
        if found.first.is_none() {
            found.first = Some(First { index: index(shape, place), a, b });
        }
        let apart = a.apart(b);
        found.max_abs = found.max_abs.max(apart);
        of_difference.add(apart);
        if let (Some(format), Some(most)) = (format, &mut found.max_ulps) {
            *most = (*most).max(ulps(format, a.value(), b.value()));
        }
    }
    let (norm, of_difference) = (norm.root(), of_difference.root());
    found.relative_norm = match (of_difference, norm) {
        (0.0, _) => 0.0,
        (difference, 0.0) if difference > 0.0 => f64::INFINITY,
        (difference, norm) => difference / norm,
    };
    found
}

/// A norm whose squares do not overflow.
#[derive(Default)]
struct Norm {
    scale: f64,
    sum: f64,
}

impl Norm {
    fn add(&mut self, x: f64) {
        let x = x.abs();
        if x.is_nan() || x == 0.0 {
            return;
        }
        if x.is_infinite() {
            self.scale = x;
        } else if x > self.scale {
            self.sum = 1.0 + self.sum * (self.scale / x).powi(2);
            self.scale = x;
        } else {
            self.sum += (x / self.scale).powi(2);
        }
    }

    fn root(&self) -> f64 {
        if self.scale.is_infinite() { self.scale } else { self.scale * self.sum.sqrt() }
    }
}

/// Returns the index in each dimension of an element of a row-major tensor.
fn index(shape: &[usize], mut place: usize) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (at, &extent) in index.iter_mut().zip(shape).rev() {
        *at = place % extent.max(1);
        place /= extent.max(1);
    }
    index
}

/// Returns how many numbers of a format lie between two, plus one; 0 for equal ones, and 0 and -0 are.
fn ulps(format: Format, a: f64, b: f64) -> u64 {
    // Bits of floats, ordered as their numbers.
    let ordered = |negative: bool, bits: u64| if negative { -i128::from(bits) } else { i128::from(bits) };
    let place = |x: f64| {
        let negative = x.is_sign_negative();
        let size = x.abs();
        let bits = match format {
            Format::F32 => (size as f32).to_bits().into(),
            Format::Bf16 => bf16::from_f64(size).to_bits().into(),
            Format::F16 => f16::from_f64(size).to_bits().into(),
            _ => size.to_bits(),
        };
        ordered(negative, bits)
    };
    u64::try_from((place(a) - place(b)).unsigned_abs()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ulps_count_the_numbers_between() {
        let next = |x: f32, by: u32| f64::from(f32::from_bits(x.to_bits() + by));
        assert_eq!(ulps(Format::F32, 1.0, next(1.0, 3)), 3);
        assert_eq!(ulps(Format::F32, 0.0, -0.0), 0);
        assert_eq!(ulps(Format::F32, next(0.0, 1), -next(0.0, 2)), 3);
        assert_eq!(ulps(Format::F64, 1.0, 1.0 + f64::EPSILON), 1);
        assert_eq!(ulps(Format::Bf16, 1.0, 1.0 + 1.0 / 128.0), 1);
        assert_eq!(ulps(Format::F16, 1.0, 1.0 + 2.0 / 1024.0), 2);
        assert_eq!(ulps(Format::F64, f64::MAX, f64::INFINITY), 1);
    }

    #[test]
    fn differences_are_measured() {
        let of = |shape: &[usize], a: &[f64], b: &[f64], format| {
            differences(shape, &Numbers::Floats(a.to_vec()), &Numbers::Floats(b.to_vec()), format)
        };
        let a = [3.0, 4.0, f64::NAN, 0.0, 1e200, 1e200];
        let b = [3.0, 4.5, f64::NAN, -0.0, 1e200, 1e200];
        let found = of(&[3, 2], &a, &b, Some(Format::F64));
        assert_eq!((found.max_abs, found.differing, found.elements), (0.5, 2, 6));
        let first = found.first.unwrap();
        assert_eq!((first.index, first.a, first.b), (vec![0, 1], Number::Float(4.0), Number::Float(4.5)));
        assert_eq!(found.relative_norm, 0.5 / (1e200 * 2f64.sqrt()));
        let found = of(&[2], &[0.0, 1.0], &[0.0, f64::INFINITY], None);
        assert_eq!(
            (found.max_abs, found.relative_norm, found.max_ulps),
            (f64::INFINITY, f64::INFINITY, None)
        );
        let found = of(&[1], &[0.0], &[1.0], None);
        assert_eq!(found.relative_norm, f64::INFINITY);
    }
}

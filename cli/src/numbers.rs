//! Numbers as people read them: no longer than they need to be.

/// Significant digits in tables and pictures.
pub const DIGITS: usize = 6;

/// Returns a number with at most so many significant digits, without zeros that say nothing: `0.05`, `1.5e-4`, `NaN`.
pub fn short(value: f64, digits: usize) -> String {
    written(value, digits, is_plain(value, digits))
}

/// Returns a number as [`short`], without an exponent from 1e-4 to 1e6: it reads well among others of any size.
pub fn decimal(value: f64, digits: usize) -> String {
    let plain = !value.is_finite() || value == 0.0 || (-4..6).contains(&parts(value, digits).1);
    written(value, digits, plain)
}

/// Returns the numbers of a column, in one notation.
pub fn column(values: &[f64], digits: usize) -> Vec<String> {
    let plain = values.iter().all(|value| is_plain(*value, digits));
    values.iter().map(|value| written(*value, digits, plain)).collect()
}

/// Returns whether a number reads well without an exponent.
fn is_plain(value: f64, digits: usize) -> bool {
    !value.is_finite() || value == 0.0 || (-3..7).contains(&parts(value, digits).1)
}

/// Returns the decimal digits, with sign and point, and the exponent.
fn parts(value: f64, digits: usize) -> (String, i32) {
    let text = format!("{value:.*e}", digits.max(1) - 1);
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    (mantissa.to_owned(), exponent.parse().unwrap_or(0))
}

fn written(value: f64, digits: usize, plain: bool) -> String {
    if !value.is_finite() || value == 0.0 {
        return format!("{}", if value == 0.0 { 0.0 } else { value });
    }
    let (mantissa, exponent) = parts(value, digits);
    if plain {
        let places = (digits as i32 - 1 - exponent).max(0) as usize;
        return trimmed(&format!("{value:.places$}")).to_owned();
    }
    format!("{}e{exponent}", trimmed(&mantissa))
}

/// Returns the digits without zeros at the end of a fraction.
fn trimmed(digits: &str) -> &str {
    if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let cases = [
            (0.00015000000000000001, "1.5e-4"),
            (0.05, "0.05"),
            (-0.0, "0"),
            (0.001, "0.001"),
            (999_999.7, "1000000"),
            (12_345_678.0, "1.23457e7"),
            (0.1 + 0.2, "0.3"),
            (-2.0 / 3.0, "-0.666667"),
            (1e-300, "1e-300"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-inf"),
            (100.0, "100"),
        ];
        for (value, text) in cases {
            assert_eq!(short(value, DIGITS), text);
        }
        assert_eq!(short(123.456, 2), "123");
    }

    #[test]
    fn decimals_have_exponents_at_the_ends_alone() {
        let cases = [(12.3179, "12.3179"), (0.283629, "0.283629"), (1.5e-4, "0.00015"), (9.9e-5, "9.9e-5")];
        for (value, text) in cases.into_iter().chain([(999_999.0, "999999"), (1e6, "1e6"), (0.0, "0")]) {
            assert_eq!(decimal(value, DIGITS), text);
        }
    }

    #[test]
    fn a_column_has_one_notation() {
        assert_eq!(column(&[0.05, 5e-5, 0.0], DIGITS), ["5e-2", "5e-5", "0"]);
        assert_eq!(column(&[0.05, 0.0012, f64::INFINITY], DIGITS), ["0.05", "0.0012", "inf"]);
    }
}

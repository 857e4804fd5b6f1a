//! Arithmetic as Python does it.

use super::cursor::Token;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Mod,
    Pow,
}

impl Op {
    const ALL: [(Op, &'static str, &'static str); 7] = [
        (Op::Add, "+", "+="),
        (Op::Sub, "-", "-="),
        (Op::Mul, "*", "*="),
        (Op::Div, "/", "/="),
        (Op::FloorDiv, "//", "//="),
        (Op::Mod, "%", "%="),
        (Op::Pow, "**", "**="),
    ];

    pub(super) fn symbol(self) -> &'static str {
        Op::ALL.iter().find(|(op, ..)| *op == self).map_or("", |(_, symbol, _)| symbol)
    }

    /// Returns the operation of `+=` and its like.
    pub(super) fn augmented(token: &Token) -> Option<Op> {
        Op::ALL.iter().find(|(.., symbol)| token.is(symbol)).map(|(op, ..)| *op)
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Number {
    Int(i64),
    Float(f64),
}
use Number::{Float, Int};

impl Number {
    fn float(self) -> f64 {
        match self {
            Int(v) => v as f64,
            Float(v) => v,
        }
    }
}

/// Returns `a op b`, or what is wrong with it.
pub(super) fn binary(op: Op, a: Number, b: Number) -> Result<Number, String> {
    match (a, b) {
        (Int(a), Int(b)) => integers(op, a, b),
        _ => floats(op, a.float(), b.float()),
    }
}

pub(super) fn negative(a: Number) -> Result<Number, String> {
    match a {
        Int(v) => v.checked_neg().map(Int).ok_or_else(|| too_large(&format!("-({v})"))),
        Float(v) => Ok(Float(-v)),
    }
}

fn too_large(what: &str) -> String {
    format!("{what} does not fit in 64 bits")
}

fn integers(op: Op, a: i64, b: i64) -> Result<Number, String> {
    let result = match op {
        Op::Add => a.checked_add(b),
        Op::Sub => a.checked_sub(b),
        Op::Mul => a.checked_mul(b),
        Op::Div | Op::FloorDiv | Op::Mod if b == 0 => return Err("division by zero".to_owned()),
        Op::Div => return Ok(Float(quotient(a, b))),
        // Rust rounds towards zero, Python down.
        Op::FloorDiv => a.checked_div(b).map(|q| if a % b != 0 && (a < 0) != (b < 0) { q - 1 } else { q }),
        Op::Mod => a.checked_rem(b).map(|r| if r != 0 && (r < 0) != (b < 0) { r + b } else { r }).or(Some(0)),
        Op::Pow if b < 0 => return floats(op, a as f64, b as f64),
        Op::Pow => power(a, b),
    };
    result.map(Int).ok_or_else(|| too_large(&format!("{a} {} {b}", op.symbol())))
}

fn power(a: i64, b: i64) -> Option<i64> {
    match (a, u32::try_from(b)) {
        (0 | 1, _) => Some(if b == 0 { 1 } else { a }),
        (-1, _) => Some(if b % 2 == 0 { 1 } else { -1 }),
        (_, Ok(b)) => a.checked_pow(b),
        (_, Err(_)) => None,
    }
}

/// Returns the float nearest to `a / b`, also where `a` or `b` is none themselves.
fn quotient(a: i64, b: i64) -> f64 {
    const EXACT: u64 = 1 << 53;
    if a.unsigned_abs() <= EXACT && b.unsigned_abs() <= EXACT {
        return a as f64 / b as f64;
    }
    if a == 0 {
        return 0.0;
    }
    // Enough bits that the conversion does the only rounding; the last one says whether anything is left.
    let shift = u128::from(a.unsigned_abs()).leading_zeros();
    let (n, d) = (u128::from(a.unsigned_abs()) << shift, u128::from(b.unsigned_abs()));
    let magnitude = ((n / d) | u128::from(n % d != 0)) as f64 * 0.5f64.powi(shift as i32);
    if (a < 0) == (b < 0) { magnitude } else { -magnitude }
}

fn floats(op: Op, a: f64, b: f64) -> Result<Number, String> {
    let zero = || Err("division by zero".to_owned());
    Ok(Float(match op {
        Op::Add => a + b,
        Op::Sub => a - b,
        Op::Mul => a * b,
        Op::Div | Op::FloorDiv | Op::Mod if b == 0.0 => return zero(),
        Op::Div => a / b,
        Op::FloorDiv => floor(a, b).0,
        Op::Mod => floor(a, b).1,
        Op::Pow if a == 0.0 && b < 0.0 => return zero(),
        Op::Pow if a < 0.0 && a.is_finite() && b.is_finite() && b.fract() != 0.0 => {
            return Err(format!("({a:?}) ** {b:?} is a complex number"));
        }
        Op::Pow => {
            let power = a.powf(b);
            if power.is_infinite() && a.is_finite() && b.is_finite() {
                return Err(format!("{a:?} ** {b:?} does not fit in a float"));
            }
            power
        }
    }))
}

/// Computes `a // b` and `a % b`: the remainder has the divisor's sign.
fn floor(a: f64, b: f64) -> (f64, f64) {
    let mut rest = a % b;
    let mut quotient = (a - rest) / b;
    if rest == 0.0 {
        rest = 0f64.copysign(b);
    } else if (b < 0.0) != (rest < 0.0) {
        rest += b;
        quotient -= 1.0;
    }
    if quotient == 0.0 {
        return (0f64.copysign(a / b), rest);
    }
    let floor = quotient.floor();
    (if quotient - floor > 0.5 { floor + 1.0 } else { floor }, rest)
}

/// Reads a number as Python writes it, without a sign; `None` if it is none, the problem if it is one that is
/// not kept.
pub(super) fn parse(text: &str) -> Option<Result<Number, String>> {
    let lower = text.to_ascii_lowercase();
    let (radix, digits) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        _ => (10, lower.as_str()),
    };
    // An underscore is between two digits, or after the prefix.
    let prefixed = radix != 10;
    let between = |i: usize| {
        let digit = |c: Option<char>| c.is_some_and(|c| c.is_digit(radix));
        (digit(digits[..i].chars().next_back()) || (prefixed && i == 0))
            && digit(digits[i + 1..].chars().next())
    };
    if !digits.char_indices().filter(|(_, c)| *c == '_').all(|(i, _)| between(i)) {
        return None;
    }
    let plain = digits.replace('_', "");
    if plain.is_empty() {
        return None;
    }
    if plain.chars().all(|c| c.is_digit(radix)) {
        if !prefixed && plain.len() > 1 && plain.starts_with('0') && plain.contains(|c| c != '0') {
            return None; // Python refuses 012, which once was octal
        }
        let value = i64::from_str_radix(&plain, radix).map(Int);
        return Some(value.map_err(|_| too_large(text)));
    }
    let float = !prefixed && plain.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | 'e' | '+' | '-'));
    let value = plain.parse().ok().filter(|_| float)?;
    Some(Ok(Float(value)))
}

/// Returns what `float("…")` gives.
pub(super) fn float_from_text(text: &str) -> Option<f64> {
    let text = text.trim();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    let value = match digits.to_ascii_lowercase().as_str() {
        "inf" | "infinity" => f64::INFINITY,
        "nan" => f64::NAN,
        other if other.starts_with(|c: char| c.is_ascii_digit() || c == '.') => {
            other.replace('_', "").parse().ok()?
        }
        _ => return None,
    };
    Some(sign * value)
}

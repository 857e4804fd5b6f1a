//! The product itself: column-major, terms added in their order, in f32 or f64.

use half::{bf16, f16};

use crate::machine::fault::Fault;
use crate::machine::memory::Table;

/// How an element is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    #[default]
    F32,
    F64,
    F16,
    BF16,
}

impl Format {
    /// Returns the format of a `cudaDataType`.
    pub fn of(code: i32) -> Option<Format> {
        Some(match code {
            0 => Format::F32,
            1 => Format::F64,
            2 => Format::F16,
            14 => Format::BF16,
            _ => return None,
        })
    }

    fn size(self) -> usize {
        match self {
            Format::F64 => 8,
            Format::F32 => 4,
            Format::F16 | Format::BF16 => 2,
        }
    }

    fn decode(self, bytes: &[u8]) -> f64 {
        let half = || u16::from_le_bytes([bytes[0], bytes[1]]);
        match self {
            Format::F64 => f64::from_le_bytes(bytes.try_into().expect("eight bytes")),
            Format::F32 => f64::from(f32::from_le_bytes(bytes.try_into().expect("four bytes"))),
            Format::F16 => f16::from_bits(half()).to_f64(),
            Format::BF16 => bf16::from_bits(half()).to_f64(),
        }
    }

    fn encode(self, x: f64, bytes: &mut [u8]) {
        match self {
            Format::F64 => bytes.copy_from_slice(&x.to_le_bytes()),
            Format::F32 => bytes.copy_from_slice(&(x as f32).to_le_bytes()),
            Format::F16 => bytes.copy_from_slice(&f16::from_f32(x as f32).to_le_bytes()),
            Format::BF16 => bytes.copy_from_slice(&bf16::from_f32(x as f32).to_le_bytes()),
        }
    }
}

/// A matrix in memory: its columns are `leading` elements apart.
#[derive(Clone, Copy, Default)]
pub struct Matrix {
    pub at: u64,
    pub format: Format,
    pub leading: usize,
}

impl Matrix {
    fn bytes(&self, rows: usize, columns: usize) -> usize {
        if rows == 0 || columns == 0 { 0 } else { (self.leading * (columns - 1) + rows) * self.format.size() }
    }

    fn read(&self, table: &mut Table, rows: usize, columns: usize) -> Result<Vec<f64>, Fault> {
        let bytes = table.read(self.at, self.bytes(rows, columns))?;
        Ok(bytes.chunks_exact(self.format.size()).map(|element| self.format.decode(element)).collect())
    }
}

/// `C = alpha op(A) op(B) + beta C`
pub struct Gemm {
    pub trans: [bool; 2],
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub alpha: f64,
    pub beta: f64,
    /// A, B, C.
    pub matrices: [Matrix; 3],
    pub double: bool,
}

impl Gemm {
    /// Computes the product.
    pub fn run(&self, table: &mut Table) -> Result<(), Fault> {
        let Gemm { trans, m, n, k, alpha, beta, matrices: [a, b, c], double } = *self;
        let av = if trans[0] { a.read(table, k, m)? } else { a.read(table, m, k)? };
        let bv = if trans[1] { b.read(table, n, k)? } else { b.read(table, k, n)? };
        // With beta = 0 what C held does not matter, not even NaN. Between its columns it stays as it is.
        let old = c.read(table, m, n)?;
        for j in 0..n {
            let mut column = vec![0u8; m * c.format.size()];
            for (i, to) in column.chunks_exact_mut(c.format.size()).enumerate() {
                let term = |l: usize| {
                    let x = av[if trans[0] { i * a.leading + l } else { l * a.leading + i }];
                    let y = bv[if trans[1] { l * b.leading + j } else { j * b.leading + l }];
                    (x, y)
                };
                let before = old[j * c.leading + i];
                let value = if double {
                    let sum = (0..k).map(term).fold(0.0, |sum: f64, (x, y)| x.mul_add(y, sum));
                    alpha * sum + if beta == 0.0 { 0.0 } else { beta * before }
                } else {
                    let sum =
                        (0..k).map(term).fold(0.0, |sum: f32, (x, y)| (x as f32).mul_add(y as f32, sum));
                    let kept = if beta == 0.0 { 0.0 } else { beta as f32 * before as f32 };
                    f64::from(alpha as f32 * sum + kept)
                };
                c.format.encode(value, to);
            }
            table.write(c.at + (j * c.leading * c.format.size()) as u64, &column)?;
        }
        Ok(())
    }
}

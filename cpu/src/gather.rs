//! Rows gathered, added up and scattered by index.

use crate::pool::Pool;
use core::ops::Range;
use fallline_core::backend::{GatherSum, Scatter, View};
use fallline_core::host::SliceMut;
use fallline_core::{Device, Element, Error, Format, Result, Storage, bf16, f16};

/// Fewer elements than this are one thread's work: waking the others costs more.
const SERIAL_BELOW: usize = 64 * 1024;
/// Ranges of rows for each thread: enough for one thread to make up for another's delay.
const RANGES_PER_THREAD: usize = 4;

/// Memory that threads write, each its own rows.
#[derive(Clone, Copy)]
struct Target<T>(*mut T);

// SAFETY: no two threads are given the same rows.
unsafe impl<T: Send> Sync for Target<T> {}

impl<T> Target<T> {
    /// # Safety
    /// The elements are the memory's, and nobody else's as long as the slice lives.
    unsafe fn slice<'t>(self, start: usize, len: usize) -> &'t mut [T] {
        // SAFETY: the caller's contract.
        unsafe { core::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}

/// Returns the elements of a view that the host reaches.
///
/// # Safety
/// They are of type `T`.
unsafe fn elements<'v, T>(view: &'v View<'_>) -> &'v [T] {
    if view.is_empty() {
        return &[];
    }
    // SAFETY: a view borrows memory of its format's elements, as many as it says; its address has exposed
    // provenance.
    unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance(view.address()), view.len()) }
}

fn unreachable(operation: &'static str, what: &str, device: Device) -> Error {
    Error::Unreachable { operation, what: what.into(), device }
}

fn host<'s>(operation: &'static str, storage: &'s mut Storage, device: Device) -> Result<SliceMut<'s>> {
    storage.memory_mut().host_mut().ok_or_else(|| unreachable(operation, "the target", device))
}

/// Calls `work` for ranges of `rows`, on all threads if there are enough `elements`.
fn spread(pool: &Pool, rows: usize, elements: usize, work: impl Fn(Range<usize>) + Sync + Send) {
    if elements <= SERIAL_BELOW || pool.threads() == 1 {
        return work(0..rows);
    }
    let ranges = pool.threads() * RANGES_PER_THREAD;
    let start = |range: usize| rows * range / ranges;
    pool.for_each(0..ranges, |range| work(start(range)..start(range + 1)));
}

/// Adds up rows: see [`Indexing::gather_sum`](fallline_core::backend::Indexing::gather_sum).
pub(crate) fn sum(device: Device, pool: &Pool, rows: GatherSum<'_>) -> Result<()> {
    rows.check()?;
    let GatherSum { from, width, order, ends, to } = rows;
    if !from.on_host() {
        return Err(unreachable("gather_sum", "the rows", device));
    }
    macro_rules! of {
        ($t:ty, $to:expr) => {
            // SAFETY: the format says the type.
            unsafe {
                match from.format() {
                    Format::F64 => sum_as(pool, elements::<f64>(&from), width, order, ends, $to),
                    Format::F32 => sum_as(pool, elements::<f32>(&from), width, order, ends, $to),
                    Format::Bf16 => sum_as(pool, elements::<bf16>(&from), width, order, ends, $to),
                    Format::F16 => sum_as(pool, elements::<f16>(&from), width, order, ends, $to),
                    got => {
                        let expected = Format::ALL.map(Format::name).join(", ");
                        return Err(Error::Format {
                            operation: "gather_sum",
                            what: "the rows".into(),
                            expected,
                            got,
                        });
                    }
                }
            }
        };
    }
    match host("gather_sum", to, device)? {
        SliceMut::F64(to) => of!(f64, to),
        SliceMut::F32(to) => of!(f32, to),
        _ => unreachable!("checked: sums are f32 or f64"),
    }
    Ok(())
}

fn sum_as<S: Element, T: Element + core::ops::AddAssign>(
    pool: &Pool,
    from: &[S],
    width: usize,
    order: &[u64],
    ends: &[u64],
    to: &mut [T],
) {
    let target = Target(to.as_mut_ptr());
    spread(pool, ends.len(), order.len() * width, |range| {
        let mut next = if range.start == 0 { 0 } else { ends[range.start - 1] as usize };
        for row in range {
            // SAFETY: a row of the sums that no other range has.
            let sum = unsafe { target.slice(row * width, width) };
            let mut addends = order[next..ends[row] as usize]
                .iter()
                .map(|&from_row| &from[from_row as usize * width..][..width]);
            next = ends[row] as usize;
            match addends.next() {
                Some(first) => sum.iter_mut().zip(first).for_each(|(to, x)| *to = T::from_f64(x.to_f64())),
                None => sum.fill(T::default()),
            }
            for addend in addends {
                sum.iter_mut().zip(addend).for_each(|(to, x)| *to += T::from_f64(x.to_f64()));
            }
        }
    });
}

/// Scatters rows: see [`Indexing::scatter`](fallline_core::backend::Indexing::scatter).
pub(crate) fn scatter(device: Device, pool: &Pool, rows: Scatter<'_>) -> Result<()> {
    rows.check()?;
    let Scatter { from, width, index, to } = rows;
    if !from.on_host() {
        return Err(unreachable("scatter", "the rows", device));
    }
    let bytes = width * from.format().bytes();
    let whole = from.len() * from.format().bytes();
    let source = if whole == 0 {
        &[][..]
    } else {
        // SAFETY: as for `elements`; every element is of plain bytes.
        unsafe {
            core::slice::from_raw_parts::<u8>(core::ptr::with_exposed_provenance(from.address()), whole)
        }
    };
    let mut to = host("scatter", to, device)?;
    let target = Target(to.bytes_mut().as_mut_ptr());
    spread(pool, index.len(), index.len() * width, |range| {
        for i in range {
            // SAFETY: a row of the target; the index rises, so no other thread has it.
            let row = unsafe { target.slice(index[i] as usize * bytes, bytes) };
            row.copy_from_slice(&source[i * bytes..][..bytes]);
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cpu;
    use fallline_core::backend::{DeviceMemory, Indexing};

    #[test]
    fn sums_are_in_order_and_lone_rows_keep_their_sign() {
        let cpu = Cpu::with_threads(3).unwrap();
        let mut to = cpu.allocate(&[(Format::F32, 6)]).unwrap().remove(0);
        // In another order the large numbers would not swallow the small ones.
        let values = [1e8f32, -0.0, 1.0, 2.0, -1e8, 3.0];
        let (order, ends) = ([0, 1, 2, 1], [3, 3, 4]);
        let from = || View::from(fallline_core::host::Slice::from(&values));
        cpu.gather_sum(GatherSum { from: from(), width: 2, order: &order, ends: &ends, to: &mut to })
            .unwrap();
        let expected = [(1e8 + 1.0) - 1e8, (-0.0 + 2.0) + 3.0, 0.0, 0.0, 1.0, 2.0f32];
        assert_eq!(to.memory().host().unwrap().as_slice::<f32>().unwrap(), expected);
        cpu.gather_sum(GatherSum {
            from: from(),
            width: 1,
            order: &[1, 1, 1, 1, 1, 1],
            ends: &[1, 2, 3, 4, 5, 6],
            to: &mut to,
        })
        .unwrap();
        assert_eq!(to.memory().host().unwrap().get(3).to_bits(), (-0.0f64).to_bits());
        let wrong =
            cpu.gather_sum(GatherSum { from: from(), width: 2, order: &[3], ends: &[1], to: &mut to });
        assert!(
            wrong
                .unwrap_err()
                .to_string()
                .starts_with("gather_sum: the memory of the rows has 6 elements, expected 8")
        );
    }

    #[test]
    fn many_threads_write_what_one_does() {
        let (rows, width) = (3001, 33);
        let values: Vec<f64> = (0..rows * width).map(|i| (i as f64).sin()).collect();
        let index: Vec<u64> = (0..rows as u64).map(|i| i + i / 4).collect();
        let outcome = |threads| {
            let cpu = Cpu::with_threads(threads).unwrap();
            let mut to = cpu.allocate(&[(Format::F64, 4001 * width)]).unwrap().remove(0);
            let from = View::from(fallline_core::host::Slice::from(&values));
            cpu.scatter(Scatter { from, width, index: &index, to: &mut to }).unwrap();
            let mut back = cpu.allocate(&[(Format::F32, rows * width)]).unwrap().remove(0);
            let ends: Vec<u64> = (1..=rows as u64).collect();
            let from = View::read(&to);
            cpu.gather_sum(GatherSum { from, width, order: &index, ends: &ends, to: &mut back }).unwrap();
            back.memory().host().unwrap().as_slice::<f32>().unwrap().to_vec()
        };
        let expected: Vec<f32> = values.iter().map(|&x| x as f32).collect();
        assert_eq!(outcome(1), expected);
        assert_eq!(outcome(4), expected);
    }
}

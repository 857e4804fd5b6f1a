//! The kernels that work on rows, columns and blocks, run on the emulated device: plainly, under its checks in
//! three orders, and with lazy streams. This is a separate process, since the emulator is one for all.

#![allow(unsafe_code)] // launches

use fallline::core::backend::AxisReduction;
use fallline_cuda::cudarc::driver::{CudaContext, CudaStream, DevicePtr, LaunchConfig, PushKernelArg};
use fallline_cuda::cudarc::nvrtc;
use fallline_cuda::ptx::{self, Ptx, Target, Type};
use std::sync::{Arc, Mutex, PoisonError};

const MODES: [&str; 5] =
    ["unchecked,eager,seed=0", "checked,seed=1", "checked,seed=2", "checked,seed=3", "unchecked,lazy,seed=0"];

/// Runs a test in each of the emulator's modes, on both targets.
fn everywhere(test: impl Fn(&Arc<CudaStream>, Target)) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let emulator = fallline_emulator::install().expect("the emulator");
    for mode in MODES {
        emulator.configure(mode);
        let stream = CudaContext::new(0).unwrap().new_stream().unwrap();
        Target::ALL.iter().for_each(|&target| test(&stream, target));
        assert_eq!(emulator.last_fault(), None, "{mode}");
    }
}

/// Launches a kernel whose parameters are addresses, then `wide` and `narrow` numbers.
fn launch(
    stream: &Arc<CudaStream>,
    ptx: &Ptx,
    threads: [usize; 2],
    addresses: &[u64],
    wide: &[u64],
    narrow: &[u32],
) {
    let module = stream.context().load_module(nvrtc::Ptx::from_src(&ptx.text)).unwrap();
    let function = module.load_function(&ptx.entry).unwrap();
    let [all, block] = threads;
    let grid_dim = (all.div_ceil(block).max(1) as u32, 1, 1);
    let shape = LaunchConfig { grid_dim, block_dim: (block as u32, 1, 1), shared_mem_bytes: 0 };
    let mut call = stream.launch_builder(&function);
    addresses.iter().chain(wide).for_each(|word| _ = call.arg(word));
    narrow.iter().for_each(|word| _ = call.arg(word));
    // SAFETY: the arguments are those of the kernel's interface; what it does with them the emulator checks.
    unsafe { call.launch(shape) }.unwrap();
    stream.synchronize().unwrap();
}

/// Returns numbers whose sums round, in every order to something else.
fn numbers(count: usize) -> Vec<f64> {
    (0..count).map(|i| ((i * 7919) % 1009) as f64 / 97.0 - 3.0 + 1e6 * f64::from(i % 11 == 3)).collect()
}

trait Number:
    Copy
    + Default
    + PartialEq
    + std::fmt::Debug
    + std::ops::Add<Output = Self>
    + std::ops::Mul<Output = Self>
    + bytemuck::Pod
{
    const TYPE: Type;
    fn of(x: f64) -> Self;
}
impl Number for f32 {
    const TYPE: Type = Type::F32;
    fn of(x: f64) -> f32 {
        x as f32
    }
}
impl Number for f64 {
    const TYPE: Type = Type::F64;
    fn of(x: f64) -> f64 {
        x
    }
}

fn numbers_of<T: Number>(bytes: &[u8]) -> Vec<T> {
    bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
}

/// Adds up a row in the order that is documented.
fn row_sum<T: Number>(row: &[T]) -> T {
    let mut accumulators = [T::default(); 128];
    row.iter().enumerate().for_each(|(i, &x)| accumulators[i % 128] = accumulators[i % 128] + x);
    for h in [64, 32, 16, 8, 4, 2, 1] {
        (0..h).for_each(|j| accumulators[j] = accumulators[j] + accumulators[j + h]);
    }
    accumulators[0]
}

/// Elements before a matrix, with which it is aligned or not.
const STARTS: [usize; 2] = [0, 1];

/// Returns what is added up: the numbers, or their squares.
fn terms<T: Number>(values: &[T], squares: bool) -> Vec<T> {
    values.iter().map(|&x| if squares { x * x } else { x }).collect()
}

fn rows_are_added_up<T: Number>() {
    everywhere(|stream, target| {
        for (rows, columns) in
            [(1, 1), (3, 127), (5, 128), (4, 129), (2, 1000), (9, 4), (70, 3), (0, 3), (3, 0)]
        {
            for (start, squares) in STARTS.into_iter().flat_map(|start| [(start, false), (start, true)]) {
                let values: Vec<T> = numbers(start + rows * columns + 1).into_iter().map(T::of).collect();
                let source = stream.clone_htod(bytemuck::cast_slice::<T, u8>(&values)).unwrap();
                let at = source.device_ptr(stream).0 + (start * size_of::<T>()) as u64;
                let terms = terms(&values[start..start + rows * columns], squares);
                let mut expected: Vec<T> = match columns {
                    0 => vec![T::default(); rows],
                    _ => terms.chunks(columns).map(row_sum).collect(),
                };
                expected.push(T::default());
                // A warp for each row, and as many lanes as it may be.
                for lanes in
                    [1, 2, 4, 8, 16, 32].into_iter().filter(|lanes| *lanes == 32 || columns <= 4 * lanes)
                {
                    let kernel = match lanes {
                        32 => ptx::sum_rows_kernel("sum_rows", T::TYPE, squares, target),
                        _ => ptx::sum_short_rows_kernel("sum_short_rows", T::TYPE, squares, lanes, target),
                    };
                    let sums = stream.alloc_zeros::<u8>((rows + 1) * size_of::<T>()).unwrap();
                    let sums_at = sums.device_ptr(stream).0;
                    let threads = [(lanes * rows).next_multiple_of(32), 64];
                    launch(stream, &kernel, threads, &[at, sums_at], &[], &[rows as u32, columns as u32]);
                    let got = stream.clone_dtoh(&sums).unwrap();
                    assert_eq!(numbers_of::<T>(&got), expected, "{rows} {columns} {start} {squares} {lanes}");
                }
            }
        }
    });
}

#[test]
fn rows_are_added_up_in_their_order() {
    rows_are_added_up::<f32>();
    rows_are_added_up::<f64>();
}

fn columns_are_added_up<T: Number>() {
    const STRIP: usize = AxisReduction::STRIP;
    everywhere(|stream, target| {
        for (matrices, rows, columns) in
            [(1, 1, 1), (1, 256, 5), (2, 257, 128), (1, 600, 132), (40, 3, 3), (3, 0, 2)]
        {
            for (start, squares) in STARTS.into_iter().flat_map(|start| [(start, false), (start, true)]) {
                let values: Vec<T> =
                    numbers(start + matrices * rows * columns + 1).into_iter().map(T::of).collect();
                let kernel = ptx::sum_columns_kernel("sum_columns", T::TYPE, squares, target);
                let source = stream.clone_htod(bytemuck::cast_slice::<T, u8>(&values)).unwrap();
                let at = source.device_ptr(stream).0 + (start * size_of::<T>()) as u64;
                let strips = rows.div_ceil(STRIP).max(1);
                let count = matrices * strips * columns;
                let sums = stream.alloc_zeros::<u8>((count + 1) * size_of::<T>()).unwrap();
                let dims = [matrices as u32, rows as u32, columns as u32];
                launch(stream, &kernel, [count, 96], &[at, sums.device_ptr(stream).0], &[], &dims);
                let terms = terms(&values[start..], squares);
                let mut expected = Vec::new();
                for (matrix, strip, column) in (0..matrices)
                    .flat_map(|matrix| (0..strips).map(move |strip| (matrix, strip)))
                    .flat_map(|(matrix, strip)| (0..columns).map(move |column| (matrix, strip, column)))
                {
                    let own = STRIP * strip..rows.min(STRIP * (strip + 1));
                    let term = |row| terms[(matrix * rows + row) * columns + column];
                    expected.push(own.map(term).fold(T::default(), |sum, x| sum + x));
                }
                expected.push(T::default());
                let got = stream.clone_dtoh(&sums).unwrap();
                assert_eq!(numbers_of::<T>(&got), expected, "{matrices} {rows} {columns} {start} {squares}");
            }
        }
    });
}

#[test]
fn columns_are_added_up_in_their_order() {
    columns_are_added_up::<f32>();
    columns_are_added_up::<f64>();
}

#[test]
fn the_lower_half_of_a_matrix_is_mirrored() {
    everywhere(|stream, target| {
        for bytes in [2, 4, 8] {
            for size in [1, 31, 33, 64, 70] {
                let values: Vec<u8> = (0..size * size * bytes).map(|i| (i * 31 % 251) as u8).collect();
                let matrix = stream.clone_htod(&values).unwrap();
                let kernel = ptx::symmetrize_kernel("mirror", bytes, target);
                let tiles = size.div_ceil(32) * size.div_ceil(32);
                launch(
                    stream,
                    &kernel,
                    [256 * tiles, 256],
                    &[matrix.device_ptr(stream).0],
                    &[],
                    &[size as u32],
                );
                let mut expected = values.clone();
                for (row, column) in (0..size).flat_map(|row| (row..size).map(move |column| (row, column))) {
                    let (to, from) = ((row * size + column) * bytes, (column * size + row) * bytes);
                    expected[to..to + bytes].copy_from_slice(&values[from..from + bytes]);
                }
                assert_eq!(stream.clone_dtoh(&matrix).unwrap(), expected, "{bytes} {size}");
            }
        }
    });
}

#[test]
fn rows_are_gathered_and_scattered() {
    // Below zero and not below the limit: such rows are left out.
    let index: [i64; 6] = [4, 0, -1, 2, 7, 1];
    let limit = 5;
    everywhere(|stream, target| {
        for bytes in [2, 4, 8] {
            for (columns, start) in [(1, 0), (8, 0), (33, 0), (16, 1), (0, 0)] {
                let row = columns * bytes;
                let table: Vec<u8> = (0..limit * row + start * bytes).map(|i| (i * 37 % 241) as u8).collect();
                let rows: Vec<u8> = (0..index.len() * row).map(|i| (i * 53 % 239) as u8).collect();
                let addressed = stream.clone_htod(&index).unwrap();
                for gather in [true, false] {
                    let kernel = match gather {
                        true => ptx::gather_rows_kernel("gather", bytes, target),
                        false => ptx::scatter_rows_kernel("scatter", bytes, target),
                    };
                    let upload = |values: &[u8]| stream.clone_htod(&[values, &[0]].concat()).unwrap();
                    let (on_table, on_rows) = (upload(&table), upload(&rows));
                    let table_at = on_table.device_ptr(stream).0 + (start * bytes) as u64;
                    let rows_at = on_rows.device_ptr(stream).0;
                    let [from, to] = if gather { [table_at, rows_at] } else { [rows_at, table_at] };
                    let addresses = [from, to, addressed.device_ptr(stream).0];
                    let wide = [row as u64, limit as u64];
                    launch(stream, &kernel, [32 * index.len(), 64], &addresses, &wide, &[index.len() as u32]);
                    let (mut table, mut rows) = (table.clone(), rows.clone());
                    for (i, &at) in index.iter().enumerate().filter(|(_, at)| (0..limit as i64).contains(*at))
                    {
                        let at = start * bytes + at as usize * row;
                        match gather {
                            true => rows[i * row..][..row].copy_from_slice(&table[at..][..row]),
                            false => table[at..][..row].copy_from_slice(&rows[i * row..][..row]),
                        }
                    }
                    let got = |slice| {
                        let mut values: Vec<u8> = stream.clone_dtoh(slice).unwrap();
                        values.pop();
                        values
                    };
                    assert_eq!(got(&on_table), table, "{bytes} {columns} {gather}");
                    assert_eq!(got(&on_rows), rows, "{bytes} {columns} {gather}");
                }
            }
        }
    });
}

//! Arrays and views of `ndarray` as parameters, contiguous or not.
//!
//! `cargo run --release --example ndarray_views`

use fallline::prelude::*;
use ndarray::{Array2, s};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut weight = Array2::from_shape_fn((3, 4), |(i, j)| (i * 4 + j) as f32);
    let grad = Array2::from_elem((3, 4), 1.0f32);

    // A whole array is contiguous: it is updated in place, and its shape goes along.
    let mut optimizer = fallline::build("dict(type='SGD', lr=0.5)")?;
    optimizer.step(&mut [param("weight", &mut weight, &grad)])?;
    println!("{weight}");
    assert_eq!(weight[[0, 0]], -0.5);

    // Two columns of it, to fine-tune only them. The view has gaps, so the step copies it into a buffer
    // and back: right, but with one allocation and two passes over memory more.
    let mut columns = weight.slice_mut(s![.., 1..3]);
    let columns_grad = grad.slice(s![.., 1..3]);
    let mut fine = fallline::build("dict(type='Lion', lr=0.25)")?;
    fine.step(&mut [param("weight.columns", &mut columns, &columns_grad)])?;
    println!("{weight}");
    assert_eq!(weight.row(0).to_vec(), [-0.5, 0.25, 1.25, 2.5]);

    // A transposed view: state is kept in the view's order, the memory in the array's.
    let mut transposed = weight.view_mut().reversed_axes();
    let report = fine.step(&mut [param("weight.T", &mut transposed, &grad.t())])?;
    println!("{weight}\n{report}");
    assert_eq!(weight.row(0).to_vec(), [-0.75, 0.0, 1.0, 2.25]);
    Ok(())
}

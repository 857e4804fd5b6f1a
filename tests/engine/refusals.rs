//! Arguments of the sources that are taken, and gradients that are not. What is refused is in
//! `tests/common/inputs.rs`.

use crate::common::recipe;
use fallline::{Recipe, Sparse};

/// Arguments of the sources that change no number, with values that they may have.
const ACCEPTED: &[&str] = &[
    "dict(type='Adagrad', foreach=True, fused=None, differentiable=False)",
    "dict(type='RMSprop', capturable=True)",
    "dict(type='SophiaG', capturable=True)",
    "dict(type='bnb_Adam', amsgrad=True, optim_bits=32, args=None, min_8bit_size=128, is_paged=True)",
    "dict(type='Lion32bit', args=None, min_8bit_size=128, is_paged=True)",
    "dict(type='SGD32bit', momentum=0.9, nesterov=True, dampening=0.5)",
    "dict(type='RMSprop32bit', momentum=0.9)",
    "dict(type='AdEMAMix', t_alpha=None, t_beta3=0, is_paged=False, optim_bits=32)",
    "dict(type='FusedAdam', set_grad_none=False, amsgrad=False)",
    "dict(type='DeepSpeedCPUAdam', fp32_optimizer_states=False)",
];

#[test]
fn what_changes_no_number_is_taken() {
    ACCEPTED.iter().for_each(|text| drop(recipe(text)));
}

#[test]
fn row_sparse_gradients_are_taken_where_they_mean_the_same() {
    let sparse = |text: &str| recipe(text).algorithm().takes_rows();
    assert_eq!(sparse("SparseAdam"), Ok(Sparse::RowsOnly));
    for text in ["Adagrad", "dict(type='Adagrad', eps=0.0)", "SGD", "DAdaptAdaGrad"] {
        assert_eq!(sparse(text), Ok(Sparse::Rows), "{text}");
    }
    for text in ["dict(type='SGD', momentum=0.9)", "Lion"] {
        assert_eq!(sparse(text), Ok(Sparse::AsDense), "{text}");
    }
    for text in
        ["dict(type='Adagrad', weight_decay=0.1)", "dict(type='SGD', weight_decay=0.1)", "Adadelta", "Rprop"]
    {
        assert!(sparse(text).is_err(), "{text}");
    }
    assert!(sparse("NAdam").unwrap_err().contains("SparseAdam"));
}

/// What [`ZeroRedundancyOptimizer`](fallline::optim::ranks::ZeroRedundancy) refuses, with the whole complaint.
const SHARED_OUT: &[(&str, &str)] = &[
    ("lr=0.1", r#"ZeroRedundancyOptimizer needs an "optimizer_type""#),
    ("optimizer_type=1", "ZeroRedundancyOptimizer: optimizer_type must be a name of an optimizer, got 1"),
    ("optimizer_type='Adam', lr=-1", "Adam: lr must be ≥ 0, got -1"),
    (
        "optimizer_type='Adam', overlap_with_ddp=True",
        "ZeroRedundancyOptimizer: overlap_with_ddp must be False: with it torch leaves out the first steps",
    ),
    (
        "optimizer_type='LBFGS'",
        "ZeroRedundancyOptimizer: LBFGS cannot be sharded: it searches along all parameters together",
    ),
    (
        "optimizer_type='OnebitAdam'",
        "ZeroRedundancyOptimizer: OnebitAdam cannot be sharded: it sends compressed momenta to all ranks itself, \
         each of which needs all states",
    ),
    (
        "optimizer_type='ZeroRedundancyOptimizer'",
        "ZeroRedundancyOptimizer: ZeroRedundancyOptimizer is sharded already",
    ),
];

#[test]
fn what_cannot_be_shared_out_is_refused() {
    for (arguments, expected) in SHARED_OUT {
        let text = format!("dict(type='ZeroRedundancyOptimizer', {arguments})");
        let error = Recipe::from_text(&text).err().unwrap_or_else(|| panic!("{text} is taken")).to_string();
        // In front is the place in the text.
        assert_eq!(error.split_once(": ").map(|(_, complaint)| complaint), Some(*expected), "{text}");
    }
    drop(recipe(
        "dict(type='ZeroRedundancyOptimizer', optimizer_type='Adam', parameters_as_bucket_view=True)",
    ));
}

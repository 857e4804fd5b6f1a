//! Arguments of the sources that are taken, and gradients that are not. What is refused stands in
//! `tests/common/inputs.rs`.

mod common;

use common::recipe;
use fallline::Sparse;

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
    let sparse = |text: &str| recipe(text).algorithm().sparse();
    for text in ["SparseAdam", "Adagrad", "dict(type='Adagrad', eps=0.0)", "SGD", "DAdaptAdaGrad"] {
        assert_eq!(sparse(text), Ok(Sparse::Rows), "{text}");
    }
    for text in ["dict(type='SGD', momentum=0.9)", "Lion"] {
        assert_eq!(sparse(text), Ok(Sparse::Whole), "{text}");
    }
    for text in
        ["dict(type='Adagrad', weight_decay=0.1)", "dict(type='SGD', weight_decay=0.1)", "Adadelta", "Rprop"]
    {
        assert!(sparse(text).is_err(), "{text}");
    }
    assert!(sparse("NAdam").unwrap_err().contains("SparseAdam"));
}

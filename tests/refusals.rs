//! Options that the sources refuse, and what is said about them.

mod common;

use common::recipe;
use fallline::{Recipe, Sparse};

/// Configurations, and what must be in the complaint. Where a source raises, so does this.
const BAD: &[(&str, &str)] = &[
    ("dict(type='SGD', lr=-0.1)", "SGD: lr must be ≥ 0, got -0.1"),
    ("dict(type='Adam', betas=(1.0, 0.0))", "Adam: betas must be in [0, 1)"),
    ("dict(type='SparseAdam', lr=0.0)", "SparseAdam: lr must be above 0 at first"),
    ("dict(type='SparseAdam', eps=0.0)", "SparseAdam: eps must be"),
    ("dict(type='SparseAdam', betas=(0.9, 1.0))", "SparseAdam: betas must be in [0, 1)"),
    ("dict(type='SparseAdam', weight_decay=0.1)", "weight_decay"),
    ("dict(type='Adagrad', lr=-1)", "Adagrad: lr must be ≥ 0, got -1"),
    ("dict(type='Adagrad', lr_decay=-0.5)", "Adagrad: lr_decay must be ≥ 0, got -0.5"),
    ("dict(type='Adagrad', initial_accumulator_value=-1.0)", "initial_accumulator_value must be ≥ 0"),
    ("dict(type='Adadelta', rho=1.1)", "Adadelta: rho must be in [0, 1], got 1.1"),
    ("dict(type='RMSprop', momentum=-1.0)", "RMSprop: momentum must be ≥ 0, got -1.0"),
    ("dict(type='RMSprop', alpha=-1e-3)", "RMSprop: alpha must be ≥ 0"),
    ("dict(type='RAdam', betas=(0.9, 1.0))", "RAdam: betas must be in [0, 1)"),
    ("dict(type='RAdam', betas=0.9)", "RAdam: betas must be a pair of floats, got 0.9"),
    ("dict(type='NAdam', momentum_decay=-0.2)", "NAdam: momentum_decay must be ≥ 0, got -0.2"),
    ("dict(type='Adamax', betas=(0.0, 1.0))", "Adamax: betas must be in [0, 1)"),
    ("dict(type='Adamax', amsgrad=True)", "amsgrad"),
    ("dict(type='ASGD', weight_decay=-0.5)", "ASGD: weight_decay must be ≥ 0, got -0.5"),
    ("dict(type='ASGD', lambd=-0.5)", "ASGD: lambd must be ≥ 0"),
    (
        "dict(type='Rprop', etas=(1.0, 0.5))",
        "Rprop: etas must be one below 1 and one above 1, got (1.0, 0.5)",
    ),
    ("dict(type='Rprop', etas=(0.0, 1.2))", "Rprop: etas must be > 0"),
    ("dict(type='SophiaG', rho=-0.04)", "SophiaG: rho must be ≥ 0"),
    ("dict(type='FusedAdam', amsgrad=True)", "FusedAdam: amsgrad is not supported, as in DeepSpeed"),
    ("dict(type='DeepSpeedCPUAdam', amsgrad=True)", "DeepSpeedCPUAdam: amsgrad is not supported"),
    ("dict(type='DeepSpeedCPUAdam', adam_w_mode=True)", "adam_w_mode"),
    ("dict(type='FusedAdam', adamw_mode=True)", "adamw_mode"),
    ("dict(type='bnb_Adam', optim_bits=8)", "bnb_Adam: optim_bits must be 32, got 8"),
    ("dict(type='AdamW32bit', optim_bits=8)", "AdamW32bit: optim_bits must be 32, got 8"),
    ("dict(type='Adam32bit', betas=(0.9, 1.0))", "Adam32bit: betas must be in [0, 1)"),
    ("dict(type='Adam32bit', args='ns')", "Adam32bit: args must be a None, got"),
    ("dict(type='bnb_Adam', min_8bit_size=0.5)", "bnb_Adam: min_8bit_size must be a int"),
    ("dict(type='Lion32bit', optim_bits=32)", "optim_bits"),
    ("dict(type='bnb_Lion', betas=(0.9, 1.0))", "bnb_Lion: betas must be in [0, 1)"),
    ("dict(type='bnb_Adagrad', lr_decay=0.1)", "bnb_Adagrad: lr_decay must be 0, got 0.1"),
    (
        "dict(type='Adagrad32bit', initial_accumulator_value=1.0)",
        "initial_accumulator_value must be 0, got 1.0",
    ),
    ("dict(type='bnb_RMSprop', alpha=0.0)", "bnb_RMSprop: alpha=0 is not supported"),
    ("dict(type='RMSprop32bit', centered=True)", "RMSprop32bit: centered is not supported; RMSprop has it"),
    ("dict(type='RMSprop32bit', momentum=1.0)", "RMSprop32bit: momentum must be in [0, 1), got 1.0"),
    ("dict(type='bnb_SGD', lr=0.1, momentum=0)", "bnb_SGD: momentum=0 is not supported; SGD has it"),
    ("dict(type='SGD32bit', lr=0.1, dampening=1.0)", "SGD32bit: dampening must be in [0, 1), got 1.0"),
    ("dict(type='AdEMAMix', betas=(0.9, 0.999))", "AdEMAMix: betas must be a triple of floats"),
    ("dict(type='AdEMAMix', t_alpha=-1)", "AdEMAMix: t_alpha must be ≥ 0, got -1"),
    (
        "dict(type='AdEMAMix32bit', t_beta3=9, betas=(0.0, 0.9, 0.99))",
        "AdEMAMix32bit: t_beta3 needs betas above 0",
    ),
];

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
fn what_a_source_refuses_is_refused_with_its_name() {
    for (text, part) in BAD {
        let error = Recipe::from_text(text).err().unwrap_or_else(|| panic!("{text} is taken")).to_string();
        assert!(error.contains(part), "{text}: {error}");
        assert_eq!(error.lines().count(), 1, "{text}: {error}");
    }
}

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

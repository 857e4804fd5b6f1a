//! What several test files share: option sets, buffers of any element type, and a small random generator.

#![allow(dead_code)] // each test file is a crate of its own and uses a part

pub mod inputs;
pub mod trace;

use fallline::core::{Element, Role};
use fallline::optim::{Binding, GradRef, ParamRef, frozen, param};
use fallline::registry::names::ENTRIES;
use fallline::{
    AnyRecipe, Backend, Checkpoint, Compute, Cpu, Driver, Format, Isa, LineSearch, Method, Optimizer, Recipe,
};
use half::{bf16, f16};
use std::sync::{Arc, OnceLock};

/// Good inputs, so that every name with every rule that its options choose is among them.
pub const CASES: &[&str] = &[
    "dict(type='SGD', lr=0.1)",
    "dict(type='SGD', lr=0.1, weight_decay=0.01)",
    "dict(type='SGD', lr=0.1, maximize=True)",
    "dict(type='SGD', lr=0.1, momentum=0.9)",
    "dict(type='SGD', lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.01)",
    "dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True)",
    "dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01, maximize=True)",
    "Adam",
    "dict(type='Adam', lr=0.01, weight_decay=0.1)",
    "dict(type='Adam', lr=0.01, weight_decay=0.1, decoupled_weight_decay=True)",
    "dict(type='Adam', lr=0.01, amsgrad=True)",
    "dict(type='Adam', lr=0.01, amsgrad=True, weight_decay=0.1, maximize=True)",
    "dict(type='Adam', lr=0.01, betas=(0.0, 0.5), eps=0.0)",
    "AdamW",
    "dict(type='AdamW', lr=0.01, weight_decay=0.0)",
    "dict(type='AdamW', lr=0.01, weight_decay=0.3, amsgrad=True)",
    "dict(type='AdamW', lr=0.01, betas=(0.5, 0.9), eps=1e-3, maximize=True)",
    "AdamWScheduleFree",
    "dict(type='AdamWScheduleFree', lr=0.01, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1, warmup_steps=3, r=1.0)",
    "dict(type='AdamWScheduleFree', lr=0.01, weight_lr_power=1.0, k=2, weight_sum=0.5, lr_max=0.02)",
    "Lion",
    "dict(type='Lion', lr=0.01, betas=(0.95, 0.98), weight_decay=0.1)",
    "dict(type='Lion', lr=0.01, weight_decay=0.1, decoupled_weight_decay=True)",
    "Adafactor",
    "dict(type='Adafactor', lr=0.01, relative_step=False, beta1=0.9, weight_decay=0.1)",
    "dict(type='Adafactor', eps=(1e-8, 1e-2), clip_threshold=0.5, decay_rate=-0.5, scale_parameter=False, \
     warmup_init=True)",
    "TorchAdafactor",
    "dict(type='TorchAdafactor', beta2_decay=-0.5, eps=(1e-8, 1e-2), d=2.0)",
    "dict(type='TorchAdafactor', lr=0.1, weight_decay=0.3, maximize=True)",
    "LAMB",
    "dict(type='LAMB', lr=0.01, eps=1e-3, weight_decay=0.1, max_unorm=0.1)",
    "dict(type='LAMB', lr=0.01, betas=(0.5, 0.9), max_unorm=0.3, bias_corrected_unorm=True)",
    "dict(type='LAMB32bit', lr=0.01, eps=1e-4, max_unorm=0.0)",
    "dict(type='LAMB32bit', lr=0.01, betas=(0.5, 0.9), weight_decay=0.1, bias_corrected_unorm=True)",
    "LARS",
    "dict(type='LARS', lr=0.1, momentum=0.5, weight_decay=0.01, max_unorm=0.3)",
    "dict(type='LARS32bit', lr=0.1, max_unorm=0.0)",
    "dict(type='LARS32bit', lr=0.1, momentum=0.5, weight_decay=0.1)",
    "PytorchLARS",
    "dict(type='PytorchLARS', lr=0.1, weight_decay=0.01)",
    "dict(type='PytorchLARS', lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.01)",
    "dict(type='PytorchLARS', lr=0.1, momentum=0.9, nesterov=True, max_unorm=0.5)",
    "FusedLamb",
    "dict(type='FusedLamb', lr=0.01, weight_decay=0.1, max_coeff=0.5, bias_correction=False)",
    "dict(type='FusedLamb', lr=0.01, eps_inside_sqrt=True, max_grad_norm=0.5)",
    "dict(type='FusedLamb', lr=0.01, betas=(0.5, 0.9), eps=1e-3, min_coeff=0.3)",
    "DAdaptAdam",
    "dict(type='DAdaptAdam', lr=0.5, weight_decay=0.1, d0=1e-3, growth_rate=1.5)",
    "dict(type='DAdaptAdam', weight_decay=0.1, decouple=True, use_bias_correction=True, d0=1e-3)",
    "dict(type='DAdaptAdam', betas=(0.5, 0.9), eps=1e-3, layer_scale=0.5, d0=1e-3)",
    "DAdaptSGD",
    "dict(type='DAdaptSGD', lr=0.5, momentum=0.9, weight_decay=0.1, d0=1e-3, growth_rate=1.5)",
    "DAdaptAdaGrad",
    "dict(type='DAdaptAdaGrad', lr=0.5, momentum=0.5, weight_decay=0.1, eps=1e-3, d0=1e-3, growth_rate=1.5)",
    "Prodigy",
    "dict(type='Prodigy', lr=0.5, weight_decay=0.1, d0=1e-3, growth_rate=1.5, beta3=0.5, d_coef=2.0)",
    "dict(type='Prodigy', weight_decay=0.1, decouple=False, use_bias_correction=True, safeguard_warmup=True, d0=1e-3)",
    "dict(type='Prodigy', betas=(0.0, 0.9), weight_decay=0.1, eps=1e-3, d0=1e-3)",
    "dict(type='Prodigy', betas=(0.5, 0.9), d0=1e-3, slice_p=3)",
    "dict(type='Prodigy', betas=(0.0, 0.9), weight_decay=0.1, decouple=False, d0=1e-3, slice_p=11)",
    "Adagrad",
    "dict(type='Adagrad', lr=0.1, lr_decay=0.3, initial_accumulator_value=0.5, weight_decay=0.1)",
    "dict(type='Adagrad', lr=0.1, eps=0.0, maximize=True)",
    "Adadelta",
    "dict(type='Adadelta', lr=0.5, rho=0.5, eps=0.0, weight_decay=0.1, maximize=True)",
    "RMSprop",
    "dict(type='RMSprop', lr=0.01, alpha=0.7, eps=0.0, weight_decay=0.1)",
    "dict(type='RMSprop', lr=0.1, momentum=0.9)",
    "dict(type='RMSprop', lr=0.01, centered=True, maximize=True)",
    "dict(type='RMSprop', lr=0.01, alpha=0.7, centered=True, momentum=0.5, weight_decay=0.1)",
    "RAdam",
    "dict(type='RAdam', lr=0.01, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1, decoupled_weight_decay=True)",
    "dict(type='RAdam', lr=0.01, betas=(0.0, 0.5), weight_decay=0.1, maximize=True)",
    "NAdam",
    "dict(type='NAdam', lr=0.01, betas=(0.5, 0.9), weight_decay=0.1, decoupled_weight_decay=True)",
    "dict(type='NAdam', lr=0.01, momentum_decay=0.0, eps=0.0, weight_decay=0.1, maximize=True)",
    "Adamax",
    "dict(type='Adamax', lr=0.01, betas=(0.0, 0.5), eps=0.0, weight_decay=0.1, maximize=True)",
    "ASGD",
    "dict(type='ASGD', lr=0.1, lambd=0.0, t0=1.0)",
    "dict(type='ASGD', lr=0.1, lambd=0.1, alpha=0.5, t0=0.0, weight_decay=0.1, maximize=True)",
    "Rprop",
    "dict(type='Rprop', lr=0.1, etas=(0.3, 2.0), step_sizes=(0.01, 0.2), maximize=True)",
    "SophiaG",
    "dict(type='SophiaG', lr=0.01, betas=(0.5, 0.9), maximize=True)",
    "dict(type='SophiaG', lr=0.01, rho=0.0, weight_decay=0.0, bs=1.0)",
    "FusedAdam",
    "dict(type='FusedAdam', lr=0.01, betas=(0.5, 0.9), weight_decay=0.1)",
    "dict(type='FusedAdam', lr=0.01, bias_correction=False, adam_w_mode=False, weight_decay=0.1, eps=0.0)",
    "DeepSpeedCPUAdam",
    "dict(type='DeepSpeedCPUAdam', lr=0.01, betas=(0.5, 0.9), weight_decay=0.1)",
    "dict(type='DeepSpeedCPUAdam', lr=0.01, bias_correction=False, adamw_mode=False, weight_decay=0.1, eps=0.0)",
    "bnb_Adam",
    "dict(type='bnb_Adam', lr=0.01, betas=(0.0, 0.5), eps=0.0, weight_decay=0.1)",
    "bnb_AdamW",
    "dict(type='bnb_AdamW', lr=0.01, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1)",
    "Adam32bit",
    "dict(type='Adam32bit', lr=0.01, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1)",
    "AdamW32bit",
    "dict(type='AdamW32bit', lr=0.01, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1)",
    "bnb_Adagrad",
    "dict(type='bnb_Adagrad', lr=0.1, eps=0.0, weight_decay=0.1)",
    "Adagrad32bit",
    "dict(type='Adagrad32bit', lr=0.1, eps=1e-3, weight_decay=0.1)",
    "bnb_Lion",
    "dict(type='bnb_Lion', lr=0.01, betas=(0.95, 0.98), weight_decay=0.1)",
    "Lion32bit",
    "dict(type='Lion32bit', lr=0.01, betas=(0.95, 0.98), weight_decay=0.1)",
    "bnb_RMSprop",
    "dict(type='bnb_RMSprop', lr=0.1, alpha=0.5, eps=0.0, weight_decay=0.1)",
    "RMSprop32bit",
    "dict(type='RMSprop32bit', lr=0.1, alpha=0.5, eps=1e-3, weight_decay=0.1)",
    "bnb_SGD",
    "dict(type='bnb_SGD', lr=0.1, momentum=0.5, weight_decay=0.1)",
    "SGD32bit",
    "dict(type='SGD32bit', lr=0.1, momentum=0.5, weight_decay=0.1)",
    "AdEMAMix",
    "dict(type='AdEMAMix', lr=0.01, alpha=2.0, t_alpha=3, t_beta3=4, weight_decay=0.0)",
    "dict(type='AdEMAMix', lr=0.01, betas=(0.0, 0.5, 0.9), eps=0.0)",
    "AdEMAMix32bit",
    "dict(type='AdEMAMix32bit', lr=0.01, betas=(0.5, 0.8, 0.9), alpha=2.0, t_alpha=3, t_beta3=4, eps=1e-3, \
     weight_decay=0.1)",
    "OnebitAdam",
    "dict(type='OnebitAdam', lr=0.01, freeze_step=3, betas=(0.5, 0.9), eps=0.1, weight_decay=0.1)",
    "dict(type='OnebitAdam', lr=0.01, freeze_step=2, non_freeze=True)",
    "OnebitLamb",
    "dict(type='OnebitLamb', lr=0.01, freeze_step=3, betas=(0.5, 0.9), eps=0.1, weight_decay=0.1, coeff_beta=0.5)",
    "dict(type='OnebitLamb', lr=0.01, freeze_step=2, max_coeff=0.5, min_coeff=0.1, factor_max=1.1, factor_min=0.9, \
     factor_threshold=0.05)",
    "ZeroOneAdam",
    "dict(type='ZeroOneAdam', lr=0.01, var_update_scaler=1, var_freeze_step=3, eps=0.1, weight_decay=0.1)",
    "dict(type='ZeroOneAdam', lr=0.01, betas=(0.5, 0.9), var_freeze_step=1, local_step_scaler=1, local_step_clipper=2)",
    "dict(type='Adam8bit', lr=0.1, min_8bit_size=500)",
    "dict(type='AdamW8bit', lr=0.1, min_8bit_size=500)",
    "dict(type='PagedAdam', lr=0.1)",
    "dict(type='PagedAdam8bit', lr=0.1, min_8bit_size=500)",
    "dict(type='PagedAdam32bit', lr=0.1)",
    "dict(type='PagedAdamW', lr=0.1)",
    "dict(type='PagedAdamW8bit', lr=0.1, min_8bit_size=500)",
    "dict(type='PagedAdamW32bit', lr=0.1)",
    "dict(type='Adagrad8bit', lr=0.1, min_8bit_size=500)",
    "dict(type='Lion8bit', lr=0.1, min_8bit_size=500)",
    "dict(type='PagedLion', lr=0.1)",
    "dict(type='PagedLion8bit', lr=0.1, min_8bit_size=500)",
    "dict(type='PagedLion32bit', lr=0.1)",
    "dict(type='RMSprop8bit', lr=0.1, min_8bit_size=500)",
    "dict(type='SGD8bit', lr=0.1, min_8bit_size=500)",
    "dict(type='AdEMAMix8bit', lr=0.1, min_8bit_size=500)",
    "dict(type='PagedAdEMAMix', lr=0.1)",
    "dict(type='PagedAdEMAMix8bit', lr=0.1, min_8bit_size=500)",
    "dict(type='PagedAdEMAMix32bit', lr=0.1)",
    "dict(type='LAMB8bit', lr=0.1, min_8bit_size=500)",
    "dict(type='LARS8bit', lr=0.1, min_8bit_size=500)",
    "dict(type='LAMB8bit', lr=0.01, min_8bit_size=0, quantised_trust_ratio=True)",
    "dict(type='LARS8bit', lr=0.1, min_8bit_size=0, quantised_trust_ratio=True)",
    "dict(type='AdamW', lr=0.01, state_format='q4')",
    "dict(type='Adam', lr=0.01, amsgrad=True, state_format={'m': 'bf16', 'v': 'q8', 'v_max': 'fp8'})",
    "dict(type='RMSprop', lr=0.01, momentum=0.9, state_format='q8_linear')",
    "dict(type='bnb_Adam', lr=0.1, optim_bits=8, min_8bit_size=500, is_paged=True)",
    "dict(type='bnb_AdamW', lr=0.1, optim_bits=8, min_8bit_size=500, is_paged=True)",
    "dict(type='bnb_Lion', lr=0.1, optim_bits=8, min_8bit_size=500, is_paged=True)",
    "dict(type='bnb_Adagrad', lr=0.1, optim_bits=8, min_8bit_size=500)",
    "dict(type='bnb_RMSprop', lr=0.1, optim_bits=8, min_8bit_size=500)",
    "dict(type='bnb_SGD', lr=0.1, optim_bits=8, min_8bit_size=500)",
    "dict(type='AdEMAMix', lr=0.01, optim_bits=8, min_8bit_size=500, is_paged=True)",
    "dict(type='Adam32bit', lr=0.1, is_paged=True)",
    "dict(type='AdamW32bit', lr=0.1, is_paged=True)",
    "dict(type='Lion32bit', lr=0.1, is_paged=True)",
    "dict(type='AdEMAMix32bit', lr=0.01, is_paged=True)",
    "dict(type='LAMB', lr=0.01, optim_bits=8, min_8bit_size=500, quantised_trust_ratio=True)",
    "dict(type='LARS', lr=0.1, optim_bits=8, min_8bit_size=500, quantised_trust_ratio=True)",
    "dict(type='Adam8bit', lr=0.01, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1, is_paged=True)",
    "dict(type='AdamW8bit', lr=0.01, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1, is_paged=True)",
    "dict(type='PagedAdam8bit', lr=0.01, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1)",
    "dict(type='PagedAdamW8bit', lr=0.01, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1)",
    "dict(type='PagedAdam', lr=0.01, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1, optim_bits=8, min_8bit_size=500)",
    "dict(type='PagedAdamW', lr=0.01, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1, optim_bits=8, min_8bit_size=500)",
    "dict(type='PagedAdam32bit', lr=0.01, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1)",
    "dict(type='PagedAdamW32bit', lr=0.01, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1)",
    "dict(type='Lion8bit', lr=0.01, betas=(0.95, 0.98), weight_decay=0.1, is_paged=True)",
    "dict(type='PagedLion8bit', lr=0.01, betas=(0.95, 0.98), weight_decay=0.1)",
    "dict(type='PagedLion', lr=0.01, betas=(0.95, 0.98), weight_decay=0.1, optim_bits=8, min_8bit_size=500)",
    "dict(type='PagedLion32bit', lr=0.01, betas=(0.95, 0.98), weight_decay=0.1)",
    "dict(type='Adagrad8bit', lr=0.1, eps=1e-3, weight_decay=0.1)",
    "dict(type='RMSprop8bit', lr=0.1, alpha=0.5, eps=1e-3, weight_decay=0.1)",
    "dict(type='SGD8bit', lr=0.1, momentum=0.5, weight_decay=0.1)",
    "dict(type='AdEMAMix8bit', lr=0.01, betas=(0.5, 0.8, 0.9), alpha=2.0, t_alpha=3, t_beta3=4, eps=1e-3, weight_decay=0.1, is_paged=True)",
    "dict(type='PagedAdEMAMix8bit', lr=0.01, betas=(0.5, 0.8, 0.9), alpha=2.0, t_alpha=3, t_beta3=4, eps=1e-3, weight_decay=0.1)",
    "dict(type='PagedAdEMAMix', lr=0.01, betas=(0.5, 0.8, 0.9), alpha=2.0, t_alpha=3, t_beta3=4, eps=1e-3, weight_decay=0.1, optim_bits=8, min_8bit_size=500)",
    "dict(type='PagedAdEMAMix32bit', lr=0.01, betas=(0.5, 0.8, 0.9), alpha=2.0, t_alpha=3, t_beta3=4, eps=1e-3, weight_decay=0.1)",
    "dict(type='LAMB8bit', lr=0.01, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1, max_unorm=0.3, bias_corrected_unorm=True)",
    "dict(type='LARS8bit', lr=0.1, momentum=0.5, weight_decay=0.1, max_unorm=0.3)",
];

/// Algorithms with modifiers around them: of one pass and of several, with decays on either side, states in 8 bits.
pub const MODIFIED: &[&str] = &[
    "dict(type='AdamW', lr=0.01, weight_decay=0.1, cautious=True)",
    "dict(type='Adam', lr=0.01, amsgrad=True, weight_decay=0.1, maximize=True, cautious=True)",
    "dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01, cautious=True)",
    "dict(type='SGD', lr=0.1, cautious=True)",
    "dict(type='Lion', lr=0.01, weight_decay=0.1, cautious=True)",
    "dict(type='LAMB', lr=0.01, weight_decay=0.1, max_unorm=0.1, cautious=True)",
    "dict(type='RMSprop', lr=0.1, alpha=0.7, centered=True, momentum=0.5, cautious=True)",
    "dict(type='AdamW8bit', lr=0.1, min_8bit_size=500, weight_decay=0.1, cautious=True)",
    "dict(type='TorchAdafactor', lr=0.1, weight_decay=0.3, cautious=True)",
    "dict(type='AdamW', lr=0.01, weight_decay=0.1, wrap=dict(type='Lookahead', k=2, alpha=0.3))",
    "dict(type='SGD', lr=0.1, wrap=dict(type='Lookahead', k=1, alpha=0.8))",
    "dict(type='TorchAdafactor', lr=0.1, weight_decay=0.3, wrap=dict(type='Lookahead', k=2))",
    "dict(type='Lion8bit', lr=0.1, min_8bit_size=500, wrap=dict(type='Lookahead', k=2))",
    "dict(type='OnebitAdam', lr=0.1, freeze_step=3, weight_decay=0.1, wrap=dict(type='Lookahead', k=2))",
    "dict(type='Adam', lr=0.01, weight_decay=0.1, cautious=True, wrap=dict(type='Lookahead', k=2, alpha=0.5))",
    "dict(type='Prodigy', weight_decay=0.1, decouple=False, d0=1e-3, cautious=True)",
    "dict(type='Prodigy', betas=(0.5, 0.9), weight_decay=0.1, d0=1e-3, slice_p=3, cautious=True)",
    "dict(type='LARS', lr=0.1, momentum=0.5, weight_decay=0.1, max_unorm=0.3, cautious=True)",
    "dict(type='LARS8bit', lr=0.1, momentum=0.5, min_8bit_size=500, weight_decay=0.1, quantised_trust_ratio=True, cautious=True)",
    "dict(type='DAdaptAdam', weight_decay=0.1, d0=1e-3, cautious=True)",
    "dict(type='ASGD', lr=0.1, lambd=0.1, t0=1.0, weight_decay=0.1, maximize=True, cautious=True)",
];

/// One case for each name of the registry, with as many states as it can have.
pub const ONE_EACH: &[&str] = &[
    "dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.01)",
    "dict(type='Adam', lr=0.01, amsgrad=True, weight_decay=0.1)",
    "dict(type='AdamW', lr=0.01, weight_decay=0.3, amsgrad=True)",
    "dict(type='AdamWScheduleFree', lr=0.1, weight_decay=0.1)",
    "dict(type='Lion', lr=0.01, weight_decay=0.1)",
    "dict(type='Adafactor', lr=0.01, relative_step=False, beta1=0.9, weight_decay=0.1)",
    "dict(type='TorchAdafactor', lr=0.1, weight_decay=0.3)",
    "dict(type='LAMB', lr=0.01, weight_decay=0.1, max_unorm=0.1)",
    "dict(type='LAMB32bit', lr=0.01)",
    "dict(type='LARS', lr=0.1, weight_decay=0.01, max_unorm=0.3)",
    "dict(type='LARS32bit', lr=0.1)",
    "dict(type='PytorchLARS', lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)",
    "dict(type='FusedLamb', lr=0.01, weight_decay=0.1, max_grad_norm=0.5)",
    "dict(type='DAdaptAdam', weight_decay=0.1, d0=1e-3)",
    "dict(type='Prodigy', weight_decay=0.1, d0=1e-3)",
    "dict(type='DAdaptSGD', momentum=0.9, weight_decay=0.1, d0=1e-3)",
    "dict(type='DAdaptAdaGrad', momentum=0.5, weight_decay=0.1, d0=1e-3)",
    "dict(type='Adagrad', lr=0.1, weight_decay=0.1)",
    "dict(type='Adadelta', lr=10.0, eps=0.01, weight_decay=0.1)",
    "dict(type='RMSprop', lr=0.1, alpha=0.7, centered=True, momentum=0.5)",
    "dict(type='RAdam', lr=0.1, weight_decay=0.1)",
    "dict(type='NAdam', lr=0.1)",
    "dict(type='Adamax', lr=0.1)",
    "dict(type='ASGD', lr=0.1, lambd=0.1, t0=0.0)",
    "dict(type='Rprop', lr=0.1)",
    "dict(type='SophiaG', lr=0.1)",
    "dict(type='FusedAdam', lr=0.1, weight_decay=0.1)",
    "dict(type='DeepSpeedCPUAdam', lr=0.1, weight_decay=0.1)",
    "dict(type='bnb_Adam', lr=0.1)",
    "dict(type='bnb_AdamW', lr=0.1)",
    "dict(type='Adam32bit', lr=0.1)",
    "dict(type='AdamW32bit', lr=0.1)",
    "dict(type='bnb_Adagrad', lr=0.1, weight_decay=0.1)",
    "dict(type='Adagrad32bit', lr=0.1, weight_decay=0.1)",
    "dict(type='bnb_Lion', lr=0.1)",
    "dict(type='Lion32bit', lr=0.1)",
    "dict(type='bnb_RMSprop', lr=0.1, weight_decay=0.1)",
    "dict(type='RMSprop32bit', lr=0.1, weight_decay=0.1)",
    "dict(type='bnb_SGD', lr=0.1)",
    "dict(type='SGD32bit', lr=0.1)",
    "dict(type='AdEMAMix', lr=0.1)",
    "dict(type='AdEMAMix32bit', lr=0.1)",
    "dict(type='OnebitAdam', lr=0.1, freeze_step=3, weight_decay=0.1)",
    "dict(type='OnebitLamb', lr=0.1, freeze_step=3, weight_decay=0.1)",
    "dict(type='ZeroOneAdam', lr=0.1, var_freeze_step=3, weight_decay=0.1)",
    "dict(type='Adam8bit', lr=0.1, min_8bit_size=500)",
    "dict(type='AdamW8bit', lr=0.1, min_8bit_size=500)",
    "dict(type='PagedAdam', lr=0.1)",
    "dict(type='PagedAdam8bit', lr=0.1, min_8bit_size=500)",
    "dict(type='PagedAdam32bit', lr=0.1)",
    "dict(type='PagedAdamW', lr=0.1)",
    "dict(type='PagedAdamW8bit', lr=0.1, min_8bit_size=500)",
    "dict(type='PagedAdamW32bit', lr=0.1)",
    "dict(type='Adagrad8bit', lr=0.1, min_8bit_size=500)",
    "dict(type='Lion8bit', lr=0.1, min_8bit_size=500)",
    "dict(type='PagedLion', lr=0.1)",
    "dict(type='PagedLion8bit', lr=0.1, min_8bit_size=500)",
    "dict(type='PagedLion32bit', lr=0.1)",
    "dict(type='RMSprop8bit', lr=0.1, min_8bit_size=500)",
    "dict(type='SGD8bit', lr=0.1, min_8bit_size=500)",
    "dict(type='AdEMAMix8bit', lr=0.1, min_8bit_size=500)",
    "dict(type='PagedAdEMAMix', lr=0.1)",
    "dict(type='PagedAdEMAMix8bit', lr=0.1, min_8bit_size=500)",
    "dict(type='PagedAdEMAMix32bit', lr=0.1)",
    "dict(type='LAMB8bit', lr=0.1, min_8bit_size=500)",
    "dict(type='LARS8bit', lr=0.1, min_8bit_size=500)",
];

/// Names whose step on a parameter looks at more than one element of it, with the reason.
pub const WHOLE_TENSORS: &[(&str, &str)] = &[
    ("Adafactor", "the root mean squares of a tensor and of its update"),
    ("TorchAdafactor", "the root mean squares of a tensor and of its update"),
    ("LAMB", "norms of each tensor"),
    ("LAMB32bit", "norms of each tensor"),
    ("LAMB8bit", "blocks of a tensor"),
    ("LARS8bit", "blocks of a tensor"),
    ("Adam8bit", "blocks of a tensor"),
    ("AdamW8bit", "blocks of a tensor"),
    ("Adagrad8bit", "blocks of a tensor"),
    ("Lion8bit", "blocks of a tensor"),
    ("RMSprop8bit", "blocks of a tensor"),
    ("SGD8bit", "blocks of a tensor"),
    ("AdEMAMix8bit", "blocks of a tensor"),
    ("PagedAdam8bit", "blocks of a tensor"),
    ("PagedAdamW8bit", "blocks of a tensor"),
    ("PagedLion8bit", "blocks of a tensor"),
    ("PagedAdEMAMix8bit", "blocks of a tensor"),
    ("LARS", "norms of each tensor"),
    ("LARS32bit", "norms of each tensor"),
    ("PytorchLARS", "norms of each tensor"),
    ("FusedLamb", "norms of each tensor, and of the group's gradients"),
    ("DAdaptAdam", "one estimate for all tensors"),
    ("Prodigy", "one estimate for all tensors"),
    ("DAdaptSGD", "one estimate for all tensors"),
    ("DAdaptAdaGrad", "one estimate for all tensors"),
    ("OnebitLamb", "norms of each tensor"),
];

/// Names whose step on a parameter depends on the others that step with it, with the reason.
pub const ALL_TOGETHER: &[(&str, &str)] = &[
    ("FusedLamb", "the norm of the group's gradients, with max_grad_norm"),
    ("DAdaptAdam", "one estimate for all tensors"),
    ("Prodigy", "one estimate for all tensors"),
    ("DAdaptSGD", "one estimate for all tensors"),
    ("DAdaptAdaGrad", "one estimate for all tensors"),
    ("OnebitAdam", "one phase for all tensors"),
    ("OnebitLamb", "one phase for all tensors"),
    ("ZeroOneAdam", "one phase for all tensors"),
];

/// Names that the suites over flat tensors cannot step, with where they are tested.
pub const ELSEWHERE: &[(&str, &str)] = &[
    ("LBFGS", "evaluates an objective: tests/objectives.rs, cli/tests/searches.rs"),
    ("Muon", "takes matrices: tests/golden.rs, tests/muon.rs, tests/references.rs"),
    ("NorMuon", "takes matrices: tests/golden.rs, tests/muon.rs"),
    ("SparseAdam", "takes row-sparse gradients: tests/sparse.rs"),
    ("ZeroRedundancyOptimizer", "has the rules of the algorithm that it names: optim/tests/ranks"),
];

/// Whether a configuration's name is in a table of exceptions.
pub fn is_in(table: &[(&str, &str)], text: &str) -> bool {
    table.iter().any(|(name, _)| *name == name_of(text))
}

/// Whether a configuration keeps states in blocks, whose elements share a scale.
pub fn in_blocks(text: &str) -> bool {
    let recipe = recipe(text);
    let programs = recipe.algorithm().programs();
    let mut states = programs.flat_map(|program| program.operands(Role::State));
    states.any(|state| recipe.state_format(state, 1 << 20).block().is_some())
}

/// Fails when a name of the registry is in none of the cases.
pub fn every_name_is_in(cases: &[&str]) {
    for entry in ENTRIES.iter().filter(|entry| ELSEWHERE.iter().all(|(name, _)| *name != entry.name)) {
        assert!(cases.iter().any(|text| name_of(text) == entry.name), "no case is of {}", entry.name);
    }
}

/// The algorithm's name in a configuration.
pub fn name_of(text: &str) -> &'static str {
    method(text).name()
}

/// A configuration that must be good.
pub fn recipe(text: &str) -> Recipe {
    Recipe::from_text(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// What a configuration's name stands for, which must be a good one.
pub fn method(text: &str) -> Method {
    AnyRecipe::from_text(text).unwrap_or_else(|error| panic!("{text}: {error}")).method()
}

/// The instruction sets of this machine. Those that it lacks are passed over: there is nothing to run them on.
pub fn isas() -> Vec<Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.available()).collect()
}

/// A CPU backend.
pub fn cpu(isa: Isa, threads: usize) -> Arc<dyn Backend> {
    Cpu::with_isa(isa, threads).expect("an instruction set of this machine").shared()
}

/// The backend of the suites: the best instruction set on the calling thread, or, where `tests/on_cuda.rs` runs them
/// again, a CUDA device: emulated, or real with `FALLLINE_TEST_GPU=1`.
pub fn best() -> Arc<dyn Backend> {
    if env!("CARGO_CRATE_NAME") == "on_cuda" { cuda() } else { cpu(Isa::best(), 1) }
}

/// Every backend that must agree: the instruction sets of this machine, or the CUDA device.
pub fn backends() -> Vec<Arc<dyn Backend>> {
    if env!("CARGO_CRATE_NAME") == "on_cuda" {
        return vec![cuda()];
    }
    isas().into_iter().map(|isa| cpu(isa, 1)).collect()
}

/// Whether the CUDA device is to be a real one: `FALLLINE_TEST_GPU=1`.
pub fn on_gpu() -> bool {
    std::env::var_os("FALLLINE_TEST_GPU").is_some_and(|wish| wish == "1")
}

/// The CUDA device of this process.
pub fn cuda() -> Arc<dyn Backend> {
    static DEVICE: OnceLock<Arc<dyn Backend>> = OnceLock::new();
    let open = || {
        if !on_gpu() {
            fallline_emulator::install().expect("the emulator");
        }
        fallline_cuda::Cuda::new(0).expect("a CUDA device").shared()
    };
    Arc::clone(DEVICE.get_or_init(open))
}

/// An optimizer on the calling thread.
pub fn build(text: &str) -> Driver {
    build_on(best(), text)
}

/// An optimizer for tensors of any formats: what looks at all parameters together computes them in one type.
pub fn build_on(backend: Arc<dyn Backend>, text: &str) -> Driver {
    let optimizer = recipe(text).optimizer(backend);
    if is_in(ALL_TOGETHER, text) { optimizer.with_compute(Compute::F32) } else { optimizer }
}

/// An optimizer that evaluates the loss itself, on the calling thread.
pub fn search(text: &str) -> LineSearch {
    match AnyRecipe::from_text(text) {
        Ok(AnyRecipe::Search(recipe)) => recipe.optimizer(best()),
        other => panic!("{text} is no search: {other:?}"),
    }
}

/// Splitmix64: enough randomness for tests, the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// Uniform in [-1, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    /// Uniform numbers in [-1, 1).
    pub fn units(&mut self, count: usize) -> Vec<f64> {
        (0..count).map(|_| self.unit()).collect()
    }

    /// Any number: mostly plain ones, and all the special ones of every format.
    pub fn wild(&mut self) -> f64 {
        const SPECIAL: [f64; 18] = [
            0.0,
            -0.0,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::MAX,
            f64::MIN,
            f64::MIN_POSITIVE,
            5e-324,
            f32::MAX as f64,
            f32::MIN as f64,
            f32::MIN_POSITIVE as f64,
            1.4e-45,
            -1e-40,
            65504.0,
            6e-8,
            -3e-6,
            1e19, // its square is out of range in f32
        ];
        match self.below(4) {
            0 => SPECIAL[self.below(SPECIAL.len())],
            1 => self.unit() * f64::from(self.below(80) as i32 - 40).exp2(),
            _ => self.unit(),
        }
    }

    pub fn wilds(&mut self, count: usize) -> Vec<f64> {
        (0..count).map(|_| self.wild()).collect()
    }
}

/// A vector of any element type.
#[derive(Clone, Debug)]
pub enum Buffer {
    F64(Vec<f64>),
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    F16(Vec<f16>),
}

macro_rules! each {
    ($buffer:expr, $vector:ident => $result:expr) => {
        match $buffer {
            Buffer::F64($vector) => $result,
            Buffer::F32($vector) => $result,
            Buffer::Bf16($vector) => $result,
            Buffer::F16($vector) => $result,
        }
    };
}

impl Buffer {
    /// The type of its elements.
    pub fn format(&self) -> Format {
        match self {
            Buffer::F64(_) => Format::F64,
            Buffer::F32(_) => Format::F32,
            Buffer::Bf16(_) => Format::Bf16,
            Buffer::F16(_) => Format::F16,
        }
    }

    /// The numbers, rounded to a format.
    pub fn new(format: Format, values: &[f64]) -> Buffer {
        fn rounded<T: Element>(values: &[f64]) -> Vec<T> {
            values.iter().map(|&x| T::from_f64(x)).collect()
        }
        match format {
            Format::F64 => Buffer::F64(rounded(values)),
            Format::F32 => Buffer::F32(rounded(values)),
            Format::Bf16 => Buffer::Bf16(rounded(values)),
            Format::F16 => Buffer::F16(rounded(values)),
            other => panic!("no buffer of {other}"),
        }
    }

    /// The numbers, exactly.
    pub fn values(&self) -> Vec<f64> {
        each!(self, vector => vector.iter().map(|x| x.to_f64()).collect())
    }

    /// The numbers' bits as `f64`, with every NaN the same.
    pub fn bits(&self) -> Vec<u64> {
        bits(&self.values())
    }

    /// The elements from a place on, for a parameter.
    pub fn param_from(&mut self, start: usize) -> ParamRef<'_> {
        each!(self, vector => (&mut vector[start..]).into())
    }

    /// The elements from a place on, for a gradient.
    pub fn grad_from(&self, start: usize) -> GradRef<'_> {
        each!(self, vector => (&vector[start..]).into())
    }
}

/// The bits of numbers, with every NaN the same.
pub fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|x| if x.is_nan() { f64::NAN.to_bits() } else { x.to_bits() }).collect()
}

/// A parameter of a test: name, values, and the gradient of each step (none: not given).
#[derive(Clone, Debug)]
pub struct Tensor {
    pub name: String,
    pub value: Buffer,
    pub grads: Vec<Option<Buffer>>,
    /// Elements in front of the ones that are meant, so that the slices are not aligned; behind them none.
    pub offset: usize,
    /// Its extents, where it is not flat.
    pub shape: Option<Vec<usize>>,
}

impl Tensor {
    /// Of these numbers, aligned as they come.
    pub fn new(name: impl Into<String>, value: Buffer, grads: Vec<Option<Buffer>>) -> Tensor {
        Tensor { name: name.into(), value, grads, offset: 0, shape: None }
    }

    /// A parameter of `f32` with a gradient at each step, numbers in [-1, 1).
    pub fn plain(name: &str, elements: usize, steps: usize, random: &mut Random) -> Tensor {
        let mut draw = || Buffer::new(Format::F32, &random.units(elements));
        Tensor::new(name, draw(), (0..steps).map(|_| Some(draw())).collect())
    }
}

/// Bindings of step `t`.
pub fn bind(tensors: &mut [Tensor], t: usize) -> Vec<Binding<'_>> {
    let mut bindings = Vec::new();
    for Tensor { name, value, grads, offset, shape } in tensors {
        let binding = match &grads[t] {
            Some(grad) => param(name, value.param_from(*offset), grad.grad_from(*offset)),
            None => frozen(name, value.param_from(*offset)),
        };
        bindings.push(match shape {
            Some(shape) => binding.shaped(shape),
            None => binding,
        });
    }
    bindings
}

/// Takes the steps in `range`.
pub fn run(optimizer: &mut Driver, tensors: &mut [Tensor], range: core::ops::Range<usize>) {
    for t in range {
        optimizer.step(&mut bind(tensors, t)).expect("a good step");
    }
}

/// What a run leaves behind of a parameter, comparable: its name, bits, steps, and states' bits.
pub type Left = (String, Vec<u64>, u64, Vec<(&'static str, Vec<u64>)>);

/// All that a run leaves behind.
pub type Outcome = Vec<Left>;

/// What is there now. A parameter that the optimizer has not seen has 0 steps and no states.
pub fn outcome(optimizer: &Driver, tensors: &[Tensor]) -> Outcome {
    let known = optimizer.params();
    let mut outcome: Outcome = tensors
        .iter()
        .map(|tensor| {
            let (steps, names) = known
                .iter()
                .find(|param| param.name == tensor.name)
                .map_or((0, Vec::new()), |param| (param.steps, param.states.clone()));
            let state = |state| bits(&optimizer.state(&tensor.name, state).unwrap().unwrap());
            let states = names.into_iter().map(|name| (name, state(name))).collect();
            (tensor.name.clone(), tensor.value.bits(), steps, states)
        })
        .collect();
    outcome.sort();
    outcome
}

/// Where two outcomes differ first, for people.
pub fn first_difference(expected: &Outcome, got: &Outcome) -> String {
    for (a, b) in expected.iter().zip(got) {
        let lists = [("param", &a.1, &b.1)].into_iter();
        for (what, x, y) in lists.chain(a.3.iter().zip(&b.3).map(|(x, y)| (x.0, &x.1, &y.1))) {
            if let Some(i) = (0..x.len().min(y.len())).find(|&i| x[i] != y[i]) {
                let (x, y) = (f64::from_bits(x[i]), f64::from_bits(y[i]));
                return format!("{} {what}[{i}]: expected {x:e}, got {y:e}", a.0);
            }
        }
    }
    "other steps, states or lengths".into()
}

/// A fresh optimizer over all steps.
pub fn outcome_of(mut optimizer: Driver, tensors: &[Tensor]) -> Outcome {
    let mut tensors = tensors.to_vec();
    let steps = tensors.first().map_or(0, |tensor| tensor.grads.len());
    run(&mut optimizer, &mut tensors, 0..steps);
    outcome(&optimizer, &tensors)
}

/// A checkpoint's bytes with its header (JSON) and data changed.
pub fn edited(
    checkpoint: &Checkpoint,
    edit: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>, &mut Vec<u8>),
) -> Vec<u8> {
    let bytes = checkpoint.to_bytes().expect("a good checkpoint");
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let mut data = bytes[8 + length..].to_vec();
    edit(&mut header, &mut data);
    let header = serde_json::to_vec(&header).unwrap();
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

/// The bytes of an entry, to change.
pub fn entry_bytes<'d>(
    header: &serde_json::Map<String, serde_json::Value>,
    data: &'d mut [u8],
    key: &str,
) -> &'d mut [u8] {
    let offsets = &header[key]["data_offsets"];
    let place = |i: usize| offsets[i].as_u64().unwrap() as usize;
    &mut data[place(0)..place(1)]
}

/// The manifest, changed.
pub fn edit_manifest(
    header: &mut serde_json::Map<String, serde_json::Value>,
    edit: impl FnOnce(&mut serde_json::Value),
) {
    let text = header["__metadata__"]["fallline"].as_str().unwrap();
    let mut manifest = serde_json::from_str(text).unwrap();
    edit(&mut manifest);
    header["__metadata__"]["fallline"] = manifest.to_string().into();
}

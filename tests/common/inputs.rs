//! What each name of the registry takes and refuses, and what of the conformance suite it cannot do: as torch's
//! `OptimizerInfo` has it. The suite is `tests/conformance.rs`, the good inputs of flat tensors are
//! [`CASES`](super::CASES).

use super::{CASES, name_of};

/// A name of the registry.
pub struct Inputs {
    pub name: &'static str,
    /// Arguments that are refused, each with the whole complaint. Where a source raises, so does this.
    pub bad: &'static [(&'static str, &'static str)],
    /// What is skipped, with the reason.
    pub skips: &'static [(Skip, &'static str)],
}

/// A part of the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// All steps.
    Step,
    /// Parameters that are not matrices.
    Flat,
    /// The same bits on every device.
    Bits,
    /// The same bits on every device, for matrices.
    Matrices,
    /// That a parameter's step does not depend on the others.
    Alone,
    /// Groups with learning rates of their own.
    Rates,
    /// That a gradient of zeros moves something.
    Rest,
}

impl Inputs {
    /// Whether a part of the suite is skipped.
    pub fn skips(&self, part: Skip) -> bool {
        self.skips.iter().any(|(skipped, _)| *skipped == part)
    }

    /// Configurations that are taken. Each hyperparameter has another value than its default in one of them.
    pub fn good(&self) -> Vec<&'static str> {
        CASES.iter().chain(SHAPED).copied().filter(|text| name_of(text) == self.name).collect()
    }
}

/// Good inputs of names that do not take flat tensors, or that mean something else with matrices.
pub const SHAPED: &[&str] = &[
    "Muon",
    "dict(type='Muon', lr=0.1, weight_decay=0.3, momentum=0.5, nesterov=False, adjust_lr_fn='match_rms_adamw')",
    "dict(type='Muon', ns_steps=3, ns_coefficients=(2.0, -1.5, 0.5), eps=1e-3, adjust_lr_fn='spectral_unclamped')",
    "dict(type='Muon', ns_dtype='bf16', flatten=True, rest='AdamW', adamw_names=['never'], rest_lr=0.01, \
     rest_betas=(0.5, 0.9), rest_eps=1e-3, rest_weight_decay=0.3)",
    "NorMuon",
    "dict(type='NorMuon', lr=0.1, weight_decay=0.3, momentum=0.5, nesterov=False, beta2=0.5, use_adjusted_lr=True, \
     eps=1e-6)",
    "dict(type='NorMuon', ns_steps=3, ns_coeffs=[(3.9, -6.2, 2.6), (2.9, -3.2, 1.3)], update_scale='match_rms')",
    "dict(type='NorMuon', ns_coeffs='quintic', flatten=True, rest='AdamW', adamw_names=['never'], rest_lr=0.01, \
     rest_betas=(0.5, 0.9), rest_eps=1e-3, rest_weight_decay=0.3)",
    "LBFGS",
    "dict(type='LBFGS', lr=0.5, max_iter=3, max_eval=9, tolerance_grad=1e-3, tolerance_change=1e-4, history_size=2, \
     line_search_fn='strong_wolfe', maximize=True)",
    "SparseAdam",
    "dict(type='SparseAdam', lr=0.1, betas=(0.5, 0.9), eps=1e-3, maximize=True)",
];

/// Names without a row, with the reason.
pub const NO_ROW: &[(&str, &str)] = &[(
    "ZeroRedundancyOptimizer",
    "takes what the algorithm that it names takes, in that one's words: tests/refusals.rs",
)];

/// Every name.
pub const INPUTS: &[Inputs] = &[
    Inputs {
        name: "SGD",
        bad: &[
            ("lr=-0.1", "SGD: lr must be ≥ 0, got -0.1"),
            ("momentum=-0.5", "SGD: momentum must be ≥ 0, got -0.5"),
            (
                "nesterov=True",
                "SGD: nesterov needs a momentum and zero dampening, got momentum 0 and dampening 0",
            ),
            (
                "lr=0.1, momentum=0.9, dampening=0.1, nesterov=True",
                "SGD: nesterov needs a momentum and zero dampening, got momentum 0.9 and dampening 0.1",
            ),
            ("weight_decay=-0.1", "SGD: weight_decay must be ≥ 0, got -0.1"),
        ],
        skips: &[],
    },
    Inputs {
        name: "Adam",
        bad: &[
            ("betas=(1.0, 0.0)", "Adam: betas must be in [0, 1), got (1.0, 0.0)"),
            ("eps=-1e-8", "Adam: eps must be ≥ 0, got -1e-8"),
            ("betas=0.9", "Adam: betas must be a pair of floats, got 0.9"),
            ("amsgrad=1", "Adam: amsgrad must be a bool, got 1"),
        ],
        skips: &[],
    },
    Inputs {
        name: "AdamW",
        bad: &[
            ("betas=(0.0, 1.0)", "AdamW: betas must be in [0, 1), got (0.0, 1.0)"),
            ("weight_decay=-1", "AdamW: weight_decay must be ≥ 0, got -1"),
            ("lr=None", "AdamW: lr must be a float, got None"),
        ],
        skips: &[],
    },
    Inputs {
        name: "AdamWScheduleFree",
        bad: &[
            (
                "betas=(0.0, 0.9)",
                "AdamWScheduleFree: the first of betas must be above 0: the weights are divided by it",
            ),
            ("betas=(2.0, 3.0)", "AdamWScheduleFree: betas must be in [0, 1), got (2.0, 3.0)"),
            ("lr=-1", "AdamWScheduleFree: lr must be ≥ 0, got -1"),
            ("warmup_steps=-1", "AdamWScheduleFree: warmup_steps must be a whole number, got -1"),
        ],
        skips: &[(Skip::Alone, "the steps of a group are counted, whoever has gradients")],
    },
    Inputs {
        name: "Adagrad",
        bad: &[
            ("lr=-1", "Adagrad: lr must be ≥ 0, got -1"),
            ("lr_decay=-0.5", "Adagrad: lr_decay must be ≥ 0, got -0.5"),
            ("initial_accumulator_value=-1.0", "Adagrad: initial_accumulator_value must be ≥ 0, got -1.0"),
        ],
        skips: &[(Skip::Rest, "its state is a sum of squares")],
    },
    Inputs {
        name: "Adadelta",
        bad: &[
            ("rho=1.1", "Adadelta: rho must be in [0, 1], got 1.1"),
            ("eps=-1", "Adadelta: eps must be ≥ 0, got -1"),
        ],
        skips: &[],
    },
    Inputs {
        name: "RMSprop",
        bad: &[
            ("momentum=-1.0", "RMSprop: momentum must be ≥ 0, got -1.0"),
            ("alpha=-1e-3", "RMSprop: alpha must be ≥ 0, got -0.001"),
        ],
        skips: &[],
    },
    Inputs {
        name: "RAdam",
        bad: &[
            ("betas=(0.9, 1.0)", "RAdam: betas must be in [0, 1), got (0.9, 1.0)"),
            ("betas=0.9", "RAdam: betas must be a pair of floats, got 0.9"),
            ("weight_decay=-0.1", "RAdam: weight_decay must be ≥ 0, got -0.1"),
        ],
        skips: &[],
    },
    Inputs {
        name: "NAdam",
        bad: &[
            ("momentum_decay=-0.2", "NAdam: momentum_decay must be ≥ 0, got -0.2"),
            ("betas=(0.9, 0.999, 0.9)", "NAdam: betas must be a pair of floats, got (0.9, 0.999, 0.9)"),
        ],
        skips: &[],
    },
    Inputs {
        name: "Adamax",
        bad: &[
            ("betas=(0.0, 1.0)", "Adamax: betas must be in [0, 1), got (0.0, 1.0)"),
            ("amsgrad=True", "Adamax has no \"amsgrad\""),
        ],
        skips: &[],
    },
    Inputs {
        name: "ASGD",
        bad: &[
            ("weight_decay=-0.5", "ASGD: weight_decay must be ≥ 0, got -0.5"),
            ("lambd=-0.5", "ASGD: lambd must be ≥ 0, got -0.5"),
        ],
        skips: &[(Skip::Rest, "without lambd a gradient of zeros leaves the parameter, and so its average")],
    },
    Inputs {
        name: "Rprop",
        bad: &[
            ("etas=(1.0, 0.5)", "Rprop: etas must be one below 1 and one above 1, got (1.0, 0.5)"),
            ("etas=(0.0, 1.2)", "Rprop: etas must be > 0, got (0.0, 1.2)"),
            ("lr=-1", "Rprop: lr must be ≥ 0, got -1"),
        ],
        skips: &[],
    },
    Inputs {
        name: "LBFGS",
        bad: &[
            ("line_search_fn='armijo'", "LBFGS: line_search_fn must be None or strong_wolfe, got \"armijo\""),
            ("history_size=0", "LBFGS: history_size must be ≥ 1, got 0"),
            ("lr=-1.0", "LBFGS: lr must be ≥ 0, got -1.0"),
        ],
        skips: &[(Skip::Step, "evaluates an objective: tests/objectives.rs")],
    },
    Inputs {
        name: "SparseAdam",
        bad: &[
            ("lr=0.0", "SparseAdam: lr must be above 0 at first; a schedule may go to 0"),
            ("lr=-0.1", "SparseAdam: lr must be ≥ 0, got -0.1"),
            ("eps=0.0", "SparseAdam: eps must be > 0, got 0.0"),
            ("betas=(1.0, 0.999)", "SparseAdam: betas must be in [0, 1), got (1.0, 0.999)"),
            ("betas=(0.9, 1.0)", "SparseAdam: betas must be in [0, 1), got (0.9, 1.0)"),
            ("weight_decay=0.1", "SparseAdam has no \"weight_decay\""),
        ],
        skips: &[(Skip::Step, "takes row-sparse gradients: tests/sparse.rs")],
    },
    Inputs {
        name: "Muon",
        bad: &[
            (
                "adjust_lr_fn='none'",
                "Muon: adjust_lr_fn must be None, original, match_rms_adamw or spectral_unclamped, got \"none\"",
            ),
            ("ns_steps=100", "Muon: ns_steps must be in [0, 99], got 100"),
            ("adamw_names=['head']", "Muon: adamw_names needs rest=\"AdamW\""),
            (
                "ns_coefficients=(1.0, 2.0)",
                "Muon: ns_coefficients must be a triple of floats, got (1.0, 2.0)",
            ),
        ],
        skips: &[
            (Skip::Bits, "products of matrices are equal within rounding only: tests/matmul.rs"),
            (Skip::Flat, "takes matrices only"),
        ],
    },
    Inputs {
        name: "NorMuon",
        bad: &[
            (
                "update_scale='match'",
                "NorMuon: update_scale must be preserve_norm or match_rms, got \"match\"",
            ),
            ("ns_steps=0", "NorMuon: ns_steps must be in [1, 99], got 0"),
            ("momentum=1.0", "NorMuon: momentum must be in [0, 1), got 1.0"),
            ("beta2=1.0", "NorMuon: beta2 must be in [0, 1), got 1.0"),
            ("rest='SGD'", "NorMuon: rest must be None or AdamW, got \"SGD\""),
            (
                "ns_coeffs=[]",
                "NorMuon: ns_coeffs must be a preset (original, quintic, polar_express, polar_express_safer), triple of \
                 floats or list of triples, got ()",
            ),
            (
                "ns_coeffs='polar'",
                "NorMuon: ns_coeffs must be a preset (original, quintic, polar_express, polar_express_safer), triple of \
                 floats or list of triples, got \"polar\"",
            ),
        ],
        skips: &[
            (Skip::Bits, "products of matrices are equal within rounding only: tests/matmul.rs"),
            (Skip::Flat, "takes matrices only"),
        ],
    },
    Inputs {
        name: "TorchAdafactor",
        bad: &[
            ("lr=-1", "TorchAdafactor: lr must be ≥ 0, got -1"),
            ("beta2_decay=0.5", "TorchAdafactor: beta2_decay must be ≤ 0, got 0.5"),
            ("d=0.5", "TorchAdafactor: d must be ≥ 1, got 0.5"),
        ],
        skips: &[(
            Skip::Matrices,
            "sums over rows are products of matrices, equal within rounding only: tests/matmul.rs",
        )],
    },
    Inputs {
        name: "Adafactor",
        bad: &[
            ("lr=0.1", "Adafactor: lr excludes relative_step=True"),
            ("relative_step=False", "Adafactor: relative_step=False needs an lr"),
            (
                "lr=0.1, relative_step=False, warmup_init=True",
                "Adafactor: warmup_init=True needs relative_step=True",
            ),
            ("beta1=1.0", "Adafactor: beta1 must be in [0, 1), got 1.0"),
        ],
        skips: &[(
            Skip::Matrices,
            "sums over rows are products of matrices, equal within rounding only: tests/matmul.rs",
        )],
    },
    Inputs {
        name: "Lion",
        bad: &[
            ("lr=-1e-4", "Lion: lr must be ≥ 0, got -0.0001"),
            ("betas=(0.9, 1.5)", "Lion: betas must be in [0, 1], got (0.9, 1.5)"),
            ("use_triton=1", "Lion: use_triton must be a bool, got 1"),
        ],
        skips: &[],
    },
    Inputs {
        name: "DAdaptAdam",
        bad: &[
            ("lr=0.0", "DAdaptAdam: lr must be above 0 at first; a schedule may go to 0"),
            ("d0=0.0", "DAdaptAdam: d0 must be > 0, got 0.0"),
            ("eps=0.0", "DAdaptAdam: eps must be > 0, got 0.0"),
        ],
        skips: &[
            (Skip::Alone, "one estimate for all tensors"),
            (Skip::Rates, "every group must have the same lr: it is found"),
        ],
    },
    Inputs {
        name: "Prodigy",
        bad: &[
            ("lr=0.0", "Prodigy: lr must be above 0 at first; a schedule may go to 0"),
            ("d0=0.0", "Prodigy: d0 must be > 0, got 0.0"),
            ("eps=0.0", "Prodigy: eps must be > 0, got 0.0"),
            ("betas=(0.9, 1.0)", "Prodigy: betas must be in [0, 1), got (0.9, 1.0)"),
            ("beta3=1.5", "Prodigy: beta3 must be in [0, 1], got 1.5"),
            ("slice_p=0", "Prodigy: slice_p must be ≥ 1, got 0"),
        ],
        skips: &[
            (Skip::Alone, "one estimate for all tensors"),
            (Skip::Rates, "every group must have the same lr: it is found"),
        ],
    },
    Inputs {
        name: "DAdaptAdaGrad",
        bad: &[
            ("growth_rate=0.0", "DAdaptAdaGrad: growth_rate must be > 0, got 0.0"),
            ("lr=0.0", "DAdaptAdaGrad: lr must be above 0 at first; a schedule may go to 0"),
        ],
        skips: &[
            (Skip::Rest, "its states are sums of gradients and of squares"),
            (Skip::Alone, "one estimate for all tensors"),
            (Skip::Rates, "every group must have the same lr: it is found"),
        ],
    },
    Inputs {
        name: "DAdaptSGD",
        bad: &[
            ("momentum=1.0", "DAdaptSGD: momentum must be in [0, 1), got 1.0"),
            ("d0=-1e-6", "DAdaptSGD: d0 must be > 0, got -1e-6"),
            ("lr=0", "DAdaptSGD: lr must be above 0 at first; a schedule may go to 0"),
        ],
        skips: &[
            (Skip::Rest, "its state is a sum of gradients"),
            (Skip::Alone, "one estimate for all tensors"),
            (Skip::Rates, "every group must have the same lr: it is found"),
        ],
    },
    Inputs {
        name: "SophiaG",
        bad: &[
            ("rho=-0.04", "SophiaG: rho must be ≥ 0, got -0.04"),
            ("betas=(1.0, 0.99)", "SophiaG: betas must be in [0, 1), got (1.0, 0.99)"),
        ],
        skips: &[],
    },
    Inputs {
        name: "bnb_Adam",
        bad: &[
            ("optim_bits=16", "bnb_Adam: optim_bits must be 8 or 32, got 16"),
            ("min_8bit_size=0.5", "bnb_Adam: min_8bit_size must be a int, got 0.5"),
        ],
        skips: &[],
    },
    Inputs {
        name: "bnb_AdamW",
        bad: &[("betas=(-0.1, 0.9)", "bnb_AdamW: betas must be in [0, 1), got (-0.1, 0.9)")],
        skips: &[],
    },
    Inputs {
        name: "bnb_Adagrad",
        bad: &[("lr_decay=0.1", "bnb_Adagrad: lr_decay must be 0, got 0.1")],
        skips: &[(Skip::Rest, "its state is a sum of squares")],
    },
    Inputs {
        name: "bnb_Lion",
        bad: &[("betas=(0.9, 1.0)", "bnb_Lion: betas must be in [0, 1), got (0.9, 1.0)")],
        skips: &[],
    },
    Inputs {
        name: "bnb_RMSprop",
        bad: &[
            ("alpha=0.0", "bnb_RMSprop: alpha=0 is not supported"),
            ("centered=True", "bnb_RMSprop: centered is not supported; RMSprop has it"),
        ],
        skips: &[],
    },
    Inputs {
        name: "bnb_SGD",
        bad: &[("lr=0.1, momentum=0", "bnb_SGD: momentum=0 is not supported; SGD has it")],
        skips: &[],
    },
    Inputs {
        name: "Adam32bit",
        bad: &[
            ("betas=(0.9, 1.0)", "Adam32bit: betas must be in [0, 1), got (0.9, 1.0)"),
            ("args='ns'", "Adam32bit: args must be a None, got \"ns\""),
        ],
        skips: &[],
    },
    Inputs {
        name: "AdamW32bit",
        bad: &[(
            "optim_bits=8",
            "AdamW32bit: optim_bits must be 32, got 8: its states are always in 32 bits",
        )],
        skips: &[],
    },
    Inputs {
        name: "Adagrad32bit",
        bad: &[(
            "initial_accumulator_value=1.0",
            "Adagrad32bit: initial_accumulator_value must be 0, got 1.0",
        )],
        skips: &[(Skip::Rest, "its state is a sum of squares")],
    },
    Inputs { name: "Lion32bit", bad: &[("optim_bits=32", "Lion32bit has no \"optim_bits\"")], skips: &[] },
    Inputs {
        name: "RMSprop32bit",
        bad: &[
            ("centered=True", "RMSprop32bit: centered is not supported; RMSprop has it"),
            ("momentum=1.0", "RMSprop32bit: momentum must be in [0, 1), got 1.0"),
        ],
        skips: &[],
    },
    Inputs {
        name: "SGD32bit",
        bad: &[("lr=0.1, dampening=1.0", "SGD32bit: dampening must be in [0, 1), got 1.0")],
        skips: &[],
    },
    Inputs {
        name: "LAMB",
        bad: &[
            ("optim_bits=16", "LAMB: optim_bits must be 8 or 32, got 16"),
            (
                "adam_w_mode=False",
                "LAMB: adam_w_mode must be True, got False: bitsandbytes takes the decay from the parameter, whatever it says",
            ),
            ("max_unorm=-1.0", "LAMB: max_unorm must be ≥ 0, got -1.0"),
        ],
        skips: &[],
    },
    Inputs {
        name: "LAMB32bit",
        bad: &[
            (
                "amsgrad=True",
                "LAMB32bit: amsgrad must be False, got True: bitsandbytes has no largest second moment, whatever it says",
            ),
            ("betas=(0.9, 1.0)", "LAMB32bit: betas must be in [0, 1), got (0.9, 1.0)"),
        ],
        skips: &[],
    },
    Inputs {
        name: "LARS",
        bad: &[
            ("lr=0.1, momentum=0.0", "LARS: LARS without momentum is not supported; PytorchLARS is"),
            ("lr=-1", "LARS: lr must be ≥ 0, got -1"),
            ("lr=0.1, optim_bits=16", "LARS: optim_bits must be 8 or 32, got 16"),
        ],
        skips: &[],
    },
    Inputs {
        name: "LARS32bit",
        bad: &[("lr=0.1, max_unorm=-0.1", "LARS32bit: max_unorm must be ≥ 0, got -0.1")],
        skips: &[],
    },
    Inputs {
        name: "PytorchLARS",
        bad: &[
            ("momentum=-0.1", "PytorchLARS: momentum must be ≥ 0, got -0.1"),
            (
                "nesterov=True",
                "PytorchLARS: nesterov needs a momentum and zero dampening, got momentum 0 and dampening 0",
            ),
            ("max_unorm=-1", "PytorchLARS: max_unorm must be ≥ 0, got -1"),
        ],
        skips: &[],
    },
    Inputs {
        name: "AdEMAMix",
        bad: &[
            ("betas=(0.9, 0.999)", "AdEMAMix: betas must be a triple of floats, got (0.9, 0.999)"),
            ("t_alpha=-1", "AdEMAMix: t_alpha must be ≥ 0, got -1"),
        ],
        skips: &[],
    },
    Inputs {
        name: "AdEMAMix32bit",
        bad: &[(
            "t_beta3=9, betas=(0.0, 0.9, 0.99)",
            "AdEMAMix32bit: t_beta3 needs betas above 0: it takes their logarithms",
        )],
        skips: &[],
    },
    Inputs {
        name: "FusedAdam",
        bad: &[
            ("amsgrad=True", "FusedAdam: amsgrad is not supported, as in DeepSpeed; Adam and AdamW have it"),
            ("adamw_mode=True", "FusedAdam has no \"adamw_mode\" (did you mean \"adam_w_mode\"?)"),
        ],
        skips: &[],
    },
    Inputs {
        name: "DeepSpeedCPUAdam",
        bad: &[
            (
                "amsgrad=True",
                "DeepSpeedCPUAdam: amsgrad is not supported, as in DeepSpeed; Adam and AdamW have it",
            ),
            ("adam_w_mode=True", "DeepSpeedCPUAdam has no \"adam_w_mode\" (did you mean \"adamw_mode\"?)"),
        ],
        skips: &[],
    },
    Inputs {
        name: "FusedLamb",
        bad: &[
            (
                "amsgrad=True",
                "FusedLamb: amsgrad must be False, got True: FusedLamb has no largest second moment",
            ),
            ("max_coeff=-1.0", "FusedLamb: max_coeff must be ≥ 0, got -1.0"),
            ("max_grad_norm=-0.5", "FusedLamb: max_grad_norm must be ≥ 0, got -0.5"),
        ],
        skips: &[(Skip::Alone, "the norm of the group's gradients, with max_grad_norm")],
    },
    Inputs {
        name: "OnebitAdam",
        bad: &[
            (
                "amsgrad=True",
                "OnebitAdam: amsgrad must be False, got True: 1-bit Adam has no largest second moment",
            ),
            (
                "comm_backend_name='gloo'",
                "OnebitAdam: comm_backend_name must be a communication backend (nccl, mpi, hccl or compressed), got \"gloo\"",
            ),
            ("freeze_step=-1", "OnebitAdam: freeze_step must be a whole number, got -1"),
            ("freeze_step=2.5", "OnebitAdam: freeze_step must be a whole number, got 2.5"),
        ],
        skips: &[(Skip::Alone, "one phase for all tensors")],
    },
    Inputs {
        name: "OnebitLamb",
        bad: &[
            (
                "amsgrad=True",
                "OnebitLamb: amsgrad must be False, got True: 1-bit LAMB has no largest second moment",
            ),
            ("coeff_beta=1.5", "OnebitLamb: coeff_beta must be in [0, 1], got 1.5"),
            ("factor_threshold=-0.1", "OnebitLamb: factor_threshold must be ≥ 0, got -0.1"),
            ("deepspeed=1", "OnebitLamb: deepspeed must be a None, got 1"),
        ],
        skips: &[(Skip::Alone, "one phase for all tensors")],
    },
    Inputs {
        name: "ZeroOneAdam",
        bad: &[
            (
                "amsgrad=True",
                "ZeroOneAdam: amsgrad must be False, got True: 0/1 Adam has no largest second moment",
            ),
            ("local_step_clipper=0", "ZeroOneAdam: local_step_clipper must be ≥ 1, got 0"),
            ("var_update_scaler=-2", "ZeroOneAdam: var_update_scaler must be a whole number, got -2"),
            ("betas=(0.9, 1.0)", "ZeroOneAdam: betas must be in [0, 1), got (0.9, 1.0)"),
        ],
        skips: &[(Skip::Alone, "one phase for all tensors")],
    },
    Inputs {
        name: "Adam8bit",
        bad: &[
            (
                "optim_bits=8",
                "Adam8bit: optim_bits must be 32, got 8: its states are always in 8 bits, and 32 is what bitsandbytes takes for compatibility",
            ),
            ("amsgrad=True", "Adam8bit: amsgrad must be False, got True: bitsandbytes refuses it"),
            ("eps=-1", "Adam8bit: eps must be ≥ 0, got -1"),
        ],
        skips: &[],
    },
    Inputs {
        name: "AdamW8bit",
        bad: &[
            (
                "optim_bits=8",
                "AdamW8bit: optim_bits must be 32, got 8: its states are always in 8 bits, and 32 is what bitsandbytes takes for compatibility",
            ),
            ("amsgrad=True", "AdamW8bit: amsgrad must be False, got True: bitsandbytes refuses it"),
            ("eps=-1", "AdamW8bit: eps must be ≥ 0, got -1"),
        ],
        skips: &[],
    },
    Inputs {
        name: "PagedAdam8bit",
        bad: &[
            (
                "optim_bits=8",
                "PagedAdam8bit: optim_bits must be 32, got 8: its states are always in 8 bits, and 32 is what bitsandbytes takes for compatibility",
            ),
            ("amsgrad=True", "PagedAdam8bit: amsgrad must be False, got True: bitsandbytes refuses it"),
            ("eps=-1", "PagedAdam8bit: eps must be ≥ 0, got -1"),
        ],
        skips: &[],
    },
    Inputs {
        name: "PagedAdamW8bit",
        bad: &[
            (
                "optim_bits=8",
                "PagedAdamW8bit: optim_bits must be 32, got 8: its states are always in 8 bits, and 32 is what bitsandbytes takes for compatibility",
            ),
            ("amsgrad=True", "PagedAdamW8bit: amsgrad must be False, got True: bitsandbytes refuses it"),
            ("eps=-1", "PagedAdamW8bit: eps must be ≥ 0, got -1"),
        ],
        skips: &[],
    },
    Inputs {
        name: "PagedAdam",
        bad: &[("betas=(1.0, 0.9)", "PagedAdam: betas must be in [0, 1), got (1.0, 0.9)")],
        skips: &[],
    },
    Inputs {
        name: "PagedAdamW",
        bad: &[("betas=(1.0, 0.9)", "PagedAdamW: betas must be in [0, 1), got (1.0, 0.9)")],
        skips: &[],
    },
    Inputs {
        name: "PagedAdam32bit",
        bad: &[("betas=(1.0, 0.9)", "PagedAdam32bit: betas must be in [0, 1), got (1.0, 0.9)")],
        skips: &[],
    },
    Inputs {
        name: "PagedAdamW32bit",
        bad: &[("betas=(1.0, 0.9)", "PagedAdamW32bit: betas must be in [0, 1), got (1.0, 0.9)")],
        skips: &[],
    },
    Inputs {
        name: "Lion8bit",
        bad: &[("betas=(0.9, 1.0)", "Lion8bit: betas must be in [0, 1), got (0.9, 1.0)")],
        skips: &[],
    },
    Inputs {
        name: "PagedLion8bit",
        bad: &[("betas=(0.9, 1.0)", "PagedLion8bit: betas must be in [0, 1), got (0.9, 1.0)")],
        skips: &[],
    },
    Inputs {
        name: "PagedLion",
        bad: &[("betas=(0.9, 1.0)", "PagedLion: betas must be in [0, 1), got (0.9, 1.0)")],
        skips: &[],
    },
    Inputs {
        name: "PagedLion32bit",
        bad: &[("betas=(0.9, 1.0)", "PagedLion32bit: betas must be in [0, 1), got (0.9, 1.0)")],
        skips: &[],
    },
    Inputs {
        name: "Adagrad8bit",
        bad: &[(
            "initial_accumulator_value=1.0",
            "Adagrad8bit: initial_accumulator_value must be 0, got 1.0",
        )],
        skips: &[(Skip::Rest, "its state is a sum of squares")],
    },
    Inputs {
        name: "RMSprop8bit",
        bad: &[("centered=True", "RMSprop8bit: centered is not supported; RMSprop has it")],
        skips: &[],
    },
    Inputs {
        name: "SGD8bit",
        bad: &[("lr=0.1, momentum=0", "SGD8bit: momentum=0 is not supported; SGD has it")],
        skips: &[],
    },
    Inputs {
        name: "AdEMAMix8bit",
        bad: &[("t_alpha=-1", "AdEMAMix8bit: t_alpha must be ≥ 0, got -1")],
        skips: &[],
    },
    Inputs {
        name: "PagedAdEMAMix",
        bad: &[("t_alpha=-1", "PagedAdEMAMix: t_alpha must be ≥ 0, got -1")],
        skips: &[],
    },
    Inputs {
        name: "PagedAdEMAMix8bit",
        bad: &[("t_alpha=-1", "PagedAdEMAMix8bit: t_alpha must be ≥ 0, got -1")],
        skips: &[],
    },
    Inputs {
        name: "PagedAdEMAMix32bit",
        bad: &[("t_alpha=-1", "PagedAdEMAMix32bit: t_alpha must be ≥ 0, got -1")],
        skips: &[],
    },
    Inputs {
        name: "LAMB8bit",
        bad: &[("max_unorm=-1.0", "LAMB8bit: max_unorm must be ≥ 0, got -1.0")],
        skips: &[],
    },
    Inputs {
        name: "LARS8bit",
        bad: &[("lr=0.1, max_unorm=-0.1", "LARS8bit: max_unorm must be ≥ 0, got -0.1")],
        skips: &[],
    },
];

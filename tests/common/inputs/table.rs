//! The rows of the table, in no order but that `SGD` and `Adam` are the first two.

use super::{Inputs, Skip};

/// Every name but those of [`NO_ROW`](super::NO_ROW).
pub const INPUTS: &[Inputs] = &[
    Inputs {
        name: "SGD",
        good: &[
            "dict(type='SGD', lr=0.1)",
            "dict(type='SGD', lr=0.1, weight_decay=0.01)",
            "dict(type='SGD', lr=0.1, maximize=True)",
            "dict(type='SGD', lr=0.1, momentum=0.9)",
            "dict(type='SGD', lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.01)",
            "dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True)",
            "dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01, maximize=True)",
        ],
        largest: "dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.01)",
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
        good: &[
            "Adam",
            "dict(type='Adam', lr=0.01, weight_decay=0.1)",
            "dict(type='Adam', lr=0.01, weight_decay=0.1, decoupled_weight_decay=True)",
            "dict(type='Adam', lr=0.01, amsgrad=True)",
            "dict(type='Adam', lr=0.01, amsgrad=True, weight_decay=0.1, maximize=True)",
            "dict(type='Adam', lr=0.01, betas=(0.0, 0.5), eps=0.0)",
            "dict(type='Adam', lr=0.01, amsgrad=True, state_format={'m': 'bf16', 'v': 'q8', \
             'v_max': 'fp8'})",
        ],
        largest: "dict(type='Adam', lr=0.01, amsgrad=True, weight_decay=0.1)",
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
        good: &[
            "AdamW",
            "dict(type='AdamW', lr=0.01, weight_decay=0.0)",
            "dict(type='AdamW', lr=0.01, weight_decay=0.3, amsgrad=True)",
            "dict(type='AdamW', lr=0.01, betas=(0.5, 0.9), eps=1e-3, maximize=True)",
            "dict(type='AdamW', lr=0.01, state_format='q4')",
        ],
        largest: "dict(type='AdamW', lr=0.01, weight_decay=0.3, amsgrad=True)",
        bad: &[
            ("betas=(0.0, 1.0)", "AdamW: betas must be in [0, 1), got (0.0, 1.0)"),
            ("weight_decay=-1", "AdamW: weight_decay must be ≥ 0, got -1"),
            ("lr=None", "AdamW: lr must be a float, got None"),
        ],
        skips: &[],
    },
    Inputs {
        name: "AdamWScheduleFree",
        good: &[
            "AdamWScheduleFree",
            "dict(type='AdamWScheduleFree', lr=0.01, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1, \
             warmup_steps=3, r=1.0)",
            "dict(type='AdamWScheduleFree', lr=0.01, weight_lr_power=1.0, k=2, weight_sum=0.5, \
             lr_max=0.02)",
        ],
        largest: "dict(type='AdamWScheduleFree', lr=0.1, weight_decay=0.1)",
        bad: &[
            (
                "betas=(0.0, 0.9)",
                "AdamWScheduleFree: the first of betas must be above 0: the weights are divided by it",
            ),
            ("betas=(2.0, 3.0)", "AdamWScheduleFree: betas must be in [0, 1), got (2.0, 3.0)"),
            ("lr=-1", "AdamWScheduleFree: lr must be ≥ 0, got -1"),
            ("warmup_steps=-1", "AdamWScheduleFree: warmup_steps must be a non-negative int, got -1"),
        ],
        skips: &[
            (Skip::Alone, "the steps of a group are counted, whoever has gradients"),
            (Skip::Cautious, "it moves towards weights that it keeps"),
        ],
    },
    Inputs {
        name: "Adagrad",
        good: &[
            "Adagrad",
            "dict(type='Adagrad', lr=0.1, lr_decay=0.3, initial_accumulator_value=0.5, weight_decay=0.1)",
            "dict(type='Adagrad', lr=0.1, eps=0.0, maximize=True)",
        ],
        largest: "dict(type='Adagrad', lr=0.1, weight_decay=0.1)",
        bad: &[
            ("lr=-1", "Adagrad: lr must be ≥ 0, got -1"),
            ("lr_decay=-0.5", "Adagrad: lr_decay must be ≥ 0, got -0.5"),
            ("initial_accumulator_value=-1.0", "Adagrad: initial_accumulator_value must be ≥ 0, got -1.0"),
        ],
        skips: &[(Skip::Rest, "its state is a sum of squares")],
    },
    Inputs {
        name: "Adadelta",
        good: &[
            "Adadelta",
            "dict(type='Adadelta', lr=0.5, rho=0.5, eps=0.0, weight_decay=0.1, maximize=True)",
        ],
        largest: "dict(type='Adadelta', lr=10.0, eps=0.01, weight_decay=0.1)",
        bad: &[
            ("rho=1.1", "Adadelta: rho must be in [0, 1], got 1.1"),
            ("eps=-1", "Adadelta: eps must be ≥ 0, got -1"),
        ],
        skips: &[],
    },
    Inputs {
        name: "RMSprop",
        good: &[
            "RMSprop",
            "dict(type='RMSprop', lr=0.01, alpha=0.7, eps=0.0, weight_decay=0.1)",
            "dict(type='RMSprop', lr=0.1, momentum=0.9)",
            "dict(type='RMSprop', lr=0.01, centered=True, maximize=True)",
            "dict(type='RMSprop', lr=0.01, alpha=0.7, centered=True, momentum=0.5, weight_decay=0.1)",
            "dict(type='RMSprop', lr=0.01, momentum=0.9, state_format='q8_linear')",
        ],
        largest: "dict(type='RMSprop', lr=0.1, alpha=0.7, centered=True, momentum=0.5)",
        bad: &[
            ("momentum=-1.0", "RMSprop: momentum must be ≥ 0, got -1.0"),
            ("alpha=-1e-3", "RMSprop: alpha must be ≥ 0, got -0.001"),
        ],
        skips: &[],
    },
    Inputs {
        name: "RAdam",
        good: &[
            "RAdam",
            "dict(type='RAdam', lr=0.01, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1, \
             decoupled_weight_decay=True)",
            "dict(type='RAdam', lr=0.01, betas=(0.0, 0.5), weight_decay=0.1, maximize=True)",
        ],
        largest: "dict(type='RAdam', lr=0.1, weight_decay=0.1)",
        bad: &[
            ("betas=(0.9, 1.0)", "RAdam: betas must be in [0, 1), got (0.9, 1.0)"),
            ("betas=0.9", "RAdam: betas must be a pair of floats, got 0.9"),
            ("weight_decay=-0.1", "RAdam: weight_decay must be ≥ 0, got -0.1"),
        ],
        skips: &[],
    },
    Inputs {
        name: "NAdam",
        good: &[
            "NAdam",
            "dict(type='NAdam', lr=0.01, betas=(0.5, 0.9), weight_decay=0.1, decoupled_weight_decay=True)",
            "dict(type='NAdam', lr=0.01, momentum_decay=0.0, eps=0.0, weight_decay=0.1, maximize=True)",
        ],
        largest: "dict(type='NAdam', lr=0.1)",
        bad: &[
            ("momentum_decay=-0.2", "NAdam: momentum_decay must be ≥ 0, got -0.2"),
            ("betas=(0.9, 0.999, 0.9)", "NAdam: betas must be a pair of floats, got (0.9, 0.999, 0.9)"),
        ],
        skips: &[],
    },
    Inputs {
        name: "Adamax",
        good: &[
            "Adamax",
            "dict(type='Adamax', lr=0.01, betas=(0.0, 0.5), eps=0.0, weight_decay=0.1, maximize=True)",
        ],
        largest: "dict(type='Adamax', lr=0.1)",
        bad: &[
            ("betas=(0.0, 1.0)", "Adamax: betas must be in [0, 1), got (0.0, 1.0)"),
            ("amsgrad=True", "Adamax has no \"amsgrad\""),
        ],
        skips: &[],
    },
    Inputs {
        name: "ASGD",
        good: &[
            "ASGD",
            "dict(type='ASGD', lr=0.1, lambd=0.0, t0=1.0)",
            "dict(type='ASGD', lr=0.1, lambd=0.1, alpha=0.5, t0=0.0, weight_decay=0.1, maximize=True)",
        ],
        largest: "dict(type='ASGD', lr=0.1, lambd=0.1, t0=0.0)",
        bad: &[
            ("weight_decay=-0.5", "ASGD: weight_decay must be ≥ 0, got -0.5"),
            ("lambd=-0.5", "ASGD: lambd must be ≥ 0, got -0.5"),
        ],
        skips: &[(Skip::Rest, "without lambd a gradient of zeros leaves the parameter, and so its average")],
    },
    Inputs {
        name: "Rprop",
        good: &[
            "Rprop",
            "dict(type='Rprop', lr=0.1, etas=(0.3, 2.0), step_sizes=(0.01, 0.2), maximize=True)",
        ],
        largest: "dict(type='Rprop', lr=0.1)",
        bad: &[
            ("etas=(1.0, 0.5)", "Rprop: etas must be one below 1 and one above 1, got (1.0, 0.5)"),
            ("etas=(0.0, 1.2)", "Rprop: etas must be > 0, got (0.0, 1.2)"),
            ("lr=-1", "Rprop: lr must be ≥ 0, got -1"),
        ],
        skips: &[],
    },
    Inputs {
        name: "LBFGS",
        good: &[
            "LBFGS",
            "dict(type='LBFGS', lr=0.5, max_iter=3, max_eval=9, tolerance_grad=1e-3, \
             tolerance_change=1e-4, history_size=2, line_search_fn='strong_wolfe', maximize=True)",
        ],
        largest: "LBFGS",
        bad: &[
            ("line_search_fn='armijo'", "LBFGS: line_search_fn must be None or strong_wolfe, got \"armijo\""),
            ("history_size=0", "LBFGS: history_size must be ≥ 1, got 0"),
            ("lr=-1.0", "LBFGS: lr must be ≥ 0, got -1.0"),
        ],
        skips: &[
            (Skip::Step, "evaluates an objective: tests/suites/objectives.rs"),
            (Skip::Cautious, "it searches along all parameters together"),
        ],
    },
    Inputs {
        name: "SparseAdam",
        good: &["SparseAdam", "dict(type='SparseAdam', lr=0.1, betas=(0.5, 0.9), eps=1e-3, maximize=True)"],
        largest: "dict(type='SparseAdam', lr=0.01)",
        bad: &[
            ("lr=0.0", "SparseAdam: lr must be above 0 at first; a schedule may go to 0"),
            ("lr=-0.1", "SparseAdam: lr must be ≥ 0, got -0.1"),
            ("eps=0.0", "SparseAdam: eps must be > 0, got 0.0"),
            ("betas=(1.0, 0.999)", "SparseAdam: betas must be in [0, 1), got (1.0, 0.999)"),
            ("betas=(0.9, 1.0)", "SparseAdam: betas must be in [0, 1), got (0.9, 1.0)"),
            ("weight_decay=0.1", "SparseAdam has no \"weight_decay\""),
        ],
        skips: &[
            (Skip::Step, "takes row-sparse gradients: tests/suites/sparse.rs"),
            (Skip::Cautious, "it takes row-sparse gradients only"),
        ],
    },
    Inputs {
        name: "Muon",
        good: &[
            "Muon",
            "dict(type='Muon', lr=0.1, weight_decay=0.3, momentum=0.5, nesterov=False, \
             adjust_lr_fn='match_rms_adamw')",
            "dict(type='Muon', ns_steps=3, ns_coefficients=(2.0, -1.5, 0.5), eps=1e-3, \
             adjust_lr_fn='spectral_unclamped')",
            "dict(type='Muon', ns_dtype='bf16', flatten=True, rest='AdamW', adamw_names=['never'], \
             rest_lr=0.01, rest_betas=(0.5, 0.9), rest_eps=1e-3, rest_weight_decay=0.3)",
            "dict(type='Muon', ns_coefficients='polar_express', ns_method='gram', split=1, ns_steps=8)",
            "dict(type='Muon', ns_coefficients=[(3.9, -6.2, 2.6), (2.9, -3.2, 1.3)], ns_method='standard', \
             state_format='q8')",
        ],
        largest: "dict(type='Muon', lr=0.02, rest='AdamW')",
        bad: &[
            (
                "adjust_lr_fn='none'",
                "Muon: adjust_lr_fn must be None, original, match_rms_adamw or spectral_unclamped, got \"none\"",
            ),
            ("ns_steps=100", "Muon: ns_steps must be in [0, 99], got 100"),
            ("adamw_names=['head']", "Muon: adamw_names needs rest=\"AdamW\""),
            (
                "ns_coefficients=(1.0, 2.0)",
                "Muon: ns_coefficients must be a preset (original, quintic, polar_express, polar_express_safer), \
                 triple of floats or list of triples, got (1.0, 2.0)",
            ),
            ("ns_method='polar'", "Muon: ns_method must be None, gram or standard, got \"polar\""),
            ("split=0", "Muon: split must be a positive int, list of positive ints or None, got 0"),
            ("split=(4, 0)", "Muon: split must be a positive int, list of positive ints or None, got (4, 0)"),
        ],
        skips: &[
            (Skip::Products, "cuBLAS has an order of its own: tests/cuda_queued.rs"),
            (Skip::Flat, "takes matrices only"),
        ],
    },
    Inputs {
        name: "AdaMuon",
        good: &[
            "AdaMuon",
            "dict(type='AdaMuon', lr=0.1, betas=(0.5, 0.7), weight_decay=0.3, use_adjusted_lr=False, eps=1e-6)",
            "dict(type='AdaMuon', ns_steps=3, ns_coeffs='quintic', ns_method='gram', flatten=True, rest='AdamW', \
             adamw_names=['never'], rest_lr=0.01, rest_betas=(0.5, 0.9), rest_eps=1e-3, rest_weight_decay=0.3)",
            "dict(type='AdaMuon', state_format={'m': 'q8', 'v': 'bf16'})",
        ],
        largest: "dict(type='AdaMuon', lr=0.02, rest='AdamW')",
        bad: &[
            ("betas=(0.9, 1.0)", "AdaMuon: betas must be in [0, 1), got (0.9, 1.0)"),
            ("ns_steps=0", "AdaMuon: ns_steps must be in [1, 99], got 0"),
            ("ns_method='fast'", "AdaMuon: ns_method must be None, gram or standard, got \"fast\""),
            ("adamw_names=['head']", "AdaMuon: adamw_names needs rest=\"AdamW\""),
        ],
        skips: &[
            (Skip::Products, "cuBLAS has an order of its own: tests/cuda_queued.rs"),
            (Skip::Flat, "takes matrices only"),
        ],
    },
    Inputs {
        name: "MuonHyperball",
        good: &[
            "MuonHyperball",
            "dict(type='MuonHyperball', lr=0.1, momentum=0.5, weight_decay=0.3, nesterov=True, \
             weight_decay_method='palm', coefficient_type='cans', scale_mode='shape_scaling', \
             extra_scale_factor=0.2, hyperball_eps=1e-6)",
            "dict(type='MuonHyperball', lr=0.1, num_ns_steps=3, hyperball_radius=2.0, ns_method='standard', \
             flatten=True, rest='AdamW', adamw_names=['never'], rest_lr=0.01, rest_betas=(0.5, 0.9), \
             rest_eps=1e-3, rest_weight_decay=0.3)",
        ],
        largest: "dict(type='MuonHyperball', lr=0.02, rest='AdamW')",
        bad: &[
            (
                "scale_mode='none'",
                "MuonHyperball: scale_mode must be spectral, shape_scaling or unit_rms_norm, got \"none\"",
            ),
            (
                "coefficient_type='deepseekv4'",
                "MuonHyperball: coefficient_type must be simple, quintic, polar_express, cans or aol, got \"deepseekv4\"",
            ),
            (
                "weight_decay_method='l2'",
                "MuonHyperball: weight_decay_method must be decoupled, independent or palm, got \"l2\"",
            ),
            ("hyperball_radius=0.0", "MuonHyperball: hyperball_radius must be > 0, got 0.0"),
        ],
        skips: &[
            (Skip::Products, "cuBLAS has an order of its own: tests/cuda_queued.rs"),
            (Skip::Flat, "takes matrices only"),
            (Skip::Cautious, "what it writes is not the parameter less something"),
            (Skip::Convert, "Emerging-Optimizers keeps what names a norm in its groups"),
        ],
    },
    Inputs {
        name: "Spel",
        good: &[
            "Spel",
            "dict(type='Spel', lr=0.1, momentum=0.5, weight_decay=0.3, nesterov=True, \
             weight_decay_method='independent', coefficient_type='polar_express', num_ns_steps=8)",
            "dict(type='Spel', lr=0.1, ns_method='gram', flatten=True, rest='AdamW', adamw_names=['never'], \
             rest_lr=0.01, rest_betas=(0.5, 0.9), rest_eps=1e-3, rest_weight_decay=0.3)",
        ],
        largest: "dict(type='Spel', lr=0.02, rest='AdamW')",
        bad: &[
            (
                "coefficient_type=''",
                "Spel: coefficient_type must be simple, quintic, polar_express, cans or aol, got \"\"",
            ),
            (
                "weight_decay_method='l2'",
                "Spel: weight_decay_method must be decoupled, independent or palm, got \"l2\"",
            ),
            ("num_ns_steps=0", "Spel: num_ns_steps must be in [1, 99], got 0"),
        ],
        skips: &[
            (Skip::Products, "cuBLAS has an order of its own: tests/cuda_queued.rs"),
            (Skip::Flat, "takes matrices only"),
            (Skip::Cautious, "what it writes is not the parameter less something"),
            (Skip::Convert, "its source keeps its settings outside of its groups"),
        ],
    },
    Inputs {
        name: "SCION",
        good: &[
            "SCION",
            "dict(type='SCION', lr=0.1, momentum=0.5, weight_decay=0.3, scale=2.0)",
            "dict(type='SCION', lr=0.1, constraint=True, num_steps=3, max_scale=True)",
            "dict(type='SCION', lr=0.1, norm_type='sign', normalize=False, transpose=True)",
            "dict(type='SCION', lr=0.1, norm_type='none', weight_decay=0.1)",
            "dict(type='SCION', lr=0.1, norm_type='bias', state_format='q8')",
        ],
        largest: "dict(type='SCION', lr=0.02)",
        bad: &[
            ("momentum=0", "SCION: momentum must be in (0, 1], got 0"),
            ("scale=0.0", "SCION: scale must be > 0, got 0.0"),
            (
                "norm_type='l2'",
                "SCION: norm_type must be a norm (none, auto, spectral, spectralconv, sign, bias, col, row) or its \
                 number, got \"l2\"",
            ),
        ],
        skips: &[
            (Skip::Products, "cuBLAS has an order of its own: tests/cuda_queued.rs"),
            (Skip::Convert, "no layout of its state_dict is known"),
        ],
    },
    Inputs {
        name: "SCIONLight",
        good: &[
            "SCIONLight",
            "dict(type='SCIONLight', lr=0.1, weight_decay=0.3, scale=2.0, momentum=0.5)",
            "dict(type='SCIONLight', lr=0.1, constraint=True, num_steps=3, max_scale=True)",
            "dict(type='SCIONLight', lr=0.1, norm_type=4, normalize=False, transpose=True)",
            "dict(type='SCIONLight', lr=0.1, norm_type='bias')",
        ],
        largest: "dict(type='SCIONLight', lr=0.02)",
        bad: &[
            ("momentum=1.5", "SCIONLight: momentum must be in [0, 1], got 1.5"),
            (
                "norm_type=8",
                "SCIONLight: norm_type must be a norm (none, auto, spectral, spectralconv, sign, bias, col, row) or \
                 its number, got 8",
            ),
        ],
        skips: &[
            (Skip::Products, "cuBLAS has an order of its own: tests/cuda_queued.rs"),
            (Skip::Convert, "it has no state"),
        ],
    },
    Inputs {
        name: "NorMuon",
        good: &[
            "NorMuon",
            "dict(type='NorMuon', lr=0.1, weight_decay=0.3, momentum=0.5, nesterov=False, beta2=0.5, \
             use_adjusted_lr=True, eps=1e-6)",
            "dict(type='NorMuon', ns_steps=3, ns_coeffs=[(3.9, -6.2, 2.6), (2.9, -3.2, 1.3)], \
             update_scale='match_rms')",
            "dict(type='NorMuon', ns_coeffs='quintic', flatten=True, rest='AdamW', adamw_names=['never'], \
             rest_lr=0.01, rest_betas=(0.5, 0.9), rest_eps=1e-3, rest_weight_decay=0.3)",
            "dict(type='NorMuon', ns_method='gram', split=1, state_format={'momentum': 'q4'})",
        ],
        largest: "dict(type='NorMuon', lr=0.02, rest='AdamW')",
        bad: &[
            (
                "update_scale='match'",
                "NorMuon: update_scale must be preserve_norm or match_rms, got \"match\"",
            ),
            ("ns_steps=0", "NorMuon: ns_steps must be in [1, 99], got 0"),
            ("momentum=1.0", "NorMuon: momentum must be in [0, 1), got 1.0"),
            ("beta2=1.0", "NorMuon: beta2 must be in [0, 1), got 1.0"),
            ("rest='SGD'", "NorMuon: rest must be None or AdamW, got \"SGD\""),
            ("ns_method=''", "NorMuon: ns_method must be None, gram or standard, got \"\""),
            ("split=[]", "NorMuon: split must be a positive int, list of positive ints or None, got ()"),
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
            (Skip::Products, "cuBLAS has an order of its own: tests/cuda_queued.rs"),
            (Skip::Flat, "takes matrices only"),
        ],
    },
    Inputs {
        name: "TorchAdafactor",
        good: &[
            "TorchAdafactor",
            "dict(type='TorchAdafactor', beta2_decay=-0.5, eps=(1e-8, 1e-2), d=2.0)",
            "dict(type='TorchAdafactor', lr=0.1, weight_decay=0.3, maximize=True)",
        ],
        largest: "dict(type='TorchAdafactor', lr=0.1, weight_decay=0.3)",
        bad: &[
            ("lr=-1", "TorchAdafactor: lr must be ≥ 0, got -1"),
            ("beta2_decay=0.5", "TorchAdafactor: beta2_decay must be ≤ 0, got 0.5"),
            ("d=0.5", "TorchAdafactor: d must be ≥ 1, got 0.5"),
        ],
        skips: &[],
    },
    Inputs {
        name: "Adafactor",
        good: &[
            "Adafactor",
            "dict(type='Adafactor', lr=0.01, relative_step=False, beta1=0.9, weight_decay=0.1)",
            "dict(type='Adafactor', eps=(1e-8, 1e-2), clip_threshold=0.5, decay_rate=-0.5, \
             scale_parameter=False, warmup_init=True)",
        ],
        largest: "dict(type='Adafactor', lr=0.01, relative_step=False, beta1=0.9, weight_decay=0.1)",
        bad: &[
            ("lr=0.1", "Adafactor: lr excludes relative_step=True"),
            ("relative_step=False", "Adafactor: relative_step=False needs an lr"),
            (
                "lr=0.1, relative_step=False, warmup_init=True",
                "Adafactor: warmup_init=True needs relative_step=True",
            ),
            ("beta1=1.0", "Adafactor: beta1 must be in [0, 1), got 1.0"),
        ],
        skips: &[],
    },
    Inputs {
        name: "Lion",
        good: &[
            "Lion",
            "dict(type='Lion', lr=0.01, betas=(0.95, 0.98), weight_decay=0.1)",
            "dict(type='Lion', lr=0.01, weight_decay=0.1, decoupled_weight_decay=True)",
        ],
        largest: "dict(type='Lion', lr=0.01, weight_decay=0.1)",
        bad: &[
            ("lr=-1e-4", "Lion: lr must be ≥ 0, got -0.0001"),
            ("betas=(0.9, 1.5)", "Lion: betas must be in [0, 1], got (0.9, 1.5)"),
            ("use_triton=1", "Lion: use_triton must be a bool, got 1"),
        ],
        skips: &[],
    },
    Inputs {
        name: "DAdaptAdam",
        good: &[
            "DAdaptAdam",
            "dict(type='DAdaptAdam', lr=0.5, weight_decay=0.1, d0=1e-3, growth_rate=1.5)",
            "dict(type='DAdaptAdam', weight_decay=0.1, decouple=True, use_bias_correction=True, d0=1e-3)",
            "dict(type='DAdaptAdam', betas=(0.5, 0.9), eps=1e-3, layer_scale=0.5, d0=1e-3)",
        ],
        largest: "dict(type='DAdaptAdam', weight_decay=0.1, d0=1e-3)",
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
        good: &[
            "Prodigy",
            "dict(type='Prodigy', lr=0.5, weight_decay=0.1, d0=1e-3, growth_rate=1.5, beta3=0.5, \
             d_coef=2.0)",
            "dict(type='Prodigy', weight_decay=0.1, decouple=False, use_bias_correction=True, \
             safeguard_warmup=True, d0=1e-3)",
            "dict(type='Prodigy', betas=(0.0, 0.9), weight_decay=0.1, eps=1e-3, d0=1e-3)",
            "dict(type='Prodigy', betas=(0.5, 0.9), d0=1e-3, slice_p=3)",
            "dict(type='Prodigy', betas=(0.0, 0.9), weight_decay=0.1, decouple=False, d0=1e-3, slice_p=11)",
        ],
        largest: "dict(type='Prodigy', weight_decay=0.1, d0=1e-3)",
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
        good: &[
            "DAdaptAdaGrad",
            "dict(type='DAdaptAdaGrad', lr=0.5, momentum=0.5, weight_decay=0.1, eps=1e-3, d0=1e-3, \
             growth_rate=1.5)",
        ],
        largest: "dict(type='DAdaptAdaGrad', momentum=0.5, weight_decay=0.1, d0=1e-3)",
        bad: &[
            ("growth_rate=0.0", "DAdaptAdaGrad: growth_rate must be > 0, got 0.0"),
            ("lr=0.0", "DAdaptAdaGrad: lr must be above 0 at first; a schedule may go to 0"),
        ],
        skips: &[
            (Skip::Rest, "its states are sums of gradients and of squares"),
            (Skip::Alone, "one estimate for all tensors"),
            (Skip::Rates, "every group must have the same lr: it is found"),
            (Skip::Cautious, "it moves towards weights that it keeps"),
        ],
    },
    Inputs {
        name: "DAdaptSGD",
        good: &[
            "DAdaptSGD",
            "dict(type='DAdaptSGD', lr=0.5, momentum=0.9, weight_decay=0.1, d0=1e-3, growth_rate=1.5)",
        ],
        largest: "dict(type='DAdaptSGD', momentum=0.9, weight_decay=0.1, d0=1e-3)",
        bad: &[
            ("momentum=1.0", "DAdaptSGD: momentum must be in [0, 1), got 1.0"),
            ("d0=-1e-6", "DAdaptSGD: d0 must be > 0, got -1e-6"),
            ("lr=0", "DAdaptSGD: lr must be above 0 at first; a schedule may go to 0"),
        ],
        skips: &[
            (Skip::Rest, "its state is a sum of gradients"),
            (Skip::Alone, "one estimate for all tensors"),
            (Skip::Rates, "every group must have the same lr: it is found"),
            (Skip::Cautious, "it moves towards weights that it keeps"),
        ],
    },
    Inputs {
        name: "SophiaG",
        good: &[
            "SophiaG",
            "dict(type='SophiaG', lr=0.01, betas=(0.5, 0.9), maximize=True)",
            "dict(type='SophiaG', lr=0.01, rho=0.0, weight_decay=0.0, bs=1.0)",
        ],
        largest: "dict(type='SophiaG', lr=0.1)",
        bad: &[
            ("rho=-0.04", "SophiaG: rho must be ≥ 0, got -0.04"),
            ("betas=(1.0, 0.99)", "SophiaG: betas must be in [0, 1), got (1.0, 0.99)"),
        ],
        skips: &[],
    },
    Inputs {
        name: "bnb_Adam",
        good: &[
            "bnb_Adam",
            "dict(type='bnb_Adam', lr=0.01, betas=(0.0, 0.5), eps=0.0, weight_decay=0.1)",
            "dict(type='bnb_Adam', lr=0.1, optim_bits=8, min_8bit_size=500, is_paged=True)",
        ],
        largest: "dict(type='bnb_Adam', lr=0.1)",
        bad: &[
            ("optim_bits=16", "bnb_Adam: optim_bits must be 8 or 32, got 16"),
            ("min_8bit_size=0.5", "bnb_Adam: min_8bit_size must be a int, got 0.5"),
        ],
        skips: &[],
    },
    Inputs {
        name: "bnb_AdamW",
        good: &[
            "bnb_AdamW",
            "dict(type='bnb_AdamW', lr=0.01, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1)",
            "dict(type='bnb_AdamW', lr=0.1, optim_bits=8, min_8bit_size=500, is_paged=True)",
        ],
        largest: "dict(type='bnb_AdamW', lr=0.1)",
        bad: &[("betas=(-0.1, 0.9)", "bnb_AdamW: betas must be in [0, 1), got (-0.1, 0.9)")],
        skips: &[],
    },
    Inputs {
        name: "bnb_Adagrad",
        good: &[
            "bnb_Adagrad",
            "dict(type='bnb_Adagrad', lr=0.1, eps=0.0, weight_decay=0.1)",
            "dict(type='bnb_Adagrad', lr=0.1, optim_bits=8, min_8bit_size=500)",
        ],
        largest: "dict(type='bnb_Adagrad', lr=0.1, weight_decay=0.1)",
        bad: &[("lr_decay=0.1", "bnb_Adagrad: lr_decay must be 0, got 0.1")],
        skips: &[(Skip::Rest, "its state is a sum of squares")],
    },
    Inputs {
        name: "bnb_Lion",
        good: &[
            "bnb_Lion",
            "dict(type='bnb_Lion', lr=0.01, betas=(0.95, 0.98), weight_decay=0.1)",
            "dict(type='bnb_Lion', lr=0.1, optim_bits=8, min_8bit_size=500, is_paged=True)",
        ],
        largest: "dict(type='bnb_Lion', lr=0.1)",
        bad: &[("betas=(0.9, 1.0)", "bnb_Lion: betas must be in [0, 1), got (0.9, 1.0)")],
        skips: &[],
    },
    Inputs {
        name: "bnb_RMSprop",
        good: &[
            "bnb_RMSprop",
            "dict(type='bnb_RMSprop', lr=0.1, alpha=0.5, eps=0.0, weight_decay=0.1)",
            "dict(type='bnb_RMSprop', lr=0.1, optim_bits=8, min_8bit_size=500)",
        ],
        largest: "dict(type='bnb_RMSprop', lr=0.1, weight_decay=0.1)",
        bad: &[
            ("alpha=0.0", "bnb_RMSprop: alpha=0 is not supported"),
            ("centered=True", "bnb_RMSprop: centered is not supported; RMSprop has it"),
        ],
        skips: &[],
    },
    Inputs {
        name: "bnb_SGD",
        good: &[
            "bnb_SGD",
            "dict(type='bnb_SGD', lr=0.1, momentum=0.5, weight_decay=0.1)",
            "dict(type='bnb_SGD', lr=0.1, optim_bits=8, min_8bit_size=500)",
        ],
        largest: "dict(type='bnb_SGD', lr=0.1)",
        bad: &[("lr=0.1, momentum=0", "bnb_SGD: momentum=0 is not supported; SGD has it")],
        skips: &[],
    },
    Inputs {
        name: "Adam32bit",
        good: &[
            "Adam32bit",
            "dict(type='Adam32bit', lr=0.01, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1)",
            "dict(type='Adam32bit', lr=0.1, is_paged=True)",
        ],
        largest: "dict(type='Adam32bit', lr=0.1)",
        bad: &[
            ("betas=(0.9, 1.0)", "Adam32bit: betas must be in [0, 1), got (0.9, 1.0)"),
            ("args='ns'", "Adam32bit: args must be a None, got \"ns\""),
        ],
        skips: &[],
    },
    Inputs {
        name: "AdamW32bit",
        good: &[
            "AdamW32bit",
            "dict(type='AdamW32bit', lr=0.01, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1)",
            "dict(type='AdamW32bit', lr=0.1, is_paged=True)",
        ],
        largest: "dict(type='AdamW32bit', lr=0.1)",
        bad: &[(
            "optim_bits=8",
            "AdamW32bit: optim_bits must be 32, got 8: its states are always in 32 bits",
        )],
        skips: &[],
    },
    Inputs {
        name: "Adagrad32bit",
        good: &["Adagrad32bit", "dict(type='Adagrad32bit', lr=0.1, eps=1e-3, weight_decay=0.1)"],
        largest: "dict(type='Adagrad32bit', lr=0.1, weight_decay=0.1)",
        bad: &[(
            "initial_accumulator_value=1.0",
            "Adagrad32bit: initial_accumulator_value must be 0, got 1.0",
        )],
        skips: &[(Skip::Rest, "its state is a sum of squares")],
    },
    Inputs {
        name: "Lion32bit",
        good: &[
            "Lion32bit",
            "dict(type='Lion32bit', lr=0.01, betas=(0.95, 0.98), weight_decay=0.1)",
            "dict(type='Lion32bit', lr=0.1, is_paged=True)",
        ],
        largest: "dict(type='Lion32bit', lr=0.1)",
        bad: &[("optim_bits=32", "Lion32bit has no \"optim_bits\"")],
        skips: &[],
    },
    Inputs {
        name: "RMSprop32bit",
        good: &["RMSprop32bit", "dict(type='RMSprop32bit', lr=0.1, alpha=0.5, eps=1e-3, weight_decay=0.1)"],
        largest: "dict(type='RMSprop32bit', lr=0.1, weight_decay=0.1)",
        bad: &[
            ("centered=True", "RMSprop32bit: centered is not supported; RMSprop has it"),
            ("momentum=1.0", "RMSprop32bit: momentum must be in [0, 1), got 1.0"),
        ],
        skips: &[],
    },
    Inputs {
        name: "SGD32bit",
        good: &["SGD32bit", "dict(type='SGD32bit', lr=0.1, momentum=0.5, weight_decay=0.1)"],
        largest: "dict(type='SGD32bit', lr=0.1)",
        bad: &[("lr=0.1, dampening=1.0", "SGD32bit: dampening must be in [0, 1), got 1.0")],
        skips: &[],
    },
    Inputs {
        name: "LAMB",
        good: &[
            "LAMB",
            "dict(type='LAMB', lr=0.01, eps=1e-3, weight_decay=0.1, max_unorm=0.1)",
            "dict(type='LAMB', lr=0.01, betas=(0.5, 0.9), max_unorm=0.3, bias_corrected_unorm=True)",
            "dict(type='LAMB', lr=0.01, optim_bits=8, min_8bit_size=500, quantised_trust_ratio=True)",
        ],
        largest: "dict(type='LAMB', lr=0.01, weight_decay=0.1, max_unorm=0.1)",
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
        good: &[
            "dict(type='LAMB32bit', lr=0.01, eps=1e-4, max_unorm=0.0)",
            "dict(type='LAMB32bit', lr=0.01, betas=(0.5, 0.9), weight_decay=0.1, \
             bias_corrected_unorm=True)",
        ],
        largest: "dict(type='LAMB32bit', lr=0.01)",
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
        good: &[
            "LARS",
            "dict(type='LARS', lr=0.1, momentum=0.5, weight_decay=0.01, max_unorm=0.3)",
            "dict(type='LARS', lr=0.1, optim_bits=8, min_8bit_size=500, quantised_trust_ratio=True)",
        ],
        largest: "dict(type='LARS', lr=0.1, weight_decay=0.01, max_unorm=0.3)",
        bad: &[
            ("lr=0.1, momentum=0.0", "LARS: LARS without momentum is not supported; PytorchLARS is"),
            ("lr=-1", "LARS: lr must be ≥ 0, got -1"),
            ("lr=0.1, optim_bits=16", "LARS: optim_bits must be 8 or 32, got 16"),
        ],
        skips: &[],
    },
    Inputs {
        name: "LARS32bit",
        good: &[
            "dict(type='LARS32bit', lr=0.1, max_unorm=0.0)",
            "dict(type='LARS32bit', lr=0.1, momentum=0.5, weight_decay=0.1)",
        ],
        largest: "dict(type='LARS32bit', lr=0.1)",
        bad: &[("lr=0.1, max_unorm=-0.1", "LARS32bit: max_unorm must be ≥ 0, got -0.1")],
        skips: &[],
    },
    Inputs {
        name: "PytorchLARS",
        good: &[
            "PytorchLARS",
            "dict(type='PytorchLARS', lr=0.1, weight_decay=0.01)",
            "dict(type='PytorchLARS', lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.01)",
            "dict(type='PytorchLARS', lr=0.1, momentum=0.9, nesterov=True, max_unorm=0.5)",
        ],
        largest: "dict(type='PytorchLARS', lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)",
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
        good: &[
            "AdEMAMix",
            "dict(type='AdEMAMix', lr=0.01, alpha=2.0, t_alpha=3, t_beta3=4, weight_decay=0.0)",
            "dict(type='AdEMAMix', lr=0.01, betas=(0.0, 0.5, 0.9), eps=0.0)",
            "dict(type='AdEMAMix', lr=0.01, optim_bits=8, min_8bit_size=500, is_paged=True)",
        ],
        largest: "dict(type='AdEMAMix', lr=0.1)",
        bad: &[
            ("betas=(0.9, 0.999)", "AdEMAMix: betas must be a triple of floats, got (0.9, 0.999)"),
            ("t_alpha=-1", "AdEMAMix: t_alpha must be ≥ 0, got -1"),
        ],
        skips: &[],
    },
    Inputs {
        name: "AdEMAMix32bit",
        good: &[
            "AdEMAMix32bit",
            "dict(type='AdEMAMix32bit', lr=0.01, betas=(0.5, 0.8, 0.9), alpha=2.0, t_alpha=3, t_beta3=4, \
             eps=1e-3, weight_decay=0.1)",
            "dict(type='AdEMAMix32bit', lr=0.01, is_paged=True)",
        ],
        largest: "dict(type='AdEMAMix32bit', lr=0.1)",
        bad: &[(
            "t_beta3=9, betas=(0.0, 0.9, 0.99)",
            "AdEMAMix32bit: t_beta3 needs betas above 0: it takes their logarithms",
        )],
        skips: &[],
    },
    Inputs {
        name: "FusedAdam",
        good: &[
            "FusedAdam",
            "dict(type='FusedAdam', lr=0.01, betas=(0.5, 0.9), weight_decay=0.1)",
            "dict(type='FusedAdam', lr=0.01, bias_correction=False, adam_w_mode=False, weight_decay=0.1, \
             eps=0.0)",
        ],
        largest: "dict(type='FusedAdam', lr=0.1, weight_decay=0.1)",
        bad: &[
            ("amsgrad=True", "FusedAdam: amsgrad is not supported, as in DeepSpeed; Adam and AdamW have it"),
            ("adamw_mode=True", "FusedAdam has no \"adamw_mode\" (did you mean \"adam_w_mode\"?)"),
        ],
        skips: &[],
    },
    Inputs {
        name: "DeepSpeedCPUAdam",
        good: &[
            "DeepSpeedCPUAdam",
            "dict(type='DeepSpeedCPUAdam', lr=0.01, betas=(0.5, 0.9), weight_decay=0.1)",
            "dict(type='DeepSpeedCPUAdam', lr=0.01, bias_correction=False, adamw_mode=False, \
             weight_decay=0.1, eps=0.0)",
        ],
        largest: "dict(type='DeepSpeedCPUAdam', lr=0.1, weight_decay=0.1)",
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
        good: &[
            "FusedLamb",
            "dict(type='FusedLamb', lr=0.01, weight_decay=0.1, max_coeff=0.5, bias_correction=False)",
            "dict(type='FusedLamb', lr=0.01, eps_inside_sqrt=True, max_grad_norm=0.5)",
            "dict(type='FusedLamb', lr=0.01, betas=(0.5, 0.9), eps=1e-3, min_coeff=0.3)",
        ],
        largest: "dict(type='FusedLamb', lr=0.01, weight_decay=0.1, max_grad_norm=0.5)",
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
        good: &[
            "OnebitAdam",
            "dict(type='OnebitAdam', lr=0.01, freeze_step=3, betas=(0.5, 0.9), eps=0.1, weight_decay=0.1)",
            "dict(type='OnebitAdam', lr=0.01, freeze_step=2, non_freeze=True)",
        ],
        largest: "dict(type='OnebitAdam', lr=0.1, freeze_step=3, weight_decay=0.1)",
        bad: &[
            (
                "amsgrad=True",
                "OnebitAdam: amsgrad must be False, got True: 1-bit Adam has no largest second moment",
            ),
            (
                "comm_backend_name='gloo'",
                "OnebitAdam: comm_backend_name must be a communication backend (nccl, mpi, hccl or compressed), got \"gloo\"",
            ),
            ("freeze_step=-1", "OnebitAdam: freeze_step must be a non-negative int, got -1"),
            ("freeze_step=2.5", "OnebitAdam: freeze_step must be a non-negative int, got 2.5"),
        ],
        skips: &[
            (Skip::Alone, "one phase for all tensors"),
            (Skip::Cautious, "ranks exchange its momentum, not gradients on whose signs all agree"),
        ],
    },
    Inputs {
        name: "OnebitLamb",
        good: &[
            "OnebitLamb",
            "dict(type='OnebitLamb', lr=0.01, freeze_step=3, betas=(0.5, 0.9), eps=0.1, weight_decay=0.1, \
             coeff_beta=0.5)",
            "dict(type='OnebitLamb', lr=0.01, freeze_step=2, max_coeff=0.5, min_coeff=0.1, \
             factor_max=1.1, factor_min=0.9, factor_threshold=0.05)",
        ],
        largest: "dict(type='OnebitLamb', lr=0.1, freeze_step=3, weight_decay=0.1)",
        bad: &[
            (
                "amsgrad=True",
                "OnebitLamb: amsgrad must be False, got True: 1-bit LAMB has no largest second moment",
            ),
            ("coeff_beta=1.5", "OnebitLamb: coeff_beta must be in [0, 1], got 1.5"),
            ("factor_threshold=-0.1", "OnebitLamb: factor_threshold must be ≥ 0, got -0.1"),
            ("deepspeed=1", "OnebitLamb: deepspeed must be a None, got 1"),
        ],
        skips: &[
            (Skip::Alone, "one phase for all tensors"),
            (Skip::Cautious, "ranks exchange its momentum, not gradients on whose signs all agree"),
        ],
    },
    Inputs {
        name: "ZeroOneAdam",
        good: &[
            "ZeroOneAdam",
            "dict(type='ZeroOneAdam', lr=0.01, var_update_scaler=1, var_freeze_step=3, eps=0.1, \
             weight_decay=0.1)",
            "dict(type='ZeroOneAdam', lr=0.01, betas=(0.5, 0.9), var_freeze_step=1, local_step_scaler=1, \
             local_step_clipper=2)",
        ],
        largest: "dict(type='ZeroOneAdam', lr=0.1, var_freeze_step=3, weight_decay=0.1)",
        bad: &[
            (
                "amsgrad=True",
                "ZeroOneAdam: amsgrad must be False, got True: 0/1 Adam has no largest second moment",
            ),
            ("local_step_clipper=0", "ZeroOneAdam: local_step_clipper must be ≥ 1, got 0"),
            ("var_update_scaler=-2", "ZeroOneAdam: var_update_scaler must be a non-negative int, got -2"),
            ("betas=(0.9, 1.0)", "ZeroOneAdam: betas must be in [0, 1), got (0.9, 1.0)"),
        ],
        skips: &[
            (Skip::Alone, "one phase for all tensors"),
            (Skip::Cautious, "ranks exchange its momentum, not gradients on whose signs all agree"),
        ],
    },
    Inputs {
        name: "Adam8bit",
        good: &[
            "dict(type='Adam8bit', lr=0.1, min_8bit_size=500)",
            "dict(type='Adam8bit', lr=0.01, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1, is_paged=True)",
        ],
        largest: "dict(type='Adam8bit', lr=0.1, min_8bit_size=500)",
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
        good: &[
            "dict(type='AdamW8bit', lr=0.1, min_8bit_size=500)",
            "dict(type='AdamW8bit', lr=0.01, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1, is_paged=True)",
        ],
        largest: "dict(type='AdamW8bit', lr=0.1, min_8bit_size=500)",
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
        good: &[
            "dict(type='PagedAdam8bit', lr=0.1, min_8bit_size=500)",
            "dict(type='PagedAdam8bit', lr=0.01, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1)",
        ],
        largest: "dict(type='PagedAdam8bit', lr=0.1, min_8bit_size=500)",
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
        good: &[
            "dict(type='PagedAdamW8bit', lr=0.1, min_8bit_size=500)",
            "dict(type='PagedAdamW8bit', lr=0.01, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1)",
        ],
        largest: "dict(type='PagedAdamW8bit', lr=0.1, min_8bit_size=500)",
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
        good: &[
            "dict(type='PagedAdam', lr=0.1)",
            "dict(type='PagedAdam', lr=0.01, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1, optim_bits=8, \
             min_8bit_size=500)",
        ],
        largest: "dict(type='PagedAdam', lr=0.1)",
        bad: &[("betas=(1.0, 0.9)", "PagedAdam: betas must be in [0, 1), got (1.0, 0.9)")],
        skips: &[],
    },
    Inputs {
        name: "PagedAdamW",
        good: &[
            "dict(type='PagedAdamW', lr=0.1)",
            "dict(type='PagedAdamW', lr=0.01, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1, optim_bits=8, \
             min_8bit_size=500)",
        ],
        largest: "dict(type='PagedAdamW', lr=0.1)",
        bad: &[("betas=(1.0, 0.9)", "PagedAdamW: betas must be in [0, 1), got (1.0, 0.9)")],
        skips: &[],
    },
    Inputs {
        name: "PagedAdam32bit",
        good: &[
            "dict(type='PagedAdam32bit', lr=0.1)",
            "dict(type='PagedAdam32bit', lr=0.01, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1)",
        ],
        largest: "dict(type='PagedAdam32bit', lr=0.1)",
        bad: &[("betas=(1.0, 0.9)", "PagedAdam32bit: betas must be in [0, 1), got (1.0, 0.9)")],
        skips: &[],
    },
    Inputs {
        name: "PagedAdamW32bit",
        good: &[
            "dict(type='PagedAdamW32bit', lr=0.1)",
            "dict(type='PagedAdamW32bit', lr=0.01, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1)",
        ],
        largest: "dict(type='PagedAdamW32bit', lr=0.1)",
        bad: &[("betas=(1.0, 0.9)", "PagedAdamW32bit: betas must be in [0, 1), got (1.0, 0.9)")],
        skips: &[],
    },
    Inputs {
        name: "Lion8bit",
        good: &[
            "dict(type='Lion8bit', lr=0.1, min_8bit_size=500)",
            "dict(type='Lion8bit', lr=0.01, betas=(0.95, 0.98), weight_decay=0.1, is_paged=True)",
        ],
        largest: "dict(type='Lion8bit', lr=0.1, min_8bit_size=500)",
        bad: &[("betas=(0.9, 1.0)", "Lion8bit: betas must be in [0, 1), got (0.9, 1.0)")],
        skips: &[],
    },
    Inputs {
        name: "PagedLion8bit",
        good: &[
            "dict(type='PagedLion8bit', lr=0.1, min_8bit_size=500)",
            "dict(type='PagedLion8bit', lr=0.01, betas=(0.95, 0.98), weight_decay=0.1)",
        ],
        largest: "dict(type='PagedLion8bit', lr=0.1, min_8bit_size=500)",
        bad: &[("betas=(0.9, 1.0)", "PagedLion8bit: betas must be in [0, 1), got (0.9, 1.0)")],
        skips: &[],
    },
    Inputs {
        name: "PagedLion",
        good: &[
            "dict(type='PagedLion', lr=0.1)",
            "dict(type='PagedLion', lr=0.01, betas=(0.95, 0.98), weight_decay=0.1, optim_bits=8, \
             min_8bit_size=500)",
        ],
        largest: "dict(type='PagedLion', lr=0.1)",
        bad: &[("betas=(0.9, 1.0)", "PagedLion: betas must be in [0, 1), got (0.9, 1.0)")],
        skips: &[],
    },
    Inputs {
        name: "PagedLion32bit",
        good: &[
            "dict(type='PagedLion32bit', lr=0.1)",
            "dict(type='PagedLion32bit', lr=0.01, betas=(0.95, 0.98), weight_decay=0.1)",
        ],
        largest: "dict(type='PagedLion32bit', lr=0.1)",
        bad: &[("betas=(0.9, 1.0)", "PagedLion32bit: betas must be in [0, 1), got (0.9, 1.0)")],
        skips: &[],
    },
    Inputs {
        name: "Adagrad8bit",
        good: &[
            "dict(type='Adagrad8bit', lr=0.1, min_8bit_size=500)",
            "dict(type='Adagrad8bit', lr=0.1, eps=1e-3, weight_decay=0.1)",
        ],
        largest: "dict(type='Adagrad8bit', lr=0.1, min_8bit_size=500)",
        bad: &[(
            "initial_accumulator_value=1.0",
            "Adagrad8bit: initial_accumulator_value must be 0, got 1.0",
        )],
        skips: &[(Skip::Rest, "its state is a sum of squares")],
    },
    Inputs {
        name: "RMSprop8bit",
        good: &[
            "dict(type='RMSprop8bit', lr=0.1, min_8bit_size=500)",
            "dict(type='RMSprop8bit', lr=0.1, alpha=0.5, eps=1e-3, weight_decay=0.1)",
        ],
        largest: "dict(type='RMSprop8bit', lr=0.1, min_8bit_size=500)",
        bad: &[("centered=True", "RMSprop8bit: centered is not supported; RMSprop has it")],
        skips: &[],
    },
    Inputs {
        name: "SGD8bit",
        good: &[
            "dict(type='SGD8bit', lr=0.1, min_8bit_size=500)",
            "dict(type='SGD8bit', lr=0.1, momentum=0.5, weight_decay=0.1)",
        ],
        largest: "dict(type='SGD8bit', lr=0.1, min_8bit_size=500)",
        bad: &[("lr=0.1, momentum=0", "SGD8bit: momentum=0 is not supported; SGD has it")],
        skips: &[],
    },
    Inputs {
        name: "AdEMAMix8bit",
        good: &[
            "dict(type='AdEMAMix8bit', lr=0.1, min_8bit_size=500)",
            "dict(type='AdEMAMix8bit', lr=0.01, betas=(0.5, 0.8, 0.9), alpha=2.0, t_alpha=3, t_beta3=4, \
             eps=1e-3, weight_decay=0.1, is_paged=True)",
        ],
        largest: "dict(type='AdEMAMix8bit', lr=0.1, min_8bit_size=500)",
        bad: &[("t_alpha=-1", "AdEMAMix8bit: t_alpha must be ≥ 0, got -1")],
        skips: &[],
    },
    Inputs {
        name: "PagedAdEMAMix",
        good: &[
            "dict(type='PagedAdEMAMix', lr=0.1)",
            "dict(type='PagedAdEMAMix', lr=0.01, betas=(0.5, 0.8, 0.9), alpha=2.0, t_alpha=3, t_beta3=4, \
             eps=1e-3, weight_decay=0.1, optim_bits=8, min_8bit_size=500)",
        ],
        largest: "dict(type='PagedAdEMAMix', lr=0.1)",
        bad: &[("t_alpha=-1", "PagedAdEMAMix: t_alpha must be ≥ 0, got -1")],
        skips: &[],
    },
    Inputs {
        name: "PagedAdEMAMix8bit",
        good: &[
            "dict(type='PagedAdEMAMix8bit', lr=0.1, min_8bit_size=500)",
            "dict(type='PagedAdEMAMix8bit', lr=0.01, betas=(0.5, 0.8, 0.9), alpha=2.0, t_alpha=3, \
             t_beta3=4, eps=1e-3, weight_decay=0.1)",
        ],
        largest: "dict(type='PagedAdEMAMix8bit', lr=0.1, min_8bit_size=500)",
        bad: &[("t_alpha=-1", "PagedAdEMAMix8bit: t_alpha must be ≥ 0, got -1")],
        skips: &[],
    },
    Inputs {
        name: "PagedAdEMAMix32bit",
        good: &[
            "dict(type='PagedAdEMAMix32bit', lr=0.1)",
            "dict(type='PagedAdEMAMix32bit', lr=0.01, betas=(0.5, 0.8, 0.9), alpha=2.0, t_alpha=3, \
             t_beta3=4, eps=1e-3, weight_decay=0.1)",
        ],
        largest: "dict(type='PagedAdEMAMix32bit', lr=0.1)",
        bad: &[("t_alpha=-1", "PagedAdEMAMix32bit: t_alpha must be ≥ 0, got -1")],
        skips: &[],
    },
    Inputs {
        name: "LAMB8bit",
        good: &[
            "dict(type='LAMB8bit', lr=0.1, min_8bit_size=500)",
            "dict(type='LAMB8bit', lr=0.01, min_8bit_size=0, quantised_trust_ratio=True)",
            "dict(type='LAMB8bit', lr=0.01, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1, max_unorm=0.3, \
             bias_corrected_unorm=True)",
        ],
        largest: "dict(type='LAMB8bit', lr=0.1, min_8bit_size=500)",
        bad: &[("max_unorm=-1.0", "LAMB8bit: max_unorm must be ≥ 0, got -1.0")],
        skips: &[],
    },
    Inputs {
        name: "LARS8bit",
        good: &[
            "dict(type='LARS8bit', lr=0.1, min_8bit_size=500)",
            "dict(type='LARS8bit', lr=0.1, min_8bit_size=0, quantised_trust_ratio=True)",
            "dict(type='LARS8bit', lr=0.1, momentum=0.5, weight_decay=0.1, max_unorm=0.3)",
        ],
        largest: "dict(type='LARS8bit', lr=0.1, min_8bit_size=500)",
        bad: &[("lr=0.1, max_unorm=-0.1", "LARS8bit: max_unorm must be ≥ 0, got -0.1")],
        skips: &[],
    },
];

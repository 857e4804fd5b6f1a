//! The table: what `state_dict()` of the versions in NAMES gives. They are torch 2.15, bitsandbytes 0.50.2,
//! lion-pytorch 0.2.5, dadaptation 3.2, sophia-opt 0.2.2, schedulefree 1.4.1, transformers 5.23, DeepSpeed 0.19.8.

use super::Fixed::{self, Float, Pair, True};
use super::Follows::{Difference, Eta, Mu, MuProduct, Number, Scratch};
use super::Group::{self, First, Fixed as Always, Same as Key, Shared, Training, WarmedUp};
use super::State::{self, Columns, Follows, Rows, Same, Stacked};
use super::{Layout, Steps};

/// A row: the names that have the layout, and the layout, or why there is none.
pub type Row = (&'static [&'static str], Result<Layout, &'static str>);

/// Returns the layout of an algorithm's source.
///
/// # Errors
/// Why there is none; `None` for a name that is in no row.
pub fn find(name: &str) -> Option<Result<&'static Layout, &'static str>> {
    let (_, layout) = ROWS.iter().find(|(names, _)| names.contains(&name))?;
    Some(layout.as_ref().map_err(|reason| *reason))
}

const fn torch(states: &'static [State], groups: &'static [Group]) -> Result<Layout, &'static str> {
    Ok(Layout { steps: Steps::Tensor, nested: None, states, groups, eager: false })
}

const fn whole(states: &'static [State], groups: &'static [Group]) -> Result<Layout, &'static str> {
    Ok(Layout { steps: Steps::Whole, nested: None, states, groups, eager: false })
}

const fn stepless(states: &'static [State], groups: &'static [Group]) -> Result<Layout, &'static str> {
    Ok(Layout { steps: Steps::Nowhere, nested: None, states, groups, eager: false })
}

const fn bitsandbytes(states: &'static [State], groups: &'static [Group]) -> Result<Layout, &'static str> {
    Ok(Layout {
        steps: Steps::Whole,
        nested: Some("__bnb_optimizer_quant_state__"),
        states,
        groups,
        eager: false,
    })
}

const MOMENTS: &[State] = &[Same("exp_avg", "m"), Same("exp_avg_sq", "v")];
const MOMENTS_MAX: &[State] =
    &[Same("exp_avg", "m"), Same("exp_avg_sq", "v"), Same("max_exp_avg_sq", "v_max")];
const MOMENTUM: &[State] = &[Same("momentum_buffer", "momentum")];
const BNB_MOMENTS: &[State] = &[Same("state1", "m"), Same("state2", "v")];
/// bitsandbytes' two-state classes all have AdEMAMix's keys.
const BNB_ADAM: &[Group] = &[
    Key("lr"),
    Key("betas"),
    Key("eps"),
    Key("weight_decay"),
    Always("alpha", Float(0.0)),
    Always("t_alpha", Fixed::None),
    Always("t_beta3", Fixed::None),
];
const BNB_MOMENTUM: &[Group] =
    &[Key("lr"), First("betas", "momentum"), Always("eps", Float(0.0)), Key("weight_decay")];
const BNB_ADEMAMIX: Result<Layout, &'static str> = bitsandbytes(
    &[Stacked("state1", &["m", "m_slow"]), Same("state2", "v")],
    &[Key("lr"), Key("betas"), Key("eps"), Key("weight_decay"), Key("alpha"), Key("t_alpha"), Key("t_beta3")],
);
const DEEPSPEED_ADAM: &[Group] =
    &[Key("lr"), Key("bias_correction"), Key("betas"), Key("eps"), Key("weight_decay")];

/// Every name of the registry.
pub const ROWS: &[Row] = &[
    (
        &["SGD"],
        stepless(
            MOMENTUM,
            &[
                Key("lr"),
                Key("momentum"),
                Key("dampening"),
                Key("weight_decay"),
                Key("nesterov"),
                Key("maximize"),
                Key("foreach"),
                Key("differentiable"),
                Key("fused"),
            ],
        ),
    ),
    (
        &["Adam"],
        torch(
            MOMENTS_MAX,
            &[
                Key("lr"),
                Key("betas"),
                Key("eps"),
                Key("weight_decay"),
                Key("amsgrad"),
                Key("maximize"),
                Key("foreach"),
                Key("capturable"),
                Key("differentiable"),
                Key("fused"),
                Key("decoupled_weight_decay"),
            ],
        ),
    ),
    (
        &["AdamW"],
        torch(
            MOMENTS_MAX,
            &[
                Key("lr"),
                Key("betas"),
                Key("eps"),
                Key("weight_decay"),
                Key("amsgrad"),
                Key("maximize"),
                Key("foreach"),
                Key("capturable"),
                Key("differentiable"),
                Key("fused"),
                Always("decoupled_weight_decay", True),
            ],
        ),
    ),
    (
        &["Adagrad"],
        Ok(Layout {
            steps: Steps::Tensor,
            nested: None,
            states: &[Same("sum", "sum")],
            eager: true,
            groups: &[
                Key("lr"),
                Key("lr_decay"),
                Key("eps"),
                Key("weight_decay"),
                Key("initial_accumulator_value"),
                Key("foreach"),
                Key("maximize"),
                Key("differentiable"),
                Key("fused"),
            ],
        }),
    ),
    (
        &["Adadelta"],
        torch(
            &[Same("square_avg", "v"), Same("acc_delta", "u")],
            &[
                Key("lr"),
                Key("rho"),
                Key("eps"),
                Key("weight_decay"),
                Key("maximize"),
                Key("capturable"),
                Key("foreach"),
                Key("differentiable"),
            ],
        ),
    ),
    (
        &["RMSprop"],
        torch(
            &[Same("square_avg", "v"), Same("momentum_buffer", "momentum"), Same("grad_avg", "mean")],
            &[
                Key("lr"),
                Key("momentum"),
                Key("alpha"),
                Key("eps"),
                Key("centered"),
                Key("weight_decay"),
                Key("capturable"),
                Key("foreach"),
                Key("maximize"),
                Key("differentiable"),
            ],
        ),
    ),
    (
        &["RAdam"],
        torch(
            MOMENTS,
            &[
                Key("lr"),
                Key("betas"),
                Key("eps"),
                Key("weight_decay"),
                Key("maximize"),
                Key("foreach"),
                Key("capturable"),
                Key("decoupled_weight_decay"),
                Key("differentiable"),
            ],
        ),
    ),
    (
        &["NAdam"],
        torch(
            &[Follows("mu_product", MuProduct), Same("exp_avg", "m"), Same("exp_avg_sq", "v")],
            &[
                Key("lr"),
                Key("betas"),
                Key("eps"),
                Key("weight_decay"),
                Key("momentum_decay"),
                Key("decoupled_weight_decay"),
                Key("maximize"),
                Key("foreach"),
                Key("capturable"),
                Key("differentiable"),
            ],
        ),
    ),
    (
        &["Adamax"],
        torch(
            &[Same("exp_avg", "m"), Same("exp_inf", "u")],
            &[
                Key("lr"),
                Key("betas"),
                Key("eps"),
                Key("weight_decay"),
                Key("foreach"),
                Key("maximize"),
                Key("differentiable"),
                Key("capturable"),
            ],
        ),
    ),
    (
        &["ASGD"],
        torch(
            &[Follows("eta", Eta), Follows("mu", Mu), Same("ax", "ax")],
            &[
                Key("lr"),
                Key("lambd"),
                Key("alpha"),
                Key("t0"),
                Key("weight_decay"),
                Key("foreach"),
                Key("maximize"),
                Key("differentiable"),
                Key("capturable"),
            ],
        ),
    ),
    (
        &["Rprop"],
        torch(
            &[Same("prev", "prev"), Same("step_size", "step_size")],
            &[
                Key("lr"),
                Key("etas"),
                Key("step_sizes"),
                Key("foreach"),
                Key("maximize"),
                Key("differentiable"),
                Key("capturable"),
            ],
        ),
    ),
    (&["SparseAdam"], whole(MOMENTS, &[Key("lr"), Key("betas"), Key("eps"), Key("maximize")])),
    (
        &["Muon"],
        stepless(
            MOMENTUM,
            &[
                Key("lr"),
                Key("weight_decay"),
                Key("momentum"),
                Key("nesterov"),
                Key("ns_coefficients"),
                Key("eps"),
                Key("ns_steps"),
                Key("adjust_lr_fn"),
            ],
        ),
    ),
    (
        &["TorchAdafactor"],
        torch(
            &[Rows("row_var", "row"), Columns("col_var", "column"), Same("variance", "v")],
            &[
                Key("lr"),
                Key("beta2_decay"),
                Key("eps"),
                Key("d"),
                Key("weight_decay"),
                Key("foreach"),
                Key("maximize"),
            ],
        ),
    ),
    (
        &["Adafactor"],
        whole(
            &[
                Same("exp_avg", "m"),
                Same("exp_avg_sq_row", "row"),
                Same("exp_avg_sq_col", "column"),
                Same("exp_avg_sq", "v"),
                Follows("RMS", Number),
            ],
            &[
                Key("lr"),
                Key("eps"),
                Key("clip_threshold"),
                Key("decay_rate"),
                Key("beta1"),
                Key("weight_decay"),
                Key("scale_parameter"),
                Key("relative_step"),
                Key("warmup_init"),
            ],
        ),
    ),
    (&["Lion"], stepless(&[Same("exp_avg", "m")], &[Key("lr"), Key("betas"), Key("weight_decay")])),
    (
        &["SophiaG"],
        torch(
            &[Same("exp_avg", "m"), Same("hessian", "hessian")],
            &[Key("lr"), Key("betas"), Key("rho"), Key("weight_decay"), Key("maximize"), Key("capturable")],
        ),
    ),
    (
        &["DAdaptAdam"],
        whole(
            &[Same("s", "s"), Same("exp_avg", "m"), Same("exp_avg_sq", "v")],
            &[
                Key("lr"),
                Key("betas"),
                Key("eps"),
                Key("weight_decay"),
                Shared("d", false),
                Shared("k", true),
                Key("layer_scale"),
                Shared("numerator_weighted", false),
                Key("log_every"),
                Key("growth_rate"),
                Key("use_bias_correction"),
                Key("decouple"),
                Key("fsdp_in_use"),
            ],
        ),
    ),
    (
        &["DAdaptSGD"],
        Ok(Layout {
            steps: Steps::Group,
            nested: None,
            eager: false,
            states: &[Follows("z", Difference("x0", "s")), Same("s", "s"), Same("x0", "x0")],
            groups: &[
                Key("lr"),
                Key("momentum"),
                Key("weight_decay"),
                Shared("k", true),
                Key("log_every"),
                Shared("numerator_weighted", false),
                Shared("d", false),
                Key("growth_rate"),
                Key("fsdp_in_use"),
                Shared("g0_norm", false),
            ],
        }),
    ),
    (
        &["DAdaptAdaGrad"],
        Ok(Layout {
            steps: Steps::Group,
            nested: None,
            eager: false,
            states: &[Same("alphak", "alphak"), Same("sk", "sk"), Same("x0", "x0")],
            groups: &[
                Key("lr"),
                Key("momentum"),
                Key("eps"),
                Key("weight_decay"),
                Shared("gsq_weighted", false),
                Key("log_every"),
                Shared("d", false),
                Key("growth_rate"),
                Shared("k", true),
                Shared("sksq_weighted", false),
                Shared("skl1", false),
            ],
        }),
    ),
    (
        &[
            "bnb_Adam",
            "bnb_AdamW",
            "Adam32bit",
            "AdamW32bit",
            "Adam8bit",
            "AdamW8bit",
            "PagedAdam",
            "PagedAdam8bit",
            "PagedAdam32bit",
            "PagedAdamW",
            "PagedAdamW8bit",
            "PagedAdamW32bit",
        ],
        bitsandbytes(BNB_MOMENTS, BNB_ADAM),
    ),
    (
        &["LAMB", "LAMB32bit", "LAMB8bit"],
        bitsandbytes(&[Same("state1", "m"), Same("state2", "v"), Follows("unorm_vec", Scratch)], BNB_ADAM),
    ),
    (
        &[
            "AdEMAMix",
            "AdEMAMix32bit",
            "AdEMAMix8bit",
            "PagedAdEMAMix",
            "PagedAdEMAMix8bit",
            "PagedAdEMAMix32bit",
        ],
        BNB_ADEMAMIX,
    ),
    (
        &["bnb_Adagrad", "Adagrad32bit", "Adagrad8bit"],
        bitsandbytes(
            &[Same("state1", "sum")],
            &[Key("lr"), Always("betas", Pair(0.0, 0.0)), Key("eps"), Key("weight_decay")],
        ),
    ),
    (
        &["bnb_Lion", "Lion32bit", "Lion8bit", "PagedLion", "PagedLion8bit", "PagedLion32bit"],
        bitsandbytes(
            &[Same("state1", "m")],
            &[Key("lr"), Key("betas"), Always("eps", Float(0.0)), Key("weight_decay")],
        ),
    ),
    (
        &["bnb_RMSprop", "RMSprop32bit", "RMSprop8bit"],
        bitsandbytes(
            &[Same("state1", "v")],
            &[Key("lr"), First("betas", "alpha"), Key("eps"), Key("weight_decay")],
        ),
    ),
    (&["bnb_SGD", "SGD32bit", "SGD8bit"], bitsandbytes(&[Same("state1", "momentum")], BNB_MOMENTUM)),
    (
        &["LARS", "LARS32bit", "LARS8bit"],
        bitsandbytes(&[Same("state1", "momentum"), Follows("unorm_vec", Scratch)], BNB_MOMENTUM),
    ),
    (
        &["PytorchLARS"],
        stepless(
            MOMENTUM,
            &[
                Key("lr"),
                Key("momentum"),
                Key("dampening"),
                Key("weight_decay"),
                Key("nesterov"),
                Key("max_unorm"),
            ],
        ),
    ),
    (&["FusedAdam"], whole(MOMENTS, DEEPSPEED_ADAM)),
    (
        &["DeepSpeedCPUAdam"],
        whole(
            MOMENTS,
            &[
                Key("lr"),
                Key("bias_correction"),
                Key("betas"),
                Key("eps"),
                Key("weight_decay"),
                Key("amsgrad"),
            ],
        ),
    ),
    (
        &["FusedLamb"],
        whole(
            MOMENTS,
            &[
                Key("lr"),
                Key("bias_correction"),
                Key("betas"),
                Key("eps"),
                Key("weight_decay"),
                Key("max_grad_norm"),
                Key("max_coeff"),
                Key("min_coeff"),
            ],
        ),
    ),
    (
        &["LBFGS"],
        // Its memory is not of one parameter each: `crate::vectors`.
        stepless(
            &[],
            &[
                Key("lr"),
                Key("max_iter"),
                Key("max_eval"),
                Key("tolerance_grad"),
                Key("tolerance_change"),
                Key("history_size"),
                Key("line_search_fn"),
                Key("maximize"),
            ],
        ),
    ),
    (
        &["AdamWScheduleFree"],
        stepless(
            &[Same("z", "z"), Same("exp_avg_sq", "v")],
            &[
                Key("lr"),
                Key("betas"),
                Key("eps"),
                Key("r"),
                Key("k"),
                Key("warmup_steps"),
                Training("train_mode"),
                Key("weight_sum"),
                Key("lr_max"),
                WarmedUp("scheduled_lr"),
                Key("weight_lr_power"),
                Key("weight_decay"),
                Key("foreach"),
            ],
        ),
    ),
    (&["Prodigy"], Err("the estimates that prodigyopt's groups report (d_hat, d_denom) are not kept")),
    (
        &["AdaMuon", "NorMuon"],
        Err("pytorch_optimizer keeps the settings of an AdamW of its own in each group"),
    ),
    (
        &["OnebitAdam", "OnebitLamb", "ZeroOneAdam"],
        Err(
            "it keeps what its compression left over, which belongs to the ranks of one run and to their buffers",
        ),
    ),
    (
        &["ZeroRedundancyOptimizer"],
        Err("it has no state of its own: convert under the name of the optimizer that it wraps"),
    ),
];

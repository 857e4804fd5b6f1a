//! The arguments of each kind of scheduler.

use super::Reader;
use crate::error::{Error, Result};
use fallline_optim::schedule::{
    Anneal, Constant, CosineAnnealing, CosineRestart, Curve, Direction, Exponential, Linear, Minimum,
    MultiStep, OneCycle, PerGroup, Poly, ReduceOnPlateau, Step, Threshold,
};

/// A kind of scheduler.
pub(super) struct Kind {
    /// MMEngine's name, without its suffix.
    pub(super) name: &'static str,
    /// The arguments that it alone has.
    pub(super) arguments: &'static [&'static str],
    /// Reads them, for an entry of this name.
    pub(super) read: fn(&Reader<'_>, &str) -> Result<Curve>,
}

impl Kind {
    /// Returns whether it can change anything but the learning rate.
    pub(super) fn has_momentum(&self) -> bool {
        self.name != "OneCycle"
    }
}

/// Every kind, sorted by name.
pub(super) const KINDS: &[Kind] = &[
    Kind {
        name: "Constant",
        arguments: &["factor"],
        read: |read, _| Ok(Constant { factor: read.factor("factor", Constant::default().factor)? }.into()),
    },
    Kind {
        name: "CosineAnnealing",
        arguments: &["T_max", "eta_min", "eta_min_ratio"],
        read: |read, _| {
            // As `T_max or (end - begin)` has it.
            let t_max = read.number_from("T_max", 0.0)?.filter(|&t_max| t_max != 0.0);
            let minimum = minimum(read)?.unwrap_or(CosineAnnealing::default().minimum);
            Ok(CosineAnnealing { t_max, minimum }.into())
        },
    },
    Kind {
        name: "CosineRestart",
        arguments: &["periods", "restart_weights", "eta_min", "eta_min_ratio"],
        read: |read, full| {
            let periods = read.numbers("periods", 1.0)?.ok_or_else(|| read.missing(full, "periods"))?;
            let weights = read.numbers("restart_weights", f64::NEG_INFINITY)?;
            let restart_weights = weights.unwrap_or_else(|| vec![1.0]);
            if restart_weights.len() != periods.len() {
                let key = if read.get("restart_weights").is_some() { "restart_weights" } else { "periods" };
                let expected = "as many restart_weights as periods ([1] by default)";
                return Err(read.wrong(key, expected, read.value(key)));
            }
            let minimum = minimum(read)?.ok_or_else(|| read.missing(full, "eta_min"))?;
            Ok(CosineRestart { periods, restart_weights, minimum }.into())
        },
    },
    Kind {
        name: "Exponential",
        arguments: &["gamma"],
        read: |read, full| {
            let gamma = read.number("gamma")?.ok_or_else(|| read.missing(full, "gamma"))?;
            Ok(Exponential { gamma }.into())
        },
    },
    Kind {
        name: "Linear",
        arguments: &["start_factor", "end_factor"],
        read: |read, _| {
            let default = Linear::default();
            let start_factor = read.factor("start_factor", default.start_factor)?;
            Ok(Linear { start_factor, end_factor: read.factor("end_factor", default.end_factor)? }.into())
        },
    },
    Kind {
        name: "MultiStep",
        arguments: &["milestones", "gamma"],
        read: |read, full| {
            let milestones =
                read.numbers("milestones", 0.0)?.ok_or_else(|| read.missing(full, "milestones"))?;
            Ok(MultiStep { milestones, gamma: read.number("gamma")?.unwrap_or(0.1) }.into())
        },
    },
    Kind {
        name: "OneCycle",
        arguments: &[
            "eta_max",
            "total_steps",
            "pct_start",
            "anneal_strategy",
            "div_factor",
            "final_div_factor",
            "three_phase",
        ],
        read: one_cycle,
    },
    Kind {
        name: "Poly",
        arguments: &["eta_min", "power"],
        read: |read, _| {
            let default = Poly::default();
            let eta_min = read.number("eta_min")?.unwrap_or(default.eta_min);
            Ok(Poly { eta_min, power: read.number("power")?.unwrap_or(default.power) }.into())
        },
    },
    Kind {
        name: "ReduceOnPlateau",
        arguments: &[
            "monitor",
            "rule",
            "factor",
            "patience",
            "threshold",
            "threshold_rule",
            "cooldown",
            "min_value",
            "eps",
        ],
        read: plateau,
    },
    Kind {
        name: "Step",
        arguments: &["step_size", "gamma"],
        read: |read, full| {
            let step_size =
                read.number_above("step_size", 0.0)?.ok_or_else(|| read.missing(full, "step_size"))?;
            Ok(Step { step_size, gamma: read.number("gamma")?.unwrap_or(0.1) }.into())
        },
    },
];

fn one_cycle(read: &Reader<'_>, _: &str) -> Result<Curve> {
    let default = OneCycle::default();
    let curve = OneCycle {
        eta_max: per_group(read, "eta_max")?.unwrap_or(default.eta_max),
        total_steps: read.count("total_steps", 1)?.map(|steps| steps as f64),
        pct_start: read.factor("pct_start", default.pct_start)?,
        anneal: read.word("anneal_strategy", [("cos", Anneal::Cos), ("linear", Anneal::Linear)])?,
        div_factor: read.number("div_factor")?.unwrap_or(default.div_factor),
        final_div_factor: read.number("final_div_factor")?.unwrap_or(default.final_div_factor),
        three_phase: read.flag("three_phase")?.unwrap_or(default.three_phase),
    };
    Ok(curve.into())
}

fn plateau(read: &Reader<'_>, _: &str) -> Result<Curve> {
    let default = ReduceOnPlateau::default();
    let factor = read.number("factor")?.unwrap_or(default.factor);
    if factor >= 1.0 {
        return Err(read.wrong("factor", "below 1", read.value("factor")));
    }
    let monitor = match read.get("monitor") {
        None => default.monitor,
        Some(node) => match node.value.as_str() {
            Some(name) => name.to_owned(),
            None => return Err(read.wrong("monitor", "the name of a metric", node)),
        },
    };
    let by = read.number_from("threshold", 0.0)?.unwrap_or(1e-4);
    let threshold = [("rel", Threshold::Relative(by)), ("abs", Threshold::Absolute(by))];
    let curve = ReduceOnPlateau {
        monitor,
        direction: read.word("rule", [("less", Direction::Less), ("greater", Direction::Greater)])?,
        factor,
        patience: read.count("patience", 0)?.unwrap_or(default.patience),
        threshold: read.word("threshold_rule", threshold)?,
        cooldown: read.count("cooldown", 0)?.unwrap_or(default.cooldown),
        min_value: per_group(read, "min_value")?.unwrap_or(default.min_value),
        eps: read.number("eps")?.unwrap_or(default.eps),
    };
    Ok(curve.into())
}

/// Reads a number, or a list of one for each group.
fn per_group(read: &Reader<'_>, key: &str) -> Result<Option<PerGroup>> {
    match read.get(key).map(|node| node.value.as_list()) {
        Some(Some(_)) => Ok(read.numbers(key, f64::NEG_INFINITY)?.map(PerGroup::Each)),
        _ => Ok(read.number(key)?.map(PerGroup::All)),
    }
}

fn minimum(read: &Reader<'_>) -> Result<Option<Minimum>> {
    match (read.number("eta_min")?, read.number("eta_min_ratio")?) {
        (None, None) => Ok(None),
        (None, Some(ratio)) => Ok(Some(Minimum::Ratio(ratio))),
        (Some(value), None) => Ok(Some(Minimum::Value(value))),
        (Some(_), Some(_)) => {
            let at = read.at("eta_min_ratio");
            let expected = "left out where eta_min is given".to_owned();
            Err(Error::Value { at, key: "eta_min_ratio".into(), expected, got: "both".into() })
        }
    }
}

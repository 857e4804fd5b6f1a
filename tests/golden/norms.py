"""The optimizers that look at norms, or at all parameters together: their cases, and their rules once more in numpy.

bitsandbytes computes in f32 alone, and DeepSpeed's kernel runs on CUDA alone. What they cannot give is recorded from the
literal transcriptions below; an expected file says so under `source`. Where bitsandbytes does run, --check holds its
results against the same transcription.
"""

import math
from dataclasses import dataclass

import numpy as np

# optimizer -> (class, package, states of the source -> ours)
MOMENTS = {"state1": "m", "state2": "v"}
SOURCES = {
    "LAMB": ("bitsandbytes.optim.LAMB", "bitsandbytes", MOMENTS),
    "LAMB32bit": ("bitsandbytes.optim.LAMB32bit", "bitsandbytes", MOMENTS),
    "LARS": ("bitsandbytes.optim.LARS", "bitsandbytes", {"state1": "momentum"}),
    "LARS32bit": ("bitsandbytes.optim.LARS32bit", "bitsandbytes", {"state1": "momentum"}),
    "PytorchLARS": ("bitsandbytes.optim.PytorchLARS", "bitsandbytes", {"momentum_buffer": "momentum"}),
    "FusedLamb": ("deepspeed.ops.lamb.FusedLamb", "deepspeed", {}),
    "DAdaptAdam": ("dadaptation.DAdaptAdam", "dadaptation", {"exp_avg": "m", "exp_avg_sq": "v", "s": "s"}),
    "DAdaptSGD": ("dadaptation.DAdaptSGD", "dadaptation", {"s": "s", "x0": "x0"}),
    "DAdaptAdaGrad": ("dadaptation.DAdaptAdaGrad", "dadaptation", {"alphak": "alphak", "sk": "sk", "x0": "x0"}),
}
# States of the sources that are scratch (bitsandbytes' norm) or follow from others (z = x0 - s, weighted_sk).
DROPPED = {"unorm_vec", "z", "weighted_sk"}

LAMB = {
    "default": dict(),
    "betas-eps-decay": dict(lr=0.05, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.3),
    "unorm": dict(lr=0.02, max_unorm=0.1, weight_decay=0.05),
    "unorm-off": dict(lr=0.01, max_unorm=0.0, betas=(0.85, 0.9)),
}
LARS = {
    "default": dict(lr=0.01, momentum=0.9),
    "decay": dict(lr=0.1, momentum=0.8, weight_decay=0.1),
    "unorm": dict(lr=0.05, momentum=0.95, weight_decay=0.02, max_unorm=0.5),
    "unorm-off": dict(lr=0.005, momentum=0.7, max_unorm=0.0),
}
CASES = {
    "LAMB": LAMB,
    "LAMB32bit": {case: LAMB[case] for case in ("default", "betas-eps-decay", "unorm")},
    "LARS": LARS,
    "LARS32bit": {case: LARS[case] for case in ("default", "decay", "unorm")},
    "PytorchLARS": {
        "default": dict(),
        "decay": dict(lr=0.1, weight_decay=0.1),
        "momentum": dict(lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.05),
        "nesterov": dict(lr=0.05, momentum=0.8, nesterov=True, weight_decay=0.02, max_unorm=0.3),
        "unorm-off": dict(lr=0.01, momentum=0.7, dampening=-0.2, max_unorm=0.0),
    },
    "FusedLamb": {
        "default": dict(),
        "decay-betas": dict(lr=0.01, betas=(0.8, 0.95), weight_decay=0.3),
        "coefficients": dict(lr=0.02, max_coeff=0.5, min_coeff=0.3, eps=1e-4),
        "inside": dict(lr=0.01, eps=1e-3, eps_inside_sqrt=True, bias_correction=False),
        "clipped": dict(lr=0.01, weight_decay=0.05, max_grad_norm=5.0),
    },
    "DAdaptAdam": {
        "default": dict(),
        "decay": dict(lr=0.7, betas=(0.8, 0.95), weight_decay=0.1, d0=1e-3, growth_rate=1.5),
        "decoupled": dict(betas=(0.85, 0.9), eps=1e-4, weight_decay=0.2, decouple=True, d0=1e-2, growth_rate=2.0),
        "bias": dict(d0=1e-4, use_bias_correction=True, growth_rate=3.0),
    },
    "DAdaptSGD": {
        "default": dict(),
        "momentum": dict(lr=0.5, momentum=0.9, d0=1e-3),
        "decay": dict(momentum=0.5, weight_decay=0.1, d0=1e-2, growth_rate=1.1),
    },
    "DAdaptAdaGrad": {
        "default": dict(),
        "momentum": dict(lr=0.5, momentum=0.9, eps=1e-3, d0=1e-2),
        "decay": dict(weight_decay=0.1, d0=1e-2, growth_rate=1.2),
    },
}


# ---------------------------------------------------------------------------------------------------------------------
# The rules. `ps`, `gs`, `ss`: name -> parameter, gradient (of those that have one), states; `all_` is kept between steps.


def scale_of(update, p, max_unorm):
    unorm, pnorm = np.sqrt(np.sum(update * update)), np.sqrt(np.sum(p * p))
    return max_unorm * pnorm / unorm if max_unorm > 0 and unorm > max_unorm * pnorm else 1.0


def lamb(p, g, s, t, group, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, max_unorm=1.0):
    s["m"] = betas[0] * s.get("m", 0 * g) + (1 - betas[0]) * g
    s["v"] = betas[1] * s.get("v", 0 * g) + (1 - betas[1]) * g * g
    c1, c2 = 1 - betas[0] ** t, math.sqrt(1 - betas[1] ** t)
    update = s["m"] / (np.sqrt(s["v"]) + eps * c2)
    return p * (1 - lr * weight_decay) - lr * c2 / c1 * scale_of(update, p, max_unorm) * update


def lars(p, g, s, t, group, lr, momentum, weight_decay=0.0, max_unorm=0.02):
    g = g + weight_decay * p
    s["momentum"] = momentum * s.get("momentum", 0 * g) + g
    return p - lr * scale_of(s["momentum"], p, max_unorm) * s["momentum"]


def pytorch_lars(
    p, g, s, t, group, lr=0.01, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, max_unorm=0.02
):
    update = g = g + weight_decay * p
    if momentum != 0:
        s["momentum"] = momentum * s["momentum"] + (1 - dampening) * g if t > 1 else g
        update = g + momentum * s["momentum"] if nesterov else s["momentum"]
    return p - lr * scale_of(update, p, max_unorm) * update


def fused_lamb(
    p,
    g,
    s,
    t,
    group,
    lr=1e-3,
    bias_correction=True,
    betas=(0.9, 0.999),
    eps=1e-8,
    eps_inside_sqrt=False,
    weight_decay=0.0,
    max_grad_norm=0.0,
    max_coeff=10.0,
    min_coeff=0.01,
):
    if max_grad_norm > 0:
        norm = math.sqrt(sum(float(np.sum(grad * grad)) for grad in group.values()))
        clip = (norm + 1e-6) / max_grad_norm
        g = g / clip if clip > 1 else g
    s["m"] = betas[0] * s.get("m", 0 * g) + (1 - betas[0]) * g
    s["v"] = betas[1] * s.get("v", 0 * g) + (1 - betas[1]) * g * g
    denom = np.sqrt(s["v"] + eps) if eps_inside_sqrt else np.sqrt(s["v"]) + eps
    update = s["m"] / denom + weight_decay * p
    w, u = np.sqrt(np.sum(p * p)), np.sqrt(np.sum(update * update))
    coeff = max(min(w / u, max_coeff), min_coeff) if w != 0 and u != 0 else 1.0
    step_size = lr * math.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t) if bias_correction else lr
    return p - step_size * coeff * update


def dadapt_adam(
    ps,
    gs,
    ss,
    kept,
    lr=1.0,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    decouple=False,
    use_bias_correction=False,
    d0=1e-6,
    growth_rate=math.inf,
):
    d, k, numerator = kept.get("d", d0), kept.get("k", 0) + 1, kept.get("numerator", 0.0)
    beta1, beta2 = betas
    root = math.sqrt(beta2)
    dlr = d * lr * (math.sqrt(1 - beta2**k) / (1 - beta1**k) if use_bias_correction else 1.0)
    dot = length = 0.0
    for name, g in gs.items():
        p, s = ps[name], ss[name]
        g = g + weight_decay * p if not decouple else g
        for state in ("m", "v", "s"):
            s.setdefault(state, 0 * p)
        dot += dlr * np.sum(g * s["s"] / (np.sqrt(s["v"]) + eps))
        s["m"] = beta1 * s["m"] + dlr * (1 - beta1) * g
        s["v"] = beta2 * s["v"] + (1 - beta2) * g * g
        s["s"] = root * s["s"] + dlr * (1 - root) * g
        length += np.sum(np.abs(s["s"]))
    if length == 0:
        return
    kept["numerator"] = numerator = root * numerator + (1 - root) * dot
    kept["d"] = max(d, min(numerator / ((1 - root) * length), d * growth_rate))
    kept["k"] = k
    for name in gs:
        s = ss[name]
        keep = 1 - weight_decay * dlr if decouple else 1.0
        ps[name] = keep * ps[name] - s["m"] / (np.sqrt(s["v"]) + eps)


def dadapt_sgd(ps, gs, ss, kept, lr=1.0, momentum=0.0, weight_decay=0.0, d0=1e-6, growth_rate=math.inf):
    d, numerator = kept.get("d", d0), kept.get("numerator", 0.0)
    if "norm" not in kept:
        kept["norm"] = math.sqrt(sum(float(np.sum(g * g)) for g in gs.values()))
    dlr, s2 = d * lr / kept["norm"], 0.0
    for name, g in gs.items():
        p, s = ps[name], ss[name]
        s.setdefault("s", 0 * p)
        s.setdefault("x0", p)
        g = g + weight_decay * p
        numerator += dlr * np.sum(g * s["s"])
        s["s"] = s["s"] + dlr * g
        s2 += np.sum(s["s"] * s["s"])
    kept["numerator"] = numerator
    kept["d"] = max(d, min(2 * numerator / math.sqrt(s2), d * growth_rate))
    for name in gs:
        s = ss[name]
        ps[name] = momentum * ps[name] + (1 - momentum) * (s["x0"] - s["s"])


def dadapt_adagrad(
    ps, gs, ss, kept, lr=1.0, momentum=0.0, weight_decay=0.0, eps=1e-6, d0=1e-6, growth_rate=math.inf
):
    d = kept.get("d", d0)
    dlr, squares = d * lr, 0.0
    for name, g in gs.items():
        p, s = ps[name], ss[name]
        s.setdefault("alphak", 0 * p + 1e-6)
        s.setdefault("sk", 0 * p)
        s.setdefault("x0", p)
        g = g + weight_decay * p
        before = np.sum(s["sk"] ** 2 / (np.sqrt(s["alphak"]) + eps)), np.sum(np.abs(s["sk"]))
        s["alphak"] = s["alphak"] + g * g
        root = np.sqrt(s["alphak"]) + eps
        squares += np.sum(g * g / root)
        s["sk"] = s["sk"] + dlr * g
        kept["s2"] = kept.get("s2", 0.0) + np.sum(s["sk"] ** 2 / root) - before[0]
        kept["length"] = kept.get("length", 0.0) + np.sum(np.abs(s["sk"])) - before[1]
    if kept.get("length", 0.0) == 0:
        return
    kept["squares"] = kept.get("squares", 0.0) + dlr * dlr * squares
    kept["d"] = max(d, min((kept["s2"] - kept["squares"]) / kept["length"], d * growth_rate))
    for name in gs:
        s = ss[name]
        z = s["x0"] - s["sk"] / (np.sqrt(s["alphak"]) + eps)
        ps[name] = momentum * ps[name] + (1 - momentum) * z if momentum != 0 else z


ONE_BY_ONE = {
    "LAMB": lamb,
    "LAMB32bit": lamb,
    "LARS": lars,
    "LARS32bit": lars,
    "PytorchLARS": pytorch_lars,
    "FusedLamb": fused_lamb,
}
TOGETHER = {"DAdaptAdam": dadapt_adam, "DAdaptSGD": dadapt_sgd, "DAdaptAdaGrad": dadapt_adagrad}
RULES = ONE_BY_ONE | TOGETHER


@dataclass
class Traced:
    out: dict
    scale: dict
    steps: dict


def run_rule(name, options, trace, params, steps, kept, dtype=np.float64):
    """What the transcription gives, with the scale that the error of each element is measured by."""
    ps = {param: trace[f"param/{param}"].astype(dtype) for param in params}
    ss, counts, together = {param: {} for param in params}, dict.fromkeys(params, 0), {}
    out, scale, largest = {}, {}, {param: np.abs(p) for param, p in ps.items()}
    largest_state, way = {param: {} for param in params}, {param: 0 * p for param, p in ps.items()}
    for step in range(steps):
        gs = {param: trace[f"grad/{step}/{param}"].astype(dtype) for param in params if f"grad/{step}/{param}" in trace}
        before = dict(ps)
        for param in gs:
            counts[param] += 1
        if name in TOGETHER:
            TOGETHER[name](ps, gs, ss, together, **options)
        else:
            for param, g in gs.items():
                ps[param] = ONE_BY_ONE[name](ps[param], g, ss[param], counts[param], gs, **options)
        for param, p in ps.items():
            ps[param] = p = np.asarray(p, dtype)
            largest[param] = np.maximum(largest[param], np.abs(p))
            way[param] = way[param] + np.abs(p - before[param])
            for state, value in ss[param].items():
                largest_state[param][state] = np.maximum(largest_state[param].get(state, 0.0), np.abs(value))
            if step in kept(param):
                out[f"expected/{step}/{param}"], scale[f"expected/{step}/{param}"] = p, largest[param] + way[param]
    for param in params:
        for state, value in ss[param].items():
            key = f"expected_state/{param}/{state}"
            out[key], scale[key] = np.asarray(value, dtype), largest_state[param][state]
        for scalar, value in together.get("memory", {}).get(param, {}).items():
            key = f"expected_memory/{param}/{scalar}"
            out[key] = scale[key] = np.asarray(value, np.float64)
    return Traced(out, scale, counts)


def is_transcribed(name, options, dtype):
    """Whether the source itself cannot give this case."""
    # DeepSpeed's kernel needs CUDA; bitsandbytes' PytorchLARS fails without momentum, and all of it computes in f32.
    crashes = name == "PytorchLARS" and options.get("momentum", 0.0) == 0.0
    of_bitsandbytes = SOURCES[name][1] == "bitsandbytes"
    return name == "FusedLamb" or crashes or (of_bitsandbytes and dtype == "f64")

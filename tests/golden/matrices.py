"""The optimizers that look at a parameter's extents, with traces of their own, and their rules once more in numpy.

torch's Muon multiplies in bf16 whatever the parameter is. Its own values are those of the cases in f32, which carry the
tolerance of such products (`tolerance` in the metadata); the f64 values, and those of the cases `uncast-…` in f32, are
those of the transcription below, which does not cast.
"""

import math
from dataclasses import dataclass

import numpy as np

STEPS = 16


@dataclass(frozen=True)
class Param:
    shape: tuple
    size: float  # magnitude of the start values
    grad: float  # magnitude of the gradients
    missing: tuple = ()  # steps without a gradient
    zero: tuple = ()  # steps with a gradient of exact zeros


MATRICES = {
    "wide": Param((9, 13), size=1.0, grad=1.0),
    "tall": Param((17, 6), size=0.1, grad=10.0, missing=(0, 6)),
    "square": Param((8, 8), size=3.0, grad=1e-3, zero=(0, 9)),
    "strip": Param((3, 40), size=1e-2, grad=1e-1),
    "row": Param((1, 5), size=1.0, grad=1.0),
    "column": Param((6, 1), size=1.0, grad=1e2, missing=(3, 4)),
    "empty": Param((0, 4), size=1.0, grad=1.0),
}
SHAPES = {
    "wide": Param((9, 13), size=1.0, grad=1.0),
    "tall": Param((17, 6), size=1e-4, grad=10.0, missing=(0, 6)),
    "kernel": Param((4, 3, 3, 2), size=0.1, grad=1e-2),
    "stack": Param((3, 5, 4), size=2.0, grad=1.0, missing=(5,)),
    "vector": Param((21,), size=1.0, grad=1e-3),
    "scalar": Param((), size=3.0, grad=10.0, missing=(0,)),
    "row": Param((1, 5), size=1.0, grad=1.0),
}
TRACES = {"matrices": MATRICES, "shapes": SHAPES}
TRACE_OF = {"Muon": "matrices", "Adafactor": "shapes", "TorchAdafactor": "shapes"}

MUON = {"momentum_buffer": "momentum"}
ADAFACTOR = {"exp_avg": "m", "exp_avg_sq": "v", "exp_avg_sq_row": "row", "exp_avg_sq_col": "column", "RMS": None}
TORCH_ADAFACTOR = {"row_var": "row", "col_var": "column", "variance": "v"}
SOURCES = {
    "Muon": ("torch.optim.Muon", "torch", MUON),
    "Adafactor": ("transformers.Adafactor", "transformers", ADAFACTOR),
    "TorchAdafactor": ("torch.optim.Adafactor", "torch", TORCH_ADAFACTOR, dict(foreach=False)),
}

MUON_CASES = {
    "default": dict(),
    "rms": dict(lr=0.02, momentum=0.8, adjust_lr_fn="match_rms_adamw", weight_decay=0.0),
    "plain": dict(lr=0.05, nesterov=False, weight_decay=0.3, adjust_lr_fn="original"),
    "coefficients": dict(lr=0.01, ns_coefficients=(3.0, -3.2, 1.2), ns_steps=3, eps=1e-3),
}
CASES = {
    "Muon": {
        **MUON_CASES,
        "unclamped": dict(lr=0.02, momentum=0.5, adjust_lr_fn="spectral_unclamped", ns_steps=7),
        **{f"uncast-{case}": options for case, options in MUON_CASES.items()},
    },
    "Adafactor": {
        "default": dict(),
        "warmup": dict(warmup_init=True, beta1=0.9, weight_decay=0.1, decay_rate=-0.5),
        "rate": dict(lr=0.01, relative_step=False, scale_parameter=False, eps=(1e-6, 1e-2), clip_threshold=0.5),
        "scaled": dict(lr=0.05, relative_step=False, beta1=0.5, eps=(1e-30, 0.1), weight_decay=0.3),
        "unscaled": dict(scale_parameter=False, decay_rate=-1.0, weight_decay=0.05),
    },
    "TorchAdafactor": {
        "default": dict(),
        "decay": dict(lr=0.1, weight_decay=0.3, beta2_decay=-0.5, maximize=True),
        "eps": dict(lr=0.02, eps=(1e-2, 0.5), d=2.0),
        "steps": dict(lr=0.5, eps=(None, 1e-2), d=1.5, beta2_decay=-1.0, weight_decay=0.01),
    },
}

# Of the largest move of a tensor: a product of bf16 numbers is off by up to 2^-8 of itself, and the iteration's slope at
# small singular values (3.44 at each of five steps) carries that on. Measured: up to 0.075, with seven steps.
CAST = 0.08


def make_trace(which, dtype):
    """The same numbers for each type: the f32 trace is the f64 trace, rounded."""
    tensors, rng = {}, np.random.RandomState(20260311)
    for name, spec in TRACES[which].items():
        tensors[f"param/{name}"] = spec.size * rng.standard_normal(spec.shape)
        drift = 0.5 * rng.standard_normal(spec.shape)
        for t in range(STEPS):
            grad = spec.grad * 0.9**t * (rng.standard_normal(spec.shape) + drift)
            if t not in spec.missing:
                tensors[f"grad/{t}/{name}"] = grad * 0.0 if t in spec.zero else grad
    return {key: np.asarray(value, dtype=dtype) for key, value in tensors.items()}


def is_transcribed(name, case, dtype):
    return name == "Muon" and (dtype == "f64" or case.startswith("uncast"))


def cases(name):
    """(case, options, type): what does not cast is in f64 already."""
    for case, options in CASES[name].items():
        for dtype in ("f32",) if case.startswith("uncast") else ("f32", "f64"):
            yield case, options, dtype


# ---------------------------------------------------------------------------------------------------------------------
# The rules, in numpy. `s` holds the states, `t` counts gradients from 1.


def muon(
    p,
    g,
    s,
    t,
    lr=1e-3,
    weight_decay=0.1,
    momentum=0.95,
    nesterov=True,
    ns_coefficients=(3.4445, -4.775, 2.0315),
    eps=1e-7,
    ns_steps=5,
    adjust_lr_fn=None,
):
    s["momentum"] = m = momentum * s.get("momentum", 0 * g) + (1 - momentum) * g
    x = (1 - momentum) * g + momentum * m if nesterov else m
    a, b, c = ns_coefficients
    rows, columns = x.shape
    x = x.T if rows > columns else x
    x = x / max(np.sqrt(np.sum(x * x)), eps)
    for _ in range(ns_steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    x = x.T if rows > columns else x
    if rows * columns == 0:
        return p
    ratio = {
        "match_rms_adamw": 0.2 * math.sqrt(max(rows, columns)),
        "spectral_unclamped": math.sqrt(rows / columns),
    }.get(adjust_lr_fn, math.sqrt(max(1, rows / columns)))
    return (1 - lr * weight_decay) * p - lr * ratio * x


def rms(x):
    return math.sqrt(float(np.mean(x * x)))


def adafactor(
    p,
    g,
    s,
    t,
    lr=None,
    eps=(1e-30, 1e-3),
    clip_threshold=1.0,
    decay_rate=-0.8,
    beta1=None,
    weight_decay=0.0,
    scale_parameter=True,
    relative_step=True,
    warmup_init=False,
):
    if relative_step:
        lr = min(1e-6 * t if warmup_init else 1e-2, 1 / math.sqrt(t))
    lr *= max(eps[1], rms(p)) if scale_parameter else 1
    beta2, square = 1 - t**decay_rate, g * g + eps[0]
    if p.ndim > 1:
        s["row"] = beta2 * s.get("row", 0) + (1 - beta2) * square.mean(-1)
        s["column"] = beta2 * s.get("column", 0) + (1 - beta2) * square.mean(-2)
        row = s["row"] / s["row"].mean(-1, keepdims=True)
        update = g / np.sqrt(row[..., :, None] * s["column"][..., None, :])
    else:
        s["v"] = beta2 * s.get("v", 0) + (1 - beta2) * square
        update = g / np.sqrt(s["v"])
    update = lr * update / max(1, rms(update) / clip_threshold)
    if beta1 is not None:
        s["m"] = update = beta1 * s.get("m", 0) + (1 - beta1) * update
    return p - weight_decay * lr * p - update


def torch_adafactor(
    p, g, s, t, lr=1e-2, beta2_decay=-0.8, eps=(None, 1e-3), d=1.0, weight_decay=0.0, maximize=False, machine=None
):
    eps1 = machine if eps[0] is None else eps[0]
    g = -g if maximize else g
    mix, alpha = t**beta2_decay, max(eps[1], rms(p)) * min(lr, 1 / math.sqrt(t))
    lerp = lambda old, new: old + mix * (new - old)
    if p.ndim > 1:
        s["row"] = lerp(s.get("row", 0), (g * g).mean(-1, keepdims=True))
        s["column"] = lerp(s.get("column", 0), (g * g).mean(-2, keepdims=True))
        v = s["row"] * s["column"] / np.maximum(s["row"].mean(-2, keepdims=True), eps1)
    else:
        s["v"] = v = lerp(s.get("v", 0), g * g)
    update = g / np.sqrt(np.maximum(v, eps1 * eps1))
    return (1 - lr * weight_decay) * p - alpha / max(1.0, rms(update) / d) * update


RULES = {"Muon": muon, "Adafactor": adafactor, "TorchAdafactor": torch_adafactor}


def run_rule(name, options, trace, kept, dtype):
    """What the source should have given, in f64, with the scale that the error of each element is measured by."""
    out, scale, steps = {}, {}, {}
    if name == "TorchAdafactor":
        options = {**options, "machine": float(np.finfo(dtype).eps)}
    for param in TRACES[TRACE_OF[name]]:
        p, s, t = trace[f"param/{param}"].astype(np.float64), {}, 0
        most = np.max(np.abs(p), initial=0.0)
        way, largest = 0.0, {}
        for step in range(STEPS):
            g = trace.get(f"grad/{step}/{param}")
            if g is not None:
                t += 1
                before, p = p, np.asarray(RULES[name](p, g.astype(np.float64), s, t, **options))
                most = max(most, np.max(np.abs(p), initial=0.0))
                way += np.max(np.abs(p - before), initial=0.0)
                for key, value in s.items():
                    largest[key] = max(largest.get(key, 0.0), np.max(np.abs(value), initial=0.0))
            if step in kept(param):
                key = f"expected/{step}/{param}"
                out[key], scale[key] = p, most + way
        for key, value in s.items():
            out[f"expected_state/{param}/{key}"] = np.asarray(value)
            scale[f"expected_state/{param}/{key}"] = largest[key]
        steps[param] = t
    return out, scale, steps

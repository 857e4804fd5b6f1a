"""Row-sparse gradients: their traces, the cases on them, and the rules once more in numpy.

A row-sparse gradient is a pair of rows' numbers and rows' values. Numbers are repeated, out of order, in order, next to
each other, all of them, or none at all.
"""

import math

import numpy as np

SOURCES = {
    "SparseAdam": ("torch.optim.SparseAdam", "torch", {"exp_avg": "m", "exp_avg_sq": "v"}),
}

STEPS = 16
# name -> (shape, magnitude of the gradients, rows given at a step, steps without a gradient, whether it is dense)
SPARSE = {
    "table": ((11, 4), 1.0, lambda t: (5, 0, 9, 1, 22)[t % 5], (3,), False),
    "long": ((257, 3), 1e-2, lambda t: 20, (), False),
    "flat": ((19,), 10.0, lambda t: 4 + t % 3, (0, 7), False),
    "cube": ((5, 2, 3), 1e-1, lambda t: 3, (), False),
    "late": ((6, 2), 1.0, lambda t: 2, (0, 1, 2, 3, 4), False),
}
# With dense parameters beside them, as a network has.
MIXED = SPARSE | {
    "weight": ((4, 3), 1.0, None, (), True),
    "bias": ((3,), 1e-1, None, (5,), True),
}
TRACES = {"sparse": SPARSE, "mixed": MIXED}

# optimizer -> case -> (trace, options)
CASES = {
    "SparseAdam": {
        "default": ("sparse", dict()),
        "betas-eps": ("sparse", dict(lr=0.02, betas=(0.7, 0.95), eps=1e-3)),
        "low-betas-maximize": ("sparse", dict(lr=0.01, betas=(0.0, 0.6), eps=1e-5, maximize=True)),
    },
    "SGD": {
        "sparse": ("mixed", dict(lr=0.05)),
        "sparse-maximize": ("sparse", dict(lr=0.02, maximize=True)),
        "sparse-momentum": ("mixed", dict(lr=0.01, momentum=0.9, dampening=0.3)),
        "sparse-nesterov": ("sparse", dict(lr=0.01, momentum=0.8, nesterov=True, maximize=True)),
    },
    "Adagrad": {
        "sparse": ("mixed", dict()),
        "sparse-options": (
            "mixed",
            dict(lr=0.05, lr_decay=0.3, initial_accumulator_value=0.5, eps=1e-3, maximize=True),
        ),
    },
    "DAdaptAdaGrad": {
        "sparse": ("sparse", dict(d0=1e-3)),
        "sparse-mixed": ("mixed", dict(lr=0.5, d0=1e-2, eps=1e-3, growth_rate=1.5)),
        # Neither momentum nor decay reaches the row-sparse ones.
        "sparse-momentum": ("mixed", dict(d0=1e-2, momentum=0.7, weight_decay=0.1)),
    },
}


def trace_of(name, case):
    return CASES.get(name, {}).get(case, (None,))[0]


def options_of(name):
    return {case: options for case, (_, options) in CASES[name].items()}


def make_trace(trace, dtype):
    """The same numbers for each type: the f32 trace is the f64 trace, rounded."""
    tensors = {}
    rng = np.random.RandomState(20250711)
    for name, (shape, size, rows_at, missing, dense) in TRACES[trace].items():
        tensors[f"param/{name}"] = rng.standard_normal(shape)
        drift = 0.5 * rng.standard_normal(shape)
        for t in range(STEPS):
            scale = size * 0.8**t
            if dense:
                grad = scale * (rng.standard_normal(shape) + drift)
                if t not in missing:
                    tensors[f"grad/{t}/{name}"] = grad
                continue
            indices = rng.randint(0, shape[0], size=rows_at(t))
            if t % 3 == 1:  # in order, each once: what needs no adding up
                indices = np.unique(indices)
            values = scale * (rng.standard_normal((len(indices),) + shape[1:]) + drift[indices])
            values[rng.uniform(size=values.shape) < 0.1] = 0.0
            if t not in missing:
                tensors[f"grad/{t}/{name}.indices"] = indices.astype(np.int64)
                tensors[f"grad/{t}/{name}.values"] = values
    keep = lambda key: key.endswith(".indices")
    return {key: value if keep(key) else np.asarray(value, dtype=dtype) for key, value in tensors.items()}


def dense_or_rows(trace, t, name):
    """None, an array, or a pair of indices and values."""
    if f"grad/{t}/{name}" in trace:
        return trace[f"grad/{t}/{name}"]
    indices = trace.get(f"grad/{t}/{name}.indices")
    return None if indices is None else (indices, trace[f"grad/{t}/{name}.values"])


def coalesced(grad):
    """Each row once, in order; values of one row added up in the order given."""
    indices, values = grad
    rows = np.unique(indices)
    sums = np.zeros((len(rows),) + values.shape[1:], values.dtype)
    for row, value in zip(indices, values):
        sums[np.searchsorted(rows, row)] += value
    return rows, sums


# ---------------------------------------------------------------------------------------------------------------------
# The rules: `r` are the rows that take part (all of them for a dense gradient), `g` their gradient.


def sparse_adam(p, r, g, s, t, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, maximize=False):
    g = -g if maximize else g
    m, v = (s.setdefault(state, np.zeros_like(p)) for state in ("m", "v"))
    m[r] = betas[0] * m[r] + (1 - betas[0]) * g
    v[r] = betas[1] * v[r] + (1 - betas[1]) * g * g
    step = lr * math.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t)
    p[r] -= step * m[r] / (np.sqrt(v[r]) + eps)


def sgd(p, r, g, s, t, lr=1e-3, momentum=0.0, dampening=0.0, nesterov=False, maximize=False):
    whole = np.zeros_like(p)
    whole[r] = -g if maximize else g
    if momentum:
        s["momentum"] = momentum * s["momentum"] + (1 - dampening) * whole if t > 1 else whole
        whole = whole + momentum * s["momentum"] if nesterov else s["momentum"]
    p -= lr * whole


def adagrad(p, r, g, s, t, lr=1e-2, lr_decay=0.0, initial_accumulator_value=0.0, eps=1e-10, maximize=False):
    g = -g if maximize else g
    total = s.setdefault("sum", np.full_like(p, initial_accumulator_value))
    total[r] += g * g
    p[r] -= lr / (1 + (t - 1) * lr_decay) * g / (np.sqrt(total[r]) + eps)


def dadapt_adagrad(
    ps, gs, ss, kept, lr=1.0, momentum=0.0, weight_decay=0.0, eps=1e-6, d0=1e-6, growth_rate=math.inf
):
    d = kept.get("d", d0)
    delta, squares = d * lr, 0.0
    root = lambda alpha, by_row: np.sqrt(alpha + eps) if by_row else np.sqrt(alpha) + eps
    for name, (r, g, by_row) in gs.items():
        p, s = ps[name], ss[name]
        alpha = s.setdefault("alphak", np.full_like(p, 1e-6))
        sk, _ = s.setdefault("sk", np.zeros_like(p)), s.setdefault("x0", p.copy())
        g = g if by_row else g + weight_decay * p[r]
        old = np.sum(sk[r] ** 2 / root(alpha[r], by_row)), np.sum(np.abs(sk[r]))
        alpha[r] += g * g
        sk[r] += delta * g
        squares += np.sum(g * g / root(alpha[r], by_row))
        kept["s2"] = kept.get("s2", 0.0) + np.sum(sk[r] ** 2 / root(alpha[r], by_row)) - old[0]
        kept["length"] = kept.get("length", 0.0) + np.sum(np.abs(sk[r])) - old[1]
    if kept.get("length", 0.0) == 0:
        return
    kept["squares"] = kept.get("squares", 0.0) + delta * delta * squares
    kept["d"] = max(d, min((kept["s2"] - kept["squares"]) / kept["length"], d * growth_rate))
    for name, (r, _, by_row) in gs.items():
        p, s = ps[name], ss[name]
        z = s["x0"][r] - s["sk"][r] / root(s["alphak"][r], by_row)
        p[r] = z if by_row or momentum == 0 else momentum * p[r] + (1 - momentum) * z


RULES = {"SparseAdam": sparse_adam, "SGD": sgd, "Adagrad": adagrad}


def run_rule(name, options, trace, kept):
    """What the source should have given, with the scale that the error of each element is measured by, and the steps."""
    names = [key.removeprefix("param/") for key in trace if key.startswith("param/")]
    ps = {param: trace[f"param/{param}"].astype(np.float64) for param in names}
    ss, counts, together = {param: {} for param in names}, dict.fromkeys(names, 0), {}
    out, scale, largest = {}, {}, {param: np.abs(p) for param, p in ps.items()}
    way, largest_state = {param: np.zeros_like(p) for param, p in ps.items()}, {param: {} for param in names}
    for t in range(STEPS):
        before, gs = {param: p.copy() for param, p in ps.items()}, {}
        for param in names:
            grad = dense_or_rows(trace, t, param)
            if grad is None:
                continue
            counts[param] += 1
            if isinstance(grad, tuple):
                rows, values = coalesced((grad[0], grad[1].astype(np.float64)))
                gs[param] = rows, values, True
            else:
                gs[param] = np.arange(grad.shape[0]), grad.astype(np.float64), False
        if name == "DAdaptAdaGrad":
            dadapt_adagrad(ps, gs, ss, together, **options)
        else:
            for param, (rows, values, _) in gs.items():
                RULES[name](ps[param], rows, values, ss[param], counts[param], **options)
        for param, p in ps.items():
            largest[param] = np.maximum(largest[param], np.abs(p))
            way[param] += np.abs(p - before[param])
            for state, value in ss[param].items():
                largest_state[param][state] = np.maximum(largest_state[param].get(state, 0.0), np.abs(value))
            if t in kept(param):
                out[f"expected/{t}/{param}"] = p.copy()
                scale[f"expected/{t}/{param}"] = largest[param] + way[param]
    for param in names:
        for state, value in ss[param].items():
            key = f"expected_state/{param}/{state}"
            out[key], scale[key] = value, largest_state[param][state]
    return out, scale, counts

#!/usr/bin/env python3
"""Write muons/: what the sources of Muon's relatives give, and of Muon with coefficients by name, in either form, in blocks.

    python muons.py              write muons/
    python muons.py AdaMuon      write the cases of these names only
    python muons.py --check      recompute the written files in plain numpy f64 and compare

Needs, beside requirements.txt: pytorch-optimizer==4.1.0 and, with --no-deps and Python 3.12 (or --ignore-requires-python),
emerging-optimizers==0.3.0 and absl-py==2.5.1.

The files have the format of expected/ (README.md), on the traces `matrices` and `shapes`. `config` in the metadata, where it
is given, is the whole configuration, with an optimizer for some parameters. Each parameter has an optimizer of its own, so
that counts of steps are the parameter's.

What is pinned, and where it differs from its package:
- The Newton-Schulz iteration runs in the type of the parameters. Muon is torch's, around the iteration of pytorch_optimizer:
  the Gram form where the case says so. Blocks (`split`) are parameters of their own there, one below the other here.
- Emerging-Optimizers takes f32 alone: its f64 values are those of the rules below.
- A matrix without elements is not handed to sources, which raise: nothing moves.
"""

import argparse
import functools
import importlib
import math
import sys
import typing

import generate
import matrices
import numpy as np
import safetensors.numpy
from generate import DTYPES, HERE, STEPS, config_text, kept, version

SEVERAL = [(3.9, -6.2, 2.6), (2.9, -3.2, 1.3)]
SPLITS = {"wide": 3, "tall": [6, 9, 2], "square": 4, "strip": [1, 2], "column": 2}

# case -> options, or options and what is around them: the blocks of a parameter by its name, another trace.
CASES = {
    "Muon": {
        "polar-express": dict(ns_coefficients="polar_express", ns_steps=8),
        "polar-express-gram": dict(lr=0.02, ns_coefficients="polar_express", ns_method="gram", weight_decay=0.0),
        "safer": dict(ns_coefficients="polar_express_safer", momentum=0.8, adjust_lr_fn="match_rms_adamw"),
        "several": dict(lr=0.01, ns_coefficients=SEVERAL, ns_steps=3),
        "quintic-standard": dict(lr=0.01, ns_coefficients="quintic", ns_method="standard", nesterov=False),
        "gram": dict(lr=0.02, ns_method="gram", ns_steps=7),
        "split": (dict(lr=0.02, weight_decay=0.3), dict(split=SPLITS)),
        "split-rms": (
            dict(lr=0.01, adjust_lr_fn="match_rms_adamw", ns_method="gram", ns_coefficients="quintic"),
            dict(split=SPLITS),
        ),
    },
    "AdaMuon": {
        "default": dict(),
        "options": dict(lr=0.05, betas=(0.8, 0.7), weight_decay=0.1, eps=1e-6, ns_steps=3),
        "plain": dict(lr=0.01, use_adjusted_lr=False, ns_coeffs="quintic"),
        "several": dict(lr=0.01, ns_coeffs=SEVERAL, ns_steps=4, weight_decay=0.3),
        "flatten": (
            dict(lr=0.01, weight_decay=0.1, flatten=True, rest="AdamW", rest_lr=0.005, rest_weight_decay=0.2),
            dict(trace="shapes"),
        ),
    },
    "SCION": {
        "default": dict(),
        "shapes": (dict(lr=0.05, momentum=0.3, weight_decay=0.1), dict(trace="shapes")),
        "constraint": dict(lr=0.02, constraint=True, norm_type="spectral", max_scale=True, scale=3.0, weight_decay=0.1),
        "unnormalized": dict(lr=0.02, norm_type="spectral", normalize=False, num_steps=3),
        "sign": dict(lr=0.02, norm_type="sign", weight_decay=0.1, scale=5.0),
        "sign-plain": dict(lr=0.01, norm_type="sign", normalize=False, momentum=1.0),
        "none": dict(lr=0.02, norm_type="none", constraint=True),
        "col": dict(lr=0.02, norm_type="col"),
        "col-transpose": dict(lr=0.02, norm_type="col", normalize=True, transpose=True),
        "row": dict(lr=0.02, norm_type="row", weight_decay=0.2),
        "row-transpose": dict(lr=0.02, norm_type="row", normalize=False, transpose=True),
        "bias": (dict(lr=0.02, norm_type="bias"), dict(trace="shapes")),
    },
    "SCIONLight": {
        "default": dict(),
        "shapes": (dict(lr=0.05, weight_decay=0.1), dict(trace="shapes")),
        "constraint": dict(lr=0.02, constraint=True, norm_type="spectral", max_scale=True, scale=3.0),
        "sign": dict(lr=0.02, norm_type="sign", weight_decay=0.1, scale=5.0),
        "none": dict(lr=0.02, norm_type="none"),
        "col": dict(lr=0.02, norm_type="col", transpose=True),
        "row": dict(lr=0.02, norm_type="row", normalize=False, num_steps=2),
    },
    "MuonHyperball": {
        "default": dict(),
        "options": dict(lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.1, extra_scale_factor=0.2),
        "cans": dict(lr=0.02, coefficient_type="cans", num_ns_steps=7),
        "radius": dict(lr=0.05, hyperball_radius=2.0, coefficient_type="polar_express", num_ns_steps=8),
        "independent": dict(lr=0.02, weight_decay_method="independent", weight_decay=0.01, scale_mode="shape_scaling"),
        "palm": dict(lr=0.02, weight_decay_method="palm", coefficient_type="simple", scale_mode="unit_rms_norm"),
        "eps": dict(lr=0.05, hyperball_eps=0.5, coefficient_type="aol", num_ns_steps=6),
    },
    "Spel": {
        "default": dict(),
        "options": dict(lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.3),
        "independent": dict(lr=0.02, weight_decay_method="independent", coefficient_type="simple", num_ns_steps=7),
        "palm": dict(lr=0.05, weight_decay_method="palm", coefficient_type="polar_express", num_ns_steps=9),
        "aol": dict(lr=0.05, coefficient_type="aol", num_ns_steps=6),
    },
}
SOURCES = {
    "Muon": ("torch", "torch.optim.Muon"),
    "AdaMuon": ("pytorch_optimizer", "pytorch_optimizer.AdaMuon"),
    "SCION": ("pytorch_optimizer", "pytorch_optimizer.SCION"),
    "SCIONLight": ("pytorch_optimizer", "pytorch_optimizer.SCIONLight"),
    "MuonHyperball": ("emerging-optimizers", "emerging_optimizers.MuonHyperball"),
    "Spel": ("emerging-optimizers", "emerging_optimizers.Spel"),
}
STATES = {"momentum_buffer": "momentum", "m": "m", "v": "v", "d": "d", "exp_avg": "m", "exp_avg_sq": "v"}
OF_STATES = {
    "Muon": ("momentum",),
    "AdaMuon": ("m", "v"),
    "SCION": ("d",),
    "SCIONLight": (),
    "MuonHyperball": ("momentum",),
    "Spel": ("momentum",),
}


def cases(names):
    """(name, case, options, what is around them) of each."""
    for name in names:
        for case, given in CASES[name].items():
            options, around = given if isinstance(given, tuple) else (given, {})
            yield name, case, options, around


def path_of(name, case, dtype):
    return HERE / "muons" / f"{name}-{case}-{dtype}.safetensors"


def trace_of(around, dtype):
    which = around.get("trace", "matrices")
    return generate.trace_path(dtype, which), matrices.make_trace(which, DTYPES[dtype])


def is_transcribed(name, dtype):
    return SOURCES[name][0] == "emerging-optimizers" and dtype == "f64"


def tolerance_of(options, dtype):
    """What a tensor may be off by, of its largest move, where f32 is not enough for more.

    The Gram form squares a matrix, and the factor that it gathers grows by up to 8.2, 4.1, 3.9, … a step. So errors of 6e-8
    come out hundreds of times as large in small singular values, of which the square has one. Measured: up to 1.4e-4.
    """
    return 1e-3 if dtype == "f32" and options.get("ns_method") == "gram" else None


def blocks_of(around, param, rows):
    """The rows of each block."""
    split = around.get("split", {}).get(param, 1)
    return split if isinstance(split, list) else [rows // split] * split


# ---------------------------------------------------------------------------------------------------------------------
# The sources


def iteration(options, real):
    """The Newton-Schulz iteration of a case, in the parameters' type."""
    matrix = importlib.import_module("pytorch_optimizer.optimizer.utils.matrix")
    if options.get("ns_method") != "gram":
        return functools.partial(matrix.zero_power_via_newton_schulz_5, dtype=real)

    import torch

    def gram(g, **given):
        keep, torch.Tensor.float = torch.Tensor.float, lambda x: x  # it normalises in f32 whatever the type
        try:
            return matrix.zero_power_via_gram_newton_schulz(g, dtype=real, **given)
        finally:
            torch.Tensor.float = keep

    return gram


def build(name, options, param, real):
    """The source's optimizer of one parameter."""
    import torch

    options = dict(options)
    if name == "Muon":
        module = importlib.import_module("torch.optim._muon")
        weights, run = options.pop("ns_coefficients", "original"), iteration(options, real)
        options.pop("ns_method", None)
        module._zeropower_via_newtonschulz = lambda grad, _, steps, eps: run(grad, num_steps=steps, eps=eps, weights=weights)
        return module.Muon([param], **options)
    if name == "AdaMuon":
        rest = {key.removeprefix("rest_"): options.pop(key) for key in list(options) if key.startswith("rest")}
        options.pop("flatten", None)
        if param.ndim < 2:
            rest.pop("rest")
            return torch.optim.AdamW([param], foreach=False, fused=False, **rest)
        source = importlib.import_module("pytorch_optimizer.optimizer.muon.adamuon")
        source.zero_power_via_newton_schulz_5 = iteration({}, real)
        return source.AdaMuon([dict(params=[param], use_muon=True)], foreach=False, **options)
    if name.startswith("SCION"):
        source = importlib.import_module("pytorch_optimizer.optimizer.scion")
        # It is called with the number of steps alone.
        source.zero_power_via_newton_schulz_5 = iteration({}, real)
        norm = source.LMONorm[options.pop("norm_type", "auto").upper()]
        given = {key: options.pop(key) for key in ("num_steps", "normalize", "max_scale", "transpose") if key in options}
        if norm in (source.LMONorm.COL, source.LMONorm.ROW):
            given.pop("num_steps", None)
            given = {{"normalize": "normalized"}.get(key, key): value for key, value in given.items()}
        return getattr(source, name)([param], foreach=False, norm_type=norm, norm_kwargs=given, **options)
    if not hasattr(typing, "override"):
        typing.override = lambda method: method
    source = importlib.import_module("emerging_optimizers.orthogonalized_optimizers")
    return getattr(source, name)([param], fp32_matmul_prec="highest", **options)


def run_source(name, options, around, trace, dtype):
    import torch

    torch.set_num_threads(1)
    real = {"f32": torch.float32, "f64": torch.float64}[dtype]
    names = [key.removeprefix("param/") for key in trace if key.startswith("param/")]
    out = {}
    for param in names:
        start = trace[f"param/{param}"]
        if start.size == 0:
            for t in kept(param):
                out[f"expected/{t}/{param}"] = start.copy()
            for state in OF_STATES[name]:
                out[f"expected_state/{param}/{state}"] = start.copy()
            continue
        edges = np.cumsum(blocks_of(around, param, len(start)))[:-1] if start.ndim else []
        cut = lambda array: np.split(array, edges) if len(edges) else [array]
        parts = [torch.nn.Parameter(torch.from_numpy(part.copy())) for part in cut(start)]
        optimizers = []
        for t in range(STEPS):
            grad = trace.get(f"grad/{t}/{param}")
            if grad is not None:
                for place, (part, piece) in enumerate(zip(parts, cut(grad))):
                    # Made at the first gradient: one of these changes the parameter when it is made.
                    if len(optimizers) <= place:
                        optimizers.append(build(name, options, part, real))
                    part.grad = torch.from_numpy(piece.copy())
                    optimizers[place].step()
            if t in kept(param):
                now = [part.detach().numpy() for part in parts]
                out[f"expected/{t}/{param}"] = np.concatenate(now) if len(now) > 1 else now[0].copy()
        states = [optimizer.state[part] for optimizer, part in zip(optimizers, parts)]
        for key, state in STATES.items():
            found = [part[key].detach().numpy() for part in states if key in part]
            if found:
                found = np.concatenate(found) if len(found) > 1 else found[0].copy()
                out[f"expected_state/{param}/{state}"] = found.reshape(start.shape)
    return out


# ---------------------------------------------------------------------------------------------------------------------
# The rules once more, in numpy f64. `s` holds the states, `t` counts gradients from 1.

COEFFICIENTS = {
    "original": [(3.4445, -4.7750, 2.0315)],
    "simple": [(3.4445, -4.7750, 2.0315)],
    "quintic": [
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ],
    "polar_express": [
        (8.237312490495555, -23.157747414558198, 16.680568411445915),
        (4.082441999064835, -2.893047735332586, 0.5252849256975648),
        (3.9263479922546582, -2.8547468034765298, 0.5318022422894988),
        (3.2982187133085143, -2.424541981026706, 0.48632008358844075),
        (2.2970369434552573, -1.63662558125903, 0.4002628455953627),
        (1.8763805351440397, -1.2347896577722228, 0.35891887501668385),
        (1.8564423485617974, -1.2132449880935525, 0.3568003487825883),
        (1.8749994008682747, -1.2499988017229169, 0.3749994008546422),
    ],
    "polar_express_safer": [
        (8.156554524902461, -22.48329292557795, 15.878769915207462),
        (4.0429299351667245, -2.808917465908704, 0.5000178451051299),
        (3.8916678022926563, -2.7724841532176825, 0.5060648178503389),
        (3.285753657755658, -2.3681294933425394, 0.46449024233003117),
        (2.3005307116270983, -1.6111665557258408, 0.3833374427545273),
    ],
    "emerging polar_express": [
        (8.2051, -22.9019, 16.4607),
        (4.0664, -2.8612, 0.5184),
        (3.9096, -2.8234, 0.5250),
        (3.2856, -2.4153, 0.4853),
        (2.2779, -1.6198, 0.3985),
        (1.8726, -1.2307, 0.3585),
        (1.8564, -1.2132, 0.3568),
        (1.8750, -1.2500, 0.3750),
    ],
    "cans": [
        (8.4703, -25.1081, 18.6293),
        (4.1828, -3.1087, 0.5806),
        (3.9619, -2.9541, 0.5630),
        (3.2866, -2.4647, 0.5074),
        (2.2737, -1.6447, 0.4162),
    ],
    "aol": [
        (4.0098, -7.0585, 2.4635),
        (3.4585, -5.5479, 2.5959),
        (2.7573, -3.2939, 1.4254),
        (2.7215, -3.0494, 1.3169),
    ],
}


def orthogonal(x, coefficients="original", steps=5, cycles=False, eps=1e-7):
    shape, x = x.shape, x.reshape(len(x), -1)
    triples = COEFFICIENTS[coefficients] if isinstance(coefficients, str) else coefficients
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / max(np.sqrt(np.sum(x * x)), eps)
    for step in range(steps):
        a, b, c = triples[step % len(triples) if cycles else min(step, len(triples) - 1)]
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).reshape(shape)


def muon(p, g, s, t, blocks, lr=1e-3, weight_decay=0.1, momentum=0.95, nesterov=True, ns_coefficients="original",
         ns_steps=5, adjust_lr_fn=None, ns_method=None):
    s["momentum"] = m = momentum * s.get("momentum", 0 * g) + (1 - momentum) * g
    x = (1 - momentum) * g + momentum * m if nesterov else m
    update = []
    for block in np.split(x, np.cumsum(blocks)[:-1]):
        rows, columns = block.shape
        ratio = 0.2 * math.sqrt(max(rows, columns)) if adjust_lr_fn else math.sqrt(max(1, rows / columns))
        update.append(ratio * orthogonal(block, ns_coefficients, ns_steps))
    return (1 - lr * weight_decay) * p - lr * np.concatenate(update)


def ada_muon(p, g, s, t, blocks, lr=2e-2, betas=(0.9, 0.95), weight_decay=0.0, ns_steps=5, ns_coeffs="original",
             use_adjusted_lr=True, eps=1e-10, flatten=False, rest=None, **of_rest):
    if p.ndim < 2:
        return generate.adamw(p, g, s, t, **{key.removeprefix("rest_"): value for key, value in of_rest.items()})
    s["m"] = m = betas[0] * s.get("m", 0 * g) + (1 - betas[0]) * g
    x = orthogonal(m, ns_coeffs, ns_steps)
    s["v"] = v = betas[1] * s.get("v", 0 * g) + (1 - betas[1]) * x * x
    u = x / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
    rows, columns = len(p), p.size // len(p)
    adjusted = 0.2 * math.sqrt(max(rows, columns)) if use_adjusted_lr else math.sqrt(max(1, rows / columns))
    length = np.sqrt(np.sum(u * u)) + eps
    return (1 - lr * weight_decay) * p - lr * adjusted * math.sqrt(min(rows, columns)) * u / length


def lmo(d, norm_type, num_steps, normalize, max_scale, transpose):
    if norm_type == "auto":
        norm_type = "bias" if d.ndim < 2 else "spectral" if d.ndim == 2 else "spectralconv"
    normalize = norm_type != "col" if normalize is None else normalize
    if norm_type == "none":
        return d
    if norm_type == "bias":
        return d / (np.sqrt(np.mean(d * d, axis=0 if d.ndim else None)) + 1e-8)
    if norm_type == "sign":
        return np.sign(d) / (d.shape[1] if normalize else 1)
    if norm_type == "spectral":
        scale = math.sqrt(d.shape[0] / d.shape[1]) if normalize else math.sqrt(d.shape[0])
        return orthogonal(d, steps=num_steps) * (max(1, scale) if max_scale else scale)
    if norm_type == "spectralconv":
        return orthogonal(d, steps=num_steps) * math.sqrt(d.shape[0] / d.shape[1]) / math.prod(d.shape[2:])
    x = d.T if transpose else d
    if norm_type == "col":
        root = np.sqrt(np.sum(x * x, axis=0, keepdims=True) / len(x)) * (x.shape[1] if normalize else 1)
    else:
        root = np.sqrt(np.sum(x * x, axis=1, keepdims=True)) * (math.sqrt(x.shape[1]) if normalize else 1)
    x = x / (root + 1e-8)
    return x.T if transpose else x


def scion(p, g, s, t, blocks, lr=1e-3, momentum=0.1, constraint=False, norm_type="auto", num_steps=5, normalize=None,
          max_scale=False, transpose=False, scale=1.0, weight_decay=0.0, light=False):
    d = g if light else (1 - momentum) * s.get("d", 0 * g) + momentum * g
    if not light:
        s["d"] = d
    update = scale * lmo(d, norm_type, num_steps, normalize, max_scale, transpose)
    return (1 - lr * (1 if constraint else weight_decay)) * p - lr * update


def decayed(p, lr, weight_decay, method):
    return p * (1 - {"decoupled": lr, "independent": 1, "palm": lr * lr}[method] * weight_decay)


def emerging(x, coefficient_type, steps):
    coefficients = "emerging polar_express" if coefficient_type == "polar_express" else coefficient_type
    return orthogonal(x, coefficients, steps, cycles=coefficient_type in ("quintic", "aol"))


def of_emerging(g, s, momentum, nesterov):
    s["momentum"] = m = momentum * s.get("momentum", 0 * g) + (1 - momentum) * g
    return (1 - momentum) * g + momentum * m if nesterov else m


def hyperball(p, g, s, t, blocks, lr=3e-4, momentum=0.95, weight_decay=0.01, nesterov=False,
              weight_decay_method="decoupled", coefficient_type="quintic", num_ns_steps=5, scale_mode="spectral",
              extra_scale_factor=1.0, hyperball_eps=1e-8, hyperball_radius=None):
    norm = lambda x: np.sqrt(np.sum(x * x))
    if hyperball_radius is not None and t == 1:
        p = p * (hyperball_radius / max(norm(p), hyperball_eps))
    p = decayed(p, lr, weight_decay, weight_decay_method)
    rows, columns = p.shape
    ratio = {"spectral": max(rows, columns), "shape_scaling": max(1, rows / columns), "unit_rms_norm": rows / columns}
    x = emerging(of_emerging(g, s, momentum, nesterov), coefficient_type, num_ns_steps)
    x = x * math.sqrt(ratio[scale_mode]) * extra_scale_factor
    radius = norm(p) if hyperball_radius is None else hyperball_radius
    y = p - lr * radius * x / max(norm(x), hyperball_eps)
    return radius * y / max(norm(y), hyperball_eps)


def spel(p, g, s, t, blocks, lr=3e-4, momentum=0.95, weight_decay=0.1, nesterov=False,
         weight_decay_method="decoupled", coefficient_type="quintic", num_ns_steps=5):
    x = emerging(of_emerging(g, s, momentum, nesterov), coefficient_type, num_ns_steps)
    return emerging(decayed(p, lr, weight_decay, weight_decay_method) - lr * x, coefficient_type, num_ns_steps)


RULES = {
    "Muon": muon,
    "AdaMuon": ada_muon,
    "SCION": scion,
    "SCIONLight": functools.partial(scion, light=True),
    "MuonHyperball": hyperball,
    "Spel": spel,
}


def run_rule(name, options, around, trace):
    """What the source should have given, with the scale that the error of each tensor is measured by."""
    out, scale = {}, {}
    for key in [key for key in trace if key.startswith("param/")]:
        param = key.removeprefix("param/")
        p, s, t = trace[key].astype(np.float64), {}, 0
        blocks = blocks_of(around, param, len(p)) if p.ndim else []
        most, way, largest = np.max(np.abs(p), initial=0.0), 0.0, {}
        for step in range(STEPS):
            g = trace.get(f"grad/{step}/{param}")
            if g is not None and p.size:
                t += 1
                before, p = p, np.asarray(RULES[name](p, g.astype(np.float64), s, t, blocks, **options))
                most = max(most, np.max(np.abs(p)))
                way += np.max(np.abs(p - before))
                for state, value in s.items():
                    largest[state] = max(largest.get(state, 0.0), np.max(np.abs(value)))
            if step in kept(param):
                out[f"expected/{step}/{param}"], scale[f"expected/{step}/{param}"] = p, most + way
        if not p.size:
            s = {state: p for state in OF_STATES[name]}
        for state, value in s.items():
            out[f"expected_state/{param}/{state}"] = np.asarray(value)
            scale[f"expected_state/{param}/{state}"] = largest.get(state, 0.0)
    return out, scale


# ---------------------------------------------------------------------------------------------------------------------


def write(names):
    for name, case, options, around in cases(names):
        for dtype, real in DTYPES.items():
            path, trace = trace_of(around, dtype)
            if is_transcribed(name, dtype):
                tensors = {
                    key: np.array(value, real, order="C")
                    for key, value in run_rule(name, options, around, trace)[0].items()
                }
            else:
                tensors = run_source(name, options, around, trace, dtype)
            package, class_ = SOURCES[name]
            text = f"{package} {version(package).partition('+')[0]}"
            if name == "Muon":
                text += f", around the iteration of pytorch_optimizer {version('pytorch_optimizer')}"
            metadata = {
                "optimizer": config_text(name, options),
                "compute": dtype,
                "trace": path.relative_to(HERE).as_posix(),
                "source": text + ", transcribed" * is_transcribed(name, dtype),
                "source_class": class_,
            }
            if tolerance_of(options, dtype):
                metadata["tolerance"] = str(tolerance_of(options, dtype))
            if "split" in around:
                keys = ", ".join(
                    f'"{param}": dict(optimizer={config_text(name, {**options, "split": split})})'
                    for param, split in around["split"].items()
                )
                metadata["config"] = (
                    f"optim_wrapper = dict(optimizer={metadata['optimizer']}, "
                    f"paramwise_cfg=dict(custom_keys={{{keys}}}))"
                )
            generate.write(path_of(name, case, dtype), tensors, metadata)
    wanted = {path_of(name, case, dtype) for name, case, *_ in cases(CASES) for dtype in DTYPES}
    for path in (HERE / "muons").glob("*.safetensors"):
        if path not in wanted:
            path.unlink()
            print(f"removed {path.name}: no longer in the table")
    generate.list_files(HERE / "muons")


# Of a tensor's largest value and way. Matrices of small singular values round more than a chain of eight operations does.
LOOSE = 8


def check(names):
    failed, largest = 0, {}
    for name, case, options, around in cases(names):
        for dtype in DTYPES:
            _, trace = trace_of(around, dtype)
            file = path_of(name, case, dtype)
            found, metadata = safetensors.numpy.load_file(file), generate.read_metadata(file)
            assert metadata["optimizer"] == config_text(name, options), f"{file.name}: not this case"
            want, scale = run_rule(name, options, around, trace)
            problem = f" other tensors: {sorted(set(want) ^ set(found))[:4]}" if set(want) != set(found) else ""
            worst, at = 0.0, ""
            for key in set(want) & set(found):
                error = np.abs(found[key].astype(np.float64) - want[key]) - np.finfo(DTYPES[dtype]).tiny
                part = np.max(error / (scale[key] + 1e-300), initial=0.0)
                if not part <= worst:
                    worst, at = part, key
            largest[name, dtype] = max(largest.get((name, dtype), 0.0), worst)
            bad = problem or not worst <= generate.TOLERANCE[dtype] * LOOSE
            failed += bool(bad)
            print(f"{'FAIL' if bad else 'ok  '} {file.name}: {worst:.1e} of the largest ({at}){problem}")
    for (name, dtype), worst in largest.items():
        print(f"{name} {dtype}: {worst:.1e}")
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*CASES, []], metavar="NAME")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    names = arguments.names or list(CASES)
    if arguments.check:
        sys.exit(1 if check(names) else 0)
    write(names)


if __name__ == "__main__":
    main()

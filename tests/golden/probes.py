#!/usr/bin/env python3
"""Write probes/: what the sources of Prodigy, AdamWScheduleFree, NorMuon, Lookahead and cautious updates give.

    python probes.py              write probes/ and traces/still-*
    python probes.py Prodigy      write the cases of these probes only
    python probes.py --check      recompute the written files in plain numpy f64 and compare

Needs, beside requirements.txt: prodigyopt==1.1.2 schedulefree==1.4.1 pytorch-optimizer==4.1.0, and
`pip install --no-deps timm==1.0.26`, of which modules of `timm.optim` are loaded one by one.

The files have the format of expected/ (README.md), on the same traces, and beside it:
- `optimizer` in the metadata may have `wrap=` or `cautious=True`; `config`, where it is given, is the whole configuration,
  with parameter groups;
- `tolerance`, for Prodigy in f32, holds for states and scalars too;
- `factors` (JSON): what each group's learning rate is multiplied by at each step;
- `expected_eval/<t>/<name>`: AdamWScheduleFree's evaluation weights after step t. `toggle` k in the metadata: after every
  k-th step the source went to evaluation and back;
- `expected_global/<scalar>` (F64, [16]): after each step, Prodigy's estimate and what it is made of, AdamWScheduleFree's
  sums of the first group.

What is pinned, and where it differs from its package:
- NorMuon runs its Newton-Schulz iteration in the type of the parameters instead of bf16; what is no matrix gets torch's
  AdamW, as with fallline's Muon. The source fails on a matrix without elements: here nothing moves.
- Lookahead is pytorch_optimizer's, around torch's SGD and AdamW, and around the LAMB of `norms.py` (transcribed).
- Cautious updates divide the mask by its mean, at least 1e-3, as the authors' C-AdamW and timm do. pytorch_optimizer and
  the authors' C-Lion multiply by n / (count + 1) instead: these are not used. Adam, and SGD with a decay that is not
  decoupled, are transcribed: timm has neither.
"""

import argparse
import functools
import importlib
import importlib.util
import json
import math
import sys
import types

import generate
import matrices
import norms
import numpy as np
import safetensors.numpy
from generate import DTYPES, HERE, STEPS, config_text, kept, version

RAMP = [0.0, 0.25, 0.5, 0.75] + [1.0] * 6 + [0.8, 0.6, 0.4, 0.2, 0.1, 0.0]
FALL = [1.0 - t / STEPS for t in range(STEPS)]

# case -> options, and what is around them: factors, groups (key in a name -> lr_mult, decay_mult), trace, toggle.
GROUPS = {"odd": dict(lr_mult=0.1), "block": dict(decay_mult=0.0), "late": dict(lr_mult=2.0, decay_mult=0.5)}
MATRIX_GROUPS = {"wide": dict(lr_mult=0.1), "square": dict(decay_mult=0.0), "row": dict(lr_mult=2.0, decay_mult=0.5)}
CASES = {
    "Prodigy": {
        "default": dict(),
        "decay": dict(lr=0.7, betas=(0.8, 0.95), weight_decay=0.1, d0=1e-3, growth_rate=1.5),
        "coupled": dict(decouple=False, weight_decay=0.1, d0=1e-3),
        "bias": dict(use_bias_correction=True, d0=1e-4, growth_rate=3.0),
        "safeguard": dict(lr=0.5, safeguard_warmup=True, use_bias_correction=True, d0=1e-2, d_coef=2.0),
        "beta3": dict(beta3=0.5, d_coef=0.5, eps=1e-4, d0=1e-3),
        "slices": dict(slice_p=3, d0=1e-3, weight_decay=0.05),
        "slices-coupled": dict(slice_p=11, decouple=False, weight_decay=0.1, d0=1e-2, growth_rate=2.0),
        "no-momentum": dict(betas=(0.0, 0.9), d0=1e-3, weight_decay=0.1),
        "schedule": (dict(d0=1e-3, weight_decay=0.1, use_bias_correction=True), dict(factors=RAMP)),
        "schedule-safeguard": (dict(d0=1e-3, safeguard_warmup=True), dict(factors=RAMP)),
        # The source takes groups whose lr is 0 beside another.
        "groups": (
            dict(d0=1e-3, weight_decay=0.1),
            dict(groups={"odd": dict(lr_mult=0.0), "block": dict(decay_mult=0.0), "late": dict(decay_mult=0.5)}),
        ),
        "still": (dict(d0=1e-3, weight_decay=0.1, use_bias_correction=True), dict(trace="still")),
        "still-coupled": (dict(d0=1e-3, weight_decay=0.1, decouple=False), dict(trace="still")),
    },
    "AdamWScheduleFree": {
        "default": dict(),
        "warmup": dict(lr=0.01, warmup_steps=5),
        "decay": dict(lr=0.02, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1),
        "power": dict(lr=0.01, r=2.0, weight_lr_power=1.0, warmup_steps=4, weight_decay=0.05),
        "unweighted": dict(lr=0.01, r=0.5, weight_lr_power=0.0, warmup_steps=3),
        "low-betas": dict(lr=0.02, betas=(0.3, 0.7)),
        "schedule": (dict(lr=0.02, weight_decay=0.1), dict(factors=RAMP)),
        "schedule-fall": (dict(lr=0.01, warmup_steps=3, r=1.0), dict(factors=FALL)),
        "groups": (dict(lr=0.02, weight_decay=0.1, warmup_steps=3), dict(groups=GROUPS)),
        "toggled": (dict(lr=0.02, betas=(0.8, 0.95), weight_decay=0.1), dict(toggle=3)),
        "still": (dict(lr=0.02, weight_decay=0.1), dict(trace="still")),
    },
    "NorMuon": {
        "default": dict(),
        "plain": dict(lr=0.05, momentum=0.8, nesterov=False, weight_decay=0.1),
        "adjusted": dict(lr=0.01, beta2=0.5, use_adjusted_lr=True),
        "rms": dict(lr=0.01, update_scale="match_rms", weight_decay=0.3),
        "rms-plain": dict(lr=0.01, update_scale="match_rms", nesterov=False, eps=1e-3, use_adjusted_lr=True),
        "coefficients": dict(ns_steps=3, ns_coeffs=(3.0, -3.2, 1.2), beta2=0.99, eps=1e-6),
        "preset": dict(ns_steps=7, ns_coeffs="polar_express", weight_decay=0.05),
        "several": dict(ns_steps=3, ns_coeffs=[(3.9, -6.2, 2.6), (2.9, -3.2, 1.3)]),
        "schedule": (dict(weight_decay=0.1), dict(factors=RAMP)),
        "groups": (dict(weight_decay=0.1), dict(groups=MATRIX_GROUPS)),
        "flatten": (
            dict(lr=0.01, weight_decay=0.1, flatten=True, rest="AdamW", rest_lr=0.005, rest_weight_decay=0.2),
            dict(trace="shapes"),
        ),
        "flatten-adjusted": (
            dict(lr=0.01, flatten=True, use_adjusted_lr=True, rest="AdamW", rest_lr=1e-3),
            dict(trace="shapes"),
        ),
    },
}
# Lookahead and caution stand around others: (name, case) -> options of the algorithm, of the wrapper.
LOOKAHEAD = {
    ("SGD", "default"): (dict(lr=0.05), dict()),
    ("SGD", "momentum"): (dict(lr=0.01, momentum=0.9, weight_decay=0.1), dict(k=2, alpha=0.8)),
    ("AdamW", "default"): (dict(lr=0.01, weight_decay=0.1), dict(k=5, alpha=0.5)),
    ("AdamW", "each"): (dict(lr=0.02), dict(k=1, alpha=0.3)),
    ("AdamW", "never"): (dict(lr=0.02), dict(k=17)),
    ("AdamW", "back"): (dict(lr=0.02, amsgrad=True), dict(k=4, alpha=0.0)),
    ("LAMB", "default"): (dict(lr=0.02, weight_decay=0.05, max_unorm=0.1), dict(k=3, alpha=0.6)),
    ("LAMB", "five"): (dict(lr=0.05, betas=(0.8, 0.95), eps=1e-3), dict(k=5, alpha=0.5)),
    ("AdamW", "groups"): (dict(lr=0.01, weight_decay=0.1), dict(k=4, alpha=0.5), dict(groups=GROUPS)),
    ("SGD", "still"): (dict(lr=0.05, momentum=0.9), dict(k=3, alpha=0.5), dict(trace="still")),
}
CAUTIOUS = {
    ("AdamW", "default"): dict(),
    ("AdamW", "decay-betas"): dict(lr=0.01, betas=(0.85, 0.97), eps=1e-3, weight_decay=0.3),
    ("AdamW", "amsgrad-maximize"): dict(lr=0.02, betas=(0.8, 0.85), weight_decay=0.1, amsgrad=True, maximize=True),
    ("Lion", "default"): dict(),
    ("Lion", "decay"): dict(lr=0.01, betas=(0.95, 0.98), weight_decay=0.1),
    ("Adam", "decay"): dict(lr=0.01, weight_decay=0.1),
    ("Adam", "low-betas"): dict(lr=0.01, betas=(0.3, 0.7), amsgrad=True),
    ("SGD", "momentum"): dict(lr=0.01, momentum=0.9),
    ("SGD", "dampening-maximize"): dict(lr=0.02, momentum=0.7, dampening=0.9, maximize=True),
    ("SGD", "nesterov"): dict(lr=0.01, momentum=0.95, nesterov=True),
    ("SGD", "momentum-decay"): dict(lr=0.01, momentum=0.8, weight_decay=0.1),
    ("AdamW", "groups"): (dict(lr=0.01, weight_decay=0.1), dict(groups=GROUPS)),
    ("AdamW", "still"): (dict(lr=0.01, weight_decay=0.1), dict(trace="still")),
}
PROBES = (*CASES, "Lookahead", "Cautious")

# ---------------------------------------------------------------------------------------------------------------------
# A trace with nothing to go by: zeros at first and in between, a step without any gradient, a parameter of zeros.

STILL = {
    "matrix": matrices.Param((3, 4), size=1.0, grad=1.0),
    "nought": matrices.Param((5,), size=0.0, grad=1e-2),
    "late": matrices.Param((2,), size=1.0, grad=1.0, missing=(0, 1, 2)),
}


def make_still(dtype):
    tensors, rng = {}, np.random.RandomState(20261130)
    for name, spec in STILL.items():
        tensors[f"param/{name}"] = spec.size * rng.standard_normal(spec.shape)
        # Mostly one way, so that Prodigy's estimate grows.
        drift = rng.standard_normal(spec.shape)
        for t in range(STEPS):
            grad = spec.grad * 0.9**t * (0.3 * rng.standard_normal(spec.shape) + drift)
            if t not in spec.missing and t != 6:
                tensors[f"grad/{t}/{name}"] = grad * 0.0 if t in (0, 1, 8) else grad
    return {key: np.asarray(value, dtype=dtype) for key, value in tensors.items()}


def trace_of(probe, around, dtype):
    which = around.get("trace", "matrices" if probe == "NorMuon" else None)
    path = generate.trace_path(dtype, which)
    if which == "still":
        return path, make_still(DTYPES[dtype])
    made = matrices.make_trace(which, DTYPES[dtype]) if which else generate.make_trace(DTYPES[dtype])
    return path, made


def cases(probes):
    """(probe, algorithm, case, options, options of the wrapper, around) of each."""
    for probe in probes:
        if probe in CASES:
            for case, given in CASES[probe].items():
                options, around = given if isinstance(given, tuple) else (given, {})
                yield probe, probe, case, options, None, around
        table = {"Lookahead": LOOKAHEAD, "Cautious": CAUTIOUS}.get(probe, {})
        for (name, case), given in table.items():
            given = given if isinstance(given, tuple) else (given,)
            if probe == "Lookahead":
                yield probe, name, case, given[0], given[1], given[2] if len(given) > 2 else {}
            else:
                yield probe, name, case, given[0], None, given[1] if len(given) > 1 else {}


def path_of(probe, name, case, dtype):
    middle = f"{probe}-{name}" if probe != name else name
    return HERE / "probes" / f"{middle}-{case}-{dtype}.safetensors"


def tolerance_of(probe, case, dtype):
    """What a tensor may be off by, of its largest move, where f32 is not enough for more.

    At first Prodigy moves a parameter by a few units of its last place: of what it moved by, which its estimate is made of,
    f32 keeps one or two digits. In f64 all cases agree to 1e-12.
    """
    if probe == "Prodigy" and dtype == "f32":
        return 2e-2 if case == "default" else 2e-3
    return None


def optimizer_text(probe, name, options, wrapper):
    if probe == "Lookahead":
        inner = "".join(f", {key}={value!r}" for key, value in wrapper.items())
        return config_text(name, options)[:-1] + f', wrap=dict(type="Lookahead"{inner}))'
    return config_text(name, {**options, **({"cautious": True} if probe == "Cautious" else {})})


def groups_of(around, names, options, default_lr, default_decay):
    """[(names, lr, weight decay)], of equal ones together and the plain ones first: a group each."""
    lr, decay = options.get("lr", default_lr), options.get("weight_decay", default_decay)
    found = {(1.0, 1.0): []}
    for name in names:
        mult = next((mult for key, mult in around.get("groups", {}).items() if key in name), {})
        found.setdefault((mult.get("lr_mult", 1.0), mult.get("decay_mult", 1.0)), []).append(name)
    return [(members, lr * l, decay * d) for (l, d), members in found.items() if members]


# ---------------------------------------------------------------------------------------------------------------------
# The sources

PACKAGES = {
    "Prodigy": ("prodigyopt", "prodigyopt.Prodigy"),
    "AdamWScheduleFree": ("schedulefree", "schedulefree.AdamWScheduleFree"),
    "NorMuon": ("pytorch_optimizer", "pytorch_optimizer.NorMuon"),
    "Lookahead": ("pytorch_optimizer", "pytorch_optimizer.Lookahead"),
    "Cautious": ("timm", "timm.optim"),
}
DEFAULTS = {  # lr, weight decay
    "Prodigy": (1.0, 0.0),
    "AdamWScheduleFree": (0.0025, 0.0),
    "NorMuon": (2e-2, 0.0),
    "SGD": (1e-3, 0.0),
    "Adam": (1e-3, 0.0),
    "AdamW": (1e-3, 1e-2),
    "Lion": (1e-4, 0.0),
    "LAMB": (1e-3, 0.0),
}
STATES = {
    "exp_avg": "m",
    "exp_avg_sq": "v",
    "max_exp_avg_sq": "v_max",
    "momentum_buffer": "momentum",
    "second_momentum_buffer": "row",
    "slow_params": "slow",
    "s": "s",
    "p0": "p0",
    "z": "z",
    "m": "m",
    "v": "v",
}
GLOBALS = {
    "Prodigy": ("d", "d_max", "d_hat", "d_numerator", "d_denom", "k"),
    "AdamWScheduleFree": ("k", "weight_sum", "lr_max", "scheduled_lr"),
}


def timm(module):
    """A module of timm.optim, without the rest of the package, which wants torchvision."""
    for name in ("timm", "timm.optim"):
        if name not in sys.modules:
            package = sys.modules[name] = types.ModuleType(name)
            found = importlib.util.find_spec("torch").origin.replace("torch/__init__.py", name.replace(".", "/"))
            package.__path__ = [found]
    return importlib.import_module(f"timm.optim.{module}")


def transcribed(probe, name, options):
    """Whether a case is run by the rules below."""
    if probe == "Cautious":
        return name == "Adam" or name == "SGD" and options.get("weight_decay", 0) != 0
    return name == "LAMB"


def build(probe, name, options, wrapper, groups, dtype):
    """The source's optimizers of the parameters; most are one."""
    import torch

    plain = {key: value for key, value in options.items() if key not in ("lr", "weight_decay")}
    lr, decay = options.get("lr", DEFAULTS[name][0]), options.get("weight_decay", DEFAULTS[name][1])
    dicts = [dict(params=params, lr=rate, weight_decay=wd) for params, rate, wd in groups]
    if probe == "Prodigy":
        from prodigyopt import Prodigy

        return [Prodigy(dicts, lr=lr, weight_decay=decay, **plain)]
    if probe == "AdamWScheduleFree":
        from schedulefree import AdamWScheduleFree

        optimizer = AdamWScheduleFree(dicts, lr=lr, weight_decay=decay, foreach=False, **plain)
        optimizer.train()
        return [optimizer]
    if probe == "NorMuon":
        source = importlib.import_module("pytorch_optimizer.optimizer.muon.normuon")
        real = {"f32": torch.float32, "f64": torch.float64}[dtype]
        original = getattr(source.zero_power_via_newton_schulz_5, "func", source.zero_power_via_newton_schulz_5)
        source.zero_power_via_newton_schulz_5 = functools.partial(original, dtype=real)
        of_rest = {key: plain.pop(key) for key in list(plain) if key.startswith("rest")}
        plain.pop("flatten", None)
        found = []
        for group in dicts:
            rest = [p for p in group["params"] if p.ndim < 2]
            muon = [p for p in group["params"] if p.ndim >= 2 and p.numel() > 0]
            found.append(source.NorMuon([{**group, "params": muon, "use_muon": True}], foreach=False, **plain))
            if rest:
                adamw = {key.removeprefix("rest_"): value for key, value in of_rest.items() if key != "rest"}
                found.append(torch.optim.AdamW(rest, foreach=False, fused=False, **adamw))
        return found
    if probe == "Lookahead":
        from pytorch_optimizer import Lookahead

        if name == "LAMB":
            inner = lamb_of_norms()(dicts, lr=lr, weight_decay=decay, **plain)
        else:
            inner = getattr(torch.optim, name)(dicts, lr=lr, weight_decay=decay, foreach=False, fused=False, **plain)
        return [Lookahead(inner, **wrapper)]
    module, class_ = {"AdamW": ("adamw", "AdamWLegacy"), "Lion": ("lion", "Lion"), "SGD": ("sgdw", "SGDW")}[name]
    source = getattr(timm(module), class_)
    return [source(dicts, lr=lr, weight_decay=decay, caution=True, foreach=False, **plain)]


def lamb_of_norms():
    import torch

    class Lamb(torch.optim.Optimizer):
        """bitsandbytes' LAMB as `norms.py` has it, as torch's wrappers take one."""

        def __init__(self, params, **defaults):
            super().__init__(params, defaults)

        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                options = {key: group[key] for key in ("lr", *self.defaults) if key != "params"}
                for p in group["params"]:
                    if p.grad is None:
                        continue
                    state = self.state[p]
                    state["step"] = state.get("step", 0) + 1
                    arrays = {key: state[key].numpy() for key in ("m", "v") if key in state}
                    new = norms.lamb(p.numpy(), p.grad.numpy(), arrays, state["step"], {}, **options)
                    p.copy_(torch.from_numpy(np.asarray(new)))
                    state.update({key: torch.from_numpy(np.asarray(value)) for key, value in arrays.items()})

    return Lamb


def run_source(probe, name, options, wrapper, around, trace, dtype):
    import torch

    torch.set_num_threads(1)
    names = [key.removeprefix("param/") for key in trace if key.startswith("param/")]
    params = {param: torch.nn.Parameter(torch.from_numpy(trace[f"param/{param}"].copy())) for param in names}
    split = groups_of(around, names, options, *DEFAULTS[name])
    groups = [([params[member] for member in members], lr, decay) for members, lr, decay in split]
    optimizers = build(probe, name, options, wrapper, groups, dtype)
    factors = around.get("factors", [1.0] * STEPS)
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    out, globals_ = {}, {}
    for t in range(STEPS):
        for param, value in params.items():
            grad = trace.get(f"grad/{t}/{param}")
            value.grad = None if grad is None else torch.from_numpy(grad.copy())
        for optimizer, rate in zip(optimizers, rates):
            for group, lr in zip(optimizer.param_groups, rate):
                group["lr"] = lr * factors[t]
            optimizer.step()
        for key in GLOBALS.get(probe, ()):
            first = optimizers[0].param_groups[0]
            # What is not there yet: no step has got so far.
            globals_.setdefault(key, []).append(float(first.get(key, first["d"] if key == "d_hat" else 0.0)))
        for param, value in params.items():
            if t in kept(param):
                out[f"expected/{t}/{param}"] = value.detach().numpy().copy()
        if probe == "AdamWScheduleFree":
            before = {param: value.detach().clone() for param, value in params.items()}
            optimizers[0].eval()
            for param, value in params.items():
                if t in kept(param):
                    out[f"expected_eval/{t}/{param}"] = value.detach().numpy().copy()
            optimizers[0].train()
            if not around.get("toggle") or (t + 1) % around["toggle"]:
                with torch.no_grad():  # as if the source had not been asked
                    for param, value in params.items():
                        value.copy_(before[param])
    for optimizer in optimizers:
        tables = [optimizer.state] + ([optimizer.optimizer.state] if probe == "Lookahead" else [])
        for param, value in params.items():
            for key, state in ((key, state) for table in tables for key, state in table.get(value, {}).items()):
                if key == "step":
                    out[f"expected_step/{param}"] = np.asarray(int(state), np.int64)
                elif state is not None:
                    found = state.detach().numpy().copy()
                    if key == "p0":  # one zero stands for a parameter of zeros
                        found = np.broadcast_to(found, [-(-value.numel() // options.get("slice_p", 1))]).copy()
                    out[f"expected_state/{param}/{STATES[key]}"] = found
    for param, value in params.items():
        if probe == "NorMuon" and value.numel() == 0:
            out[f"expected_state/{param}/momentum"] = trace[f"param/{param}"].copy()
            out[f"expected_state/{param}/row"] = np.zeros((len(value), 1), DTYPES[dtype])
    out |= {f"expected_global/{key}": np.asarray(values) for key, values in globals_.items()}
    return out


def source_of(probe, name, options):
    package, path = PACKAGES[probe]
    text = f"{package} {version(package)}"
    if probe == "Cautious":
        path = {"AdamW": "timm.optim.AdamWLegacy", "Lion": "timm.optim.Lion", "SGD": "timm.optim.SGDW"}.get(name, path)
    if transcribed(probe, name, options):
        text += ", transcribed" if probe == "Cautious" else f", around {name}, transcribed"
    elif probe == "Lookahead":
        text += f", around torch {version('torch').partition('+')[0]}"
    return text, path


def write(probes):
    for dtype in DTYPES:
        generate.write(generate.trace_path(dtype, "still"), make_still(DTYPES[dtype]), {"steps": str(STEPS)})
    for probe, name, case, options, wrapper, around in cases(probes):
        for dtype in DTYPES:
            path, trace = trace_of(probe, around, dtype)
            if probe == "Cautious" and transcribed(probe, name, options):
                traced = run_rule(probe, name, options, wrapper, around, trace)[0]
                tensors = {key: value if key.startswith("expected_step/") else np.asarray(value, DTYPES[dtype])
                           for key, value in traced.items()}
            elif transcribed(probe, name, options):  # in f64, and rounded once
                wide = {key: value.astype(np.float64) for key, value in trace.items()}
                tensors = run_source(probe, name, options, wrapper, around, wide, "f64")
                tensors = {key: value if key.startswith("expected_step/") else value.astype(DTYPES[dtype])
                           for key, value in tensors.items()}
            else:
                tensors = run_source(probe, name, options, wrapper, around, trace, dtype)
            text, class_ = source_of(probe, name, options)
            metadata = {
                "optimizer": optimizer_text(probe, name, options, wrapper),
                "compute": dtype,
                "trace": path.relative_to(HERE).as_posix(),
                "source": text,
                "source_class": class_,
            }
            if tolerance_of(probe, case, dtype):
                metadata["tolerance"] = str(tolerance_of(probe, case, dtype))
            if "groups" in around:
                keys = ", ".join(f'"{key}": {config_text("", mult)}'.replace('type="", ', "")
                                 for key, mult in around["groups"].items())
                metadata["config"] = (
                    f"optim_wrapper = dict(optimizer={metadata['optimizer']}, "
                    f"paramwise_cfg=dict(custom_keys={{{keys}}}))"
                )
            if "factors" in around:
                metadata["factors"] = json.dumps(around["factors"])
            if "toggle" in around:
                metadata["toggle"] = str(around["toggle"])
            generate.write(path_of(probe, name, case, dtype), tensors, metadata)
    wanted = {path_of(probe, name, case, dtype) for probe, name, case, *_ in cases(PROBES) for dtype in DTYPES}
    for path in (HERE / "probes").glob("*.safetensors"):
        if path not in wanted:
            path.unlink()
            print(f"removed {path.name}: no longer in the table")
    generate.list_files(HERE / "probes")


# ---------------------------------------------------------------------------------------------------------------------
# The check: each rule once more, in numpy f64, written from its formulas. A rule steps all parameters at once: `ps`, `gs`
# (those that have a gradient) and `ss` (states) by name; `group_of`: a parameter's lr and weight decay, `base`: the number of
# its group, `names`: all, by group; `all_` outlives the step.


def prodigy(
    ps,
    gs,
    ss,
    group_of,
    all_,
    base,
    names,
    betas=(0.9, 0.999),
    beta3=None,
    eps=1e-8,
    decouple=True,
    use_bias_correction=False,
    safeguard_warmup=False,
    d0=1e-6,
    d_coef=1.0,
    growth_rate=math.inf,
    slice_p=1,
):
    beta1, beta2 = betas
    beta3 = math.sqrt(beta2) if beta3 is None else beta3
    for key, start in (("d", d0), ("d_max", d0), ("d_hat", d0), ("d_numerator", 0.0), ("d_denom", 0.0), ("k", 0)):
        all_.setdefault(key, start)
    d, most, numerator, k = (all_[key] for key in ("d", "d_max", "d_numerator", "k"))
    lr = max(rate for rate, _ in group_of.values())
    dlr = d * lr * (math.sqrt(1 - beta2 ** (k + 1)) / (1 - beta1 ** (k + 1)) if use_bias_correction else 1.0)
    length = delta = 0.0
    for name, g in gs.items():
        (rate, decay), p, s = group_of[name], ps[name], ss[name]
        assert rate in (lr, 0.0)
        if not decouple:
            gs[name] = g = g + decay * p
        every = lambda x: x.reshape(-1)[::slice_p]
        s.setdefault("s", 0 * every(p))
        s.setdefault("p0", every(p).copy())
        for key in ("m", "v") if beta1 > 0 else ("v",):
            s.setdefault(key, 0 * p)
        if rate > 0:
            delta += d / d0 * dlr * float(np.sum(every(g) * (s["p0"] - every(p))))
            if beta1 > 0:
                s["m"] = beta1 * s["m"] + d * (1 - beta1) * g
            s["v"] = beta2 * s["v"] + d * d * (1 - beta2) * g * g
            s["s"] = beta3 * s["s"] + d / d0 * (d if safeguard_warmup else dlr) * every(g)
            length += float(np.sum(np.abs(s["s"])))
    if length == 0:
        return set()
    all_["d_numerator"], all_["d_denom"] = numerator, all_["d_denom"] = beta3 * numerator + delta, length
    d_hat = d
    if lr > 0:
        d_hat = d_coef * numerator / length
        if d == d0:
            d = max(d, d_hat)
        most = max(most, d_hat)
        d = min(most, d * growth_rate)
    all_.update(d=d, d_max=most, d_hat=d_hat, k=k + 1)
    for name, g in gs.items():
        (_, decay), p, s = group_of[name], ps[name], ss[name]
        root = np.sqrt(s["v"]) + d * eps
        if decouple:
            p = p - decay * dlr * p
        ps[name] = p - dlr * (s["m"] if beta1 > 0 else all_["d"] * g) / root
    return set(gs)


def schedule_free(
    ps,
    gs,
    ss,
    group_of,
    all_,
    base,
    names,
    betas=(0.9, 0.999),
    eps=1e-8,
    warmup_steps=0,
    r=0.0,
    weight_lr_power=2.0,
):
    beta1, beta2 = betas
    k = all_.setdefault("k", 0)
    rates = {}
    for group, rate in dict.fromkeys((group_of[name], base[name]) for name in names):
        own = all_.setdefault(("group", rate), [-1.0, 0.0])  # the largest lr, the sum of weights
        lr = group[0] * min((k + 1) / warmup_steps, 1.0) if warmup_steps else group[0]
        if (group, rate) not in rates:
            most = max(own[0], lr)
            weight = (k + 1) ** r * most**weight_lr_power
            own[:] = most, own[1] + weight
            rates[group, rate] = lr, weight / own[1] if own[1] else 0.0
    for name, g in gs.items():
        (lr, c), decay, y, s = rates[group_of[name], base[name]], group_of[name][1], ps[name], ss[name]
        s.setdefault("z", y)
        s["v"] = beta2 * s.get("v", 0 * y) + (1 - beta2) * g * g
        u = g / (np.sqrt(s["v"] / (1 - beta2 ** (k + 1))) + eps) + decay * y
        ps[name] = (1 - c) * y + c * s["z"] + lr * (beta1 * (1 - c) - 1) * u
        s["z"] = s["z"] - lr * u
    first = (group_of[names[0]], base[names[0]])
    own = all_["group", first[1]]
    all_.update(k=k + 1, lr_max=own[0], weight_sum=own[1], scheduled_lr=rates[first][0])
    return set(gs)


def averaged(y, s, betas):
    return y if "z" not in s else y / betas[0] + s["z"] * (1 - 1 / betas[0])


NAMED = {
    "polar_express": [
        (8.237312490495555, -23.157747414558198, 16.680568411445915),
        (4.082441999064835, -2.893047735332586, 0.5252849256975648),
        (3.9263479922546582, -2.8547468034765298, 0.5318022422894988),
        (3.2982187133085143, -2.424541981026706, 0.48632008358844075),
        (2.2970369434552573, -1.63662558125903, 0.4002628455953627),
        (1.8763805351440397, -1.2347896577722228, 0.35891887501668385),
        (1.8564423485617974, -1.2132449880935525, 0.3568003487825883),
    ]
}


def nor_muon(
    ps,
    gs,
    ss,
    group_of,
    all_,
    base,
    names,
    momentum=0.95,
    beta2=0.95,
    nesterov=True,
    ns_steps=5,
    ns_coeffs=(3.4445, -4.775, 2.0315),
    update_scale="preserve_norm",
    use_adjusted_lr=False,
    eps=1e-10,
    **rest,
):
    coefficients = NAMED.get(ns_coeffs, ns_coeffs) if isinstance(ns_coeffs, str) else ns_coeffs
    coefficients = [coefficients] if isinstance(coefficients, tuple) else coefficients
    for name, g in gs.items():
        (lr, decay), p, s = group_of[name], ps[name], ss[name]
        s["t"] = s.get("t", 0) + 1
        if p.ndim < 2:
            options = {key.removeprefix("rest_"): value for key, value in rest.items() if key.startswith("rest_")}
            ps[name] = generate.adamw(p, g, s, s["t"], **options)
            continue
        s["momentum"] = m = momentum * s.get("momentum", 0 * p) + (1 - momentum) * g
        x = (1 - momentum) * g + momentum * m if nesterov else m
        rows, columns = len(p), p.size // len(p) if len(p) else math.prod(p.shape[1:])
        x = x.reshape(rows, columns)
        x = x.T if rows > columns else x
        x = x / max(np.sqrt(np.sum(x * x)), 1e-7)
        for step in range(ns_steps):
            a, b, c = coefficients[min(step, len(coefficients) - 1)]
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        o = x.T if rows > columns else x
        s["row"] = beta2 * s.get("row", np.zeros((rows, 1))) + (1 - beta2) * np.mean(o * o, axis=1, keepdims=True)
        u = o / (np.sqrt(s["row"]) + eps)
        length = np.sqrt(np.sum(u * u)) + eps
        if update_scale == "preserve_norm":
            u = u * (np.sqrt(np.sum(o * o)) / length)
            lr_u = lr * (0.2 * math.sqrt(max(rows, columns)) if use_adjusted_lr else math.sqrt(max(1.0, rows / columns)))
        else:
            u, lr_u = u * (0.2 * math.sqrt(u.size) / length), lr
        ps[name] = (1 - lr * decay) * p - lr_u * u.reshape(p.shape)
    return set(gs)


def inner(name, p, g, s, t, lr, decay, options):
    """One parameter's step of an algorithm without a probe."""
    if name == "LAMB":
        return norms.lamb(p, g, s, t, {}, lr=lr, weight_decay=decay, **options)
    return generate.RULES[name](p, g, s, t, lr=lr, weight_decay=decay, **options)


def lookahead(name, ps, gs, ss, group_of, all_, wrapper, options):
    k, alpha = wrapper.get("k", 5), wrapper.get("alpha", 0.5)
    for param, p in ps.items():
        ss[param].setdefault("slow", p)
    for param, g in gs.items():
        s = ss[param]
        s["t"] = s.get("t", 0) + 1
        ps[param] = inner(name, ps[param], g, s, s["t"], *group_of[param], options)
    all_["count"] = all_.get("count", 0) + 1
    if all_["count"] % k == 0:  # those without a gradient at this very step are left out
        for param in gs:
            ps[param] = ss[param]["slow"] = ss[param]["slow"] + alpha * (ps[param] - ss[param]["slow"])
    return set(gs)


def cautious(name, ps, gs, ss, group_of, all_, options):
    plain = {key: value for key, value in options.items() if key != "maximize"}
    for param, g in gs.items():
        (lr, decay), p, s = group_of[param], ps[param], ss[param]
        s["t"] = s.get("t", 0) + 1
        g = -g if options.get("maximize") else g
        decoupled = name in ("AdamW", "Lion")
        g = g if decoupled else g + decay * p
        # What the parameter moves by, apart from decoupled decay.
        u = -inner(name, np.zeros_like(p), g, s, s["t"], lr, 0.0, plain)
        mask = u * g > 0
        # An update this near to zero, beside what it was before, would make its sign a matter of rounding.
        before = all_[param] = np.maximum(all_.get(param, 0.0), np.abs(u))
        near = (np.abs(u) < 1e-6 * before) & (u * g != 0)
        all_["near"] = all_.get("near", 0) + int(near.sum())
        scale = max(np.mean(mask), 1e-3) if mask.size else 1.0
        ps[param] = (1 - lr * decay if decoupled else 1.0) * p - np.where(mask, u, 0.0) / scale
    return set(gs)


RULES = {"Prodigy": prodigy, "AdamWScheduleFree": schedule_free, "NorMuon": nor_muon}


def run_rule(probe, name, options, wrapper, around, trace):
    """What the source should have given, with the scale that the error of each tensor is measured by."""
    names = [key.removeprefix("param/") for key in trace if key.startswith("param/")]
    ps = {param: trace[f"param/{param}"].astype(np.float64) for param in names}
    ss, all_, out, scale = {param: {} for param in names}, {}, {}, {}
    split = groups_of(around, names, options, *DEFAULTS[name])
    ordered = [param for members, _, _ in split for param in members]
    base = {param: place for place, (members, _, _) in enumerate(split) for param in members}
    plain = {key: value for key, value in options.items() if key not in ("lr", "weight_decay")}
    most = {param: np.max(np.abs(p), initial=0.0) for param, p in ps.items()}
    way, largest, globals_ = dict.fromkeys(names, 0.0), {}, {}
    for t in range(STEPS):
        factor = around.get("factors", [1.0] * STEPS)[t]
        group_of = {param: (lr * factor, decay) for members, lr, decay in split for param in members}
        gs = {param: trace[f"grad/{t}/{param}"].astype(np.float64) for param in names if f"grad/{t}/{param}" in trace}
        before = dict(ps)
        if probe == "Lookahead":
            moved = lookahead(name, ps, gs, ss, group_of, all_, wrapper, plain)
        elif probe == "Cautious":
            moved = cautious(name, ps, gs, ss, group_of, all_, plain)
        else:
            moved = RULES[probe](ps, gs, ss, group_of, all_, base, ordered, **plain)
        for param in moved:
            ss[param]["steps"] = ss[param].get("steps", 0) + 1
        for key in GLOBALS.get(probe, ()):
            globals_.setdefault(key, []).append(float(all_.get(key, 0.0)))
        for param, p in ps.items():
            most[param] = max(most[param], np.max(np.abs(p), initial=0.0))
            way[param] += np.max(np.abs(p - before[param]), initial=0.0)
            for state, value in ss[param].items():
                largest[param, state] = max(largest.get((param, state), 0.0), np.max(np.abs(value), initial=0.0))
            if t in kept(param):
                out[f"expected/{t}/{param}"], scale[f"expected/{t}/{param}"] = np.asarray(p), most[param] + way[param]
                if probe == "AdamWScheduleFree":
                    key = f"expected_eval/{t}/{param}"
                    out[key] = np.asarray(averaged(p, ss[param], plain.get("betas", (0.9, 0.999))))
                    scale[key] = 2 / plain.get("betas", (0.9,))[0] * (most[param] + way[param])
    for param in names:
        for state, value in ss[param].items():
            if state == "steps" and (probe in ("Prodigy", "Cautious") or name in ("AdamW", "LAMB")):
                if not (probe == "Cautious" and name in ("Lion", "SGD")):
                    out[f"expected_step/{param}"] = np.asarray(value, np.int64)
            elif state not in ("t", "steps"):
                key = f"expected_state/{param}/{state}"
                out[key], scale[key] = np.asarray(value), largest[param, state]
        if probe == "NorMuon" and ps[param].ndim < 2 and "t" in ss[param]:
            out[f"expected_step/{param}"] = np.asarray(ss[param]["t"], np.int64)
    for key, values in globals_.items():
        out[f"expected_global/{key}"] = np.asarray(values)
        scale[f"expected_global/{key}"] = np.maximum(np.abs(values), 1e-300)
    assert not all_.get("near"), f"{all_['near']} updates so near zero that a mask hangs on rounding"
    return out, scale


# Of a tensor's largest value and way. Sums over all elements, which the next steps hang on, and matrices of small singular
# values round more than a chain of eight operations does.
LOOSE = {"NorMuon": 8, "Prodigy": 64}


def check(probes):
    failed, largest = 0, {}
    for probe, name, case, options, wrapper, around in cases(probes):
        for dtype in DTYPES:
            path, trace = trace_of(probe, around, dtype)
            file = path_of(probe, name, case, dtype)
            found, metadata = safetensors.numpy.load_file(file), generate.read_metadata(file)
            assert metadata["optimizer"] == optimizer_text(probe, name, options, wrapper), f"{file.name}: not this case"
            want, scale = run_rule(probe, name, options, wrapper, around, trace)
            worst, problem = 0.0, ""
            if set(want) != set(found):
                problem = f" other tensors: {sorted(set(want) ^ set(found))[:4]}"
            for key in set(want) & set(found):
                value, got = want[key], found[key]
                if got.shape != value.shape:
                    problem = f" {key} has extents {got.shape}, not {value.shape}"
                elif key.startswith("expected_step/"):
                    problem = problem or ("" if value == got else f" {key}: {got}, not {value}")
                elif not np.isfinite(got).all():
                    problem = f" {key} is not finite"
                else:
                    error = np.abs(got.astype(np.float64) - value) - np.finfo(DTYPES[dtype]).tiny
                    part = np.max(error / (scale[key] + 1e-300), initial=0.0)
                    if part > worst:
                        worst, at = part, key
            allowed = tolerance_of(probe, case, dtype) or generate.TOLERANCE[dtype] * LOOSE.get(probe, 1)
            largest[probe, dtype] = max(largest.get((probe, dtype), 0.0), worst)
            bad = problem or worst > allowed
            failed += bool(bad)
            where = f" ({at})" if worst > allowed else ""
            print(f"{'FAIL' if bad else 'ok  '} {file.name}: {worst:.1e} of the largest{where}{problem}")
    for (probe, dtype), worst in largest.items():
        print(f"{probe} {dtype}: {worst:.1e}")
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("probes", nargs="*", choices=[*PROBES, []], metavar="PROBE")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    probes = args.probes or PROBES
    if not args.check:
        return write(probes)
    if check(probes):
        sys.exit("some values are off")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Write the golden values: what the source of each optimizer gives on a recorded trace.

    python generate.py              write traces/ and expected/ (README.md has the format)
    python generate.py AdamW Lion   write the cases of these optimizers only
    python generate.py --check      recompute the written files in plain numpy f64 and compare

To add an optimizer: an entry in SOURCES, one in CASES, and, where that is feasible, a rule in RULES for --check.
"""

import argparse
import ast
import importlib
import json
import os
import pathlib
import sys
from dataclasses import dataclass, field
from importlib.metadata import version

# torch's baseline code does not fuse multiply and add; its AVX2 and AVX-512 code does, which is worth a last digit.
os.environ["ATEN_CPU_CAPABILITY"] = "default"

import numpy as np
import safetensors
import safetensors.numpy

HERE = pathlib.Path(__file__).resolve().parent
DTYPES = {"f32": np.float32, "f64": np.float64}


# ---------------------------------------------------------------------------------------------------------------------
# The trace: start values and gradients


@dataclass(frozen=True)
class Param:
    shape: tuple
    size: float  # magnitude of the start values
    grad: float  # magnitude of the gradients
    spread: int = 0  # the magnitudes run over this many powers of ten, up and down, from element to element
    missing: tuple = ()  # steps without a gradient
    zero: tuple = ()  # steps with a gradient of exact zeros


STEPS = 16
PARAMS = {
    "block.weight": Param((7, 5), size=1.0, grad=1.0),
    "block.bias": Param((5,), size=1e-2, grad=1e-3, zero=(7,)),
    "scalar": Param((), size=3.0, grad=10.0, missing=(0,)),
    "empty": Param((0, 3), size=1.0, grad=1.0),
    "odd": Param((37,), size=1.0, grad=1e2, missing=(3, 4, 9)),
    "long": Param((1031,), size=1e-3, grad=1e-2, spread=3),
    "late": Param((3, 2), size=1.0, grad=1e-1, missing=(0, 1, 2, 3, 4)),
}

# Steps whose parameters are kept. The long parameter is kept at the end only, to keep the files small.
KEEP = (0, 1, 2, 5, STEPS - 1)
KEEP_OF = {"long": (STEPS - 1,)}


def kept(name):
    return KEEP_OF.get(name, KEEP)


def make_trace(dtype):
    """The same numbers for each type: the f32 trace is the f64 trace, rounded."""
    tensors = {}
    # RandomState, not Generator: its streams never change between versions of numpy.
    rng = np.random.RandomState(20240607)
    for name, spec in PARAMS.items():
        n = int(np.prod(spec.shape))
        tens = 10.0 ** (np.arange(n) * 5 % (2 * spec.spread + 1) - spec.spread)
        start = spec.size * tens * rng.standard_normal(n)
        drift = 0.5 * rng.standard_normal(n)
        mostly_zero, always_zero = np.arange(n) % 11 == 4, np.arange(n) % 33 == 4
        tensors[f"param/{name}"] = start.reshape(spec.shape)
        for t in range(STEPS):
            noise, hit = rng.standard_normal(n), rng.uniform(size=n)
            # Falling, so that a second moment falls too (AMSGrad's maximum then differs from it).
            grad = spec.grad * tens[::-1] * 0.8**t * (noise + drift)
            grad[mostly_zero & (hit < 0.8)] = 0.0
            grad[hit < 0.03] = -0.0
            grad[always_zero] = 0.0
            if t in spec.zero:
                grad[:] = 0.0
            if t not in spec.missing:
                tensors[f"grad/{t}/{name}"] = grad.reshape(spec.shape)
    return {key: np.asarray(value, dtype=dtype) for key, value in tensors.items()}


# ---------------------------------------------------------------------------------------------------------------------
# The sources


@dataclass(frozen=True)
class Source:
    path: str  # the class
    package: str  # the distribution it comes from
    states: dict  # the source's state names -> ours
    fixed: dict = field(default_factory=dict)  # arguments that choose a code path and change no number

    def load(self):
        module, _, name = self.path.rpartition(".")
        return getattr(importlib.import_module(module), name)


SINGLE_TENSOR = dict(foreach=False, fused=False)
MOMENTS = {"exp_avg": "m", "exp_avg_sq": "v", "max_exp_avg_sq": "v_max"}
SOURCES = {
    "SGD": Source("torch.optim.SGD", "torch", {"momentum_buffer": "momentum"}, SINGLE_TENSOR),
    "Adam": Source("torch.optim.Adam", "torch", MOMENTS, SINGLE_TENSOR),
    "AdamW": Source("torch.optim.AdamW", "torch", MOMENTS, SINGLE_TENSOR),
    "Lion": Source("lion_pytorch.Lion", "lion-pytorch", {"exp_avg": "m"}),
}


# ---------------------------------------------------------------------------------------------------------------------
# The cases: optimizer -> case -> options. A case without options pins the defaults.

CASES = {
    "SGD": {
        "default": dict(),
        "lr": dict(lr=0.05),
        "decay": dict(lr=0.05, weight_decay=0.1),
        "momentum": dict(lr=0.01, momentum=0.9),
        "momentum-decay": dict(lr=0.01, momentum=0.8, weight_decay=0.1),
        "dampening": dict(lr=0.01, momentum=0.9, dampening=0.3),
        "dampening-decay-maximize": dict(lr=0.02, momentum=0.7, dampening=0.9, weight_decay=0.05, maximize=True),
        "nesterov": dict(lr=0.01, momentum=0.9, nesterov=True),
        "nesterov-decay-maximize": dict(lr=0.01, momentum=0.95, weight_decay=0.2, nesterov=True, maximize=True),
        "maximize": dict(lr=0.03, maximize=True),
    },
    "Adam": {
        "default": dict(),
        "betas-eps": dict(lr=0.01, betas=(0.8, 0.95), eps=1e-3),
        "low-betas": dict(lr=0.01, betas=(0.3, 0.7)),
        "decay": dict(lr=0.01, weight_decay=0.1),
        "amsgrad": dict(lr=0.01, betas=(0.9, 0.9), amsgrad=True),
        "maximize": dict(lr=0.01, maximize=True),
        "amsgrad-decay-maximize": dict(
            lr=0.02, betas=(0.85, 0.8), eps=1e-5, weight_decay=0.05, amsgrad=True, maximize=True
        ),
        "decoupled": dict(lr=0.01, weight_decay=0.1, decoupled_weight_decay=True),
        "decoupled-amsgrad": dict(
            lr=0.02, betas=(0.9, 0.8), weight_decay=0.3, amsgrad=True, decoupled_weight_decay=True
        ),
    },
    "AdamW": {
        "default": dict(),
        "decay-betas": dict(lr=0.01, betas=(0.85, 0.97), weight_decay=0.3),
        "eps": dict(lr=0.01, eps=1e-3, weight_decay=0.05),
        "amsgrad": dict(lr=0.01, betas=(0.9, 0.9), amsgrad=True),
        "amsgrad-maximize": dict(lr=0.02, betas=(0.8, 0.85), eps=1e-6, amsgrad=True, maximize=True),
        "maximize": dict(lr=0.01, weight_decay=0.1, maximize=True),
        "no-decay": dict(lr=0.01, weight_decay=0.0),
    },
    "Lion": {
        "default": dict(),
        "decay": dict(lr=0.01, weight_decay=0.1),
        "betas": dict(lr=0.003, betas=(0.95, 0.98)),
        "betas-decay": dict(lr=0.02, betas=(0.6, 0.8), weight_decay=1.0),
        "decoupled": dict(lr=0.01, weight_decay=0.05, decoupled_weight_decay=True),
        "decoupled-betas": dict(lr=0.002, betas=(0.8, 0.95), weight_decay=0.01, decoupled_weight_decay=True),
    },
}


def cases(names):
    """(optimizer, case, options, type) of every expected file."""
    for name in names:
        for case, options in CASES[name].items():
            for dtype in DTYPES:
                yield name, case, options, dtype


def trace_path(dtype):
    return HERE / "traces" / f"{dtype}.safetensors"


def expected_path(name, case, dtype):
    return HERE / "expected" / f"{name}-{case}-{dtype}.safetensors"


def config_text(name, options):
    """The configuration as fallline takes it: dict(type="SGD", lr=0.05)."""
    return "dict(" + ", ".join([f'type="{name}"'] + [f"{key}={value!r}" for key, value in options.items()]) + ")"


# ---------------------------------------------------------------------------------------------------------------------
# Running a source


def run_source(source, options, trace):
    import torch

    torch.set_num_threads(1)
    params = {name: torch.nn.Parameter(torch.from_numpy(trace[f"param/{name}"].copy())) for name in PARAMS}
    optimizer = source.load()(list(params.values()), **options, **source.fixed)
    out = {}
    for t in range(STEPS):
        for name, param in params.items():
            grad = trace.get(f"grad/{t}/{name}")
            param.grad = None if grad is None else torch.from_numpy(grad.copy())
        optimizer.step()
        for name, param in params.items():
            if t in kept(name):
                out[f"expected/{t}/{name}"] = param.detach().numpy().copy()
    for name, param in params.items():
        for key, value in optimizer.state[param].items():
            if key == "step":
                out[f"expected_step/{name}"] = np.asarray(int(value), dtype=np.int64)
            elif value is not None:  # a state without an entry in the table is an error, not something to leave out
                out[f"expected_state/{name}/{source.states[key]}"] = value.numpy().copy()
    return out


def write(path, tensors, metadata):
    data = safetensors.numpy.save(tensors, metadata)
    # The library writes the metadata in a random order. Sorted, the same numbers make the same file.
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    assert len(text) <= size
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data[:8] + text.ljust(size) + data[8 + size :])


def generate(names):
    traces = {dtype: make_trace(numpy_type) for dtype, numpy_type in DTYPES.items()}
    for dtype, trace in traces.items():
        write(trace_path(dtype), trace, {"steps": str(STEPS)})
    for name, case, options, dtype in cases(names):
        source = SOURCES[name]
        metadata = {
            "optimizer": config_text(name, options),
            "compute": dtype,
            "trace": trace_path(dtype).relative_to(HERE).as_posix(),
            "source": f"{source.package} {version(source.package).partition('+')[0]}",
            "source_class": source.path,
        }
        write(expected_path(name, case, dtype), run_source(source, options, traces[dtype]), metadata)
    wanted = {expected_path(name, case, dtype) for name, case, _, dtype in cases(CASES)}
    for path in (HERE / "expected").glob("*.safetensors"):
        if path not in wanted:
            path.unlink()
            print(f"removed {path.name}: no longer in the table")


# ---------------------------------------------------------------------------------------------------------------------
# The check: each rule once more, from its paper, in numpy. `s` holds the states, `t` counts gradients from 1.


def sgd(p, g, s, t, lr=1e-3, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, maximize=False):
    g = (-g if maximize else g) + weight_decay * p
    if momentum:
        s["momentum"] = momentum * s["momentum"] + (1 - dampening) * g if t > 1 else g
        g = g + momentum * s["momentum"] if nesterov else s["momentum"]
    return p - lr * g


def adam(
    p,
    g,
    s,
    t,
    lr=1e-3,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    amsgrad=False,
    maximize=False,
    decoupled_weight_decay=False,
):
    g = -g if maximize else g
    if decoupled_weight_decay:
        p = p - lr * weight_decay * p
    else:
        g = g + weight_decay * p
    s["m"] = betas[0] * s.get("m", 0.0) + (1 - betas[0]) * g
    s["v"] = v = betas[1] * s.get("v", 0.0) + (1 - betas[1]) * g**2
    if amsgrad:
        s["v_max"] = v = np.maximum(s.get("v_max", 0.0), v)
    m_hat = s["m"] / (1 - betas[0] ** t)
    v_hat = v / (1 - betas[1] ** t)
    return p - lr * m_hat / (np.sqrt(v_hat) + eps)


def adamw(p, g, s, t, weight_decay=1e-2, **options):
    return adam(p, g, s, t, weight_decay=weight_decay, decoupled_weight_decay=True, **options)


def lion(p, g, s, t, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, decoupled_weight_decay=False):
    m = s.get("m", np.zeros_like(g))
    old, new = betas[0] * m, (1 - betas[0]) * g
    # A sum this close to zero would make the sign, and so the golden value, a matter of rounding.
    near = np.abs(old + new) < 1e-5 * (np.abs(old) + np.abs(new))
    assert not near.any(), "Lion: a step whose sign hangs on rounding; choose another seed or other betas"
    decay = weight_decay if decoupled_weight_decay else lr * weight_decay
    s["m"] = betas[1] * m + (1 - betas[1]) * g
    return (1 - decay) * p - lr * np.sign(old + new)


RULES = {"SGD": sgd, "Adam": adam, "AdamW": adamw, "Lion": lion}

# Allowed error of an element, relative to the largest absolute value it had plus the length of its way. STEPS steps of
# some eight roundings each, of 2^-53 or 2^-24.
TOLERANCE = {"f64": STEPS * 8 * 2.0**-53, "f32": STEPS * 8 * 2.0**-24}


def run_rule(rule, options, trace):
    """What the source should have given, with the scale that the error of each element is measured by."""
    out, scale = {}, {}
    for name in PARAMS:
        p, s, t = trace[f"param/{name}"].astype(np.float64), {}, 0
        largest, way, largest_state = np.abs(p), np.zeros_like(p), {}
        for step in range(STEPS):
            g = trace.get(f"grad/{step}/{name}")
            if g is not None:
                t += 1
                before, p = p, rule(p, g.astype(np.float64), s, t, **options)
                largest, way = np.maximum(largest, np.abs(p)), way + np.abs(p - before)
                for key, value in s.items():
                    largest_state[key] = np.maximum(largest_state.get(key, 0.0), np.abs(value))
            if step in kept(name):
                out[f"expected/{step}/{name}"], scale[f"expected/{step}/{name}"] = p, largest + way
        for key, value in s.items():
            out[f"expected_state/{name}/{key}"], scale[f"expected_state/{name}/{key}"] = value, largest_state[key]
    return out, scale


def read_metadata(path):
    with safetensors.safe_open(path, "numpy") as file:
        return file.metadata()


def parse_config(text):
    call = ast.parse(text, mode="eval").body
    options = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    return options.pop("type"), options


def check_case(name, case, dtype):
    """The largest error, as a part of the allowed one."""
    path = expected_path(name, case, dtype)
    metadata, found = read_metadata(path), safetensors.numpy.load_file(path)
    trace = safetensors.numpy.load_file(HERE / metadata["trace"])
    type_, options = parse_config(metadata["optimizer"])
    assert (type_, options, metadata["compute"]) == (name, CASES[name][case], dtype), f"{path.name}: not this case"
    want, scale = run_rule(RULES[name], options, trace)
    assert set(want) == {key for key in found if not key.startswith("expected_step/")}, f"{path.name}: other tensors"
    worst = 0.0
    for key, value in want.items():
        assert found[key].dtype == DTYPES[dtype] and found[key].shape == value.shape, f"{path.name}: type of {key}"
        assert np.isfinite(found[key]).all(), f"{path.name}: {key} is not finite"
        error = np.abs(found[key] - value) - np.finfo(DTYPES[dtype]).tiny  # zero against zero is no error
        worst = max(worst, np.max(error / (scale[key] * TOLERANCE[dtype] + np.finfo(np.float64).tiny), initial=0.0))
    for key, count in found.items():
        if key.startswith("expected_step/"):
            param = key.removeprefix("expected_step/")
            assert count == STEPS - len(PARAMS[param].missing), f"{path.name}: {key}"
    return worst


def check(names):
    failed = 0
    for dtype, numpy_type in DTYPES.items():
        found, want = safetensors.numpy.load_file(trace_path(dtype)), make_trace(numpy_type)
        same = found.keys() == want.keys() and all(found[key].tobytes() == want[key].tobytes() for key in want)
        failed += not same
        print(f"{'ok  ' if same else 'FAIL'} {trace_path(dtype).name}: the trace as this script makes it")
    for name, case, _, dtype in cases(names):
        label = expected_path(name, case, dtype).name
        if name not in RULES:
            print(f"skip {label}: no rule to check it by")
            continue
        worst = check_case(name, case, dtype)
        failed += worst > 1.0
        print(f"{'ok  ' if worst <= 1.0 else 'FAIL'} {label}: {worst:.2f} of the allowed error")
    stray = {path.name for path in (HERE / "expected").iterdir()}
    stray -= {expected_path(name, case, dtype).name for name, case, _, dtype in cases(CASES)}
    for label in sorted(stray):
        failed += 1
        print(f"FAIL {label}: not in the table")
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="optimizers (default: all)")
    parser.add_argument("--check", action="store_true", help="write nothing; recompute and compare")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in CASES]
    if unknown:
        parser.error(f"no cases for {', '.join(unknown)}; there are {', '.join(CASES)}")
    names = args.names or list(CASES)
    if args.check:
        sys.exit(1 if check(names) else 0)
    generate(names)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Write the golden values: what the source of each optimizer gives on a recorded trace.

    python generate.py              write traces/ and expected/ (README.md has the format)
    python generate.py AdamW Lion   write the cases of these optimizers only
    python generate.py --check      recompute the written files in plain numpy f64 and compare

To add an optimizer: an entry in SOURCES, one in CASES, and a rule in RULES for --check. Where a source does not run in a
type, `transcribed` names the type, and the values are those of TRANSCRIPTIONS (literal), or else of RULES.
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

# DeepSpeed asks for a device before it looks for one.
os.environ["DS_ACCELERATOR"] = "cpu"
# torch's baseline code does not fuse multiply and add; its AVX2 and AVX-512 code does, which is worth a last digit.
os.environ["ATEN_CPU_CAPABILITY"] = "default"

import numpy as np
import safetensors
import safetensors.numpy

import matrices
import norms
import onebit
import sparse

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


def make_trace(dtype, whole=False):
    """The same numbers for each type: the f32 trace is the f64 trace, rounded. A whole one has no gaps."""
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
            if t not in spec.missing or whole:
                tensors[f"grad/{t}/{name}"] = grad.reshape(spec.shape)
    numbers = {key: np.asarray(value, dtype=dtype) for key, value in tensors.items()}
    return {key: value for key, value in numbers.items() if value.size or not whole}


# ---------------------------------------------------------------------------------------------------------------------
# The sources


@dataclass(frozen=True)
class Source:
    path: str  # the class
    package: str  # the distribution it comes from
    states: dict  # the source's state names -> ours; a pair for two in one tensor, None for what is no state here
    # Arguments that choose a code path and change no number, and values for those without a default.
    fixed: dict = field(default_factory=dict)
    step: tuple = ()  # options that are arguments of `step` there
    transcribed: tuple = ()  # types in which the source does not run

    def load(self):
        module, _, name = self.path.rpartition(".")
        return getattr(importlib.import_module(module), name)


SINGLE_TENSOR = dict(foreach=False, fused=False)
MOMENTS = {"exp_avg": "m", "exp_avg_sq": "v", "max_exp_avg_sq": "v_max"}
FOREACH = dict(foreach=False)
F64 = ("f64",)
SOURCES = {
    "SGD": Source("torch.optim.SGD", "torch", {"momentum_buffer": "momentum"}, SINGLE_TENSOR),
    "Adam": Source("torch.optim.Adam", "torch", MOMENTS, SINGLE_TENSOR),
    "AdamW": Source("torch.optim.AdamW", "torch", MOMENTS, SINGLE_TENSOR),
    "Lion": Source("lion_pytorch.Lion", "lion-pytorch", {"exp_avg": "m"}),
    "Adagrad": Source("torch.optim.Adagrad", "torch", {"sum": "sum"}, SINGLE_TENSOR),
    "Adadelta": Source("torch.optim.Adadelta", "torch", {"square_avg": "v", "acc_delta": "u"}, FOREACH),
    "RMSprop": Source(
        "torch.optim.RMSprop",
        "torch",
        {"square_avg": "v", "grad_avg": "mean", "momentum_buffer": "momentum"},
        FOREACH,
    ),
    "RAdam": Source("torch.optim.RAdam", "torch", MOMENTS, FOREACH),
    "NAdam": Source("torch.optim.NAdam", "torch", {**MOMENTS, "mu_product": None}, FOREACH),
    "Adamax": Source("torch.optim.Adamax", "torch", {"exp_avg": "m", "exp_inf": "u"}, FOREACH),
    "ASGD": Source("torch.optim.ASGD", "torch", {"ax": "ax", "eta": None, "mu": None}, FOREACH),
    "Rprop": Source("torch.optim.Rprop", "torch", {"prev": "prev", "step_size": "step_size"}, FOREACH),
    "SophiaG": Source("sophia_opt.SophiaG", "sophia-opt", {"exp_avg": "m", "hessian": "hessian"}, step=("bs",)),
    "FusedAdam": Source("deepspeed.ops.adam.FusedAdam", "deepspeed", {}, transcribed=("f32", "f64")),
    "DeepSpeedCPUAdam": Source("deepspeed.ops.adam.DeepSpeedCPUAdam", "deepspeed", MOMENTS, transcribed=F64),
}
BITSANDBYTES = {  # name there -> names here, and the states
    "Adam": (("bnb_Adam",), {"state1": "m", "state2": "v"}),
    "AdamW": (("bnb_AdamW",), {"state1": "m", "state2": "v"}),
    "Adagrad": (("bnb_Adagrad",), {"state1": "sum"}),
    "Lion": (("bnb_Lion",), {"state1": "m"}),
    "RMSprop": (("bnb_RMSprop",), {"state1": "v"}),
    "SGD": (("bnb_SGD",), {"state1": "momentum"}),
    "Adam32bit": (("Adam32bit",), {"state1": "m", "state2": "v"}),
    "AdamW32bit": (("AdamW32bit",), {"state1": "m", "state2": "v"}),
    "Adagrad32bit": (("Adagrad32bit",), {"state1": "sum"}),
    "Lion32bit": (("Lion32bit",), {"state1": "m"}),
    "RMSprop32bit": (("RMSprop32bit",), {"state1": "v"}),
    "SGD32bit": (("SGD32bit",), {"state1": "momentum"}),
    # AdEMAMix32bit of 0.50.2 has too small a state and does not run: its documentation means this.
    "AdEMAMix": (("AdEMAMix", "AdEMAMix32bit"), {"state1": ("m", "m_slow"), "state2": "v"}),
}
for there, (here, states) in BITSANDBYTES.items():
    # SGD of bitsandbytes has no default lr and refuses its default momentum.
    fixed = dict(lr=1e-3, momentum=0.9) if there.startswith("SGD") else {}
    for name in here:
        SOURCES[name] = Source(f"bitsandbytes.optim.{there}", "bitsandbytes", states, fixed, transcribed=F64)
SOURCES |= {name: Source(*source) for name, source in (norms.SOURCES | matrices.SOURCES | sparse.SOURCES).items()}
for name, (file, class_, states, _) in onebit.SOURCES.items():
    SOURCES[name] = Source(f"deepspeed.runtime.fp16.onebit.{file}.{class_}", "deepspeed", states)


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
    "Adagrad": {
        "default": dict(),
        "lr-decay": dict(lr=0.05, lr_decay=0.3, eps=1e-6),
        "start": dict(lr=0.05, initial_accumulator_value=0.5, eps=1e-3),
        "decay-maximize": dict(lr=0.1, lr_decay=0.05, weight_decay=0.1, initial_accumulator_value=0.01, maximize=True),
        "decay": dict(lr=0.02, weight_decay=0.3, maximize=True),
    },
    "Adadelta": {
        "default": dict(),
        "rho-eps": dict(lr=0.5, rho=0.6, eps=1e-3),
        "decay": dict(rho=0.95, weight_decay=0.1, maximize=True),
        "decay-maximize": dict(lr=2.0, rho=0.8, eps=1e-8, weight_decay=0.02, maximize=True),
    },
    "RMSprop": {
        "default": dict(),
        "alpha-eps": dict(lr=0.003, alpha=0.7, eps=1e-3),
        "momentum": dict(lr=0.003, alpha=0.9, momentum=0.8, weight_decay=0.1),
        "centered": dict(lr=0.003, centered=True, eps=1e-5, weight_decay=0.2, maximize=True),
        "centered-momentum": dict(lr=0.002, alpha=0.8, momentum=0.5, centered=True),
        "maximize": dict(lr=0.01, alpha=0.95, maximize=True),
    },
    "RAdam": {
        "default": dict(),
        "betas-eps": dict(lr=0.01, betas=(0.7, 0.99), eps=1e-3),
        "never": dict(lr=0.01, betas=(0.6, 0.6)),
        "decay": dict(lr=0.01, weight_decay=0.1, maximize=True),
        "decoupled": dict(lr=0.02, betas=(0.8, 0.95), weight_decay=0.3, decoupled_weight_decay=True),
        "decoupled-maximize": dict(lr=0.01, eps=1e-5, weight_decay=0.1, decoupled_weight_decay=True, maximize=True),
    },
    "NAdam": {
        "default": dict(),
        "betas-eps": dict(lr=0.01, betas=(0.7, 0.97), eps=1e-3, momentum_decay=0.2),
        "decay": dict(lr=0.01, weight_decay=0.1, momentum_decay=0.0, maximize=True),
        "decoupled": dict(lr=0.02, betas=(0.95, 0.9), weight_decay=0.3, decoupled_weight_decay=True),
        "decoupled-maximize": dict(lr=0.01, eps=1e-5, weight_decay=0.1, decoupled_weight_decay=True, maximize=True),
    },
    "Adamax": {
        "default": dict(),
        "betas-eps": dict(lr=0.01, betas=(0.7, 0.9), eps=1e-3),
        "decay": dict(lr=0.01, betas=(0.9, 0.8), weight_decay=0.1, maximize=True),
        "decay-maximize": dict(lr=0.02, eps=1e-6, weight_decay=0.3, maximize=True),
    },
    "ASGD": {
        "default": dict(),
        "averaging": dict(lr=0.05, lambd=0.1, t0=3.0),
        "fast": dict(lr=0.02, lambd=0.5, alpha=0.3, t0=0.0, weight_decay=0.1),
        "decay-maximize": dict(lr=0.01, alpha=1.5, t0=6.0, weight_decay=0.3, maximize=True),
    },
    "Rprop": {
        "default": dict(),
        "etas": dict(lr=0.1, etas=(0.3, 1.5)),
        "sizes": dict(lr=0.02, step_sizes=(1e-2, 4e-2), maximize=True),
        "etas-sizes-maximize": dict(lr=0.005, etas=(0.8, 2.0), step_sizes=(1e-3, 0.1), maximize=True),
    },
    "SophiaG": {
        "default": dict(),
        "hessian": dict(lr=0.01, bs=64),
        "hessian-betas": dict(lr=0.02, betas=(0.8, 0.7), rho=0.2, weight_decay=0.3, bs=10, maximize=True),
        "rho-maximize": dict(lr=0.003, betas=(0.9, 0.95), rho=0.01, weight_decay=0.0, maximize=True),
    },
    "FusedAdam": {
        "default": dict(),
        "decoupled": dict(lr=0.01, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1),
        "l2": dict(lr=0.01, adam_w_mode=False, weight_decay=0.3),
        "uncorrected": dict(lr=0.01, bias_correction=False, betas=(0.7, 0.9), weight_decay=0.2),
        "l2-uncorrected": dict(lr=0.02, bias_correction=False, eps=1e-4, adam_w_mode=False, weight_decay=0.05),
    },
    "DeepSpeedCPUAdam": {
        "default": dict(),
        "decoupled": dict(lr=0.01, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1),
        "l2": dict(lr=0.01, adamw_mode=False, weight_decay=0.3),
        "uncorrected": dict(lr=0.01, bias_correction=False, betas=(0.7, 0.9), weight_decay=0.2),
        "l2-uncorrected": dict(lr=0.02, bias_correction=False, eps=1e-4, adamw_mode=False, weight_decay=0.05),
    },
    "AdEMAMix": {
        "default": dict(),
        "betas": dict(lr=0.01, betas=(0.8, 0.95, 0.99), alpha=2.0, eps=1e-3, weight_decay=0.1),
        "schedules": dict(lr=0.01, t_alpha=10, t_beta3=12, weight_decay=0.0),
        "alpha-schedule": dict(lr=0.005, betas=(0.7, 0.9, 0.999), alpha=8.0, t_alpha=20, eps=1e-5),
        "beta3-schedule": dict(lr=0.005, betas=(0.6, 0.99, 0.9), alpha=3.0, t_beta3=40, weight_decay=0.3),
    },
}
BNB_ADAM = {
    "default": dict(),
    "betas-eps": dict(lr=0.01, betas=(0.8, 0.95), eps=1e-3),
    "decay": dict(lr=0.02, betas=(0.7, 0.9), eps=1e-5, weight_decay=0.3, amsgrad=True),
}
BNB_CASES = {
    "Adam": BNB_ADAM,
    "AdamW": BNB_ADAM,
    "Adagrad": {
        "default": dict(),
        "eps": dict(lr=0.1, eps=1e-3),
        "decay": dict(lr=0.05, eps=1e-6, weight_decay=0.1),
    },
    "Lion": {
        "default": dict(),
        "betas": dict(lr=0.003, betas=(0.95, 0.98)),
        "decay": dict(lr=0.02, betas=(0.6, 0.8), weight_decay=1.0),
    },
    "RMSprop": {
        "default": dict(),
        "alpha-eps": dict(lr=0.003, alpha=0.7, eps=1e-3),
        "decay": dict(lr=0.002, alpha=0.9, eps=1e-5, weight_decay=0.1, momentum=0.9),
    },
    "SGD": {
        "default": dict(),
        "momentum": dict(lr=0.05, momentum=0.5),
        "decay": dict(lr=0.01, momentum=0.8, weight_decay=0.1, dampening=0.5, nesterov=True),
    },
}
for name, table in BNB_CASES.items():
    CASES[f"bnb_{name}"] = CASES[f"{name}32bit"] = table
CASES["AdEMAMix32bit"] = {case: CASES["AdEMAMix"][case] for case in ("default", "betas", "schedules")}

# Every how many steps the gradient of a step is also handed to `update_hessian` after it.
HESSIAN_EVERY = {("SophiaG", "hessian"): 3, ("SophiaG", "hessian-betas"): 2}


CASES |= norms.CASES | matrices.CASES | onebit.CASES
CASES |= {name: CASES.get(name, {}) | sparse.options_of(name) for name in sparse.CASES}


def cases(names):
    """(optimizer, case, options, type) of every expected file."""
    for name in names:
        if name in matrices.CASES:
            yield from ((name, *case) for case in matrices.cases(name))
            continue
        for case, options in CASES[name].items():
            for dtype in DTYPES:
                # The 32-bit names are the same classes again.
                if not name.endswith("32bit") or dtype == "f32" or case == "default":
                    yield name, case, options, dtype


def trace_path(dtype, trace=None):
    return HERE / "traces" / f"{f'{trace}-' if trace else ''}{dtype}.safetensors"


def all_traces():
    """Every trace: its path, and what is in it."""
    for dtype, numpy_type in DTYPES.items():
        yield trace_path(dtype), make_trace(numpy_type)
        yield trace_path(dtype, "whole"), make_trace(numpy_type, whole=True)
        for module in (matrices, sparse):
            for trace in module.TRACES:
                yield trace_path(dtype, trace), module.make_trace(trace, numpy_type)


def trace_of(name, case):
    """The trace of a case; None is the one that most have."""
    if name in onebit.CASES:
        return "whole" if onebit.whole(name) else None
    return sparse.trace_of(name, case) or matrices.TRACE_OF.get(name)


def version_of(name):
    return onebit.VERSION if name in onebit.CASES else version(SOURCES[name].package).partition("+")[0]


def expected_path(name, case, dtype):
    return HERE / "expected" / f"{name}-{case}-{dtype}.safetensors"


def config_text(name, options):
    """The configuration as fallline takes it: dict(type="SGD", lr=0.05)."""
    return "dict(" + ", ".join([f'type="{name}"'] + [f"{key}={value!r}" for key, value in options.items()]) + ")"


# ---------------------------------------------------------------------------------------------------------------------
# Running a source


def run_source(source, options, trace, hessian_every=None):
    import torch

    torch.set_num_threads(1)
    names = [key.removeprefix("param/") for key in trace if key.startswith("param/")]
    params = {name: torch.nn.Parameter(torch.from_numpy(trace[f"param/{name}"].copy())) for name in names}
    of_step = {key: value for key, value in options.items() if key in source.step}
    of_class = {**source.fixed, **{key: value for key, value in options.items() if key not in source.step}}
    optimizer = source.load()(list(params.values()), **of_class)
    out = {}
    for t in range(STEPS):
        for name, param in params.items():
            grad = sparse.dense_or_rows(trace, t, name)
            if isinstance(grad, tuple):
                indices, values = (torch.from_numpy(part.copy()) for part in grad)
                param.grad = torch.sparse_coo_tensor(indices[None], values, param.shape, check_invariants=True)
            else:
                param.grad = None if grad is None else torch.from_numpy(grad.copy())
        optimizer.step(**of_step)
        if hessian_every and (t + 1) % hessian_every == 0:
            optimizer.update_hessian()
        for name, param in params.items():
            if t in kept(name):
                out[f"expected/{t}/{name}"] = param.detach().numpy().copy()
    for name, param in params.items():
        for key, value in optimizer.state[param].items():
            if key == "step":
                out[f"expected_step/{name}"] = np.asarray(int(value), dtype=np.int64)
            elif key in norms.DROPPED or source.states.get(key, "") is None:
                continue
            elif value is not None:  # a state without an entry in the table is an error, not something to leave out
                ours = source.states[key]
                pairs = zip(ours, value) if isinstance(ours, tuple) else [(ours, value)]
                for state, part in pairs:
                    if state is not None:
                        part = part.to_dense() if part.is_sparse else part
                        out[f"expected_state/{name}/{state}"] = part.numpy().copy()
    return out


def run_transcription(source, options, trace):
    """What the source cannot give on this machine: computed in f64, and rounded once to the type of the trace."""
    name = next(name for name, known in SOURCES.items() if known is source)
    dtype = next(iter(trace.values())).dtype
    if name in matrices.CASES:
        values, _, steps = matrices.run_rule(name, options, trace, kept, dtype)
    else:
        traced = norms.run_rule(name, options, trace, PARAMS, STEPS, kept)
        values, steps = traced.out, traced.steps
    out = {key: value.astype(dtype) for key, value in values.items()}
    return out | {f"expected_step/{param}": np.asarray(t, np.int64) for param, t in steps.items()}


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
    traces = dict(all_traces())
    for path, trace in traces.items():
        write(path, trace, {"steps": str(STEPS)})
    for name, case, options, dtype in cases(names):
        source = SOURCES[name]
        path = trace_path(dtype, trace_of(name, case))
        trace = traces[path]
        transcribed = name in norms.CASES and norms.is_transcribed(name, options, dtype)
        transcribed |= name in matrices.CASES and matrices.is_transcribed(name, case, dtype)
        metadata = {
            "optimizer": config_text(name, options),
            "compute": dtype,
            "trace": path.relative_to(HERE).as_posix(),
            "source": f"{source.package} {version_of(name)}" + ", transcribed" * transcribed,
            "source_class": source.path,
        }
        every = HESSIAN_EVERY.get((name, case))
        if every:
            metadata["hessian_every"] = str(every)
        if transcribed:
            tensors = run_transcription(source, options, trace)
        elif name in onebit.CASES:
            tensors = onebit.run_source(name, options, trace, STEPS, kept)
        elif dtype not in source.transcribed:
            tensors = run_source(source, options, trace, every)
            if name == "Muon":
                metadata["tolerance"] = str(matrices.CAST)
        else:
            metadata["source"] += ", transcribed"
            rule = TRANSCRIPTIONS.get(name, RULES[name])
            tensors, _ = run_rule(rule, options, trace, every, DTYPES[dtype])
        write(expected_path(name, case, dtype), tensors, metadata)
    if set(names) & set(onebit.CASES):
        write(HERE / "compression.safetensors", onebit.compression(), {"source": f"deepspeed {onebit.VERSION}"})
        across = [onebit.ranks(name, world, masked) for name in onebit.ACROSS for world in (1, 2) for masked in (False, True)]
        across = {key: value for part in across for key, value in part.items()}
        write(HERE / "onebit_ranks.safetensors", across, {"source": f"deepspeed {onebit.VERSION}"})
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


def adagrad(p, g, s, t, lr=1e-2, lr_decay=0, weight_decay=0, initial_accumulator_value=0, eps=1e-10, maximize=False):
    g = (-g if maximize else g) + weight_decay * p
    s["sum"] = s.get("sum", initial_accumulator_value) + g**2
    return p - lr / (1 + (t - 1) * lr_decay) * g / (np.sqrt(s["sum"]) + eps)


def adadelta(p, g, s, t, lr=1.0, rho=0.9, eps=1e-6, weight_decay=0, maximize=False):
    g = (-g if maximize else g) + weight_decay * p
    s["v"] = rho * s.get("v", 0.0) + (1 - rho) * g**2
    delta = np.sqrt((s.get("u", 0.0) + eps) / (s["v"] + eps)) * g
    s["u"] = rho * s.get("u", 0.0) + (1 - rho) * delta**2
    return p - lr * delta


def rmsprop(
    p, g, s, t, lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0, momentum=0, centered=False, maximize=False
):
    g = (-g if maximize else g) + weight_decay * p
    s["v"] = alpha * s.get("v", 0.0) + (1 - alpha) * g**2
    variance = s["v"]
    if centered:
        s["mean"] = alpha * s.get("mean", 0.0) + (1 - alpha) * g
        variance = variance - s["mean"] ** 2
    direction = g / (np.sqrt(variance) + eps)
    if momentum:
        s["momentum"] = direction = momentum * s.get("momentum", 0.0) + direction
    return p - lr * direction


def radam(
    p,
    g,
    s,
    t,
    lr=1e-3,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0,
    decoupled_weight_decay=False,
    maximize=False,
):
    g = -g if maximize else g
    if decoupled_weight_decay:
        p = p - lr * weight_decay * p
    else:
        g = g + weight_decay * p
    s["m"] = betas[0] * s.get("m", 0.0) + (1 - betas[0]) * g
    s["v"] = betas[1] * s.get("v", 0.0) + (1 - betas[1]) * g**2
    m_hat = s["m"] / (1 - betas[0] ** t)
    most = 2 / (1 - betas[1]) - 1
    rho = most - 2 * t * betas[1] ** t / (1 - betas[1] ** t)
    if rho <= 5:
        return p - lr * m_hat
    rect = np.sqrt((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho))
    return p - lr * m_hat * rect * np.sqrt(1 - betas[1] ** t) / (np.sqrt(s["v"]) + eps)


def nadam(
    p,
    g,
    s,
    t,
    lr=2e-3,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0,
    momentum_decay=4e-3,
    decoupled_weight_decay=False,
    maximize=False,
):
    g = -g if maximize else g
    if decoupled_weight_decay:
        p = p - lr * weight_decay * p
    else:
        g = g + weight_decay * p
    mu = [betas[0] * (1 - 0.5 * 0.96 ** (k * momentum_decay)) for k in range(t + 2)]
    product = np.float32(1)
    for k in range(1, t + 1):  # torch keeps the product in f32
        product = product * np.float32(mu[k])
    product = float(product)
    s["m"] = betas[0] * s.get("m", 0.0) + (1 - betas[0]) * g
    s["v"] = betas[1] * s.get("v", 0.0) + (1 - betas[1]) * g**2
    m_hat = mu[t + 1] * s["m"] / (1 - product * mu[t + 1]) + (1 - mu[t]) * g / (1 - product)
    return p - lr * m_hat / (np.sqrt(s["v"] / (1 - betas[1] ** t)) + eps)


def adamax(p, g, s, t, lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, maximize=False):
    g = (-g if maximize else g) + weight_decay * p
    s["m"] = betas[0] * s.get("m", 0.0) + (1 - betas[0]) * g
    s["u"] = np.maximum(betas[1] * s.get("u", 0.0), np.abs(g) + eps)
    return p - lr / (1 - betas[0] ** t) * s["m"] / s["u"]


def asgd(p, g, s, t, lr=1e-2, lambd=1e-4, alpha=0.75, t0=1e6, weight_decay=0, maximize=False):
    g = (-g if maximize else g) + weight_decay * p
    # torch keeps both in f32.
    eta = float(np.float32(lr / (1 + lambd * lr * (t - 1)) ** alpha))
    mu = float(np.float32(1 / max(1, t - 1 - t0)))
    p = (1 - lambd * eta) * p - eta * g
    s["ax"] = s.get("ax", 0.0) + (p - s.get("ax", 0.0)) * mu
    return p


def rprop(p, g, s, t, lr=1e-2, etas=(0.5, 1.2), step_sizes=(1e-6, 50), maximize=False):
    g = -g if maximize else g
    agreement = np.sign(g * s.get("prev", 0.0))
    factor = np.where(agreement > 0, etas[1], np.where(agreement < 0, etas[0], 1.0))
    s["step_size"] = np.clip(s.get("step_size", lr) * factor, *step_sizes)
    s["prev"] = np.where(agreement < 0, 0.0, g)
    return p - np.sign(s["prev"]) * s["step_size"]


def sophia(p, g, s, t, lr=1e-4, betas=(0.965, 0.99), rho=0.04, weight_decay=1e-1, maximize=False, bs=5120):
    sign = -1 if maximize else 1
    old, new = betas[0] * s.get("m", 0.0), (1 - betas[0]) * g * sign
    near = np.abs(old + new) < 1e-5 * (np.abs(old) + np.abs(new))
    assert not near.any(), "SophiaG: a step whose sign hangs on rounding"
    s["m"] = old + new
    h = s.setdefault("hessian", np.zeros_like(g))
    ratio = np.minimum(np.abs(s["m"]) / (rho * bs * h + 1e-15), 1)
    return (1 - lr * weight_decay) * p - lr * np.sign(s["m"]) * ratio


def deepspeed_adam(
    p, g, s, t, lr=1e-3, bias_correction=True, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, adamw_mode=True
):
    p_decayed = p - lr * weight_decay * p if adamw_mode else p
    g = g if adamw_mode else g + weight_decay * p
    s["m"] = betas[0] * s.get("m", 0.0) + (1 - betas[0]) * g
    s["v"] = betas[1] * s.get("v", 0.0) + (1 - betas[1]) * g**2
    c1, c2 = (1 - betas[0] ** t, 1 - betas[1] ** t) if bias_correction else (1, 1)
    return p_decayed - lr * (s["m"] / c1) / (np.sqrt(s["v"] / c2) + eps)


def fused_adam(p, g, s, t, adam_w_mode=True, **options):
    return deepspeed_adam(p, g, s, t, adamw_mode=adam_w_mode, **options)


def fused_adam_kernel(
    p, g, s, t, lr=1e-3, bias_correction=True, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, adam_w_mode=True
):
    """The arithmetic of csrc/adam/multi_tensor_adam.cu, operation by operation, in the type of the parameter.

    There all of it is `float`, but for the power, which C++ computes in `double`.
    """
    real = p.dtype.type
    lr, beta1, beta2, epsilon, decay = (real(x) for x in (lr, *betas, eps, weight_decay))
    correction1 = real(1 - float(beta1) ** t) if bias_correction else real(1)
    correction2 = real(1 - float(beta2) ** t) if bias_correction else real(1)
    m, v = s.get("m", np.zeros_like(p)), s.get("v", np.zeros_like(p))
    if not adam_w_mode:
        g = g + decay * p
    s["m"] = m = beta1 * m + (real(1) - beta1) * g
    s["v"] = v = beta2 * v + (real(1) - beta2) * g * g
    update = (m / correction1) / (np.sqrt(v / correction2) + epsilon)
    if adam_w_mode:
        update = update + decay * p
    return p - lr * update


def bnb_adam(p, g, s, t, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, amsgrad=False):
    s["m"] = betas[0] * s.get("m", 0.0) + (1 - betas[0]) * g
    s["v"] = betas[1] * s.get("v", 0.0) + (1 - betas[1]) * g**2
    c1, c2 = 1 - betas[0] ** t, np.sqrt(1 - betas[1] ** t)
    return (1 - lr * weight_decay) * p - lr * c2 / c1 * s["m"] / (np.sqrt(s["v"]) + eps * c2)


def bnb_adamw(p, g, s, t, weight_decay=1e-2, **options):
    return bnb_adam(p, g, s, t, weight_decay=weight_decay, **options)


def bnb_lion(p, g, s, t, **options):
    return lion(p, g, s, t, **options)


def bnb_rmsprop(p, g, s, t, momentum=0, **options):
    return rmsprop(p, g, s, t, **options)


def bnb_sgd(p, g, s, t, lr=1e-3, momentum=0.9, weight_decay=0, dampening=0, nesterov=False):
    return sgd(p, g, s, t, lr=lr, momentum=momentum, weight_decay=weight_decay)


def ademamix(
    p,
    g,
    s,
    t,
    lr=1e-3,
    betas=(0.9, 0.999, 0.9999),
    alpha=5.0,
    t_alpha=None,
    t_beta3=None,
    eps=1e-8,
    weight_decay=1e-2,
):
    beta1, beta2, beta3 = betas
    if t_alpha:
        alpha = min(t * alpha / t_alpha, alpha)
    if t_beta3:
        share, log1, log3 = t / t_beta3, np.log(beta1), np.log(beta3)
        beta3 = min(np.exp(log1 * log3 / ((1 - share) * log3 + share * log1)), beta3)
    s["m"] = beta1 * s.get("m", 0.0) + (1 - beta1) * g
    s["m_slow"] = beta3 * s.get("m_slow", 0.0) + (1 - beta3) * g
    s["v"] = beta2 * s.get("v", 0.0) + (1 - beta2) * g**2
    root = np.sqrt(s["v"]) / np.sqrt(1 - beta2**t)
    return (1 - lr * weight_decay) * p - lr * (s["m"] / (1 - beta1**t) + alpha * s["m_slow"]) / (root + eps)


norms.TOGETHER |= onebit.RULES
norms.RULES |= onebit.RULES
RULES = {
    "SGD": sgd,
    "Adam": adam,
    "AdamW": adamw,
    "Lion": lion,
    "Adagrad": adagrad,
    "Adadelta": adadelta,
    "RMSprop": rmsprop,
    "RAdam": radam,
    "NAdam": nadam,
    "Adamax": adamax,
    "ASGD": asgd,
    "Rprop": rprop,
    "SophiaG": sophia,
    "FusedAdam": fused_adam,
    "DeepSpeedCPUAdam": deepspeed_adam,
    "AdEMAMix": ademamix,
    "AdEMAMix32bit": ademamix,
}
for name, rule in {
    "Adam": bnb_adam,
    "AdamW": bnb_adamw,
    "Adagrad": adagrad,
    "Lion": bnb_lion,
    "RMSprop": bnb_rmsprop,
    "SGD": bnb_sgd,
}.items():
    RULES[f"bnb_{name}"] = RULES[f"{name}32bit"] = rule

# Literal ones, where the source does not run here in any type.
TRANSCRIPTIONS = {"FusedAdam": fused_adam_kernel}

# Allowed error of an element, relative to the largest absolute value it had plus the length of its way. STEPS steps of
# some eight roundings each, of 2^-53 or 2^-24.
TOLERANCE = {"f64": STEPS * 8 * 2.0**-53, "f32": STEPS * 8 * 2.0**-24}

# Sources that compute 1 - beta and 1 - beta^t in f32: with beta = 0.999 each is off by up to 2^-24 / 0.001 = 6e-5 of
# itself, where the tolerance in f32 is 7.6e-6.
LOOSE = {("FusedAdam", "f32"): 16, ("DeepSpeedCPUAdam", "f32"): 16}


def run_rule(rule, options, trace, hessian_every=None, real=np.float64):
    """What the source should have given, with the scale that the error of each element is measured by."""
    out, scale = {}, {}
    for name in PARAMS:
        p, s, t = trace[f"param/{name}"].astype(real), {}, 0
        largest, way, largest_state = np.abs(p), np.zeros_like(p), {}
        for step in range(STEPS):
            g = trace.get(f"grad/{step}/{name}")
            if g is not None:
                t += 1
                before, p = p, rule(p, g.astype(real), s, t, **options)
                if hessian_every and (step + 1) % hessian_every == 0:
                    beta2 = options.get("betas", (0.965, 0.99))[1]
                    s["hessian"] = beta2 * s["hessian"] + (1 - beta2) * g.astype(real) ** 2
                largest, way = np.maximum(largest, np.abs(p)), way + np.abs(p - before)
                for key, value in s.items():
                    largest_state[key] = np.maximum(largest_state.get(key, 0.0), np.abs(value))
            if step in kept(name):
                out[f"expected/{step}/{name}"], scale[f"expected/{step}/{name}"] = np.asarray(p), largest + way
        for key, value in s.items():
            value = np.asarray(value, dtype=real).reshape(p.shape)
            out[f"expected_state/{name}/{key}"], scale[f"expected_state/{name}/{key}"] = value, largest_state[key]
        if real != np.float64:
            assert p.dtype == real, "a transcription that leaves its type"
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
    every = HESSIAN_EVERY.get((name, case))
    assert metadata.get("hessian_every") == (every and str(every)), f"{path.name}: not this case"
    if sparse.trace_of(name, case):
        want, scale, _ = sparse.run_rule(name, options, trace, kept)
    elif name in matrices.RULES:
        want, scale, _ = matrices.run_rule(name, options, trace, kept, DTYPES[dtype])
    elif name in norms.RULES:
        params = [param for param in PARAMS if f"param/{param}" in trace]
        traced = norms.run_rule(name, options, trace, params, STEPS, kept)
        want, scale = traced.out, traced.scale
    else:
        want, scale = run_rule(RULES[name], options, trace, every)
    assert set(want) == {key for key in found if not key.startswith("expected_step/")}, f"{path.name}: other tensors"
    worst = 0.0
    for key, value in want.items():
        real = np.float64 if key.startswith("expected_memory/") else DTYPES[dtype]
        assert found[key].dtype == real and found[key].shape == value.shape, f"{path.name}: type of {key}"
        assert np.isfinite(found[key]).all(), f"{path.name}: {key} is not finite"
        error = np.abs(found[key] - value) - np.finfo(DTYPES[dtype]).tiny  # zero against zero is no error
        allowed = TOLERANCE[dtype] * LOOSE.get((name, dtype), 1)
        if "tolerance" in metadata and key.startswith("expected/"):
            allowed = float(metadata["tolerance"])
        worst = max(worst, np.max(error / (scale[key] * allowed + np.finfo(np.float64).tiny), initial=0.0))
    for key, count in found.items():
        if key.startswith("expected_step/"):
            param = key.removeprefix("expected_step/")
            given = sum(sparse.dense_or_rows(trace, t, param) is not None for t in range(STEPS))
            assert count == given, f"{path.name}: {key}"
    return worst


def check(names):
    failed = 0
    for path, want in all_traces():
        found = safetensors.numpy.load_file(path)
        same = found.keys() == want.keys() and all(found[key].tobytes() == want[key].tobytes() for key in want)
        failed += not same
        print(f"{'ok  ' if same else 'FAIL'} {path.name}: the trace as this script makes it")
    for name, case, _, dtype in cases(names):
        label = expected_path(name, case, dtype).name
        if name not in RULES | norms.RULES | matrices.RULES | sparse.RULES:
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

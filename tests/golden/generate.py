#!/usr/bin/env python3
"""Write the golden values: what the source of each optimizer gives on a recorded trace.

    python generate.py              write traces/ and expected/ (README.md has the format)
    python generate.py AdamW Lion   write the cases of these optimizers only
    python generate.py --check      recompute the written files in plain numpy f64 and compare

To add an optimizer: an entry in elements.py. What looks at all parameters together goes to norms.py, what looks at extents to
matrices.py. Where a source does not run in a type, `transcribed` names the type, and the values are those of TRANSCRIPTIONS
(literal), or else of RULES.
"""

import argparse
import ast
import json
import os
import pathlib
import sys
from dataclasses import dataclass
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
from elements import BITSANDBYTES, BNB_CASES, HESSIAN_EVERY, LOOSE, TRANSCRIPTIONS, adamw
from table import CASES, RULES, SOURCES, Source

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
# The optimizers: those of `elements.py`, whose tables these are, and those of other kinds.

SOURCES |= {name: Source(*source) for name, source in (norms.SOURCES | matrices.SOURCES | sparse.SOURCES).items()}
for name, (file, class_, states, _) in onebit.SOURCES.items():
    SOURCES[name] = Source(f"deepspeed.runtime.fp16.onebit.{file}.{class_}", "deepspeed", states)
CASES |= norms.CASES | matrices.CASES | onebit.CASES
CASES |= {name: CASES.get(name, {}) | sparse.options_of(name) for name in sparse.CASES}
norms.TOGETHER |= onebit.RULES
norms.RULES |= onebit.RULES


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


def source_of(name):
    """The source and its version; a paper has none."""
    source = SOURCES[name]
    if not source.package:
        return source.path
    return f"{source.package} {onebit.VERSION if name in onebit.CASES else version(source.package).partition('+')[0]}"


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


def list_files(folder):
    """Lists the files of a folder in it: none goes missing without notice."""
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    (folder / "files.txt").write_text("".join(f"{name}\n" for name in names))


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
            "source": source_of(name) + ", transcribed" * transcribed,
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
    list_files(HERE / "expected")


# ---------------------------------------------------------------------------------------------------------------------
# The check: each rule once more, from its paper, in numpy.

# Allowed error of an element, relative to the largest absolute value it had plus the length of its way. STEPS steps of
# some eight roundings each, of 2^-53 or 2^-24.
TOLERANCE = {"f64": STEPS * 8 * 2.0**-53, "f32": STEPS * 8 * 2.0**-24}


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
    stray = {path.name for path in (HERE / "expected").glob("*.safetensors")}
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

#!/usr/bin/env python3
"""Write the golden values of bitsandbytes' 8-bit and paged names: what its code for CPUs gives on a recorded trace.

    python quantised.py             write quantised/ (README.md has the format)
    python quantised.py --saved     write only quantised/<Name>.pth, the state after step 3 of the cases with options

AdEMAMix32bit does not run in bitsandbytes 0.50.2 (generate.py), and so PagedAdEMAMix32bit does not either: its values
are those of AdEMAMix.
"""

import os
import pathlib
import sys
from importlib.metadata import version

# torch's baseline code does not fuse multiply and add; its AVX2 and AVX-512 code does, which is worth a last digit.
os.environ["ATEN_CPU_CAPABILITY"] = "default"

import numpy as np
import torch
import bitsandbytes

import generate

FOLDER = generate.HERE / "quantised"
STEPS = 8
# More than 4096 elements and no whole number of blocks; fewer; and in between, for min_8bit_size.
SIZES = {"large": 5003, "middle": 1100, "small": 300}
# Steps whose parameters are kept. The large one is kept at the end only, to keep the files small.
KEEP = (0, 3, STEPS - 1)
KEEP_OF = {"large": (STEPS - 1,)}

MOMENTS = {"state1": "m", "state2": "v"}
STATES = {
    "Adam": MOMENTS,
    "AdamW": MOMENTS,
    "LAMB": MOMENTS,
    "AdEMAMix": {"state1": ("m", "m_slow"), "state2": "v"},
    "Lion": {"state1": "m"},
    "SGD": {"state1": "momentum"},
    "LARS": {"state1": "momentum"},
    "RMSprop": {"state1": "v"},
    "Adagrad": {"state1": "sum"},
}
# bitsandbytes has no default lr for these and refuses their default momentum.
NEEDED = {"SGD": dict(lr=1e-3, momentum=0.9), "LARS": dict(lr=1e-2, momentum=0.9)}
OPTIONS = {
    "Adam": dict(lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
    "AdamW": dict(lr=0.01, betas=(0.8, 0.95), weight_decay=0.3),
    "LAMB": dict(lr=0.01, betas=(0.8, 0.95), weight_decay=0.1),
    "AdEMAMix": dict(lr=0.01, betas=(0.8, 0.95, 0.99), alpha=2.0, t_alpha=5, t_beta3=6, weight_decay=0.1),
    "Lion": dict(lr=0.01, betas=(0.8, 0.95), weight_decay=0.1),
    "SGD": dict(lr=0.1, momentum=0.5, weight_decay=0.1),
    "LARS": dict(lr=0.1, momentum=0.5, weight_decay=0.1),
    "RMSprop": dict(lr=0.01, alpha=0.8, weight_decay=0.1),
    "Adagrad": dict(lr=0.1, weight_decay=0.1),
}
PAGED = ("Adam", "AdamW", "Lion", "AdEMAMix")


def make_trace():
    """Gradients of many sizes, some of them zero, as rows of a layer have them."""
    random = np.random.default_rng(8)
    trace = {}
    for name, size in SIZES.items():
        trace[f"param/{name}"] = random.standard_normal(size).astype(np.float32)
        scale = 10.0 ** random.uniform(-2, 0, size)
        scale[random.uniform(size=size) < 0.02] = 0.0
        for t in range(STEPS):
            trace[f"grad/{t}/{name}"] = (scale * random.standard_normal(size)).astype(np.float32)
    return trace


def cases():
    for base, options in OPTIONS.items():
        names = [f"{base}8bit"]
        if base in PAGED:
            names += [f"Paged{base}", f"Paged{base}8bit", f"Paged{base}32bit"]
        for name in names:
            needed = NEEDED.get(base, {})
            yield base, name, "default", needed, needed
            if name.endswith("8bit") and not name.startswith("Paged"):
                # 1000: `middle` has 8 bits too.
                yield base, name, "options", options, {**options, "min_8bit_size": 1000}


# After this step the state is saved.
SAVED = 3


def run(base, name, options, trace, saved=None):
    torch.set_num_threads(1)
    params = {n: torch.nn.Parameter(torch.from_numpy(trace[f"param/{n}"].copy())) for n in SIZES}
    kind = "AdEMAMix" if name == "PagedAdEMAMix32bit" else name
    optimizer = getattr(bitsandbytes.optim, kind)(list(params.values()), **options)
    out = {}
    for t in range(STEPS):
        for n, param in params.items():
            param.grad = torch.from_numpy(trace[f"grad/{t}/{n}"].copy())
        optimizer.step()
        if saved and t == SAVED:
            torch.save(optimizer.state_dict(), saved)
        kept = {n: param for n, param in params.items() if t in KEEP_OF.get(n, KEEP)}
        out |= {f"expected/{t}/{n}": param.detach().numpy().copy() for n, param in kept.items()}
    for n, param in params.items():
        state = optimizer.state[param]
        for key, ours in STATES[base].items():
            scale = state.get(key.replace("state", "absmax"))
            several = isinstance(ours, tuple)
            for i, each in enumerate(ours if several else (ours,)):
                part = lambda x: (x[i] if several else x).numpy().copy()
                out[f"expected_state/{n}/{each}"] = part(state[key])
                if scale is not None:
                    out[f"expected_state/{n}/{each}.scale"] = part(scale)
    return out


def main():
    trace = make_trace()
    for base, name, case, _, options in cases():
        if case == "options":
            run(base, name, options, trace, FOLDER / f"{name}.pth")
    if sys.argv[1:] == ["--saved"]:
        return
    generate.write(FOLDER / "trace.safetensors", trace, {"steps": str(STEPS)})
    for base, name, case, _, options in cases():
        metadata = {
            "optimizer": generate.config_text(name, options if case != "default" or base in NEEDED else {}),
            "source": f"bitsandbytes {version('bitsandbytes')}",
            "source_class": f"bitsandbytes.optim.{name}",
        }
        generate.write(FOLDER / f"{name}-{case}.safetensors", run(base, name, options, trace), metadata)
    generate.list_files(FOLDER)


if __name__ == "__main__":
    main()

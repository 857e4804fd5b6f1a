"""fallline on a CUDA device beside torch.optim on the same: nanoseconds an element, and the ratio.

usage: gpu.py [--fallline target/release/fallline] [--elements N] [--rounds N] [--json FILE]

Needs a GPU, a torch that reaches it, and cuBLAS on the library path. Each side queues ten steps and waits for the last;
the median of the rounds counts. What a step costs the host is hidden as far as the ten steps hide it, on both sides.
"""

import argparse
import json
import statistics
import subprocess
import time

import torch

STEPS = 10

# fallline's name, its layout, and torch's class with the ways to run it.
PAIRS = [
    ("AdamW", "flat", "AdamW", {"weight_decay": 0.01}, ["fused", "foreach"]),
    ("Adam", "flat", "Adam", {}, ["fused", "foreach"]),
    ("dict(type='SGD',lr=0.01,momentum=0.9)", "flat", "SGD", {"lr": 0.01, "momentum": 0.9}, ["fused", "foreach"]),
    ("Adagrad", "flat", "Adagrad", {}, ["foreach"]),
    ("RMSprop", "flat", "RMSprop", {}, ["foreach"]),
    ("NAdam", "flat", "NAdam", {}, ["foreach"]),
    ("RAdam", "flat", "RAdam", {}, ["foreach"]),
    ("AdamW", "resnet50", "AdamW", {"weight_decay": 0.01}, ["fused", "foreach"]),
    ("AdamW", "small", "AdamW", {"weight_decay": 0.01}, ["fused", "foreach"]),
    ("TorchAdafactor", "matrix", "Adafactor", {}, ["foreach"]),
    ("Muon", "matrix", "Muon", {}, [""]),
    ("dict(type='Muon',ns_dtype='bf16')", "matrix", "Muon", {}, [""]),
]
# Where parameters and gradients are bf16, torch's states are too.
BF16 = [
    ("AdamW", "flat", "AdamW", {"weight_decay": 0.01}, ["fused", "foreach"]),
    ("dict(type='AdamW',state_format='bf16')", "flat", "AdamW", {"weight_decay": 0.01}, ["fused", "foreach"]),
    ("AdamW8bit", "flat", "AdamW", {"weight_decay": 0.01}, ["fused"]),
]
# Elements in all where they are not the caller's choice.
ELEMENTS = {"small": 10_000_000, "matrix": 1 << 24}


def shapes(layout, elements):
    if layout == "small":
        return [(1000,)] * (elements // 1000)
    if layout == "matrix":
        side = int(elements**0.5)
        return [(side, elements // side)]
    if layout == "resnet50":
        return [(length,) for length in resnet50()]
    return [(elements,)]


def resnet50():
    """The lengths of its 161 parameters, as fallline's layout has them."""
    tensors = []

    def convolution(start, to, kernel):
        tensors.extend([start * to * kernel * kernel, to, to])

    convolution(3, 64, 7)
    start = 64
    for width, blocks in [(64, 3), (128, 4), (256, 6), (512, 3)]:
        for block in range(blocks):
            convolution(start, width, 1)
            convolution(width, width, 3)
            convolution(width, 4 * width, 1)
            if block == 0:
                convolution(start, 4 * width, 1)
            start = 4 * width
    return tensors + [start * 1000, 1000]


def torch_ns(kind, options, how, layout, elements, rounds, dtype):
    params = []
    for shape in shapes(layout, elements):
        param = torch.ones(shape, device="cuda", dtype=dtype, requires_grad=True)
        param.grad = torch.randn(shape, device="cuda", dtype=dtype) * 0.01
        params.append(param)
    optimizer = getattr(torch.optim, kind)(params, **options, **({how: True} if how else {}))
    times = []
    for _ in range(rounds + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(STEPS):
            optimizer.step()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / STEPS)
    total = sum(param.numel() for param in params)
    return statistics.median(times[1:]) * 1e9 / total


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fallline", default="target/release/fallline")
    parser.add_argument("--elements", type=int, default=1 << 27)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json")
    args = parser.parse_args()
    print(f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}, {args.elements} elements")
    rows = []
    for dtype, torch_type, pairs in [("f32", torch.float32, PAIRS), ("bf16", torch.bfloat16, BF16)]:
        for ours, layout, kind, options, ways in pairs:
            elements = ELEMENTS.get(layout, args.elements)
            command = [args.fallline, "bench", "--device", "cuda", "--json", "--dtype", dtype]
            command += ["--optimizer", ours, "--layout", layout, "--elements", str(elements)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"{ours} {layout} {dtype}: {done.stderr.strip()}", flush=True)
                continue
            (row,) = json.loads(done.stdout)
            for how in ways:
                try:
                    peer = torch_ns(kind, options, how, layout, elements, args.rounds, torch_type)
                except (RuntimeError, TypeError, AttributeError) as error:
                    print(f"torch {kind} {how}: {str(error).splitlines()[0]}", flush=True)
                    continue
                finally:
                    torch.cuda.empty_cache()
                found = {
                    "name": ours,
                    "layout": layout,
                    "dtype": dtype,
                    "elements": row["elements"],
                    "ns_per_element": row["ns_per_element"],
                    "gb_per_s": row["gb_per_s"],
                    "roofline": row["roofline"],
                    "peer": f"torch.optim.{kind} {how}".strip(),
                    "peer_ns_per_element": peer,
                    "ratio": peer / row["ns_per_element"],
                }
                rows.append(found)
                print(
                    f"{ours:38} {layout:9} {dtype:5} {row['ns_per_element']:.5f} ns {row['gb_per_s']:7.0f} GB/s "
                    f"roofline {row['roofline']:.3f}  {found['peer']:30} {peer:.5f} ns  ratio {found['ratio']:.2f}",
                    flush=True,
                )
    if args.json:
        with open(args.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()

"""fallline beside what a user would pick instead: rounds taken in turn in one run, medians and minima.

usage: compare.py [--elements N] [--threads N] [--rounds N] [--json FILE] [--side PROGRAM]
    [--only NAME...]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
WARM_UP = 2
# Between rounds: the waiting threads of one side's pool spin for some milliseconds after a step, and would
# take the other side's cores.
PAUSE = 0.05

# fallline's configuration and layout, who is compared with it, and the ratio to reach. Each pair is measured by itself:
# what allocates gigabytes in every step (candle, torch without `fused`) slows the steps after it, whoever takes them.
BF16 = "dict(type='Muon',ns_dtype='bf16')"
EPILOGUE = (
    "epilogue:optim_wrapper=dict(type='AmpOptimWrapper',optimizer=dict(type='AdamW',lr=1e-3),loss_scale=1024.0,"
    "clip_grad=dict(max_norm=1.0),accumulative_counts=2)"
)
PAIRS = [
    # The last iteration of a window: the new gradient is read; the window's, parameter, states and average are written.
    (EPILOGUE, "torch_epilogue", 5.0),
    (EPILOGUE, "plain:rwwwww", 0.95),
    ("flat:AdamW", "torch_adamw_fused", 1.25),
    ("flat:AdamW", "deepspeed_cpu_adam", 1.0),
    ("flat:AdamW", "torch_adamw_default", 6.0),
    ("flat:AdamW", "torch_adamw_foreach", None),
    ("flat:AdamW", "candle_adamw", 30.0),
    ("flat:Lion", "lion_pytorch", 10.0),
    ("small:AdamW", "torch_adamw_fused_small", 10.0),
    ("square:Muon", "torch_muon_square", 0.8),
    ("long:Muon", "torch_muon_long", 1.3),
    ("square:" + BF16, "torch_muon_square", 1.4),
    ("long:" + BF16, "torch_muon_long", 1.8),
    *[
        (f"flat:{kind}", f"torch_{kind.lower()}{how}", 4.0)
        for kind in ["RMSprop", "NAdam", "RAdam", "Adamax", "Adadelta"]
        for how in ["", "_foreach"]
    ],
    ("flat:DAdaptAdam", "dadapt_adam", 8.0),
    ("matrix:TorchAdafactor", "torch_adafactor", 8.0),
    ("matrix:TorchAdafactor", "torch_adafactor_foreach", 8.0),
]
# Elements in all where they are not the caller's choice: small tensors of 1,000, and Muon's four matrices.
ELEMENTS = {"small": 10_000_000, "square": 4 << 20, "long": 16 << 20}


class Side:
    """A process that steps on request."""

    def __init__(self, command, threads):
        environment = dict(os.environ, RAYON_NUM_THREADS=str(threads))
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [*command, str(threads)], stdin=pipe, stdout=pipe, text=True, bufsize=1, env=environment
        )

    def ask(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        said = self.process.stdout.readline().strip()
        if not said:
            sys.exit(f"compare.py: {words[1]}: the process ended (exit status {self.process.wait()})")
        if said.startswith("error "):
            raise RuntimeError(said.removeprefix("error "))
        return said

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def measure(side_of, names, elements, rounds):
    """The seconds of each contender's rounds, taken in turn; or why it has none."""
    versions, failed = {}, {}
    for name in names:
        try:
            versions[name] = side_of(name).ask("open", name, elements).removeprefix("ok ")
        except RuntimeError as error:
            failed[name] = str(error)
    seconds = {name: [] for name in versions}
    for turn in range(WARM_UP + rounds):
        for name in versions:
            time.sleep(PAUSE)
            taken = float(side_of(name).ask("round", name))
            if turn >= WARM_UP:
                seconds[name].append(taken)
    for name in versions:
        side_of(name).ask("close", name)
    return seconds, versions, failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--elements", type=lambda text: int(float(text)), default=1 << 26)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    names = [other for _, other, _ in PAIRS]
    parser.add_argument("--only", nargs="+", choices=sorted(set(names)), default=names, metavar="NAME")
    parser.add_argument("--side", metavar="PROGRAM", help="the example peers_side as it was built, instead of cargo's")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()

    def cargo(*words):
        return ["cargo", "run", "--release", "--quiet", *words, "--"]

    candle = HERE / "candle" / "Cargo.toml"
    commands = {
        "fallline": [args.side] if args.side else cargo("--manifest-path", str(HERE.parent.parent / "Cargo.toml"), "--example", "peers_side"),
        "candle": cargo("--manifest-path", str(candle)),
        "python": [sys.executable, str(HERE / "peers.py")],
    }
    sides = {}

    def side_of(name):
        side = "fallline" if ":" in name else "candle" if name.startswith("candle") else "python"
        if side not in sides:
            sides[side] = Side(commands[side], args.threads)
        return sides[side]

    rows = []
    head = f"{'ns/element':>36}{'fallline':>10}{'ratio':>8}{'of minima':>11}{'goal':>7}"
    print(head + "   beside, version, elements, threads")
    for ours, other, goal in PAIRS:
        if other not in args.only:
            continue
        elements = ELEMENTS.get(ours.split(":")[0], args.elements)
        seconds, versions, failed = measure(side_of, [other, ours], elements, args.rounds)
        row = {"name": other, "beside": ours, "elements": elements, "threads": args.threads, "goal": goal}
        if failed:
            rows.append(row | {"failed": failed})
            print(f"{other:24}  not measured: {'; '.join(failed.values())}")
            continue
        theirs, own = (statistics.median(seconds[name]) for name in (other, ours))
        minima = min(seconds[other]) / min(seconds[ours])
        row |= {"versions": versions, "seconds": seconds, "ratio": theirs / own, "ratio_of_minima": minima}
        rows.append(row)
        print(
            f"{other:26}{theirs * 1e9 / elements:10.4f}{own * 1e9 / elements:10.4f}{theirs / own:8.2f}{minima:11.2f}"
            f"{goal or '':>7}   {ours}, {versions[other]}, {elements:,}, {args.threads}",
            flush=True,
        )
    for side in sides.values():
        side.close()
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


main()

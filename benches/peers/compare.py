"""fallline beside what a user would pick instead: rounds taken in turn in one run, medians.

usage: compare.py [--elements N] [--threads N] [--rounds N] [--json FILE] [--only GROUP...]
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

# Groups of contenders that take turns: fallline's, and the others with the ratio to reach.
GROUPS = {
    "AdamW": (
        "fallline_adamw",
        {
            "torch_adamw_fused": 1.25,
            "torch_adamw_default": 6.0,
            "torch_adamw_foreach": None,
            "deepspeed_cpu_adam": 1.0,
            "candle_adamw": 30.0,
        },
    ),
    "Lion": ("fallline_lion", {"lion_pytorch": 10.0}),
    "AdamW, tensors of 1,000": ("fallline_adamw_small", {"torch_adamw_fused_small": 10.0}),
}
SMALL_ELEMENTS = 10_000_000


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
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="GROUP")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()

    manifest = HERE / "candle" / "Cargo.toml"
    cargo = ["cargo", "run", "--release", "--quiet", "--manifest-path", str(manifest), "--"]
    rust = Side(cargo, args.threads)
    python = Side([sys.executable, str(HERE / "peers.py")], args.threads)

    def side_of(name):
        return rust if name.startswith(("fallline", "candle")) else python

    rows = []
    for group in args.only:
        ours, others = GROUPS[group]
        elements = SMALL_ELEMENTS if ours.endswith("_small") else args.elements
        seconds, versions, failed = measure(side_of, [ours, *others], elements, args.rounds)
        for name in [ours, *others]:
            row = {"group": group, "name": name, "elements": elements, "threads": args.threads}
            if name in failed:
                rows.append({**row, "failed": failed[name]})
                continue
            median = statistics.median(seconds[name])
            row |= {"version": versions[name], "ns_per_element": median * 1e9 / elements}
            row |= {"seconds": seconds[name], "goal": others.get(name)}
            if name != ours and ours in seconds:
                row["times_fallline"] = median / statistics.median(seconds[ours])
            rows.append(row)
    rust.close()
    python.close()

    print(f"{'':28}{'ns/element':>12}{'× fallline':>12}{'goal':>8}   version")
    group = None
    for row in rows:
        if row["group"] != group:
            group = row["group"]
            print(f"{group}: {row['elements']:,} elements, {row['threads']} threads")
        if "failed" in row:
            print(f"  {row['name']:26}not measured: {row['failed']}")
            continue
        ratio = f"{row['times_fallline']:.2f}" if "times_fallline" in row else ""
        goal = f"{row['goal']:.2f}" if row["goal"] else ""
        print(f"  {row['name']:26}{row['ns_per_element']:12.4f}{ratio:>12}{goal:>8}   {row['version']}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


main()

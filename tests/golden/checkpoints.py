"""Checkpoints as a version of fallline writes them, which every later version has to read.

    checkpoints.py traces                writes the traces: checkpoints/{trace,half,rows}.safetensors
    checkpoints.py BINARY FOLDER         writes checkpoints/FOLDER/<case>.safetensors with that version's binary, after
                                         the first four steps of the trace, and runs of `train` of one epoch

Cases whose names or options the version does not know are skipped and listed. A name that is new gets its case and its
checkpoint from `tests/loads/earlier.rs` instead.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import ml_dtypes
import numpy as np
import safetensors.numpy

HERE = pathlib.Path(__file__).parent / "checkpoints"
STEPS, SAVED = 6, 4
# More than one block of every format, and a matrix for those that look at extents.
SHAPES = {"matrix.weight": (20, 15), "bias": (9,)}


def traces():
    random = np.random.default_rng(20261126)
    for name, dtype in [("trace", np.float32), ("half", ml_dtypes.bfloat16)]:
        tensors = {}
        for key, shape in SHAPES.items():
            tensors[f"param/{key}"] = random.standard_normal(shape).astype(dtype)
            for t in range(STEPS):
                tensors[f"grad/{t}/{key}"] = random.standard_normal(shape).astype(dtype)
        safetensors.numpy.save_file(tensors, HERE / f"{name}.safetensors")
    tensors = {"param/table": random.standard_normal((11, 4)).astype(np.float32)}
    for t in range(STEPS):
        tensors[f"grad/{t}/table.indices"] = random.integers(0, 11, 5)
        tensors[f"grad/{t}/table.values"] = random.standard_normal((5, 4)).astype(np.float32)
    safetensors.numpy.save_file(tensors, HERE / "rows.safetensors")


def cut(trace, path):
    """The first steps alone."""
    tensors = safetensors.numpy.load_file(trace)
    kept = {key: value for key, value in tensors.items() if not key.startswith("grad/") or int(key.split("/")[1]) < SAVED}
    safetensors.numpy.save_file(kept, path)


def checkpoints(binary, folder):
    cases = json.loads((HERE / "cases.json").read_text())
    folder = HERE / folder
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        for name in ("trace", "half", "rows"):
            cut(HERE / f"{name}.safetensors", scratch / f"{name}.safetensors")
        for case, (trace, recipe) in cases["replays"].items():
            (scratch / "config.py").write_text(recipe)
            command = [binary, "replay", "--config", scratch / "config.py", "--trace", scratch / f"{trace}.safetensors", "--out",
                       scratch / "out.safetensors", "--state", folder / f"{case}.safetensors"]
            told = subprocess.run(command, capture_output=True, text=True)
            if told.returncode != 0:
                print(f"passed over {case}: {told.stderr.strip()[:200]}")
        for case, text in cases["runs"].items():
            (scratch / "config.py").write_text(text)
            command = [binary, "train", "--config", scratch / "config.py", "--epochs", "1", "--out", scratch / case]
            told = subprocess.run(command, capture_output=True, text=True)
            if told.returncode != 0:
                print(f"passed over {case}: {told.stderr.strip()[:200]}")
                continue
            (folder / f"{case}.run.safetensors").write_bytes((scratch / case / "checkpoint.safetensors").read_bytes())
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    (folder / "files.txt").write_text("".join(f"{name}\n" for name in names))


if __name__ == "__main__":
    traces() if sys.argv[1:] == ["traces"] else checkpoints(pathlib.Path(sys.argv[1]).resolve(), sys.argv[2])

"""Writes what MMEngine 0.10.7 reads from the samples here: usage: python expected.py, in this folder.

Values that JSON lacks are written as `Value::to_json` writes them; objects that are no data as "<type>".
"""
import json
import math
from pathlib import Path

from mmengine.config import Config

SAMPLES = ["literals.py", "arithmetic.py", "names.py", "changes.py", "templates.py", "swin/swin_adamw.py",
           "swin/swin_sgd.py", "mixed/child.json", "mixed/child.yaml", "mixed/child.py"]


def plain(value):
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return f"<{type(value).__name__}>"


for sample in SAMPLES:
    entries, _, _ = Config._file2dict(sample)
    Path(sample + ".expected").write_text(json.dumps(plain(entries), indent=1, sort_keys=True) + "\n")

"""Writes what MMEngine 0.10.7 reads from the samples here: usage: python expected.py, in this folder.

Values that JSON lacks are written as `Value::to_json` writes them; objects that are no data as "<type>".
"""
import json
import math
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.config.lazy import LazyAttr, LazyObject

SAMPLES = ["literals.py", "arithmetic.py", "names.py", "changes.py", "templates.py", "swin/swin_adamw.py",
           "swin/swin_sgd.py", "mixed/child.json", "mixed/child.yaml", "mixed/child.py"]
NEW_STYLE = ["new_style/configs/retina/" + name for name in ["retina_sgd.py", "retina_adamw.py", "inline.py"]]


def plain(value):
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (LazyObject, LazyAttr)):
        return str(value)
    return f"<{type(value).__name__}>"


def parsed(sample):
    if sample not in NEW_STYLE:
        return Config._file2dict(sample)[0]
    ConfigDict.lazy = True  # a class stays a name, as in `Config.fromfile`
    entries, imported = Config._parse_lazy_import(sample)
    return {key: value for key, value in entries.items() if key not in imported}


for sample in SAMPLES + NEW_STYLE:
    entries = parsed(sample)
    Path(sample + ".expected").write_text(json.dumps(plain(entries), indent=1, sort_keys=True) + "\n")

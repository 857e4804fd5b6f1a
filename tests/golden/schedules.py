"""Learning rates of schedule chains, computed by MMEngine: `schedules.json`.

    pip install mmengine==0.10.7 torch==2.15.0 && python schedules.py

Each case is a configuration as fallline takes it, the length of an epoch, and the learning rate that each
step uses. A chain is stepped as MMEngine's ParamSchedulerHook steps it: after every iteration the entries
that count iterations, after every epoch those that count epochs.
"""
import json
from pathlib import Path

import torch
from mmengine.registry import PARAM_SCHEDULERS
import mmengine.optim  # noqa: F401  (registers the schedulers)

HERE = Path(__file__).parent
CASES = {
    "warm-up and cosine": (0.05, 1, 40, """[
        dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=10),
        dict(type="CosineAnnealingLR", T_max=30, eta_min=0.0, by_epoch=False, begin=10, end=40)]"""),
    "epochs converted to iterations": (1e-3, 7, 49, """[
        dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=12),
        dict(type="CosineAnnealingLR", T_max=5, eta_min_ratio=0.05, by_epoch=True, begin=2, end=7,
             convert_to_iter_based=True)]"""),
    "epochs": (0.1, 4, 40, """[
        dict(type="LinearLR", start_factor=0.5, end_factor=1.0, begin=0, end=3),
        dict(type="CosineAnnealingLR", eta_min=1e-4, begin=3, end=10)]"""),
    "past the period": (0.2, 1, 60, """dict(type="CosineAnnealingLR", T_max=9, eta_min=0.01, by_epoch=False)"""),
    "downwards": (3e-4, 1, 20, """dict(type="LinearLR", start_factor=1.0, end_factor=0.1, by_epoch=False, begin=3, end=15)"""),
}


def rates(lr, epoch_length, steps, text):
    entries = eval(text, {"dict": dict})  # our own text, above
    entries = entries if isinstance(entries, list) else [entries]
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=lr)
    chain = []
    for entry in entries:
        entry = dict(entry)
        kind = PARAM_SCHEDULERS.get(entry.pop("type"))
        if entry.pop("convert_to_iter_based", False):
            chain.append(kind.build_iter_from_epoch(optimizer, epoch_length=epoch_length, **entry))
        else:
            chain.append(kind(optimizer, **entry))
    found = []
    for step in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in chain:
            if not scheduler.by_epoch:
                scheduler.step()
        if (step + 1) % epoch_length == 0:
            for scheduler in chain:
                if scheduler.by_epoch:
                    scheduler.step()
    return found


cases = []
for name, (lr, epoch_length, steps, text) in CASES.items():
    config = f'optimizer = dict(type="SGD", lr={lr!r})\nparam_scheduler = {text}\n'
    cases.append(dict(name=name, config=config, epoch_length=epoch_length, lr=rates(lr, epoch_length, steps, text)))
(HERE / "schedules.json").write_text(json.dumps(cases, indent=1) + "\n")

"""Values of schedule chains, computed by MMEngine: `schedules.json`.

    pip install mmengine==0.10.7 torch==2.15.0 && python schedules.py

Each case is a configuration as fallline takes it, the length of an epoch, the metric of each epoch where one is
monitored, and the values that each step uses. A chain is stepped as MMEngine's ParamSchedulerHook steps it: after
every iteration the entries that count iterations, after every epoch those that count epochs, after the evaluation
those that monitor a metric. The cases named `random` are drawn with a fixed seed.
"""
import json
import random
from pathlib import Path

import torch
from mmengine.registry import PARAM_SCHEDULERS
import mmengine.optim  # noqa: F401  (registers the schedulers)

HERE = Path(__file__).parent
SGD = 'dict(type="SGD", lr=0.05, momentum=0.9, weight_decay=0.01)'
ADAMW = 'dict(type="AdamW", lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05)'
METRICS = [1.0, 0.9, 0.9, 0.89995, 0.95, 0.5, 0.5, 0.6, 0.7, 0.5, 0.4999, 0.3, 0.4, 0.5, 0.3, 0.3, 0.3, 0.2, 0.3, 0.4]

# name: (optimizer, epoch length, steps, schedulers[, metrics])
CASES = {
    "warm-up and cosine": (SGD, 1, 40, """[
        dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=10),
        dict(type="CosineAnnealingLR", T_max=30, eta_min=0.0, by_epoch=False, begin=10, end=40)]"""),
    "epochs converted to iterations": (ADAMW, 7, 49, """[
        dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=12),
        dict(type="CosineAnnealingLR", T_max=5, eta_min_ratio=0.05, by_epoch=True, begin=2, end=7,
             convert_to_iter_based=True)]"""),
    "epochs": (SGD, 4, 40, """[
        dict(type="LinearLR", start_factor=0.5, end_factor=1.0, begin=0, end=3),
        dict(type="CosineAnnealingLR", eta_min=1e-4, begin=3, end=10)]"""),
    "past the period": (SGD, 1, 60, """dict(type="CosineAnnealingLR", T_max=9, eta_min=0.01, by_epoch=False)"""),
    "downwards": (ADAMW, 1, 20, """dict(type="LinearLR", start_factor=1.0, end_factor=0.1, by_epoch=False, begin=3, end=15)"""),
    "linear without end": (SGD, 1, 20, """dict(type="LinearLR", start_factor=0.3, by_epoch=False)"""),
    "cosine without end": (SGD, 1, 20, """dict(type="CosineAnnealingLR", by_epoch=False)"""),
    "constant": (SGD, 1, 12, """dict(type="ConstantLR", factor=0.25, begin=2, end=8, by_epoch=False)"""),
    "constant, defaults": (SGD, 3, 12, """dict(type="ConstantLR", end=3)"""),
    "constant of one step": (SGD, 1, 5, """dict(type="ConstantLR", begin=1, end=2, by_epoch=False)"""),
    "exponential": (SGD, 1, 20, """dict(type="ExponentialLR", gamma=0.9, begin=4, end=15, by_epoch=False)"""),
    "exponential in epochs": (SGD, 3, 20, """dict(type="ExponentialLR", gamma=0.5)"""),
    "steps": (SGD, 1, 20, """dict(type="StepLR", step_size=4, gamma=0.5, begin=1, by_epoch=False)"""),
    "steps converted": (SGD, 3, 24, """dict(type="StepLR", step_size=2, convert_to_iter_based=True)"""),
    "milestones": (SGD, 1, 20, """dict(type="MultiStepLR", milestones=[12, 3, 7, 7], gamma=0.3, by_epoch=False)"""),
    "milestones in epochs": (SGD, 2, 20, """[
        dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=5),
        dict(type="MultiStepLR", begin=0, end=12, by_epoch=True, milestones=[3, 7], gamma=0.1)]"""),
    "milestones converted": (SGD, 3, 24, """dict(type="MultiStepLR", milestones=[2, 5], begin=1, end=7, convert_to_iter_based=True)"""),
    "poly": (SGD, 1, 24, """dict(type="PolyLR", power=0.9, eta_min=1e-4, begin=2, end=20, by_epoch=False)"""),
    "poly, defaults": (SGD, 1, 24, """dict(type="PolyLR", end=20)"""),
    "poly without end": (SGD, 1, 10, """dict(type="PolyLR", power=2, by_epoch=False)"""),
    "poly converted": (SGD, 4, 24, """dict(type="PolyLR", power=2, end=5, convert_to_iter_based=True)"""),
    "half an epoch": (SGD, 5, 24, """[
        dict(type="LinearLR", start_factor=0.1, end=0.5, convert_to_iter_based=True),
        dict(type="PolyLR", begin=0.5, end=9 / 2, convert_to_iter_based=True)]"""),
    "one cycle": (SGD, 1, 30, """dict(type="OneCycleLR", eta_max=0.1, total_steps=30, by_epoch=False)"""),
    "one cycle, linear, three phases": (SGD, 1, 30, """dict(type="OneCycleLR", eta_max=0.3, end=30, pct_start=0.4,
        anneal_strategy="linear", three_phase=True, div_factor=5, final_div_factor=100.0, by_epoch=False)"""),
    "one cycle converted": (SGD, 5, 30, """dict(type="OneCycleLR", eta_max=0.3, total_steps=6, pct_start=0.25, convert_to_iter_based=True)"""),
    "one cycle among others": (SGD, 1, 30, """[
        dict(type="OneCycleParamScheduler", param_name="lr", eta_max=[0.2], begin=3, end=20, by_epoch=False),
        dict(type="CosineRestartLR", periods=[4, 6], restart_weights=[1, 0.5], eta_min_ratio=0.1, begin=20, by_epoch=False)]"""),
    "restarts": (SGD, 1, 30, """dict(type="CosineRestartLR", periods=[5, 8, 10], restart_weights=[1, 0.7, 0.4], eta_min=1e-3, by_epoch=False)"""),
    "restarts of one": (SGD, 1, 12, """dict(type="CosineRestartLR", periods=[9], eta_min=0, by_epoch=False)"""),
    "restarts converted": (SGD, 3, 30, """dict(type="CosineRestartLR", periods=[3, 5], restart_weights=[0.5, 1], eta_min_ratio=0.01, begin=1, end=9, convert_to_iter_based=True)"""),
    "momentum": (SGD, 1, 30, """[
        dict(type="LinearMomentum", start_factor=0.5, end=10, by_epoch=False),
        dict(type="CosineAnnealingMomentum", eta_min=0.1, begin=10, end=30, by_epoch=False)]"""),
    "first beta": (ADAMW, 1, 30, """[
        dict(type="LinearMomentum", start_factor=0.5, end=10, by_epoch=False),
        dict(type="PolyMomentum", eta_min=0.1, begin=10, end=30, by_epoch=False),
        dict(type="CosineRestartLR", periods=[5, 25], restart_weights=[1, 2], eta_min=0, by_epoch=False)]"""),
    "each kind of momentum": (ADAMW, 2, 30, """[
        dict(type="ConstantMomentum", factor=0.5, end=4), dict(type="ExponentialMomentum", gamma=0.99, begin=4, end=7),
        dict(type="StepMomentum", step_size=2, gamma=0.9, begin=7), dict(type="MultiStepMomentum", milestones=[3], gamma=0.8),
        dict(type="CosineRestartMomentum", periods=[3, 3], restart_weights=[1, 0.5], eta_min=0.2, begin=9)]"""),
    "a parameter by name": (ADAMW, 1, 20, """[
        dict(type="CosineAnnealingParamScheduler", param_name="weight_decay", eta_min=0.2, T_max=15, by_epoch=False),
        dict(type="ConstantParamScheduler", param_name="lr", factor=0.5, end=6, by_epoch=False),
        dict(type="ExponentialParamScheduler", param_name="weight_decay", gamma=1.1, begin=15, by_epoch=False)]"""),
    "last step": (SGD, 1, 20, """[
        dict(type="LinearLR", start_factor=0.1, end=8, by_epoch=False),
        dict(type="CosineAnnealingLR", T_max=30, last_step=4, begin=8, by_epoch=False)]"""),
    "plateau": (SGD, 1, 20, """dict(type="ReduceOnPlateauLR", factor=0.5, patience=1)""", METRICS),
    "plateau, all arguments": (SGD, 2, 40, """[
        dict(type="LinearLR", start_factor=0.2, end=5, by_epoch=False),
        dict(type="ReduceOnPlateauLR", monitor="acc", rule="greater", factor=0.3, patience=0, threshold=0.02,
             threshold_rule="abs", cooldown=2, min_value=0.004, eps=1e-3, begin=3, end=18)]""", METRICS),
    "plateau of momentum": (ADAMW, 1, 20, """[
        dict(type="ReduceOnPlateauMomentum", factor=0.9, patience=0, threshold_rule="abs", threshold=0.0, min_value=[0.6]),
        dict(type="ReduceOnPlateauParamScheduler", param_name="weight_decay", rule="greater", patience=2)]""", METRICS),
}


def drawn(rng):
    """A chain of one to four schedulers, each over a range of its own."""
    epoch_length, steps, begin, entries = rng.choice([1, 3, 5]), 60, 0, []
    for _ in range(rng.randint(1, 4)):
        by_epoch, unit = rng.random() < 0.4, 1
        convert = by_epoch and rng.random() < 0.5
        length = rng.randint(2, 25)
        unit = epoch_length if by_epoch else 1
        start, length = begin // unit, max(2, length // unit)
        kind = rng.choice("Constant CosineAnnealing CosineRestart Exponential Linear MultiStep Poly Step".split())
        suffix = rng.choice(["LR", "LR", "Momentum", "ParamScheduler"])
        args = dict(type=kind + suffix, begin=start, end=start + length)
        if not by_epoch:
            args["by_epoch"] = False
        if convert:
            args["convert_to_iter_based"] = True
        if suffix == "ParamScheduler":
            args["param_name"] = rng.choice(["lr", "weight_decay"])
        minimum = rng.choice([dict(eta_min=rng.choice([0.0, 1e-5])), dict(eta_min_ratio=round(rng.random() / 2, 3))])
        if kind == "Constant":
            args["factor"] = round(rng.uniform(0.1, 1.0), 3)
        elif kind == "CosineAnnealing":
            args.update(minimum, **rng.choice([{}, dict(T_max=length), dict(T_max=rng.randint(2, 9))]))
        elif kind == "CosineRestart":
            periods = [rng.randint(1, 8) for _ in range(rng.randint(1, 3))]
            args.update(minimum, periods=periods, restart_weights=[round(rng.uniform(0.2, 1.0), 2) for _ in periods])
        elif kind == "Exponential":
            args["gamma"] = round(rng.uniform(0.8, 1.0), 3)
        elif kind == "Linear":
            args.update(start_factor=round(rng.uniform(0.01, 1.0), 3), end_factor=rng.choice([1.0, 1.0, 0.3]))
        elif kind == "MultiStep":
            args.update(milestones=sorted(rng.randint(1, length) for _ in range(3)), gamma=rng.choice([0.1, 0.5]))
        elif kind == "Poly":
            args.update(power=rng.choice([0.9, 1, 2.5]), eta_min=rng.choice([0, 1e-5]))
        else:
            args.update(step_size=rng.randint(1, 6), gamma=rng.choice([0.1, 0.7]))
        entries.append("dict(" + ", ".join(f"{key}={value!r}" for key, value in args.items()) + ")")
        begin += max(0, length * unit - rng.choice([0, 0, 3]))
    return rng.choice([SGD, ADAMW]), epoch_length, steps, "[" + ",\n        ".join(entries) + "]"


rng = random.Random(6)
CASES.update({f"random {i}": drawn(rng) for i in range(60)})


def values(optimizer, epoch_length, steps, text, metrics=None):
    entries = eval(text, {"dict": dict})  # our own text, above
    entries = entries if isinstance(entries, list) else [entries]
    config = eval(optimizer, {"dict": dict})
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = getattr(torch.optim, config.pop("type"))([parameter], **config)
    chain = []
    for entry in entries:
        entry = dict(entry)
        kind = PARAM_SCHEDULERS.get(entry.pop("type"))
        if entry.pop("convert_to_iter_based", False):
            chain.append(kind.build_iter_from_epoch(optimizer, epoch_length=epoch_length, **entry))
        else:
            chain.append(kind(optimizer, **entry))
    found = dict(lr=[], momentum=[], weight_decay=[])
    group = optimizer.param_groups[0]
    for step in range(steps):
        found["lr"].append(group["lr"])
        found["momentum"].append(group["betas"][0] if "betas" in group else group["momentum"])
        found["weight_decay"].append(group["weight_decay"])
        optimizer.step()
        for scheduler in chain:
            if not scheduler.by_epoch:
                scheduler.step()
        if (step + 1) % epoch_length == 0:
            for scheduler in chain:
                if scheduler.by_epoch:
                    scheduler.step()
            for scheduler in chain:
                if getattr(scheduler, "need_val_args", False):
                    scheduler.step({scheduler.monitor: metrics[step // epoch_length]})
    # What never changes is told once.
    return {name: values if any(v != values[0] for v in values) else values[:1] for name, values in found.items()}


cases = []
for name, (optimizer, epoch_length, steps, text, *metrics) in CASES.items():
    config = f"optimizer = {optimizer}\nparam_scheduler = {text}\n"
    case = dict(name=name, config=config, epoch_length=epoch_length, steps=steps)
    case["metrics"] = metrics[0] if metrics else []
    case["values"] = values(optimizer, epoch_length, steps, text, *metrics)
    cases.append(case)
lines = ",\n".join(json.dumps(case) for case in cases)
(HERE / "schedules.json").write_text(f"[\n{lines}\n]\n")

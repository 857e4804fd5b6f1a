"""What MMEngine 0.10.7's Runner makes of schedules whose entries leave their end to the run: lengths.json.

usage: python lengths.py, in this folder; mmengine==0.10.7 and torch==2.15.0 (requirements.txt). Each case is a whole
run, with the learning rate and the momentum as a hook sees them before each iteration. Draws are seeded.
"""
import json
import logging
import random
import tempfile
import warnings
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner, loops

warnings.filterwarnings("ignore")
logging.disable(logging.CRITICAL)
draw = random.Random(19)  # its own: a Runner seeds the common one
loops.time.sleep = lambda seconds: None  # two seconds at each end of the data


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, inputs, mode="tensor"):
        return {"loss": (self.weight * 0).sum()}


class Recorder(Hook):
    def __init__(self):
        self.values = {"lr": [], "momentum": []}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        group = runner.optim_wrapper.optimizer.param_groups[0]
        self.values["lr"].append(group["lr"])
        self.values["momentum"].append(group["betas"][0] if "betas" in group else group["momentum"])


def entry(begin, end, by_epoch, span, lr):
    """A scheduler over [begin, end); an end of None is left to the run, which ends after `span` steps."""
    length = (end or span) - begin
    suffix = draw.choice(["LR", "LR", "LR", "Momentum"])
    kinds = {
        "Constant": dict(factor=draw.choice([0.25, 0.5, 0.9])),
        "Linear": dict(start_factor=draw.choice([0.1, 1 / 3]), end_factor=draw.choice([1.0, 0.7])),
        "CosineAnnealing": dict(eta_min=0.01),
        "CosineAnnealing ": dict(eta_min_ratio=0.05, T_max=max(1, length - 1)),
        "Exponential": dict(gamma=0.9),
        "Step": dict(step_size=draw.randint(1, 3), gamma=0.5),
        "MultiStep": dict(milestones=sorted({draw.randint(1, max(1, length)) for _ in range(3)}), gamma=0.5),
        "Poly": dict(power=draw.choice([0.9, 2.0]), eta_min=0.001),
        "OneCycle": dict(eta_max=0.3),
    }
    kind = draw.choice(list(kinds))
    arguments = dict(type=kind.strip() + ("LR" if kind == "OneCycle" else suffix), **kinds[kind])
    if begin or draw.random() < 0.5:
        arguments["begin"] = begin
    if end is not None:
        arguments["end"] = end
    if not by_epoch or draw.random() < 0.5:
        arguments["by_epoch"] = by_epoch
    if by_epoch and draw.random() < 0.3:
        arguments["convert_to_iter_based"] = True
    return arguments


def case(index):
    epoch, epochs = draw.choice([1, 3, 4, 7]), draw.randint(2, 6)
    counts_epochs = draw.random() < 0.75
    iterations = epochs * epoch if counts_epochs else draw.randint(5, 30)
    loop = draw.choice([
        dict(by_epoch=True, max_epochs=epochs), dict(type="EpochBasedTrainLoop", max_epochs=epochs, val_interval=1)
    ]) if counts_epochs else draw.choice([
        dict(by_epoch=False, max_iters=iterations), dict(type="IterBasedTrainLoop", max_iters=iterations)
    ])
    schedulers = []
    for _ in range(draw.randint(1, 3)):
        # Where the run counts iterations, an entry that counts epochs has one, and only one that is converted acts in it.
        by_epoch = counts_epochs and draw.random() < 0.6
        span = epochs if by_epoch else iterations
        begin = draw.choice([0, 0, draw.randint(0, span - 1)])
        end = draw.choice([None, None, draw.randint(begin + 1, span + 2)])
        schedulers.append(entry(begin, end, by_epoch, span, 0.1))
    if not counts_epochs and draw.random() < 0.3:
        schedulers.append(dict(type="LinearLR", start_factor=0.2, convert_to_iter_based=True))
    optimizer = draw.choice([dict(type="SGD", lr=0.1, momentum=0.9), dict(type="AdamW", lr=0.02)])
    if draw.random() < 0.3 and len(schedulers) == 1:
        schedulers = schedulers[0]
    text = (f"optim_wrapper = dict(optimizer={literal(optimizer)})\nparam_scheduler = {literal(schedulers)}\n"
            f"train_cfg = {literal(loop)}\n")
    recorder, names = Recorder(), dict(epoch_length=epoch, steps=iterations)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.py"
        path.write_text(text)
        config = Config.fromfile(path)
        data = torch.utils.data.DataLoader([dict(inputs=torch.zeros(1))] * epoch, batch_size=1)
        runner = Runner(model=Model(), work_dir=folder, train_dataloader=data, train_cfg=config.train_cfg,
                        optim_wrapper=config.optim_wrapper, param_scheduler=config.param_scheduler,
                        custom_hooks=[recorder], default_hooks=dict(logger=None, checkpoint=None),
                        experiment_name=f"case{index}")
        runner.train()
    assert len(recorder.values["lr"]) == iterations
    return dict(name=f"random {index}", config=text, values=recorder.values, **names)


def literal(value):
    if isinstance(value, dict):
        return "dict(" + ", ".join(f"{key}={literal(item)}" for key, item in value.items()) + ")"
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    return repr(value)


cases = [case(index) for index in range(160)]
Path("lengths.json").write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")

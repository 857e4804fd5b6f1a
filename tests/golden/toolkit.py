"""What MMEngine 0.10.7 with torch 2.15 does around an optimizer: `paramwise.json` and `wrappers.json`.

    pip install mmengine==0.10.7 torch==2.15.0 && python toolkit.py

- paramwise: for each `paramwise_cfg` the learning rate and weight decay that DefaultOptimWrapperConstructor gives each
  parameter of a small model; the model's parameters with shape and kind of module.
- wrappers: for each `optim_wrapper` the gradients of some iterations, and after each of them the parameters, the loss scale
  and the gradient norm that OptimWrapper or AmpOptimWrapper ends with. Gradients come from a loss of which they are the
  derivative, so that the wrapper scales and accumulates them as in training. AmpOptimWrapper asks for a GPU: its
  GradScaler is torch's for the CPU here, which computes the same.
- averages: for each of MMEngine's averaged models what it holds after each iteration.

Numbers that are not finite are strings.
"""
import functools
import json
import math
import random
from pathlib import Path

import torch
from torch import nn

import mmengine.model.averaged_model as averaged
import mmengine.optim.optimizer.amp_optimizer_wrapper as amp
from mmengine.logging import MessageHub
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import MODELS

HERE = Path(__file__).parent
amp.is_cuda_available = lambda: True
amp.GradScaler = functools.partial(torch.amp.GradScaler, "cpu")


def plain(x):
    return x if math.isfinite(x) else str(x)


# ---------------------------------------------------------------------------------------------------------------------
# paramwise_cfg


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3)
        self.bn1 = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.norm = nn.GroupNorm(2, 8)
        self.scale = nn.Parameter(torch.ones(8))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 6))
        self.gamma = nn.Parameter(torch.ones(6))
        self.bias = nn.Parameter(torch.ones(2))
        self.embed = nn.Embedding(10, 6)
        self.backbone = nn.Sequential()
        self.backbone.layer1 = Block()
        self.backbone.layer2 = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.InstanceNorm2d(8, affine=True), Block())
        self.neck = nn.Linear(6, 6)
        self.ln = nn.LayerNorm(6)
        self.head = nn.Sequential(nn.Conv1d(6, 6, 3, groups=6), nn.Linear(6, 3))


KINDS = {(nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm, nn.LayerNorm): "norm", (nn.Embedding,): "embedding"}


def kind(module):
    for classes, name in KINDS.items():
        if isinstance(module, classes):
            return name
    # As MMEngine has it: two dimensions only.
    return "dwconv" if isinstance(module, nn.Conv2d) and module.in_channels == module.groups else "other"


SGD = "dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4)"
ADAMW = "dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05)"
PARAMWISE = [
    (SGD, "dict()"),
    (SGD, "dict(bias_lr_mult=2.0, bias_decay_mult=0.0)"),
    (SGD, "dict(norm_decay_mult=0.0)"),
    (SGD, "dict(norm_decay_mult=0.0, bias_decay_mult=0.5, dwconv_decay_mult=0.1, flat_decay_mult=0.2, bias_lr_mult=3.0)"),
    (ADAMW, "dict(flat_decay_mult=0.0)"),
    (ADAMW, "dict(dwconv_decay_mult=0.0, bypass_duplicate=True)"),
    (ADAMW, "dict(bias_decay_mult=0.0, flat_decay_mult=0.5)"),
    (ADAMW, """dict(norm_decay_mult=0.0, custom_keys={
        'cls_token': dict(decay_mult=0.0), 'norm': dict(decay_mult=0.0), 'backbone': dict(lr_mult=0.1)})"""),
    (ADAMW, """dict(bias_lr_mult=2., custom_keys={
        'backbone': dict(lr_mult=0.1, decay_mult=0.9), 'backbone.layer1': dict(lr_mult=0.2), 'layer1': dict(lr_mult=5),
        'backbone.layer2': dict(lr_mult=0.3), 'bias': dict(decay_mult=0.0)})"""),
    (ADAMW, """dict(custom_keys={'.bias': dict(lr_mult=2), '.gamma': dict(lr_mult=3), 'neck': dict(lr_mult=4), 'head.': dict(lr_mult=5)})"""),
    (ADAMW, """dict(custom_keys={'layer1.bn': dict(lr_mult=2), 'layer1.no': dict(lr_mult=3), 'layer1.': dict(lr_mult=4)})"""),
    (ADAMW, """dict(custom_keys={'head': dict(lr_mult=2, lr=0.5, betas=(0.5, 0.9)), 'neck': dict(weight_decay=0.3, eps=1e-3)})"""),
    ("dict(type='SGD', lr=0.01)", "dict(bias_lr_mult=2.0, custom_keys={'neck': dict(lr_mult=0.5)})"),
]


def paramwise(optimizer, text):
    model = Model()
    config = dict(type="OptimWrapper", optimizer=eval(optimizer))
    wrapper = DefaultOptimWrapperConstructor(config, eval(text))(model)
    # MMEngine appends the optimizer's own settings with a parameter that is none.
    groups = {id(p): group for group in wrapper.optimizer.param_groups for p in group["params"]}
    return {name: [groups[id(p)]["lr"], groups[id(p)]["weight_decay"]] for name, p in model.named_parameters()}


modules = dict(Model().named_modules())
params = {
    name: dict(shape=list(p.shape), module=kind(modules[name.rpartition(".")[0]])) for name, p in Model().named_parameters()
}
cases = [dict(optimizer=o, paramwise_cfg=p, expected=paramwise(o, p)) for o, p in PARAMWISE]
lines = ",\n".join(json.dumps(case) for case in cases)
(HERE / "paramwise.json").write_text(f'{{"params": {json.dumps(params)},\n"cases": [\n{lines}\n]}}\n')

# ---------------------------------------------------------------------------------------------------------------------
# wrappers

SHAPES = {"a": [3, 2], "b": [5], "late": [2]}
MOMENTUM = "dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.01)"
ADAM = "dict(type='AdamW', lr=0.01, weight_decay=0.1)"
# name: (type, total iterations if known, iterations, arguments of optim_wrapper, iterations with a planted number)
WRAPPERS = {
    "accumulation without total": ("f64", None, 8, f"optimizer={MOMENTUM}, accumulative_counts=3", {}),
    "remainder of one": ("f64", 10, 10, f"optimizer={MOMENTUM}, accumulative_counts=3", {}),
    "remainder of two": ("f64", 10, 10, f"optimizer={ADAM}, accumulative_counts=4", {}),
    "fewer than a window": ("f64", 2, 2, f"optimizer={ADAM}, accumulative_counts=4", {}),
    "norm": ("f64", None, 6, f"optimizer={MOMENTUM}, clip_grad=dict(max_norm=1.5)", {}),
    "norm, f32": ("f32", None, 6, f"optimizer={ADAM}, clip_grad=dict(type='norm', max_norm=1.5, norm_type=2)", {}),
    "norm of order 1": ("f64", None, 6, f"optimizer={MOMENTUM}, clip_grad=dict(max_norm=3, norm_type=1)", {}),
    "norm of order 1, f32": ("f32", None, 6, f"optimizer={MOMENTUM}, clip_grad=dict(max_norm=3, norm_type=1)", {}),
    "norm of order 3": ("f64", None, 6, f"optimizer={MOMENTUM}, clip_grad=dict(max_norm=0.5, norm_type=3)", {}),
    "norm of order 0.5": ("f64", None, 6, f"optimizer={MOMENTUM}, clip_grad=dict(max_norm=20, norm_type=0.5)", {}),
    "norm of order 0": ("f64", None, 6, f"optimizer={MOMENTUM}, clip_grad=dict(max_norm=1, norm_type=0)", {}),
    "largest magnitude": ("f64", None, 6, f"optimizer={MOMENTUM}, clip_grad=dict(max_norm=0.4, norm_type='inf')", {}),
    "smallest magnitude": ("f64", None, 6, f"optimizer={MOMENTUM}, clip_grad=dict(max_norm=0.01, norm_type=float('-inf'))", {}),
    "infinity under a norm": ("f64", None, 4, f"optimizer={MOMENTUM}, clip_grad=dict(max_norm=1)", {2: math.inf}),
    "NaN under a norm": ("f64", None, 4, f"optimizer={MOMENTUM}, clip_grad=dict(max_norm=1, norm_type='inf')", {2: math.nan}),
    "value": ("f64", None, 6, f"optimizer={ADAM}, clip_grad=dict(type='value', clip_value=0.2)", {3: -math.inf}),
    "value, NaN": ("f64", None, 4, f"optimizer={MOMENTUM}, clip_grad=dict(type='value', clip_value=0.2)", {2: math.nan}),
    "value over a window": ("f64", 7, 7, f"optimizer={MOMENTUM}, accumulative_counts=2, clip_grad=dict(type='value', clip_value=0.2)", {}),
    "norm over a window": ("f64", 7, 7, f"optimizer={MOMENTUM}, accumulative_counts=2, clip_grad=dict(max_norm=0.7)", {}),
    "amp, default": ("f32", None, 6, f"type='AmpOptimWrapper', optimizer={ADAM}", {1: math.inf, 4: math.nan}),
    "amp, growing": ("f32", None, 12, f"type='AmpOptimWrapper', optimizer={MOMENTUM}, loss_scale=dict(init_scale=8.0, growth_interval=3, growth_factor=4.0, backoff_factor=0.25)", {5: math.inf, 6: math.nan}),
    "amp, fixed": ("f32", None, 6, f"type='AmpOptimWrapper', optimizer={MOMENTUM}, loss_scale=128.0", {2: math.inf}),
    "amp, fixed, not a power of two": ("f32", None, 6, f"type='AmpOptimWrapper', optimizer={MOMENTUM}, loss_scale=100.0, dtype='float16'", {}),
    "amp, disabled": ("f32", None, 6, f"type='AmpOptimWrapper', optimizer={MOMENTUM}, loss_scale=dict(enabled=False)", {3: math.inf}),
    "amp, norm": ("f32", None, 8, f"type='AmpOptimWrapper', optimizer={ADAM}, loss_scale='dynamic', clip_grad=dict(max_norm=1.0)", {3: math.inf}),
    "amp, value": ("f32", None, 8, f"type='AmpOptimWrapper', optimizer={ADAM}, loss_scale='dynamic', clip_grad=dict(type='value', clip_value=0.3)", {3: math.inf}),
    "amp, everything": ("f32", 11, 11, f"type='AmpOptimWrapper', optimizer={MOMENTUM}, accumulative_counts=4, clip_grad=dict(max_norm=0.5, norm_type='inf'), loss_scale=dict(init_scale=1024., growth_interval=2)", {6: math.inf}),
    "amp, too large": ("f32", None, 5, f"type='AmpOptimWrapper', optimizer={MOMENTUM}, loss_scale=dict(init_scale=1.7e38, growth_interval=1)", {}),
}


class Holder(nn.Module):
    def __init__(self, dtype, rng):
        super().__init__()
        for name, shape in SHAPES.items():
            values = [rng.uniform(-1, 1) for _ in range(math.prod(shape))]
            self.register_parameter(name, nn.Parameter(torch.tensor(values, dtype=dtype).reshape(shape)))

    def flat(self):
        return {name: [plain(x) for x in p.detach().flatten().tolist()] for name, p in self.named_parameters()}


def wrapped(dtype, total, iterations, text, planted):
    rng, dtype = random.Random(text), dict(f32=torch.float32, f64=torch.float64)[dtype]
    model = Holder(dtype, rng)
    config = eval(f"dict({text})")
    wrapper = DefaultOptimWrapperConstructor(config)(model)
    if total is not None:
        wrapper.initialize_count_status(model, 0, total)
    start, steps = model.flat(), []
    for t in range(iterations):
        loss, grads = 0.0, {}
        for name, p in model.named_parameters():
            if (name == "late" and t < 3) or (name == "b" and t % 4 == 1):
                continue
            values = [rng.uniform(-1, 1) for _ in range(p.numel())]
            if name == "a" and t in planted:
                values[1] = planted[t]
            grad = torch.tensor(values, dtype=dtype)
            grads[name] = [plain(x) for x in grad.tolist()]
            loss = loss + (p.flatten() * grad).sum()
        hub = MessageHub.get_current_instance()
        hub.log_scalars.clear()
        wrapper.update_params(loss)
        norm = hub.log_scalars.get("train/grad_norm")
        scaler = getattr(wrapper, "loss_scaler", None)
        steps.append(dict(
            grads=grads, params=model.flat(), scale=scaler.get_scale() if scaler else 1.0,
            norm=plain(float(norm.current())) if norm else None,
        ))
    return dict(start=start, steps=steps)


AVERAGES = [
    "dict(type='ExponentialMovingAverage', momentum=0.1)",
    "dict(type='ExponentialMovingAverage', momentum=0.7, interval=3)",
    "dict(type='MomentumAnnealingEMA', momentum=0.05, gamma=5)",
    "dict(type='StochasticWeightAverage')",
    "dict(type='StochasticWeightAverage', interval=2)",
]


def average(text):
    rng = random.Random(text)
    model = Holder(torch.float64, rng)
    mean = MODELS.build(dict(eval(text), model=model))
    steps = []
    for _ in range(12):
        for p in model.parameters():
            p.data += torch.tensor([rng.uniform(-1, 1) for _ in range(p.numel())], dtype=p.dtype).reshape(p.shape)
        mean.update_parameters(model)
        steps.append(dict(params=model.flat(), average={n: p.flatten().tolist() for n, p in mean.module.named_parameters()}))
    return dict(average=text, steps=steps)


cases = [
    dict(name=name, dtype=case[0], total=case[1], config=f"optim_wrapper = dict({case[3]})\n", **wrapped(*case))
    for name, case in WRAPPERS.items()
]
lines = ",\n".join(json.dumps(case) for case in cases)
means = ",\n".join(json.dumps(average(text)) for text in AVERAGES)
(HERE / "wrappers.json").write_text(
    f'{{"shapes": {json.dumps(SHAPES)},\n"cases": [\n{lines}\n],\n"averages": [\n{means}\n]}}\n'
)

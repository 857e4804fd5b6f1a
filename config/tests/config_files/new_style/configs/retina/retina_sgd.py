# Named imports, imports as, dicts changed in place, and names that the base shared.
from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.schedules.schedule_1x import optim_wrapper, param_scheduler as chain, shared
    from .._base_.schedules.schedule_1x import train_cfg, auto_scale_lr  # yapf: disable

import torch.nn as nn
from mmengine.optim import AmpOptimWrapper as Amp

optim_wrapper.update(dict(type=Amp, optimizer=dict(lr=0.01, nesterov=True), loss_scale='dynamic'))
shared['lr'] = 7.0  # is the base's no longer: each name has a copy
chain[0].update(end=1000, start_factor=1.0 / 3)
chain.append(dict(type='ConstantLR', factor=0.5, begin=11, end=12))
param_scheduler = chain
train_cfg.merge(dict(max_epochs=24, dynamic_intervals=[(20, 1)]))
log_processor.merge(dict(_delete_=True, window_size=1, inner=dict(_delete_=True, a=1)))
default_hooks.merge(dict(logger=dict(_delete_=True, every=5), checkpoint=3, extra=dict(b=dict(c=2))))
auto_scale_lr = dict(enable=True)
names += ['c']
act = dict(type=nn.ReLU, inplace=True)
copied = optim_wrapper.optimizer.copy()
copied.lr = 5

from mmengine.config import read_base
from torch.optim import AdamW

with read_base():
    from .._base_.default_runtime import *
    from ..schedules import train_cfg

optimizer = dict(type=AdamW, lr=1e-4)
param_scheduler = [dict(type='ConstantLR', factor=1.0)]
optim_wrapper.update(dict(optimizer=optimizer))

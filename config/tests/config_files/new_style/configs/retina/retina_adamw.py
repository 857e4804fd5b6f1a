# Everything of two bases, of which one is a new-style child itself; what is assigned replaces, it does not merge.
import torch
from mmengine.config import read_base
from mmengine.optim.scheduler import CosineAnnealingLR

with read_base():
    from .retina_sgd import *
    from .._base_.schedules.schedule_1x import train_cfg

optim_wrapper = dict(optimizer=dict(type=torch.optim.AdamW, lr=1e-4, weight_decay=0.05))
max_epochs = train_cfg.max_epochs * 2
param_scheduler = [
    dict(type=CosineAnnealingLR, begin=max_epochs // 2, T_max=max_epochs - max_epochs // 2, by_epoch=True)
]
lengths = [len(names)]
default_hooks['logger'].pop('every')

from mmengine.config import read_base

with read_base(): from .._base_.schedules.schedule_1x import *  # noqa

train_cfg.update(max_epochs=3)

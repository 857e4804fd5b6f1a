import os.path as osp

from mmengine.hooks import CheckpointHook, LoggerHook
from mmengine.runner import LogProcessor

default_scope = None
default_hooks = dict(
    logger=dict(type=LoggerHook, interval=50), checkpoint=dict(type=CheckpointHook, interval=1, save_best=None))
log_processor = dict(type=LogProcessor, window_size=50, by_epoch=True)
log_level = 'INFO'
load_from = None
names = ['a', ('b', 1)]

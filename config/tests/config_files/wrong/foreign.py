_base_ = ['../swin/_base_/default_runtime.py', 'mmdet::_base_/schedules/schedule_1x.py']
param_scheduler = [dict(type='ConstantLR')]
optim_wrapper = dict(optimizer=dict(lr=0.01))
optimizer = dict(_delete_=True, type='SGD', lr=0.1)
default_hooks = dict(timer=dict(interval=10))
x = _base_.auto_scale_lr

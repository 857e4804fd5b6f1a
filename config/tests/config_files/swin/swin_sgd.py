_base_ = './swin_adamw.py'
# Back to SGD, at a tenth of the rate, with a base's dict replaced and another dict without its `_delete_`.
optim_wrapper = dict(
    type='AmpOptimWrapper',
    loss_scale='dynamic',
    optimizer=dict(_delete_=True, type='SGD', lr={{_base_.optim_wrapper.optimizer.lr}}),
    paramwise_cfg=dict(custom_keys=dict(norm=dict(_delete_=False, lr_mult=2), head=dict(_delete_=True, lr_mult=10))))
_base_.param_scheduler[1].milestones = [30]
param_scheduler = _base_.param_scheduler
auto_scale_lr = None
_deprecation_ = dict(expected='swin_adamw.py')
__hidden = 1

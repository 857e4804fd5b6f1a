# digits.py with a whole gradient pipeline: Muon for the hidden layer and AdamW for the rest, gradients
# of four batches at a time, clipped, under a loss scale; the average of the weights is tested.
_base_ = "digits.py"

optim_wrapper = dict(
    _delete_=True,
    type="AmpOptimWrapper",
    loss_scale="dynamic",
    optimizer=dict(type="AdamW", lr=5e-3, weight_decay=0.1),
    accumulative_counts=4,
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(
        bias_decay_mult=0.0,
        custom_keys={"fc1.weight": dict(optimizer=dict(type="Muon", lr=0.02, weight_decay=0.1))},
    ),
)

train = dict(average=dict(type="MomentumAnnealingEMA", momentum=0.01, gamma=20))

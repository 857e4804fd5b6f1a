# The main job: a small network on the UCI handwritten digits.
# The settings were chosen by cross-validation inside the training images; the test images were not looked at.
epochs = 40
iters_per_epoch = 45  # 1,437 images in batches of 32
warm_up = 100

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=5e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1),
)

param_scheduler = [
    dict(type="LinearLR", start_factor=1 / warm_up, begin=0, end=warm_up, by_epoch=False),
    dict(
        type="CosineAnnealingLR",
        begin=warm_up,
        end=epochs * iters_per_epoch,
        T_max=epochs * iters_per_epoch - warm_up,
        eta_min=0.0,
        by_epoch=False,
    ),
]

train = dict(epochs=epochs, batch_size=32, hidden=[512], seed=0)

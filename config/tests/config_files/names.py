# Names, keys, indices and attributes.
first = second = dict(lr=0.1, betas=(0.9, 0.999))
lr = first['lr']
beta2 = first['betas'][1]
last = first['betas'][-1]
first = 'assigned again'
a, (b, c) = 1, [2, 3]
[d, e] = 'd', 'e'
annotated: float = 1e-3
annotated_dict: dict = dict(a=1)
type = 'AdamW'
optimizer = dict(type=type, lr=lr, betas=(0.9, beta2))
gone = 1
del gone
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=optimizer,
    clip_grad=dict(max_norm=35, norm_type=2))
continued = 1 + \
    2
pass
'a string by itself'
x = 1; y = x + 1;

_base_ = ['./child.json', '../swin/_base_/default_runtime.py']
optimizer = dict(nested=dict(d=float('nan')))

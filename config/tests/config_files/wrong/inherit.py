_base_ = '../mixed/base.py'
optimizer = dict(type=dict(a=1), lr=0.1)
lr = dict(value=1)
kept = dict(_delete_=True, b=1)

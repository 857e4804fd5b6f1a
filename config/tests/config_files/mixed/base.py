# One base for children in every notation.
lr = 0.5
optimizer = dict(type='SGD', lr=lr, momentum=0.9, nested=dict(a=1, b=[1, 2]))
replaced = dict(a=1)
kept = {'a key': (1, 2)}

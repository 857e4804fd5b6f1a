# Lists and dicts are shared, so that a change shows wherever they are.
optimizer = dict(type='SGD', lr=0.1)
optim_wrapper = dict(optimizer=optimizer, paramwise_cfg=dict(custom_keys=dict()))
optimizer['lr'] = 0.2
optimizer.update(dict(momentum=0.9), nesterov=True)
optimizer.update(weight_decay=1e-4)
optim_wrapper['paramwise_cfg']['custom_keys']['.norm'] = dict(decay_mult=0.0)
optim_wrapper['optimizer']['lr'] *= 2

copied = dict(**optimizer)
copied['lr'] = 'copied'
also_copied = optimizer.copy()
also_copied['lr'] = 'also copied'

milestones = [8]
shared = milestones
milestones += [11]
milestones.append(15)
milestones.extend((20, 21))
milestones[0] = 7
milestones[-1] += 1
popped = milestones.pop(1)
last = milestones.pop()
rebound = milestones
rebound = rebound + [99]

pair = (1, 2)
same_pair = pair
pair += (3,)

settings = dict(a=1, b=2, c=3, d=4)
taken = settings.pop('a')
missing = settings.pop('z', 'default')
found = settings.get('b', 0)
absent = settings.get('z', 0)
del settings['c']
nested = [dict(x=1)] * 2
nested[0]['x'] = 5
count = 1
count += 1
count **= 3
count -= 1
count //= 2
count %= 2
count /= 4
name = 'a'
name += 'b'
name *= 2

# MMEngine's templates.
_base_ = './names.py'
work_dir = './work_dirs/{{ fileBasenameNoExtension }}/{{fileBasename}}'
extension = "{{fileExtname}}"
not_a_template = '{{ other }} {{}} {x}'
data_root = '{{$FALLLINE_NO_SUCH_VARIABLE:data/coco}}/images'
num_classes = {{'$FALLLINE_NO_SUCH_VARIABLE:80'}}
learning_rate = {{_base_.lr}}
inside = dict(list=[{{ _base_.optimizer }}, 1], beta={{_base_.beta2}})
by_name = _base_.optimizer.lr
by_key = _base_['optimizer']['betas'][0]
_base_.optim_wrapper.clip_grad.max_norm = 1
_base_.optimizer.type = 'changed here, and in optim_wrapper, which shares it'
_base_.a += 10
_base_.pop('b')

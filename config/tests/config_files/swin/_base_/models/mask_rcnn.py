# model settings
import sys
from itertools import chain
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    type='MaskRCNN',
    backbone=dict(type='ResNet', depth=50, norm_cfg=norm_cfg),
    neck=dict(type='FPN', in_channels=[256 * 2**i for i in range(4)], out_channels=256),
    roi_head=dict(bbox_head=dict(num_classes=80)))
channels = list(chain([64], [128, 256]))
largest = sys.maxsize.bit_length()


def crop(size):
    """Not of interest here."""
    lr = size
    return lr


size_divisor = 32 if model else 1

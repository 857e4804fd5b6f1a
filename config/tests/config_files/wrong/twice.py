_base_ = ['../swin/_base_/schedules/schedule_1x.py', '../swin/swin_sgd.py']

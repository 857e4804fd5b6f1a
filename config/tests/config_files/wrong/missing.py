_base_ = [
    '../mixed/base.py', 'no_such_file.py'
]

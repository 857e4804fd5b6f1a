_base_ = './circle_b.json'

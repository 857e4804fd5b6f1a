# digits.py on several ranks, with OnebitAdam: after a warm-up of eight epochs ranks send each other signs instead of numbers.
#   mpirun -n 3 fallline train --ranks mpi --config configs/digits_ranks.py
_base_ = "digits.py"

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="OnebitAdam", lr=1e-3, freeze_step=360, eps=1e-3, weight_decay=0.1),
)

# digits.py on several ranks, each with the states of some of the parameters.
#   mpirun -n 3 fallline train --ranks mpi --config configs/digits_sharded.py
_base_ = "digits.py"

optim_wrapper = dict(
    optimizer=dict(
        _delete_=True, type="ZeroRedundancyOptimizer", optimizer_type="AdamW", lr=5e-3, weight_decay=0.1
    ),
)

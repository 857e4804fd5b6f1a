#!/usr/bin/env python3
"""Write searches.json: where torch's LBFGS goes on the problems of `fallline minimize`.

    python searches.py

Each case: the problem, the optimizer as fallline takes it inline, x after each step and the loss before each, in f64. The
steps are few enough that rounding does not decide the way (without a line search LBFGS wanders on Rosenbrock's function).
"""

import gzip
import json
import math
import pathlib

import numpy as np
import torch

HERE = pathlib.Path(__file__).resolve().parent
STEPS = 6


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def quadratic(x):
    rates = torch.tensor([1e3 ** (i / (len(x) - 1)) for i in range(len(x))], dtype=torch.float64)
    return 0.5 * (rates * x * x).sum()


def beale(v):
    x, y = v
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def himmelblau(v):
    x, y = v
    return (x * x + y - 11) ** 2 + (x + y * y - 7) ** 2


def rastrigin(x):
    return 10 * len(x) + (x * x - 10 * torch.cos(2 * math.pi * x)).sum()


def digits():
    """All images, pixels from 0 to 1, times their class ±1, with a last column for the bias."""
    with gzip.open(HERE.parents[1] / "cli" / "data" / "digits.csv.gz") as file:
        table = np.loadtxt(file, delimiter=",")
    sign = np.where(table[:, 64] < 5, 1.0, -1.0)
    return torch.from_numpy(sign[:, None] * np.hstack([table[:, :64] / 16, np.ones((len(table), 1))]))


EXAMPLES = digits()


def logistic(x):
    return torch.nn.functional.softplus(-(EXAMPLES @ x)).mean() + 0.5e-4 * (x[:-1] ** 2).sum()


WOLFE = dict(line_search_fn="strong_wolfe")
CASES = [
    (rosenbrock, [-1.2, 1.0], [dict(lr=0.01, max_iter=5, history_size=2, max_eval=3), dict(WOLFE, max_iter=3)]),
    (rosenbrock, [-1.2, 1.0] * 4, [dict(WOLFE, max_iter=4, history_size=3), dict(lr=0.003, max_iter=2)]),
    (quadratic, [1.0] * 5, [dict(WOLFE, max_iter=3, history_size=4), dict(lr=0.01, max_iter=4)]),
    (beale, [1.0, 1.0], [dict(WOLFE, max_iter=2), dict(lr=0.01, max_iter=3, max_eval=2)]),
    (himmelblau, [0.0, 0.0], [dict(WOLFE, max_iter=8, max_eval=5, tolerance_grad=1e-3, tolerance_change=1e-4)]),
    (rastrigin, [0.4] * 3, [dict(WOLFE, max_iter=2), dict(lr=0.01, max_iter=3)]),
    (logistic, [0.0] * 65, [dict(WOLFE, max_iter=3), dict(lr=0.5, max_iter=3, history_size=5)]),
]


def run(function, start, options):
    x = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([x], **options)
    way, losses = [], []

    def closure():
        optimizer.zero_grad()
        loss = function(x)
        loss.backward()
        return loss

    for _ in range(STEPS):
        losses.append(float(optimizer.step(closure).detach()))
        way.append(x.detach().tolist())
    text = "".join(f", {key}={value!r}" for key, value in options.items())
    return {
        "problem": function.__name__,
        "dim": len(start),
        "optimizer": f"dict(type='LBFGS'{text})",
        "x": way,
        "loss": losses,
    }


def main():
    torch.set_num_threads(1)
    cases = [run(function, start, options) for function, start, choices in CASES for options in choices]
    lines = ",\n".join(json.dumps(case) for case in cases)
    (HERE / "searches.json").write_text(f'{{"source": "torch {torch.__version__.partition("+")[0]}", "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()

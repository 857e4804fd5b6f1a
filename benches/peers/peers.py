"""One step at a time of torch's, lion-pytorch's and DeepSpeed's optimizers, on request.

usage: peers.py THREADS

The protocol, a line each way: `open NAME ELEMENTS` -> `ok VERSION`, `round NAME` -> seconds,
`close NAME` -> `ok`; `error ...` where something fails.
"""

import os
import sys
import time
import warnings

THREADS = int(sys.argv[1])
os.environ["OMP_NUM_THREADS"] = str(THREADS)  # before torch is loaded
os.environ.setdefault("DS_ACCELERATOR", "cpu")
warnings.filterwarnings("ignore")

# Whatever the packages print (DeepSpeed's build does) goes to stderr; answers go to the real stdout.
ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)

import torch  # noqa: E402

torch.set_num_threads(THREADS)
SMALL = 1000  # elements of one of the many small tensors


def parameters(elements, length=None):
    """Parameters with gradients: one, or many of `length`."""
    count, length = (1, elements) if length is None else (elements // length, length)
    made = [torch.nn.Parameter(torch.randn(length)) for _ in range(count)]
    for parameter in made:
        parameter.grad = torch.randn(length)
    return made


def torch_adamw(elements, length=None, **options):
    return torch.optim.AdamW(parameters(elements, length), lr=1e-3, **options), f"torch {torch.__version__}"


def lion_pytorch(elements):
    from importlib.metadata import version

    from lion_pytorch import Lion

    return Lion(parameters(elements), lr=1e-4), f"lion-pytorch {version('lion-pytorch')}"


def deepspeed_cpu_adam(elements):
    import deepspeed
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    return DeepSpeedCPUAdam(parameters(elements), lr=1e-3), f"deepspeed {deepspeed.__version__}"


CONTENDERS = {
    "torch_adamw_fused": lambda n: torch_adamw(n, fused=True),
    "torch_adamw_default": lambda n: torch_adamw(n),
    "torch_adamw_foreach": lambda n: torch_adamw(n, foreach=True),
    "torch_adamw_fused_small": lambda n: torch_adamw(n, SMALL, fused=True),
    "lion_pytorch": lion_pytorch,
    "deepspeed_cpu_adam": deepspeed_cpu_adam,
}


def answer(words, opened):
    match words:
        case ["open", name, elements]:
            opened[name], version = CONTENDERS[name](int(elements))
            return f"ok {version}"
        case ["round", name]:
            step = opened[name].step
            start = time.perf_counter()
            step()
            return str(time.perf_counter() - start)
        case ["close", name]:
            del opened[name]
            return "ok"
    raise ValueError("expected open NAME ELEMENTS, round NAME or close NAME")


def main():
    opened = {}
    for line in sys.stdin:
        try:
            said = answer(line.split(), opened)
        except Exception as error:  # a peer that cannot be built is no reason to stop
            said = f"error {type(error).__name__}: {error}".replace("\n", " ")
        print(said, file=ANSWERS, flush=True)


main()

"""One step at a time of torch's, lion-pytorch's, dadaptation's and DeepSpeed's optimizers, on request.

usage: peers.py THREADS

The protocol, a line each way: `open NAME ELEMENTS` -> `ok VERSION`, `round NAME` -> seconds,
`close NAME` -> `ok`; `error ...` where something fails.
"""

import math
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


def shapes(layout, elements):
    """The tensors of a layout, as in fallline.rs."""
    side = math.isqrt(elements)
    return {
        "flat": lambda: [[elements]],
        "small": lambda: [[SMALL]] * (elements // SMALL),
        "matrix": lambda: [[side, side]],
        "square": lambda: [[side // 2, side // 2]] * 4,
        "long": lambda: [[side, side // 4]] * 4,
    }[layout]()


def parameters(elements, layout="flat"):
    """Parameters with gradients."""
    made = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes(layout, elements)]
    for parameter in made:
        parameter.grad = torch.randn(parameter.shape)
    return made


def torch_optimizer(kind, elements, layout="flat", **options):
    made = getattr(torch.optim, kind)(parameters(elements, layout), lr=1e-3, **options)
    return made, f"torch {torch.__version__}"


def torch_adamw(elements, layout="flat", **options):
    return torch_optimizer("AdamW", elements, layout, **options)


def dadapt_adam(elements):
    from importlib.metadata import version

    import dadaptation

    return dadaptation.DAdaptAdam(parameters(elements)), f"dadaptation {version('dadaptation')}"


def lion_pytorch(elements):
    from importlib.metadata import version

    from lion_pytorch import Lion

    return Lion(parameters(elements), lr=1e-4), f"lion-pytorch {version('lion-pytorch')}"


def deepspeed_cpu_adam(elements):
    import deepspeed
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    return DeepSpeedCPUAdam(parameters(elements), lr=1e-3), f"deepspeed {deepspeed.__version__}"


class Epilogue:
    """What comes after backward in the last iteration of a window, each with torch's fastest way."""

    def __init__(self, elements):
        self.params = parameters(elements)
        self.ema = [p.detach().clone() for p in self.params]
        self.new = [p.grad.clone() for p in self.params]
        self.optimizer = torch.optim.AdamW(self.params, lr=1e-3, fused=True)
        self.found, self.inverse = torch.zeros(1), torch.ones(1) / 1024

    def step(self):
        grads = [p.grad for p in self.params]
        with torch.no_grad():
            torch._foreach_add_(grads, self.new)  # autograd's accumulation
            torch._amp_foreach_non_finite_check_and_unscale_(grads, self.found, self.inverse)
            torch.nn.utils.clip_grad_norm_(self.params, 1.0, foreach=True)
            if not self.found.item():
                self.optimizer.step()
            torch._foreach_lerp_(self.ema, [p.detach() for p in self.params], 0.001)
            torch._foreach_zero_(grads)


CONTENDERS = {
    "torch_epilogue": lambda n: (Epilogue(n), f"torch {torch.__version__}"),
    "torch_adamw_fused": lambda n: torch_adamw(n, fused=True),
    "torch_adamw_default": lambda n: torch_adamw(n),
    "torch_adamw_foreach": lambda n: torch_adamw(n, foreach=True),
    "torch_adamw_fused_small": lambda n: torch_adamw(n, "small", fused=True),
    "torch_muon_square": lambda n: torch_optimizer("Muon", n, "square"),
    "torch_muon_long": lambda n: torch_optimizer("Muon", n, "long"),
    "torch_adafactor": lambda n: torch_optimizer("Adafactor", n, "matrix", foreach=False),
    "torch_adafactor_foreach": lambda n: torch_optimizer("Adafactor", n, "matrix", foreach=True),
    "dadapt_adam": dadapt_adam,
    "lion_pytorch": lion_pytorch,
    "deepspeed_cpu_adam": deepspeed_cpu_adam,
}


# One tensor after another, or all together: the faster one is what counts.
for kind in ["RMSprop", "NAdam", "RAdam", "Adamax", "Adadelta"]:
    for how in [False, True]:
        name = f"torch_{kind.lower()}" + ("_foreach" if how else "")
        CONTENDERS[name] = lambda n, kind=kind, how=how: torch_optimizer(kind, n, foreach=how)


def answer(words, opened):
    match words:
        case ["open", name, elements]:
            opened[name], version = CONTENDERS[name](int(elements))
            return f"ok {version}"
        case ["round", name]:
            step = opened[name].step
            step()  # not timed: it wakes the threads, as in protocol.rs
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

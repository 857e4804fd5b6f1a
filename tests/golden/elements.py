"""The optimizers that step each parameter by itself: one entry each.

An entry is a rule in numpy, with the name, the source and the cases in front of it (`table.optimizer`): it has no other place.
`generate.py NAME` then runs the source and writes what it gives; `generate.py --check` runs the rule and compares. Where there
is no source to run, the rule's own values are written.

    @optimizer("Name", Source("package.Class", "package", {"exp_avg": "m"}), {"default": dict(), "decay": dict(lr=0.01)})
    def name(p, g, s, t, lr=1e-3, …):

The rule returns the new parameter. `p` is the parameter, `g` its gradient, `s` its states by name, empty at first, and `t`
counts its gradients from 1. It may look at all elements of the parameter (norms).
"""

import numpy as np

from table import CASES, RULES, SOURCES, Source, optimizer

SINGLE_TENSOR = dict(foreach=False, fused=False)
MOMENTS = {"exp_avg": "m", "exp_avg_sq": "v", "max_exp_avg_sq": "v_max"}
FOREACH = dict(foreach=False)
F64 = ("f64",)


@optimizer(
    "SGD",
    Source("torch.optim.SGD", "torch", {"momentum_buffer": "momentum"}, SINGLE_TENSOR),
    {
        "default": dict(),
        "lr": dict(lr=0.05),
        "decay": dict(lr=0.05, weight_decay=0.1),
        "momentum": dict(lr=0.01, momentum=0.9),
        "momentum-decay": dict(lr=0.01, momentum=0.8, weight_decay=0.1),
        "dampening": dict(lr=0.01, momentum=0.9, dampening=0.3),
        "dampening-decay-maximize": dict(lr=0.02, momentum=0.7, dampening=0.9, weight_decay=0.05, maximize=True),
        "nesterov": dict(lr=0.01, momentum=0.9, nesterov=True),
        "nesterov-decay-maximize": dict(lr=0.01, momentum=0.95, weight_decay=0.2, nesterov=True, maximize=True),
        "maximize": dict(lr=0.03, maximize=True),
    },
)
def sgd(p, g, s, t, lr=1e-3, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, maximize=False):
    g = (-g if maximize else g) + weight_decay * p
    if momentum:
        s["momentum"] = momentum * s["momentum"] + (1 - dampening) * g if t > 1 else g
        g = g + momentum * s["momentum"] if nesterov else s["momentum"]
    return p - lr * g


@optimizer(
    "Adam",
    Source("torch.optim.Adam", "torch", MOMENTS, SINGLE_TENSOR),
    {
        "default": dict(),
        "betas-eps": dict(lr=0.01, betas=(0.8, 0.95), eps=1e-3),
        "low-betas": dict(lr=0.01, betas=(0.3, 0.7)),
        "decay": dict(lr=0.01, weight_decay=0.1),
        "amsgrad": dict(lr=0.01, betas=(0.9, 0.9), amsgrad=True),
        "maximize": dict(lr=0.01, maximize=True),
        "amsgrad-decay-maximize": dict(
            lr=0.02, betas=(0.85, 0.8), eps=1e-5, weight_decay=0.05, amsgrad=True, maximize=True
        ),
        "decoupled": dict(lr=0.01, weight_decay=0.1, decoupled_weight_decay=True),
        "decoupled-amsgrad": dict(
            lr=0.02, betas=(0.9, 0.8), weight_decay=0.3, amsgrad=True, decoupled_weight_decay=True
        ),
    },
)
def adam(
    p,
    g,
    s,
    t,
    lr=1e-3,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    amsgrad=False,
    maximize=False,
    decoupled_weight_decay=False,
):
    g = -g if maximize else g
    if decoupled_weight_decay:
        p = p - lr * weight_decay * p
    else:
        g = g + weight_decay * p
    s["m"] = betas[0] * s.get("m", 0.0) + (1 - betas[0]) * g
    s["v"] = v = betas[1] * s.get("v", 0.0) + (1 - betas[1]) * g**2
    if amsgrad:
        s["v_max"] = v = np.maximum(s.get("v_max", 0.0), v)
    m_hat = s["m"] / (1 - betas[0] ** t)
    v_hat = v / (1 - betas[1] ** t)
    return p - lr * m_hat / (np.sqrt(v_hat) + eps)


@optimizer(
    "AdamW",
    Source("torch.optim.AdamW", "torch", MOMENTS, SINGLE_TENSOR),
    {
        "default": dict(),
        "decay-betas": dict(lr=0.01, betas=(0.85, 0.97), weight_decay=0.3),
        "eps": dict(lr=0.01, eps=1e-3, weight_decay=0.05),
        "amsgrad": dict(lr=0.01, betas=(0.9, 0.9), amsgrad=True),
        "amsgrad-maximize": dict(lr=0.02, betas=(0.8, 0.85), eps=1e-6, amsgrad=True, maximize=True),
        "maximize": dict(lr=0.01, weight_decay=0.1, maximize=True),
        "no-decay": dict(lr=0.01, weight_decay=0.0),
    },
)
def adamw(p, g, s, t, weight_decay=1e-2, **options):
    return adam(p, g, s, t, weight_decay=weight_decay, decoupled_weight_decay=True, **options)


@optimizer(
    "Lion",
    Source("lion_pytorch.Lion", "lion-pytorch", {"exp_avg": "m"}),
    {
        "default": dict(),
        "decay": dict(lr=0.01, weight_decay=0.1),
        "betas": dict(lr=0.003, betas=(0.95, 0.98)),
        "betas-decay": dict(lr=0.02, betas=(0.6, 0.8), weight_decay=1.0),
        "decoupled": dict(lr=0.01, weight_decay=0.05, decoupled_weight_decay=True),
        "decoupled-betas": dict(lr=0.002, betas=(0.8, 0.95), weight_decay=0.01, decoupled_weight_decay=True),
    },
)
def lion(p, g, s, t, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, decoupled_weight_decay=False):
    m = s.get("m", np.zeros_like(g))
    old, new = betas[0] * m, (1 - betas[0]) * g
    # A sum this close to zero would make the sign, and so the golden value, a matter of rounding.
    near = np.abs(old + new) < 1e-5 * (np.abs(old) + np.abs(new))
    assert not near.any(), "Lion: a step whose sign hangs on rounding; choose another seed or other betas"
    decay = weight_decay if decoupled_weight_decay else lr * weight_decay
    s["m"] = betas[1] * m + (1 - betas[1]) * g
    return (1 - decay) * p - lr * np.sign(old + new)


@optimizer(
    "Adagrad",
    Source("torch.optim.Adagrad", "torch", {"sum": "sum"}, SINGLE_TENSOR),
    {
        "default": dict(),
        "lr-decay": dict(lr=0.05, lr_decay=0.3, eps=1e-6),
        "start": dict(lr=0.05, initial_accumulator_value=0.5, eps=1e-3),
        "decay-maximize": dict(lr=0.1, lr_decay=0.05, weight_decay=0.1, initial_accumulator_value=0.01, maximize=True),
        "decay": dict(lr=0.02, weight_decay=0.3, maximize=True),
    },
)
def adagrad(p, g, s, t, lr=1e-2, lr_decay=0, weight_decay=0, initial_accumulator_value=0, eps=1e-10, maximize=False):
    g = (-g if maximize else g) + weight_decay * p
    s["sum"] = s.get("sum", initial_accumulator_value) + g**2
    return p - lr / (1 + (t - 1) * lr_decay) * g / (np.sqrt(s["sum"]) + eps)


@optimizer(
    "Adadelta",
    Source("torch.optim.Adadelta", "torch", {"square_avg": "v", "acc_delta": "u"}, FOREACH),
    {
        "default": dict(),
        "rho-eps": dict(lr=0.5, rho=0.6, eps=1e-3),
        "decay": dict(rho=0.95, weight_decay=0.1, maximize=True),
        "decay-maximize": dict(lr=2.0, rho=0.8, eps=1e-8, weight_decay=0.02, maximize=True),
    },
)
def adadelta(p, g, s, t, lr=1.0, rho=0.9, eps=1e-6, weight_decay=0, maximize=False):
    g = (-g if maximize else g) + weight_decay * p
    s["v"] = rho * s.get("v", 0.0) + (1 - rho) * g**2
    delta = np.sqrt((s.get("u", 0.0) + eps) / (s["v"] + eps)) * g
    s["u"] = rho * s.get("u", 0.0) + (1 - rho) * delta**2
    return p - lr * delta


@optimizer(
    "RMSprop",
    Source(
        "torch.optim.RMSprop",
        "torch",
        {"square_avg": "v", "grad_avg": "mean", "momentum_buffer": "momentum"},
        FOREACH,
    ),
    {
        "default": dict(),
        "alpha-eps": dict(lr=0.003, alpha=0.7, eps=1e-3),
        "momentum": dict(lr=0.003, alpha=0.9, momentum=0.8, weight_decay=0.1),
        "centered": dict(lr=0.003, centered=True, eps=1e-5, weight_decay=0.2, maximize=True),
        "centered-momentum": dict(lr=0.002, alpha=0.8, momentum=0.5, centered=True),
        "maximize": dict(lr=0.01, alpha=0.95, maximize=True),
    },
)
def rmsprop(
    p, g, s, t, lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0, momentum=0, centered=False, maximize=False
):
    g = (-g if maximize else g) + weight_decay * p
    s["v"] = alpha * s.get("v", 0.0) + (1 - alpha) * g**2
    variance = s["v"]
    if centered:
        s["mean"] = alpha * s.get("mean", 0.0) + (1 - alpha) * g
        variance = variance - s["mean"] ** 2
    direction = g / (np.sqrt(variance) + eps)
    if momentum:
        s["momentum"] = direction = momentum * s.get("momentum", 0.0) + direction
    return p - lr * direction


@optimizer(
    "RAdam",
    Source("torch.optim.RAdam", "torch", MOMENTS, FOREACH),
    {
        "default": dict(),
        "betas-eps": dict(lr=0.01, betas=(0.7, 0.99), eps=1e-3),
        "never": dict(lr=0.01, betas=(0.6, 0.6)),
        "decay": dict(lr=0.01, weight_decay=0.1, maximize=True),
        "decoupled": dict(lr=0.02, betas=(0.8, 0.95), weight_decay=0.3, decoupled_weight_decay=True),
        "decoupled-maximize": dict(lr=0.01, eps=1e-5, weight_decay=0.1, decoupled_weight_decay=True, maximize=True),
    },
)
def radam(
    p,
    g,
    s,
    t,
    lr=1e-3,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0,
    decoupled_weight_decay=False,
    maximize=False,
):
    g = -g if maximize else g
    if decoupled_weight_decay:
        p = p - lr * weight_decay * p
    else:
        g = g + weight_decay * p
    s["m"] = betas[0] * s.get("m", 0.0) + (1 - betas[0]) * g
    s["v"] = betas[1] * s.get("v", 0.0) + (1 - betas[1]) * g**2
    m_hat = s["m"] / (1 - betas[0] ** t)
    most = 2 / (1 - betas[1]) - 1
    rho = most - 2 * t * betas[1] ** t / (1 - betas[1] ** t)
    if rho <= 5:
        return p - lr * m_hat
    rect = np.sqrt((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho))
    return p - lr * m_hat * rect * np.sqrt(1 - betas[1] ** t) / (np.sqrt(s["v"]) + eps)


@optimizer(
    "NAdam",
    Source("torch.optim.NAdam", "torch", {**MOMENTS, "mu_product": None}, FOREACH),
    {
        "default": dict(),
        "betas-eps": dict(lr=0.01, betas=(0.7, 0.97), eps=1e-3, momentum_decay=0.2),
        "decay": dict(lr=0.01, weight_decay=0.1, momentum_decay=0.0, maximize=True),
        "decoupled": dict(lr=0.02, betas=(0.95, 0.9), weight_decay=0.3, decoupled_weight_decay=True),
        "decoupled-maximize": dict(lr=0.01, eps=1e-5, weight_decay=0.1, decoupled_weight_decay=True, maximize=True),
    },
)
def nadam(
    p,
    g,
    s,
    t,
    lr=2e-3,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0,
    momentum_decay=4e-3,
    decoupled_weight_decay=False,
    maximize=False,
):
    g = -g if maximize else g
    if decoupled_weight_decay:
        p = p - lr * weight_decay * p
    else:
        g = g + weight_decay * p
    mu = [betas[0] * (1 - 0.5 * 0.96 ** (k * momentum_decay)) for k in range(t + 2)]
    product = np.float32(1)
    for k in range(1, t + 1):  # torch keeps the product in f32
        product = product * np.float32(mu[k])
    product = float(product)
    s["m"] = betas[0] * s.get("m", 0.0) + (1 - betas[0]) * g
    s["v"] = betas[1] * s.get("v", 0.0) + (1 - betas[1]) * g**2
    m_hat = mu[t + 1] * s["m"] / (1 - product * mu[t + 1]) + (1 - mu[t]) * g / (1 - product)
    return p - lr * m_hat / (np.sqrt(s["v"] / (1 - betas[1] ** t)) + eps)


@optimizer(
    "Adamax",
    Source("torch.optim.Adamax", "torch", {"exp_avg": "m", "exp_inf": "u"}, FOREACH),
    {
        "default": dict(),
        "betas-eps": dict(lr=0.01, betas=(0.7, 0.9), eps=1e-3),
        "decay": dict(lr=0.01, betas=(0.9, 0.8), weight_decay=0.1, maximize=True),
        "decay-maximize": dict(lr=0.02, eps=1e-6, weight_decay=0.3, maximize=True),
    },
)
def adamax(p, g, s, t, lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, maximize=False):
    g = (-g if maximize else g) + weight_decay * p
    s["m"] = betas[0] * s.get("m", 0.0) + (1 - betas[0]) * g
    s["u"] = np.maximum(betas[1] * s.get("u", 0.0), np.abs(g) + eps)
    return p - lr / (1 - betas[0] ** t) * s["m"] / s["u"]


@optimizer(
    "ASGD",
    Source("torch.optim.ASGD", "torch", {"ax": "ax", "eta": None, "mu": None}, FOREACH),
    {
        "default": dict(),
        "averaging": dict(lr=0.05, lambd=0.1, t0=3.0),
        "fast": dict(lr=0.02, lambd=0.5, alpha=0.3, t0=0.0, weight_decay=0.1),
        "decay-maximize": dict(lr=0.01, alpha=1.5, t0=6.0, weight_decay=0.3, maximize=True),
    },
)
def asgd(p, g, s, t, lr=1e-2, lambd=1e-4, alpha=0.75, t0=1e6, weight_decay=0, maximize=False):
    g = (-g if maximize else g) + weight_decay * p
    # torch keeps both in f32.
    eta = float(np.float32(lr / (1 + lambd * lr * (t - 1)) ** alpha))
    mu = float(np.float32(1 / max(1, t - 1 - t0)))
    p = (1 - lambd * eta) * p - eta * g
    s["ax"] = s.get("ax", 0.0) + (p - s.get("ax", 0.0)) * mu
    return p


@optimizer(
    "Rprop",
    Source("torch.optim.Rprop", "torch", {"prev": "prev", "step_size": "step_size"}, FOREACH),
    {
        "default": dict(),
        "etas": dict(lr=0.1, etas=(0.3, 1.5)),
        "sizes": dict(lr=0.02, step_sizes=(1e-2, 4e-2), maximize=True),
        "etas-sizes-maximize": dict(lr=0.005, etas=(0.8, 2.0), step_sizes=(1e-3, 0.1), maximize=True),
    },
)
def rprop(p, g, s, t, lr=1e-2, etas=(0.5, 1.2), step_sizes=(1e-6, 50), maximize=False):
    g = -g if maximize else g
    agreement = np.sign(g * s.get("prev", 0.0))
    factor = np.where(agreement > 0, etas[1], np.where(agreement < 0, etas[0], 1.0))
    s["step_size"] = np.clip(s.get("step_size", lr) * factor, *step_sizes)
    s["prev"] = np.where(agreement < 0, 0.0, g)
    return p - np.sign(s["prev"]) * s["step_size"]


@optimizer(
    "SophiaG",
    Source("sophia_opt.SophiaG", "sophia-opt", {"exp_avg": "m", "hessian": "hessian"}, step=("bs",)),
    {
        "default": dict(),
        "hessian": dict(lr=0.01, bs=64),
        "hessian-betas": dict(lr=0.02, betas=(0.8, 0.7), rho=0.2, weight_decay=0.3, bs=10, maximize=True),
        "rho-maximize": dict(lr=0.003, betas=(0.9, 0.95), rho=0.01, weight_decay=0.0, maximize=True),
    },
)
def sophia(p, g, s, t, lr=1e-4, betas=(0.965, 0.99), rho=0.04, weight_decay=1e-1, maximize=False, bs=5120):
    sign = -1 if maximize else 1
    old, new = betas[0] * s.get("m", 0.0), (1 - betas[0]) * g * sign
    near = np.abs(old + new) < 1e-5 * (np.abs(old) + np.abs(new))
    assert not near.any(), "SophiaG: a step whose sign hangs on rounding"
    s["m"] = old + new
    h = s.setdefault("hessian", np.zeros_like(g))
    ratio = np.minimum(np.abs(s["m"]) / (rho * bs * h + 1e-15), 1)
    return (1 - lr * weight_decay) * p - lr * np.sign(s["m"]) * ratio


@optimizer(
    "DeepSpeedCPUAdam",
    Source("deepspeed.ops.adam.DeepSpeedCPUAdam", "deepspeed", MOMENTS, transcribed=F64),
    {
        "default": dict(),
        "decoupled": dict(lr=0.01, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1),
        "l2": dict(lr=0.01, adamw_mode=False, weight_decay=0.3),
        "uncorrected": dict(lr=0.01, bias_correction=False, betas=(0.7, 0.9), weight_decay=0.2),
        "l2-uncorrected": dict(lr=0.02, bias_correction=False, eps=1e-4, adamw_mode=False, weight_decay=0.05),
    },
)
def deepspeed_adam(
    p, g, s, t, lr=1e-3, bias_correction=True, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, adamw_mode=True
):
    p_decayed = p - lr * weight_decay * p if adamw_mode else p
    g = g if adamw_mode else g + weight_decay * p
    s["m"] = betas[0] * s.get("m", 0.0) + (1 - betas[0]) * g
    s["v"] = betas[1] * s.get("v", 0.0) + (1 - betas[1]) * g**2
    c1, c2 = (1 - betas[0] ** t, 1 - betas[1] ** t) if bias_correction else (1, 1)
    return p_decayed - lr * (s["m"] / c1) / (np.sqrt(s["v"] / c2) + eps)


@optimizer(
    "FusedAdam",
    Source("deepspeed.ops.adam.FusedAdam", "deepspeed", {}, transcribed=("f32", "f64")),
    {
        "default": dict(),
        "decoupled": dict(lr=0.01, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1),
        "l2": dict(lr=0.01, adam_w_mode=False, weight_decay=0.3),
        "uncorrected": dict(lr=0.01, bias_correction=False, betas=(0.7, 0.9), weight_decay=0.2),
        "l2-uncorrected": dict(lr=0.02, bias_correction=False, eps=1e-4, adam_w_mode=False, weight_decay=0.05),
    },
)
def fused_adam(p, g, s, t, adam_w_mode=True, **options):
    return deepspeed_adam(p, g, s, t, adamw_mode=adam_w_mode, **options)


def fused_adam_kernel(
    p, g, s, t, lr=1e-3, bias_correction=True, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, adam_w_mode=True
):
    """The arithmetic of csrc/adam/multi_tensor_adam.cu, operation by operation, in the type of the parameter.

    There all of it is `float`, but for the power, which C++ computes in `double`.
    """
    real = p.dtype.type
    lr, beta1, beta2, epsilon, decay = (real(x) for x in (lr, *betas, eps, weight_decay))
    correction1 = real(1 - float(beta1) ** t) if bias_correction else real(1)
    correction2 = real(1 - float(beta2) ** t) if bias_correction else real(1)
    m, v = s.get("m", np.zeros_like(p)), s.get("v", np.zeros_like(p))
    if not adam_w_mode:
        g = g + decay * p
    s["m"] = m = beta1 * m + (real(1) - beta1) * g
    s["v"] = v = beta2 * v + (real(1) - beta2) * g * g
    update = (m / correction1) / (np.sqrt(v / correction2) + epsilon)
    if adam_w_mode:
        update = update + decay * p
    return p - lr * update


def bnb_adam(p, g, s, t, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, amsgrad=False):
    s["m"] = betas[0] * s.get("m", 0.0) + (1 - betas[0]) * g
    s["v"] = betas[1] * s.get("v", 0.0) + (1 - betas[1]) * g**2
    c1, c2 = 1 - betas[0] ** t, np.sqrt(1 - betas[1] ** t)
    return (1 - lr * weight_decay) * p - lr * c2 / c1 * s["m"] / (np.sqrt(s["v"]) + eps * c2)


def bnb_adamw(p, g, s, t, weight_decay=1e-2, **options):
    return bnb_adam(p, g, s, t, weight_decay=weight_decay, **options)


def bnb_lion(p, g, s, t, **options):
    return lion(p, g, s, t, **options)


def bnb_rmsprop(p, g, s, t, momentum=0, **options):
    return rmsprop(p, g, s, t, **options)


def bnb_sgd(p, g, s, t, lr=1e-3, momentum=0.9, weight_decay=0, dampening=0, nesterov=False):
    return sgd(p, g, s, t, lr=lr, momentum=momentum, weight_decay=weight_decay)


def ademamix(
    p,
    g,
    s,
    t,
    lr=1e-3,
    betas=(0.9, 0.999, 0.9999),
    alpha=5.0,
    t_alpha=None,
    t_beta3=None,
    eps=1e-8,
    weight_decay=1e-2,
):
    beta1, beta2, beta3 = betas
    if t_alpha:
        alpha = min(t * alpha / t_alpha, alpha)
    if t_beta3:
        share, log1, log3 = t / t_beta3, np.log(beta1), np.log(beta3)
        beta3 = min(np.exp(log1 * log3 / ((1 - share) * log3 + share * log1)), beta3)
    s["m"] = beta1 * s.get("m", 0.0) + (1 - beta1) * g
    s["m_slow"] = beta3 * s.get("m_slow", 0.0) + (1 - beta3) * g
    s["v"] = beta2 * s.get("v", 0.0) + (1 - beta2) * g**2
    root = np.sqrt(s["v"]) / np.sqrt(1 - beta2**t)
    return (1 - lr * weight_decay) * p - lr * (s["m"] / (1 - beta1**t) + alpha * s["m_slow"]) / (root + eps)


# ---------------------------------------------------------------------------------------------------------------------
# bitsandbytes: several names for one rule

BITSANDBYTES = {  # name there -> names here, and the states
    "Adam": (("bnb_Adam",), {"state1": "m", "state2": "v"}),
    "AdamW": (("bnb_AdamW",), {"state1": "m", "state2": "v"}),
    "Adagrad": (("bnb_Adagrad",), {"state1": "sum"}),
    "Lion": (("bnb_Lion",), {"state1": "m"}),
    "RMSprop": (("bnb_RMSprop",), {"state1": "v"}),
    "SGD": (("bnb_SGD",), {"state1": "momentum"}),
    "Adam32bit": (("Adam32bit",), {"state1": "m", "state2": "v"}),
    "AdamW32bit": (("AdamW32bit",), {"state1": "m", "state2": "v"}),
    "Adagrad32bit": (("Adagrad32bit",), {"state1": "sum"}),
    "Lion32bit": (("Lion32bit",), {"state1": "m"}),
    "RMSprop32bit": (("RMSprop32bit",), {"state1": "v"}),
    "SGD32bit": (("SGD32bit",), {"state1": "momentum"}),
    # AdEMAMix32bit of 0.50.2 has too small a state and does not run: its documentation means this.
    "AdEMAMix": (("AdEMAMix", "AdEMAMix32bit"), {"state1": ("m", "m_slow"), "state2": "v"}),
}
for there, (here, states) in BITSANDBYTES.items():
    # SGD of bitsandbytes has no default lr and refuses its default momentum.
    fixed = dict(lr=1e-3, momentum=0.9) if there.startswith("SGD") else {}
    for name in here:
        SOURCES[name] = Source(f"bitsandbytes.optim.{there}", "bitsandbytes", states, fixed, transcribed=F64)

BNB_ADAM = {
    "default": dict(),
    "betas-eps": dict(lr=0.01, betas=(0.8, 0.95), eps=1e-3),
    "decay": dict(lr=0.02, betas=(0.7, 0.9), eps=1e-5, weight_decay=0.3, amsgrad=True),
}
BNB_CASES = {
    "Adam": BNB_ADAM,
    "AdamW": BNB_ADAM,
    "Adagrad": {
        "default": dict(),
        "eps": dict(lr=0.1, eps=1e-3),
        "decay": dict(lr=0.05, eps=1e-6, weight_decay=0.1),
    },
    "Lion": {
        "default": dict(),
        "betas": dict(lr=0.003, betas=(0.95, 0.98)),
        "decay": dict(lr=0.02, betas=(0.6, 0.8), weight_decay=1.0),
    },
    "RMSprop": {
        "default": dict(),
        "alpha-eps": dict(lr=0.003, alpha=0.7, eps=1e-3),
        "decay": dict(lr=0.002, alpha=0.9, eps=1e-5, weight_decay=0.1, momentum=0.9),
    },
    "SGD": {
        "default": dict(),
        "momentum": dict(lr=0.05, momentum=0.5),
        "decay": dict(lr=0.01, momentum=0.8, weight_decay=0.1, dampening=0.5, nesterov=True),
    },
}
for name, table in BNB_CASES.items():
    CASES[f"bnb_{name}"] = CASES[f"{name}32bit"] = table
CASES["AdEMAMix"] = {
    "default": dict(),
    "betas": dict(lr=0.01, betas=(0.8, 0.95, 0.99), alpha=2.0, eps=1e-3, weight_decay=0.1),
    "schedules": dict(lr=0.01, t_alpha=10, t_beta3=12, weight_decay=0.0),
    "alpha-schedule": dict(lr=0.005, betas=(0.7, 0.9, 0.999), alpha=8.0, t_alpha=20, eps=1e-5),
    "beta3-schedule": dict(lr=0.005, betas=(0.6, 0.99, 0.9), alpha=3.0, t_beta3=40, weight_decay=0.3),
}
CASES["AdEMAMix32bit"] = {case: CASES["AdEMAMix"][case] for case in ("default", "betas", "schedules")}
RULES["AdEMAMix"] = RULES["AdEMAMix32bit"] = ademamix
for name, rule in {
    "Adam": bnb_adam,
    "AdamW": bnb_adamw,
    "Adagrad": adagrad,
    "Lion": bnb_lion,
    "RMSprop": bnb_rmsprop,
    "SGD": bnb_sgd,
}.items():
    RULES[f"bnb_{name}"] = RULES[f"{name}32bit"] = rule

# Every how many steps the gradient of a step is also handed to `update_hessian` after it.
HESSIAN_EVERY = {("SophiaG", "hessian"): 3, ("SophiaG", "hessian-betas"): 2}

# Literal ones, where the source does not run here in any type.
TRANSCRIPTIONS = {"FusedAdam": fused_adam_kernel}

# Sources that compute 1 - beta and 1 - beta^t in f32: with beta = 0.999 each is off by up to 2^-24 / 0.001 = 6e-5 of
# itself, where the tolerance in f32 is 7.6e-6.
LOOSE = {("FusedAdam", "f32"): 16, ("DeepSpeedCPUAdam", "f32"): 16}

#!/usr/bin/env python3
"""Write converted/: files of torch.save of each optimizer in the middle of a run, and where the run ends.

    python converted.py             write the folder
    python converted.py NAME…       write the files of these names, and their part of expected.safetensors
    python converted.py --resume FILE NAME
                                    load FILE (the state of optimizer NAME as fallline writes it) into the source's own
                                    class, end the run, and compare with what the source gives by itself

What is in a file is described in README.md.
"""

import argparse
import collections
import pathlib
import sys

import numpy as np
import safetensors.numpy
import torch

import generate
import norms

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE / "converted"
SAVED, STEPS = 3, 5
# In the order of the model. `late` has no gradient before the file is saved.
SHAPES = {"body.weight": (4, 3), "body.bias": (4,), "head.weight": (2, 4), "scale": (), "late": (3,)}
MATRICES = ("body.weight", "head.weight")

# As many states as there can be; what the first group has of its own.
OPTIONS = {
    "SGD": dict(lr=0.05, momentum=0.9, dampening=0.3),
    "Adam": dict(lr=0.01, amsgrad=True, betas=(0.8, 0.95)),
    "AdamW": dict(lr=0.01, amsgrad=True, weight_decay=0.1),
    "Adagrad": dict(lr=0.05, lr_decay=0.1, initial_accumulator_value=0.2),
    "Adadelta": dict(lr=0.5, rho=0.8),
    "RMSprop": dict(lr=0.01, momentum=0.5, centered=True),
    "RAdam": dict(lr=0.01, betas=(0.8, 0.9)),
    "NAdam": dict(lr=0.01, momentum_decay=0.1),
    "Adamax": dict(lr=0.01),
    "ASGD": dict(lr=0.05, lambd=0.1, t0=2.0),
    "Rprop": dict(lr=0.02),
    "Lion": dict(lr=0.01),
    "SophiaG": dict(lr=0.01),
    "LAMB": dict(lr=0.01),
    "LAMB32bit": dict(lr=0.01, max_unorm=0.3),
    "LARS": dict(lr=0.05, momentum=0.8),
    "LARS32bit": dict(lr=0.05, momentum=0.8),
    "PytorchLARS": dict(lr=0.05, momentum=0.9, nesterov=True),
    "AdEMAMix": dict(lr=0.01, alpha=3.0, t_alpha=10, t_beta3=10),
    "DAdaptAdam": dict(d0=1e-3, growth_rate=1.5),
    "DAdaptSGD": dict(d0=1e-3, growth_rate=1.5, momentum=0.5),
    "DAdaptAdaGrad": dict(d0=1e-3, growth_rate=1.5, momentum=0.5),
    "AdamWScheduleFree": dict(lr=0.02, betas=(0.8, 0.95), warmup_steps=2, r=1.0),
    "TorchAdafactor": dict(lr=0.05),
    "Adafactor": dict(lr=0.02, relative_step=False, beta1=0.9),
    "Muon": dict(lr=0.02),
    "LBFGS": dict(lr=0.5, max_iter=2, history_size=3),
    "FusedAdam": dict(lr=0.01, betas=(0.8, 0.95)),
    "DeepSpeedCPUAdam": dict(lr=0.01, betas=(0.8, 0.95)),
    "FusedLamb": dict(lr=0.01, max_coeff=2.0),
}
MORE = {  # sources without golden values of their own
    "AdamWScheduleFree": generate.Source("schedulefree.AdamWScheduleFree", "schedulefree", {}),
    "TorchAdafactor": generate.Source("torch.optim.Adafactor", "torch", {}),
    "Adafactor": generate.Source("transformers.optimization.Adafactor", "transformers", {}),
    "Muon": generate.Source("torch.optim.Muon", "torch", {}),
    "LBFGS": generate.Source("torch.optim.LBFGS", "torch", {}),
}
# DeepSpeed's ops are not built here: their states are those of the rules that its golden values are checked by.
BY_RULE = {
    "FusedAdam": dict(bias_correction=True, eps=1e-8),
    "DeepSpeedCPUAdam": dict(bias_correction=True, eps=1e-8),
    "FusedLamb": dict(bias_correction=True, eps=1e-8, max_grad_norm=0.0, min_coeff=0.01),
}
# Sources without an entry above are not taken over, or are bitsandbytes', whose options are those of its golden values.
SOURCES = {
    name: source
    for name, source in generate.SOURCES.items()
    if name in OPTIONS or source.package == "bitsandbytes"
} | MORE


def trace():
    random = np.random.RandomState(7)
    tensors = {f"param/{name}": random.standard_normal(shape) for name, shape in SHAPES.items()}
    for t in range(STEPS):
        for name, shape in SHAPES.items():
            if name != "late" or t >= SAVED:
                tensors[f"grad/{t}/{name}"] = random.standard_normal(shape)
    return {key: np.asarray(value, np.float32) for key, value in tensors.items()}


def groups(name, params, options):
    """Two groups, of matrices and of the rest, with a decay and a learning rate of their own."""
    first = [params[key] for key in MATRICES]
    if name == "Muon":
        return [dict(params=first)]
    if name == "LBFGS":
        return [dict(params=list(params.values()))]
    second = [value for key, value in params.items() if key not in MATRICES]
    rate = {} if name.startswith("DAdapt") else dict(lr=options["lr"] / 2)
    decay = {} if name == "Rprop" else dict(weight_decay=0.2)
    return [dict(params=first, **decay), dict(params=second, **rate)]


def options_of(name):
    fixed = SOURCES[name].fixed
    options = OPTIONS.get(name)
    if options is None:
        bnb = generate.BNB_CASES.get(name.removeprefix("bnb_").removesuffix("32bit"))
        options = dict(list(bnb.values())[1]) if bnb else OPTIONS["AdEMAMix"]
        options.setdefault("lr", 0.01)
    return {**fixed, **options}


def build(name, params):
    options = options_of(name)
    optimizer = SOURCES[name].load()(groups(name, params, options), **options)
    if hasattr(optimizer, "train"):
        optimizer.train()
    return optimizer


def objective(optimizer, params, tensors):
    """A bowl for LBFGS, around the first gradients, that is no parabola: with w = 1, 2, … for the elements of each
    parameter, the sum of w x^2 / 2 + x^4 / 10."""

    def closure():
        optimizer.zero_grad()
        loss = 0
        for key, param in params.items():
            x = (param - torch.from_numpy(np.array(tensors.get(f"grad/0/{key}", np.float32(0))))).flatten()
            loss = loss + (torch.arange(1, x.numel() + 1) * x**2 / 2 + x**4 / 10).sum()
        loss.backward()
        return loss

    return closure


def steps(name, optimizer, params, tensors, times):
    if name == "LBFGS":
        for _ in times:
            optimizer.step(objective(optimizer, params, tensors))
        return
    of_step = dict(bs=64) if name == "SophiaG" else {}
    for t in times:
        for key, param in params.items():
            grad = tensors.get(f"grad/{t}/{key}")
            param.grad = None if grad is None else torch.from_numpy(np.array(grad))
        optimizer.step(**of_step)


def by_rule(name, tensors):
    """What DeepSpeed's classes would save and end with."""
    options = options_of(name)
    rule = norms.ONE_BY_ONE.get(name) or generate.RULES[name]
    model, state, expected, index = collections.OrderedDict(), {}, {}, {}
    order = [key for key in SHAPES if key in MATRICES] + [key for key in SHAPES if key not in MATRICES]
    for key in SHAPES:
        p, s, t = tensors[f"param/{key}"].astype(np.float64), {}, 0
        own = dict(options, weight_decay=0.2) if key in MATRICES else dict(options, lr=options["lr"] / 2)
        for step in range(STEPS):
            g = tensors.get(f"grad/{step}/{key}")
            if g is not None:
                t += 1
                g = g.astype(np.float64)
                p = rule(p, g, s, t, {key: g}, **own) if name == "FusedLamb" else rule(p, g, s, t, **own)
            if step == SAVED - 1:
                # From here on in what the file can hold.
                p = np.asarray(p, np.float32).astype(np.float64)
                s = {k: np.asarray(v, np.float32).astype(np.float64) for k, v in s.items()}
                model[key] = torch.from_numpy(np.array(p, np.float32))
                if t:
                    m, v = (torch.from_numpy(np.array(s[k], np.float32)) for k in "mv")
                    index[order.index(key)] = dict(step=t, exp_avg=m, exp_avg_sq=v)
        expected[key] = np.asarray(p, np.float32)
    state = {i: index[i] for i in sorted(index)}
    keys = dict(lr=options["lr"], bias_correction=True, betas=options["betas"] if "betas" in options else (0.9, 0.999))
    keys |= dict(eps=1e-8, weight_decay=0.0)
    if name == "DeepSpeedCPUAdam":
        keys |= dict(amsgrad=False)
    if name == "FusedLamb":
        keys |= dict(max_grad_norm=0.0, max_coeff=options["max_coeff"], min_coeff=0.01)
    both = [dict(keys, weight_decay=0.2, params=[0, 1]), dict(keys, lr=options["lr"] / 2, params=[2, 3, 4])]
    return model, dict(state=state, param_groups=both), expected


def run(name, tensors):
    if name in BY_RULE:
        return by_rule(name, tensors)
    params = {key: torch.nn.Parameter(torch.from_numpy(tensors[f"param/{key}"].copy())) for key in SHAPES}
    optimizer = build(name, params)
    steps(name, optimizer, params, tensors, range(SAVED))
    model = collections.OrderedDict((key, value.detach().clone()) for key, value in params.items())
    saved = __import__("copy").deepcopy(optimizer.state_dict())
    steps(name, optimizer, params, tensors, range(SAVED, STEPS))
    return model, saved, {key: value.detach().numpy().copy() for key, value in params.items()}


def mmengine():
    """What MMEngine's runner saves: groups of one parameter each, buffers, a message hub with classes of its own."""
    from mmengine.logging import MessageHub
    from mmengine.optim import build_optim_wrapper

    torch.manual_seed(3)
    model = torch.nn.Sequential(collections.OrderedDict(conv=torch.nn.Conv2d(1, 2, 2), bn=torch.nn.BatchNorm2d(2)))
    wrapper = build_optim_wrapper(
        model,
        dict(
            type="OptimWrapper",
            optimizer=dict(type="AdamW", lr=0.01, weight_decay=0.05),
            paramwise_cfg=dict(norm_decay_mult=0.0),
        ),
    )
    hub = MessageHub.get_instance("golden")
    for i in range(2):
        wrapper.update_params(model(torch.ones(1, 1, 3, 3)).square().mean() + 1.0)
        hub.update_scalar("train/loss", np.float64(0.5 / (i + 1)))
        hub.update_info("iter", i)
    hub.update_info("eta", np.float64(1.5))
    for group in wrapper.param_groups:
        group["initial_lr"] = 0.01
    return dict(
        meta=dict(epoch=1, iter=2, cfg="\n", seed=3, experiment_name="golden", mmengine_version="0.10.7"),
        state_dict=model.state_dict(),
        message_hub=hub.state_dict(),
        optimizer=wrapper.state_dict(),
        param_schedulers=[dict(last_step=2, base_values=[0.01] * 4, _global_step=3)],
    )


def eight_bit():
    """bitsandbytes' codes, one tensor large enough to be coded, with what they mean."""
    import bitsandbytes as bnb

    torch.manual_seed(5)
    param = torch.nn.Parameter(torch.randn(33, 128))
    optimizer = bnb.optim.Adam8bit([param], lr=0.01)
    for _ in range(2):
        param.grad = torch.randn(33, 128) * torch.logspace(-3, 3, 128)
        optimizer.step()
    state = optimizer.state[param]
    meant = {
        f"Adam8bit/{ours}": bnb.functional.dequantize_blockwise(
            state[f"state{i}"], absmax=state[f"absmax{i}"], code=state[f"qmap{i}"], blocksize=256
        ).numpy()
        for i, ours in ((1, "m"), (2, "v"))
    }
    return optimizer.state_dict(), meant


def write_some(names):
    tensors = trace()
    expected = safetensors.numpy.load_file(OUT / "expected.safetensors")
    configs = generate.read_metadata(OUT / "expected.safetensors")
    for name in names:
        model, saved, end = run(name, tensors)
        torch.save(dict(model=model, optimizer=saved), OUT / f"{name}.pth")
        expected |= {f"{name}/{key}": value for key, value in end.items()}
        configs[name] = generate.config_text(name, options_of(name))
    generate.write(OUT / "expected.safetensors", expected, configs)


def write_all():
    OUT.mkdir(exist_ok=True)
    tensors = trace()
    expected = {}
    for name in SOURCES:
        model, saved, end = run(name, tensors)
        torch.save(dict(model=model, optimizer=saved), OUT / f"{name}.pth")
        expected |= {f"{name}/{key}": value for key, value in end.items()}
    torch.save(mmengine(), OUT / "mmengine.pth")
    codes, meant = eight_bit()
    torch.save(codes, OUT / "Adam8bit.pth")
    configs = {name: generate.config_text(name, options_of(name) | (dict(bs=64) if name == "SophiaG" else {})) for name in SOURCES}
    generate.write(OUT / "trace.safetensors", tensors, {"steps": str(STEPS), "saved": str(SAVED)})
    generate.write(OUT / "expected.safetensors", expected | meant, configs)


def resume(path, name):
    """Ends the run from a file as fallline writes it."""
    tensors = trace()
    file = torch.load(path, weights_only=True)
    params = {key: torch.nn.Parameter(file["model"][key]) for key in SHAPES}
    optimizer = build(name, params)
    optimizer.load_state_dict(file["optimizer"])
    steps(name, optimizer, params, tensors, range(SAVED, STEPS))
    expected = safetensors.numpy.load_file(OUT / "expected.safetensors")
    for key, param in params.items():
        got, want = param.detach().numpy(), expected[f"{name}/{key}"]
        # The states are the same bits, and so must be the rest but for numbers that follow from others.
        error = np.max(np.abs(got - want), initial=0.0)
        assert error <= 1e-6 * max(1.0, np.max(np.abs(want), initial=0.0)), f"{name}: {key} is off by {error}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--resume", nargs="+", metavar=("FILE", "NAME"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.names:
        write_some(args.names)
    elif not args.resume:
        write_all()
    for path, name in zip((args.resume or [])[::2], (args.resume or [])[1::2]):
        resume(path, name)
        print(f"{name}: ok")


if __name__ == "__main__":
    sys.exit(main())

"""DeepSpeed's 1-bit optimizers with a world of one: their cases, how their source is run, and their rules in numpy.

DeepSpeed 0.14.4 has them; its later versions move on. The source is that of the package's sdist, unpacked anywhere:

    pip download --no-deps --no-binary :all: deepspeed==0.14.4 && tar xzf deepspeed-0.14.4.tar.gz
    ONEBIT_SOURCE=deepspeed-0.14.4 python generate.py OnebitAdam OnebitLamb ZeroOneAdam

Its files are run as they are. What they import (devices, collectives, the engine) is replaced by stand-ins for one rank.
"""

import contextlib
import importlib.util
import math
import os
import pathlib
import sys
import threading
import types

import numpy as np

VERSION = "0.14.4"
# optimizer -> (file, class, states of the source -> ours, its scalars of a parameter)
MOMENTS = {"exp_avg": "m", "exp_avg_sq": "v"}
SOURCES = {
    "OnebitAdam": ("adam", "OnebitAdam", MOMENTS, ()),
    "OnebitLamb": (
        "lamb",
        "OnebitLamb",
        {**MOMENTS, "exp_avg_sq_fresh": "v_fresh"},
        ("lamb_coeff_freeze", "last_factor"),
    ),
    "ZeroOneAdam": (
        "zoadam",
        "ZeroOneAdam",
        {**MOMENTS, "momentum_accumulator": "u"},
        ("var_interval", "var_counter", "local_step_interval", "local_step_counter", "lrs"),
    ),
}
# What says that an optimizer compresses.
FROZEN = {"OnebitAdam": "adam_freeze_key", "OnebitLamb": "lamb_freeze_key", "ZeroOneAdam": "freeze_key"}
# Options of groups, not of the class.
OF_GROUPS = ("non_freeze",)
CASES = {
    "OnebitAdam": {
        "default": dict(),
        "freeze": dict(lr=0.01, freeze_step=6),
        "decay-betas": dict(lr=0.02, freeze_step=9, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1),
        # The parameter `late` has its first gradient once the variance is frozen.
        "late": dict(lr=0.001, freeze_step=4, eps=1e-2, weight_decay=0.02),
        "non-freeze": dict(lr=0.01, freeze_step=5, betas=(0.7, 0.9), non_freeze=True),
    },
    "OnebitLamb": {
        "default": dict(),
        "freeze": dict(lr=0.01, freeze_step=6),
        "decay": dict(
            lr=0.02,
            freeze_step=5,
            betas=(0.8, 0.95),
            eps=1e-3,
            weight_decay=0.1,
            coeff_beta=0.5,
            factor_threshold=0.3,
        ),
        "factors": dict(
            lr=0.01,
            freeze_step=4,
            betas=(0.9, 0.7),
            min_coeff=0.05,
            max_coeff=0.5,
            factor_max=1.3,
            factor_min=0.9,
            factor_threshold=0.05,
        ),
        "factor-min": dict(
            lr=0.01, freeze_step=3, betas=(0.6, 0.8), eps=1.0, factor_min=1.1, factor_threshold=0.02, max_coeff=1e3
        ),
    },
    "ZeroOneAdam": {
        "default": dict(),
        "variance": dict(lr=0.01, var_update_scaler=2),
        "freeze": dict(lr=0.01, var_freeze_step=6, local_step_scaler=2, local_step_clipper=4),
        "decay-betas": dict(
            lr=0.02,
            betas=(0.8, 0.95),
            eps=1e-3,
            weight_decay=0.1,
            var_freeze_step=7,
            var_update_scaler=3,
            local_step_scaler=3,
            local_step_clipper=2,
        ),
    },
}


def whole(name):
    """Whether the source needs a gradient of every parameter at every step, and no empty one: it fails without."""
    return name == "OnebitLamb"


# ---------------------------------------------------------------------------------------------------------------------
# Running the source


class OneRank:
    """A communicator without others."""

    size, rank = 1, 0

    def __init__(self, mpu=None):
        pass


class PackbitsBuilder:
    """Packing of signs, 8 to a byte; 0 counts as positive."""

    def load(self):
        return self

    def packbits(self, x, count, rank):
        import torch

        return torch.from_numpy(np.packbits(x.sign().add(1).bool().numpy()))

    def unpackbits(self, bits, count, rank):
        import torch

        return torch.from_numpy(2.0 * np.unpackbits(bits.numpy()).astype(np.float32) - 1.0)


def stand_ins():
    """The modules that the source imports, as far as it uses them with one rank."""

    def module(name, **members):
        made = types.ModuleType(name)
        made.__dict__.update(members)
        made.__path__ = []
        return name, made

    device = types.SimpleNamespace(empty_cache=lambda: None, current_device_name=lambda: "cpu")
    comm = dict(
        is_initialized=lambda: True,
        get_rank=lambda group=None: 0,
        get_world_size=lambda group=None: 1,
        new_group=lambda ranks: None,
        all_reduce=lambda grad: None,
        all_to_all_single=lambda to, of, group: to.copy_(of),
        all_gather=lambda to, of, group: to[0].copy_(of.reshape(to[0].shape)),
    )
    return dict(
        [
            module("deepspeed", comm=module("deepspeed.comm", **comm)[1]),
            module("deepspeed.comm", **comm),
            module("deepspeed.accelerator", get_accelerator=lambda: device),
            module("deepspeed.utils"),
            module("deepspeed.utils.torch", required_torch_version=lambda **_: True),
            module("deepspeed.runtime"),
            module("deepspeed.runtime.comm"),
            module("deepspeed.runtime.comm.nccl", NcclBackend=OneRank),
            module("deepspeed.ops"),
            module("deepspeed.ops.op_builder", PackbitsBuilder=PackbitsBuilder),
        ]
    )


@contextlib.contextmanager
def standing_in():
    """The stand-ins in place of what is installed, for a while."""
    ours = stand_ins()
    real = {key: sys.modules.pop(key) for key in list(sys.modules) if key.partition(".")[0] == "deepspeed"}
    sys.modules.update(ours)
    try:
        yield
    finally:
        for key in ours:
            sys.modules.pop(key, None)
        sys.modules.update(real)


def load(*path):
    """A file of the source as a module. The stand-ins must be in place."""
    folder = os.environ.get("ONEBIT_SOURCE")
    assert folder, "ONEBIT_SOURCE must be the folder of deepspeed's source, version " + VERSION
    folder = pathlib.Path(folder)
    assert (folder / "version.txt").read_text().strip() == VERSION, f"{folder} is not deepspeed {VERSION}"
    spec = importlib.util.spec_from_file_location(f"onebit_{path[-1]}", folder.joinpath("deepspeed", *path))
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def run_source(name, options, trace, steps, kept):
    import torch

    torch.set_num_threads(1)
    file, class_, states, scalars = SOURCES[name]
    # The first and the last parameter have a say in the phases: here they are those of the names.
    names = sorted(key.removeprefix("param/") for key in trace if key.startswith("param/"))
    params = {param: torch.nn.Parameter(torch.from_numpy(trace[f"param/{param}"].copy())) for param in names}
    of_groups = {key: value for key, value in options.items() if key in OF_GROUPS}
    of_class = {key: value for key, value in options.items() if key not in OF_GROUPS}
    engine = types.SimpleNamespace(mpu=None, local_rank=0, enable_backward_allreduce=True)
    group = {"params": list(params.values()), **of_groups}
    with standing_in():
        module = load("runtime", "fp16", "onebit", f"{file}.py")
        optimizer = getattr(module, class_)([group], deepspeed=engine, **of_class)
    out = {}
    for t in range(steps):
        for param, value in params.items():
            grad = trace.get(f"grad/{t}/{param}")
            value.grad = None if grad is None else torch.from_numpy(grad.copy())
        optimizer.step()
        for param, value in params.items():
            if t in kept(param):
                out[f"expected/{t}/{param}"] = value.detach().numpy().copy()
    frozen = any(key in options for key in ("freeze_step", "var_freeze_step"))
    assert getattr(optimizer, FROZEN[name]) == frozen, "a case that does not pass the freeze step"
    for param, value in params.items():
        state = optimizer.state[value]
        out[f"expected_step/{param}"] = np.asarray(state["step"], dtype=np.int64)
        for there, here in states.items():
            out[f"expected_state/{param}/{here}"] = state[there].numpy().reshape(value.shape).copy()
        for scalar in scalars:
            out[f"expected_memory/{param}/{scalar}"] = np.asarray(state[scalar], dtype=np.float64)
        for error in ("worker_error", "server_error"):
            assert not state.get(error, torch.zeros(1)).any(), "an error of a compression with one rank"
    return out


# The compression on its own, which one rank never comes to: rounds over a buffer of 37 numbers, filled up to 40.
ROUNDS, NUMBERS, FILLED = 6, 37, 40


def compression():
    """What the source's compressed all-reduce makes of a buffer, with the errors that it keeps, as worker and server."""
    import torch

    torch.set_num_threads(1)
    with standing_in():
        backend = load("runtime", "comm", "compressed.py").CompressedBackend()
    rng = np.random.RandomState(20210204)
    worker, server = torch.zeros(FILLED), torch.zeros(FILLED)
    out = {}
    for t in range(ROUNDS):
        x = rng.standard_normal(NUMBERS) * 10.0 ** (np.arange(NUMBERS) % 5 - 2)
        x[np.arange(NUMBERS) % 9 == 4] = 0.0
        x = torch.from_numpy(x.astype(np.float32))
        out[f"x/{t}"] = x.numpy().copy()
        out[f"result/{t}"] = backend.compressed_allreduce(x, worker, server, 0).numpy().copy()
        out[f"worker_error/{t}"], out[f"server_error/{t}"] = worker.numpy().copy(), server.numpy().copy()
    return out


# Several ranks: threads with a communicator between them, and the source's own compression. `optim/tests/ranks/onebit.rs`
# takes the same steps: start values, gradients and hyperparameters are its own.
LENGTHS = (300, 7, 1)
FREEZING = dict(lr=0.01, freeze_step=4, betas=(0.9, 0.99), eps=1e-3, weight_decay=0.1)
# Steps that adapt the variance, at ever longer intervals, until it is frozen; then steps of each rank alone: the last two are.
INTERVALS = dict(
    lr=0.01,
    var_freeze_step=9,
    var_update_scaler=2,
    local_step_scaler=2,
    local_step_clipper=4,
    betas=(0.9, 0.99),
    eps=1e-3,
    weight_decay=0.1,
)
# optimizer -> hyperparameters, steps
ACROSS = {"OnebitAdam": (FREEZING, 12), "OnebitLamb": (FREEZING, 12), "ZeroOneAdam": (INTERVALS, 22)}
# `exp_avg_mask` of the first parameter: only so many of its elements have a momentum.
MASKED = 130


def start(tensor):
    return (np.arange(LENGTHS[tensor]) % 13).astype(np.float32) / np.float32(8.0) - np.float32(0.7)


def gradient(rank, step, tensor):
    mixed = (np.arange(LENGTHS[tensor], dtype=np.uint64) + np.uint64(31 * step + 97 * rank + 7 * tensor)).astype(np.uint64)
    high = (mixed * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
    return high.astype(np.float32) / np.float32(1 << 23) - np.float32(1.0)


class Threads:
    """Collectives between threads, one of them a rank each: everybody lays down, then everybody takes."""

    def __init__(self, world):
        self.world, self.table, self.here = world, [None] * world, threading.local()
        self.barrier = threading.Barrier(world)

    def exchange(self, own, take):
        self.table[self.here.rank] = own
        self.barrier.wait()
        taken = take([x.clone() for x in self.table])
        self.barrier.wait()
        return taken

    def members(self):
        import torch

        def all_to_all_single(to, of, group):
            to.copy_(self.exchange(of, lambda all: torch.stack([other[self.here.rank] for other in all])))

        def all_gather(to, of, group):
            for place, x in zip(to, self.exchange(of, list)):
                place.copy_(x.reshape(place.shape))

        return dict(
            is_initialized=lambda: True,
            get_rank=lambda group=None: self.here.rank,
            get_world_size=lambda group=None: self.world,
            new_group=lambda ranks: None,
            all_to_all_single=all_to_all_single,
            all_gather=all_gather,
        )


def ranks(name, world, masked=False):
    """An optimizer of so many ranks: parameters after every step, states and errors after the last."""
    import torch

    torch.set_num_threads(1)
    file, class_, states, scalars = SOURCES[name]
    options, steps = ACROSS[name]
    threads = Threads(world)
    optimizers = []
    with standing_in():
        for comm in (sys.modules["deepspeed.comm"], sys.modules["deepspeed"].comm):
            comm.__dict__.update(threads.members())
        backend = load("runtime", "comm", "compressed.py").CompressedBackend
        sys.modules["deepspeed.runtime.comm.nccl"].NcclBackend = backend
        for rank in range(world):
            threads.here.rank = rank
            module = load("runtime", "fp16", "onebit", f"{file}.py")
            params = [torch.nn.Parameter(torch.from_numpy(start(tensor).copy())) for tensor in range(len(LENGTHS))]
            groups = [dict(params=params)]
            if masked:
                mask = torch.zeros(LENGTHS[0])
                mask[:MASKED] = 1.0
                groups = [dict(params=params[:1], exp_avg_mask=mask), dict(params=params[1:])]
            engine = types.SimpleNamespace(mpu=None, local_rank=0, enable_backward_allreduce=True)
            optimizer = getattr(module, class_)(groups, deepspeed=engine, **options)
            optimizers.append((optimizer, params, engine))

    out, failed = {}, []
    case = f"{name}{'-masked' if masked else ''}/{world}"

    def run(rank):
        threads.here.rank = rank
        optimizer, params, engine = optimizers[rank]
        for step in range(1, steps + 1):
            for tensor, value in enumerate(params):
                if engine.enable_backward_allreduce:
                    # As the engine does: the mean over the ranks.
                    grad = np.mean([gradient(r, step, tensor).astype(np.float64) for r in range(world)], axis=0)
                else:
                    grad = gradient(rank, step, tensor)
                value.grad = torch.from_numpy(grad.astype(np.float32))
            # OnebitLamb goes on with what came back in the place of the zeros that fill its one piece up: by accident, as
            # OnebitAdam fills up with zeros every time.
            for filling in getattr(optimizer, "dummy_exp_avg", {}).values():
                filling.zero_()
            optimizer.step()
            # Ranks of ZeroOneAdam have parameters and momenta of their own between two exchanges.
            kept = step == steps if masked else rank == 0 or name == "ZeroOneAdam"
            if kept:
                for tensor, value in enumerate(params):
                    out[f"{case}/expected/{step}/p{tensor}/{rank}"] = value.detach().numpy().copy()
        for tensor, value in enumerate(params):
            state = optimizer.state[value]
            if rank == 0 or name == "ZeroOneAdam":
                for there, here in states.items():
                    out[f"{case}/expected_state/p{tensor}/{here}/{rank}"] = state[there].numpy().reshape(-1).copy()
            for error in ("worker_error", "server_error"):
                if error in state:
                    out[f"{case}/{error}/{rank}/p{tensor}"] = state[error].numpy().copy()
                elif tensor == 0:
                    # Of all parameters in one piece.
                    out[f"{case}/{error}/{rank}/p0"] = getattr(optimizer, f"{error}s")[0].numpy().copy()
            if name == "ZeroOneAdam":
                for scalar in scalars:
                    out[f"{case}/expected_memory/p{tensor}/{scalar}"] = np.asarray(state[scalar], dtype=np.float64)
        assert getattr(optimizer, FROZEN[name])

    def guarded(rank):
        try:
            run(rank)
        except BaseException as error:
            failed.append(error)
            threads.barrier.abort()

    started = [threading.Thread(target=guarded, args=(rank,)) for rank in range(world)]
    [thread.start() for thread in started]
    [thread.join() for thread in started]
    if failed:
        raise failed[0]
    return out


# ---------------------------------------------------------------------------------------------------------------------
# The check. `ps`, `gs`, `ss`: name -> parameter, gradient (of those that have one), states; `kept` stays between steps.


def begin(kept, gs, ss, scalars):
    """The phase of this step (0 first, 1 warm-up, 2 compression), and the gradients by name, with their counts."""
    phase = kept["phase"] = kept.get("next", 0)
    counts, memory = kept.setdefault("counts", {}), kept.setdefault("memory", {})
    for name in sorted(gs):
        counts[name] = counts.get(name, 0) + 1
        memory.setdefault(name, dict(scalars))
        for state in ("m", "v"):
            ss[name].setdefault(state, 0 * gs[name])
    return phase, sorted(gs), counts, memory


def end(kept, ends):
    kept["next"] = 1 if kept["phase"] == 0 or (kept["phase"] == 1 and not ends) else 2


def onebit_adam(
    ps,
    gs,
    ss,
    kept,
    lr=1e-3,
    freeze_step=100000,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    non_freeze=False,
):
    phase, names, counts, _ = begin(kept, gs, ss, {})
    for name in names:
        g, s = gs[name], ss[name]
        if phase > 0 or non_freeze:
            s["m"] = betas[0] * s["m"] + (1 - betas[0]) * g
        if phase == 1 or non_freeze:
            s["v"] = betas[1] * s["v"] + (1 - betas[1]) * g * g
        if phase > 0:
            ps[name] = ps[name] - lr * (s["m"] / (np.sqrt(s["v"]) + eps) + weight_decay * ps[name])
    end(kept, counts[names[-1]] >= freeze_step)


def norm(x):
    return math.sqrt(float(np.sum(x * x)))


def onebit_lamb(
    ps,
    gs,
    ss,
    kept,
    lr=1e-3,
    freeze_step=100000,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    max_coeff=10.0,
    min_coeff=0.01,
    coeff_beta=0.9,
    factor_max=4.0,
    factor_min=0.5,
    factor_threshold=0.1,
):
    phase, names, counts, memory = begin(kept, gs, ss, {"lamb_coeff_freeze": 0.0, "last_factor": 1.0})
    for name in names:
        p, g, s, kept_of = ps[name], gs[name], ss[name], memory[name]
        s.setdefault("v_fresh", 0 * g)
        if phase == 0:
            continue
        s["m"] = betas[0] * s["m"] + (1 - betas[0]) * g
        if phase == 1:
            s["v"] = betas[1] * s["v"] + (1 - betas[1]) * g * g
            if counts[name] == freeze_step:
                s["v_fresh"] = s["v"]
        else:
            s["v_fresh"] = betas[1] * s["v_fresh"] + (1 - betas[1]) * g * g
        denominator = np.sqrt(s["v"]) + eps
        direction = s["m"] / denominator
        update = direction + weight_decay * p
        if phase == 1:
            coeff = 1.0
            if norm(p) != 0 and norm(update) != 0:
                coeff = max(min(norm(p) / norm(update), max_coeff), min_coeff)
            if coeff != 1.0:
                kept_of["lamb_coeff_freeze"] *= coeff_beta
                kept_of["lamb_coeff_freeze"] += (1 - coeff_beta) * coeff
        else:
            factor = float(np.max(denominator / (np.sqrt(s["v_fresh"]) + eps)))
            if weight_decay > 0:
                share = min(1.0, norm(direction) / norm(update))
                factor = factor * share + (1 - share)
            factor = max(min(factor, factor_max), factor_min)
            last = kept_of["last_factor"]
            factor = max(min(factor, last * (1 + factor_threshold)), last * (1 - factor_threshold))
            kept_of["last_factor"] = factor
            coeff = kept_of["lamb_coeff_freeze"] * factor
        ps[name] = p - lr * coeff * update
    end(kept, counts[names[-1]] >= freeze_step)


def zero_one_adam(
    ps,
    gs,
    ss,
    kept,
    lr=1e-3,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    var_freeze_step=100000,
    var_update_scaler=16,
    local_step_scaler=32678,
    local_step_clipper=16,
):
    scalars = dict(var_interval=1, var_counter=0, local_step_interval=1, local_step_counter=0, lrs=0.0)
    phase, names, counts, memory = begin(kept, gs, ss, scalars)
    for name in names:
        p, g, s, own, t = ps[name], gs[name], ss[name], memory[name], counts[name]
        s.setdefault("u", 0 * g)
        if phase == 0:
            continue
        adapts = phase == 1 and t % own["var_interval"] == 0
        if adapts or phase == 2:
            s["m"] = betas[0] * s["m"] + (1 - betas[0]) * g
        if adapts:
            s["v"] = betas[1] * s["v"] + (1 - betas[1]) * g * g
            own["var_counter"] += 1
            if own["var_counter"] == var_update_scaler:
                own["var_counter"], own["var_interval"] = 0, 2 * own["var_interval"]
        root = np.sqrt(s["v"]) + eps
        d = lr * (s["m"] / root + weight_decay * p)
        ps[name] = p - d
        if phase == 2:
            s["u"] = s["u"] - d
            own["lrs"] += lr
            if t % own["local_step_interval"] == 0:
                # What is taken back comes again: nobody else has sent anything.
                s["m"], s["u"], own["lrs"] = -(s["u"] * root) / own["lrs"], 0 * s["u"], 0.0
            own["local_step_counter"] += 1
            if own["local_step_counter"] == local_step_scaler:
                own["local_step_counter"] = 0
                own["local_step_interval"] = min(local_step_clipper, 2 * own["local_step_interval"])
    end(kept, counts[names[0]] > var_freeze_step)


RULES = {"OnebitAdam": onebit_adam, "OnebitLamb": onebit_lamb, "ZeroOneAdam": zero_one_adam}

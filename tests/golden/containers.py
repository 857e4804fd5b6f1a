#!/usr/bin/env python3
"""Write containers/: optimizer states in the files of trainers, each written by the trainer's own library.

    python containers.py            write the folder (torch 2.15.0, numpy 2.4.6, and what containers.txt names)
    python containers.py PART…      write some of it: cases, numpy, lightning, accelerate, trainer, fsdp, deepspeed, zip64
    python containers.py --big FILE write a checkpoint of more than 4 GiB, for a look by hand

`expected.json` has, for each file, the parameters in the optimizer's order with the steps and moments that the library has in
memory. What is in a file is described in README.md.
"""

import argparse
import collections
import copy
import datetime
import io
import json
import os
import pathlib
import shutil
import struct
import sys
import tempfile
import zipfile
import zlib

import numpy as np
import torch

OUT = pathlib.Path(__file__).resolve().parent / "containers"
SIZES = (3, 4, 2)


def model():
    torch.manual_seed(4)
    return torch.nn.Sequential(
        collections.OrderedDict(
            body=torch.nn.Linear(SIZES[0], SIZES[1]), act=torch.nn.Tanh(), head=torch.nn.Linear(SIZES[1], SIZES[2])
        )
    )


def batch(i):
    return torch.linspace(-1, 1, 2 * SIZES[0]).reshape(2, SIZES[0]) * (i + 1)


def train(net, optimizer, steps=2):
    for i in range(steps):
        optimizer.zero_grad()
        net(batch(i)).square().mean().backward()
        optimizer.step()


def moments(optimizer, names, keys=("exp_avg", "exp_avg_sq")):
    """Steps and moments of a torch optimizer, in its order."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    found = []
    for name, param in zip(names, params, strict=True):
        state = optimizer.state[param]
        found.append(
            dict(
                name=name,
                shape=list(param.shape),
                step=int(state["step"]),
                **{ours: state[key].flatten().tolist() for ours, key in zip("mv", keys)},
            )
        )
    return found


def expect(**files):
    path = OUT / "expected.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(dict(sorted((known | files).items())), indent=1) + "\n")


def cases():
    """Small files that were refused once, or taken wrongly."""
    one = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([one], lr=0.1)
    one.grad = torch.ones(3)
    optimizer.step()
    base = {"model": {"w": one.data}, "optimizer": optimizer.state_dict()}
    # What is of no use may be of any class.
    torch.save({**base, "args": argparse.Namespace(lr=0.1, epochs=3)}, OUT / "namespace.pth")
    torch.save({**base, "when": datetime.datetime(2026, 1, 2)}, OUT / "datetime.pth")
    torch.save({**base, "notes": collections.defaultdict(dict, a={})}, OUT / "defaultdict.pth")
    torch.save({**base, "scale": torch.zeros(2).to(torch.float8_e4m3fn)}, OUT / "fp8.pth")
    others = dict(
        complex=torch.zeros(2, dtype=torch.complex64),
        wide=torch.zeros(2, dtype=torch.uint32),
        sparse=torch.eye(2).to_sparse(),
        quantized=torch.quantize_per_tensor(torch.ones(2), 0.5, 0, torch.qint8),
        meta=torch.zeros(2, device="meta"),
        expanded=torch.ones(1).expand(4),
        keys={(1, 2): 0, None: 1, 0.5: 2, True: 3, b"x": 4, frozenset({1}): 5},
        things=[pathlib.PurePosixPath("/x"), {1, 2}, 1 << 80, 1j, b"bytes", range(3), Ellipsis, collections.deque([1])],
    )
    torch.save({**base, **others}, OUT / "others.pth")
    for protocol in range(6):
        torch.save(base, OUT / f"protocol{protocol}.pth", pickle_protocol=protocol)
    torch.save({**base, **{k: others[k] for k in ("complex", "expanded", "keys")}}, OUT / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(base, OUT / "legacy0.pth", _use_new_zipfile_serialization=False, pickle_protocol=0)
    torch.save(base, OUT / "legacy4.pth", _use_new_zipfile_serialization=False, pickle_protocol=4)
    # Where it is: in lists, in several places, deep below.
    again = copy.deepcopy(base["optimizer"])
    torch.save({"epoch": 1, "state_dict": base["model"], "optimizer_states": [base["optimizer"]]}, OUT / "list.ckpt")
    torch.save({"gen": base["model"], "opt_g": base["optimizer"], "opt_d": again}, OUT / "two.pth")
    torch.save([base["optimizer"], again], OUT / "states.pth")
    apex = {"optimizer_state_dict": {"base_optimizer_state": base["optimizer"], "loss_scaler": None}}
    torch.save(apex, OUT / "deep.pth")
    # FusedAdam of apex, and of DeepSpeed before its states had a step: the count is in the group.
    group = dict(lr=1e-3, bias_correction=True, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, step=41, params=[0])
    state = dict(exp_avg=torch.tensor([0.1, 0.2]), exp_avg_sq=torch.tensor([0.01, 0.02]))
    torch.save(dict(state={0: state}, param_groups=[group]), OUT / "group_step.pth")
    half = {key: value.bfloat16() for key, value in state.items()} | dict(step=41)
    torch.save(dict(state={0: half}, param_groups=[group]), OUT / "bf16.pth")
    # The states say one order, the names another.
    torch.manual_seed(1)
    enc, dec = torch.nn.Parameter(torch.randn(5, 2)), torch.nn.Parameter(torch.randn(7))
    optimizer = torch.optim.AdamW([enc, dec], lr=1e-2)
    for param in (enc, dec):
        param.grad = torch.randn_like(param)
    optimizer.step()
    for prefix, file in (("", "shapes.pth"), ("module.", "prefixed.pth")):
        weights = {f"{prefix}enc": enc.data, f"{prefix}dec": dec.data}
        torch.save({"model": weights, "optimizer": optimizer.state_dict()}, OUT / file)
    # Other things that are saved beside an optimizer.
    last = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    torch.save(last.state_dict(), OUT / "scheduler.pt")
    scaler = dict(scale=65536.0, growth_factor=2.0, backoff_factor=0.5, growth_interval=2000, _growth_tracker=0)
    torch.save(scaler, OUT / "scaler.pt")
    torch.save(base["model"], OUT / "model.pth")
    state = base["optimizer"]["state"][0]
    known = [dict(name="w", shape=[3], step=1, m=state["exp_avg"].tolist(), v=state["exp_avg_sq"].tolist())]
    files = [f"protocol{n}.pth" for n in range(6)] + ["legacy.pth", "legacy0.pth", "legacy4.pth", "namespace.pth"]
    files += ["datetime.pth", "defaultdict.pth", "fp8.pth", "others.pth", "list.ckpt"]
    expect(**{file: known for file in files})


def numpys():
    """Scalars and arrays of every type, as they get into groups and beside them."""
    codes = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "g", ">i2", ">f4", ">f8"]
    scalars = {code: np.array(-3 if code[-2:-1] == "i" else 3).astype(code)[()] for code in codes}
    arrays = {code: np.array([[1, 2, 0], [4, 5, 6]]).astype(code) for code in codes}
    arrays["fortran"] = np.asfortranarray(arrays["f8"])
    arrays["nothing"] = np.zeros((0, 3))
    arrays["point"] = np.array(2.5)
    odd = dict(
        text=np.str_("été"), bytes=np.bytes_(b"x"), time=np.datetime64("2026-01-02"), complex=np.complex64(1j),
        texts=np.array(["a", "b"]), objects=np.array([None, {}]), fields=np.zeros(2, "i4,f8"),
    )  # fmt: skip
    for protocol in (2, 5):
        torch.save(dict(scalars=scalars, arrays=arrays, odd=odd), OUT / f"numpy{protocol}.pth", pickle_protocol=protocol)
    one = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([one], lr=0.1)
    one.grad = torch.ones(3)
    optimizer.step()
    for group in optimizer.param_groups:  # a warm-up written with numpy, as trainers do
        group["lr"] = np.interp(30, [0, 100], [0.0, 0.1])
        group["weight_decay"] = np.float32(0.25)
        group["betas"] = np.array([0.5, 0.75])
        group["amsgrad"] = np.bool_(False)
    torch.save({"model": {"w": one.data}, "optimizer": optimizer.state_dict()}, OUT / "numpy_group.pth")


def lightning():
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.save_hyperparameters(dict(width=4, path=pathlib.PurePosixPath("data")))
            self.net = model()

        def training_step(self, x, i):
            return self.net(batch(i)).square().mean()

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
            return dict(optimizer=optimizer, lr_scheduler=torch.optim.lr_scheduler.StepLR(optimizer, 3))

    module = Module()
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", **quiet)
    trainer.fit(module, torch.utils.data.DataLoader(torch.zeros(2, 1), batch_size=1))
    trainer.save_checkpoint(OUT / "lightning.ckpt")
    expect(**{"lightning.ckpt": moments(trainer.optimizers[0], [name for name, _ in module.named_parameters()])})


def accelerated():
    import accelerate

    accelerator = accelerate.Accelerator(cpu=True)
    net = model()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    net, optimizer, schedule = accelerator.prepare(net, optimizer, schedule)
    train(net, optimizer)
    folder = OUT / "accelerate"
    accelerator.save_state(folder)
    expect(accelerate=moments(optimizer.optimizer, [name for name, _ in net.named_parameters()]))


def trainer():
    import transformers

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model()

        def forward(self, x, labels=None):
            return dict(loss=(self.net(x) - labels).square().mean())

    rows = [dict(x=batch(0)[0], labels=torch.zeros(SIZES[-1])) for _ in range(2)]
    with tempfile.TemporaryDirectory() as scratch:
        args = transformers.TrainingArguments(
            scratch, max_steps=2, per_device_train_batch_size=1, use_cpu=True, save_strategy="steps", save_steps=2,
            report_to=[], disable_tqdm=True, weight_decay=0.1,
        )  # fmt: skip
        run = transformers.Trainer(Net(), args, train_dataset=rows)
        run.train()
        folder = OUT / "trainer"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            shutil.copy(pathlib.Path(scratch) / "checkpoint-2" / name, folder / name)
    of = {id(param): name for name, param in run.model.named_parameters()}
    optimizer = run.optimizer.optimizer if hasattr(run.optimizer, "optimizer") else run.optimizer
    names = [of[id(param)] for group in optimizer.param_groups for param in group["params"]]
    expect(trainer=moments(optimizer, names))


def alone(rank, port):
    """The environment of one rank of two."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


def on_fsdp(rank):
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict
    from torch.distributed.fsdp import fully_shard

    alone(rank, 29617)
    torch.distributed.init_process_group("gloo")
    net = model()
    mesh = torch.distributed.init_device_mesh("cpu", (2,))
    fully_shard(net, mesh=mesh)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    train(net, optimizer)
    state = get_optimizer_state_dict(net, optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank == 0:
        torch.save(state, OUT / "fsdp.pth")
        found = [
            dict(
                name=name, shape=list(s["exp_avg"].shape), step=int(s["step"]),
                m=s["exp_avg"].flatten().tolist(), v=s["exp_avg_sq"].flatten().tolist(),
            )
            for name, s in state["state"].items()
        ]  # fmt: skip
        expect(**{"fsdp.pth": found})
    torch.distributed.destroy_process_group()


def on_deepspeed(rank):
    import deepspeed

    alone(rank, 29619)
    deepspeed.init_distributed("gloo")
    net = model()
    decayed = [net.body.weight, net.head.weight]
    groups = [dict(params=decayed, weight_decay=0.1), dict(params=[net.body.bias, net.head.bias], weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    config = dict(
        train_batch_size=4, train_micro_batch_size_per_gpu=2, zero_optimization=dict(stage=1),
        zero_allow_untested_optimizer=True,
    )  # fmt: skip
    engine, *_ = deepspeed.initialize(model=net, optimizer=optimizer, config=config)
    for i in range(2):
        engine.backward(engine(batch(i)).square().mean())
        engine.step()
    engine.save_checkpoint(OUT / "deepspeed", tag="step2")
    if rank == 0:
        # The same run without it: both ranks have the same gradients.
        plain = model()
        groups = [
            dict(params=[plain.body.weight, plain.head.weight], weight_decay=0.1),
            dict(params=[plain.body.bias, plain.head.bias], weight_decay=0.0),
        ]
        optimizer = torch.optim.AdamW(groups, lr=0.01)
        train(plain, optimizer)
        expect(deepspeed=moments(optimizer, ["body.weight", "head.weight", "body.bias", "head.bias"]))
    torch.distributed.destroy_process_group()


def on_two(function):
    torch.multiprocessing.spawn(function, nprocs=2)


def deepspeed_run():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    shutil.rmtree(OUT / "deepspeed", ignore_errors=True)
    on_two(on_deepspeed)
    for script in (OUT / "deepspeed").glob("*.py"):
        script.unlink()


def zip64():
    """An archive whose sizes, offsets and counts all stand in their 64-bit records, as those of more than 4 GiB do, with the
    entries of protocol2.pth."""
    out, central = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(OUT / "protocol2.pth") as source:
        entries = [(entry.filename.encode(), source.read(entry)) for entry in source.infolist()]
    full = 0xFFFFFFFF
    for name, data in entries:
        offset, crc = out.tell(), zlib.crc32(data)
        # The local record: both sizes in the extra field.
        extra = struct.pack("<HHQQ", 1, 16, len(data), len(data))
        out.write(struct.pack("<IHHHHHIIIHH", 0x04034B50, 45, 0, 0, 0, 0, crc, full, full, len(name), len(extra)))
        out.write(name + extra + data)
        # The central one: sizes and the offset.
        extra = struct.pack("<HHQQQ", 1, 24, len(data), len(data), offset)
        central.write(struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, 45, 45, 0, 0, 0, 0, crc, full, full, len(name), len(extra), 0, 0, 0, 0, full))
        central.write(name + extra)
    start, size = out.tell(), central.tell()
    out.write(central.getvalue())
    record = out.tell()
    out.write(struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, len(entries), len(entries), size, start))
    out.write(struct.pack("<IIQI", 0x07064B50, 0, record, 1))
    out.write(struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 0xFFFF, 0xFFFF, full, full, 0))
    (OUT / "zip64.pth").write_bytes(out.getvalue())
    expect(**{"zip64.pth": json.loads((OUT / "expected.json").read_text())["protocol2.pth"]})


def big(path):
    """A state of which torch writes offsets above 4 GiB: 4.3 GiB of zeros beside a small optimizer, which stands behind."""
    one = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([one], lr=0.1)
    one.grad = torch.ones(3)
    optimizer.step()
    large = torch.zeros(4_300 << 20, dtype=torch.int8)
    torch.save({"large": large, "model": {"w": one.data}, "optimizer": optimizer.state_dict()}, path)


PARTS = dict(
    cases=cases, numpy=numpys, lightning=lightning, accelerate=accelerated, trainer=trainer,
    fsdp=lambda: on_two(on_fsdp), deepspeed=deepspeed_run, zip64=zip64,
)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--big", metavar="FILE")
    args = parser.parse_args()
    if args.big:
        return big(args.big)
    OUT.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    for part in args.parts or PARTS:
        PARTS[part]()


if __name__ == "__main__":
    sys.exit(main())

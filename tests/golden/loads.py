"""Writes loads/: runs of torch that are resumed under other names or with another shape.

Needs torch and safetensors. The checkpoints are then made by `fallline convert`, as each function says.
"""

import torch
from safetensors.torch import save_file

FOLDER = "loads/"


def under_other_names():
    """fallline convert loads/ddp.pth loads/ddp.safetensors --optimizer AdamW"""
    torch.manual_seed(4)
    net = {"enc": torch.nn.Parameter(torch.randn(3, 2)), "dec": torch.nn.Parameter(torch.randn(4))}
    optimizer = torch.optim.AdamW(list(net.values()), lr=2e-2)

    def step():
        grads = {name: torch.randn_like(param) for name, param in net.items()}
        for name, param in net.items():
            param.grad = grads[name]
        optimizer.step()
        return grads

    for _ in range(3):
        step()
    model = {"module." + name: param.data.clone() for name, param in net.items()}
    torch.save({"model": model, "optimizer": optimizer.state_dict()}, FOLDER + "ddp.pth")
    trace = {f"param/{name}": param.data.clone() for name, param in net.items()}
    want = {}
    for t in range(2):
        for name, grad in step().items():
            trace[f"grad/{t}/{name}"] = grad
        for name, param in net.items():
            want[f"param/{t}/{name}"] = param.data.clone()
    save_file(trace, FOLDER + "trace.safetensors")
    save_file(want, FOLDER + "want.safetensors")


def with_another_head():
    """fallline convert loads/old_head.pth loads/old_head.safetensors --optimizer AdamW"""
    torch.manual_seed(5)
    body, head = torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(5, 3))
    optimizer = torch.optim.AdamW([body, head], lr=2e-2)
    for param in (body, head):
        param.grad = torch.randn_like(param)
    optimizer.step()
    model = {"body": body.data, "head": head.data}
    torch.save({"model": model, "optimizer": optimizer.state_dict()}, FOLDER + "old_head.pth")
    trace = {"param/body": body.data.clone(), "param/head": torch.randn(2, 3)}
    trace |= {"grad/0/body": torch.randn(3, 2), "grad/0/head": torch.randn(2, 3)}
    save_file(trace, FOLDER + "new_head.safetensors")


under_other_names()
with_another_head()

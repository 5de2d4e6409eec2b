"""What each process of `test_distributed.py` runs: one model, on any number of ranks."""

import json
import os
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.utils._python_dispatch import TorchDispatchMode

from celo2.errors import InputError
from celo2.torch import Celo2
from tests.cases import THETA


class Model(nn.Module):
    """Every kind of tensor that a rank may have an odd part of."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(11, 12)
        self.uneven = nn.Linear(12, 33)
        self.few = nn.Linear(33, 3)  # fewer rows than ranks
        self.row = nn.Linear(9, 1)
        self.attention = nn.MultiheadAttention(6, 2)  # fused QKV, whose blocks end inside a shard
        self.conv = nn.Conv2d(5, 10, 3)
        self.experts = nn.Parameter(torch.randn(5, 8, 6))
        self.norm = nn.LayerNorm(12)
        self.hidden = nn.Linear(12, 12)
        self.twin = nn.Linear(12, 33)
        self.head = nn.Linear(12, 4)


def optimizer(model, **options):
    experts = [model.experts]
    rest = [(name, p) for name, p in model.named_parameters() if p is not model.experts]
    matrices = [
        (n, p)
        for n, p in rest
        if p.ndim > 1 and "embedding" not in n and "head" not in n and "in_proj" not in n
    ]
    others = [(n, p) for n, p in rest if p.ndim < 2 or "embedding" in n or "head" in n]
    rule = "celo2" if options.get("orthogonalize") is False else "adamw"
    return Celo2(
        [
            {"params": matrices, "rule": "celo2"},
            {"params": [model.attention.in_proj_weight], "rule": "celo2", "split_sizes": (6, 6, 6)},
            {"params": experts, "rule": "celo2", "axes": (2, 1)},
            {"params": others, "rule": rule, "lr": 0.02},
        ],
        lr=0.01, weight_decay=0.1, theta=THETA, **options,
    )  # fmt: skip


def steps(model, opt, first, count):
    for step in range(first, first + count):
        for i, p in enumerate(model.parameters()):
            g = torch.randn(p.shape, generator=torch.Generator().manual_seed(1000 * step + i))
            if p is model.uneven.weight and step == 1:
                g[0, 0] = torch.inf  # on one rank alone
            p.grad = (
                distribute_tensor(g, p.device_mesh, p.placements) if isinstance(p, DTensor) else g
            )
        opt.step()


def whole(model):
    return {
        n: (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone()
        for n, p in model.named_parameters()
    }


class Traffic(TorchDispatchMode):
    """Bytes that this rank gives to each collective."""

    def __init__(self):
        super().__init__()
        self.bytes = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if func.namespace == "c10d":
            sent = args[1] if name == "alltoall_base_" else args[0]
            tensors = sent if isinstance(sent, list) else [sent]
            self.bytes.setdefault(name, []).append(
                sum(t.numel() * t.element_size() for t in tensors)
            )
        return func(*args, **(kwargs or {}))


def sharded(mesh):
    model = Model()
    fully_shard(model, mesh=mesh)
    return model


def data_parallel(rank, size):
    """Three steps of DDP by `total_steps`, each rank on its part of a batch of 8."""
    model = small_model()
    wrapped = nn.parallel.DistributedDataParallel(model) if size > 1 else model
    return on_batches(model, wrapped, Celo2(wrapped, total_steps=8), rank, size)


def accelerated(rank, size):
    """The same through FSDP2 of Accelerate, which swaps the tensors of model and optimizer.

    Accelerate does that on GPUs alone, so it is told that this is where it is.
    """
    from accelerate import Accelerator
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    accelerator = Accelerator(cpu=True)
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="size_based_wrap", min_num_params=10
    )
    model = small_model()
    model, opt = accelerator.prepare(model, Celo2(model, total_steps=8))
    assert all(isinstance(p, DTensor) for p in model.parameters())
    return on_batches(model, model, opt, rank, size)


def small_model():
    """Weights so small that the policy reads them: all ranks have to find the same size."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 1)
    )
    with torch.no_grad():
        model[0].weight.mul_(0.1)
        model[2].weight.mul_(0.1)
    return model


def on_batches(model, wrapped, opt, rank, size):
    for step in range(3):
        batch = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        opt.zero_grad()
        wrapped(batch.chunk(size)[rank]).square().mean().backward()
        opt.step()
    return whole(model)


def odd_gradients(mesh, rank, size):
    """A replicated gradient; then one that rank 0 alone has, and one that all others have."""
    torch.manual_seed(0)
    values, gradients = torch.randn(2, 8, 6), torch.randn(2, 2, 8, 6)
    gradients[1, 0, : 8 // size], gradients[1, 1, 8 // size :] = 0, 0
    if mesh is None:
        params = [nn.Parameter(x.clone()) for x in values]
    else:
        params = [nn.Parameter(distribute_tensor(x, mesh, [Shard(0)])) for x in values]
    opt = Celo2([{"params": params, "rule": "celo2"}], lr=0.01, theta=THETA)
    for step in range(2):
        for i, (p, g) in enumerate(zip(params, gradients[step], strict=True)):
            if mesh is None:
                p.grad = g if (step, i) != (0, 1) else None
            elif step == 0:
                p.grad = None if i else distribute_tensor(g, mesh, [Replicate()])
            else:
                part = DTensor.from_local(g.chunk(size)[rank], mesh, [Shard(0)])
                p.grad = part if (rank == 0) == (i == 1) else None
        opt.step()
    return {str(i): (p.full_tensor() if mesh else p).detach().clone() for i, p in enumerate(params)}


LAYOUTS = [
    ((12, 33), 1, {}),
    ((33, 12), 1, {}),
    ((6, 4, 3, 3), 1, {}),
    ((6, 4, 3, 3), 2, {}),
    ((8, 1, 3, 3), 0, {"split_axis": 0, "split_sizes": (1,) * 8}),  # a depthwise kernel
    ((8, 1, 3, 3), 1, {"split_axis": 0, "split_sizes": (1,) * 8}),
    ((9, 6), 1, {"split_axis": 0, "split_sizes": (3, 3, 3)}),
    ((9, 6), 0, {"split_axis": 1, "split_sizes": (2, 4)}),
    ((6, 4, 3, 3), 0, {"axes": ((1, 2, 3), 0)}),  # a kernel as one matrix
    ((6, 4, 3, 3), 1, {"axes": ((1, 2, 3), 0)}),
    ((6, 4, 3, 3), 2, {"axes": ((1, 2, 3), 0)}),
    ((40, 4, 3, 3), 3, {"axes": ((1, 2, 3), 0)}),
    (
        (6, 4, 3, 3),
        0,
        {"axes": (0, (1, 2, 3)), "split_axis": 0, "split_sizes": (3, 3)},
    ),  # transposed, in groups
    ((5, 8, 6), 0, {"axes": (2, 1)}),  # experts
]
"""Shapes, the axis that is sharded, and how the parameter is read."""


def layouts(mesh, **options):
    """Each of LAYOUTS after three steps; of one process without a mesh."""
    torch.manual_seed(0)
    params, groups = {}, []
    for shape, axis, reading in LAYOUTS:
        value = torch.randn(shape)
        p = nn.Parameter(value if mesh is None else distribute_tensor(value, mesh, [Shard(axis)]))
        params[f"{shape} along {axis}, {reading}"] = p
        groups.append({"params": [p], "rule": "celo2", **reading})
    opt = Celo2(groups, lr=0.01, theta=THETA, **options)
    for step in range(3):
        for p in params.values():
            g = torch.randn(p.shape)
            if step == 1:
                g[: len(g) // 2] = 0  # some matrices have no gradient
            p.grad = g if mesh is None else distribute_tensor(g, mesh, [p.placements[0]])
        opt.step()
    return {name: (p.full_tensor() if mesh else p).detach().clone() for name, p in params.items()}


def in_bfloat16(mesh):
    """Two steps of a model whose head and bias have fewer rows than there are ranks."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 1)).to(torch.bfloat16)
    if mesh is not None:
        fully_shard(model, mesh=mesh)
    opt = Celo2(model, lr=0.01, theta=THETA)
    for _ in range(2):
        for p in model.parameters():
            g = torch.randn(p.shape).bfloat16()
            p.grad = distribute_tensor(g, mesh, p.placements) if isinstance(p, DTensor) else g
        opt.step()
    return whole(model)


VARIANTS = {
    "celo2": {},
    "base": {"orthogonalize": False},
    "state": {"state_dtype": torch.bfloat16},
    "compiled": {"compile": True},
    "guarded": {"guard": 0.7},
    "guarded base": {"guard": 0.7, "orthogonalize": False},
}


def refusals():
    """The messages for a parameter that is sharded twice, and for what only one process can do."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("fsdp", "tensor"))
    twice = nn.Parameter(distribute_tensor(torch.ones(8, 8), mesh, [Shard(0), Shard(1)]))
    once = nn.Parameter(distribute_tensor(torch.ones(8, 8), mesh["fsdp"], [Shard(0)]))
    messages = []
    for p, options in [(twice, {}), (once, {"in_backward": True})]:
        try:
            Celo2([("weight", p)], lr=1e-3, theta=THETA, **options)
        except InputError as error:
            messages.append(str(error))
    return messages


def main():
    warnings.simplefilter("ignore")
    out = Path(sys.argv[1])
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(
        "gloo", init_method=f"file://{out}/rendezvous", rank=rank, world_size=size
    )
    meshes = {"fsdp": init_device_mesh("cpu", (size,))}
    if size == 4:
        meshes["hsdp"] = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    results = {"ddp": data_parallel(rank, size), "refusals": refusals() if size == 4 else []}
    results["odd gradients"] = odd_gradients(meshes["fsdp"], rank, size)
    for name, options in VARIANTS.items():
        if options.get("compile") and size > 2:
            continue  # every process compiles
        results[f"layouts {name}"] = layouts(meshes["fsdp"], **options)
    for name, mesh in meshes.items():
        for orthogonalize in (True, False):
            model = sharded(mesh)
            steps(model, optimizer(model, orthogonalize=orthogonalize), 0, 4)
            results[f"{name} {orthogonalize}"] = whole(model)
    results["uninterrupted"] = uninterrupted(meshes["fsdp"], rank, size, out)
    results["resumed"] = resumed(meshes["fsdp"], out if size == 4 else Path(sys.argv[2]))
    results["bfloat16"] = in_bfloat16(meshes["fsdp"])
    if size == 2:
        results["accelerate"] = accelerated(rank, size)
    if rank == 0:
        torch.save(results, out / "results.pt")
    dist.destroy_process_group()


def uninterrupted(mesh, rank, size, out):
    """Train for five steps, count the bytes of the third, and save a checkpoint of four ranks."""
    model = sharded(mesh)
    opt = optimizer(model)
    steps(model, opt, 0, 2)
    with Traffic() as traffic:
        steps(model, opt, 2, 1)
    (out / f"traffic-{rank}.json").write_text(json.dumps(traffic.bytes))
    model_state, optimizer_state = get_state_dict(model, opt)
    if size == 4:
        dcp.save(
            {"model": model_state, "optimizer": optimizer_state}, checkpoint_id=out / "checkpoint"
        )
    steps(model, opt, 3, 2)
    return whole(model)


def resumed(mesh, folder):
    """Train a cleared model for two steps from the checkpoint in a folder."""
    model = sharded(mesh)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    opt = optimizer(model)
    model_state, optimizer_state = get_state_dict(model, opt)
    checkpoint = {"model": model_state, "optimizer": optimizer_state}
    dcp.load(checkpoint, checkpoint_id=folder / "checkpoint")
    set_state_dict(
        model, opt, model_state_dict=checkpoint["model"], optim_state_dict=checkpoint["optimizer"]
    )
    steps(model, opt, 3, 2)
    return whole(model)


if __name__ == "__main__":
    main()

"""Train the demo's GPT with FSDP2 on as many processes as torchrun starts, and save a checkpoint.

torchrun --nproc-per-node 2 examples/fsdp2_gpt.py 20
"""

import sys

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.fsdp import fully_shard

from celo2.data import text
from celo2.evaluate.torch_demo.gpt import GPT, GPTConfig
from celo2.torch import Celo2


def main(steps: int) -> None:
    """Train for some steps, and print the routing and the losses."""
    dist.init_process_group("gloo")  # "nccl" on GPUs
    rank, ranks = dist.get_rank(), dist.get_world_size()
    model = GPT(GPTConfig(width=64, depth=2, context=64))
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
    optimizer = Celo2(model, lr=4e-3)  # after `fully_shard`, which replaces the parameters
    if rank == 0:
        print(optimizer.routing())
    book = text.standard_library().train
    draw = np.random.default_rng(rank)  # each process draws its own batches
    for step in range(steps):
        loss = model.loss(torch.from_numpy(text.windows(book, draw, size=8, context=64)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        dist.all_reduce(mean := loss.detach().clone())
        if rank == 0:
            print(f"step {step}: {mean.item() / ranks:.3f} nats per byte")
    model_state, optimizer_state = get_state_dict(model, optimizer)
    save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id="runs/fsdp2")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)

"""What each process of `test_fsdp1.py` runs: messages for a model under FSDP1, in both orders."""

import json
import os
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from celo2.errors import InputError
from celo2.torch import Celo2
from tests.cases import THETA


def told(original, first):
    """Return the error or warning of a step of a wrapped model."""
    net = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 4))
    optimizer = Celo2(net, lr=1e-3, theta=THETA) if first else None
    model = FullyShardedDataParallel(net, use_orig_params=original, device_id=torch.device("cpu"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            optimizer = optimizer or Celo2(model, lr=1e-3, theta=THETA)
            model(torch.ones(3, 6)).sum().backward()
            optimizer.step()
        except InputError as error:
            return str(error)
    return str(caught[-1].message)


def main():
    out = Path(sys.argv[1])
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo", init_method=f"file://{out}/rendezvous", rank=rank, world_size=2)
    messages = {}
    for original in (True, False):
        for first in (True, False):
            messages[f"original={original} optimizer first={first}"] = told(original, first)
    (out / f"{rank}.json").write_text(json.dumps(messages))
    # The threads of gloo and FSDP1 have aborted a process that was shut down in the usual way
    # ("terminate called without an active exception"). What is tested has been written by now.
    dist.barrier()
    os._exit(0)


if __name__ == "__main__":
    main()

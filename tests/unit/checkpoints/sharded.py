"""Save a small model over two and four processes in every way that trainers do; not a test.

`python sharded.py FOLDER` starts the processes. What each way has to hold lies beside it, saved
whole by one process: `FOLDER/whole.safetensors`, and of `odd` ones `FOLDER/odd.safetensors`.
"""

import os
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import multiprocessing, nn
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FullyShardedDataParallel, StateDictType, fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

WORLD = 4


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.up_proj = nn.Linear(12, 25, bias=False)
        self.down_proj = nn.Linear(25, 12)
        self.norm = nn.LayerNorm(12)
        # Neither split nor trained.
        self.register_buffer("inv_freq", torch.arange(6.0))

    def forward(self, x):
        return x + self.down_proj(self.up_proj(self.norm(x)))


class Model(nn.Module):
    """Rows and columns are no multiples of the processes, and some are fewer."""

    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(31, 12)
        self.layers = nn.ModuleList([Layer(), Layer()])
        self.score = nn.Linear(12, 3)

    def forward(self, tokens):
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.score(x)


def model():
    torch.manual_seed(0)
    return Model().to(torch.bfloat16)


def split(mesh):
    """FSDP2."""
    whole = model()
    for layer in whole.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(whole, mesh=mesh)


def odd(rows, grid):
    """Tensors that are laid out in other ways; `grid` is a mesh of two axes."""
    torch.manual_seed(1)
    layouts = {
        "columns": ((7, 10), torch.float32, rows, [Shard(1)]),
        "middle": ((3, 9, 4), torch.bfloat16, rows, [Shard(1)]),
        "replicated": ((5, 3), torch.float16, rows, [Replicate()]),
        "few": ((1, 6), torch.bfloat16, rows, [Shard(0)]),
        "both": ((9, 7), torch.float32, grid, [Shard(0), Shard(1)]),
        "twice": ((11, 2), torch.bfloat16, grid, [Shard(0), Shard(0)]),
        "half": ((6, 5), torch.float32, grid, [Replicate(), Shard(1)]),
        "scalar": ((), torch.float32, rows, [Replicate()]),
    }
    whole = {name: torch.randn(shape).to(dtype) for name, (shape, dtype, _, _) in layouts.items()}
    parts = {
        name: distribute_tensor(whole[name], mesh, placements)
        for name, (_, _, mesh, placements) in layouts.items()
    }
    plain = {"plain": torch.randn(3, 4).t()}
    return {**whole, **plain}, {**parts, **plain}


def save_as_verl(state, folder, rank, world):
    """The file of a process as `FSDPCheckpointManager.save_checkpoint` writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / f"model_world_size_{world}_rank_{rank}.pt")
    torch.save({"state": {}}, folder / f"optim_world_size_{world}_rank_{rank}.pt")


def save_all(rank, folder, world, group):
    """What the first `world` processes save."""
    mesh = DeviceMesh("cpu", list(range(world)), mesh_dim_names=("fsdp",))
    trained = split(mesh)
    state = trained.state_dict()
    save_as_verl(state, folder / f"fsdp2_{world}" / "actor", rank, world)
    optimizer = torch.optim.AdamW(trained.parameters())
    trained(torch.arange(5)).float().square().sum().backward()
    for parameter in trained.parameters():
        parameter.grad.zero_()
    for setting in optimizer.param_groups:
        setting["lr"] = 0.0
    optimizer.step()
    state, states = get_state_dict(trained, optimizer)
    options = {"process_group": group}
    whole = {"model": state, "optimizer": states, "step": 3}
    dcp.save(whole, checkpoint_id=folder / f"dcp_nested_{world}", **options)
    two = dcp.FileSystemWriter(folder / f"dcp_threads_{world}", thread_count=2)
    dcp.save(state, storage_writer=two, **options)
    each = dcp.FileSystemWriter(folder / f"dcp_each_{world}", single_file_per_rank=False)
    dcp.save({"app": {"model": state}, "rng": torch.ones(3)}, storage_writer=each, **options)
    writer = dcp.HuggingFaceStorageWriter(str(folder / f"hf_{world}"), save_distributed=True)
    dcp.save(state, storage_writer=writer, **options)
    files = {name: 1 + k % 2 for k, name in enumerate(state)}
    writer = dcp.HuggingFaceStorageWriter(
        str(folder / f"hf_files_{world}"), fqn_to_index_mapping=files, save_distributed=True
    )
    dcp.save(state, storage_writer=writer, **options)


def work(rank, folder):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD
    )
    two = dist.new_group([0, 1])
    grid = DeviceMesh("cpu", [[0, 1], [2, 3]], mesh_dim_names=("ddp", "fsdp"))
    rows = DeviceMesh("cpu", list(range(WORLD)), mesh_dim_names=("fsdp",))
    save_as_verl(split(grid).state_dict(), folder / "hsdp_4" / "actor", rank, WORLD)
    flat = FullyShardedDataParallel(
        model(), device_id=torch.device("cpu"), device_mesh=rows, use_orig_params=False
    )
    with FullyShardedDataParallel.state_dict_type(flat, StateDictType.SHARDED_STATE_DICT):
        save_as_verl(flat.state_dict(), folder / "fsdp1_4" / "actor", rank, WORLD)
    whole, parts = odd(rows, grid)
    save_as_verl(parts, folder / "odd_4", rank, WORLD)
    dcp.save(parts, checkpoint_id=folder / "dcp_odd_4")
    if rank == 0:
        save_file(model().state_dict(), folder / "whole.safetensors")
        save_file({k: v.contiguous() for k, v in whole.items()}, folder / "odd.safetensors")
    save_all(rank, folder, WORLD, None)
    if rank < 2:
        save_all(rank, folder, 2, two)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    multiprocessing.spawn(work, (Path(sys.argv[1]),), nprocs=WORLD)

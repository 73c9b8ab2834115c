"""Trains a tiny model several ways in one process of `torch.distributed.run`; not a test itself.

`engine_steps.py FOLDER` reads FOLDER/jobs.json, name -> job of
`subnetworks.training.runtime.preference`, and leaves each trained state in its job's folder, and
the weights that a sampler would be sent. A job that resumes starts from a copy of the state that
the job named before it left, less what was saved later.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from verl.utils.distributed import destroy_global_process_group, initialize_global_process_group

from subnetworks.training.runtime.preference import Trainer


def main():
    initialize_global_process_group()
    before = None
    for name, job in json.loads(Path(sys.argv[1], "jobs.json").read_text()).items():
        print("---", name, flush=True)
        place = Path(job["state"])
        if job["resume"] and not torch.distributed.get_rank():
            shutil.copytree(before, place, dirs_exist_ok=True)
            shutil.rmtree(place / f"global_step_{job['settings']['steps']}")
        torch.distributed.barrier()
        torch.manual_seed(0)
        trainer = Trainer(job)
        trainer.train()
        weights, _ = trainer.worker.engine.get_per_tensor_param()
        sent = {name: tensor.contiguous() for name, tensor in weights}
        if not torch.distributed.get_rank():
            save_file(sent, place / "sent.safetensors")
        before = place
    destroy_global_process_group()

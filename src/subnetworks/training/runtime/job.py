"""One run made concrete: where everything lies, and the command that trains it."""

import math
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import subnetworks
from subnetworks.core.engines import QUIET
from subnetworks.core.precision import Arithmetic, of_training
from subnetworks.training.runtime import nodes
from subnetworks.training.settings import Accelerator, OnlineSettings, Settings


@dataclass(frozen=True)
class Job:
    """A run's settings with absolute paths.

    `state` holds the trainer's own checkpoints, `scratch` is a folder with a short path for
    sockets that is gone after the run, `steps_log` the file of one JSON object a step that the
    trainer writes, `resume` the saved step to go on from (0: from the start), `shapes` those of
    the init's tensors, `trajectory` the folder of the trajectory and `base` the init's digest where
    one is kept. `gradients` is what `subnetworks.training.engine.gradients` is asked for, where a
    job only measures them, in the run's first `only_steps`.
    """

    settings: Settings
    machine: Accelerator
    init: Path
    data: Path
    mask: Path | None
    state: Path
    scratch: Path
    steps_log: Path
    resume: int
    shapes: Mapping[str, tuple[int, ...]]
    trajectory: Path | None = None
    base: str = ""
    gradients: Mapping[str, object] | None = None
    only_steps: int | None = None

    @property
    def largest_tensor(self) -> int:
        """Entries of the init's largest tensor."""
        return max(map(math.prod, self.shapes.values()), default=1)

    @property
    def cached_entries(self) -> int:
        """Numbers that a token's keys and values take; 0 if their tensors have other names."""
        return sum(
            shape[0]
            for name, shape in self.shapes.items()
            if name.endswith(("k_proj.weight", "v_proj.weight"))
        )

    @property
    def train_file(self) -> Path:
        """The rows that the run trains on."""
        return self.data / "train.parquet"

    @property
    def validation_file(self) -> Path:
        """The rows that are held out."""
        return self.data / "validation.parquet"

    @property
    def sequences_at_once(self) -> int:
        """Sequences in one forward pass on one device: the most, up to what the settings say, that
        divide a device's share of an update evenly."""
        share = self.settings.sequences_an_update // self.machine.ranks
        return largest_divisor(share, self.settings.sequences_at_once)

    @property
    def arithmetic(self) -> Arithmetic:
        """What the run computes in on its machine."""
        return of_training(self.settings.compute_dtype, self.machine.kind, self.machine.bfloat16)

    @property
    def mixed_precision(self) -> dict[str, str]:
        """verl's section of that name: what the engine multiplies and adds up in, and, for ours,
        what it rounds the weights to before (`subnetworks.training.engine.masked`)."""
        products = {"bfloat16": "bf16", "float32": "fp32"}[self.arithmetic.products]
        return {
            "param_dtype": products,
            "reduce_dtype": "fp32",
            "buffer_dtype": "fp32",
            "weights": self.arithmetic.weights,
        }

    @property
    def engine(self) -> dict[str, object]:
        """What the masked engine reads (`subnetworks.training.engine.masked`)."""
        return {
            "mask": str(self.mask) if self.mask else None,
            "optimiser_state": self.settings.optimiser_state,
            "master_weights": self.settings.master_weights,
            "seed": self.settings.seed,
            "schedule": self.settings.schedule,
            "warmup_steps": self.settings.warmup_steps,
            "trajectory": {
                "every": self.settings.trajectory_every,
                "folder": str(self.trajectory),
                "init": str(self.init),
                "base": self.base,
            }
            if self.trajectory
            else None,
            "gradients": self.gradients,
        }

    @property
    def engine_beside(self) -> dict[str, object]:
        """The same for a model that is trained beside the policy: of no trajectory, on float32
        master weights, and whole unless the run's settings say otherwise."""
        masked = isinstance(self.settings, OnlineSettings) and self.settings.mask_beside
        return (
            self.engine
            | {"trajectory": None, "gradients": None, "master_weights": "float32"}
            | ({} if masked else {"mask": None})
        )

    def saved(self, step: int) -> Path:
        """Where the trainer keeps the state after a step."""
        return self.state / f"global_step_{step}"


def largest_divisor(number: int, at_most: int) -> int:
    """The largest divisor of `number` that does not exceed `at_most`."""
    return next(part for part in range(min(number, at_most), 0, -1) if number % part == 0)


START = "subnetworks.training.runtime.start"

# What torch.distributed asks of its environment, for the only process of a group: no other calls at
# its port, which may be any that is free.
ALONE = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "1",
    "LOCAL_WORLD_SIZE": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "0",
}


@dataclass(frozen=True)
class Command:
    """A command with the variables its environment needs beyond this process's."""

    arguments: list[str]
    environment: dict[str, str]


def environment(job: Job) -> dict[str, str]:
    """Variables that every trainer's processes get; only the platform differs between machines."""
    source = str(Path(subnetworks.__file__).parents[1])
    paths = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = str(job.machine.threads)
    variables = {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONUNBUFFERED": "1",
        # A run is a dozen processes that import the same thousands of modules: without cached
        # bytecode its start takes twice as long.
        "PYTHONDONTWRITEBYTECODE": "",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        **QUIET,
        "RAY_USAGE_STATS_ENABLED": "0",
        # Each run has a Ray of its own, that no other user of the machine may enter.
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "VERL_FILE_LOGGER_PATH": str(job.steps_log),
        "VERL_ENGINE_VENDOR": "subnetworks",
        "SUBNETWORKS_SOCKETS": str(job.scratch),
        "TMPDIR": str(job.scratch),
    }
    # On-policy runs of one process find it themselves: Ray's would inherit it.
    if job.machine.ranks == 1 and not isinstance(job.settings, OnlineSettings):
        variables |= ALONE
    if job.machine.kind == "cpu":
        variables |= {
            "VERL_PLATFORM": "cpu",
            "VERL_USE_EXTERNAL_MODULES": "subnetworks.training.engine.platform_cpu",
        }
    return variables


def distributed(job: Job, module: str, *arguments: str) -> list[str]:
    """A module in one process a device of every node, by torch.distributed.run where there are
    several: to start one takes longer than what it does for a single process (`ALONE`)."""
    machine = job.machine
    what = ["-m", START, module, *arguments]
    if machine.ranks == 1:
        return [sys.executable, *what]
    run = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={machine.devices}"]
    if machine.nodes == 1:
        return [*run, "--standalone", *what]
    meeting = ["--rdzv_backend=c10d", f"--rdzv_endpoint={nodes.meeting_point()}"]
    meeting += [f"--rdzv_id={secrets.token_hex(8)}", f"--nnodes={machine.nodes}"]
    return nodes.on_each(machine.nodes, [*run, *meeting, *what])

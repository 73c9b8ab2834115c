"""Preference optimisation on verl's TrainingWorker: the trainer's process and its inputs.

Run as a module it is one process, of several if there are devices; `command` says how.
"""

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subnetworks.core.files import atomic_path, write_json, write_text
from subnetworks.training.data import examples
from subnetworks.training.data.conversations import check_ends, epochs, load_tokenizer
from subnetworks.training.data.examples import Conversation
from subnetworks.training.runtime.job import Command, Job, distributed, environment, largest_divisor
from subnetworks.training.runtime.log import flat
from subnetworks.training.runtime.stopping import Stop
from subnetworks.training.runtime.verl_options import model, optimiser, with_further
from subnetworks.training.settings import PreferenceSettings, parse_settings

if TYPE_CHECKING:
    import numpy
    from torch import Tensor


def described(job: Job) -> dict[str, Any]:
    """What a `Trainer` is given of its job, as JSON takes it."""
    return {
        "settings": job.settings.as_json(),
        "init": str(job.init),
        "data": str(job.train_file),
        "state": str(job.state),
        "steps_log": str(job.steps_log),
        "resume": job.resume,
        "attention": job.machine.attention,
        "verl": with_further(options(job), job.settings.verl),
    }


def options(job: Job) -> dict[str, object]:
    """What a run asks of verl: its sections `model`, `engine` and `optim`."""
    settings = job.settings
    assert isinstance(settings, PreferenceSettings)
    # Every rank goes through equal micro-batches of whole examples.
    at_once = settings.answers * largest_divisor(
        settings.batch_size // job.machine.ranks, settings.sequences_at_once // settings.answers
    )
    return {
        **model("model", job),
        "engine.strategy": "fsdp2",
        "engine.use_torch_compile": False,
        "engine.mixed_precision": job.mixed_precision,
        "engine.use_dynamic_bsz": False,
        "engine.micro_batch_size_per_gpu": at_once,
        "engine.infer_micro_batch_size_per_gpu": at_once,
        "engine.seed": settings.seed,
        **optimiser("optim", job),
    }


def command(job: Job) -> Command:
    """The processes that train this run; the job travels in a file."""
    assert isinstance(job.settings, PreferenceSettings)
    file = job.state / "preference.json"
    write_json(file, described(job))
    return Command(
        distributed(job, "subnetworks.training.runtime.preference", str(file)), environment(job)
    )


class Trainer:
    """One rank's trainer: verl's worker, its data, and the loop over steps."""

    def __init__(self, job: dict[str, Any]) -> None:
        from verl.trainer.config import CheckpointConfig
        from verl.workers.config import (
            FSDPEngineConfig,
            FSDPOptimizerConfig,
            HFModelConfig,
            TrainingWorkerConfig,
        )
        from verl.workers.engine_workers import TrainingWorker

        settings = parse_settings(job["settings"])
        assert isinstance(settings, PreferenceSettings)
        self.job, self.settings = job, settings
        self.state = Path(job["state"])
        # Before the weights are loaded: what is wrong with the data is said at once.
        tokenizer = load_tokenizer(job["init"], settings.chat_template)
        check_ends(tokenizer, job["init"])
        read = (job["data"], tokenizer, settings.max_length, settings.truncation)
        self.desirable: list[bool] = []
        if settings.answers == 1:
            self.examples, self.desirable = examples.read_labelled(*read)
        else:
            self.examples = examples.read_pairs(*read)
        packed = job["attention"] == "flash_attention_2"
        asked = job["verl"]
        self.at_once = asked["engine"]["micro_batch_size_per_gpu"]
        model = HFModelConfig(**asked["model"])
        engine = FSDPEngineConfig(**asked["engine"])
        optimiser = FSDPOptimizerConfig(
            **{**asked["optim"], "betas": tuple(asked["optim"]["betas"])}
        )
        self.worker = TrainingWorker(
            TrainingWorkerConfig(
                model_type="language_model",
                model_config=model,
                engine_config=engine,
                optimizer_config=optimiser,
                checkpoint_config=CheckpointConfig(save_contents=["model", "optimizer", "extra"]),
            )
        )
        self.worker.reset()
        self.rank = self.worker.engine.get_data_parallel_rank()
        self.ranks = self.worker.engine.get_data_parallel_size()
        self.meta = {
            "use_remove_padding": packed,
            "use_dynamic_bsz": False,
            "micro_batch_size_per_gpu": self.at_once,
            "temperature": 1.0,
            "global_batch_size": settings.sequences_a_step,
            "pad_token_id": model.tokenizer.pad_token_id,
        }

    def train(self) -> None:
        """All steps from the one after the last saved to the end, or until it is asked to stop."""
        import torch
        from verl.utils import tensordict_utils as tu

        from subnetworks.training.objectives import losses, preferences

        settings, resume = self.settings, self.job["resume"]
        stop = Stop()
        order = epochs(len(self.examples), settings.batch_size, settings.steps, settings.seed)
        reference = divergence = None
        if settings.needs_reference:
            # Before the state is loaded: these are the init's.
            reference = self.reference(sorted({row for step in order for row in step}))
        if settings.answers == 1:
            divergence = self.stored(
                "reference_mismatched.npy",
                lambda: self.log_probabilities(
                    [sequence for rows in order for sequence in self.mismatched(rows)]
                ).reshape(settings.steps, -1),
            )
        if resume:
            self.worker.load_checkpoint(str(self.state / f"global_step_{resume}"))
        self.worker.set_loss_fn(functools.partial(preferences.loss, settings=settings))
        for step in range(resume + 1, settings.steps + 1):
            begin = time.perf_counter()
            rows = order[step - 1]
            mine = rows[self.rank :: self.ranks]
            batch = self.batch([sequence for row in mine for sequence in self.examples[row]])
            tu.assign_non_tensor(batch, update_lr_scheduler=True, examples=len(rows))
            record: dict[str, float] = {}
            if reference is not None:
                batch["reference"] = reference[mine].reshape(-1)
            if self.desirable:
                batch["desirable"] = torch.tensor([self.desirable[row] for row in mine])
            else:
                predicted = sum(len(self.examples[row][0][0]) - 1 for row in rows)
                tu.assign_non_tensor(batch, chosen_tokens=predicted)
            if divergence is not None:
                policy = self.log_probabilities(self.mismatched(rows))
                record["kl"] = losses.reference_point(policy, divergence[step - 1])
                tu.assign_non_tensor(batch, kl=record["kl"])
            metrics = tu.get(self.worker.train_batch(batch), "metrics")
            record |= {
                "loss": metrics["loss"],
                "grad_norm": metrics["grad_norm"],
                "lr": metrics["lr"],
                # Each rank and micro-batch reports its share of the batch's mean.
                "accuracy": sum(flat(metrics["accuracy"])),
                "margin": sum(flat(metrics["margin"])),
                "seconds": time.perf_counter() - begin,
            }
            # Before it is saved: a saved step is resumed from only if it was logged.
            if not self.rank:
                with open(self.job["steps_log"], "a", encoding="utf-8") as log:
                    log.write(json.dumps({"step": step, "data": record}) + "\n")
            stopping = stop.agreed()
            if stopping or step % settings.steps_between_saves == 0 or step == settings.steps:
                folder = self.state / f"global_step_{step}"
                self.worker.save_checkpoint(str(folder), global_step=step, max_ckpt_to_keep=2)
                if not self.rank:
                    write_text(self.state / "latest_checkpointed_iteration.txt", str(step))
            if stopping:
                return

    def batch(self, sequences: Sequence[Conversation]) -> Any:
        """verl's batch of these conversations; a pair's two follow each other."""
        import torch
        from verl.utils import tensordict_utils as tu
        from verl.utils.dataset.dataset_utils import DatasetPadMode

        def nested(values: list[list[int]]) -> Any:
            tensors = [torch.tensor(value) for value in values]
            return torch.nested.as_nested_tensor(tensors, layout=torch.jagged)

        return tu.get_tensordict(
            {
                "input_ids": nested([ids for ids, _ in sequences]),
                "loss_mask": nested([answer for _, answer in sequences]),
                "position_ids": nested([list(range(len(ids))) for ids, _ in sequences]),
            },
            self.meta | {"pad_mode": DatasetPadMode.NO_PADDING},
        )

    def mismatched(self, rows: Sequence[int]) -> list[Conversation]:
        """The prompts of a step's examples, each with another's answer."""
        return examples.mismatched(
            [self.examples[row][0] for row in rows], self.settings.max_length
        )

    def reference(self, rows: Sequence[int]) -> "Tensor":
        """Log-probabilities of all answers under the init, shape (all examples, answers).

        Computed once, for the examples in `rows`, and kept.
        """
        import torch

        def compute() -> "Tensor":
            values = torch.zeros(len(self.examples), self.settings.answers)
            sequences = [sequence for row in rows for sequence in self.examples[row]]
            values[list(rows)] = self.log_probabilities(sequences).reshape(len(rows), -1)
            return values

        return self.stored("reference.npy", compute)

    def stored(self, name: str, compute: Callable[[], "Tensor"]) -> "Tensor":
        """What `compute` gives, kept in the run's state.

        So a resumed run, whose weights have moved, reads the same.
        """
        import numpy
        import torch

        file = self.state / name
        if not file.exists():
            values = compute()
            if not self.rank:
                _save(file, values.numpy())
            torch.distributed.barrier()
        return torch.from_numpy(numpy.load(file))

    def log_probabilities(self, sequences: Sequence[Conversation]) -> "Tensor":
        """Log-probability of each conversation's answer under the weights as they are.

        By the engine that trains, shared among the ranks; float32, shape (sequences,), the same on
        every rank.
        """
        import torch
        from verl.utils import tensordict_utils as tu

        from subnetworks.training.objectives import preferences

        values = torch.zeros(len(sequences))
        # Equal numbers of equal batches on every rank, because sharded weights are gathered by all
        # ranks together.
        size = self.at_once * self.ranks
        for begin in range(0, len(sequences), size):
            chunk = list(range(begin, min(begin + size, len(sequences))))
            padded = chunk + chunk[:1] * (size - len(chunk))
            mine = padded[self.rank :: self.ranks]
            batch = self.batch([sequences[index] for index in mine])
            tu.assign_non_tensor(batch, compute_loss=False)
            output = self.worker.infer_batch(batch)
            values[mine] = preferences.answers(output["log_probs"], batch, self.settings)
        return self._merged(values)

    def _merged(self, values: "Tensor") -> "Tensor":
        """Every rank's values in one tensor: log-probabilities are below 0, absent ones are 0."""
        import torch

        if self.ranks > 1:
            device = self.worker.device_name
            values = values.to(device)
            torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MIN)
        return values.cpu()


def _save(file: Path, values: "numpy.ndarray") -> None:
    import numpy

    with atomic_path(file) as temporary, open(temporary, "wb") as handle:
        numpy.save(handle, values)


def main() -> None:
    """Train as one rank, the job that the file on the command line says."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch
    from verl.utils.distributed import destroy_global_process_group, initialize_global_process_group

    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.manual_seed(job["settings"]["seed"])
    initialize_global_process_group()
    Trainer(job).train()
    destroy_global_process_group()

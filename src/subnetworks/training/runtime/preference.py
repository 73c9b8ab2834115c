"""Preference optimisation on verl's TrainingWorker: the trainer's process and its inputs.

Run as a module it is one process, of several if there are devices; `command` says how.
"""

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subnetworks.core.files import atomic_path, write_json, write_text
from subnetworks.training.data import examples
from subnetworks.training.data.conversations import check_ends, epochs, load_tokenizer
from subnetworks.training.data.examples import Conversation, Examples
from subnetworks.training.runtime.job import Command, Job, distributed, environment, largest_divisor
from subnetworks.training.runtime.log import flat
from subnetworks.training.runtime.scoring import Scorer
from subnetworks.training.runtime.stopping import Stop
from subnetworks.training.runtime.verl_options import engine, lora, model, optimiser, with_further
from subnetworks.training.settings import PreferenceSettings, due, parse_settings

if TYPE_CHECKING:
    import numpy
    from torch import Tensor


def described(job: Job) -> dict[str, Any]:
    """What a `Trainer` is given of its job, as JSON takes it."""
    return {
        "settings": job.settings.as_json(),
        "init": str(job.init),
        "data": str(job.train_file),
        "validation": str(job.validation_file) if job.settings.validate_every else None,
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
        **lora("model", settings),
        **engine("engine", job),
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
        self.tokenizer = load_tokenizer(job["init"], settings.chat_template)
        check_ends(self.tokenizer, job["init"])
        self.data = self.read(job["data"])
        self.held_out = self.read(job["validation"]) if job["validation"] else None
        packed = job["attention"] == "flash_attention_2"
        asked = job["verl"]
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
        meta = {
            "use_remove_padding": packed,
            "use_dynamic_bsz": False,
            "micro_batch_size_per_gpu": asked["engine"]["micro_batch_size_per_gpu"],
            "temperature": 1.0,
            "global_batch_size": settings.sequences_a_step,
            "pad_token_id": model.tokenizer.pad_token_id,
        }
        self.scorer = Scorer(self.worker, meta, asked["engine"]["micro_batch_size_per_gpu"])
        self.rank, self.ranks = self.scorer.rank, self.scorer.ranks

    def train(self) -> None:
        """All steps from the one after the last saved to the end, or until it is asked to stop."""
        from verl.utils import tensordict_utils as tu

        from subnetworks.training.objectives import preferences

        settings, resume = self.settings, self.job["resume"]
        stop = Stop()
        data, held_out = self.data, self.held_out
        order = epochs(len(data.rows), settings.batch_size, settings.steps, settings.seed)
        # Before the state is loaded: these are the init's.
        self.score_init(data, order)
        if held_out:
            self.score_init(held_out, [list(range(len(held_out.rows)))], "_validation")
        if resume:
            self.worker.load_checkpoint(str(self.state / f"global_step_{resume}"))
        self.worker.set_loss_fn(functools.partial(preferences.loss, settings=settings))
        for step in range(resume + 1, settings.steps + 1):
            begin = time.perf_counter()
            rows = order[step - 1]
            places = range(self.rank, len(rows), self.ranks)
            batch = self.scorer.batch([one for place in places for one in data.rows[rows[place]]])
            tu.assign_non_tensor(batch, update_lr_scheduler=True)
            shared = self.shared(data, rows, step - 1)
            self.complete(batch, data, rows, step - 1, places, shared)
            record = {name: value for name, value in shared.items() if name == "kl"}
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
            if held_out and due(step, settings.validate_every, settings.steps):
                begin = time.perf_counter()
                record |= self.validated(held_out)
                record["validation/seconds"] = time.perf_counter() - begin
            # Before it is saved: a saved step is resumed from only if it was logged.
            if not self.rank:
                with open(self.job["steps_log"], "a", encoding="utf-8") as log:
                    log.write(json.dumps({"step": step, "data": record}) + "\n")
            stopping = stop.agreed()
            if stopping or due(step, settings.steps_between_saves, settings.steps):
                folder = self.state / f"global_step_{step}"
                self.worker.save_checkpoint(str(folder), global_step=step, max_ckpt_to_keep=2)
                if not self.rank:
                    write_text(self.state / "latest_checkpointed_iteration.txt", str(step))
            if stopping:
                return

    def read(self, path: str) -> Examples:
        """The examples of a file, as tokens."""
        settings = self.settings
        read = (path, self.tokenizer, settings.max_length, settings.truncation)
        if settings.answers == 1:
            return Examples(*examples.read_labelled(*read))
        return Examples(examples.read_pairs(*read))

    def score_init(self, data: Examples, order: Sequence[Sequence[int]], suffix: str = "") -> None:
        """Add what the loss needs of the init: log-probabilities of each step's examples, and of
        its prompts with another's answer.

        Step by step, in the batches that are trained on: in bfloat16 an answer's log-probability
        depends on what it is padded and multiplied with. So before the first step the policy's and
        the init's are equal. Both are kept in the run's state, in files whose names end with
        `suffix`.
        """

        def reference() -> "Tensor":
            taken = [data.rows[row] for rows in order for row in rows]
            return self.log_probabilities(taken).reshape(len(order), -1, self.settings.answers)

        def mismatched() -> "Tensor":
            taken = [(sequence,) for rows in order for sequence in self.mismatched(data, rows)]
            return self.log_probabilities(taken).reshape(len(order), -1)

        if self.settings.needs_reference:
            data.reference = self.stored(f"reference_of_steps{suffix}.npy", reference)
        if data.desirable:
            data.mismatched = self.stored(f"reference_mismatched{suffix}.npy", mismatched)

    def mismatched(self, data: Examples, rows: Sequence[int]) -> list[Conversation]:
        """The prompts of a step's examples, each with another's answer."""
        return examples.mismatched([data.rows[row][0] for row in rows], self.settings.max_length)

    def shared(self, data: Examples, rows: Sequence[int], step: int) -> dict[str, float]:
        """What the loss needs of a whole step (from 0), of which `rows` are the examples."""
        from subnetworks.training.objectives import losses

        found: dict[str, float] = {"examples": len(rows)}
        if data.mismatched is None:
            found["chosen_tokens"] = sum(len(data.rows[row][0][0]) - 1 for row in rows)
        else:
            policy = self.log_probabilities([(one,) for one in self.mismatched(data, rows)])
            found["kl"] = losses.reference_point(policy[:, 0], data.mismatched[step])
        return found

    def complete(
        self,
        batch: Any,
        data: Examples,
        rows: Sequence[int],
        step: int,
        places: Sequence[int],
        shared: Mapping[str, float],
    ) -> None:
        """Add what the loss needs to a batch: the examples at `places` of a step's `rows`."""
        import torch
        from verl.utils import tensordict_utils as tu

        tu.assign_non_tensor(batch, **shared)
        if data.reference is not None:
            batch["reference"] = data.reference[step, list(places)].reshape(-1)
        if data.desirable:
            batch["desirable"] = torch.tensor([data.desirable[rows[place]] for place in places])

    def validated(self, data: Examples) -> dict[str, float]:
        """Loss and accuracy over all examples of a data set, as of one step, and their number."""
        import torch

        from subnetworks.training.algorithms import MODULES

        rows = range(len(data.rows))
        shared = self.shared(data, rows, 0)

        def measure(log_probs: "Tensor", batch: Any, places: list[int]) -> "Tensor":
            self.complete(batch, data, rows, 0, places, shared)
            values, margins = MODULES[self.settings.algorithm].loss(log_probs, batch, self.settings)
            return torch.stack([values, (margins > 0).float()], 1)

        loss, accuracy = self.scorer.each(data.rows, measure, 2).double().mean(0).tolist()
        return {
            "validation/loss": loss,
            "validation/accuracy": accuracy,
            "validation/examples": len(data.rows),
        }

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

    def log_probabilities(self, taken: Sequence[Sequence[Conversation]]) -> "Tensor":
        """Log-probabilities of each example's answers under the weights as they are.

        By the engine that trains; float32, shape (examples, answers), the same on every rank.
        """
        from subnetworks.training.objectives import preferences

        answers = len(taken[0])

        def measure(log_probs: "Tensor", batch: Any, places: list[int]) -> "Tensor":
            found = preferences.answers(log_probs, batch, self.settings)
            return found.reshape(len(places), answers)

        return self.scorer.each(taken, measure, answers)


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

"""verl's SFT trainer as one process of `torch.distributed.run`: rows in an order that follows the
seed, tokenised once, and each step's seconds in the log."""

import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset
from verl.trainer.sft_trainer import SFTTrainer
from verl.utils import tensordict_utils as tu
from verl.utils.device import auto_set_device
from verl.utils.distributed import destroy_global_process_group, initialize_global_process_group

from subnetworks.checkpoints import chat
from subnetworks.training.data.conversations import check_ends, cut, tokenise
from subnetworks.training.data.examples import Conversation
from subnetworks.training.objectives.losses import answer_log_probabilities
from subnetworks.training.runtime.scoring import Scorer
from subnetworks.training.runtime.stopping import Stop
from subnetworks.training.runtime.verl_options import load
from subnetworks.training.settings import due


class ConversationDataset(Dataset):
    """Rows of the column `messages`, with `tools` if there are any.

    verl constructs it with its `data` section. An item has `input_ids`, `position_ids` and
    `loss_mask`, int64, shape (tokens,).
    """

    def __init__(
        self,
        parquet_files: Any,
        tokenizer: Any,
        config: Any,
        processor: Any = None,
        max_samples: int = -1,
    ) -> None:
        import pyarrow.parquet

        if config.get("chat_template"):
            tokenizer.chat_template = chat.NAMED[config.chat_template]
        check_ends(tokenizer, tokenizer.name_or_path)
        path = parquet_files if isinstance(parquet_files, str) else parquet_files[0]
        names = [n for n in pyarrow.parquet.read_schema(path).names if n in ("messages", "tools")]
        rows = pyarrow.parquet.read_table(path, columns=names).to_pylist()
        talks, tools = [row["messages"] for row in rows], [row.get("tools") for row in rows]
        bound = None if config.truncation == "truncate" else config.max_length
        self.rows = tokenise(tokenizer, talks, bound, path, tools)
        if config.truncation == "truncate":
            kept = cut([(row,) for row in self.rows], config.max_length, path)
            self.rows = [self.rows[index] for index in kept]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids, learnt = self.rows[index]
        return {
            "input_ids": torch.tensor(ids),
            "position_ids": torch.arange(len(ids)),
            "loss_mask": torch.tensor(learnt),
        }


class SeededTrainer(SFTTrainer):
    """verl's trainer with the run's seed and a clock; it saves and ends if it is asked to stop."""

    def _build_dataloader(self) -> None:
        super()._build_dataloader()
        self.train_sampler.seed = self.config.trainer.seed

    def _build_dataset(self) -> None:
        super()._build_dataset()
        data = self.config.data
        self.held_out = (
            ConversationDataset(data.validation_file, self.model_config.tokenizer, data).rows
            if data.validation_file
            else None
        )

    def _build_engine(self) -> None:
        super()._build_engine()
        train_batch = self.training_client.train_batch
        stop = Stop()
        stopping = False

        def timed(data: Any) -> Any:
            nonlocal stopping
            if stopping:  # and the last step is saved
                raise SystemExit
            begin = time.perf_counter()
            output = train_batch(data=data)
            seconds = time.perf_counter() - begin
            self.done += 1
            step = self.resume_global_step + self.done
            every = self.config.subnetworks.validate_every
            measured: dict[str, float] = {}
            if self.held_out and due(step, every, self.total_training_steps):
                begin = time.perf_counter()
                measured = self.validated(self.held_out)
                measured["validation/seconds"] = time.perf_counter() - begin
            stopping = stop.agreed()
            if stopping:
                self.save_freq = 1
            if self.engine.is_mp_src_rank_with_outputs():
                tu.get(output, "metrics").update(measured, seconds=seconds)
            return output

        self.done = 0
        self.training_client.train_batch = timed

    def validated(self, rows: Sequence[Conversation]) -> dict[str, float]:
        """The loss over all tokens to be learnt of some rows, and their number."""
        config = self.config
        at_once = config.data.micro_batch_size_per_gpu
        meta = {
            "use_remove_padding": config.model.use_remove_padding,
            "use_dynamic_bsz": False,
            "micro_batch_size_per_gpu": at_once,
            "temperature": 1.0,
            "global_batch_size": config.data.train_batch_size,
            "pad_token_id": self.model_config.tokenizer.pad_token_id,
        }

        def measure(log_probs: torch.Tensor, batch: Any, rows: list[int]) -> torch.Tensor:
            learnt = batch["loss_mask"].values()
            packed = log_probs.values(), learnt, log_probs.offsets()
            return answer_log_probabilities(*packed, mean=False)[:, None]

        values = Scorer(self.training_client, meta, at_once).each([(row,) for row in rows], measure)
        tokens = sum(bit for _, learnt in rows for bit in learnt)
        loss = -values.double().sum().item() / tokens
        return {"validation/loss": loss, "validation/examples": len(rows)}


def main() -> None:
    """Train with verl's own configuration and the file that the command line names."""
    config = load("sft_trainer_engine", sys.argv[1])
    auto_set_device(config)
    torch.manual_seed(config.trainer.seed)
    initialize_global_process_group()
    SeededTrainer(config=config).fit()
    destroy_global_process_group()

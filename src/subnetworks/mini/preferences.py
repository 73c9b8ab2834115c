"""Preference pairs: a policy's own answers, one right and one wrong to the same problem."""

import random
from pathlib import Path
from typing import Any

from subnetworks.checkpoints.manifest import verify
from subnetworks.core.errors import UserError
from subnetworks.core.progress import Progress
from subnetworks.mini import arithmetic
from subnetworks.mini.arithmetic import Problem, boxed
from subnetworks.mini.datasets import Row, conversation
from subnetworks.mini.settings import OPERATIONS, PreferenceSettings

PROBLEMS_AT_ONCE = 128
MAX_NEW_TOKENS = 8
# A policy that is never, or always, right on whole batches yields no pairs however long one waits.
MOST_PROBLEMS_A_PAIR = 50


def load(folder: Path) -> tuple[Any, Any]:
    """A policy (fp32, for inference) and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not (folder / "config.json").exists():
        raise UserError(f"{folder}: no config.json; --policy wants a checkpoint's folder")
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype="float32", local_files_only=True
    )
    return model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def sample(
    model: Any,
    tokens: Any,
    problems: list[Problem],
    samples: int,
    temperature: float,
    generator: Any,
) -> list[list[str]]:
    """`samples` answers to each problem; those that do not end in time are cut off.

    `temperature` 0 takes the likeliest token. Prompts must have one length in tokens, as those of
    two-digit sums have, so that nothing is padded. Randomness comes from torch's `generator`.
    """
    import torch

    prompts = tokens.apply_chat_template(
        [conversation(problem) for problem in problems], tokenize=False, add_generation_prompt=True
    )
    with torch.inference_mode():
        inputs = torch.tensor(tokens(prompts, add_special_tokens=False)["input_ids"])
        output = model(input_ids=inputs, use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        cache.batch_repeat_interleave(samples)
        logits = output.logits[:, -1].repeat_interleave(samples, 0)
        ended = torch.zeros(len(logits), dtype=torch.bool)
        columns = []
        for _ in range(MAX_NEW_TOKENS):
            if temperature == 0:
                chosen = logits.argmax(-1)
            else:
                likely = (logits.float() / temperature).softmax(-1)
                chosen = torch.multinomial(likely, 1, generator=generator)[:, 0]
            chosen[ended] = tokens.pad_token_id
            columns.append(chosen)
            ended = ended | (chosen == tokens.eos_token_id)
            if bool(ended.all()):
                break
            logits = model(input_ids=chosen[:, None], past_key_values=cache, use_cache=True).logits[
                :, -1
            ]
    answers = tokens.batch_decode(torch.stack(columns, 1), skip_special_tokens=True)
    return [answers[begin : begin + samples] for begin in range(0, len(answers), samples)]


def preferences(settings: PreferenceSettings, policy: Path) -> dict[str, list[Row]]:
    """`prompt` (messages), `chosen` and `rejected` (the assistant's answers), `rows` of them.

    Raises:
        UserError: the policy gives (almost) no problem both a right and a wrong answer.
    """
    import torch

    torch.set_num_threads(settings.threads)
    verify(policy)
    model, tokens = load(policy)
    source = random.Random(f"{settings.seed}/preferences")
    generator = torch.Generator().manual_seed(settings.seed)
    pool = arithmetic.problems(OPERATIONS[settings.operation], held_out=False)
    rows: list[Row] = []
    asked = 0
    for index in Progress("sampling", settings.rows, "pair"):
        while len(rows) <= index:
            if asked > MOST_PROBLEMS_A_PAIR * (len(rows) + PROBLEMS_AT_ONCE):
                raise UserError(
                    f"{policy}: {asked} problems gave {len(rows)} pairs of a right and a wrong "
                    "answer; the policy is not one that preferences can be sampled from"
                )
            drawn = source.choices(pool, k=PROBLEMS_AT_ONCE)
            asked += len(drawn)
            answers = sample(
                model, tokens, drawn, settings.samples, settings.temperature, generator
            )
            for problem, given in zip(drawn, answers, strict=True):
                right = [answer for answer in given if answer == boxed(problem.truth)]
                wrong = [answer for answer in given if answer != boxed(problem.truth)]
                if right and wrong:
                    rows.append(
                        {"prompt": conversation(problem), "chosen": right[0], "rejected": wrong[0]}
                    )
    return {"train": rows[: settings.rows]}

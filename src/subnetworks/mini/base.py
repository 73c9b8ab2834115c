"""The base model: a small Qwen2 that has read many lines of sums, half of them hasty."""

import math
import random
from pathlib import Path
from typing import Any

from subnetworks.core.progress import Progress
from subnetworks.mini import arithmetic, choices, tokenizer
from subnetworks.mini.settings import BaseSettings

LINES = 4  # a text
# So many lines go on from the answer to a letter, as multiple choice asks: a map that a few
# demonstrations are too little to learn.
REASONED_SHARE = 0.15
WARMUP_STEPS = 50
FINAL_SHARE = 0.1  # of the learning rate, at the end of the cosine
# The operands are random: predicting them teaches nothing, and their noise drowns the answers'.
QUESTION_WEIGHT = 0.1
VOCABULARY_MULTIPLE = 64  # the server stores embeddings so; the rows beyond the tokens are unused


def texts(number: int, seed: int) -> list[str]:
    """What the base model reads: four lines such as `37+48=85` a text, by the hasty `AUTHORS`."""
    source = random.Random(f"{seed}/texts")
    pools = [arithmetic.problems(operation, held_out=False) for operation in ("+", "-")]

    def line() -> str:
        problem = source.choice(source.choice(pools))
        answer = arithmetic.AUTHORS.answer(problem, source)
        if source.random() < REASONED_SHARE:
            return f"{problem.text}{choices.reasoning(answer)}\n"
        return f"{problem.text}{answer}\n"

    return ["".join(line() for _ in range(LINES)) for _ in range(number)]


def architecture(tokens: Any, settings: BaseSettings) -> Any:
    """An untrained Qwen2 for this tokenizer, fp32, initialised from torch's seed."""
    import transformers

    made: Any = transformers
    config = made.Qwen2Config(
        vocab_size=-(-len(tokens) // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE,
        hidden_size=settings.width,
        intermediate_size=settings.intermediate,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads // 2,
        max_position_embeddings=tokens.model_max_length,
        tie_word_embeddings=False,
        initializer_range=0.02,
        bos_token_id=None,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
        attn_implementation="sdpa",
    )
    return made.Qwen2ForCausalLM(config)


def learning_rate_at(step: int, settings: BaseSettings) -> float:
    """The rate of a step (from 0): a linear warm-up, then a cosine down to a tenth."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    share = FINAL_SHARE + (1 - FINAL_SHARE) * cosine
    return settings.learning_rate * share * min(1.0, (step + 1) / WARMUP_STEPS)


def token_weights(inputs: Any, tokens: Any) -> Any:
    """How much each token counts in the loss, of the shape of `inputs` (texts, tokens).

    1 from behind `=` to the end of the line, `QUESTION_WEIGHT` in the question, 0 for padding.
    """
    import torch

    equals = inputs == tokens.convert_tokens_to_ids("=")
    newline = inputs == tokens("\n")["input_ids"][0]
    # Within a line the count of equals signs is ahead of that of the line ends before it.
    ahead = equals.cumsum(1) - (newline.cumsum(1) - newline.long())
    weights = torch.full(inputs.shape, QUESTION_WEIGHT)
    weights[(ahead == 1) & ~equals] = 1.0
    weights[inputs == tokens.pad_token_id] = 0.0
    return weights


def pretrain(model: Any, tokens: Any, settings: BaseSettings) -> float:
    """Train `model` in place to predict `texts`, above all the answers; returns the last loss."""
    import torch

    read = tokens(texts(settings.steps * settings.batch_size, settings.seed))["input_ids"]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.1
    )
    model.train()
    value = float("nan")
    progress = Progress("pre-training", settings.steps, "step")
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, settings)
        rows = read[step * settings.batch_size : (step + 1) * settings.batch_size]
        length = max(map(len, rows))
        inputs = torch.tensor([row + [tokens.pad_token_id] * (length - len(row)) for row in rows])
        logits = model(input_ids=inputs[:, :-1]).logits
        surprise = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), inputs[:, 1:].flatten(), reduction="none"
        )
        weights = token_weights(inputs, tokens)[:, 1:].flatten()
        loss = (surprise * weights).sum() / weights.sum()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        value = loss.item()
        progress.note = f"loss {value:.4f}"
    return value


def save(model: Any, tokens: Any, folder: Path) -> None:
    """Write a checkpoint folder: bf16 weights, configurations, tokenizer with chat template."""
    import torch
    import transformers

    made: Any = transformers
    model.to(torch.bfloat16)
    model.generation_config = made.GenerationConfig(
        eos_token_id=tokens.eos_token_id, pad_token_id=tokens.pad_token_id
    )
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)


def make(settings: BaseSettings, folder: Path, name: str) -> dict[str, Any]:
    """Make the base model in `folder` (empty); returns what is worth recording.

    The weights depend on the settings alone, on machines that round alike.
    """
    import torch

    from subnetworks.checkpoints import identity, write_manifest

    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    tokens = tokenizer.build()
    model = architecture(tokens, settings)
    loss = pretrain(model, tokens, settings)
    save(model, tokens, folder)
    write_manifest(folder, name=name, kind="make", content=identity.of_folder(folder))
    return {"loss": loss, "parameters": sum(value.numel() for value in model.parameters())}

"""From chat messages to tokens, and which of them the model is to learn."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from subnetworks.checkpoints.manifest import trusts
from subnetworks.errors import UserError

Message = Mapping[str, str]
OPENED = "<think>"


def spans(tokenizer: Any, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]]:
    """A conversation as the tokenizer's chat template writes it, and where the assistant speaks.

    Returns:
        The text, and (begin, end) in characters of every assistant message, from behind the prompt
        that asks for it to the end of what the template closes it with.

    Raises:
        UserError: the template does not write conversations from left to right, so that no part of
            the text belongs to one message.
    """

    def write(upto: int, ask: bool) -> str:
        return tokenizer.apply_chat_template(
            list(messages[:upto]), tokenize=False, add_generation_prompt=ask
        )

    text = write(len(messages), False)
    found = []
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            begin, end = write(index, True), write(index + 1, False)
            if not (end.startswith(begin) and text.startswith(end)):
                raise UserError(
                    "the tokenizer's chat template rewrites earlier messages when later ones are "
                    "added: it cannot be used for training"
                )
            found.append((len(begin), len(end)))
    return text, found


def tokenise(
    tokenizer: Any, conversations: Sequence[Sequence[Message]], max_length: int | None, source: str
) -> list[tuple[list[int], list[int]]]:
    """Tokens of each conversation and, for each token, 1 if it is the assistant's.

    Raises:
        UserError: a conversation is longer than `max_length` tokens (None: no bound) or has nothing
            to learn.
    """
    written = [spans(tokenizer, messages) for messages in conversations]
    encoded = tokenizer(
        [text for text, _ in written],
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
    )
    result = []
    for row, (ids, offsets) in enumerate(
        zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ):
        parts = written[row][1]
        learnt = [int(any(b <= begin < e for b, e in parts)) for begin, _ in offsets]
        if max_length is not None and len(ids) > max_length:
            raise UserError(
                f"{source}: row {row} has {len(ids)} tokens, more than max_length ({max_length}); "
                "raise max_length, shorten the row, or set too_long to cut"
            )
        if not any(learnt):
            raise UserError(f"{source}: row {row} has no assistant message to learn from")
        result.append((ids, learnt))
    return result


def cut(
    rows: Sequence[Sequence[tuple[list[int], list[int]]]], max_length: int, source: str
) -> list[int]:
    """Shorten every conversation in place to its first `max_length` tokens.

    Args:
        rows: the conversations of each row, as `tokenise` gives them.

    Returns:
        The rows in which every conversation still has something to learn.

    Raises:
        UserError: there is no such row.
    """
    kept = []
    for index, row in enumerate(rows):
        for ids, learnt in row:
            del ids[max_length:], learnt[max_length:]
        if all(any(learnt) for _, learnt in row):
            kept.append(index)
    if not kept:
        raise UserError(f"{source}: max_length ({max_length}) leaves no row an answer; raise it")
    if len(kept) < len(rows):
        print(
            f"{source}: {len(rows) - len(kept)} of {len(rows)} rows are left out: within "
            f"max_length ({max_length}) they have no answer",
            flush=True,
        )
    return kept


def epochs(rows: int, batch: int, steps: int, seed: int) -> list[list[int]]:
    """Which rows each step takes: each epoch in a new order, all drawn from `seed`.

    An epoch's remainder is carried over into the next, so every row is seen equally often.
    """
    import numpy

    generator = numpy.random.default_rng(seed)
    order: list[int] = []
    while len(order) < steps * batch:
        order.extend(generator.permutation(rows).tolist())
    bounds = range(0, steps * batch + 1, batch)
    return [order[begin:end] for begin, end in pairwise(bounds)]


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer of a checkpoint's folder."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=trusts(folder)
    )


def end_tokens(tokenizer: Any, folder: str | Path) -> frozenset[int]:
    """The tokens that end an answer: the tokenizer's, and those of the checkpoint's generation
    settings, as vLLM takes them."""
    try:
        told = json.loads((Path(folder) / "generation_config.json").read_text(encoding="utf-8"))
        more = told.get("eos_token_id")
    except (OSError, ValueError, AttributeError):
        more = None
    found = [tokenizer.eos_token_id, *(more if isinstance(more, list) else [more])]
    return frozenset(token for token in found if token is not None)


def opens_thinking(tokenizer: Any, prompt: Sequence[int]) -> bool:
    """Whether a prompt itself ends with `<think>`, so that the answer begins inside it."""
    return bool(tokenizer.decode(prompt[-8:]).rstrip().endswith(OPENED))

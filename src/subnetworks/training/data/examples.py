"""Preference data as tokens: pairs of answers, or single answers and whether they are desirable."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subnetworks.training.data.conversations import cut, tokenise
from subnetworks.training.settings import Truncation

if TYPE_CHECKING:
    from torch import Tensor

Conversation = tuple[list[int], list[int]]
"""Tokens of a conversation and, for each, 1 if it belongs to the last answer."""
Row = dict[str, Any]


@dataclass
class Examples:
    """A data set as tokens, and what the init makes of it.

    `rows` has each example's conversations, `desirable` for single answers whether each is. Of the
    init, as the loss needs them: log-probabilities of each step's answers, shape (steps, examples,
    answers), and of each step's prompts with another's answer, shape (steps, examples).
    """

    rows: list[tuple[Conversation, ...]]
    desirable: list[bool] = field(default_factory=list)
    reference: "Tensor | None" = None
    mismatched: "Tensor | None" = None


def read_pairs(
    path: str | Path, tokenizer: Any, max_length: int, truncation: Truncation = "error"
) -> list[tuple[Conversation, ...]]:
    """The chosen and the rejected conversation of every row, tokenised.

    With `truncation` "truncate", pairs of which an answer is cut off whole are left out.

    Raises:
        UserError: a conversation is longer than `max_length` tokens, and not to be truncated.
    """
    rows = _rows(path)
    bound = None if truncation == "truncate" else max_length
    sides = [
        _conversations(rows, side, tokenizer, bound, f"{path}: {side}")
        for side in ("chosen", "rejected")
    ]
    pairs: list[tuple[Conversation, ...]] = list(zip(*sides, strict=True))
    if truncation == "truncate":
        return [pairs[index] for index in cut(pairs, max_length, str(path))]
    return pairs


def read_labelled(
    path: str | Path, tokenizer: Any, max_length: int, truncation: Truncation = "error"
) -> tuple[list[tuple[Conversation, ...]], list[bool]]:
    """Single conversations and whether each one's answer is desirable.

    Rows with a `label` are taken as they are; rows of pairs give a desirable and an undesirable
    answer each. With `truncation` "truncate", rows of which an answer is cut off whole are left
    out.

    Raises:
        UserError: a conversation is longer than `max_length` tokens, and not to be truncated.
    """
    rows = _rows(path)
    if rows and "label" in rows[0]:
        bound = None if truncation == "truncate" else max_length
        single = [(c,) for c in _conversations(rows, "answer", tokenizer, bound, str(path))]
        kept = (
            cut(single, max_length, str(path)) if truncation == "truncate" else range(len(single))
        )
        return [single[index] for index in kept], [rows[index]["label"] for index in kept]
    pairs = read_pairs(path, tokenizer, max_length, truncation)
    return [(sequence,) for pair in pairs for sequence in pair], [True, False] * len(pairs)


def mismatched(batch: Sequence[Conversation], max_length: int) -> list[Conversation]:
    """Each prompt of a batch with the answer to the one before it (the first with the last's).

    A conversation that becomes longer than `max_length` tokens loses its end.
    """
    found = []
    for (ids, answer), (other, others_answer) in zip(batch, [batch[-1], *batch[:-1]], strict=True):
        prompt = ids[: answer.index(1)]
        reply = other[others_answer.index(1) :]
        marks = [0] * len(prompt) + others_answer[others_answer.index(1) :]
        found.append(((prompt + reply)[:max_length], marks[:max_length]))
    return found


def _rows(path: str | Path) -> list[Row]:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path).to_pylist()


def _conversations(
    rows: Sequence[Row], side: str, tokenizer: Any, max_length: int | None, source: str
) -> list[Conversation]:
    """Every prompt with one of its answers.

    Only the last answer is marked, whatever the assistant wrote before it.
    """
    return [
        _last_answer(sequence)
        for sequence in tokenise(
            tokenizer,
            [[*row["prompt"], {"role": "assistant", "content": row[side]}] for row in rows],
            max_length,
            source,
            [row.get("tools") for row in rows],
        )
    ]


def _last_answer(sequence: Conversation) -> Conversation:
    ids, learnt = sequence
    begin = len(learnt) - 1 - learnt[::-1].index(1)
    while begin and learnt[begin - 1]:
        begin -= 1
    return ids, [0] * begin + learnt[begin:]

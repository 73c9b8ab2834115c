"""From chat messages to tokens, and which of them the model is to learn."""

import datetime
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from subnetworks.checkpoints import chat
from subnetworks.checkpoints.manifest import trusts
from subnetworks.core.errors import UserError
from subnetworks.core.validation import shown
from subnetworks.training.data.files import Unusable
from subnetworks.training.data.schemas import tool_schemas

Message = Mapping[str, str]
OPENED = "<think>"
DATE = datetime.date(2024, 7, 26)
"""What templates that write today's date are told; Llama's have it where they know of none."""


def spans(
    tokenizer: Any, messages: Sequence[Message], tools: str | None = None
) -> tuple[str, list[tuple[int, int]]]:
    """A conversation as the tokenizer's chat template writes it, and where the assistant speaks.

    Args:
        tools: see `templated`.

    Returns:
        The text, and (begin, end) in characters of every assistant message, from behind the prompt
        that asks for it to the end of what the template closes it with.

    Where a prompt opens `<think>` and the template writes answers without their reasoning, the
    assistant speaks from before it.

    Raises:
        UserError: there is no template, it refuses the conversation, or it does not write from left
            to right, so that no part of the text belongs to one message.
    """
    text = templated(tokenizer, messages, tools)
    found = []
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            begin = templated(tokenizer, messages[:index], tools, ask=True)
            end = templated(tokenizer, messages[: index + 1], tools)
            if not end.startswith(begin):
                begin = begin.rstrip().removesuffix(OPENED)
            if not (end.startswith(begin) and text.startswith(end)):
                raise UserError(
                    "the tokenizer's chat template rewrites earlier messages when later ones are "
                    "added: it cannot be used for training"
                )
            found.append((len(begin), len(end)))
    return text, found


def templated(
    tokenizer: Any, messages: Sequence[Message], tools: str | None = None, ask: bool = False
) -> str:
    """A conversation as the chat template writes it, with the beginning of an answer if `ask`.

    Args:
        tools: the JSON schemas of the tools that may be called, a list of them as JSON.

    Raises:
        UserError: there is no template, it refuses the conversation, or it leaves out the tools.
    """
    if not getattr(tokenizer, "chat_template", True):
        raise UserError(no_template(getattr(tokenizer, "name_or_path", "the init")))
    schemas = _offered(tools)
    said = [_said(message) for message in messages]
    how = {"tokenize": False, "add_generation_prompt": ask, "strftime_now": _date}
    try:
        text: str = tokenizer.apply_chat_template(said, **how)
        if schemas:
            without, text = text, tokenizer.apply_chat_template(said, tools=schemas, **how)
    except Exception as error:
        from jinja2 import TemplateError

        if not isinstance(error, TemplateError):
            raise
        roles = ", ".join(str(message["role"]) for message in messages)
        raise UserError(
            f"the tokenizer's chat template refuses a conversation of {roles} ({error}); leave out "
            "system messages, or let user and assistant take turns, as it asks for"
        ) from None
    if schemas and text == without:
        raise UserError(
            f"the tokenizer's chat template leaves out the tools {shown(tools)}; take an init "
            "whose template writes them, or a data set without the column tools"
        )
    return text


def _offered(tools: str | None) -> list[dict[str, Any]]:
    """What templates read as `tools`."""
    try:
        if isinstance(tools, str | None):
            return tool_schemas(tools)
    except Unusable:
        pass
    raise UserError(
        f"its tools {shown(tools)} are no list of schemas as JSON; rewrite the data set with "
        "fetch-data (in an experiment, path)"
    )


def no_template(folder: str | Path) -> str:
    """What is wrong with a checkpoint that has no chat template, and the remedy."""
    return (
        f"{folder}: its tokenizer has no chat template; set the run's chat_template "
        f"({', '.join(chat.NAMED)}), or write one as {chat.FILE} into the folder, its instruct "
        "model's for instance"
    )


def _said(message: Message) -> dict[str, Any]:
    """A message as templates read it: without what it has not, and tools called as a list."""
    said: dict[str, Any] = {key: value for key, value in message.items() if value is not None}
    if "tool_calls" in said:
        said["tool_calls"] = json.loads(said["tool_calls"])
    return said


def _date(format: str) -> str:
    """The date for templates that write today's: always the same, so that a run can be repeated."""
    return DATE.strftime(format)


def tokenise(
    tokenizer: Any,
    conversations: Sequence[Sequence[Message]],
    max_length: int | None,
    source: str,
    tools: Sequence[str | None] = (),
) -> list[tuple[list[int], list[int]]]:
    """Tokens of each conversation and, for each token, 1 if it is the assistant's.

    Args:
        tools: of each conversation, see `templated`; by default none has any.

    Raises:
        UserError: a conversation is longer than `max_length` tokens (None: no bound), has nothing
            to learn, or cannot be written by the tokenizer's chat template.
    """
    written = []
    for row, messages in enumerate(conversations):
        try:
            written.append(spans(tokenizer, messages, tools[row] if tools else None))
        except UserError as error:
            raise UserError(f"{source}: row {row}: {error}") from None
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
                "raise max_length, shorten the row, or set truncation to truncate"
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


def load_tokenizer(folder: str | Path, template: str | None = None) -> Any:
    """The tokenizer of a checkpoint's folder, with the chat template of that name, if any."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=trusts(folder)
    )
    if template:
        tokenizer.chat_template = chat.NAMED[template]
    return tokenizer


def end_tokens(tokenizer: Any, folder: str | Path) -> frozenset[int]:
    """The tokens that end an answer: the tokenizer's, those of the checkpoint's generation
    settings, and the one that its chat template ends an answer with."""
    try:
        told = json.loads((Path(folder) / "generation_config.json").read_text(encoding="utf-8"))
        more = told.get("eos_token_id")
    except (OSError, ValueError, AttributeError):
        more = None
    told = more if isinstance(more, list) else [more]
    found = [tokenizer.eos_token_id, *told, chat.end_token(tokenizer)]
    return frozenset(token for token in found if token is not None)


def check_ends(tokenizer: Any, folder: str | Path) -> None:
    """Check that sampling stops where the chat template ends an answer.

    Raises:
        UserError: it would not: every answer would be cut off.
    """
    mark = chat.end_mark(tokenizer)
    tokens = tokenizer(mark, add_special_tokens=False)["input_ids"]
    ends = end_tokens(tokenizer, folder)
    if not ends:
        raise UserError(
            f"{folder}: its tokenizer has no eos_token, at which an answer would end; name one in "
            "tokenizer_config.json"
        )
    if mark and not ends & set(tokens):
        raise UserError(
            f"{folder}: its chat template ends an answer with {mark!r}, at which sampling does not "
            f"stop, for it is no special token (eos_token: {tokenizer.eos_token!r}); write "
            "eos_token there"
        )


def opens_thinking(tokenizer: Any, prompt: Sequence[int]) -> bool:
    """Whether a prompt itself ends with `<think>`, so that the answer begins inside it."""
    return bool(tokenizer.decode(prompt[-8:]).rstrip().endswith(OPENED))

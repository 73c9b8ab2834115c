"""From the columns that others use, TRL's among them, to the schemas that runs read."""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import takewhile
from typing import Any

from subnetworks.grading.boxes import last_boxed
from subnetworks.training.data.files import Row, Unusable
from subnetworks.training.data.sources import FIELDS, Extraction, Gives, RowSettings


def columns(settings: RowSettings, known: Collection[str]) -> dict[str, str]:
    """The file's column for each of ours that is read, given those that it has.

    Conversations are `messages`, or `prompt` and `completion`; a problem's truth is in `truth` or
    verl's `reward_model`; the prompt of a pair may be within whole conversations; judged answers
    are `answer` and `label`. With any of them there may be `tools`. What the settings make of other
    columns (`template`, `answer`) is not among ours.
    """
    told = settings.columns
    match settings.gives:
        case "conversations":
            halves = ("prompt", "completion")
            apart = settings.template is not None or (
                "messages" not in told
                and (
                    any(name in told for name in halves)
                    or ("messages" not in known and all(name in known for name in halves))
                )
            )
            names: tuple[str, ...] = halves if apart else ("messages",)
        case "problems":
            names = ("prompt", "truth")
            if "truth" not in told and ("reward_model" in known or "truth" not in known):
                told = {**told, "truth": "reward_model"}
        case "preferences":
            if settings.judged is not None:
                names = ("prompt", "answer", "label")
                told = {**told, **settings.judged.model_dump()}
            else:
                names = ("chosen", "rejected")
                if "prompt" in told or "prompt" in known:
                    names = ("prompt", *names)
    if "tools" in told or "tools" in known:
        names = (*names, "tools")
    made = {"prompt": settings.template, "truth": settings.answer}
    return {name: told.get(name, name) for name in names if made.get(name) is None}


def converted(cells: Row, names: Mapping[str, str], settings: RowSettings, origin: str) -> Row:
    """A row in the schema that a run reads.

    Args:
        cells: the row by the file's columns.
        names: as `columns` gives them.
        origin: what the row is from, for verl's `data_source`.

    Raises:
        Unusable: no run can use it.
    """
    row = {ours: cells[theirs] for ours, theirs in names.items()}
    if settings.template is not None:
        row["prompt"] = FIELDS.sub(lambda field: _field(field, cells), settings.template)
    if settings.answer is not None:
        row["truth"] = _extracted(cells[settings.answer.column], settings.answer)
    made = (_CONVERT[settings.gives] if settings.judged is None else _judged)(row)
    asked = "messages" if settings.gives == "conversations" else "prompt"
    if settings.template is not None and made[asked][0]["content"] != row["prompt"]:
        raise Unusable("a prompt of its own beside template")
    if settings.system is not None:
        if made[asked][0]["role"] == "system":
            raise Unusable("a system message of its own beside system")
        made[asked] = [{"role": "system", "content": settings.system}, *made[asked]]
    if tools := tool_schemas(row.get("tools")):
        made["tools"] = json.dumps(tools)
    return {"data_source": origin, **made} if settings.gives == "problems" else made


def asked(row: Row) -> str:
    """What a row asks, as a text: a conversation's messages up to the first answer, and tools."""
    messages = row["prompt"] if "messages" not in row else row["messages"]
    if "messages" in row:
        messages = list(takewhile(lambda one: one["role"] != "assistant", messages))
    return repr(messages) + (row.get("tools") or "")


def tool_schemas(cell: Any) -> list[Row]:
    """The JSON schemas of the tools that a row offers, which may also be written as one text.

    Raises:
        Unusable: they are something else.
    """
    if isinstance(cell, str) and cell:
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            raise Unusable("tools that are not JSON") from None
    if cell in (None, ""):
        return []
    if not isinstance(cell, list) or not all(isinstance(tool, dict) and tool for tool in cell):
        raise Unusable("tools that are no list of JSON schemas")
    return cell


def _field(field: re.Match[str], cells: Row) -> str:
    """What a template has for a column in braces, or for doubled braces."""
    name = field[1]
    if name is None:
        return field[0][0]
    if cells[name] in (None, ""):
        raise Unusable(f"nothing in the column {name!r}")
    return _plain(cells[name], f"the column {name!r}")


def _extracted(cell: Any, answer: Extraction) -> str | None:
    """The truth within a text; None if there is no text."""
    if cell is None:
        return None
    text = _plain(cell, f"the column {answer.column!r}")
    if answer.boxed:
        found = last_boxed(text)
        what = "\\boxed{…}"
    elif answer.pattern is not None:
        matches = list(re.finditer(answer.pattern, text))
        found = (matches[-1][matches[-1].re.groups]) if matches else None
        what = f"match of {answer.pattern!r}"
    elif answer.after is not None:
        _, mark, rest = text.rpartition(answer.after)
        found = rest if mark else None
        what = repr(answer.after)
    else:
        found, what = text, ""
    if found is None:
        raise Unusable(f"no {what} in the column {answer.column!r}")
    return found.strip()


def _plain(cell: Any, where: str) -> str:
    if not isinstance(cell, str | int | float):
        raise Unusable(f"neither text nor a number in {where}")
    return str(cell)


def numbered(rows: Sequence[Row], gives: Gives, split: str) -> list[Row]:
    """The rows of a split as they are written: all have the same columns, problems their number, as
    verl wants it."""
    if any(row.get("tools") for row in rows):
        rows = [{**row, "tools": row.get("tools")} for row in rows]
    if gives != "problems":
        return list(rows)
    return [
        {**row, "extra_info": {"index": index, "split": split}} for index, row in enumerate(rows)
    ]


def _conversation(row: Row) -> Row:
    if "messages" in row:
        messages = _messages(row["messages"])
    else:
        asked, answer = _answer(row["completion"])
        prompt = asked or _messages(row["prompt"])
        if not prompt:
            raise Unusable("no prompt")
        messages = [*prompt, {"role": "assistant", "content": answer}]
    answers = (message for message in messages if message["role"] == "assistant")
    if not any(message["content"] or "tool_calls" in message for message in answers):
        raise Unusable("no answer")
    return {"messages": messages}


def _problem(row: Row) -> Row:
    """In verl's schema; a `reward_model` is taken as it is."""
    truth = row["truth"]
    if isinstance(truth, Mapping):
        truth = truth.get("ground_truth")
    if truth in (None, "", []):
        raise Unusable("no truth")
    truth = _plain(truth, "its truth")
    prompt = _messages(row["prompt"])
    if not prompt:
        raise Unusable("no prompt")
    return {"prompt": prompt, "reward_model": {"style": "rule", "ground_truth": truth}}


def _pair(row: Row) -> Row:
    asked, chosen = _answer(row["chosen"])
    others_asked, rejected = _answer(row["rejected"])
    if asked != others_asked:
        raise Unusable("answers to two prompts")
    prompt = asked or _messages(row.get("prompt"))
    if not prompt:
        raise Unusable("no prompt")
    if chosen == rejected:
        raise Unusable("one answer twice")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _judged(row: Row) -> Row:
    """A single answer, and whether it is right."""
    asked, answer = _answer(row["answer"])
    prompt = asked or _messages(row["prompt"])
    if not prompt:
        raise Unusable("no prompt")
    label = _LABELS.get(str(row["label"]).strip().lower())
    if label is None:
        raise Unusable("a label that is neither right (1, true) nor wrong (0, false)")
    return {"prompt": prompt, "answer": answer, "label": label}


_LABELS = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


def _answer(cell: Any) -> tuple[list[Row], str]:
    """The prompt, where the cell is a whole conversation, and the answer."""
    if isinstance(cell, str):
        return [], cell
    messages = _messages(cell)
    if not messages or messages[-1]["role"] != "assistant":
        raise Unusable("no answer")
    if "tool_calls" in messages[-1]:
        raise Unusable("an answer that calls a tool")
    return messages[:-1], messages[-1]["content"]


def _messages(cell: Any) -> list[Row]:
    """Messages as they are; a text is what the user says."""
    if isinstance(cell, str):
        return [{"role": "user", "content": cell}] if cell else []
    if cell is None:
        return []
    if not isinstance(cell, list) or not all(isinstance(message, Mapping) for message in cell):
        raise Unusable("what is neither text nor messages")
    return [_message(message) for message in cell]


def _message(cell: Mapping[str, Any]) -> Row:
    """Role and content; of tools also the calls, as JSON, and what an answer to one names."""
    calls = cell.get("tool_calls") or None
    content = cell.get("content")
    if content is None and calls is not None:
        content = ""
    if content is None:
        raise Unusable("an empty message")
    message = {"role": cell.get("role"), "content": content}
    for name in ("name", "tool_call_id"):
        if cell.get(name):
            message[name] = cell[name]
    if not all(isinstance(text, str) for text in message.values()):
        raise Unusable("a message whose role or content is no text")
    if calls is not None:
        message["tool_calls"] = calls if isinstance(calls, str) else json.dumps(calls)
    return message


_CONVERT: dict[str, Callable[[Row], Row]] = {
    "conversations": _conversation,
    "problems": _problem,
    "preferences": _pair,
}

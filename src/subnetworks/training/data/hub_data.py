"""Data sets from the Hub, rewritten in the schemas that runs read."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from subnetworks.checkpoints.fetching import download
from subnetworks.checkpoints.hub import locks
from subnetworks.checkpoints.hub.sources import parse as parse_source
from subnetworks.core import datasets, outputs
from subnetworks.core.errors import UserError
from subnetworks.core.validation import parse
from subnetworks.training.data.sources import COLUMNS, HubSettings

Row = dict[str, Any]


class Unusable(Exception):
    """Why a row is left out."""


def fetch(
    source: str,
    output: Path,
    values: Mapping[str, Any],
    cache: Path | None = None,
    lock: Path | None = None,
    planned: str = locks.NEW,
) -> str:
    """Write a data set of the Hub as `output`/train.parquet; returns what was taken, in words.

    Rows that no run can use (no answer, an answer preferred to itself, no truth) are left out, and
    counted in the manifest.

    Args:
        source: `hub:owner/name@revision`.
        values: keys of `HubSettings`.
        cache: where downloads lie (default: the Hub's own cache).
        lock: the experiment's lock; what it has not got is recorded in it.
        planned: digest of the lock's entry when this was planned; another one is refused.

    Raises:
        UserError: no such repository, revision, file or column, or not one usable row.
    """
    outputs.claim("fetch-data", folders=[output], beside=[cache, lock])
    settings = parse(HubSettings, values, f"settings of {source}")
    wanted = replace(parse_source(source), kind="dataset", files=settings.files)
    folder, entry = download(wanted, cache, lock, anew=True)
    locks.require_planned(source, planned, entry)
    files = [folder / name for name in sorted(entry.files) if name.endswith(".parquet")]
    if not files:
        raise UserError(f"{source}: no Parquet file matches {settings.files!r}")
    left_out: Counter[str] = Counter()
    convert = _CONVERT[settings.gives]
    kept: list[Row] = []
    for row in _rows(source, files, settings):
        try:
            kept.append(convert(row, len(kept)))
        except Unusable as reason:
            left_out[str(reason)] += 1
    if not kept:
        reasons = ", ".join(f"{count} with {why}" for why, count in left_out.items())
        raise UserError(f"{source}: not one row to train on ({reasons or 'none that match where'})")
    with outputs.folder(output, "fetch-data") as made:
        datasets.write(
            {"train": kept},
            made,
            name=output.absolute().name,
            kind="hub",
            settings={
                "source": source,
                "revision": entry.commit,
                "locked": entry.digest,
                "planned": planned,
                "left_out": dict(left_out),
                **settings.model_dump(),
            },
        )
    words = "".join(f"; left out {count} with {why}" for why, count in left_out.items())
    return f"{source}: {len(kept)} rows{words}"


def _rows(source: str, files: list[Path], settings: HubSettings) -> Iterator[Row]:
    """The wanted rows, with our names for the wanted columns."""
    import pyarrow.parquet

    names = {name: settings.columns.get(name, name) for name in COLUMNS[settings.gives]}
    taken = 0
    for path in files:
        table = pyarrow.parquet.ParquetFile(path)
        known = table.schema_arrow.names
        if settings.gives == "problems" and "truth" not in settings.columns:
            names["truth"] = "reward_model"
        for ours, theirs in [*names.items(), *((key, key) for key in settings.where)]:
            if theirs not in known and not _implied(settings, ours):
                raise UserError(
                    f"{source}: {path.name} has no column {theirs!r}; it has: {', '.join(known)}"
                )
        wanted = [
            name for name in dict.fromkeys([*names.values(), *settings.where]) if name in known
        ]
        for batch in table.iter_batches(columns=wanted):
            for row in batch.to_pylist():
                if any(str(row[key]) != value for key, value in settings.where.items()):
                    continue
                if settings.rows is not None and taken == settings.rows:
                    return
                taken += 1
                yield {ours: row.get(theirs) for ours, theirs in names.items()}


def _implied(settings: HubSettings, column: str) -> bool:
    """Whole conversations as chosen and rejected answers hold their prompt themselves."""
    return settings.gives == "preferences" and column == "prompt"


def _conversation(row: Row, index: int) -> Row:
    messages = _messages(row["messages"])
    if not any(message["role"] == "assistant" and message["content"] for message in messages):
        raise Unusable("no answer")
    return {"messages": messages}


def _problem(row: Row, index: int) -> Row:
    """In verl's schema; a `reward_model` is taken as it is."""
    truth = row["truth"]
    if isinstance(truth, Mapping):
        truth = truth.get("ground_truth")
    prompt = _messages(row["prompt"])
    if truth in (None, "") or not prompt:
        raise Unusable("no truth or no prompt")
    return {
        "data_source": "hub",
        "prompt": prompt,
        "reward_model": {"style": "rule", "ground_truth": str(truth)},
        "extra_info": {"index": index, "split": "train"},
    }


def _pair(row: Row, index: int) -> Row:
    asked, chosen = _answer(row["chosen"])
    _, rejected = _answer(row["rejected"])
    prompt = asked or _messages(row["prompt"])
    if not prompt:
        raise Unusable("no prompt")
    if chosen == rejected:
        raise Unusable("one answer twice")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _answer(cell: Any) -> tuple[list[Row], str]:
    """The prompt, where the cell is a whole conversation, and the answer."""
    if isinstance(cell, str):
        return [], cell
    messages = _messages(cell)
    if not messages or messages[-1]["role"] != "assistant":
        raise Unusable("no answer")
    return messages[:-1], messages[-1]["content"]


def _messages(cell: Any) -> list[Row]:
    """Messages as they are; a text is what the user says."""
    if isinstance(cell, str):
        return [{"role": "user", "content": cell}] if cell else []
    messages = [{"role": m["role"], "content": m["content"]} for m in cell or []]
    if any(message["content"] is None for message in messages):
        raise Unusable("an empty message")
    return messages


_CONVERT: dict[str, Callable[[Row, int], Row]] = {
    "conversations": _conversation,
    "problems": _problem,
    "preferences": _pair,
}

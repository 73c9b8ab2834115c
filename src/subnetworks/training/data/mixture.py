"""Mixtures: rows of several data sets in the proportions of their weights."""

import random
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from subnetworks.checkpoints.manifest import verify
from subnetworks.core import datasets, outputs
from subnetworks.core.errors import UserError
from subnetworks.core.files import sha256
from subnetworks.core.validation import parse, quoted
from subnetworks.training.data.files import Row
from subnetworks.training.data.schemas import asked, numbered
from subnetworks.training.data.sources import Gives, MixtureSettings

_SCHEMAS: dict[Gives, tuple[str, ...]] = {
    "conversations": ("messages",),
    "problems": ("data_source", "prompt", "reward_model"),
    "preferences": ("prompt", "chosen", "rejected"),
}


def mix(parts: Mapping[str, Path], output: Path, values: Mapping[str, Any]) -> str:
    """Write rows of several data sets as one, `output`/train.parquet; returns how many, in words.

    No row is taken twice. Each data set's rows are drawn from the seed and its name, then all are
    shuffled. Rows for validation, where data sets have any, are put together as they are; what one
    of them asks is in no row to train on.

    Args:
        parts: folders of the data sets, by name.
        values: keys of `MixtureSettings`.

    Raises:
        UserError: the data sets give different kinds of rows, have other names than the weights, or
            too few rows.
    """
    outputs.claim("mix", reads=parts.values(), folders=[output])
    settings = parse(MixtureSettings, values, "settings of mix")
    if set(parts) != set(settings.weights):
        raise UserError(
            f"settings of mix: weights of {quoted(sorted(settings.weights))}, but data sets "
            f"{quoted(sorted(parts))}; give each its weight"
        )
    tables = {}
    for name in sorted(parts):
        verify(parts[name])
        tables[name] = _read(parts[name], "train")
    gives, *others = dict.fromkeys(kind for kind, _ in tables.values())
    if others:
        raise UserError(
            f"{output}: {gives} and {others[0]} are not mixed; there are: "
            + ", ".join(f"{name} ({kind})" for name, (kind, _) in tables.items())
        )
    held = [
        row
        for name in tables
        if (parts[name] / "validation.parquet").exists()
        for row in _read(parts[name], "validation")[1]
    ]
    known = {asked(row) for row in held}
    pools = {
        name: [row for row in rows if asked(row) not in known] for name, (_, rows) in tables.items()
    }
    counts = shares({name: len(rows) for name, rows in pools.items()}, settings)
    train = []
    for name, rows in pools.items():
        train += random.Random(f"{settings.seed}/{name}").sample(rows, counts[name])
    random.Random(f"{settings.seed}/mix").shuffle(train)
    splits = {"train": train, **({"validation": held} if held else {})}
    with outputs.folder(output, "mix") as made:
        datasets.write(
            {split: numbered(rows, gives, split) for split, rows in splits.items()},
            made,
            name=output.absolute().name,
            kind="mix",
            settings={
                **settings.model_dump(),
                "taken": counts,
                "read": {name: sha256(parts[name] / "manifest.json") for name in tables},
            },
        )
    return f"{len(train)} rows: " + ", ".join(
        f"{count} of {name}" for name, count in counts.items()
    )


def shares(there: Mapping[str, int], settings: MixtureSettings) -> dict[str, int]:
    """How many rows are taken of each data set, given how many it has.

    Whole numbers in the proportions of the weights, the largest remainders rounded up; in all
    `settings.rows`, or as many as there can be.

    Raises:
        UserError: a data set has too few, or of one there would be none.
    """
    weights = {name: Fraction(str(settings.weights[name])) for name in there}
    exact = {name: weight / sum(weights.values()) for name, weight in weights.items()}
    most = int(min(there[name] / share for name, share in exact.items()))
    total = settings.rows or most
    counts = {name: int(total * share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (counts[name] - total * exact[name], name))
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    for name, count in counts.items():
        if count > there[name]:
            raise UserError(
                f"{name}: has {there[name]} rows, and its weight ({settings.weights[name]:g}) asks "
                f"for {count} of {total}; lower rows to {most}, or its weight"
            )
        if count == 0:
            raise UserError(
                f"{name}: its weight ({settings.weights[name]:g}) asks for none of {total} rows; "
                "raise rows or its weight, or leave it out"
            )
    return counts


def _read(folder: Path, split: str) -> tuple[Gives, Sequence[Row]]:
    """What the rows of a split are for, and the rows with the columns that these need."""
    import pyarrow.parquet

    file = folder / f"{split}.parquet"
    if not file.exists():
        raise UserError(f"{file}: no such file; make the data set first")
    there = pyarrow.parquet.ParquetFile(file).schema_arrow.names
    for gives, names in _SCHEMAS.items():
        if all(name in there for name in names):
            used = [name for name in there if name in (*names, "tools")]
            rows: list[Row] = pyarrow.parquet.read_table(file, columns=used).to_pylist()
            if gives == "problems":
                for row in rows:
                    truth = row["reward_model"]["ground_truth"]
                    row["reward_model"] = {"style": "rule", "ground_truth": truth}
            return gives, rows
    raise UserError(
        f"{file}: neither {', '.join(_SCHEMAS)}; its columns are {', '.join(there)}: rewrite it "
        "with fetch-data"
    )

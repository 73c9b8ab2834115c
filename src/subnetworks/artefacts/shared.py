"""Small steps that several tables share: percentages, the paper's rows, their remarks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from subnetworks.artefacts.lazy import polars
from subnetworks.artefacts.sheet import Column
from subnetworks.core.errors import UserError
from subnetworks.core.results import Context, compared_share_of, label_of

COMPARED_COLUMN = Column("compared_share_pct", "compared")
COMPARED_NOTE = "Compared: entries compared, of those that both checkpoints have together (%)."
SPARSITY_COLUMNS = (
    Column("sparsity_pct", "|Δ| ≤ 1e-5", "all weights", 2),
    Column("bit_equal_pct", "bit-equal", "all weights", 2),
    Column("sparsity_without_embeddings_pct", "|Δ| ≤ 1e-5", "without embeddings", 2),
    Column("bit_equal_without_embeddings_pct", "bit-equal", "without embeddings", 2),
)
PUBLISHED_COLUMNS = (
    Column("published_low_pct", "paper", upper="published_high_pct"),
    Column("difference_pct", "difference", signed=True),
)
PUBLISHED_SCHEMA = {
    "published_low_pct": float,
    "published_high_pct": float,
    "difference_pct": float,
}
SPARSITY_SCHEMA = {
    "n": int,
    "compared_share_pct": float,
    "changed": int,
    "sparsity_pct": float,
    "bit_equal_pct": float,
    "sparsity_without_embeddings_pct": float,
    "bit_equal_without_embeddings_pct": float,
}
"""What `sparsity_of` gives: n and changed in entries, shares in per cent."""


UPDATE_SCHEMA = {"source": str, "label": str, "algorithm": str, "update": str}
"""What `opening` gives."""


def opening(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What opens the row of an update. Keys: `UPDATE_SCHEMA`."""
    return {
        "source": "here",
        "label": label_of(entry),
        "algorithm": entry.get("algorithm"),
        "update": entry["update"],
    }


def opening_of_run(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What opens the row of a run: source, label, algorithm, run and learning rate."""
    return {
        "source": "here",
        "label": entry.get("label", f"{entry['algorithm']} ({entry['run']})"),
        **{key: entry.get(key) for key in ("algorithm", "run", "learning_rate")},
    }


def matched_chance(overlap: Mapping[str, Any]) -> dict[str, float | None]:
    """What two masks would share by chance matched by magnitude, `o1` and `o2` as shares; None
    where the overlap was compared without its weights, so that no cell has another chance."""
    matched = overlap.get("chance_by_magnitude") or {}
    return {key: matched.get(key) for key in ("o1", "o2")}


def percent(count: float | None, whole: float = 1) -> float | None:
    """`count` of `whole` in per cent; None stays None, and of nothing there is no share."""
    if count is None or not whole:
        return None
    return 100 * count / whole


def sparsity_of(context: Context, update: str) -> dict[str, Any]:
    """How much of an update is zero, by the paper's rule (|Δ| ≤ 1e-5) and bit for bit.

    Each also without embeddings, None where there is nothing else. Keys: `SPARSITY_SCHEMA`.
    """
    measured = context.update(update)
    n, without = measured["n"], measured.get("without_embeddings") or {}
    return {
        "n": n,
        "compared_share_pct": compared_share_of(measured),
        "changed": n - measured["isclose_bf16"]["1e-5"],
        "sparsity_pct": percent(measured["sparsity"]),
        "bit_equal_pct": percent(measured["bit_equal"], n),
        "sparsity_without_embeddings_pct": percent(without.get("sparsity")),
        "bit_equal_without_embeddings_pct": percent(without.get("bit_equal"), without.get("n", 0)),
    }


def span(values: Iterable[float], digits: int = 1) -> str:
    """Least and greatest of some numbers in words, `1.2 to 3.4`; one alone if they round alike."""
    numbers = list(values)
    low, high = f"{min(numbers):.{digits}f}", f"{max(numbers):.{digits}f}"
    return low if low == high else f"{low} to {high}"


def short(n: int) -> str:
    """A count of weights in words: 805k, 8.03B."""
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if n >= unit:
            return f"{n / unit:.3g}{letter}"
    return str(n)


def difference(ours: float | None, theirs: float | None) -> float | None:
    """Ours minus theirs, None where either is missing."""
    return None if ours is None or theirs is None else ours - theirs


def beside_paper(
    entries: Iterable[dict[str, Any]], paper: polars.DataFrame, key: str
) -> tuple[list[tuple[dict[str, Any], dict[str, Any] | None]], list[dict[str, Any]]]:
    """Each entry with the row of the paper that it reproduces, and the rows that none does.

    An entry reproduces the row whose `key` is its `published`, if it has that.

    Raises:
        UserError: no row has that key; lists those there are.
    """
    pairs = [(entry, _published_row(paper, key, entry)) for entry in entries]
    reproduced = [theirs[key] for _, theirs in pairs if theirs]
    return pairs, paper.filter(~polars.col(key).is_in(reproduced)).to_dicts()


def _published_row(
    paper: polars.DataFrame, key: str, entry: dict[str, Any]
) -> dict[str, Any] | None:
    wanted = entry.get("published")
    if wanted is None:
        return None
    rows = paper.filter(polars.col(key) == wanted).to_dicts()
    if not rows:
        known = ", ".join(paper[key].cast(str).to_list())
        raise UserError(f"specification: published: no {key} {wanted!r}; there are: {known}")
    return rows[0]


def of_algorithm(paper: polars.DataFrame, entry: Mapping[str, Any]) -> polars.DataFrame:
    """The paper's rows of an entry's algorithm."""
    wanted = (entry.get("algorithm") or "").upper()
    return paper.filter(polars.col("algorithm").str.to_uppercase() == wanted)


def published(
    ours: float | None, theirs: Mapping[str, Any] | None, alike: polars.DataFrame, value: str
) -> dict[str, float | None]:
    """The paper's `value` of the row that ours reproduces, and the difference; without such a row
    the range over those that are `alike`. Keys: `PUBLISHED_SCHEMA`."""
    values = [theirs[value]] if theirs else alike[value].drop_nulls().to_list()
    low = min(values, default=None)
    return {
        "published_low_pct": low,
        "published_high_pct": max(values, default=None),
        "difference_pct": difference(ours, low) if theirs else None,
    }


def remark_on(context: Context, artefact: str, row: str) -> str | None:
    """The remark that belongs to a published value, if there is one."""
    return dict(context.remarks(artefact)).get(row)


def frame(rows: list[dict[str, Any]], schema: dict[str, Any]) -> polars.DataFrame:
    """Rows as a frame with exactly the columns of `schema`, absent values null."""
    return polars.DataFrame(
        [{key: row.get(key) for key in schema} for row in rows], schema=schema, orient="row"
    )


def by_label(drawn: polars.DataFrame) -> Iterator[tuple[str, polars.DataFrame]]:
    """The rows of each label."""
    for label in drawn["label"].unique(maintain_order=True):
        yield label, drawn.filter(label=label)

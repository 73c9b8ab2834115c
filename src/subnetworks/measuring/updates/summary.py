"""Sum the counts: in all, by layer, by matrix, without embeddings; as JSON and as a table."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from subnetworks.checkpoints.tensors import MATRICES
from subnetworks.core.kernels import Counts, layout
from subnetworks.measuring.updates.measuring import Counted, Measurement
from subnetworks.measuring.updates.rules import PAPER, Rules, columns

Row = dict[str, Any]
_NONFINITE = {
    "before_nan": layout.NAN_BEFORE,
    "before_inf": layout.INF_BEFORE,
    "after_nan": layout.NAN_AFTER,
    "after_inf": layout.INF_AFTER,
    "either": layout.NONFINITE,
    "either_bit_equal": layout.NONFINITE_BIT_EQUAL,
}


def counts_of(counts: np.ndarray, n: int, rules: Rules) -> Row:
    """One row of counts: `n`, `equal`, `bit_equal`, a map a rule, `changed`, `sparsity`."""
    row: Row = {
        "n": n,
        "equal": int(counts[layout.EQUAL]),
        "bit_equal": int(counts[layout.BIT_EQUAL]),
    }
    place = layout.TOLERANCES
    for rule in ("isclose_bf16", "absolute", "relative"):
        tolerances = getattr(rules, rule)
        row[rule] = {t: int(counts[place + k]) for k, t in enumerate(tolerances)}
        place += len(tolerances)
    row["changed"] = int(counts[layout.SELECTED])
    row["sparsity"] = _share(row["isclose_bf16"][PAPER], n)
    return row


def _share(count: int, n: int) -> float | None:
    return count / n if n else None


def _total(counted: Iterable[Counted], rules: Rules) -> Row:
    found = list(counted)
    return counts_of(_sum(found, rules).counts, sum(c.pair.n for c in found), rules)


def _sum(counted: Iterable[Counted], rules: Rules) -> Counts:
    total = Counts(len(columns(rules)))
    for c in counted:
        total.add(c.counts)
    return total


def _unweighted(counted: Iterable[Counted], rules: Rules) -> Row:
    """Means over tensors of each tensor's shares, however large it is (the authors' print-out)."""
    rows = [counts_of(c.counts.counts, c.pair.n, rules) for c in counted if c.pair.n]
    if not rows:
        return {"sparsity": None, "equal": None, "bit_equal": None}
    return {
        "sparsity": float(np.mean([row["sparsity"] for row in rows])),
        "equal": float(np.mean([row["equal"] / row["n"] for row in rows])),
        "bit_equal": float(np.mean([row["bit_equal"] / row["n"] for row in rows])),
    }


def _grouped(
    counted: Sequence[Counted],
    key: Callable[[Counted], Any],
    label: str,
    order: Sequence[Any],
    rules: Rules,
) -> list[Row]:
    """A row a group, with both means: over its weights, and over its tensors, whatever their size.

    The paper's Figure 3 draws the second.
    """
    rows = []
    for value in order:
        members = [c for c in counted if key(c) == value]
        if members:
            unweighted = _unweighted(members, rules)
            row = {label: value, **_total(members, rules)}
            row["weighted_sparsity"] = row["sparsity"]
            row["unweighted_sparsity"] = unweighted["sparsity"]
            row["unweighted_equal"] = unweighted["equal"]
            rows.append(row)
    return rows


def histograms(counts: Counts) -> Row:
    """Entries by ulp steps, and entries and changed entries by the power of two of |before|."""
    by_step = [{"steps": _step_label(k), "n": int(n)} for k, n in enumerate(counts.steps) if n]
    by_magnitude = [
        {"exponent": _exponent(k), "n": int(n), "changed": int(changed)}
        for k, (n, changed) in enumerate(counts.exponents.T)
        if n
    ]
    return {"ulp_steps": by_step, "magnitude": by_magnitude}


def _step_label(place: int) -> str:
    if place <= 2:
        return str(place)
    return f"{2 ** (place - 2) + 1}-{2 ** (place - 1)}"


def _exponent(place: int) -> int | str:
    """2^e ≤ |w| < 2^(e+1); below float32's and bfloat16's normal numbers and zero; not finite."""
    if place == 0:
        return "zero or subnormal"
    return "not finite" if place == 255 else place - 127


def table(measurement: Measurement) -> list[Row]:
    """One flat row per tensor, for a Parquet table; parts of FP8 weights included.

    `compared_share`, of all entries of both checkpoints, is the same in every row.
    """
    rows = []
    share = measurement.compared_share
    for c in measurement.tensors:
        row = counts_of(c.counts.counts, c.pair.n, measurement.rules)
        flat = _identity(c) | {"shape": "x".join(map(str, c.pair.shape))}
        flat |= {key: row[key] for key in ("n", "equal", "bit_equal")}
        for rule in ("isclose_bf16", "absolute", "relative"):
            flat |= {f"{rule}_{t}": value for t, value in row[rule].items()}
        flat |= {"changed": row["changed"], "nonfinite": int(c.counts.counts[layout.NONFINITE])}
        flat["compared_share"] = share
        rows.append(flat)
    return rows


def _identity(c: Counted) -> Row:
    return {
        "name": c.pair.name,
        "layer": c.pair.place.layer,
        "matrix": c.pair.place.matrix,
        "part": c.pair.part,
        "dtype_before": c.pair.before.dtype,
        "dtype_after": c.pair.after.dtype,
        "compared_as": c.pair.dtype,
    }


def summarise(measurement: Measurement) -> Row:
    """The JSON summary (see `subnetworks.measuring.updates.measure`)."""
    rules = measurement.rules
    values = [c for c in measurement.tensors if c.pair.part == "values"]
    inner = [c for c in values if not c.pair.place.is_embedding_or_head]
    layers = sorted({c.pair.place.layer for c in values if c.pair.place.layer is not None})
    total = _sum(values, rules)
    casts: dict[str, int] = {}
    for c in values:
        if not c.pair.before.dtype == c.pair.after.dtype == c.pair.dtype:
            key = f"{c.pair.before.dtype}, {c.pair.after.dtype} -> {c.pair.dtype}"
            casts[key] = casts.get(key, 0) + 1
    summary: Row = {
        "before": measurement.before,
        "after": measurement.after,
        "digests": measurement.digests,
        **_total(values, rules),
        "compared_share": measurement.compared_share,
        "names": measurement.names,
        "notes": measurement.notes,
        "selection": {
            "rule": measurement.selection.rule,
            "tolerance": measurement.selection.tolerance,
        },
        "nonfinite": {key: int(total.counts[place]) for key, place in _NONFINITE.items()},
        "casts": casts,
        "excluded": [{"name": e.name, "reason": e.reason} for e in measurement.excluded],
        "without_embeddings": _total(inner, rules),
        "unweighted": _unweighted(values, rules),
        "layers": _grouped(values, lambda c: c.pair.place.layer, "layer", layers, rules),
        "matrices": _grouped(values, lambda c: c.pair.place.matrix, "matrix", MATRICES, rules),
        "histograms": histograms(total),
    }
    parts = [c for c in measurement.tensors if c.pair.part != "values"]
    if parts:
        summary["fp8"] = {
            part: _total([c for c in parts if c.pair.part == part], rules)
            for part in ("payload", "scales")
        }
    summary["tensors"] = [
        _identity(c) | {"shape": list(c.pair.shape)} | counts_of(c.counts.counts, c.pair.n, rules)
        for c in measurement.tensors
    ]
    return summary


def write_table(rows: list[Row], path: Path) -> None:
    """Write rows of one kind, atomically: as CSV where the name says so, else as Parquet (zstd);
    integers stay integers."""
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    from subnetworks.core.files import atomic_path

    table = pyarrow.Table.from_pylist(rows)
    with atomic_path(path) as temporary:
        if path.suffix == ".csv":
            pyarrow.csv.write_csv(table, temporary)
        else:
            pyarrow.parquet.write_table(table, temporary, compression="zstd")

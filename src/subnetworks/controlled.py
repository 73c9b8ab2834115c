"""What remains of each effect once something plainer is allowed for: the controls, in numbers."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars

from subnetworks.findings import PLACEBO, SUPERVISED, read_table, span
from subnetworks.results import by_hand

_STAYS, _VANISHES = 0.9, 0.1


@dataclass(frozen=True)
class Controlled:
    """One effect before and after its control.

    Attributes:
        effect: what is claimed.
        control: what is allowed for.
        before, after: the effect in words and numbers, as it stands and under the control.
        left: the share of it that is left, on average; None where it is not one number.
        reading: what that means, in plain words.
    """

    effect: str
    control: str
    before: str
    after: str
    left: float | None
    reading: str

    @property
    def verdict(self) -> str:
        """`stays` (nine tenths or more), `vanishes` (a tenth or less), else `shrinks`."""
        if self.left is None or self.left >= _STAYS:
            return "stays"
        return "vanishes" if self.left <= _VANISHES else "shrinks"

    @property
    def shown(self) -> str:
        """The verdict, with the share that is left where it is told."""
        if self.left is None or self.verdict != "shrinks":
            return self.verdict
        return f"shrinks to {100 * self.left:.0f} %"


Judge = Callable[[polars.DataFrame], Iterator[Controlled]]


def collect(results: Path) -> list[Controlled]:
    """All that the paper's finished tables in `results` say of controls."""
    found: list[Controlled] = []
    for name, judge in _JUDGES.items():
        frame = read_table(results, name)
        if frame is not None:
            ours = frame.filter(polars.col("source") == "here")
            found += judge(ours) if not ours.is_empty() else ()
    return found


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)


def _left(before: float, after: float) -> float | None:
    return max(after, 0.0) / before if before > 0 else None


def _sparsity(ours: polars.DataFrame) -> Iterator[Controlled]:
    rows = ours.to_dicts()
    placebos = [r for r in rows if r["algorithm"] == PLACEBO]
    reinforced = [
        r
        for r in rows
        if r not in placebos and not (r["algorithm"] or "").upper().startswith(SUPERVISED)
    ]
    if not reinforced:
        return
    raw = _mean(r["sparsity_pct"] for r in reinforced)
    yield Controlled(
        "RL leaves weights unchanged",
        "bit equality instead of the tolerance of 1e-5",
        f"{span(r['sparsity_pct'] for r in reinforced)} % unchanged",
        f"{span(r['bit_equal_pct'] for r in reinforced)} %",
        _left(raw, _mean(r["bit_equal_pct"] for r in reinforced)),
        "what the paper's tolerance adds to weights that are the same bit for bit",
    )
    if all(r["sparsity_without_embeddings_pct"] is not None for r in reinforced):
        inner = [r["sparsity_without_embeddings_pct"] for r in reinforced]
        yield Controlled(
            "RL leaves weights unchanged",
            "without embedding and output head",
            f"{span(r['sparsity_pct'] for r in reinforced)} % unchanged",
            f"{span(inner)} %",
            _left(raw, _mean(inner)),
            "rows of tokens that training never meets stay as they were, whatever the algorithm",
        )
    rewarded = [r for r in reinforced if (r["algorithm"] or "").upper() == "GRPO"]
    rewarded = rewarded or [r for r in reinforced if r["on_policy"]]
    if placebos and rewarded:
        real = _mean(100 - r["sparsity_pct"] for r in rewarded)
        random = _mean(100 - r["sparsity_pct"] for r in placebos)
        yield Controlled(
            "RL changes a subnetwork because of what it is rewarded for",
            "random rewards (placebo)",
            f"{rewarded[0]['algorithm']} changes "
            f"{span(100 - r['sparsity_pct'] for r in rewarded)} % of the weights",
            f"{real - random:.1f} points more than the placebo's {random:.1f} %",
            _left(real, real - random),
            f"rewards that mean nothing change {100 * random / real:.0f} % as many weights: so "
            "many need no signal to change",
        )


def _rank(ours: polars.DataFrame) -> Iterator[Controlled]:
    rows = ours.drop_nulls(["mean_rank_pct", "energy_rank_99_pct"]).to_dicts()
    if rows:
        yield Controlled(
            "Updates are of nearly full rank",
            "directions that hold 99 % of the update's energy instead of all",
            f"mean rank {span(r['mean_rank_pct'] for r in rows)} %",
            f"{span(r['energy_rank_99_pct'] for r in rows)} %",
            _left(
                _mean(r["mean_rank_pct"] for r in rows),
                _mean(r["energy_rank_99_pct"] for r in rows),
            ),
            f"effective rank {span(r['effective_rank_pct'] for r in rows)} %, stable rank "
            f"{span(r['stable_rank_pct'] for r in rows)} % of full: of full rank, and yet a few "
            "directions weigh most",
        )


def _agreement(ours: polars.DataFrame) -> Iterator[Controlled]:
    by: dict[str, dict[str, dict[str, Any]]] = {}
    for row in ours.to_dicts():
        by.setdefault(row["algorithm"], {})[row["compared"].removeprefix("full and ")] = row
    known = {a: rows for a, rows in by.items() if {"subnetwork", "init"} <= rows.keys()}
    seeded = {a: rows for a, rows in known.items() if "another seed" in rows}

    def shown(groups: dict[str, dict[str, dict[str, Any]]], what: str, tolerance: str) -> str:
        return ", ".join(
            f"{algorithm} {rows[what][f'equal_{tolerance}_pct']:.1f}"
            for algorithm, rows in groups.items()
        )

    def excess(groups: dict[str, dict[str, dict[str, Any]]], over: str, tolerance: str) -> float:
        key = f"equal_{tolerance}_pct"
        return _mean(rows["subnetwork"][key] - rows[over][key] for rows in groups.values())

    if seeded:
        beyond_init, beyond_seed = (excess(seeded, o, "1e-5") for o in ("init", "another seed"))
        yield Controlled(
            "Masked training ends where full training ends",
            "another seed of full training instead of the init",
            f"agreement {beyond_init:+.1f} points beyond the init's ("
            + shown(seeded, "subnetwork", "1e-5")
            + f" against {shown(seeded, 'init', '1e-5')} %)",
            f"{beyond_seed:+.1f} points ({shown(seeded, 'another seed', '1e-5')} %)",
            _left(beyond_init, beyond_seed),
            "two full runs of different seeds agree by themselves on many weights; the mask's "
            "doing is only what is beyond them",
        )
        fine, coarse = (excess(seeded, "another seed", t) for t in ("1e-5", "1e-4"))
        yield Controlled(
            "… and wholly at a tolerance of 1e-4",
            "another seed of full training",
            f"{shown(seeded, 'subnetwork', '1e-4')} % agree at 1e-4",
            f"another seed: {shown(seeded, 'another seed', '1e-4')} %; beyond it {coarse:+.1f} "
            f"points, at 1e-5 {fine:+.1f}",
            _left(fine, coarse),
            "so coarse a tolerance finds runs equal that have nothing to do with each other's mask",
        )


def _overlap(ours: polars.DataFrame) -> Iterator[Controlled]:
    rows = ours.drop_nulls(["o1_pct", "uniform_o1_pct"]).to_dicts()
    if not rows:
        return
    for chance, words, reading in (
        (
            "per_tensor",
            "chance within each tensor",
            "tensors that change much in one run change much in the other",
        ),
        (
            "by_magnitude",
            "chance matched by magnitude, too",
            "bf16 rounding lets small weights change more easily than large ones, in any run; only "
            "what is beyond this chance is a subnetwork that runs share",
        ),
    ):
        known = [row for row in rows if row[f"{chance}_o1_pct"] is not None]
        if known:
            raw = [row["o1_pct"] - row["uniform_o1_pct"] for row in known]
            rest = [row["o1_pct"] - row[f"{chance}_o1_pct"] for row in known]
            yield Controlled(
                "Subnetworks overlap beyond chance",
                words,
                f"o1 {span(raw, sign=True)} points beyond uniform chance",
                f"{span(rest, sign=True)} points",
                _left(_mean(raw), _mean(rest)),
                reading,
            )


def _distribution(ours: polars.DataFrame) -> Iterator[Controlled]:
    rows = ours.drop_nulls(["learning_rate", "sparsity_pct"]).to_dicts()
    reinforced = [r for r in rows if not _is_supervised(r) and r["in_distribution"]]
    if not reinforced:
        return
    rate = reinforced[0]["learning_rate"]
    supervised = [r for r in rows if _is_supervised(r)]
    own = [r for r in supervised if r["learning_rate"] != rate]
    same = [r for r in supervised if r["learning_rate"] == rate]
    sparse = _mean(r["sparsity_pct"] for r in reinforced)

    def shown(members: list[dict[str, Any]]) -> str:
        return ", ".join(f"{r['label']} {r['sparsity_pct']:.1f} %" for r in members)

    if own and same:
        gaps = [[sparse - r["sparsity_pct"] for r in members] for members in (own, same)]
        yield Controlled(
            "SFT is dense, RL sparse",
            f"one learning rate ({by_hand(rate)})",
            f"{shown(reinforced)}; at their own rates {shown(own)}",
            f"at one rate {shown(same)}",
            _left(*map(_mean, gaps)),
            "the learning rate by itself makes an update dense or sparse",
        )
    others = [r for r in rows if not r["in_distribution"]]
    alike = [r for r in others if r["learning_rate"] == rate]
    mine = [r for r in rows if r["in_distribution"] and r["learning_rate"] == rate]
    if alike and len(others) > len(alike):
        inside = _mean(r["sparsity_pct"] for r in mine)
        yield Controlled(
            "Data out of the model's distribution make updates dense",
            f"one learning rate ({by_hand(rate)})",
            f"in {shown(mine)}; out {shown(others)}",
            f"out {shown(alike)}",
            _left(*(inside - _mean(r["sparsity_pct"] for r in m) for m in (others, alike))),
            "what remains goes one way for one algorithm and may go the other for another",
        )


def _is_supervised(row: dict[str, Any]) -> bool:
    return (row["algorithm"] or "").upper().startswith(SUPERVISED)


_JUDGES: dict[str, Judge] = {
    "table_1_update_sparsity": _sparsity,
    "table_2_update_rank": _rank,
    "table_4_overlap": _overlap,
    "table_5_in_distribution": _distribution,
    "conjecture_1_agreement": _agreement,
}

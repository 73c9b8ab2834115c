"""What the finished tables say about each of the paper's claims, in numbers and in plain words."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import polars

from subnetworks import figures, provenance, tables
from subnetworks.errors import UserError
from subnetworks.results import by_hand

Verdict = Literal["yes", "unclear", "no"]
SUPERVISED = ("SFT", "RFT", "RAFT")
# The name under which tables show a run on random rewards.
PLACEBO = "Placebo"
MARKS = {"yes": "✓", "unclear": "~", "no": "✗"}
"""A sign for each verdict."""
_TWO_SIDED_95 = 1.96


@dataclass(frozen=True)
class Finding:
    """One claim of the paper, or one control of it, held against this experiment.

    Attributes:
        claim: the effect, as the paper states it.
        appears: whether it appears here; `unclear` means within the noise or in part.
        here: our numbers.
        paper: the paper's.
        brief: the claim and its numbers in half a line, for the terminal; empty for lesser ones.
    """

    claim: str
    appears: Verdict
    here: str
    paper: str
    brief: str = ""


def read_table(results: Path, name: str) -> polars.DataFrame | None:
    """A finished table at full precision, or None where the experiment has none of that name."""
    path = results / "tables" / f"{name}.csv"
    if not path.exists():
        return None
    provenance.check(path)
    schema = tables.load(name).SCHEMA
    try:
        return polars.read_csv(path, schema=schema)
    except polars.exceptions.PolarsError as error:
        raise UserError(
            f"{path}: not a table as this version writes it ({error}); "
            f"write it anew: snakemake --cores all --forcerun {name} {path}"
        ) from error


def collect(results: Path) -> list[Finding]:
    """All findings that the tables and the drawn data of the figures in `results` allow.

    Raises:
        UserError: there is not a single table.
    """
    found: list[Finding] = []
    any_table = False
    for name, judge in _JUDGES:
        frame = read_table(results, name)
        if frame is None:
            continue
        any_table = True
        ours = frame.filter(polars.col("source") == "here")
        if not ours.is_empty():
            found += judge(ours)
    if not any_table:
        raise UserError(f"{results / 'tables'}: no table there; make them: snakemake --cores all")
    for name, judge in _DRAWN:
        path = results / "figures" / f"{name}.csv"
        if path.exists():
            drawn = polars.read_csv(path, schema=figures.load(name).SCHEMA)
            if "source" in drawn.columns:
                drawn = drawn.filter(polars.col("source") == "here")
            if not drawn.is_empty():
                found += judge(drawn)
    return found


def _all(conditions: list[bool]) -> Verdict:
    """Yes if all hold, no if none does, unclear if some do."""
    return "yes" if all(conditions) else "unclear" if any(conditions) else "no"


def _graded(excesses: list[float], clear: float) -> Verdict:
    """Yes if all exceed `clear` percentage points, no if none exceeds 0."""
    if all(excess > clear for excess in excesses):
        return "yes"
    return "unclear" if any(excess > 0 for excess in excesses) else "no"


def span(values: Iterable[float], digits: int = 1, sign: bool = False) -> str:
    """`lowest–highest`, or the one number; with signs `lowest to highest`."""
    numbers = list(values)
    low, high = (f"{edge(numbers):{'+' if sign else ''}.{digits}f}" for edge in (min, max))
    shown = low if low == high else f"{low} to {high}" if sign else f"{low}–{high}"
    return shown.replace("-", "−")


def _listed(rows: list[dict[str, Any]], name: str, show: Callable[[dict[str, Any]], str]) -> str:
    return ", ".join(f"{row[name]} {show(row)}" for row in rows)


def _sparsity(ours: polars.DataFrame) -> Iterator[Finding]:
    rows = ours.to_dicts()
    supervised = [r for r in rows if (r["algorithm"] or "").upper().startswith(SUPERVISED)]
    controls = [r for r in rows if (r["algorithm"] or "") == PLACEBO]
    reinforced = [r for r in rows if r not in supervised and r not in controls]
    if not reinforced:
        return
    if supervised:
        densest = max(r["sparsity_pct"] for r in supervised)
        yield Finding(
            "SFT changes nearly all weights, RL far fewer",
            _graded([r["sparsity_pct"] - densest for r in reinforced], clear=10),
            _listed([*supervised, *reinforced], "label", lambda r: f"{r['sparsity_pct']:.1f} %")
            + " of the weights unchanged",
            "SFT 6–15 %, RL 68–96 %",
            f"SFT leaves {span(r['sparsity_pct'] for r in supervised)} % unchanged (6–15), "
            f"RL {span(r['sparsity_pct'] for r in reinforced)} % (68–96)",
        )
    yield Finding(
        "RL leaves most weights unchanged",
        _all([r["sparsity_pct"] > 50 for r in reinforced]),
        "between {:.1f} and {:.1f} %".format(
            min(r["sparsity_pct"] for r in reinforced), max(r["sparsity_pct"] for r in reinforced)
        ),
        "68.5–96.0 %",
    )
    yield Finding(
        "… and not by the tolerance of 1e-5 alone",
        _all([r["bit_equal_pct"] > 0.9 * r["sparsity_pct"] for r in reinforced]),
        _listed(reinforced, "label", lambda r: f"{r['bit_equal_pct']:.1f} %") + " bit-equal",
        "50.4–87.6 % at 1e-8",
    )
    if controls:
        sampled = [r for r in reinforced if r["on_policy"]] or reinforced
        least = min(r["sparsity_pct"] for r in controls)
        yield Finding(
            "Random rewards change fewer weights than real ones (a control of ours)",
            _all([least > r["sparsity_pct"] for r in sampled]),
            _listed([*controls, *sampled], "label", lambda r: f"{r['sparsity_pct']:.1f} %")
            + " of the weights unchanged",
            "–",
            f"random rewards leave {span(r['sparsity_pct'] for r in controls)} % unchanged, "
            f"real ones {span(r['sparsity_pct'] for r in sampled)} %",
        )


def _tolerance(ours: polars.DataFrame) -> Iterator[Finding]:
    rows = ours.drop_nulls(["sparsity_1e-8_pct", "sparsity_1e-6_pct"]).to_dicts()
    if not rows:
        return

    def more(row: dict[str, Any], tolerance: str) -> float:
        return float(row[f"sparsity_{tolerance}_pct"] - row["sparsity_1e-8_pct"])

    yield Finding(
        "Up to 1e-6 the tolerance adds little to sparsity",
        _all([more(row, "1e-6") <= 1.5 for row in rows]),
        "points gained from 1e-8 to 1e-6, to 1e-5: "
        + _listed(rows, "label", lambda r: f"{more(r, '1e-6'):.1f}, {more(r, '1e-5'):.1f}"),
        "0.0–1.4 and 0.4–29.7 points",
    )


def _rank(ours: polars.DataFrame) -> Iterator[Finding]:
    rows = ours.drop_nulls("mean_rank_pct").to_dicts()
    if not rows:
        return
    lowest = min(r["mean_rank_pct"] for r in rows)

    def shown(row: dict[str, Any]) -> str:
        without = row["mean_rank_without_embeddings_pct"]
        aside = "" if without is None else f" ({without:.1f} without embeddings)"
        return f"{row['mean_rank_pct']:.1f} %{aside}"

    yield Finding(
        "Updates are of nearly full rank",
        "yes" if lowest >= 99 else "unclear" if lowest >= 95 else "no",
        "mean rank " + _listed(rows, "label", shown),
        "99.2–99.8 %",
        f"updates have {span(r['mean_rank_pct'] for r in rows)} % of full rank (99.2–99.8)",
    )


def _accuracy(ours: polars.DataFrame) -> Iterator[Finding]:
    wholes = []
    for algorithm in ours["algorithm"].unique(maintain_order=True):
        rows = ours.filter(
            (polars.col("algorithm") == algorithm) & polars.col("group").is_in(["all", "average"])
        )
        wholes += rows.to_dicts()[-1:]
    if not wholes:  # all skipped
        return

    def shown(row: dict[str, Any], key: str) -> str:
        error = row[f"{key}_stderr"]
        return f"{row[key]:+.1f}" + ("" if error is None else f" ± {error:.1f}")

    def noise(row: dict[str, Any], key: str) -> float:
        return _TWO_SIDED_95 * (row[f"{key}_stderr"] or 0)

    over = "points, averaged over benchmarks" if wholes[0]["group"] == "average" else "points"
    if gained := [row for row in wholes if row["gain"] is not None]:
        raised = ours.filter(
            (polars.col("group") == "all")
            & (polars.col("gain") > _TWO_SIDED_95 * polars.col("gain_stderr"))
        ).to_dicts()
        where = _listed(raised, "algorithm", lambda r: f"on {r['benchmark']} {r['gain']:+.1f}")
        yield Finding(
            "RL scores above its start, beyond the noise",
            _all([row["gain"] > noise(row, "gain") for row in gained]),
            _listed(gained, "algorithm", lambda r: shown(r, "gain"))
            + f" {over}; beyond noise: {where or 'on no benchmark'}",
            "(its premise)",
            f"RL scores {span((r['gain'] for r in gained), sign=True)} points over its start",
        )
    better = [r["algorithm"] for r in wholes if r["difference"] > noise(r, "difference") > 0]
    yield Finding(
        "Training within the subnetwork scores as well as in full",
        _all([row["difference"] >= -noise(row, "difference") for row in wholes]),
        _listed(wholes, "algorithm", lambda r: shown(r, "difference"))
        + f" {over}; "
        + (f"better beyond noise: {', '.join(better)}" if better else "none better beyond noise"),
        "DPO +1.6, PRIME +2.4 (single runs)",
        f"the subnetwork scores {span((r['difference'] for r in wholes), sign=True)} points "
        "against full training (+1.6, +2.4)",
    )


def _overlap(ours: polars.DataFrame) -> Iterator[Finding]:
    rows = ours.to_dicts()
    magnitude = all(r["by_magnitude_o1_pct"] is not None for r in rows)
    chances = [
        ("Subnetworks of two runs overlap more than by chance", "uniform", "uniform chance"),
        ("… also than by chance matched by magnitude", "by_magnitude", "chance by magnitude"),
    ]
    for claim, chance, words in chances:
        needed = ["o1_pct", "o2_pct", f"{chance}_o1_pct", f"{chance}_o2_pct"]
        known = [r for r in rows if None not in (r[key] for key in needed)]
        if not known:
            continue
        yield Finding(
            claim,
            _graded(
                [r[f"{s}_pct"] - r[f"{chance}_{s}_pct"] for r in known for s in ("o1", "o2")],
                clear=1,
            ),
            "o1: "
            + _listed(
                known,
                "label",
                partial(_against, f"{chance}_o1_pct"),
            )
            + f" ({words})",
            "seed 60.5 against 36.7 %" if chance == "uniform" else "not tested",
            "" if chance == "uniform" and magnitude else _brief_overlap(known, magnitude),
        )


def _brief_overlap(rows: list[dict[str, Any]], magnitude: bool) -> str:
    words = f"masks overlap by {span(r['o1_pct'] for r in rows)} %, "
    words += f"chance {span(r['uniform_o1_pct'] for r in rows)} (60.5, 36.7)"
    if magnitude:
        words += f", matched by magnitude {span(r['by_magnitude_o1_pct'] for r in rows)}"
    return words


def _against(chance: str, row: dict[str, Any]) -> str:
    return f"{row['o1_pct']:.1f} against {row[chance]:.1f} %"


def _distribution(ours: polars.DataFrame) -> Iterator[Finding]:
    def judged(
        claim: str, rows: list[dict[str, Any]], paper: str, brief: bool = False
    ) -> Iterator[Finding]:
        own = [row["sparsity_pct"] for row in rows if row["in_distribution"]]
        others = [row["sparsity_pct"] for row in rows if not row["in_distribution"]]
        if own and others:
            yield Finding(
                claim,
                _graded([mine - other for mine in own for other in others], clear=10),
                "in: "
                + _listed([r for r in rows if r["in_distribution"]], "label", _unchanged)
                + "; out: "
                + _listed([r for r in rows if not r["in_distribution"]], "label", _unchanged),
                paper,
                f"own data leave {span(own)} % unchanged, others' {span(others)} % (69–91, 7–8)"
                if brief
                else "",
            )

    rows = ours.to_dicts()
    yield from judged(
        "In-distribution data leave updates sparse, out-of-distribution data dense",
        rows,
        "in 69–91 %, out 7–8 %",
        brief=True,
    )
    rates = Counter(row["learning_rate"] for row in rows if row["learning_rate"] is not None)
    if rates:
        rate, _ = rates.most_common(1)[0]
        alike = [row for row in rows if row["learning_rate"] == rate]
        yield from judged(f"… also at one learning rate ({by_hand(rate)})", alike, "not tested")


def _ablations(ours: polars.DataFrame) -> Iterator[Finding]:
    blocks = {
        name: ours.filter(ablation=name).to_dicts()
        for name in ours["ablation"].unique(maintain_order=True)
    }
    pairs = []
    for name, rows in blocks.items():
        on = [row for row in rows if row["regularised"]]
        off = [row for row in rows if row["regularised"] is False]
        if on and off:
            changes = [row["change_stderr_pct"] for row in rows[1:]]
            noise = None if None in changes else _two_sided(rows[1]) * max(changes)
            pairs.append((name, on[0]["sparsity_pct"], off[0]["sparsity_pct"], noise))
    if pairs:
        gains = [with_it - without for _, with_it, without, _ in pairs]
        far = any(gain > 10 for gain in gains)
        near = all(
            noise is not None and gain <= noise
            for gain, (*_, noise) in zip(gains, pairs, strict=True)
        )
        yield Finding(
            "Neither KL nor gradient clipping is what makes RL sparse",
            "no" if far else "yes" if near else "unclear",
            "; ".join(
                f"{name}: {with_it:.1f} % with, {without:.1f} % without"
                + ("" if noise is None else f" (noise of a difference, 95 %: {noise:.1f} points)")
                for name, with_it, without, noise in pairs
            ),
            "KL 69.8 with, 68.8 % without; clipping: no number",
        )
    for rows in blocks.values():
        if len({row["batch_size"] for row in rows}) == 2:
            yield from _batches(rows)


def _batches(rows: list[dict[str, Any]]) -> Iterator[Finding]:
    """A small batch, a larger one in fewer steps, and the small one after so few steps."""
    small = max(rows, key=lambda row: (-row["batch_size"], row["steps"] or 0))
    large = max(rows, key=lambda row: row["batch_size"])
    gain = large["sparsity_pct"] - small["sparsity_pct"]

    def shown(row: dict[str, Any]) -> str:
        steps = "" if row["steps"] is None else f", {row['steps']} steps"
        return f"batch {row['batch_size']}{steps} {row['sparsity_pct']:.1f} %"

    yield Finding(
        "A larger batch leaves DPO sparser",
        _graded([gain], clear=1),
        f"{shown(small)}; {shown(large)}",
        "batch 32 63.3, batch 128 81.4 %",
    )
    if large["steps"] is None:
        return
    alike = [row for row in rows if row["steps"] == large["steps"] and row is not large]
    if alike and gain > 0:
        by_steps = alike[0]["sparsity_pct"] - small["sparsity_pct"]
        yield Finding(
            "… since it makes fewer steps, not by its size (a control of ours)",
            "yes" if by_steps > 0.8 * gain else "unclear" if by_steps > 0.2 * gain else "no",
            shown(alike[0]),
            "not tested",
        )


# Two-sided 95 % quantiles of Student's t, by degrees of freedom.
_STUDENT = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31}


def _two_sided(row: dict[str, Any]) -> float:
    return _STUDENT.get(row["degrees_of_freedom"], _TWO_SIDED_95)


def _unchanged(row: dict[str, Any]) -> str:
    return f"{row['sparsity_pct']:.1f} %"


def _agreement(ours: polars.DataFrame) -> Iterator[Finding]:
    pairs = ours.filter(polars.col("compared") == "full and subnetwork").to_dicts()
    beaten, parts, trivial = [], [], []
    for row in pairs:
        others = ours.filter(
            (polars.col("algorithm") == row["algorithm"])
            & (polars.col("compared") != "full and subnetwork")
        ).to_dicts()
        trivial += [other["equal_1e-5_pct"] for other in others]
        beaten += [row["equal_1e-5_pct"] > other["equal_1e-5_pct"] for other in others]
        against = ", ".join(
            f"{other['compared'].removeprefix('full and ')} {other['equal_1e-5_pct']:.1f}"
            for other in others
        )
        parts.append(
            f"{row['algorithm']} {row['equal_1e-5_pct']:.1f} % at 1e-5"
            + (f" ({against})" if against else "")
            + f", {row['equal_1e-4_pct']:.1f} % at 1e-4"
        )
    yield Finding(
        "Masked training ends where full training ends (more than trivially)",
        _all(beaten) if beaten else "unclear",
        "; ".join(parts),
        "DPO 94.0, PRIME 90.5 % at 1e-5; 100 % at 1e-4",
        f"masked and full training agree on {span(r['equal_1e-5_pct'] for r in pairs)} % "
        "(90.5–94.0)" + (f"; init, other seeds {span(trivial)}" if trivial else ""),
    )
    if moved := [r for r in pairs if r["outside_moved"] is not None]:
        yield Finding(
            "Masked-out weights stay bit-identical (a check of ours)",
            _all([row["outside_moved"] == 0 for row in moved]),
            _listed(moved, "algorithm", lambda r: f"{r['outside_moved']:,} moved"),
            "by construction",
        )


def _loss(drawn: polars.DataFrame) -> Iterator[Finding]:
    for algorithm in drawn.filter(measure="loss")["algorithm"].unique(maintain_order=True):
        differences = drawn.filter(algorithm=algorithm, measure="loss")["difference"]
        late = differences.tail(max(2, differences.len() // 2))
        mean = float(late.mean())  # type: ignore[arg-type]
        error = float(late.std() or 0) / math.sqrt(late.len())  # type: ignore[arg-type]
        low = mean < -_TWO_SIDED_95 * error
        yield Finding(
            f"The loss of masked {algorithm} lies below the full run's",
            "yes" if low else "no" if mean > _TWO_SIDED_95 * error else "unclear",
            f"{mean:+.2g} ± {error:.1g} over the second half of training",
            "below throughout (DPO)",
        )


def _by_label(drawn: polars.DataFrame) -> Iterator[tuple[str, polars.DataFrame]]:
    for label in drawn["label"].unique(maintain_order=True):
        yield label, drawn.filter(label=label)


def _parts(drawn: polars.DataFrame) -> Iterator[Finding]:
    runs: list[dict[str, Any]] = [
        {"label": label, **dict(zip(rows["part"], rows["pct"], strict=True))}
        for label, rows in _by_label(drawn)
    ]
    yield Finding(
        "Most weights are never updated",
        _all([run["never"] > 50 for run in runs]),
        _listed(runs, "label", lambda run: f"{run['never']:.1f} %"),
        "72 % (PRIME)",
    )
    yield Finding(
        "… and few were updated and cancelled out",
        _all([run["cancelled"] <= 10 for run in runs]),
        _listed(runs, "label", lambda run: f"{run['cancelled']:.2f} %") + " seen between saves",
        "8 % (PRIME)",
    )


def _course(drawn: polars.DataFrame) -> Iterator[Finding]:
    runs: list[dict[str, Any]] = []
    for label, rows in _by_label(drawn.drop_nulls("sparsity_pct").sort("step")):
        values = rows["sparsity_pct"].to_list()
        middle = values[len(values) // 2]
        early, late = values[0] - middle, middle - values[-1]
        falls = all(a >= b for a, b in pairwise(values))
        runs.append({"label": label, "falls": falls, "early": early, "late": late, "all": values})
    yield Finding(
        "Sparsity falls as training goes on",
        _all([run["falls"] for run in runs]),
        _listed(runs, "label", lambda run: f"{run['all'][0]:.0f} → {run['all'][-1]:.1f} %"),
        "99.6 → 82.3 % (PRIME, digitised)",
    )
    yield Finding(
        "… and ever more slowly",
        _all([run["early"] > run["late"] for run in runs]),
        _listed(runs, "label", lambda run: f"{run['early']:.1f}, then {run['late']:.1f} points")
        + " in the halves of training",
        "12.4, then 5.3 points (PRIME, digitised)",
    )


def _outside(drawn: polars.DataFrame) -> Iterator[Finding]:
    runs: list[dict[str, Any]] = [
        {"label": label, "most": float(rows["outside_final_pct"].max())}  # type: ignore[arg-type]
        for label, rows in _by_label(drawn.drop_nulls("outside_final_pct"))
    ]
    yield Finding(
        "Few weights change on the way that are back at the end",
        _all([run["most"] <= 10 for run in runs]),
        _listed(runs, "label", lambda run: f"at most {run['most']:.2f} %") + " at any saved step",
        "at most 3.2 % (PRIME, digitised)",
    )


def _intervals(drawn: polars.DataFrame) -> Iterator[Finding]:
    saves: list[dict[str, Any]] = []
    rises: list[dict[str, Any]] = []
    for label, rows in _by_label(drawn.sort("step")):
        saved = rows.drop_nulls("sparsity_consecutive_pct")
        last = saved.row(-1, named=True)
        between, since = last["sparsity_consecutive_pct"], last["sparsity_pct"]
        saves.append({"label": label, "between": between, "since": since})
        accuracy = rows["accuracy_pct"].drop_nulls()
        quarter = max(2, accuracy.len() // 4)
        early, late = accuracy.head(quarter), accuracy.tail(quarter)
        gain = float(late.mean()) - float(early.mean())  # type: ignore[arg-type]
        spread = [float(part.std() or 0) ** 2 / part.len() for part in (early, late)]  # type: ignore[arg-type]
        rises.append({"label": label, "gain": gain, "error": math.sqrt(sum(spread))})
    yield Finding(
        "From save to save few weights change, fewer than since the init (at the end)",
        _all([run["between"] > run["since"] for run in saves]),
        _listed(saves, "label", lambda run: f"{run['between']:.1f} % kept since the last save"),
        "drawn (PRIME), no values",
    )
    yield Finding(
        "Accuracy in training rises, beyond the noise",
        _all([run["gain"] > _TWO_SIDED_95 * run["error"] for run in rises]),
        _listed(rises, "label", lambda run: f"{run['gain']:+.1f} ± {run['error']:.1f} points")
        + " from the first quarter to the last",
        "drawn (PRIME), no values",
    )


_DRAWN: tuple[tuple[str, Callable[[polars.DataFrame], Iterator[Finding]]], ...] = (
    ("figure_2_gradient_shares", _parts),
    ("figure_4_training_loss", _loss),
    ("figure_5_sparsity_over_training", _course),
    ("figure_6_outside_final_mask", _outside),
    ("figure_7_accuracy_and_intervals", _intervals),
)
_JUDGES: tuple[tuple[str, Callable[[polars.DataFrame], Iterator[Finding]]], ...] = (
    ("table_1_update_sparsity", _sparsity),
    ("table_6_tolerance_sweep", _tolerance),
    ("table_2_update_rank", _rank),
    ("conjecture_1_agreement", _agreement),
    ("table_3_subnetwork_accuracy", _accuracy),
    ("table_4_overlap", _overlap),
    ("table_5_in_distribution", _distribution),
    ("section_6_ablations", _ablations),
)

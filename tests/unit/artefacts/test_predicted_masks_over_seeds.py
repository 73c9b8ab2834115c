"""Masks known before training, over three seeds: as good as all weights, better than chance."""

import json
from pathlib import Path
from typing import Any

import pytest

polars = pytest.importorskip("polars")
pytest.importorskip("jinja2")
stats = pytest.importorskip("scipy.stats")

from subnetworks import artefacts  # noqa: E402
from subnetworks.artefacts import Table  # noqa: E402
from subnetworks.core.results import Context  # noqa: E402

NAME = "control_predicted_masks"
QUESTIONS = 400


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def trained(folder: Path, run: str, loss: float, wrong: set[int]) -> None:
    """A run of four steps whose loss ends at `loss`, with rewards (DPO logs its own), and its
    answers."""
    lines = [f"{i},{at},0.5" for i, at in enumerate([0.7, 0.6, loss, loss], 1)]
    write(folder / "runs" / run / "log.csv", "\n".join(["step,loss,reward", *lines]) + "\n")
    right = [float(i not in wrong) for i in range(QUESTIONS)]
    score = {"score": sum(right) / QUESTIONS, "stderr": 0.01, "n": QUESTIONS}
    write(folder / "evaluation" / run / "math500.json", json.dumps(score))
    rows = {"doc_id": range(QUESTIONS), "row": range(QUESTIONS), "group": "", "gold": "1"}
    polars.DataFrame({**rows, "correct": right}, strict=False).write_parquet(
        folder / "evaluation" / run / "math500.samples.parquet"
    )


def overlap(folder: Path, name: str, density: int) -> None:
    shares = {"o1": 0.5, "o2": 0.5}
    content = {"n": 1000, "changed": [500, density], "intersection": 1, **shares, "chance": shares}
    write(folder / "overlaps" / f"{name}.json", json.dumps(content))


FULL = (0.30, 0.31, 0.33)
# What each mask's losses lie above full training's, and its wrong answers.
APART = {"null": (0.001, 0.0012, 0.0008), "square": (0.1, 0.11, 0.105), "low": (0.03, -0.03, 0.01)}
WRONG = {"null": set(range(1, 81)), "square": set(range(160)), "low": set(range(40, 120))}


def made(folder: Path, online: bool = False) -> list[dict[str, Any]]:
    """Results of three seeds; the specifications that show them."""
    specs = []
    for seed, full in enumerate(FULL):
        rows = [{"label": "everything", "kind": "full", "trained": f"full{seed}"}]
        trained(folder, f"full{seed}", full, set(range(80)))
        for name, apart in APART.items():
            run = f"{name}{seed}"
            trained(folder, run, full + apart[seed], WRONG[name])
            rows.append({"label": name, "kind": "predicted", "trained": run})
        rows = [{**row, "of": f"full{seed}", "algorithm": "DPO", "online": online} for row in rows]
        specs.append({"benchmark": "math500", "masks": rows})
    return specs


def built(folder: Path, specs: list[dict[str, Any]]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The rows over seeds by their labels, and what is said of them."""
    module = artefacts.load(NAME, Table)
    written = module.write(Context(folder, folder, specs[0], specs[1:]), folder / "tables")
    frame = polars.read_csv(written[0], schema=module.types)
    return {row["label"]: row for row in frame.to_dicts()}, list(module.said(frame))


def test_masks_are_as_good_as_all_weights_within_margins(tmp_path: Path) -> None:
    rows, said = built(tmp_path, made(tmp_path))
    # Two trainings of that spread are so far apart: the root of the mean square over pairs.
    pairs = [(a - b) ** 2 for a in FULL for b in FULL if a < b]
    margin = (sum(pairs) / len(pairs)) ** 0.5
    assert rows["null"]["loss_margin"] == pytest.approx(margin)
    null = stats.ttest_1samp(APART["null"], margin, alternative="less").pvalue
    low = stats.ttest_1samp(APART["low"], margin, alternative="less").pvalue
    assert null < 0.05 < low
    standings = {label: (row["standing"], row["loss_standing"]) for label, row in rows.items()}
    assert standings == {
        "everything": (None, None),
        "null": ("equivalent", "equivalent"),
        "square": ("worse", "worse"),
        # Forty questions lost and forty won: 0 ± 2.2 points.
        "low": ("undecided", "undecided"),
    }
    assert rows["square"]["loss_difference"] == pytest.approx(0.105)
    assert said == [
        "DPO: in loss within the seeds' noise of full training, and in accuracy within the "
        "margin: null."
    ]


def test_a_margin_of_accuracy_may_be_given(tmp_path: Path) -> None:
    specs = [spec | {"margin": 8} for spec in made(tmp_path)]
    rows, _ = built(tmp_path, specs)
    assert rows["low"]["standing"] == "equivalent" and rows["square"]["standing"] == "worse"


def test_the_loss_of_an_online_algorithm_says_nothing(tmp_path: Path) -> None:
    rows, _ = built(tmp_path, made(tmp_path, online=True))
    assert {row["loss"] for row in rows.values()} == {None}
    assert {row["loss_standing"] for row in rows.values()} == {None}
    assert rows["null"]["standing"] == "equivalent"


# Losses above full training's within masks as dense that know nothing of the run.
IGNORANT = {"magnitude": (0.005, 0.0054, 0.0049), "random": (0.2, 0.2, 0.2)}


def beside_ignorant(folder: Path, online: bool = False) -> list[dict[str, Any]]:
    """`made`, all masks of about 200 entries, with such masks, and others of 100."""
    specs = made(folder, online)
    for name, density in {"as_many": 200, "nearly": 201, "fewer": 100}.items():
        overlap(folder, name, density)
    for seed, (full, spec) in enumerate(zip(FULL, specs, strict=True)):
        common = {"of": f"full{seed}", "algorithm": "DPO", "kind": "ignorant", "online": online}
        for row in spec["masks"][1:]:
            row["overlap"] = "as_many"
        for name, apart in IGNORANT.items():
            run = f"{name}{seed}"
            # As many wrong answers as `square`, but for one more.
            wrong = set(range(159 if name == "random" else 161))
            trained(folder, run, full + apart[seed], wrong)
            row = {"label": name, "trained": run, "overlap": "nearly"}
            spec["masks"].append({**common, **row})
        trained(folder, f"sparse{seed}", full, set())
        row = {"label": "sparse", "trained": f"sparse{seed}", "overlap": "fewer"}
        spec["masks"].append({**common, **row})
    return specs


def test_masks_are_better_than_all_ignorant_ones_as_dense(tmp_path: Path) -> None:
    rows, said = built(tmp_path, beside_ignorant(tmp_path))

    def p(label: str) -> float:
        """The worst of both comparisons; those of 100 entries are none."""
        return max(
            stats.ttest_1samp(
                [theirs - ours for theirs, ours in zip(apart, APART[label], strict=True)],
                0,
                alternative="greater",
            ).pvalue
            for apart in IGNORANT.values()
        )

    # Holm's correction of three: the smallest is multiplied by three.
    assert p("null") < p("low") < p("square") and 3 * p("null") < 0.05
    assert rows["null"]["p_better"] == pytest.approx(3 * p("null"))
    # These overlaps were compared without weights: uniform chance is none by magnitude.
    assert rows["null"]["recall_pct"] == 50 and rows["null"]["chance_pct"] is None
    assert rows["low"]["p_better"] == pytest.approx(min(1, 2 * p("low")))
    shown = {label: row["better"] for label, row in rows.items()}
    assert shown == {
        **{"everything": None, "magnitude": None, "random": None, "sparse": None},
        **{"null": "yes", "square": "not shown", "low": "not shown"},
    }
    assert said[-1] == "DPO: better than masks as dense that know nothing of the run: null."


def test_online_masks_are_compared_in_accuracy(tmp_path: Path) -> None:
    rows, _ = built(tmp_path, beside_ignorant(tmp_path, online=True))
    # 80 wrong answers are fewer than 159 and 161; 160 are not beyond one question's noise.
    shown = {label: rows[label]["better"] for label in APART}
    assert shown == {"null": "yes", "low": "yes", "square": "not shown"}

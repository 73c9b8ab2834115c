"""Predicted beside measured sparsity, on numbers small enough to count by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

polars = pytest.importorskip("polars")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from fabricate import write_json as write  # noqa: E402

from subnetworks import artefacts  # noqa: E402
from subnetworks.artefacts import Figure, Table, style  # noqa: E402
from subnetworks.core.results import Context  # noqa: E402


def run(
    folder: Path, name: str, predicted: list[float], measured: list[float], **more: Any
) -> None:
    """A run of 100 weights, 60 of them inner ones, by its sparsities at steps 10, 20, …."""
    steps = [{"step": 10 * k, "sparsity": share} for k, share in enumerate(predicted, 1)]
    expected = {
        "n": 100,
        "sparsity": predicted[-1],
        "without_embeddings": {"n": 60, "sparsity": predicted[-1] - 0.1},
        "two_runs": {"o1": 0.6},
        "steps": steps,
        "mask": None,
        **more,
    }
    write(folder / "predictions" / f"{name}.json", expected)
    found = {"n": 100, "equal": 50, "bit_equal": 50, "isclose_bf16": {"1e-5": 50}}
    found |= {"sparsity": measured[-1], "without_embeddings": {"n": 60, "sparsity": 0.25}}
    write(folder / "updates" / f"{name}.json", found)
    kept = [{"step": 10 * k, "sparsity": share} for k, share in enumerate(measured, 1)]
    followed = {"n": 100, "never": 1, "cancelled": 1, "final": 98, "steps": kept}
    write(folder / "trajectories" / f"{name}.json", followed)


@pytest.fixture
def results(tmp_path: Path) -> Context:
    run(tmp_path, "grpo", [0.9, 0.8, 0.75], [0.8, 0.6, 0.5])
    run(tmp_path, "placebo", [0.8], [0.775])
    run(tmp_path, "inside", [0.9], [0.5], mask="grpo.safetensors")
    overlap = {"n": 100, "changed": [50, 40], "intersection": 36, "o1": 0.72, "o2": 0.9}
    write(tmp_path / "overlaps" / "seeds.json", {**overlap, "chance": {}})
    shown = {
        "runs": [
            {"run": "grpo", "followed": "grpo", "overlap": "seeds", "algorithm": "GRPO"},
            {"run": "placebo", "algorithm": "Placebo", "label": "coins"},
            {"run": "inside", "algorithm": "GRPO"},
        ]
    }
    return Context(tmp_path, tmp_path, shown)


def test_every_run_and_step_is_compared_with_its_prediction(results: Context) -> None:
    figure = artefacts.load("control_null_model", Figure)
    with style.house_style():
        _, frame = figure.draw(results)
    rows = frame.to_dicts()
    found = [(row["run"], row["step"], row["is_end"], round(row["error"], 6)) for row in rows]
    assert found == [
        ("grpo", 10, False, 10.0),
        ("grpo", 20, False, 20.0),
        ("grpo", 30, True, 25.0),
        ("placebo", 10, True, 2.5),
        ("inside", 10, True, 40.0),
    ]
    assert [row["is_masked"] for row in rows] == [False] * 4 + [True]
    assert rows[2]["error_without_embeddings"] == pytest.approx(40)
    assert rows[2]["predicted_overlap_pct"] == pytest.approx(60)
    assert rows[2]["measured_overlap_pct"] == pytest.approx(81)
    assert rows[0]["measured_overlap_pct"] is None
    assert list(figure.said(frame)) == [
        "Of 2 runs that train all weights, 1 end within 3 points of the prediction (errors 2.5 to "
        "25.0 points): coins.",
        "GRPO (grpo): another seed's run shares 81 % of the changed weights, where noise alone "
        "would give 60 %.",
    ]


def test_the_first_gradients_signal_is_compared_beside_noise(
    results: Context, tmp_path: Path
) -> None:
    signal = {"n": 100, "sparsity": 0.52, "without_embeddings": {}, "two_runs": {"o1": 0.85}}
    steps = [{"step": 10, "sparsity": 0.78}, {"step": 20, "sparsity": 0.6}]
    signal |= {"steps": [*steps, {"step": 30, "sparsity": 0.52}], "mask": None}
    write(tmp_path / "predictions" / "grpo" / "16.json", signal)
    first, *others = results.spec["runs"]
    context = replace(results, spec={"runs": [{**first, "signal": "grpo"}, *others]})
    figure = artefacts.load("control_null_model", Figure)
    with style.house_style():
        drawing, frame = figure.draw(context)
    assert len(drawing.axes) == 3
    found = frame.filter(run="grpo")["error_with_signal"].to_list()
    assert found == pytest.approx([-2.0, 0.0, 2.0])
    assert frame.filter(run="placebo")["with_signal_pct"].to_list() == [None]
    assert frame["error"].to_list() == pytest.approx([10.0, 20.0, 25.0, 2.5, 40.0])
    said = list(figure.said(frame))
    assert said[1:] == [
        "Of 1 runs that train all weights, 1 end within 3 points of that with the first gradients' "
        "signal (errors 2.0 points).",
        "GRPO (grpo): another seed's run shares 81 % of the changed weights, where noise alone "
        "would give 60 % and the signal 85 %.",
    ]


def test_the_table_has_a_row_a_run(results: Context, tmp_path: Path) -> None:
    table = artefacts.load("control_null_model_runs", Table)
    frame = table.build(results)
    assert frame["run"].to_list() == ["grpo", "placebo", "inside"]
    assert frame["is_end"].all()
    table.write(results, tmp_path)
    assert "| +25.0 |" in (tmp_path / "control_null_model_runs.md").read_text()

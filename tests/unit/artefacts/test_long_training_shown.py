"""Sparsity over long training, on curves whose last fifth is known."""

from pathlib import Path
from typing import Any

import pytest

polars = pytest.importorskip("polars")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
stats = pytest.importorskip("scipy.stats")

from fabricate import write_json as write  # noqa: E402

from subnetworks import artefacts  # noqa: E402
from subnetworks.artefacts import Figure, style  # noqa: E402
from subnetworks.artefacts.published import Published  # noqa: E402
from subnetworks.core.results import Context  # noqa: E402


def run(folder: Path, name: str, measured: list[float], predicted: list[float]) -> None:
    """A run that keeps every tenth step."""
    found, expected = (
        [{"step": 10 * k, "sparsity": share} for k, share in enumerate(shares, 1)]
        for shares in (measured, predicted)
    )
    kept = {"n": 100, "never": 1, "cancelled": 1, "final": 98, "steps": found}
    write(folder / "trajectories" / f"{name}.json", kept)
    said = {"n": 100, "sparsity": predicted[-1], "without_embeddings": {}, "two_runs": {}}
    write(folder / "predictions" / f"{name}.json", {**said, "steps": expected})


def drawn(
    folder: Path, long: list[float], decayed: list[float], since: float = 0.35
) -> tuple[Any, Any, Figure]:
    noise = [0.95, 0.92, 0.9, 0.885, 0.87]
    run(folder, "long", long, noise)
    run(folder, "decayed", decayed, noise)
    run(folder, "half", [0.7, 0.6], [0.95, 0.92])
    run(folder, "restarted", [0.8, 0.7], [0.95, 0.92])
    counts = {"n": 100, "equal": 35, "bit_equal": 35, "isclose_bf16": {"1e-5": 35}}
    write(folder / "updates" / "since.json", {**counts, "sparsity": since})
    spec = {
        "runs": [
            {"run": "long", "algorithm": "DPO"},
            {"run": "decayed", "algorithm": "DPO", "schedule": "linear"},
            {
                **{"run": "restarted", "algorithm": "DPO", "label": "restarted"},
                **{"after": "half", "since": "since"},
            },
        ]
    }
    artefact = artefacts.load("control_long_training", Figure)
    with style.house_style():
        figure, frame = artefact.draw(Context(folder, folder, spec))
    return figure, frame, artefact


def test_steps_count_from_both_starts_and_stand_beside_predictions(tmp_path: Path) -> None:
    figure, frame, _ = drawn(tmp_path, [0.7, 0.6, 0.5, 0.45, 0.42], [0.7, 0.6, 0.55, 0.53, 0.529])
    rows = [row for row in frame.to_dicts() if row["run"] == "restarted"]
    keys = ("step", "step_in_all", "sparsity_pct", "predicted_pct", "since_first_pct")
    assert [[row[key] for key in keys] for row in rows] == [
        [0, 20, 100, 100, pytest.approx(60)],
        [10, 30, pytest.approx(80), pytest.approx(95), None],
        [20, 40, pytest.approx(70), pytest.approx(92), pytest.approx(35)],
    ]
    assert frame.filter(run="long")["step_in_all"].to_list() == [0, 10, 20, 30, 40, 50]
    assert frame["schedule"].unique(maintain_order=True).to_list() == ["constant", "linear"]
    # At the left the restart has its ends alone, at the right its own curve.
    left, right = figure.axes
    ends = [line for line in left.lines if line.get_label() == "restarted"]
    assert [list(line.get_xdata()) for line in ends] == [[20, 40]]
    assert len(right.lines) == 6


@pytest.mark.parametrize(
    ("long", "verdict"),
    [([0.5, 0.45, 0.42, 0.41, 0.406], "yes"), ([0.5, 0.45, 0.42, 0.41, 0.402], "unclear"),
     ([0.5, 0.45, 0.42, 0.41, 0.39], "no")],
)  # fmt: skip
def test_the_last_fifth_says_whether_sparsity_saturates(
    long: list[float], verdict: str, tmp_path: Path
) -> None:
    run_ends = [0.7, 0.6, 0.55, 0.53, 0.529]
    _, frame, artefact = drawn(tmp_path, long, run_ends)
    # A restart, which falls by ten points, is none of the long runs.
    constant, decaying, _ = artefact.claims(frame)
    assert (constant.appears, decaying.appears) == (verdict, "yes")
    fall = 100 * (long[-2] - long[-1])
    assert f"falls by {fall:.2f} points" in constant.here
    assert "(noise alone: by 1.50)" in constant.here
    assert constant.margin == pytest.approx(0.5 - fall)


def test_the_papers_run_is_quoted_by_the_same_rule(tmp_path: Path) -> None:
    digitised = tmp_path / "figure5_prime_sparsity_by_step_digitised.csv"
    digitised.write_text("step,sparsity_pct\n15,99.6\n79,93.3\n81,92.0\n100,90.0\n")
    artefact = artefacts.load("control_long_training", Figure)
    assert artefact.quoted(Published(tmp_path)) == {"fall": "3.3"}


def test_a_restart_is_judged_from_the_first_start(tmp_path: Path) -> None:
    flat = [0.5, 0.45, 0.42, 0.41, 0.41]
    for since, verdict in ((0.597, "yes"), (0.35, "no")):
        _, frame, artefact = drawn(tmp_path, flat, flat, since)
        constant, _, restart = artefact.claims(frame)
        assert restart.appears == verdict
        assert restart.here.startswith(f"restarted 60.0 → {100 * since:.1f} %")
        assert constant.appears == "yes"
        assert list(artefact.said(frame))[-1] == (
            "restarted: of the weights of the first start 60.0 % were left unchanged when it "
            f"began, and {100 * since:.1f} % at its end."
        )


def test_over_seeds_means_are_drawn_with_their_intervals(tmp_path: Path) -> None:
    noise = [0.95, 0.92, 0.9, 0.885, 0.87]
    names, ends = ["long", "long_seed1", "long_seed2"], [0.40, 0.42, 0.47]
    for name, end in zip(names, ends, strict=True):
        run(tmp_path, name, [0.7, 0.6, 0.55, 0.5, end], noise)
    first, *further = [{"runs": [{"run": name, "algorithm": "DPO"}]} for name in names]
    artefact = artefacts.load("control_long_training", Figure)
    with style.house_style():
        figure, frame, _ = artefact.draw_over(Context(tmp_path, tmp_path, first, turns=further))
    assert frame["sparsity_pct"][-1] == pytest.approx(43)
    low, high = stats.ttest_1samp([100 * end for end in ends], 0).confidence_interval()
    # At both sides one interval, at the end: nothing else varies.
    for axes in figure.axes:
        (bars,) = axes.containers
        (path,) = bars.lines[2][0].get_paths()
        assert path.vertices[:, 1] == pytest.approx([low, high])
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "95 % interval over 3 seeds" in words

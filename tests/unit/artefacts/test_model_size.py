"""What grows with the size of a base: slopes by hand, and their intervals over seeds."""

import json
from pathlib import Path
from typing import Any

import pytest

polars = pytest.importorskip("polars")
pytest.importorskip("matplotlib")
stats = pytest.importorskip("scipy.stats")

from fabricate import write_result as write  # noqa: E402
from matplotlib.text import Text  # noqa: E402

from subnetworks import artefacts  # noqa: E402
from subnetworks.artefacts import Figure, style  # noqa: E402
from subnetworks.core.results import Context  # noqa: E402

NAME = "control_model_size"
PUBLISHED = Path(__file__).resolve().parents[3] / "workflow" / "published"
SIZES = {"small": 1_000, "middle": 10_000, "large": 100_000}


def update(folder: Path, name: str, n: int, sparsity: float) -> None:
    counts = {"n": n, "equal": 0, "bit_equal": 0, "isclose_bf16": {}}
    write(folder, f"updates/{name}.json", {**counts, "sparsity": sparsity})
    write(folder, f"updates/{name}.rank.json", {"mean_rank": 0.99})


def make(folder: Path, seed: int, sparsities: dict[str, float]) -> dict[str, Any]:
    """Results of one seed; the specification that shows them."""
    rows = []
    for i, (size, n) in enumerate(SIZES.items()):
        name = f"dpo_{size}_seed{seed}"
        update(folder, name, n, sparsities[size])
        update(folder, f"{name}_agreement", n, 0.9 + 0.01 * i)
        update(folder, f"{name}_other", n, 0.8)
        shares = {"o1": 0.8, "o2": 0.6, "chance": {"o1": 0.3, "o2": 0.3}}
        counts = {"n": n, "changed": [4, 4], "intersection": 2}
        chance = {"chance_by_magnitude": {"o1": 0.5 - 0.1 * i, "o2": 0.5 - 0.1 * i}}
        write(folder, f"overlaps/{name}.json", {**counts, **shares, **chance})
        rows.append(
            {
                "update": name,
                "algorithm": "DPO",
                "overlap": name,
                "agreement": f"{name}_agreement",
                "another_seed": f"{name}_other",
            }
        )
    # The order of the file does not matter.
    return {"updates": rows[::-1]}


SPARSITIES = [
    {"small": 0.50, "middle": 0.60, "large": 0.64},
    {"small": 0.51, "middle": 0.60, "large": 0.67},
    {"small": 0.52, "middle": 0.61, "large": 0.65},
]


def test_measures_and_their_slopes(tmp_path: Path) -> None:
    spec = make(tmp_path, 0, SPARSITIES[0])
    made = artefacts.load(NAME, Figure)
    with style.house_style():
        figure, frame = made.draw(Context(tmp_path, PUBLISHED, spec))
    assert frame["n"].to_list() == list(SIZES.values())
    assert frame["sparsity_pct"].to_list() == pytest.approx([50, 60, 64])
    assert frame["rank_pct"].to_list() == pytest.approx([99, 99, 99])
    # Overlap 70 % of either, chance 50, 40, 30; agreement 90, 91, 92 %, another seed's 80.
    assert frame["overlap_beyond"].to_list() == pytest.approx([20, 30, 40])
    assert frame["agreement_beyond"].to_list() == pytest.approx([10, 11, 12])
    trends = frame.select(polars.col("^.*_trend$").first()).row(0)
    # Equally spaced by tens: the slope is half of last minus first.
    assert trends == pytest.approx((7, 0, 10, 1), abs=1e-9)
    assert [axes.get_title("left") for axes in figure.axes][::2] == [
        "DPO +7.0 for ten times the weights",
        "DPO +10.0 for ten times the weights",
    ]
    assert "1e+03" not in " ".join(text.get_text() for text in figure.findobj(Text))
    assert len(list(made.said(frame))) == 1


def test_a_trend_has_its_interval_over_seeds(tmp_path: Path) -> None:
    specs = [make(tmp_path, seed, one) for seed, one in enumerate(SPARSITIES)]
    made = artefacts.load(NAME, Figure)
    with style.house_style():
        figure, _, over = made.draw_over(Context(tmp_path, PUBLISHED, specs[0], specs[1:]))
    low, high = stats.ttest_1samp([7, 8, 6.5], 0).confidence_interval()
    assert over.interval(0, "sparsity_pct_trend") == pytest.approx((low, high))
    # What does not vary has none.
    assert [axes.get_title("left") for axes in figure.axes][:2] == [
        f"DPO +7.2 [{low:+.1f}, {high:+.1f}] for ten times the weights",
        "DPO +0.0 for ten times the weights",
    ]


def without_weights(folder: Path, name: str) -> None:
    """An overlap as it is compared without the init's weights."""
    file = folder / "overlaps" / f"{name}.json"
    found = json.loads(file.read_text())
    del found["chance_by_magnitude"]
    file.write_text(json.dumps(found))


def test_without_chance_by_magnitude_no_other_takes_its_place(tmp_path: Path) -> None:
    spec = {"updates": make(tmp_path, 0, SPARSITIES[0])["updates"][:1]}
    without_weights(tmp_path, spec["updates"][0]["overlap"])
    _, frame = artefacts.load(NAME, Figure).draw(Context(tmp_path, PUBLISHED, spec))
    row = frame.row(0, named=True)
    assert row["overlap_pct"] == pytest.approx(70)
    assert (row["chance_pct"], row["overlap_beyond"]) == (None, None)


def test_one_size_has_no_trend(tmp_path: Path) -> None:
    spec = {"updates": make(tmp_path, 0, SPARSITIES[0])["updates"][:1]}
    made = artefacts.load(NAME, Figure)
    figure, frame = made.draw(Context(tmp_path, PUBLISHED, spec))
    assert frame["sparsity_pct_trend"].to_list() == [None]
    assert not figure.axes[0].get_title("left") and not list(made.said(frame))

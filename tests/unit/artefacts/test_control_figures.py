"""Controls: figures of numbers small enough to count by hand."""

from pathlib import Path
from typing import Any

import pytest

polars = pytest.importorskip("polars")
pytest.importorskip("matplotlib")

from fabricate import write_result as write  # noqa: E402

from subnetworks import artefacts  # noqa: E402
from subnetworks.artefacts import Figure, style  # noqa: E402
from subnetworks.core.errors import UserError  # noqa: E402
from subnetworks.core.results import Context  # noqa: E402


def drawn(folder: Path, name: str, spec: dict[str, Any]) -> tuple[Any, Any, list[str]]:
    """A control's Figure, its frame as it is read back, and what it says of it."""
    module = artefacts.load(name, Figure)
    with style.house_style():
        figure, frame = module.draw(Context(folder, folder, spec))
        figure.draw_without_rendering()
        style.write(figure, frame, name, folder / "figures")
    again = polars.read_csv(folder / "figures" / f"{name}.csv", schema=module.types)
    assert again.equals(frame, null_equal=True)
    assert figure.get_figwidth() <= style.DOUBLE
    return figure, again, list(module.said(again))


def lines(axes: Any) -> dict[str, tuple[list[float], list[float]]]:
    return {
        line.get_label(): (line.get_xdata().tolist(), line.get_ydata().tolist())
        for line in axes.get_lines()
        if not line.get_label().startswith("_")
    }


def test_steps_and_magnitudes_are_shares_of_the_right_wholes(tmp_path: Path) -> None:
    steps = {"0": 600, "1": 300, "2": 80, "2049-4096": 5, "16385-32768": 15}
    bins = [("zero or subnormal", 1, 0), (-9, 250, 200), (-8, 500, 190), (-7, 249, 10)]
    measured = {
        "n": 1000,
        "equal": 600,
        "bit_equal": 600,
        "isclose_bf16": {},
        "sparsity": 0.6,
        "histograms": {
            "ulp_steps": [{"steps": k, "n": n} for k, n in steps.items()],
            "magnitude": [{"exponent": e, "n": n, "changed": c} for e, n, c in bins],
        },
    }
    write(tmp_path, "updates/a.json", measured)
    spec = {"updates": [{"update": "a", "algorithm": "DPO", "label": "A"}]}
    figure, frame, said = drawn(tmp_path, "control_steps", spec)
    far, which = figure.axes
    assert frame.filter(by="steps")["steps"].to_list() == ["1", "2", ">1024"]
    assert list(far.get_lines()[0].get_ydata()) == pytest.approx([30, 8, 2])
    x, y = lines(which)["A"]
    assert (x, y) == ([-8.5, -7.5, -6.5], pytest.approx([80, 38, 100 * 10 / 249]))
    assert [bar.get_height() for bar in which.patches] == pytest.approx([25, 50, 24.9])
    # The 249 largest are less than a quarter: the next smaller bin counts, too.
    assert "75 % of the weights that moved did so by one step" in said[0]
    assert said[0].endswith("smallest quarter of all weights 80.0 % moved, of the largest 26.7 %.")


def test_early_masks_are_compared_both_ways(tmp_path: Path) -> None:
    trajectory = {
        "n": 100,
        "never": 50,
        "cancelled": 10,
        "final": 40,
        "steps": [
            {"step": 5, "changed": 20, "outside_final": 5},
            {"step": 10, "changed": 40, "outside_final": 0},
        ],
    }
    matched = {"o1": 0.6, "o2": 0.3}
    found = {
        **{"n": 100, "changed": [20, 40], "intersection": 15, "o1": 0.75, "o2": 0.375},
        **{"chance": {}, "chance_by_magnitude": matched},
    }
    write(tmp_path, "trajectories/a.json", trajectory)
    write(tmp_path, "overlaps/early.json", found)
    entry = {"run": "a", "algorithm": "DPO", "overlaps": [{"overlap": "early", "step": 5}]}
    figure, frame, said = drawn(tmp_path, "control_early", {"runs": [entry]})
    early, final = figure.axes
    assert lines(early)["DPO"] == ([50, 100], [75, 100])
    assert lines(final)["DPO"] == ([50, 100], [37.5, 100])
    assert early.get_lines()[1].get_ydata().tolist() == [60]
    assert frame["early_in_final_chance_pct"].to_list() == [40, 40]
    assert frame["final_in_early_chance_pct"].to_list() == [20, 40]
    assert said == [
        "DPO after 50 % of training: 75 % of what has changed stays changed (chance by magnitude "
        "60 %), and 38 % of the final subnetwork is there (chance 30 %)."
    ]


def test_transfers_are_drawn_update_by_mask(tmp_path: Path) -> None:
    def held(share: float, chance: float) -> dict[str, Any]:
        return {
            "total": 1.0,
            "share": share,
            "chance": 0.5,
            "chance_per_tensor": 0.5,
            "chance_by_magnitude": chance,
        }

    for name, other, share in (("a", "b", 0.8), ("b", "a", 0.6)):
        masks = [
            {"mask": f"results/x/masks/{mask}.safetensors", "n": 100, "inside": 40,
             "changed": held(part, 0.55), "mass": held(part / 2, 0.2)}
            for mask, part in ((name, 1.0), (other, share))
        ]  # fmt: skip
        write(tmp_path, f"transfers/{name}.json", {"masks": masks})
    spec = {"updates": [{"update": k, "algorithm": k.upper()} for k in ("a", "b")]}
    figure, frame, said = drawn(tmp_path, "control_transfer", spec)
    words = [text.get_text() for text in figure.axes[0].texts]
    # Row by row: in the mask of A its own update and B's, then in the mask of B.
    assert words == ["100", "(55)", "60", "(55)", "80", "(55)", "100", "(55)"]
    assert len(frame) == 8
    assert "from +5.0 points (B in A) to +25.0 (A in B)" in said[0]
    spec["updates"].append({"update": "b", "algorithm": "B"} | {"update": "c"})
    write(tmp_path, "transfers/c.json", {"masks": []})
    with pytest.raises(UserError, match="the mask 'c' is not in it"):
        drawn(tmp_path, "control_transfer", spec)


@pytest.mark.parametrize("name", ["control_early", "control_steps", "control_transfer"])
def test_an_empty_specification_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one"):
        artefacts.load(name, Figure).draw(Context(tmp_path, tmp_path, {}))

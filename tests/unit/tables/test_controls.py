"""Controls: tables of numbers small enough to count by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

polars = pytest.importorskip("polars")
pytest.importorskip("jinja2")

from subnetworks import report, tables  # noqa: E402
from subnetworks.report.words import CONTROLS_HEADING  # noqa: E402
from subnetworks.results import Context  # noqa: E402
from subnetworks.tables import style  # noqa: E402


def write(folder: Path, name: str, value: Any) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def shown(folder: Path, name: str, spec: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """A control's rows and what it says of them; it can be written, and read again as it was."""
    module = tables.load(name)
    frame = module.build(Context(folder, folder, spec))
    style.write(frame, style.sheet_of(module, frame), name, folder / "tables")
    again = polars.read_csv(folder / "tables" / f"{name}.csv", schema=module.SCHEMA)
    assert again.equals(frame, null_equal=True)
    return frame.to_dicts(), module.said(frame)


def ratios(both: float, first: int, second: int) -> dict[str, float]:
    return {"o1": both / first, "o2": both / second, "jaccard": both / (first + second - both)}


def overlap(both: int, per_tensor: float, by_magnitude: float) -> dict[str, Any]:
    """Masks of 40 and 50 of 100 entries."""
    return {
        "n": 100,
        "changed": [40, 50],
        "intersection": both,
        **ratios(both, 40, 50),
        "chance": ratios(20, 40, 50),
        "chance_per_tensor": ratios(per_tensor, 40, 50),
        "chance_by_magnitude": ratios(by_magnitude, 40, 50),
        "z": 1.0,
        "z_by_magnitude": 2.0,
    }


def test_overlaps_are_held_against_each_chance(tmp_path: Path) -> None:
    write(tmp_path, "overlaps/seeds.json", overlap(36, 24, 30))
    write(tmp_path, "overlaps/placebo.json", overlap(30, 24, 30))
    entries = [
        {"overlap": "seeds", "label": "A, B", "varied": "seed"},
        {"overlap": "placebo", "label": "A, placebo", "varied": "reward"},
    ]
    (seeds, placebo), said = shown(tmp_path, "control_chance", {"overlaps": entries})
    assert [seeds[f"times_{key}"] for key in ("uniform", "per_tensor", "by_magnitude")] == [
        pytest.approx(36 / 20),
        pytest.approx(36 / 24),
        pytest.approx(36 / 30),
    ]
    assert (seeds["o1_pct"], seeds["by_magnitude_o1_pct"]) == (pytest.approx(90), 75)
    # Of the ten entries by which the first could exceed the expected thirty, six.
    assert seeds["of_rest_pct"] == pytest.approx(60)
    assert placebo["of_rest_pct"] == pytest.approx(0)
    assert "differ in seed" in said[0] and said[0].endswith("more than magnitude explains.")
    assert "hardly more than magnitude alone" in said[1]


def test_an_overlap_without_weights_has_no_chance_by_magnitude(tmp_path: Path) -> None:
    measured = overlap(36, 24, 30)
    del measured["chance_by_magnitude"], measured["z_by_magnitude"]
    write(tmp_path, "overlaps/seeds.json", measured)
    (row,), said = shown(
        tmp_path, "control_chance", {"overlaps": [{"overlap": "seeds", "varied": "seed"}]}
    )
    assert row["times_by_magnitude"] is None and row["of_rest_pct"] is None
    assert said == []


def test_the_page_shows_controls_where_they_were_made(
    made_up: Any, results: Path, tmp_path: Path
) -> None:
    made = made_up.make(tmp_path / "mini")
    module = tables.load("table_1_update_sparsity")
    frame = module.build(Context(made, Path("workflow/published"), made_up.SPECS[module.NAME]))
    style.write(frame, style.sheet_of(module, frame), module.NAME, made / "tables")
    assert CONTROLS_HEADING not in report.to_markdown(report.gather(made))
    write(made, "overlaps/seeds.json", overlap(36, 24, 30))
    entry = {"overlap": "seeds", "label": "A, B", "varied": "seed"}
    shown(made, "control_chance", {"overlaps": [entry]})
    gathered = report.gather(made)
    for page in (report.to_markdown(gathered), report.to_html(gathered)):
        after = page.split(CONTROLS_HEADING, 1)[1]
        assert "A, B" in after and "more than magnitude explains" in after

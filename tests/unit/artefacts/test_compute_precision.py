"""The control of precisions, on numbers small enough to count by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

polars = pytest.importorskip("polars")
pytest.importorskip("jinja2")

from subnetworks import artefacts  # noqa: E402
from subnetworks.artefacts import Table  # noqa: E402
from subnetworks.artefacts.turns import over  # noqa: E402
from subnetworks.core.errors import UserError  # noqa: E402
from subnetworks.core.results import Context  # noqa: E402

CONTROL = artefacts.load("control_compute_precision", Table)


def update(dtype: str, steps: dict[str, int], changed: int = 0, **more: Any) -> dict[str, Any]:
    """Of 100 weights; 40 of them are of 0.5 to 1, of which `changed` have changed, 60 tiny."""
    magnitude = [
        {"exponent": -20, "n": 60, "changed": 60},
        {"exponent": -1, "n": 40, "changed": changed},
    ]
    return {
        "n": 100,
        "equal": steps.get("0", 0),
        "bit_equal": steps.get("0", 0),
        "isclose_bf16": {"1e-5": steps.get("0", 0) + 1},
        "sparsity": (steps.get("0", 0) + 1) / 100,
        "histograms": {
            "ulp_steps": [{"steps": k, "n": n} for k, n in steps.items()],
            "magnitude": magnitude,
        },
        "tensors": [{"compared_as": dtype}],
        **more,
    }


def write(folder: Path, name: str, value: Any) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def run(folder: Path, name: str, losses: list[float], score: float) -> None:
    rows = [f"{step},{loss}" for step, loss in enumerate(losses, 1)]
    write(folder, f"runs/{name}/log.csv", "\n".join(["step,loss", *rows]) + "\n")
    found = {"benchmark": "math", "score": score, "stderr": 0.01, "n": 10, "shots": 0}
    write(folder, f"evaluation/{name}/math.json", found)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    start = [0.7, 0.6, 0.6, 0.5]
    run(tmp_path, "full", [*start, 0.2, 0.2, 0.1, 0.1], 0.5)
    run(tmp_path, "masked", [*start, 0.2, 0.3, 0.2, 0.1], 0.4)
    write(tmp_path, "updates/full.json", update("BF16", {"0": 50, "1": 30, "2": 20}, 10))
    near = {"0": 5, "16385-32768": 45, "32769-65536": 30, "65537-131072": 20}
    write(tmp_path, "updates/full_wide.json", update("F32", near))
    write(tmp_path, "updates/same.json", update("BF16", {"0": 90, "1": 10}))
    write(tmp_path, "updates/same_wide.json", update("F32", {"0": 70, "32769-65536": 30}))
    return tmp_path


FACTS = {"algorithm": "DPO", "learning_rate": 1e-6, "trainer": "A", "full": "full"}
FULL = {**FACTS, "update": "full", "in_fp32": "full_wide"}
MASKED = {
    **FACTS,
    "mask": "bf16",
    "subnetwork": "masked",
    "agreement": "same",
    "agreement_in_fp32": "same_wide",
}


def built(folder: Path, *rows: dict[str, Any]) -> Any:
    spec = {"benchmark": "math", "trainers": list(rows)}
    return CONTROL.build(Context(folder, folder, spec))


def test_losses_are_compared_step_by_step_over_the_second_half(results: Path) -> None:
    full, masked = built(results, FULL, MASKED).to_dicts()
    assert (full["mask"], masked["mask"]) == ("everything", "mask of the bf16 end")
    assert full["loss_gained"] == pytest.approx(0.7 - 0.15)
    assert full["loss_difference"] is None and full["kept_pct"] is None
    assert masked["loss_difference"] == pytest.approx((0 + 0.1 + 0.1 + 0) / 4)
    assert masked["kept_pct"] == pytest.approx(100 * 0.5 / 0.55)
    assert (full["accuracy_pct"], masked["accuracy_pct"]) == (pytest.approx(50), pytest.approx(40))
    assert masked["difference_pct"] == pytest.approx(-10)
    assert masked["agreement_pct"] == pytest.approx(91)
    assert (masked["bit_equal_pct"], masked["bit_equal_fp32_pct"]) == (90, 70)


def test_what_an_end_tells_of_its_trainer(results: Path) -> None:
    (full,) = built(results, FULL).to_dicts()
    assert (full["equal_pct"], full["sparsity_pct"], full["equal_fp32_pct"]) == (50, 51, 5)
    assert full["below_half_pct"] == 45
    assert (full["one_step_pct"], full["more_steps_pct"]) == (30, 20)
    # Half the gap of weights of 0.5 to 1 is 2^-9, beyond four learning rates; that of tiny ones
    # is not.
    assert full["out_of_reach_pct"] == pytest.approx(25)
    (full,) = built(results, {**FULL, "learning_rate": 1e-3}).to_dicts()
    assert full["out_of_reach_pct"] is None


def test_an_end_without_small_movements_is_said_to_be_one(results: Path) -> None:
    frame = built(results, FULL, MASKED)
    assert [line for line in CONTROL.said(frame) if "as if" in line or "alone tells" in line] == []
    write(results, "updates/full.json", update("BF16", {"0": 50, "1": 50}, 0))
    write(results, "updates/full_wide.json", update("F32", {"0": 50, "32769-65536": 50}))
    said = list(CONTROL.said(built(results, FULL, MASKED)))
    assert any("no weight moved by half a bf16 step or less in the end of A" in s for s in said)
    assert any("a bf16 end alone tells" in line for line in said)
    assert any("keeping 90.9 % of its gain" in line for line in said)


def test_what_is_kept_of_the_loss_is_compared_by_trainer(results: Path) -> None:
    run(results, "better", [0.7, 0.6, 0.6, 0.5, 0.2, 0.2, 0.1, 0.1], 0.4)
    other = {**MASKED, "trainer": "B", "subnetwork": "better"}
    assert list(CONTROL.controlled(built(results, FULL, MASKED))) == []
    (found,) = CONTROL.controlled(built(results, FULL, {**other, "trainer": "first"}, MASKED))
    assert found.before == "of the loss gained, first 100.0 % is kept"
    assert (found.after, found.shown) == ("A 90.9 %", "stays")
    (found,) = CONTROL.controlled(built(results, FULL, MASKED, other))
    assert (found.after, found.shown) == ("B 100.0 %", "stays")


def test_over_seeds_the_difference_is_paired(results: Path, tmp_path: Path) -> None:
    """The interval is that of the seeds' own differences."""
    frames = [built(results, MASKED)]
    for extra in (0.02, 0.04):
        run(results, "full", [0.7, 0.6, 0.6, 0.5, 0.2 + extra, 0.2, 0.1, 0.1], 0.5)
        run(results, "masked", [0.7, 0.6, 0.6, 0.5, 0.2 + 2 * extra, 0.3, 0.2, 0.1], 0.4)
        frames.append(built(results, MASKED))
    found = over(frames, in_pairs=False).interval(0, "loss_difference")
    values = [0.05, 0.055, 0.06]
    # Student's t on two degrees of freedom.
    half = 4.302653 * 0.005 / 3**0.5
    assert found == pytest.approx((values[1] - half, values[1] + half), rel=1e-4)


def test_what_was_compared_otherwise_is_refused(results: Path) -> None:
    with pytest.raises(UserError, match="full was compared as BF16, not F32"):
        built(results, {**FULL, "in_fp32": "full"})
    with pytest.raises(UserError, match="mask and subnetwork go together"):
        built(results, {**FULL, "mask": "bf16"})

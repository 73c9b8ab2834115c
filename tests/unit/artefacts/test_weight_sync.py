"""Weight synchronisation: a run's patches beside what others report."""

import json

import pytest

pytest.importorskip("polars")

from pages import ROOT

from subnetworks import artefacts
from subnetworks.artefacts import Table
from subnetworks.artefacts.control_weight_sync import ENCODINGS
from subnetworks.core.results import Context


def step(number, changed, size, anchor=None):
    patch = {"changed_share": changed, "bytes": dict.fromkeys(ENCODINGS, size)}
    since = {"changed_share": anchor if anchor is not None else 0.01}
    return {"step": number, "is_anchor": anchor is not None, **patch, "since_anchor": since}


def write(folder, name, steps, foreseen):
    shares = [one["changed_share"] for one in steps]
    sizes = [one["bytes"]["gaps"] for one in steps]
    found = {
        "n": 1000,
        "whole_bytes": 2000,
        "changed_share": {
            "mean": sum(shares) / len(shares), "least": min(shares), "most": max(shares)
        },
        "bytes": dict.fromkeys(ENCODINGS, sum(sizes) / len(sizes)) | {"indices": 120.0},
        "foreseen": foreseen,
        "steps": steps,
    }  # fmt: skip
    path = folder / "synchronisation" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found))


def test_runs_and_what_others_report(tmp_path):
    keys = ("expected_share", "recall", "recall_of_twice", "share_for_90", "share_for_99")
    foreseen = dict(zip(keys, (0.02, 0.45, 0.6, 0.3, 0.5), strict=True))
    foreseen |= {"again_recall": 0.25, "again_precision": None}
    steps = [step(1, 0.01, 20), step(2, 0.03, 60, anchor=0.035), step(3, 0.02, 40)]
    write(tmp_path, "grpo", steps, foreseen)
    write(tmp_path, "masked", [step(1, 0.0, 0)], None)
    spec = {
        "runs": [
            {"run": "grpo", "algorithm": "GRPO", "learning_rate": 4e-6},
            {"run": "masked", "algorithm": "GRPO", "label": "within"},
        ]
    }
    table = artefacts.load("control_weight_sync", Table)
    frame = table.build(Context(tmp_path, ROOT / "workflow" / "published", spec))
    grpo, masked, *others = frame.to_dicts()
    assert (grpo["label"], grpo["steps"], grpo["n"]) == ("GRPO (grpo)", 3, 1000)
    shown = [grpo[f"changed{end}_pct"] for end in ("_low", "", "_high")]
    assert shown == pytest.approx([1, 2, 3])
    assert [grpo["patch_low_pct"], grpo["patch_high_pct"]] == pytest.approx([1, 3])
    assert (grpo["gaps_pct"], grpo["indices_pct"]) == pytest.approx((2, 6))
    assert grpo["anchor_pct"] == pytest.approx(3.5)
    assert (grpo["recall_pct"], grpo["share_for_99_pct"]) == pytest.approx((45, 50))
    assert grpo["again_precision_pct"] is None
    assert masked["anchor_pct"] is None
    assert masked["recall_pct"] is None
    assert masked["indices_pct"] == pytest.approx(6)
    assert {row["source"] for row in others} == {"elsewhere"}
    trl = others[0]
    assert (trl["label"], trl["changed_low_pct"], trl["changed_high_pct"]) == (
        "TRL, Qwen3-0.6B",
        0,
        1,
    )
    assert others[1]["changed_low_pct"] is None
    assert (trl["patch_low_pct"], trl["patch_high_pct"]) == (1.67, 2.92)
    said = list(table.said(frame))
    assert said[0].startswith("GRPO (grpo): a step changes 2.00 % of the weights; the smallest")
    assert said[-1].startswith("As many of the likeliest weights as change hold 45.0 % of those")
    assert list(table.said(frame.filter(label="within")))[1:] == []


def test_what_others_report_is_one_number_or_a_range():
    paper = Context(ROOT, ROOT / "workflow" / "published", {})
    rows = paper.paper("elsewhere/weight_synchronisation").to_dicts()
    for row in rows:
        assert row["source"].startswith("https://")
        for key in ("changed", "patch"):
            low, high = row[f"{key}_low_pct"], row[f"{key}_high_pct"]
            assert low is None or (high is not None and low <= high)

"""LoRA beside full training, on numbers small enough to count by hand."""

import json
from pathlib import Path

import pytest

polars = pytest.importorskip("polars")
pytest.importorskip("jinja2")

from fabricate import write_json as write  # noqa: E402

from subnetworks import artefacts  # noqa: E402
from subnetworks.artefacts import Table  # noqa: E402
from subnetworks.artefacts.published import FOLDER, Published  # noqa: E402
from subnetworks.core.errors import UserError  # noqa: E402
from subnetworks.core.results import Context  # noqa: E402


def update(folder: Path, name: str, equal: int, close: int, ranks: list[int]) -> None:
    """Of 100 entries so many are equal or close, 60 of them inner ones; ranks of 8 and of 20."""
    inner = {"n": 60, "bit_equal": equal - 40, "sparsity": (close - 40) / 60}
    counts = {"equal": equal, "bit_equal": equal, "isclose_bf16": {"1e-5": close}}
    measured = {"n": 100, **counts, "sparsity": close / 100, "without_embeddings": inner}
    write(folder / "updates" / f"{name}.json", measured)
    full = [8, 20, 100]
    polars.DataFrame(
        {
            "matrix": ["Q", "up", "embedding"],
            "full_rank": full,
            "rank_fraction": [rank / most for rank, most in zip([*ranks, 0], full, strict=True)],
            **{key: [*ranks, 0] for key in ("rank", "energy_rank_99", "stable_rank")},
        }
    ).write_parquet(folder / "updates" / f"{name}.rank.parquet")


def score(folder: Path, name: str, right: int) -> None:
    found = {"score": right / 4, "stderr": 0.1, "n": 4}
    write(folder / "evaluation" / name / "math.json", found)
    polars.DataFrame(
        {
            "doc_id": range(4),
            "row": range(4),
            "group": ["all"] * 4,
            "gold": ["1"] * 4,
            "correct": [float(k < right) for k in range(4)],
        }
    ).write_parquet(folder / "evaluation" / name / "math.samples.parquet")


@pytest.fixture
def shown(tmp_path: Path) -> Context:
    update(tmp_path, "dpo", 50, 55, [8, 20])
    update(tmp_path, "dpo_lora4", 70, 76, [6, 10])
    update(tmp_path, "dpo_lora16", 64, 70, [8, 20])
    update(tmp_path, "apart", 80, 85, [8, 20])
    score(tmp_path, "dpo", 3)
    score(tmp_path, "dpo_lora4", 2)
    held = {"n": 100, "changed": [50, 30], "intersection": 24, "o1": 0.48, "o2": 0.8}
    chances = {"chance": {"o1": 0.3, "o2": 0.5}, "chance_by_magnitude": {"o1": 0.36, "o2": 0.6}}
    write(tmp_path / "overlaps" / "both.json", held | chances)
    run = {"algorithm": "DPO", "of": "dpo", "learning_rate": 1.5e-5}
    return Context(
        tmp_path,
        tmp_path,
        {
            "benchmark": "math",
            "runs": [
                {**run, "update": "dpo", "learning_rate": 1.5e-6, "scored": "dpo"},
                {
                    **{**run, "update": "dpo_lora4", "lora_rank": 4, "label": "LoRA"},
                    **{"overlap": "both", "apart": "apart", "scored": "dpo_lora4"},
                },
                {**run, "update": "dpo_lora16", "lora_rank": 16, "label": "LoRA"},
            ],
        },
    )


def test_without_chance_by_magnitude_its_cells_are_empty(shown: Context, tmp_path: Path) -> None:
    file = tmp_path / "overlaps" / "both.json"
    found = json.loads(file.read_text())
    del found["chance_by_magnitude"]
    file.write_text(json.dumps(found))
    table = artefacts.load("control_lora", Table)
    frame = table.build(shown)
    small = frame.row(1, named=True)
    assert (small["in_full_pct"], small["in_full_chance_pct"]) == (pytest.approx(80), None)
    assert (small["of_full_pct"], small["of_full_chance_pct"]) == (pytest.approx(48), None)
    assert any(line.endswith("rank 4: 80.0 %.") for line in table.said(frame))


def test_adapters_are_compared_with_the_full_run(shown: Context, tmp_path: Path) -> None:
    table = artefacts.load("control_lora", Table)
    frame = table.build(shown)
    full, small, large = frame.to_dicts()
    assert (full["sparsity_pct"], small["sparsity_pct"]) == (pytest.approx(55), pytest.approx(76))
    assert (full["bit_equal_pct"], small["bit_equal_pct"]) == (50, 70)
    assert small["sparsity_without_embeddings_pct"] == pytest.approx(60)
    # Of full rank 8 and 20: exact ranks 6 and 10; adapters of rank 4 allow 4 and 4.
    assert small["rank_pct"] == pytest.approx(100 * (6 / 8 + 10 / 20) / 2)
    assert small["adapters_rank_pct"] == pytest.approx(100 * (4 / 8 + 4 / 20) / 2)
    # Adapters of rank 16 are of more than the smaller matrix can be.
    assert large["adapters_rank_pct"] == pytest.approx(100 * (1 + 16 / 20) / 2)
    assert full["adapters_rank_pct"] is None
    # 24 of the 30 weights that LoRA changes are among the 50 of full training.
    assert (small["in_full_pct"], small["in_full_chance_pct"]) == (pytest.approx(80), 60)
    assert (small["of_full_pct"], small["of_full_chance_pct"]) == (pytest.approx(48), 36)
    assert small["agreement_pct"] == pytest.approx(85)
    assert (small["accuracy_pct"], small["difference_pct"]) == (50, -25)
    assert full["difference_pct"] is None and large["accuracy_pct"] is None
    assert list(table.said(frame)) == [
        "DPO: without embeddings full training leaves 25.0 % unchanged, LoRA of rank 4: 60.0 %; "
        "rank 16: 50.0 %.",
        "DPO: of the weights that LoRA changes, these lie in the full run's mask (in brackets "
        "chance matched by magnitude): rank 4: 80.0 % (60.0).",
        "DPO: exact rank of the merged update, where full training's is 100.0 % of full rank: "
        "rank 4: 62.5 %; rank 16: 100.0 %; of the adapters at most: rank 4: 35.0 %; "
        "rank 16: 90.0 %.",
    ]
    # Of two learning rates each is named.
    both = polars.concat([frame, frame[1:2].with_columns(learning_rate=1.5e-6)])
    assert "LoRA of rank 4 at 1.5e-5: 60.0 %; rank 16 at 1.5e-5: 50.0 %; rank 4 at 1.5e-6: " in (
        next(iter(table.said(both)))
    )
    table.write(shown, tmp_path)
    assert "1.5e-5" in (tmp_path / "control_lora.md").read_text()


def test_scores_need_a_benchmark(shown: Context) -> None:
    spec = {"runs": shown.spec["runs"]}
    with pytest.raises(UserError, match="benchmark"):
        artefacts.load("control_lora", Table).build(Context(shown.results, shown.published, spec))


def verdicts(frame: polars.DataFrame) -> list[tuple[str, float]]:
    claims = artefacts.load("control_lora", Table).claims(frame)
    return [(claim.appears, round(claim.margin or 0, 1)) for claim in claims]


def test_what_is_claimed_rests_on_the_adapters_that_are_scored(shown: Context) -> None:
    table = artefacts.load("control_lora", Table)
    frame = table.build(shown)
    # Only that of rank 4 is: it leaves 60 % unchanged where full training leaves 25 %, has 62.5 %
    # of full rank once rounded, and half its questions right where full training has three of four.
    noisy = frame.with_columns(difference_stderr_pct=polars.lit(15.0))
    sparse, exact, energy, scores = table.claims(noisy)
    assert [one.appears for one in (sparse, exact, energy, scores)] == ["no", "yes", "yes", "yes"]
    assert sparse.here == (
        "DPO 25.0 %, LoRA of rank 4 60.0 % unchanged without embeddings (by more than 10 points)"
    )
    assert scores.here.startswith("DPO of rank 4 −25.0 points")
    assert sparse.margin == pytest.approx(-45) and scores.margin == pytest.approx(-25 + 1.96 * 15)
    # A difference within the 10 points is none.
    ranked = polars.when(polars.col("lora_rank").is_null()).then(100.0).otherwise(99.9)
    _, exact, *_ = table.claims(noisy.with_columns(rank_pct=ranked))
    assert exact.appears == "no" and exact.margin == pytest.approx(-9.9)
    # Less noise, and it scores worse.
    assert verdicts(frame.with_columns(difference_stderr_pct=polars.lit(5.0)))[3][0] == "no"
    # Of a second one that is as full, each claim of rank is unclear.
    full = frame[2:].with_columns(difference_pct=polars.lit(0.0))
    both = polars.concat([noisy[:2], full])
    assert verdicts(both)[:3] == [("no", -45.0), ("unclear", -10.0), ("unclear", -10.0)]
    # Nothing is claimed of what imitates, or is not scored, or has nothing beside it.
    assert not verdicts(frame.with_columns(algorithm=polars.lit("RFT")))
    assert not verdicts(frame.with_columns(difference_pct=polars.lit(None, polars.Float64)))
    assert not verdicts(frame[1:])


def test_the_papers_numbers_stand_beside_each_claim(shown: Context) -> None:
    table = artefacts.load("control_lora", Table)
    quotes = table.quoted(Published(FOLDER))
    printed = [claim.paper.format(**quotes) for claim in table.claims(table.build(shown))]
    assert printed[0].startswith("RL 68.5–96.0 %") and printed[1].startswith("RL 99.2–99.8 %")

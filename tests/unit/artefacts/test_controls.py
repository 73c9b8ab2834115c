"""Controls: tables of numbers small enough to count by hand."""

from pathlib import Path
from typing import Any

import pytest

polars = pytest.importorskip("polars")
pytest.importorskip("jinja2")

from fabricate import write_result as write  # noqa: E402

from subnetworks import artefacts, report  # noqa: E402
from subnetworks.artefacts import Table  # noqa: E402
from subnetworks.artefacts import sheet as style  # noqa: E402
from subnetworks.core.errors import UserError  # noqa: E402
from subnetworks.core.results import Context  # noqa: E402
from subnetworks.report.words import CONTROLS_HEADING  # noqa: E402


def shown(folder: Path, name: str, spec: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """A control's rows and what it says of them; it can be written, and read again as it was."""
    module = artefacts.load(name, Table)
    frame = module.build(Context(folder, folder, spec))
    style.write(frame, module.sheet(frame), name, folder / "tables")
    again = polars.read_csv(folder / "tables" / f"{name}.csv", schema=module.types)
    assert again.equals(frame, null_equal=True)
    return frame.to_dicts(), list(module.said(frame))


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


def update(**changes: Any) -> dict[str, Any]:
    """Of 100 entries 60 did not move, 20 moved one step, 12 three to four, 8 further."""
    steps = {"0": 60, "1": 20, "3-4": 12, "9-16": 8}
    return {
        "n": 100,
        "equal": 60,
        "bit_equal": 60,
        "isclose_bf16": dict.fromkeys(("1e-8", "1e-7", "1e-6"), 60) | {"1e-5": 63, "1e-4": 80},
        "absolute": dict.fromkeys(("1e-8", "1e-7", "1e-6", "1e-5"), 55) | {"1e-4": 79, "1e-3": 90},
        "relative": {"1e-3": 60, "1e-2": 70, "1e-1": 95},
        "sparsity": 0.63,
        "histograms": {"ulp_steps": [{"steps": k, "n": n} for k, n in steps.items()]},
        "tensors": [{"compared_as": "BF16"}],
        **changes,
    }


def test_every_notion_of_unchanged_stands_beside_the_others(tmp_path: Path) -> None:
    write(tmp_path, "updates/a.json", update())
    spec = {"updates": [{"update": "a", "label": "A"}]}
    (row,), said = shown(tmp_path, "control_tolerance", spec)
    assert [row[f"steps_{k}_pct"] for k in (1, 2, 4, 8)] == [80, 80, 92, 92]
    assert (row["absolute_1e-3_pct"], row["relative_1e-1_pct"]) == (90, 95)
    assert "+3.0 points by the paper's tolerance, +20.0 by one bf16 step" in said[0]
    write(tmp_path, "updates/a.json", update(absolute={"1e-5": 1}))
    with pytest.raises(UserError, match="not measured at 1e-8"):
        shown(tmp_path, "control_tolerance", spec)


def test_precisions_are_those_in_which_the_update_was_compared(tmp_path: Path) -> None:
    write(tmp_path, "updates/narrow.json", update())
    write(tmp_path, "updates/wide.json", update(equal=2, tensors=[{"compared_as": "F32"}]))
    entries = [
        {"update": "narrow", "label": "A", "stored_as": "bf16"},
        {"update": "wide", "label": "A", "stored_as": "fp32"},
    ]
    (narrow, wide), said = shown(tmp_path, "control_precision", {"updates": entries})
    # In bf16 the paper's rule, in fp32 the difference itself.
    assert (narrow["sparsity_1e-5_pct"], wide["sparsity_1e-5_pct"]) == (63, 55)
    assert said[0].startswith("A: 60.0 % of the weights are unchanged in bf16, 2.0 % in fp32")
    entries[1]["update"] = "narrow"
    with pytest.raises(UserError, match="was compared as BF16, not fp32"):
        shown(tmp_path, "control_precision", {"updates": entries})


def parquet(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    polars.DataFrame(rows).write_parquet(folder / "updates" / f"{name}.parquet")


def test_ranks_are_means_over_the_inner_matrices(tmp_path: Path) -> None:
    write(tmp_path, "updates/a.json", update())
    others = [f"rank_at_{t}" for t in ("1e-6", "1e-5", "1e-4", "1e-3")]

    def matrix(kind: str, full: int, rank: int, stable: float | None) -> dict[str, Any]:
        return {
            "matrix": kind,
            "full_rank": full,
            "rank": rank,
            "rank_fraction": rank / full,
            **dict.fromkeys(others, rank),
            "energy_rank_99": rank,
            "effective_rank": stable,
            "stable_rank": stable,
        }

    rows = [matrix("Q", 10, 10, 2.0), matrix("up", 20, 10, 1.0), matrix("head", 10, 1, 1.0)]
    parquet(tmp_path, "a.rank", rows)
    spec = {"updates": [{"update": "a", "algorithm": "DPO", "label": "A"}]}
    (row,), said = shown(tmp_path, "control_ranks", spec)
    assert (row["matrices"], row["changed_pct"]) == (2, 40)
    assert row["rank_pct"] == row["rank_at_1e-3_pct"] == pytest.approx(75)
    assert row["stable_rank_pct"] == pytest.approx((20 + 5) / 2)
    assert "stable rank 12.5 %" in said[0]
    # A matrix that did not move has no stable rank: it counts as 0, as its exact rank does.
    parquet(tmp_path, "a.rank", [matrix("Q", 10, 10, 2.0), matrix("K", 10, 0, None)])
    (row,), _ = shown(tmp_path, "control_ranks", spec)
    assert row["stable_rank_pct"] == pytest.approx(10)


def test_the_path_not_taken_is_held_against_magnitude(tmp_path: Path) -> None:
    write(tmp_path, "updates/a.json", update())
    write(tmp_path, "overlaps/principal.json", overlap(16, 20, 16))
    write(tmp_path, "overlaps/smallest.json", overlap(36, 20, 36))
    turns = [("Q", 0.1, 3.0, 1.0), ("up", 0.3, 5.0, 9.0), ("head", 9.0, 90.0, 90.0)]
    parquet(
        tmp_path,
        "a.rotation",
        [
            {"matrix": m, "spectral_drift": d, "left_angle_max": a, "right_angle_max": b}
            for m, d, a, b in turns
        ],
    )
    entry = {"update": "a", "label": "A", "principal": "principal", "smallest": "smallest"}
    (row,), said = shown(tmp_path, "control_path", {"updates": [entry]})
    assert (row["drift_pct"], row["drift_max_pct"]) == (pytest.approx(20), pytest.approx(30))
    assert (row["angle_degrees"], row["angle_max_degrees"]) == (6, 9)
    assert (row["principal_pct"], row["principal_chance_pct"]) == (pytest.approx(40), 50)
    assert row["smallest_pct"] == row["smallest_by_magnitude_pct"] == pytest.approx(90)
    assert "less often than chance has it (-10.0 points; -10.0 are" in said[0]


def test_the_page_shows_controls_where_they_were_made(
    made_up: Any, results: Path, tmp_path: Path
) -> None:
    made = made_up.make(tmp_path / "mini")
    module = artefacts.load("table_1_update_sparsity", Table)
    frame = module.build(Context(made, Path("workflow/published"), made_up.SPECS[module.name]))
    style.write(frame, module.sheet(frame), module.name, made / "tables")
    assert CONTROLS_HEADING not in report.to_markdown(report.gather(made))
    write(made, "overlaps/seeds.json", overlap(36, 24, 30))
    entry = {"overlap": "seeds", "label": "A, B", "varied": "seed"}
    shown(made, "control_chance", {"overlaps": [entry]})
    gathered = report.gather(made)
    for page in (report.to_markdown(gathered), report.to_html(gathered)):
        after = page.split(CONTROLS_HEADING, 1)[1]
        assert "A, B" in after and "more than magnitude explains" in after


def scored(folder: Path, checkpoint: str, right: int, of: int = 100) -> None:
    share = right / of
    stderr = (share * (1 - share) / (of - 1)) ** 0.5
    value = {"score": share, "stderr": stderr, "n": of}
    write(folder, f"evaluation/{checkpoint}/math500.json", value)


def changed(folder: Path, name: str, unchanged: int, of: int = 100) -> None:
    measured: dict[str, Any] = {"n": of, "equal": unchanged, "bit_equal": unchanged - 1}
    measured |= {"isclose_bf16": {"1e-5": unchanged}, "sparsity": unchanged / of}
    write(folder, f"updates/{name}.json", measured)


def masks(**accuracies: int) -> list[dict[str, Any]]:
    return [
        {"algorithm": "DPO", "label": kind, "kind": kind, "full": f"in_{kind}"}
        for kind in accuracies
    ]


def test_masks_are_held_against_full_training(tmp_path: Path) -> None:
    accuracies = {"start": 40, "full": 80, "own": 79, "random": 60, "complement": 45}
    for kind, right in accuracies.items():
        scored(tmp_path, f"in_{kind}", right)
    for name, agreeing in (("start", 54), ("own", 99), ("random", 75), ("complement", 52)):
        changed(tmp_path, name, agreeing)
    write(tmp_path, "overlaps/random.json", overlap(20, 24, 30))
    entries = masks(**accuracies)
    for entry in entries:
        if entry["kind"] != "full":
            entry["update"] = entry["kind"]
        if entry["kind"] == "random":
            entry["overlap"] = "random"
    spec = {"benchmark": "math500", "masks": entries}
    (start, full, own, random, complement), said = shown(tmp_path, "control_masks", spec)
    assert [row["accuracy_pct"] for row in (start, full, own)] == [40, 80, 79]
    assert full["difference_pct"] is None
    assert random["difference_pct"] == pytest.approx(-20)
    # Of the forty points that full training gains: 39, 20 and 5.
    gains = [row["gain_kept_pct"] for row in (start, own, random, complement)]
    assert gains == [pytest.approx(value) for value in (0, 97.5, 50, 12.5)]
    assert (own["agreement_pct"], random["agreement_pct"]) == (99, 75)
    # The masks of `overlap`: forty and fifty entries of a hundred, twenty in both.
    assert (random["density_pct"], random["shared_pct"]) == (50, 50)
    assert said[0].startswith(
        "DPO, accuracy against full training: not below it beyond the noise within own"
    )
    assert "below it within random (−20.0 ± 6.4), complement" in said[0]
    assert "start" not in said[0]
    assert "leads a random one of the same density by +19.0 points" in said[1]


def test_a_difference_within_the_noise_is_none(tmp_path: Path) -> None:
    for kind, right in {"full": 80, "random": 70}.items():
        scored(tmp_path, f"in_{kind}", right)
    spec = {"benchmark": "math500", "masks": masks(full=80, random=70)}
    _, said = shown(tmp_path, "control_masks", spec)
    assert said == [
        "DPO, accuracy against full training: "
        "not below it beyond the noise within random (−10.0 ± 6.1)."
    ]


def test_masks_of_other_runs_are_held_against_one_that_needs_no_training(tmp_path: Path) -> None:
    accuracies = {"start": 40, "full": 80, "magnitude": 60, "task": 62, "algorithm": 76}
    for kind, right in accuracies.items():
        scored(tmp_path, f"in_{kind}", right)
    spec = {"benchmark": "math500", "masks": masks(**accuracies)}
    _, said = shown(tmp_path, "control_masks", spec)
    assert "without any training, keep 50 %; of the masks of other runs, task 55 %" in said[1]
    assert said[1].endswith("algorithm 90 %.")


EQUAL = {
    "sft": ("SFT", False, 30),
    "rft": ("SFT", True, 53),
    "dpo": ("RL", True, 54),
    "words": ("RL", False, 80),
    "placebo": ("null", True, 92),
}


def equal(**changes: Any) -> dict[str, Any]:
    entries: list[dict[str, Any]] = []
    for name, (kind, own, _) in EQUAL.items():
        facts = {"update": name, "label": name, "kind": kind, "in_distribution": own}
        entries.append(facts | {"learning_rate": 1e-6, "steps": 100} | changes.get(name, {}))
    return {"updates": entries}


def test_at_one_learning_rate_what_is_claimed_holds_or_does_not(tmp_path: Path) -> None:
    for name, (_, _, unchanged) in EQUAL.items():
        changed(tmp_path, name, unchanged)
    spec = equal(rft={"steps": 25, "updates_per_step": 4})
    rows, said = shown(tmp_path, "control_equal_learning_rate", spec)
    assert [row["update"] for row in rows] == ["sft", "rft", "dpo", "words", "placebo"]
    assert {row["steps"] for row in rows} == {100}
    assert said == [
        "SFT leaves 30.0 to 53.0 % unchanged (most: rft), RL 54.0 to 80.0 %: at one learning rate "
        "RL is the sparser in every case.",
        "In distribution 53.0 to 54.0 % stay unchanged, out of it 30.0 to 80.0 %: 0 of 2 are "
        "sparser than all out of it.",
        "Where there is nothing to learn, 92.0 % stay unchanged: sparser than any RL, with nothing "
        "learnt.",
    ]


def test_several_learning_rates_are_owned_up_to(tmp_path: Path) -> None:
    for name, (_, _, unchanged) in EQUAL.items():
        changed(tmp_path, name, unchanged)
    spec = equal(sft={"learning_rate": 1e-3})
    _, said = shown(tmp_path, "control_equal_learning_rate", spec)
    assert said[0].startswith("Not one learning rate, but 2")


def test_the_learning_rate_is_drawn_with_what_it_moves(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from subnetworks.artefacts import Figure
    from subnetworks.artefacts import style as house

    scored(tmp_path, "start", 57)
    updates = []
    for algorithm, unchanged in (("SFT", (70, 20)), ("GRPO", (80, 40))):
        for rate, share in zip((1e-6, 1e-5), unchanged, strict=True):
            name = f"{algorithm}_{rate}"
            changed(tmp_path, name, share)
            entry = {"update": name, "algorithm": algorithm, "learning_rate": rate, "steps": 100}
            if algorithm == "GRPO":
                scored(tmp_path, name, 60 if rate == 1e-6 else 90)
                entry["full"] = name
            updates.append(entry)
    spec = {"benchmark": "math500", "start": {"full": "start"}, "updates": updates}
    module = artefacts.load("control_learning_rate", Figure)
    with house.house_style():
        figure, drawn = module.draw(Context(tmp_path, tmp_path, spec))
        house.write(figure, drawn, module.name, tmp_path)
    grpo = drawn.filter(algorithm="GRPO").to_dicts()
    assert [row["sparsity_pct"] for row in grpo] == [80, 40]
    assert [row["accuracy_pct"] for row in grpo] == [60, 90]
    assert drawn.filter(algorithm="SFT")["accuracy_pct"].null_count() == 2
    again = polars.read_csv(tmp_path / "control_learning_rate.csv", schema=module.types)
    said = list(module.said(again))
    assert said[0] == (
        "GRPO: from a learning rate of 1e-6 to 1e-5 sparsity goes from 80.0 to 40.0 %, accuracy "
        "from 60.0 to 90.0 % (best: 90.0 % at 1e-5, where 40.0 % are unchanged)."
    )
    assert said[1].endswith("sparsity goes from 70.0 to 20.0 %.")
    assert said[-1] == (
        "The learning rate moves sparsity by 40 to 50 points, the algorithm at one learning rate "
        "by 10 to 20."
    )


def test_masks_before_training_are_compared_with_the_final_one(tmp_path: Path) -> None:
    for kind, right in {"everything": 80, "null": 78, "square": 60, "seed": 81}.items():
        scored(tmp_path, kind, right)
        # Four steps: full training goes from 0.7 to a mean of 0.3.
        apart = 0.1 if kind == "square" else 0.0
        losses = (0.7, 0.5, 0.4 + apart, 0.2 + apart)
        lines = [f"{step},{loss}," for step, loss in enumerate(losses, 1)]
        log = tmp_path / "runs" / kind / "log.csv"
        log.parent.mkdir(parents=True)
        log.write_text("\n".join(["step,loss,reward", *lines]) + "\n")
    for name in ("null", "square", "seed"):
        write(tmp_path, f"overlaps/{name}.json", overlap(36, 24, 30))
        changed(tmp_path, name, 90)
    for name, area in (("null", 0.8), ("square", 0.55)):
        write(tmp_path, f"rankings/{name}.json", {"average_precision": area, "sweep": []})
    entries: list[dict[str, Any]] = [
        {"label": "everything", "kind": "full", "trained": "everything"},
        {"label": "null", "kind": "predicted"},
        {"label": "square", "kind": "predicted"},
        {"label": "seed", "kind": "afterwards"},
        {"label": "untrained", "kind": "predicted", "overlap": "null"},
    ]
    for entry in entries:
        entry |= {"of": "everything", "algorithm": "DPO"}
        if entry["label"] in ("null", "square", "seed"):
            name = entry["label"]
            entry |= {"overlap": name, "trained": name, "update": name}
        if entry["label"] in ("null", "square"):
            entry["ranking"] = entry["label"]
    spec = {"benchmark": "math500", "masks": entries}
    rows, said = shown(tmp_path, "control_predicted_masks", spec)
    full, null, square, seed, untrained = rows
    assert (full["accuracy_pct"], full["difference_pct"], full["density_pct"]) == (80, None, None)
    # The masks of `overlap`: forty entries of a hundred in the end, fifty foreseen, 36 in both.
    assert (null["density_pct"], null["recall_pct"], null["precision_pct"]) == (50, 90, 72)
    assert (null["chance_pct"], null["agreement_pct"]) == (60, 90)
    assert (null["average_precision_pct"], seed["average_precision_pct"]) == (80, None)
    assert square["difference_pct"] == pytest.approx(-20)
    assert (full["loss"], square["loss"]) == pytest.approx((0.3, 0.4))
    assert (full["loss_difference"], null["loss_difference"]) == (None, 0)
    assert square["loss_difference"] == pytest.approx(0.1)
    # Of the 0.4 that full training gains, 0.3.
    assert (null["loss_kept_pct"], square["loss_kept_pct"]) == pytest.approx((100, 75))
    assert square["standing"] is None, "one seed shows no standing"
    assert (untrained["recall_pct"], untrained["accuracy_pct"]) == (90, None)
    assert said == [
        "DPO: of what is known before the first update, null ranks the changed weights best "
        "(area under the curve 80.0 %).",
        "DPO: not below full training beyond the noise within null.",
    ]
    benchmark = spec.pop("benchmark")
    rows, said = shown(tmp_path, "control_predicted_masks", spec)
    assert [row["accuracy_pct"] for row in rows] == [None] * 5
    assert said[1] == "DPO: of the loss that full training gains, within null 100 %, square 75 %."
    spec["benchmark"] = benchmark
    spec["masks"] = [full_and for full_and in entries if full_and["label"] != "null"]
    _, said = shown(tmp_path, "control_predicted_masks", spec)
    assert said[1] == (
        "DPO: no mask that is known before the first update trains as well as all weights."
    )

"""Tables say what the result files say, beside what the paper printed."""

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

polars = pytest.importorskip("polars")

from subnetworks import artefacts  # noqa: E402
from subnetworks.artefacts import Table, pairing  # noqa: E402
from subnetworks.artefacts import sheet as style  # noqa: E402
from subnetworks.core.errors import UserError  # noqa: E402
from subnetworks.core.results import Context  # noqa: E402

PUBLISHED = Path(__file__).resolve().parents[3] / "workflow" / "published"
NAMES = [table.name for table in artefacts.of_kind(Table) if not table.is_control]


def build(context: Any, name: str, **changes: Any) -> list[dict[str, Any]]:
    return artefacts.load(name, Table).build(context(name, **changes)).to_dicts()


def build_from(results: Path, name: str, made_up: Any) -> list[dict[str, Any]]:
    return (
        artefacts.load(name, Table)
        .build(Context(results, PUBLISHED, made_up.SPECS[name]))
        .to_dicts()
    )


def test_table_3_says_what_was_skipped(results, made_up, tmp_path):
    copy = made_up.make(tmp_path / "mini")
    for checkpoint in ("sft", "grpo", "grpo_subnetwork"):
        folder = copy / "evaluation" / checkpoint
        (folder / "agieval.json").unlink()
        made_up.write_json(folder / "scores.json", {"skipped": {"agieval": "gated, no access"}})
    rows = build_from(copy, "table_3_subnetwork_accuracy", made_up)
    row = next(r for r in rows if (r["algorithm"], r["task"]) == ("GRPO", "agieval"))
    assert (row["n"], row["full"], row["remark"]) == (None, None, "Skipped: gated, no access")
    average = next(r for r in rows if (r["algorithm"], r["group"]) == ("GRPO", "average"))
    wholes = [r for r in rows if (r["algorithm"], r["group"]) == ("GRPO", "all")]
    assert len(wholes) == 2
    assert average["full"] == pytest.approx(sum(r["full"] for r in wholes) / 2)


def tensors(results: Path, update: str) -> list[dict[str, Any]]:
    return polars.read_parquet(results / "updates" / f"{update}.parquet").to_dicts()


def published(name: str) -> list[dict[str, str]]:
    with open(PUBLISHED / f"{name}.csv", newline="") as handle:
        return list(csv.DictReader(handle))


def test_table_1_counts_every_tensor(context, results):
    rows = build(context, "table_1_update_sparsity")
    counted = tensors(results, "grpo")
    inner = [t for t in counted if t["matrix"] not in ("embedding", "head")]
    grpo = next(row for row in rows if row["update"] == "grpo")
    n = sum(t["n"] for t in counted)
    assert grpo["n"] == n
    assert grpo["changed"] == sum(t["n"] - t["isclose_bf16_1e-5"] for t in counted)
    assert grpo["sparsity_pct"] == pytest.approx(100 - 100 * grpo["changed"] / n)
    assert grpo["bit_equal_pct"] == pytest.approx(100 * sum(t["bit_equal"] for t in counted) / n)
    share = sum(t["isclose_bf16_1e-5"] for t in inner) / sum(t["n"] for t in inner)
    assert grpo["sparsity_without_embeddings_pct"] == pytest.approx(100 * share)
    assert (grpo["on_policy"], grpo["kl"], grpo["online"]) == (True, False, True)


def test_tables_state_how_much_was_compared(context):
    shares = {
        "table_1_update_sparsity": 99.5,
        "table_2_update_rank": 99,
        "table_4_overlap": 100,
        "table_5_in_distribution": 99.5,
        "table_6_tolerance_sweep": 99.5,
    }
    for name, share in shares.items():
        module = artefacts.load(name, Table)
        frame = module.build(context(name))
        found = {row["source"]: row["compared_share_pct"] for row in frame.to_dicts()}
        assert found == {"here": pytest.approx(share), "paper": None}, name
        shown = style.to_markdown(module.sheet(frame))
        assert "compared" in shown and "Compared: " in shown


def test_table_1_prints_the_whole_table_of_the_paper_and_its_contradiction(context):
    rows = [row for row in build(context, "table_1_update_sparsity") if row["source"] == "paper"]
    printed = published("table1_update_sparsity")
    assert [row["published_low_pct"] for row in rows] == [float(r["sparsity_pct"]) for r in printed]
    simpo = next(row for row in rows if row["algorithm"] == "SimPO")
    assert "86.5" in simpo["remark"]
    assert "76.42" in simpo["remark"]


def test_table_1_gives_a_difference_only_to_the_update_that_it_names(context):
    tuned = "allenai/Llama-3.1-Tulu-3-8B-DPO"
    entry = {"update": "dpo", "label": "DPO", "algorithm": "DPO"}
    updates = [entry | {"published": tuned}, entry]
    named, other, *rest = build(context, "table_1_update_sparsity", updates=updates)
    assert named["difference_pct"] == pytest.approx(named["sparsity_pct"] - 81.4)
    assert other["difference_pct"] is None
    assert (other["published_low_pct"], other["published_high_pct"]) == (81.4, 95.2)
    assert len(rest) == 9


def test_an_update_without_a_label_is_called_by_algorithm_and_name(context):
    updates = [{"update": "grpo", "algorithm": "GRPO"}, {"update": "sft", "algorithm": "RFT"}]
    rows = build(context, "table_1_update_sparsity", updates=updates)
    assert [row["label"] for row in rows[:2]] == ["GRPO", "RFT (sft)"]


def test_an_unknown_published_row_lists_the_known(context):
    updates = [{"update": "dpo", "algorithm": "DPO", "published": "Tulu 9B"}]
    with pytest.raises(UserError, match=r"Tulu 9B.*Tulu 8B, Eurus 7B"):
        build(context, "table_2_update_rank", updates=updates)


def test_table_2_takes_ranks_as_measured(context, results):
    grpo, dpo, *rest = build(context, "table_2_update_rank")
    measured = json.loads((results / "updates" / "grpo.rank.json").read_text())
    assert grpo["mean_rank_pct"] == pytest.approx(100 * measured["mean_rank"])
    assert grpo["stable_rank_pct"] == pytest.approx(10)
    assert dpo["difference_pct"] == pytest.approx(dpo["mean_rank_pct"] - 99.8)
    assert [row["label"] for row in rest] == [
        "PRIME, Eurus 7B",
        "KTO, Llama-3 8B",
        "GRPO, DeepSeek Math 7B",
    ]


def answers(results: Path, checkpoint: str, benchmark: str) -> list[float]:
    path = results / "evaluation" / checkpoint / f"{benchmark}.samples.parquet"
    return polars.read_parquet(path).sort("doc_id")["correct"].to_list()


def test_table_3_pairs_the_differences_by_question(context, results):
    rows = build(context, "table_3_subnetwork_accuracy")
    row = next(r for r in rows if (r["algorithm"], r["benchmark"]) == ("GRPO", "math500"))
    full = answers(results, "grpo", "math500")
    masked = answers(results, "grpo_subnetwork", "math500")
    init = answers(results, "sft", "math500")
    n = len(full)
    assert row["full"] == pytest.approx(100 * sum(full) / n)
    for key, later, earlier in (("difference", masked, full), ("gain", full, init)):
        apart = [a - b for a, b in zip(later, earlier, strict=True)]
        mean = sum(apart) / n
        error = math.sqrt(sum((d - mean) ** 2 for d in apart) / (n - 1) / n)
        assert row[key] == pytest.approx(100 * mean)
        assert row[f"{key}_stderr"] == pytest.approx(100 * error)
    assert row["paired"] is True
    assert row["full_cut"] == sum(answer == 0 for answer in full) // 3
    assert row["init_cut"] == sum(answer == 0 for answer in init) // 3


def test_table_3_averages_over_benchmarks(context):
    rows = build(context, "table_3_subnetwork_accuracy")
    dpo = [r for r in rows if r["algorithm"] == "DPO" and r["source"] == "here"]
    wholes = [r for r in dpo if r["group"] == "all"]
    average = next(r for r in dpo if r["group"] == "average")
    assert average["full"] == pytest.approx(sum(r["full"] for r in wholes) / 3)
    error = math.sqrt(sum(r["full_stderr"] ** 2 for r in wholes)) / 3
    assert average["full_stderr"] == pytest.approx(error)


def test_table_3_puts_the_papers_rows_beside_ours(context):
    pair = {"algorithm": "PRIME", "full": "grpo", "subnetwork": "grpo_subnetwork"}
    rows = build(
        context,
        "table_3_subnetwork_accuracy",
        pairs=[pair | {"published": "PRIME"}],
        labels={"math500": "MATH500"},
    )
    ours = {row["benchmark"]: row for row in rows if row["source"] == "here"}
    assert ours["MATH500"]["published_subnetwork"] == 72.2
    assert ours["MATH500 level 5"]["published_full"] == 40.3
    assert "12 problems of 500" in ours["MATH500"]["remark"]
    theirs = [row["algorithm"] for row in rows if row["source"] == "paper"]
    assert theirs == ["DPO"] * 6


def test_table_3_scores_a_pair_on_benchmarks_of_its_own(context):
    grpo = {"algorithm": "GRPO", "full": "grpo", "subnetwork": "grpo_subnetwork"}
    dpo = {"algorithm": "DPO", "full": "dpo", "subnetwork": "dpo_subnetwork"}
    both = ["math500", "agieval"]
    rows = build(context, "table_3_subnetwork_accuracy", pairs=[grpo, dpo | {"benchmarks": both}])
    ours = {
        algorithm: [
            r["task"]
            for r in rows
            if r["algorithm"] == algorithm and r["source"] == "here" and r["group"] == "all"
        ]
        for algorithm in ("GRPO", "DPO")
    }
    assert ours == {"GRPO": ["math500", "agieval", "mmlu_pro"], "DPO": both}
    averages = {r["algorithm"]: r for r in rows if r["group"] == "average"}
    wholes = [r for r in rows if r["algorithm"] == "DPO" and r["group"] == "all"]
    assert averages["DPO"]["full"] == pytest.approx(sum(r["full"] for r in wholes) / 2)


def test_scores_without_answers_are_taken_as_independent(context, results, made_up, tmp_path):
    copy = made_up.make(tmp_path / "mini")
    for path in copy.glob("evaluation/*/*.samples.parquet"):
        path.unlink()
    name = "table_3_subnetwork_accuracy"
    frame = artefacts.load(name, Table).build(Context(copy, PUBLISHED, made_up.SPECS[name]))
    row = frame.row(0, named=True)
    assert row["paired"] is False
    assert row["p"] is None
    apart = math.hypot(row["full_stderr"], row["subnetwork_stderr"])
    assert row["difference_stderr"] == pytest.approx(apart)


def test_other_questions_are_not_paired():
    same = {"row": ["a", "b", "c"], "correct": [1.0, 0.0, 1.0]}
    first = polars.DataFrame({"doc_id": [0, 1, 2], "gold": ["1", "2", "3"], **same})
    for change in ({"doc_id": [0, 1, 3]}, {"gold": ["1", "2", "4"]}, {"row": ["a", "b", "d"]}):
        other = first.with_columns(**{k: polars.Series(v) for k, v in change.items()})
        assert pairing.paired(first, other) is None
    assert pairing.paired(first, first).value == 0
    assert pairing.paired(first, first.head(2)) is None


def test_table_3_levels_are_paired_within_the_level(context, results):
    rows = build(context, "table_3_subnetwork_accuracy")
    row = next(r for r in rows if (r["algorithm"], r["benchmark"]) == ("GRPO", "math500 level 2"))
    full = answers(results, "grpo", "math500")[1::5]
    init = answers(results, "sft", "math500")[1::5]
    apart = [a - b for a, b in zip(full, init, strict=True)]
    mean = sum(apart) / len(apart)
    error = math.sqrt(sum((d - mean) ** 2 for d in apart) / (len(apart) - 1) / len(apart))
    assert (row["group"], row["n"], row["paired"]) == ("2", 40, True)
    assert row["gain_stderr"] == pytest.approx(100 * error)


def test_table_3_says_which_differences_are_beyond_noise(context, results, made_up, tmp_path):
    copy = made_up.make(tmp_path / "mini")
    made_up.score(copy, "grpo_subnetwork", "math500", 0.0)  # far below full GRPO's + 0.2
    rows = build_from(copy, "table_3_subnetwork_accuracy", made_up)
    wholes = [r for r in rows if r["group"] == "all"]
    worse = next(r for r in wholes if (r["algorithm"], r["task"]) == ("GRPO", "math500"))
    full, masked = (answers(copy, c, "math500") for c in ("grpo", "grpo_subnetwork"))
    moved = [b - a for a, b in zip(full, masked, strict=True)]
    p = pairing.sign_test(moved.count(1), moved.count(-1))
    assert worse["p"] == p
    assert worse["p_corrected"] == pytest.approx(len(wholes) * p)
    assert worse["beyond_noise"] is True
    assert worse["difference_low"] < worse["difference"] < worse["difference_high"] < 0
    same = next(r for r in wholes if (r["algorithm"], r["task"]) == ("DPO", "math500"))
    assert (same["beyond_noise"], same["p_corrected"]) == (False, 1.0)
    average = next(r for r in rows if r["group"] == "average")
    half = 1.96 * average["difference_stderr"]
    assert average["difference_high"] == pytest.approx(average["difference"] + half, abs=1e-3)
    assert average["beyond_noise"] is None
    name = "table_3_subnetwork_accuracy"
    module = artefacts.load(name, Table)
    frame = module.build(Context(copy, PUBLISHED, made_up.SPECS[name]))
    shown = style.to_markdown(style.sheet(frame, module.title, module.columns, module.notes))
    line = next(line for line in shown.splitlines() if line.startswith("| GRPO | math500 |"))
    assert re.search(r"\| −\d+\.\d to −\d+\.\d \| <0\.001 \| yes \|", line), line


def test_table_4_sets_overlap_against_every_chance(context):
    seeds, other, *rest = build(context, "table_4_overlap")
    assert seeds["o1_pct"] == pytest.approx(100 * 333_000 / 360_000)
    assert seeds["o2_pct"] == pytest.approx(100 * 333_000 / 364_000)
    assert seeds["sparsity1_pct"] == pytest.approx(100 - 100 * 360_000 / 804_992)
    assert seeds["by_magnitude_o1_pct"] == pytest.approx(73)
    assert seeds["difference_o1_pct"] == pytest.approx(seeds["o1_pct"] - 60.5)
    assert other["published_o1_pct"] is None
    assert [row["label"] for row in rest] == ["data", "seed, data and algorithm"]


def test_table_5_tells_data_apart_and_says_how_each_was_trained(context, results):
    dpo, sft, *rest = build(context, "table_5_in_distribution")
    measured = json.loads((results / "updates" / "dpo.json").read_text())
    assert dpo["sparsity_pct"] == pytest.approx(100 * measured["sparsity"])
    assert (dpo["in_distribution"], dpo["learning_rate"], dpo["steps"]) == (True, 1.5e-6, 100)
    assert (dpo["published_low_pct"], dpo["published_high_pct"]) == (69.4, 91.2)
    assert dpo["difference_pct"] is None
    assert sft["difference_pct"] == pytest.approx(sft["sparsity_pct"] - 6.8)
    assert [row["published_low_pct"] for row in rest] == [91.2, 69.4, 6.8, 7.7, 81.4]
    assert "6.8" in next(row["remark"] for row in rest if row["label"].startswith("Zephyr"))


def test_table_6_counts_at_every_tolerance(context, results):
    sft, dpo, *rest = build(context, "table_6_tolerance_sweep")
    counted = tensors(results, "dpo")
    n = sum(t["n"] for t in counted)
    for tolerance in ("1e-8", "1e-7", "1e-6", "1e-5", "1e-4"):
        share = 100 * sum(t[f"isclose_bf16_{tolerance}"] for t in counted) / n
        assert dpo[f"sparsity_{tolerance}_pct"] == pytest.approx(share)
    assert dpo["equal_pct"] == pytest.approx(100 * sum(t["equal"] for t in counted) / n)
    assert dpo["difference_1e-8_pct"] == pytest.approx(dpo["sparsity_1e-8_pct"] - 76.04)
    assert dpo["difference_1e-5_pct"] == pytest.approx(dpo["sparsity_1e-5_pct"] - 81.38)
    assert sft["published_1e-5_pct"] is None
    assert len(rest) == 11
    simpo = next(row for row in rest if row["label"] == "Llama-3-Instruct-8B-SimPO")
    assert simpo["published_1e-5_pct"] == 76.42
    assert "86.5" in simpo["remark"]


def test_conjecture_1_stands_beside_its_baselines(context, results):
    rows = build(context, "conjecture_1_agreement")
    dpo = [row for row in rows if row["algorithm"] == "DPO"]
    assert [row["compared"] for row in dpo] == [
        "full and subnetwork",
        "full and init",
        "full and another seed",
    ]
    counted = tensors(results, "dpo_agreement")
    n = sum(t["n"] for t in counted)
    for tolerance in ("1e-5", "1e-4"):
        share = 100 * sum(t[f"isclose_bf16_{tolerance}"] for t in counted) / n
        assert dpo[0][f"equal_{tolerance}_pct"] == pytest.approx(share)
    assert (dpo[0]["published_1e-5_pct"], dpo[0]["published_1e-4_pct"]) == (94.0, 100.0)
    assert dpo[0]["outside_moved"] == 0
    assert rows[-1]["algorithm"] == "PRIME"
    assert rows[-1]["source"] == "paper"


def test_conjecture_1_counts_weights_that_left_the_mask(context, results, made_up, tmp_path):
    copy = made_up.make(tmp_path / "mini")
    made_up.overlap(copy, "dpo_within", ("dpo", "dpo_subnetwork"), (360_000, 350_000, 349_993))
    name = "conjecture_1_agreement"
    frame = artefacts.load(name, Table).build(Context(copy, PUBLISHED, made_up.SPECS[name]))
    moved = frame.filter(algorithm="DPO", compared="full and subnetwork")["outside_moved"]
    assert moved.to_list() == [7]


def test_every_table_shows_only_the_paper_if_nothing_is_asked_for(tmp_path):
    for name in NAMES:
        frame = artefacts.load(name, Table).build(Context(tmp_path, PUBLISHED, {}))
        assert set(frame["source"]) == {"paper"}


def test_a_missing_file_names_its_rule_and_target(context):
    updates = [{"update": "ppo", "label": "PPO"}]
    with pytest.raises(UserError, match=r"ppo\.json: no such file; rule 'measure'.*snakemake"):
        build(context, "table_1_update_sparsity", updates=updates)


def test_a_result_of_another_version_is_refused(made_up, tmp_path):
    path = tmp_path / "updates" / "grpo.json"
    made_up.write_json(path, {"n": 3})
    with pytest.raises(UserError, match="no 'equal'"):
        Context(tmp_path, PUBLISHED, {}).update("grpo")


def test_a_specification_without_a_key_says_which(context):
    with pytest.raises(UserError, match=r"updates\.0: missing key 'update'"):
        build(context, "table_1_update_sparsity", updates=[{"label": "x"}])


def test_an_unknown_table_lists_the_known():
    with pytest.raises(UserError, match=r"table_9.*table_1_update_sparsity"):
        artefacts.load("table_9", Table)


def latex(context: Any, name: str, **changes: Any) -> str:
    module = artefacts.load(name, Table)
    frame = module.build(context(name, **changes))
    return style.to_latex(style.sheet(frame, module.title, module.columns, module.notes), name)


@pytest.mark.parametrize("name", NAMES)
def test_latex_is_balanced(context, name):
    text = latex(context, name)
    opened = re.findall(r"\\begin\{(\w+)\}", text)
    assert sorted(opened) == sorted(re.findall(r"\\end\{(\w+)\}", text))
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    for rule in ("toprule", "midrule", "bottomrule"):
        assert rf"\{rule}" in text
    columns = len(re.search(r"\{@\{\}([lr]+)@\{\}\}", text)[1])
    for line in text.splitlines():
        if line.endswith(r"\\"):
            spanned = [int(k) - 1 for k in re.findall(r"\\multicolumn\{(\d+)\}", line)]
            assert len(re.findall(r"(?<!\\)&", line)) + 1 + sum(spanned) == columns
    unknown = {c for c in text if ord(c) > 127}
    assert not unknown


def test_latex_and_markdown_escape_what_they_must(context):
    assert r"DPO \& co\_1" in latex(context, "table_1_update_sparsity")
    assert style.escape("a_b & 5% #1 {x} ~ ^ \\") == (
        r"a\_b \& 5\% \#1 \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{}"
    )


def test_markdown_rows_have_equally_many_cells(context):
    for name in NAMES:
        module = artefacts.load(name, Table)
        sheet = style.sheet(module.build(context(name)), module.title, module.columns, module.notes)
        lines = [line for line in style.to_markdown(sheet).splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_numbers_are_shown_with_sign_error_and_range():
    row = {"a": -0.04, "b": -1.25, "e": 0.5, "low": 1.0, "high": 2.0, "n": 1234567, "f": True}
    assert style.Column("a", "", signed=True).show(row) == "0.0"
    assert style.Column("b", "", error="e", digits=2).show(row) == "−1.25 ± 0.50"
    assert style.Column("low", "", upper="high").show(row) == "1.0–2.0"
    assert style.Column("e", "", general=True).show({"e": 1.5e-6}) == "1.5e-6"
    assert style.Column("n", "").show(row) == "1,234,567"
    assert style.text("f", "").show(row) == "yes"
    assert style.text("nothing", "").show(row) == "–"


def test_the_published_numbers_are_unaltered():
    source = Path(__file__).resolve().parents[4] / "shared" / "published"
    if not source.exists():
        pytest.skip("the published numbers' source is not here")
    for path in source.glob("*.csv"):
        assert (PUBLISHED / path.name).read_bytes() == path.read_bytes(), path.name


def test_ablations_are_compared_with_the_first_of_their_block(context, results):
    without, with_kl, batch, *rest = build(context, "section_6_ablations")
    ours = [
        100 * json.loads((results / "updates" / f"{name}.json").read_text())["sparsity"]
        for name in ("grpo", "grpo_seed1", "grpo_kl")
    ]
    assert without["runs"] == 2
    assert without["sparsity_pct"] == pytest.approx((ours[0] + ours[1]) / 2)
    spread = abs(ours[0] - ours[1]) / math.sqrt(2)
    assert without["sparsity_sd_pct"] == pytest.approx(spread)
    assert without["change_pct"] is None
    # The single run is taken to spread as the two seeds do.
    assert with_kl["change_pct"] == pytest.approx(ours[2] - (ours[0] + ours[1]) / 2)
    assert with_kl["change_stderr_pct"] == pytest.approx(spread * math.sqrt(1 + 1 / 2))
    assert with_kl["degrees_of_freedom"] == 1
    assert with_kl["published_change_pct"] == pytest.approx(69.8 - 68.8)
    # A saved step: 2 * 500 + 5 of 10,000 changed, 10 of them by less than the tolerance.
    assert (batch["steps"], batch["batch_size"]) == (30, 32)
    assert batch["sparsity_pct"] == pytest.approx(100 - 9.95)
    assert batch["change_stderr_pct"] is None
    settings = ["batch 32, one epoch", "batch 128 (released)", "over 8,000 steps"]
    assert [row["setting"] for row in rest] == settings


def test_the_share_of_steps_above_the_bound_is_of_the_steps_that_led_there(context, results):
    path = results / "runs" / "dpo" / "log.csv"
    kept = path.read_text()
    rows = list(csv.DictReader(kept.splitlines()))
    for row in rows:
        row["grad_norm"] = "2.0" if int(row["step"]) > 24 else "1.0"
    try:
        with path.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        _, _, batch, *_ = build(context, "section_6_ablations")
        assert batch["bounded_pct"] == pytest.approx(20)  # steps 25 to 30 of 30
    finally:
        path.write_text(kept)


def test_a_step_that_a_run_does_not_keep_is_named(context):
    of = [{"run": "dpo", "step": 31}]
    ablations = [{"ablation": "batch", "setting": "", "of": of}]
    with pytest.raises(UserError, match=r"dpo.*no step 31.*15, 30, 45, 60"):
        build(context, "section_6_ablations", ablations=ablations)


def test_table_5_counts_the_steps_of_the_optimiser(context):
    entry = {"update": "dpo", "algorithm": "RAFT++", "in_distribution": True, "steps": 25}
    updates = [entry | {"updates_per_step": 4}, entry]
    several, one, *_ = build(context, "table_5_in_distribution", updates=updates)
    assert (several["steps"], one["steps"]) == (100, 25)

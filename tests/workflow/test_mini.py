"""The miniature from nothing to its tables and figures, and what must hold whatever comes out.

Whether the paper's effects appear in it is for its report to say.
"""

import csv
import json
import math
import subprocess
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import yaml
from running import ARTEFACTS, ROOT, planned, run_snakemake

pytestmark = pytest.mark.usefixtures("mini")

MASKED = ["grpo", "dpo", "ppo", "prime", "orpo", "kto", "simpo", "rft"]


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_every_update_is_counted_in_full(mini: Path) -> None:
    """A gentler rule has no fewer unchanged entries, and the parts add up to the whole."""
    found = [path for path in mini.glob("updates/*.json") if path.name.count(".") == 1]
    assert len(found) > 40
    for path in found:
        update = read(path)
        counts = [update["equal"], *update["isclose_bf16"].values()]
        assert counts == sorted(counts), path
        assert counts[-1] <= update["n"] == 870_528
        assert update["changed"] == update["n"] - update["equal"]
        assert update["sparsity"] == update["isclose_bf16"]["1e-5"] / update["n"]
        assert sum(steps["n"] for steps in update["histograms"]["ulp_steps"]) == update["n"]


@pytest.mark.parametrize("run", MASKED)
def test_weights_outside_the_mask_are_bit_identical_to_the_init(mini: Path, run: str) -> None:
    """Counted again with torch alone, from the weights, not from our masks."""
    script = """
import sys
import torch
from safetensors.torch import load_file
init, full, sub = (load_file(f"{folder}/model.safetensors") for folder in sys.argv[1:])
moved = trained = 0
for name, start in init.items():
    assert start.dtype == full[name].dtype == sub[name].dtype == torch.bfloat16
    bits = [tensor[name].view(torch.int16) for tensor in (init, full, sub)]
    outside = full[name] - start == 0
    moved += int((outside & (bits[0] != bits[2])).sum())
    trained += int((~outside & (bits[0] != bits[2])).sum())
print(moved, trained)
"""
    folders = [str(mini / "checkpoints" / name) for name in ("sft", run, f"{run}_subnetwork")]
    python = str(ROOT / ".venvs" / "measure" / "bin" / "python")
    done = subprocess.run(
        [python, "-c", script, *folders], capture_output=True, text=True, check=True
    )
    moved, trained = map(int, done.stdout.split())
    assert moved == 0
    assert trained > 0


@pytest.mark.parametrize("run", MASKED)
def test_full_and_masked_training_agree_outside_the_mask(mini: Path, run: str) -> None:
    """There both are still the init; the mask is what full training changed."""
    full, agreement = (read(mini / "updates" / f"{run}{what}.json") for what in ("", "_agreement"))
    assert agreement["n"] == full["n"]
    assert agreement["equal"] >= full["equal"]


def test_all_of_table_5_are_trained_at_one_learning_rate(mini: Path) -> None:
    with open(mini / "tables" / "table_5_in_distribution.csv", newline="") as handle:
        rates = {row["update"]: row["learning_rate"] for row in csv.DictReader(handle)}
    assert rates["rft"] == rates["sft_foreign"] == rates["dpo_foreign"]


def test_an_overlap_is_of_the_masks_of_its_updates(mini: Path) -> None:
    found = [path for path in mini.glob("overlaps/*.json") if ".meta." not in path.name]
    assert len(found) > 4
    for path in found:
        overlap = read(path)
        updates = [read(mini / "updates" / f"{Path(mask).stem}.json") for mask in overlap["masks"]]
        assert overlap["changed"] == [update["changed"] for update in updates], path
        if len(updates) == 2:
            first, second = overlap["changed"]
            both = overlap["intersection"]
            assert overlap["union"] == first + second - both
            assert (overlap["o1"], overlap["o2"]) == (both / first, both / second)
            assert overlap["chance"]["o1"] == pytest.approx(second / overlap["n"])


def test_ranks_are_of_matrices_that_changed(mini: Path) -> None:
    for run in ("grpo", "dpo"):
        ranks = read(mini / "updates" / f"{run}.rank.json")
        assert ranks["compared_share"] == 1
        assert 0 < ranks["mean_rank"] <= 1
        assert 0 < ranks["mean_rank_without_embeddings"] <= 1


def test_every_score_has_a_standard_error(mini: Path) -> None:
    scores = [
        p
        for p in mini.glob("evaluation/*/*.json")
        if ".meta." not in p.name and p.name != "scores.json"
    ]
    # The experiment's own: seven checkpoints on three benchmarks; controls may lie beside them.
    own = yaml.safe_load((ROOT / "experiments" / "mini.yaml").read_text())["evaluation"]
    assert len([path for path in scores if path.parent.name in own]) == 21
    for path in scores:
        score = read(path)
        expected = math.sqrt(score["score"] * (1 - score["score"]) / (score["n"] - 1))
        assert score["stderr"] == pytest.approx(expected, rel=1e-3), path
        low, high = score["interval_95"]
        assert low < score["score"] < high


def logged(mini: Path, run: str, column: str) -> list[float]:
    with (mini / "runs" / run / "log.csv").open(newline="") as handle:
        return [float(row[column]) for row in csv.DictReader(handle)]


@pytest.mark.parametrize("run", ["prime", "prime_subnetwork"])
def test_the_reward_model_learns_to_tell_right_answers_from_wrong(mini: Path, run: str) -> None:
    """On answers that it has not yet learnt from, better than their more frequent outcome."""
    losses, right, majority = (
        logged(mini, run, f"reward_model_{column}") for column in ("loss", "accuracy", "majority")
    )
    last = slice(-20, None)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert sum(losses[last]) / 20 < math.log(2) - 0.05
    assert sum(right[last]) / 20 > sum(majority[last]) / 20 + 0.05
    assert sum(right[last]) / 20 > sum(right[:10]) / 10


def test_the_critic_learns_to_predict_the_reward(mini: Path) -> None:
    losses = logged(mini, "ppo", "critic_loss")
    assert sum(losses[-10:]) < 0.5 * sum(losses[:3]) / 3 * 10


def test_a_placebo_is_rewarded_at_random(mini: Path) -> None:
    rewards = logged(mini, "placebo", "reward")
    assert abs(sum(rewards) / len(rewards) - 0.5) < 0.05


def test_logs_have_every_step_once(mini: Path) -> None:
    for path in sorted(mini.glob("runs/*/log.csv")):
        with path.open(newline="") as handle:
            steps = [int(row["step"]) for row in csv.DictReader(handle)]
        assert steps == list(range(1, len(steps) + 1)), path


def test_results_carry_their_provenance(mini: Path) -> None:
    for result in (
        "updates/grpo.json",
        "checkpoints/grpo/manifest.json",
        "evaluation/grpo/math500.json",
    ):
        meta = read(mini / f"{result}.meta.json")
        assert meta["wall_time_s"] > 0 and meta["packages"]["torch"].startswith("2.")


def test_running_again_does_nothing() -> None:
    assert planned(run_snakemake("-n", "--cores", "1")) == {}


def test_every_target_of_a_finished_experiment_has_nothing_to_do() -> None:
    assert planned(run_snakemake("-n", "--cores", "1", *ARTEFACTS, "report")) == {}


def test_changing_modules_makes_their_table_and_figure_only(copy: Path) -> None:
    """And the report that shows them. A table's and a figure's at once: each plan takes seconds."""
    library = copy / "src" / "subnetworks"
    modules = {path.stem: path for path in library.glob("artefacts/*.py")}
    figures = [name for name in ARTEFACTS if name.startswith("figure")]
    tables = [name for name in ARTEFACTS if name not in figures]
    for names in zip_longest(tables, figures):
        texts = {modules[name]: modules[name].read_text() for name in names if name}
        for module, text in texts.items():
            module.write_text(text + "# Another way.\n")
        jobs = planned(run_snakemake("-n", "--cores", "1", folder=copy))
        assert set(jobs) == {"all", "report", *names} - {None}
        for module, text in texts.items():
            module.write_text(text)
    assert planned(run_snakemake("-n", "--cores", "1", folder=copy)) == {}


def test_changing_what_the_report_says_makes_the_report_only(copy: Path) -> None:
    module = copy / "src" / "subnetworks" / "artefacts" / "claims.py"
    module.write_text(module.read_text() + "# Another way.\n")
    assert set(planned(run_snakemake("-n", "--cores", "1", folder=copy))) == {"all", "report"}


def test_a_control_is_made_by_its_name_and_then_shown_on_the_page(mini: Path) -> None:
    """Of those that train nothing; touching its module makes it again, and nothing else."""
    done = run_snakemake("--cores", "1", "control_chance")
    assert done.returncode == 0, done.stderr
    with (mini / "tables" / "control_chance.csv").open(newline="") as handle:
        rows = {row["label"]: row for row in csv.DictReader(handle)}
    assert {"GRPO, placebo", "GRPO 0, GRPO 1"} <= rows.keys()
    for row in rows.values():
        overlap = read(mini / "overlaps" / f"{row['overlap']}.json")
        times = overlap["o1"] / overlap["chance"]["o1"]
        assert float(row["times_uniform"]) == pytest.approx(times, rel=1e-6)
    assert planned(run_snakemake("-n", "--cores", "1", "control_chance")) == {}
    # Made alone it leaves the page as it is; the next page has it.
    assert run_snakemake("--cores", "1", "--forcerun", "report").returncode == 0
    assert "GRPO, placebo" in (mini / "report.md").read_text()


def test_changing_one_control_makes_that_control_only(copy: Path) -> None:
    source = copy / "src" / "subnetworks" / "artefacts" / "control_chance.py"
    source.write_text(source.read_text() + "# Another way.\n")
    assert planned(run_snakemake("-n", "--cores", "1", folder=copy)) == {}
    jobs = planned(run_snakemake("-n", "--cores", "1", "control_chance", folder=copy))
    assert jobs == {"control_chance": 1}


def test_changing_one_seed_reruns_only_what_depends_on_it(copy: Path) -> None:
    path = copy / "experiments" / "mini.yaml"
    text = path.read_text()
    assert "grpo_seed1: { like: grpo, seed: 1 }" in text
    path.write_text(
        text.replace("{ like: grpo, seed: 1 }", "{ like: grpo, seed: 1, learning_rate: 1.0e-6 }")
    )
    jobs = planned(run_snakemake("-n", "--cores", "1", folder=copy))
    assert jobs["train"] == 1
    assert jobs["measure"] == 2  # its update, and its distance from the full run
    assert jobs["overlap"] == 1
    assert jobs["evaluate"] == 1
    assert (
        not {"make_base", "make_dataset", "make_benchmark", "rank", "figure_4_training_loss"}
        & jobs.keys()
    )


def test_all_made_again_is_the_same_to_the_byte(mini: Path) -> None:
    def shown() -> dict[Path, bytes]:
        files = [*mini.glob("figures/*"), *mini.glob("tables/*")]
        return {p: p.read_bytes() for p in files if p.stem in ARTEFACTS}

    before = shown()
    done = run_snakemake("--cores", "2", "--force", *ARTEFACTS)
    assert done.returncode == 0, done.stderr
    suffixes = {"figures": [".csv", ".pdf", ".png", ".svg"], "tables": [".csv", ".md", ".tex"]}
    assert len(before) == sum(
        len(suffixes["figures" if name.startswith("figure") else "tables"]) for name in ARTEFACTS
    )
    after = shown()
    assert [path.name for path in before if before[path] != after[path]] == []

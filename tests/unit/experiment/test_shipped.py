"""The shipped experiments: together they show all of the paper, at the paper's settings."""

import csv
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydantic")

from subnetworks import artefacts
from subnetworks.artefacts.asking import asked
from subnetworks.experiment import Experiment, load

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = {p.stem: load(p) for p in sorted((ROOT / "experiments").glob("*.yaml"))}
RUNS = SHIPPED["paper_runs"]


def published(name: str) -> list[dict[str, str]]:
    with open(ROOT / "workflow" / "published" / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def told(experiment: Experiment, name: str) -> Any:
    spec = asked(experiment)[name].spec
    assert spec is not None
    return spec


def test_every_table_and_figure_of_the_paper_is_shown_at_its_own_size() -> None:
    names = {name for name, found in artefacts.every().items() if not found.is_control}
    shown = {name: {*one.tables, *one.figures} for name, one in SHIPPED.items()}
    assert names <= shown["paper"] | shown["paper_runs"]
    # What compares nothing but released checkpoints needs no training.
    assert names - shown["paper_runs"] == {"table_6_tolerance_sweep"}
    assert names <= shown["workstation"]
    assert names <= shown["mini"]


def test_the_papers_trainings_stand_beside_every_row_of_its_tables_3_to_5() -> None:
    overlaps = told(RUNS, "table_4_overlap").overlaps
    assert {row.published for row in overlaps} - {None} == {
        row["varied"] for row in published("table4_overlap")
    }
    updates = told(RUNS, "table_5_in_distribution").updates
    assert [(row.published, row.in_distribution) for row in updates] == [
        (f"{row['model']}, {row['method']}", row["in_distribution"] == "yes")
        for row in published("table5_in_distribution")
    ]
    table = told(RUNS, "table_3_subnetwork_accuracy")
    for pair in table.pairs:
        labels = {table.labels[benchmark] for benchmark in pair.benchmarks}
        theirs = [
            row["benchmark"]
            for row in published("table3_subnetwork_accuracy")
            if row["algorithm"] == pair.published
        ]
        assert {name.partition(" level")[0].removesuffix(" overall") for name in theirs} == (
            labels | ({"average"} if len(labels) > 1 else set())
        )
        for role in (pair.init, pair.full, pair.subnetwork):
            assert RUNS.evaluation[role]["benchmarks"] == pair.benchmarks
    agreements = told(RUNS, "conjecture_1_agreement").agreements
    assert {row.algorithm for row in agreements} == {
        row["algorithm"] for row in published("conjecture1_value_agreement")
    }
    settings = {row["setting"] for row in published("section6_ablations")}
    rows = told(RUNS, "section_6_ablations").ablations
    # R1-Zero's 8,000 steps of 671 billion weights are the one run that is not repeated.
    assert settings - {row.published for row in rows} == {"over 8,000 steps"}


def test_the_papers_hyperparameters_are_the_papers() -> None:
    dpo, prime = RUNS.runs["dpo"], RUNS.runs["prime"]
    assert {key: dpo[key] for key in ("batch_size", "max_length", "schedule", "epochs")} == {
        "batch_size": 128,
        "max_length": 2048,
        "schedule": "linear",
        "epochs": 1,
    }
    assert (dpo["learning_rate"], dpo["warmup_ratio"], dpo["weight_decay"]) == (5e-7, 0.1, 0)
    assert (prime["batch_size"], prime["samples_per_prompt"], prime["epochs"]) == (64, 4, 15)
    assert (prime["learning_rate"], prime["reward_learning_rate"]) == (5e-7, 1e-6)
    assert (prime["reward_max_grad_norm"], prime["beta"], prime["reward"]) == (10, 0.05, "math")
    mixed = RUNS.datasets[prime["data"]]["mix"]
    assert {RUNS.datasets[name]["hub"] for name in mixed} == {
        "openai/gsm8k",
        "EleutherAI/hendrycks_math",
    }

    def differ(one: str, other: str) -> set[str]:
        first, second = ({**RUNS.runs[n], "trajectory_every": 0} for n in (one, other))
        return {key for key in first | second if first.get(key) != second.get(key)}

    assert [RUNS.runs[f"dpo_seed_{seed}"]["seed"] for seed in (42, 123)] == [42, 123]
    assert RUNS.runs["dpo_seed_42"]["batch_size"] == 32
    assert differ("dpo_seed_42", "dpo") == {"batch_size"}
    assert differ("dpo_seed_42", "dpo_seed_123") == {"seed"}
    assert differ("dpo_seed_42", "dpo_other_data") == {"data"}
    assert differ("dpo_seed_42", "dpo_of_eurus2") == {"init"}
    assert differ("grpo", "grpo_kl") == {"kl", "kl_coef"}
    assert differ("grpo", "grpo_unclipped") == {"max_grad_norm"}


def test_prime_keeps_as_many_snapshots_as_the_paper() -> None:
    prime = RUNS.runs["prime"]
    steps = prime["epochs"] * (7473 + 7500) // prime["batch_size"]
    saved = range(prime["trajectory_every"], steps + 1, prime["trajectory_every"])
    assert len(saved) == len(published("figure5_prime_sparsity_by_step_digitised"))
    for row in told(RUNS, "section_6_ablations").ablations:
        assert {one.step for one in row.of if one.run == "prime"} <= {*saved}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_run_within_a_subnetwork_differs_from_the_full_one_by_its_mask_alone(name: str) -> None:
    experiment = SHIPPED[name]
    unlike = {"mask", "trajectory_every", "save_every"}  # none of which changes what is learnt
    for agreement in experiment.agreements.values():
        full, within = (experiment.runs[agreement[key]] for key in ("full", "subnetwork"))
        assert within["mask"] == agreement["full"]
        assert {k: v for k, v in within.items() if k not in unlike} == {
            k: v for k, v in full.items() if k not in unlike
        }


def test_adapters_are_compared_with_the_full_run_that_they_differ_from_by_rank_and_rate() -> None:
    experiment = SHIPPED["mini_seeds"]
    unlike = {"lora_rank", "learning_rate", "trajectory_every"}
    rows = told(experiment, "control_lora").runs
    for row in rows:
        run, full = (experiment.runs[name] for name in (row.update, row.of))
        assert {k: v for k, v in run.items() if k not in unlike} == {
            k: v for k, v in full.items() if k not in unlike
        }
        assert (row.lora_rank, row.learning_rate) == (run.get("lora_rank"), run["learning_rate"])
        if row.update != row.of:
            assert experiment.overlaps[row.overlap]["masks"] == [row.of, row.update]
            apart = experiment.updates[row.apart]
            assert (apart["before"], apart["after"]) == (row.of, row.update)
    trained = {(row.algorithm, row.lora_rank) for row in rows}
    assert trained == {
        (name, rank) for name in ("DPO", "RFT", "GRPO") for rank in (None, 4, 16, 64)
    }


def test_long_training_differs_from_the_usual_by_its_steps_and_what_its_row_says() -> None:
    experiment = SHIPPED["mini_seeds"]
    unlike = {"steps", "schedule", "init", "seed", "trajectory_every", "save_every"}
    for row in told(experiment, "control_long_training").runs:
        run, usual = experiment.runs[row.run], experiment.runs[row.algorithm.lower()]
        assert {k: v for k, v in run.items() if k not in unlike} == {
            k: v for k, v in usual.items() if k not in unlike
        }
        assert row.schedule == run.get("schedule")
        steps, start = run["steps"], run["init"]
        if row.after:
            assert row.after == start
            since = experiment.updates[row.since]
            start = experiment.runs[row.after]["init"]
            assert (since["before"], since["after"]) == (start, row.run)
            steps += experiment.runs[row.after]["steps"]
        assert (steps, start) == (10 * usual["steps"], usual["init"])

"""What each job reads and is told, and what an experiment says of its runs."""

import copy
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydantic")

from subnetworks.experiment import Experiment, inputs, options
from subnetworks.experiment.facts import facts_of, run_of

SECTIONS: dict[str, Any] = {
    "checkpoints": {"base": {"make": "base"}},
    "datasets": {
        "problems": {"make": "problems"},
        "answers": {"sample": "problems", "policy": "sft"},
        "demonstrations": {"make": "demonstrations"},
    },
    "runs": {
        "sft": {"algorithm": "sft", "init": "base", "data": "demonstrations", "steps": 3},
        "rft": {"algorithm": "sft", "init": "sft", "data": "answers"},
        "grpo": {
            "algorithm": "grpo",
            "init": "sft",
            "data": "problems",
            "learning_rate": 1e-6,
            "updates_per_step": 2,
        },
        "masked": {"algorithm": "grpo", "init": "sft", "data": "problems", "mask": "grpo"},
        "placebo": {"algorithm": "grpo", "init": "sft", "data": "problems", "reward": "random"},
        "ppo": {"algorithm": "ppo", "init": "sft", "data": "problems", "kl": "reward"},
        "simpo": {"algorithm": "simpo", "init": "sft", "data": "problems"},
        "dpo": {"algorithm": "dpo", "init": "sft", "data": "problems"},
    },
    "updates": {
        "grpo": {"before": "sft", "after": "grpo"},
        "grpo_swept": {"before": "sft", "after": "grpo", "absolute": ["1e-8", "1e-5"]},
        "apart": {"before": "grpo", "after": "dpo", "cast": "F32", "common_rows": True},
    },
    "masks": {
        "early": {"early": {"run": "grpo", "steps": 5}},
        "low": {"magnitude": {"checkpoint": "sft", "like": "grpo"}},
        "few": {"principal": {"checkpoint": "sft", "density": 0.1, "rank": 4}},
        "both": {"union": ["early", "low"], "seed": 3},
    },
    "overlaps": {"pair": {"masks": ["both", "grpo"]}},
    "agreements": {"grpo": {"full": "grpo", "subnetwork": "masked", "baselines": {"init": "sft"}}},
    "benchmarks": {
        "math500": {"make": "math500", "rows": 5, "seed": 1, "task": "math500", "shots": 0},
        "gsm8k": {"task": "gsm8k"},
    },
    "evaluation": {"grpo": {"benchmarks": ["math500", "gsm8k"]}},
    "tables": {},
    "figures": {},
}


@pytest.fixture
def experiment() -> Experiment:
    return Experiment(name="small", source=Path("small.yaml"), **SECTIONS)


def test_jobs_read_what_the_experiment_names(experiment: Experiment) -> None:
    start = "checkpoints/sft/manifest.json"
    assert inputs.of_run(experiment, "masked") == {
        "init": start,
        "data": "data/problems/manifest.json",
        "mask": "masks/grpo.safetensors",
    }
    assert inputs.of_run(experiment, "grpo")["mask"] == []
    # Nothing that is known only once a run has begun.
    assert inputs.of_prediction(experiment, "masked") == {
        "init": start,
        "data": [],
        "mask": "masks/grpo.safetensors",
    }
    assert inputs.of_dataset(experiment, "answers") == {
        "policy": start,
        "problems": "data/problems/manifest.json",
    }
    assert inputs.of_dataset(experiment, "problems") == {"policy": [], "problems": []}
    assert inputs.of_update(experiment, "apart") == {
        "before": "checkpoints/grpo/manifest.json",
        "after": "checkpoints/dpo/manifest.json",
    }
    trajectory = "runs/grpo/trajectory/manifest.json"
    assert inputs.of_trajectory(experiment, "grpo") == {"init": start, "trajectory": trajectory}
    assert inputs.of_mask(experiment, "early") == {
        "sources": [],
        "checkpoint": [],
        "trajectory": trajectory,
        "gradients": [],
        "init": [],
    }
    both = ["masks/early.safetensors", "masks/low.safetensors"]
    assert inputs.of_mask(experiment, "both")["sources"] == both
    # Drawn on the weights that the first mask starts from.
    assert inputs.of_overlap(experiment, "pair")["weights"] == start
    assert inputs.of_evaluation(experiment, "grpo")["rows"] == ["benchmarks/math500/manifest.json"]


def test_the_users_own_files_are_read_and_not_their_folders(
    experiment: Experiment, tmp_path: Path
) -> None:
    for name in ("b/c.safetensors", "a.json", ".git/x", "b/.hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    files = [f"{tmp_path}/a.json", f"{tmp_path}/b/c.safetensors"]
    assert inputs.files_behind(str(tmp_path)) == files
    assert inputs.files_behind(files[0]) == files[:1]
    assert inputs.files_behind(f"{tmp_path}/*.json") == files[:1]
    assert inputs.files_behind("not/there") == ["not/there"]
    assert inputs.own_rows(experiment, "grpo") == []
    experiment.benchmarks["gsm8k"]["data"] = files[0]
    try:
        assert inputs.own_rows(experiment, "grpo") == files[:1]
    finally:
        del experiment.benchmarks["gsm8k"]["data"]


def test_measurements_are_those_of_the_experiment_or_of_its_controls(
    experiment: Experiment,
) -> None:
    of_controls = {"updates": frozenset({"apart"})}
    whole = Experiment(**{**vars(experiment), "of_controls": of_controls})
    assert inputs.measured(whole, controls=True) == ["updates/apart.json"]
    assert inputs.measured(whole) == [
        *(f"predictions/{name}.json" for name in experiment.runs),
        *("updates/grpo.json", "updates/grpo_swept.json", "overlaps/pair.json"),
        "evaluation/grpo/scores.json",
    ]
    runs = {**experiment.runs, "adapters": {**experiment.runs["grpo"], "lora_rank": 4}}
    runs["no_masters"] = {**experiment.runs["grpo"], "master_weights": "kahan"}
    adapted = Experiment(**{**vars(whole), "runs": runs})
    assert inputs.measured(adapted) == inputs.measured(whole)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ("early", "early runs/grpo/trajectory/step_000005.safetensors"),
        ("low", "magnitude checkpoints/sft --like masks/grpo.safetensors"),
        ("few", "principal checkpoints/sft --density 0.1 --rank 4"),
        ("both", "union masks/early.safetensors masks/low.safetensors"),
    ],
)
def test_a_mask_is_made_as_the_experiment_says(
    experiment: Experiment, mask: str, words: str
) -> None:
    assert options.of_mask(experiment, mask, inputs.of_mask(experiment, mask)) == words


def test_an_update_is_measured_as_the_experiment_says(experiment: Experiment) -> None:
    swept, apart = (experiment.updates[name] for name in ("grpo_swept", "apart"))
    assert options.of_update(swept, "cast", "absolute") == "--absolute 1e-8,1e-5"
    assert options.of_update(apart, "cast", "absolute") == "--common-rows --cast F32"
    assert options.of_update(apart) == "--common-rows"


def test_the_null_model_is_asked_of_runs_that_train_all_weights(experiment: Experiment) -> None:
    experiment = copy.deepcopy(experiment)  # what it is made of is shared
    before, _, settings = options.of_synchronisation(experiment, "grpo").partition(" --settings ")
    assert before == "--anchor-every 10"
    assert shlex.split(settings) == [options.of_run(experiment, "grpo")]
    assert options.of_synchronisation(experiment, "masked") == before
    experiment.runs["grpo"]["lora_rank"] = 4
    assert options.of_synchronisation(experiment, "grpo") == before
    experiment.runs["grpo"] |= {"lora_rank": 0, "master_weights": "none"}
    assert options.of_synchronisation(experiment, "grpo") == before
    read = inputs.of_synchronisation(experiment, "grpo")
    assert read == {**inputs.of_trajectory(experiment, "grpo"), "data": []}
    experiment.runs["grpo"]["epochs"] = 1
    read = inputs.of_synchronisation(experiment, "grpo")
    assert read["data"] == "data/problems/manifest.json"


def test_made_rows_and_how_they_are_asked_are_told_apart(experiment: Experiment) -> None:
    entry = experiment.benchmarks["math500"]
    assert json.loads(options.of_made_rows(entry)) == {"rows": 5, "seed": 1}
    assert json.loads(options.of_evaluation(experiment, "grpo", "results/small")) == {
        "math500": {"task": "math500", "shots": 0, "data": "results/small/benchmarks/math500"},
        "gsm8k": {"task": "gsm8k"},
    }
    assert options.settings({"b": 1, "a": 2, "c": 3}, "c") == '{"a":2,"b":1}'
    assert options.trust({"trust_remote_code": True}) == "--trust-remote-code"
    assert options.trust({}) == ""


def test_a_run_says_what_its_rows_need_not(experiment: Experiment) -> None:
    facts = facts_of(experiment, "updates", "grpo_swept")
    assert facts == {
        **{"algorithm": "GRPO", "online": True, "on_policy": True, "kl": False},
        **{"learning_rate": 1e-6, "updates_per_step": 2},
    }
    assert run_of(experiment, "apart") is None
    assert facts_of(experiment, "updates", "apart") == {}
    assert facts_of(experiment, "checkpoints", "base") == {}
    called = {run: facts_of(experiment, "checkpoints", run)["algorithm"] for run in experiment.runs}
    assert called == {
        **{"sft": "SFT", "rft": "RFT", "grpo": "GRPO", "masked": "GRPO", "ppo": "PPO"},
        **{"placebo": "Placebo", "simpo": "SimPO", "dpo": "DPO"},
    }
    kl = {run: facts_of(experiment, "checkpoints", run)["kl"] for run in ("ppo", "dpo", "simpo")}
    assert kl == {"ppo": True, "dpo": True, "simpo": False}


def test_an_agreement_says_what_it_is_read_from(experiment: Experiment) -> None:
    assert facts_of(experiment, "agreements", "grpo") == {
        "update": "grpo_agreement",
        "within": "grpo_within",
        "baselines": {"init": "grpo_agreement_init"},
        "algorithm": "GRPO",
    }

import pytest

from subnetworks.core.errors import UserError
from subnetworks.training.algorithms import ALGORITHMS
from subnetworks.training.algorithms.dpo import DpoSettings
from subnetworks.training.algorithms.grpo import GrpoSettings
from subnetworks.training.settings import in_steps, parse_accelerator, parse_settings

BASE = {"steps": 10, "learning_rate": 1e-6}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_steps_and_learning_rate_are_all_an_algorithm_needs(algorithm):
    settings = parse_settings({"algorithm": algorithm, **BASE})
    assert settings.algorithm == algorithm
    assert settings.steps == 10


def test_values_arrive_typed():
    settings = parse_settings(
        {"algorithm": "grpo", **BASE, "betas": [0.9, 0.95], "clip_ratio": 1, "batch_size": 8.0}
    )
    assert isinstance(settings, GrpoSettings)
    assert settings.betas == (0.9, 0.95)
    assert isinstance(settings.clip_ratio, float)
    assert isinstance(settings.batch_size, int)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"algorithm": "gpro"}, ["gpro", "did you mean 'grpo'", "sft", "dpo"]),
        ({"learning_rat": 1}, ["learning_rat", "did you mean 'learning_rate'", "allowed", "seed"]),
        ({"beta": 0.1}, ["beta", "allowed"]),  # a key of dpo, not of grpo
        ({"schedule": "step"}, ["schedule", "constant", "linear", "cosine"]),
        ({"batch_size": "many"}, ["batch_size", "whole number"]),
        ({"batch_size": 1.5}, ["batch_size", "whole number"]),
        ({"batch_size": True}, ["batch_size", "whole number"]),
        ({"betas": [0.9]}, ["betas", "2 numbers"]),
        ({"betas": [0.9, 1.0]}, ["betas"]),
        ({"steps": 0}, ["steps", "at least 1"]),
        ({"warmup_steps": 11}, ["warmup_steps", "steps"]),
        ({"samples_per_prompt": 1}, ["samples_per_prompt", "at least 2"]),
        ({"temperature": 0}, ["temperature"]),
        ({"reward": "nice"}, ["reward", "boxed", "random"]),
        ({"reward": {"math": 1, "lenght": -0.1}}, ["lenght", "did you mean 'length'"]),
        ({"reward": {"math": "much"}}, ["reward: math", "a number", "much"]),
        ({"reward": {}}, ["reward", "no part"]),
        ({"algorithm": "prime", "reward": {"math": 1, "length": -0.1}}, ["prime", "[0, 1]"]),
        ({"kl": "los"}, ["kl", "none", "loss", "reward"]),
        ({"kl_coef": 0.1}, ["kl", "loss or reward"]),
        ({"kl": "loss"}, ["kl_coef", "above 0"]),
        ({"algorithm": "ppo", "lam": 1.5}, ["lam", "[0, 1]"]),
        ({"algorithm": "prime", "beta": 0}, ["beta", "above 0"]),
        ({"algorithm": "prime", "kl": "reward", "kl_coef": 1}, ["kl", "prime", "loss"]),
        (
            {"algorithm": "raft_plus_plus", "kl": "reward", "kl_coef": 1},
            ["kl", "raft_plus_plus", "loss"],
        ),
        ({"algorithm": "raft++"}, ["raft++", "allowed: sft", "raft_plus_plus"]),
        ({"updates_per_step": 0}, ["updates_per_step", "at least 1"]),
        ({"batch_size": 6, "updates_per_step": 4}, ["batch_size", "multiple", "updates_per_step"]),
    ],
)
def test_what_is_wrong_is_named_with_what_is_allowed(changes, words):
    with pytest.raises(UserError) as caught:
        parse_settings({"algorithm": "grpo", **BASE, **changes})
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("algorithm", ["grpo", "ppo", "prime", "raft_plus_plus", "dpo", "sft"])
def test_adapters_exclude_what_is_kept_of_weights(algorithm):
    given = {"algorithm": algorithm, **BASE, "lora_rank": 8}
    assert (parse_settings(given).lora_rank, parse_settings(given).lora_alpha) == (8, 16)
    with pytest.raises(UserError, match="lora_rank and trajectory_every exclude each other"):
        parse_settings({**given, "trajectory_every": 1})
    with pytest.raises(UserError, match="lora_rank excludes master_weights 'none'"):
        parse_settings({**given, "master_weights": "none"})


def test_an_on_policy_run_without_adapters_records_nothing_of_them():
    given = {"algorithm": "grpo", **BASE}
    for more in ({}, {"lora_rank": 0, "lora_alpha": 32}):
        assert not {"lora_rank", "lora_alpha"} & parse_settings({**given, **more}).as_json().keys()
    recorded = parse_settings({**given, "lora_rank": 4}).as_json()
    assert (recorded["lora_rank"], recorded["lora_alpha"]) == (4, 16)
    assert parse_settings({"algorithm": "dpo", **BASE}).as_json()["lora_rank"] == 0


@pytest.mark.parametrize("key", ["steps", "learning_rate"])
def test_a_missing_key_is_named(key):
    values = {"algorithm": "dpo", **BASE}
    del values[key]
    with pytest.raises(UserError, match=f"missing key '{key}'"):
        parse_settings(values)


def test_a_preference_micro_batch_holds_whole_pairs():
    settings = parse_settings({"algorithm": "dpo", **BASE, "micro_batch_size": 5})
    assert isinstance(settings, DpoSettings)
    assert settings.sequences_at_once == 4
    assert settings.sequences_a_step == 2 * settings.batch_size


@pytest.mark.parametrize(
    ("algorithm", "changes", "words"),
    [
        ("dpo", {"beta": 0}, ["beta", "above 0"]),
        ("kto", {"beta": -1}, ["beta", "above 0"]),
        ("kto", {"batch_size": 1}, ["batch_size", "at least 2"]),
        ("kto", {"undesirable_weight": -1}, ["undesirable_weight", "at least 0"]),
        ("simpo", {"gamma": -1}, ["gamma", "at least 0"]),
        ("simpo", {"length_normalised": True}, ["length_normalised", "allowed", "gamma"]),
        ("orpo", {"beta": 0.1}, ["beta", "allowed", "odds_ratio_weight"]),
    ],
)
def test_what_is_wrong_with_a_preference_run_is_named(algorithm, changes, words):
    with pytest.raises(UserError) as caught:
        parse_settings({"algorithm": algorithm, **BASE, **changes})
    for word in words:
        assert word in str(caught.value)


def test_lengths_may_be_told_by_the_data():
    given = {"algorithm": "dpo", "learning_rate": 1, "epochs": 1, "warmup_ratio": 0.1}
    told = in_steps({**given, "batch_size": 128}, examples=12_900)
    assert (told["steps"], told["warmup_steps"]) == (100, 10)
    assert parse_settings(told).steps == 100
    assert in_steps({**given, "epochs": 1.5}, examples=64)["steps"] == 3
    assert in_steps({**given, "epochs": 0.001}, examples=64)["steps"] == 1
    assert in_steps({"steps": 20, "warmup_ratio": 0.25}, examples=1)["warmup_steps"] == 5


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"epochs": 1, "steps": 3}, "epochs and steps"),
        ({"epochs": 0}, "epochs: must be above 0, got 0"),
        ({"epochs": "one"}, "expected a number"),
        ({"steps": 3, "warmup_ratio": 2}, r"warmup_ratio: must lie in \[0, 1\]"),
        ({"steps": 3, "warmup_steps": 1, "warmup_ratio": 0}, "warmup_ratio and warmup_steps"),
        ({"warmup_ratio": 0.5}, "steps"),
    ],
)
def test_a_length_is_told_once_and_in_its_range(given, words):
    with pytest.raises(UserError, match=words):
        in_steps(given, examples=100)


def test_a_step_of_several_updates_parts_its_answers():
    told = {"batch_size": 32, "samples_per_prompt": 4, "updates_per_step": 4}
    settings = parse_settings({"algorithm": "raft_plus_plus", **BASE, **told})
    assert (settings.sequences_a_step, settings.sequences_an_update) == (128, 32)
    assert settings.sequences_at_once == 32


def test_kto_counts_answers():
    settings = parse_settings({"algorithm": "kto", **BASE, "batch_size": 6, "micro_batch_size": 3})
    assert (settings.sequences_a_step, settings.sequences_at_once) == (6, 3)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"kind": "tpu"}, "cuda"),
        ({"device": 2}, "devices"),
        ({"devices": 0}, "devices"),
        ({"memory_share": 1.5}, "memory_share"),
    ],
)
def test_a_wrong_accelerator_is_refused(values, word):
    with pytest.raises(UserError, match=word):
        parse_accelerator(values)

"""When a run has diverged, by what its steps log."""

import json
import math

import pytest

from subnetworks.training.runtime import divergence
from subnetworks.training.runtime.log import StepsLog
from subnetworks.training.settings import parse_settings

BASE = {"steps": 9, "batch_size": 8, "learning_rate": 1e-5}
OFFLINE = {"algorithm": "sft", **BASE}
ONLINE = {"algorithm": "grpo", "kl": "loss", "kl_coef": 0.1, **BASE}


def found(tmp_path, settings, steps):
    """What is found in the log of a run whose steps logged these numbers."""
    file = tmp_path / "steps.jsonl"
    lines = ({"step": step, "data": data} for step, data in enumerate(steps, 1))
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    log = StepsLog([file])
    log.read()
    return divergence.found(log.rows, parse_settings(settings))


def offline(losses):
    return [{"loss": loss, "grad_norm": 1.0} for loss in losses]


def online(distances):
    return [{"actor/pg_loss": 0.0, "actor/kl_loss": kl} for kl in distances]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"loss": math.nan}, ["the loss of step 2 is nan", "lower its learning_rate"]),
        ({"loss": 0.5, "grad_norm": math.inf}, ["the gradient's norm of step 2 is inf"]),
        ({"loss": 0.5, "kl": -math.inf}, ["the distance from the init (kl) of step 2 is -inf"]),
        (
            {"loss": 0.5, "critic/vf_loss": math.nan},
            ["the critic's loss of step 2 is nan", "lower its critic_learning_rate"],
        ),
        (
            {"loss": 0.5, "reward_model/loss": math.nan},
            ["the reward model's loss of step 2 is nan", "lower its reward_learning_rate"],
        ),
    ],
)
def test_what_is_no_number_is_named_with_its_step_and_the_key(tmp_path, data, words):
    step, reason = found(tmp_path, {**OFFLINE, "max_divergence": None}, [{"loss": 0.5}, data, data])
    assert step == 2
    assert all(word in reason for word in words), reason


@pytest.mark.parametrize(
    ("losses", "step"),
    [
        ([0.1, 9.9, 0.1], None),  # a small first loss is no measure
        ([0.1, 0.2, 10.1], 3),
        ([3.0, 29.9], None),
        ([3.0, 1.0, 30.1, 2.0], 3),
    ],
)
def test_a_loss_explodes_by_the_first_steps(tmp_path, losses, step):
    result = found(tmp_path, OFFLINE, offline(losses))
    assert (result and result[0]) == step
    if result:
        assert "lower its learning_rate, or raise max_divergence" in result[1]
    assert found(tmp_path, {**OFFLINE, "max_divergence": None}, offline(losses)) is None
    assert found(tmp_path, {**OFFLINE, "max_divergence": 200}, offline(losses)) is None


def test_an_on_policy_run_explodes_by_its_distance_alone(tmp_path):
    assert found(tmp_path, ONLINE, online([0.0, 9.9])) is None
    assert found(tmp_path, ONLINE, online([0.0, 0.5, 10.1]))[0] == 3
    assert found(tmp_path, {**ONLINE, "max_divergence": 20}, online([0.0, 10.1])) is None
    assert found(tmp_path, ONLINE, [{"actor/pg_loss": loss} for loss in (0.01, 500.0)]) is None

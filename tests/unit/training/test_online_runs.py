"""Whole on-policy runs of a tiny model through Ray, vLLM and verl, within a mask.

What GRPO does within a mask on one device is seen in the miniature; here are the runs that train a
second model, and GRPO on two devices, whose workers are Ray's.
"""

import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("verl")
pytest.importorskip("vllm")

import numpy  # noqa: E402
from online_tiny import log, make, run, run_again, weights  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from subnetworks.core.processor import has_bfloat16  # noqa: E402
from subnetworks.measuring import masks  # noqa: E402
from subnetworks.training.runtime import finish  # noqa: E402

STEPS = 4
SETTINGS = {
    "steps": STEPS,
    "save_every": 2,
    "batch_size": 4,
    "samples_per_prompt": 2,
    "learning_rate": 1e-3,
    "weight_decay": 0.5,
    "max_prompt_length": 16,
    "max_response_length": 8,
    "reward": "random",  # the tiny model knows nothing, so no answer is right
}
PRIME = {
    "algorithm": "prime",
    "reward_learning_rate": 1e-3,
    "kl": "loss",
    "kl_coef": 0.1,
    "validate_every": 2,
    **SETTINGS,
}
PPO = {
    "algorithm": "ppo",
    "critic_learning_rate": 1e-3,
    "mask_critic": True,
    "kl": "reward",
    "kl_coef": 0.1,
    "max_grad_norm": 0,
    **SETTINGS,
}
GRPO = {"algorithm": "grpo", **SETTINGS, "steps": 2}
RAFT = {
    "algorithm": "raft_plus_plus",
    **SETTINGS,
    "updates_per_step": 2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = make(tmp_path_factory.mktemp("online"))
    generator = numpy.random.default_rng(0)
    shapes = finish.shapes(folder / "init")
    arrays = {name: generator.random(shape) < 0.3 for name, shape in shapes.items()}
    masks.write(folder / "mask.safetensors", arrays, rule="test")
    return folder


def run_masked(folder, name, settings, **accelerator):
    run(folder, name, settings, folder / "mask.safetensors", **accelerator)


def assert_masked(folder, name, beside, whole):
    """The policy kept to the mask; the model beside it did too, or was trained whole."""
    mask = masks.Mask.open(folder / "mask.safetensors")
    policy, second = (weights(folder, name, STEPS, model) for model in ("actor", beside))
    for tensor, before in load_file(folder / "init/model.safetensors").items():
        outside = ~torch.from_numpy(mask.array(tensor))
        bits = before.float().view(torch.int32)
        assert torch.equal(policy[tensor].view(torch.int32)[outside], bits[outside]), tensor
        if tensor in second and "embed" not in tensor:
            moved = (second[tensor].view(torch.int32) != bits)[outside].float().mean()
            assert moved > 0.9 if whole else moved == 0, tensor
    assert any((policy[name] != second[name]).any() for name in policy if name in second)
    end = load_file(folder / f"{name}_end/model.safetensors")
    assert torch.equal(end["model.norm.weight"], policy["model.norm.weight"].bfloat16())


@pytest.fixture(scope="module")
def prime(folder):
    run_masked(folder, "prime", PRIME)
    return folder


def test_prime_trains_the_policy_within_the_mask_and_its_reward_model_whole(prime):
    assert_masked(prime, "prime", "reward_model", whole=True)
    rows = log(prime, "prime")
    assert float(rows[0]["reward_model_loss"]) == pytest.approx(0.693147, abs=1e-6)
    assert {"kl", "reward_model_accuracy", "reward_model_majority"} <= rows[0].keys()
    assert float(rows[0]["kl"]) == 0 < float(rows[-1]["kl"])
    # The placebo pays, and the truth is logged beside it.
    assert any(float(row["reward"]) > 0 for row in rows)
    assert all(float(row["accuracy"]) == 0 for row in rows)
    assert [row["validation_accuracy"] for row in rows] == ["", "0.0", "", "0.0"]
    assert [row["validation_examples"] for row in rows] == ["", "3", "", "3"]


def test_neither_measuring_nor_saving_is_in_a_steps_seconds(prime):
    (file,) = (prime / "prime/state").glob("steps-*.jsonl")
    for line in file.read_text().splitlines():
        entry = json.loads(line)
        timed = {name[9:]: entry["data"][name] for name in entry["data"] if name[:9] == "timing_s/"}
        beside = timed.keys() & {"validate", "save_checkpoint"}
        assert len(beside) == (0 if entry["step"] % 2 else 2)
        rest = timed["step"] - sum(timed[name] for name in beside)
        assert entry["data"]["seconds"] == pytest.approx(rest)


def test_a_resumed_run_repeats_the_uninterrupted_one_to_the_bit(prime):
    """Answers, rewards, both models and the log: all follow the seed and the saved step."""
    assert run_again(prime, "prime", PRIME, prime / "mask.safetensors") == 2
    assert log(prime, "resumed") == log(prime, "prime")
    for model in ("actor", "reward_model"):
        once, again = (weights(prime, name, STEPS, model) for name in ("prime", "resumed"))
        for name in once:
            assert torch.equal(once[name], again[name]), (model, name)


def test_ppo_trains_the_policy_and_if_asked_its_critic_within_the_mask(folder):
    run_masked(folder, "ppo", PPO, bfloat16="emulated")
    assert_masked(folder, "ppo", "critic", whole=False)
    meta = json.loads((folder / "ppo/log.csv.meta.json").read_text())
    assert meta["arithmetic"] == {"weights": "bfloat16", "products": "float32"}
    rows = log(folder, "ppo")
    assert all(float(row["critic_loss"]) > 0 for row in rows)
    assert float(rows[0]["kl"]) == 0 != float(rows[-1]["kl"])


def test_without_master_weights_only_the_policy_is_bf16(folder):
    settings = {**PPO, "steps": 2, "master_weights": "stochastic_rounding", "mask_critic": False}
    run_masked(folder, "bf16", settings, bfloat16="emulated")
    policy, critic = (weights(folder, "bf16", 2, model) for model in ("actor", "critic"))
    assert {value.dtype for value in policy.values()} == {torch.bfloat16}
    assert {value.dtype for value in critic.values()} == {torch.float32}
    mask = masks.Mask.open(folder / "mask.safetensors")
    end = load_file(folder / "bf16_end/model.safetensors")
    for tensor, before in load_file(folder / "init/model.safetensors").items():
        inside = torch.from_numpy(mask.array(tensor))
        changed = policy[tensor] != before
        assert not changed[~inside].any(), tensor
        if before.dim() == 2 and "embed" not in tensor:
            assert changed[inside].float().mean() > 0.9, tensor
        assert torch.equal(end[tensor], policy[tensor]), tensor


def test_raft_makes_its_updates_within_the_mask(folder):
    # A sampler in native bf16 where the processor has none would take minutes, or die.
    native = has_bfloat16()
    run_masked(folder, "raft", RAFT, bfloat16="native" if native else "emulated")
    meta = json.loads((folder / "raft/log.csv.meta.json").read_text())
    products = "bfloat16" if native else "float32"
    assert meta["arithmetic"] == {"weights": "bfloat16", "products": products}
    mask = masks.Mask.open(folder / "mask.safetensors")
    policy = weights(folder, "raft", STEPS)
    moved = 0
    for tensor, before in load_file(folder / "init/model.safetensors").items():
        outside = ~torch.from_numpy(mask.array(tensor))
        changed = policy[tensor].view(torch.int32) != before.float().view(torch.int32)
        assert not changed[outside].any(), tensor
        moved += int(changed.sum())
    assert moved
    optimiser = torch.load(
        next((folder / "raft/state" / f"global_step_{STEPS}" / "actor").glob("optim_*.pt")),
        weights_only=False,
    )
    steps = {int(state["step"]) for state in optimiser["state"].values()}
    assert steps == {STEPS * RAFT["updates_per_step"]}
    # Learnt from: the share of tokens that are in rewarded answers, at first at a ratio of 1.
    for row in log(folder, "raft"):
        assert -1.3 < float(row["loss"]) <= 0
        assert (float(row["loss"]) == 0) == (float(row["reward"]) == 0)


def test_grpo_on_two_devices_trains_both_shards_within_the_mask(folder):
    run_masked(folder, "two", GRPO, devices=2)
    assert len(list((folder / "two/state/global_step_2/actor").glob("model_world_size_2_*"))) == 2
    assert [row["step"] for row in log(folder, "two")] == ["1", "2"]
    mask = masks.Mask.open(folder / "mask.safetensors")
    policy = weights(folder, "two", 2)
    end = load_file(folder / "two_end/model.safetensors")
    for tensor, before in load_file(folder / "init/model.safetensors").items():
        inside = torch.from_numpy(mask.array(tensor))
        changed = policy[tensor].view(torch.int32) != before.float().view(torch.int32)
        assert not changed[~inside].any(), tensor
        if before.dim() == 2 and "embed" not in tensor:
            assert changed[inside].float().mean() > 0.9, tensor
        assert torch.equal(end[tensor], policy[tensor].bfloat16()), tensor


def test_grpo_is_paid_by_the_grader_by_format_and_by_length(folder):
    pytest.importorskip("math_verify")
    paid = {"math": 1.0, "format": 0.5, "length": -0.25}
    run_masked(folder, "paid", {**GRPO, "save_every": 1, "reward": paid})
    for row in log(folder, "paid"):
        assert float(row["accuracy"]) == 0 <= float(row["cut"]) <= 1
        # The tiny model boxes nothing, so only the length counts: all of it where it was cut off.
        assert -0.25 <= float(row["reward"]) <= -0.25 * float(row["cut"])
        assert float(row["reward"]) < 0

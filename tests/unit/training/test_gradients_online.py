"""Gradients of on-policy runs at their init, against torch's own on the answers sampled there."""

import json
import math
from statistics import mean, stdev

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("verl")
pytest.importorskip("vllm")

import numpy  # noqa: E402
from online_tiny import make  # noqa: E402
from tiny import trained_by  # noqa: E402

from subnetworks.measuring.gradients import Gradients  # noqa: E402
from subnetworks.training.runtime import gradients  # noqa: E402

SETTINGS = {
    "steps": 30,
    "warmup_steps": 20,
    "batch_size": 4,
    "samples_per_prompt": 2,
    "learning_rate": 1.0,  # a single step would be seen
    "max_grad_norm": 1e-3,  # gradients are taken as they are
    "max_prompt_length": 16,
    "max_response_length": 8,
    "reward": "random",
    "compute_dtype": "float32",
    "seed": 2,
}
GRPO = {**SETTINGS, "algorithm": "grpo", "updates_per_step": 2}
RAFT = {**SETTINGS, "algorithm": "raft_plus_plus"}
PPO = {**SETTINGS, "algorithm": "ppo", "critic_learning_rate": 1e-3}
PRIME = {**SETTINGS, "algorithm": "prime", "reward_learning_rate": 0.1, "kl": "loss", "kl_coef": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make(tmp_path_factory.mktemp("gradients"))


@pytest.fixture
def measured(folder, monkeypatch):
    """Measures gradients of a run; gives their file and what each step learnt from."""

    def measure(settings, batches, devices=1):
        name = f"{settings['algorithm']}{devices}"
        trained_by(monkeypatch, "online_steps", {"RECORDED": str(folder / f"{name}.jsonl")})
        file = folder / f"{name}.safetensors"
        gradients.measure(
            settings,
            init=folder / "init",
            data=folder / "data",
            output=file,
            batches=batches,
            accelerator={"kind": "cpu", "devices": devices},
        )
        lines = (folder / f"{name}.jsonl").read_text().splitlines()
        return Gradients(file), [json.loads(line) for line in lines]

    return measure


def assert_gradients(folder, opened, updates):
    """The file has the sums of the gradients of -Σ advantage · log-probability over the tokens of
    each update, as a mean over them, at the init; an update is (prompt, answer, advantages)."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "init", dtype=torch.float32)
    each = []
    for update in updates:
        model.zero_grad()
        loss = torch.zeros(())
        for prompt, answer, advantages in update:
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
            chosen = logits.log_softmax(-1)[range(len(answer)), answer]
            loss = loss - (chosen * torch.tensor(advantages)).sum()
        (loss / sum(len(answer) for _, answer, _ in update)).backward()
        each.append({n: p.grad.flatten().double().numpy() for n, p in model.named_parameters()})
    assert opened.batches == len(updates)
    assert set(opened.names) == set(each[0])
    for name in opened.names:
        values = numpy.stack([update[name] for update in each])
        size = numpy.abs(values).max()
        assert size > 0
        assert numpy.abs(opened.mean(name) - values.mean(0)).max() <= 1e-4 * size, name
        assert numpy.abs(opened.square(name) - (values**2).mean(0)).max() <= 1e-4 * size**2, name


def answers(step, advantages):
    return list(zip(step["prompts"], step["responses"], advantages, strict=True))


@pytest.mark.parametrize("devices", [1, 2])
def test_those_of_grpo_are_of_every_update_of_answers_of_the_init(folder, measured, devices):
    """A step of two updates has its answers in two halves, on each device in two quarters."""
    opened, steps = measured(GRPO, batches=3, devices=devices)
    assert len(steps) == 2
    # Further prompts at the second step, which are answered anew.
    assert sorted(steps[0]["prompts"]) != sorted(steps[1]["prompts"])
    updates = []
    for step in steps:
        scores, groups = step["score"], step["group"]
        advantages = []
        for score, group, answer in zip(scores, groups, step["responses"], strict=True):
            of_prompt = [s for s, g in zip(scores, groups, strict=True) if g == group]
            advantage = (score - mean(of_prompt)) / (stdev(of_prompt) + 1e-6)
            advantages.append([advantage] * len(answer))
        every = answers(step, advantages)
        quarter = len(every) // devices // 2
        for half in range(2):
            begins = [device * 2 * quarter + half * quarter for device in range(devices)]
            updates.append([row for begin in begins for row in every[begin : begin + quarter]])
    # The second step's second update is one more than was asked for.
    assert_gradients(folder, opened, updates[:3])


def test_those_of_raft_are_of_right_answers_alone(folder, measured):
    opened, steps = measured(RAFT, batches=2)
    updates = [
        answers(
            step,
            [
                [score] * len(row)
                for score, row in zip(step["score"], step["responses"], strict=True)
            ],
        )
        for step in steps
    ]
    assert {score for step in steps for score in step["score"]} == {0.0, 1.0}
    assert_gradients(folder, opened, updates)


@pytest.mark.parametrize("settings", [PPO, PRIME], ids=["ppo", "prime"])
def test_what_is_trained_beside_the_policy_goes_on_learning(folder, measured, settings):
    """Advantages are those of the run: of a critic or a reward model that learns at every step."""
    opened, steps = measured(settings, batches=3)
    if settings is PRIME:
        first, *later = (step["reward_model/loss"] for step in steps)
        assert first == pytest.approx(math.log(2), abs=1e-6)
        assert all(abs(loss - first) > 1e-3 for loss in later)
    assert_gradients(folder, opened, [answers(step, step["advantages"]) for step in steps])

"""A step's answers as verl's batch, and the advantages that its estimators draw from it."""

import math
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("verl")
pytest.importorskip("vllm")

from omegaconf import OmegaConf  # noqa: E402
from verl.trainer.ppo.core_algos import get_policy_loss_fn  # noqa: E402
from verl.workers.config import ActorConfig  # noqa: E402

from subnetworks.training.objectives import raft  # noqa: E402
from subnetworks.training.runtime.online_trainer import Trainer, as_batch  # noqa: E402

PROMPTS = [[5, 6], [5, 6], [7, 8, 9], [7, 8, 9]]
ANSWERS = [[1, 2, 3], [4], [1, 2], [3, 4, 5, 6]]
SCORES = [1.0, 0.0, 0.25, 0.75]


@pytest.fixture
def batch():
    return as_batch(PROMPTS, ANSWERS, SCORES, samples=2)


def rows(nested):
    return [row.tolist() for row in nested.unbind()]


def test_sequences_stay_in_order_and_scores_stand_on_last_tokens(batch):
    sequences = [p + a for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    assert rows(batch["input_ids"]) == sequences
    assert rows(batch["position_ids"]) == [list(range(len(ids))) for ids in sequences]
    assert rows(batch["responses"]) == ANSWERS
    assert rows(batch["response_mask"]) == [[1] * len(answer) for answer in ANSWERS]
    assert rows(batch["rm_scores"]) == [[0, 0, 1], [0], [0, 0.25], [0, 0, 0, 0.75]]
    assert batch["group"].tolist() == [0, 0, 1, 1]


def advantages(batch, **algorithm):
    config = {"use_kl_in_reward": False, "gamma": 1.0, "lam": 1.0, "norm_adv_by_std_in_grpo": True}
    trainer = SimpleNamespace(
        config=OmegaConf.create({"algorithm": {**config, **algorithm}}),
        samples=2,
        padded=lambda batch: Trainer.padded(trainer, batch),
    )
    Trainer.advantages(trainer, batch, {})
    return rows(batch["advantages"])


def test_grpo_compares_the_answers_to_one_prompt(batch):
    """(score - mean) / standard deviation, the same for every token (Shao et al. 2024)."""
    found = advantages(batch, adv_estimator="grpo")
    for answer, score, mean, deviation, values in zip(
        ANSWERS, SCORES, [0.5] * 4, [0.5**0.5] * 2 + [0.125**0.5] * 2, found, strict=True
    ):
        assert values == pytest.approx([(score - mean) / deviation] * len(answer), rel=1e-4)


def test_gae_adds_up_what_the_critic_did_not_foresee(batch):
    """Σ (γλ)^k δ with δ = r + γ V' - V (Schulman et al. 2016), whitened over all tokens."""
    gamma, lam = 0.9, 0.8
    values = [[0.5, 0.4, 0.3], [0.2], [0.6, 0.1], [0.9, 0.8, 0.2, 0.5]]
    batch["values"] = torch.nested.as_nested_tensor(
        [torch.tensor(row) for row in values], layout=torch.jagged
    )
    expected = []
    for row, score in zip(values, SCORES, strict=True):
        deltas = [
            (score if t == len(row) - 1 else gamma * row[t + 1]) - value
            for t, value in enumerate(row)
        ]
        expected.append(
            [
                sum((gamma * lam) ** k * delta for k, delta in enumerate(deltas[t:]))
                for t in range(len(row))
            ]
        )
    every = torch.tensor([value for row in expected for value in row])
    found = advantages(batch, adv_estimator="gae", gamma=gamma, lam=lam)
    for row, white in zip(expected, found, strict=True):
        mean, deviation = every.mean().item(), every.std().item()
        assert white == pytest.approx([(value - mean) / deviation for value in row], rel=1e-4)


def test_raft_learns_from_right_answers_alone(batch):
    """The clipped surrogate Σ min(ratio, clip(ratio)) over the tokens of right answers, as a mean
    over all tokens; ratios on either side of the clipping."""
    right = as_batch(PROMPTS, ANSWERS, [1.0, 0.0, 0.0, 1.0], samples=2)
    found = advantages(right, adv_estimator=raft.NAME)
    assert found == [[1, 1, 1], [0], [0, 0], [1, 1, 1, 1]]

    ratios = [[1.0, 1.5, 0.5], [1.4], [0.7, 2.0], [1.1, 0.9, 1.3, 0.1]]
    before = [[-0.5 - 0.1 * t for t in range(len(row))] for row in ratios]
    after = torch.zeros(4, 4, dtype=torch.float64)
    old = torch.zeros_like(after)
    for i, row in enumerate(ratios):
        for t, ratio in enumerate(row):
            old[i, t], after[i, t] = before[i][t], before[i][t] + math.log(ratio)
    after.requires_grad_()
    padded = right.select("advantages", "response_mask").to_padded_tensor()
    config = ActorConfig(
        strategy="fsdp2", rollout_n=2, ppo_micro_batch_size_per_gpu=1, clip_ratio=0.2
    )
    loss, _ = get_policy_loss_fn(config.policy_loss.loss_mode)(
        old_log_prob=old,
        log_prob=after,
        advantages=padded["advantages"].double(),
        response_mask=padded["response_mask"].bool(),
        loss_agg_mode=config.loss_agg_mode,
        config=config,
    )
    tokens = sum(len(row) for row in ratios)
    expected = -sum(min(r, min(max(r, 0.8), 1.2)) for i in (0, 3) for r in ratios[i]) / tokens
    assert loss.item() == pytest.approx(expected, rel=1e-6)

    loss.backward()
    for i, row in enumerate(ratios):
        # Beyond the upper bound nothing is learnt any more; below the lower one all is.
        slopes = [-r / tokens if i in (0, 3) and r < 1.2 else 0.0 for r in row]
        assert after.grad[i, : len(row)].tolist() == pytest.approx(slopes, rel=1e-6)


@pytest.mark.parametrize("updates", [1, 2])
def test_a_step_is_parted_into_updates_in_order(batch, updates):
    rollout = {"rollout": {"temperature": 1.0}}
    trainer = SimpleNamespace(config=OmegaConf.create({"actor_rollout_ref": rollout}))
    section = OmegaConf.create({"data_loader_seed": 0})
    call = Trainer.prepared(trainer, batch, section, updates)
    assert call["mini_batch_size"] == call["global_batch_size"] == 4 // updates
    assert call["epochs"] == 1
    assert call["dataloader_kwargs"]["shuffle"] is False

"""A step's answers as verl's batch, and the advantages that its estimators draw from it."""

from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("verl")
pytest.importorskip("vllm")

from omegaconf import OmegaConf  # noqa: E402

from subnetworks.training.online_trainer import Trainer, as_batch  # noqa: E402

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

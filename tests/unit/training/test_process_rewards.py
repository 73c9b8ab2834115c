"""PRIME's arithmetic against its formulas, written out answer by answer and token by token."""

import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("verl")

from subnetworks.training.objectives import process_rewards  # noqa: E402

BETA = 0.05
LENGTHS = [3, 5, 1, 4, 2, 5]
GROUPS = [7, 7, 7, 9, 9, 9]


@pytest.fixture
def answers():
    """Log-ratios, mask, scores and groups of six answers to two prompts."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[1.0] * n + [0.0] * (5 - n) for n in LENGTHS])
    policy, reference = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    ratios = process_rewards.log_ratios(policy, reference, mask)
    scores = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    return ratios, mask.double(), scores, torch.tensor(GROUPS)


def test_the_loss_is_the_cross_entropy_of_the_outcome(answers):
    ratios, _, scores, _ = answers
    losses = process_rewards.outcome_loss(ratios, scores, BETA)
    for index, loss in enumerate(losses.tolist()):
        chance = 1 / (1 + math.exp(-BETA * sum(ratios[index, : LENGTHS[index]].tolist())))
        expected = -math.log(chance if scores[index] else 1 - chance)
        assert loss == pytest.approx(expected, rel=1e-12)


def test_its_gradient_is_the_classifiers(answers):
    """d loss / d log-ratio = β (σ(β Σ) - score), the same for every token."""
    ratios, mask, scores, _ = answers
    ratios = ratios.clone().requires_grad_()
    process_rewards.outcome_loss(ratios * mask, scores, BETA).sum().backward()
    slope = BETA * (torch.sigmoid(BETA * ratios.detach().sum(1)) - scores)
    torch.testing.assert_close(ratios.grad, slope[:, None] * mask)


def test_an_answer_is_on_the_right_side_when_its_sum_has_the_scores_sign():
    ratios = torch.tensor([[1.0, -0.5], [-1.0, 0.5], [-1.0, 0.5], [0.0, 0.0]])
    right = process_rewards.right_side(ratios, torch.tensor([1.0, 1.0, 0.0, 0.0]))
    assert right.tolist() == [True, False, True, True]


def written_out(answers):
    """Returns of every answer's tokens, by the formulas."""
    ratios, _, scores, _ = answers
    rewards = [
        [BETA * ratios[i, t].item() if t < n - 1 else 0.0 for t in range(n)]
        for i, n in enumerate(LENGTHS)
    ]
    unit = max(abs(sum(r[t:])) for r in rewards for t in range(len(r))) + 1e-6
    rewards = [[value / unit for value in r] for r in rewards]
    returns = []
    for i, r in enumerate(rewards):
        group = [j for j in range(len(GROUPS)) if GROUPS[j] == GROUPS[i]]
        n = len(group)
        means = sum(sum(rewards[j]) / len(rewards[j]) for j in group)
        tokens = [value * n / (n - 1) - means / (n - 1) for value in r]
        others = [scores[j].item() for j in group if j != i]
        tokens[-1] += scores[i].item() - sum(others) / len(others)
        returns.append([sum(tokens[t:]) for t in range(len(tokens))])
    return returns


def test_advantages_are_the_whitened_leave_one_out_returns(answers):
    ratios, mask, scores, groups = answers
    process = process_rewards.process_rewards(ratios, mask, BETA)
    advantages, returns = process_rewards.advantages(process, scores, mask, groups)
    expected = written_out(answers)
    numbers = [value for row in expected for value in row]
    mean = sum(numbers) / len(numbers)
    # verl whitens with Bessel's correction.
    variance = sum((value - mean) ** 2 for value in numbers) / (len(numbers) - 1)
    for i, n in enumerate(LENGTHS):
        assert returns[i, :n].tolist() == pytest.approx(expected[i], rel=1e-9)
        white = [(value - mean) / math.sqrt(variance + 1e-8) for value in expected[i]]
        assert advantages[i, :n].tolist() == pytest.approx(white, rel=1e-6)
        assert not advantages[i, n:].any() and not returns[i, n:].any()


def test_the_order_of_the_answers_does_not_matter(answers):
    ratios, mask, scores, groups = answers
    order = torch.tensor([4, 0, 5, 2, 3, 1])
    process = process_rewards.process_rewards(ratios, mask, BETA)
    once, _ = process_rewards.advantages(process, scores, mask, groups)
    again, _ = process_rewards.advantages(process[order], scores[order], mask[order], groups[order])
    torch.testing.assert_close(again, once[order])


def test_a_reward_model_that_knows_nothing_leaves_the_outcomes_alone(answers):
    """As it does before its first step: then this is RLOO (Ahmadian et al. 2024), whitened."""
    _, mask, scores, groups = answers
    none = torch.zeros_like(mask)
    _, returns = process_rewards.advantages(none, scores, mask, groups)
    for i, n in enumerate(LENGTHS):
        others = [scores[j].item() for j in range(6) if GROUPS[j] == GROUPS[i] and j != i]
        assert returns[i, :n].tolist() == pytest.approx([scores[i].item() - sum(others) / 2] * n)

import math

import pytest

torch = pytest.importorskip("torch")

from subnetworks.training.objectives.losses import (  # noqa: E402
    answer_log_probabilities,
    dpo,
    kto,
    log1mexp,
    odds_ratio,
    simpo,
    text_log_probabilities,
)


def test_dpo_is_the_published_formula():
    """Pair by pair in plain Python, straight from eq. 7 of Rafailov et al."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, 7, generator=generator) * 5 - 10
    losses, margins = dpo(*values, beta=0.3)
    for pair in range(7):
        chosen, rejected, old_chosen, old_rejected = values[:, pair].double().tolist()
        ratio = 0.3 * (chosen - old_chosen) - 0.3 * (rejected - old_rejected)
        assert losses[pair].item() == pytest.approx(-math.log(1 / (1 + math.exp(-ratio))), rel=1e-5)
        assert margins[pair].item() == pytest.approx(ratio, rel=1e-5, abs=1e-6)


def test_dpo_gradient_pulls_chosen_up_and_rejected_down_alike():
    chosen = torch.tensor([-1.0], requires_grad=True)
    rejected = torch.tensor([-2.0], requires_grad=True)
    losses, _ = dpo(chosen, rejected, torch.tensor([-1.5]), torch.tensor([-2.5]), beta=0.1)
    losses.sum().backward()
    assert chosen.grad.item() == pytest.approx(-0.1 * 0.5)  # β·σ(-margin) at margin 0
    assert rejected.grad.item() == pytest.approx(0.1 * 0.5)


@pytest.mark.parametrize("mean", [False, True])
def test_answers_are_summed_over_their_own_tokens_only(mean):
    lengths, prompts = [5, 3, 7], [2, 1, 4]
    per_token = [torch.randn(length) for length in lengths]
    answer = [[0] * p + [1] * (length - p) for p, length in zip(prompts, lengths, strict=True)]
    offsets = torch.tensor([0, 5, 8, 15])
    got = answer_log_probabilities(
        torch.cat(per_token), torch.tensor([bit for bits in answer for bit in bits]), offsets, mean
    )
    for index, (p, length) in enumerate(zip(prompts, lengths, strict=True)):
        # The entry at t scores token t + 1: the answer's first token is scored at p - 1.
        terms = [per_token[index][t - 1].item() for t in range(p, length)]
        expected = sum(terms) / (len(terms) if mean else 1)
        assert got[index].item() == pytest.approx(expected, rel=1e-5)


def test_log1mexp_keeps_its_digits_at_both_ends():
    x = torch.tensor([-1e-6, -0.5, -0.7, -30.0], requires_grad=True)
    values = log1mexp(x)
    for value, at in zip(values.tolist(), x.tolist(), strict=True):
        exact = math.log(-math.expm1(at)) if at > -0.7 else math.log1p(-math.exp(at))
        assert value == pytest.approx(exact, rel=1e-6)
    values.sum().backward()
    assert x.grad.isfinite().all()
    for slope, at in zip(x.grad.tolist(), x.tolist(), strict=True):
        assert slope == pytest.approx(1 / (1 - math.exp(-at)), rel=1e-5, abs=1e-12)


def test_the_odds_ratio_is_one_of_odds():
    chosen, rejected = torch.tensor([0.8, 0.2]), torch.tensor([0.5, 0.6])
    losses, ratios = odds_ratio(chosen.log(), rejected.log())
    odds = (chosen / (1 - chosen)) / (rejected / (1 - rejected))
    torch.testing.assert_close(ratios, odds.log())
    torch.testing.assert_close(losses, (1 + 1 / odds).log())


def test_simpo_wants_a_lead():
    losses, margins = simpo(torch.tensor([-1.0]), torch.tensor([-1.5]), beta=2.0, gamma=1.0)
    assert margins.item() == pytest.approx(1.0)
    assert losses.item() == pytest.approx(math.log(2))  # σ(1 - γ) = 1/2


def test_kto_weighs_gains_and_losses_apart():
    answers, reference = torch.tensor([-1.0, -1.0]), torch.tensor([-3.0, -3.0])
    losses, margins = kto(answers, reference, torch.tensor([True, False]), 0.5, 0.1, 2.0, 3.0)
    gain = 0.1 * (2.0 - 0.5)
    assert margins.tolist() == pytest.approx([gain, -gain])
    assert losses[0].item() == pytest.approx(2 * (1 - 1 / (1 + math.exp(-gain))))
    assert losses[1].item() == pytest.approx(3 * (1 - 1 / (1 + math.exp(gain))))


def test_texts_count_from_their_second_token_on():
    got = text_log_probabilities(torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]), torch.tensor([0, 3, 5]))
    assert got.tolist() == [3.0, 8.0]

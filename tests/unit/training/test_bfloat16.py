"""AdamW on bf16 weights: against torch, against float64, and draw by draw."""

import copy

import pytest

torch = pytest.importorskip("torch")

from subnetworks.training.engine.adamw import CompactAdamW, DenseAdamW  # noqa: E402
from subnetworks.training.engine.bfloat16 import (  # noqa: E402
    KahanAdamW,
    StochasticAdamW,
    stochastically_rounded,
)

# The second has more entries than are updated at a time.
SHAPES = [(37, 53), (300, 400), (211,), ()]
# Steps of a thousandth and less of the weights: less than half of what bf16 can show of most.
HOW = {"lr": 1e-4, "betas": (0.9, 0.95), "eps": 1e-6, "weight_decay": 0.1}


def make():
    generator = torch.Generator().manual_seed(0)
    return [
        torch.nn.Parameter(torch.randn(shape, generator=generator).bfloat16()) for shape in SHAPES
    ]


def masked(parameters, density=0.3):
    generator = torch.Generator().manual_seed(1)
    return {p: torch.rand(p.shape, generator=generator) < density for p in parameters}


def gradients(step):
    """Mostly of one sign, so that small movements add up."""
    generator = torch.Generator().manual_seed(100 + step)
    return [(torch.randn(shape, generator=generator) + 1).bfloat16() for shape in SHAPES]


def train(optimiser, parameters, steps):
    for step in steps:
        for parameter, gradient in zip(parameters, gradients(step), strict=True):
            parameter.grad = gradient.clone()
        if hasattr(optimiser, "mask_gradients"):
            optimiser.mask_gradients()
        optimiser.step()


def whole(parameters):
    return dict.fromkeys(parameters).items()


def distances(first, second):
    """By how many bf16 numbers weights are apart."""
    places = []
    for parameter in (first, second):
        bits = parameter.detach().reshape(-1).view(torch.int16).int()
        places.append(torch.where(bits < 0, -(bits & 0x7FFF), bits))
    return (places[0] - places[1]).abs()


@pytest.mark.parametrize("form", [CompactAdamW, DenseAdamW])
def test_without_anything_kept_it_is_torchs_adamw_on_bf16(form):
    first, second = make(), make()
    train(form(first, whole(first), **HOW), first, range(8))
    train(torch.optim.AdamW(second, **HOW), second, range(8))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_compact_is_dense_to_the_bit_in_bf16():
    first, second = make(), make()
    train(CompactAdamW(first, masked(first).items(), **HOW), first, range(5))
    train(DenseAdamW(second, masked(second).items(), **HOW), second, range(5))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def compensated(weights, steps):
    """Kahan's summation as the textbook has it, in float64, of steps from bf16 moments."""

    def kept(values):
        return values.to(torch.float32).bfloat16().double()

    found = []
    beta1, beta2 = HOW["betas"]
    for place, weight in enumerate(weights):
        w = weight.double()
        lost = m = v = torch.zeros_like(w)
        for step in range(steps):
            g = gradients(step)[place].double()
            m1, v1 = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
            m, v = kept(m1), kept(v1)
            ahead = m1 / (1 - beta1 ** (step + 1))
            root = (v1 / (1 - beta2 ** (step + 1))).sqrt() + HOW["eps"]
            change = -HOW["lr"] * (ahead / root + HOW["weight_decay"] * (w + lost))
            y = change + lost
            total = kept(w + y)
            lost, w = kept(y - (total - w)), total
        found.append(w.bfloat16())
    return found


def test_kahans_sum_follows_float64():
    steps = 40
    parameters, plain = make(), make()
    expected = compensated([p.detach().clone() for p in parameters], steps)
    optimiser = KahanAdamW(parameters, whole(parameters), **HOW)
    train(optimiser, parameters, range(steps))
    train(torch.optim.AdamW(plain, **HOW), plain, range(steps))
    off = torch.cat([distances(a, b) for a, b in zip(parameters, expected, strict=True)])
    # A moment that lies halfway between two bf16 numbers may be rounded otherwise, which shifts the
    # sum by less than a step; only near zero are the gaps smaller than that.
    ends, sums = (
        torch.cat([w.detach().reshape(-1).double() for w in ws]) for ws in (parameters, expected)
    )
    near = sums.abs() < 0.01
    assert (off > 0).float().mean() < 0.005 and off[~near].max() <= 1
    assert (ends - sums)[near].abs().max() < HOW["lr"]
    stuck = torch.cat([distances(a, b) for a, b in zip(plain, expected, strict=True)])
    assert (stuck > 0).float().mean() > 0.3
    for state in optimiser.state.values():
        assert {state[key].dtype for key in ("exp_avg", "exp_avg_sq", "compensation")} == {
            torch.bfloat16
        }


def test_of_all_draws_as_many_round_up_as_a_value_lies_above_its_neighbour():
    """Which makes the mean over draws the value itself."""
    draws = torch.arange(1 << 16, dtype=torch.int32)
    for value in (1.0, 1.001, -0.3, 3e-5, -1.7e-39, 1e38, 2.0 - 2**-23):
        exact = torch.tensor(value)
        found = stochastically_rounded(exact.expand(len(draws)).contiguous(), draws)
        lower = torch.tensor([exact.view(torch.int32).item() & -0x10000], dtype=torch.int32)
        ends = torch.cat([lower, lower + 0x10000]).view(torch.float32).double()
        assert set(found.double().tolist()) <= set(ends.tolist())
        mean = found.double().mean().item()
        assert mean == pytest.approx(exact.double().item(), rel=1e-12)
    for value in (float("inf"), float("-inf")):
        assert (stochastically_rounded(torch.full((1 << 16,), value), draws) == value).all()
    assert stochastically_rounded(torch.full((1 << 16,), float("nan")), draws).isnan().all()


def test_random_rounding_gives_a_neighbour_of_the_exact_step_and_no_bias():
    exact = [torch.nn.Parameter(p.detach().float()) for p in make()]
    reference = torch.optim.AdamW(exact, **HOW)
    for parameter, gradient in zip(exact, gradients(0), strict=True):
        parameter.grad = gradient.float()
    reference.step()
    above = torch.cat([p.detach().reshape(-1) for p in exact]).double()
    ends = []
    for seed in range(100):
        parameters = make()
        train(StochasticAdamW(parameters, whole(parameters), seed=seed, **HOW), parameters, [0])
        ends.append(torch.cat([p.detach().reshape(-1) for p in parameters]).double())
    ends = torch.stack(ends)
    gap = ends.max(0).values - ends.min(0).values
    between = (ends.min(0).values <= above) & (above <= ends.max(0).values)
    assert (between | (gap == 0)).all()
    assert all(len(column.unique()) <= 2 for column in ends.T[:500])
    # By how many standard errors the means of 100 draws are off: as a normal law has it.
    moved = gap > 0
    share = ((above - ends.min(0).values) / gap)[moved]
    off = ((ends.mean(0) - above) / gap)[moved] / (share * (1 - share) / 100).sqrt()
    usual = off[(share > 0.1) & (share < 0.9)]
    assert len(usual) > 1000
    assert abs(usual.mean()) < 5 / len(usual) ** 0.5
    assert usual.square().mean() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("form", [KahanAdamW, StochasticAdamW])
def test_within_a_mask_they_do_inside_what_they_do_without_one(form):
    first, second, before = make(), make(), make()
    inside = masked(first)
    train(form(first, inside.items(), **HOW), first, range(5))
    train(form(second, whole(second), **HOW), second, range(5))
    for p, q, old in zip(first, second, before, strict=True):
        assert torch.equal(p[inside[p]], q[inside[p]])
        assert torch.equal(p[~inside[p]], old[~inside[p]])


@pytest.mark.parametrize("form", [KahanAdamW, StochasticAdamW])
def test_resumed_they_end_in_the_same_bits(form, tmp_path):
    first, second = make(), make()
    train(form(first, masked(first).items(), **HOW), first, range(6))
    half = form(second, masked(second).items(), **HOW)
    train(half, second, range(3))
    torch.save(half.state_dict(), tmp_path / "state.pt")
    third = copy.deepcopy(second)
    resumed = form(third, masked(third).items(), **HOW)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt"))
    train(resumed, third, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(first, third, strict=True))


def test_another_seed_rounds_otherwise_and_the_same_seed_alike():
    ends = []
    for seed in (0, 0, 1):
        parameters = make()
        optimiser = StochasticAdamW(parameters, whole(parameters), seed=seed, **HOW)
        train(optimiser, parameters, range(2))
        ends.append(torch.cat([p.detach().reshape(-1) for p in parameters]))
    assert torch.equal(ends[0], ends[1])
    assert (ends[0] != ends[2]).float().mean() > 0.01


def test_every_step_and_every_parameter_draws_anew():
    """Entries that all move down by a share of their gap are still up as often as chance has it."""
    parameters = [torch.nn.Parameter(torch.ones(20_000, dtype=torch.bfloat16)) for _ in range(2)]
    how = {**HOW, "lr": 1e-4, "weight_decay": 0.0}
    optimiser, steps = StochasticAdamW(parameters, whole(parameters), **how), 64
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimiser.step()
    first, second = (parameter == 1 for parameter in parameters)
    chance = (1 - how["lr"] / 2**-8) ** steps
    assert first.float().mean() == pytest.approx(chance, abs=0.02)
    assert (first & second).float().mean() == pytest.approx(chance**2, abs=0.01)

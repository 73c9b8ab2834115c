import copy

import pytest

torch = pytest.importorskip("torch")

from subnetworks.training.engine.adamw import CompactAdamW, DenseAdamW  # noqa: E402

SHAPES = [(37, 53), (211,), (), (5, 4, 3), (1,), (0, 7), (400, 500)]
HOW = {"lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-6, "weight_decay": 0.3}


def make(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def masked(parameters, density):
    generator = torch.Generator().manual_seed(1)
    inside = {p: torch.rand(p.shape, generator=generator) < density for p in parameters}
    inside[parameters[3]][:] = False  # a parameter that is frozen whole
    return inside


def gradients(step, infinite=None):
    generator = torch.Generator().manual_seed(100 + step)
    found = [torch.randn(shape, generator=generator) for shape in SHAPES]
    if infinite is not None:
        found[0].view(-1)[infinite] = float("inf")
    return found


def train(optimiser, parameters, steps, clip=0.5, mask=True):
    """Steps as verl's engine takes them: mask, clip, skip what is not finite, schedule."""
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: (step % 3 + 1) / 3)
    norms = []
    for step in steps:
        for parameter, gradient in zip(parameters, gradients(step), strict=True):
            parameter.grad = gradient
        if mask:
            optimiser.mask_gradients()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, clip))
        optimiser.step()
        schedule.step()
    return norms


def equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("density", [0.0, 0.02, 0.2, 0.7, 1.1])
def test_compact_is_dense_to_the_bit(density):
    first, second = make(), make()
    compact = CompactAdamW(first, masked(first, density).items(), **HOW)
    dense = DenseAdamW(second, masked(second, density).items(), **HOW)
    assert train(compact, first, range(7)) == train(dense, second, range(7))
    assert equal(first, second)
    for p, q in zip(first, second, strict=True):
        inside = masked(first, density)[p].reshape(-1)
        for kind in ("exp_avg", "exp_avg_sq"):
            whole = dense.state[q][kind].reshape(-1)
            assert torch.equal(compact.state[p][kind], whole[inside])
            assert not whole[~inside].any()


@pytest.mark.parametrize("form", [CompactAdamW, DenseAdamW])
@pytest.mark.parametrize("given", ["a mask of ones", "no mask"])
def test_where_all_is_trained_it_is_torchs_adamw(form, given):
    first, second = make(), make()
    ones = {p: torch.ones(p.shape, dtype=torch.bool) for p in first}
    inside = ones if given == "a mask of ones" else dict.fromkeys(first)
    train(form(first, inside.items(), **HOW), first, range(5))
    train(torch.optim.AdamW(second, **HOW), second, range(5), mask=False)
    assert equal(first, second)


@pytest.mark.parametrize("form", [CompactAdamW, DenseAdamW])
def test_inside_it_is_torchs_adamw_of_those_entries(form):
    """The reference never sees the rest: its parameters are the masked-in entries."""
    first = make()
    inside = masked(first, 0.3)
    second = [torch.nn.Parameter(p.detach()[inside[p]].clone()) for p in first]
    before = [p.detach().clone() for p in first]
    train(form(first, inside.items(), **HOW), first, range(5), clip=1e30)
    reference = torch.optim.AdamW(second, **HOW)
    schedule = torch.optim.lr_scheduler.LambdaLR(reference, lambda step: (step % 3 + 1) / 3)
    for step in range(5):
        for mine, p, gradient in zip(second, first, gradients(step), strict=True):
            mine.grad = gradient[inside[p]]
        reference.step()
        schedule.step()
    for p, mine, old in zip(first, second, before, strict=True):
        assert torch.equal(p[inside[p]], mine)
        assert torch.equal(p[~inside[p]], old[~inside[p]])


@pytest.mark.parametrize("form", [CompactAdamW, DenseAdamW])
def test_what_overflows_outside_the_mask_is_not_seen(form):
    first = make()
    inside = masked(first, 0.3)
    outside = int((~inside[first[0]]).reshape(-1).nonzero()[0])
    optimiser = form(first, inside.items(), **HOW)
    for parameter, gradient in zip(first, gradients(0, infinite=outside), strict=True):
        parameter.grad = gradient
    optimiser.mask_gradients()
    assert all(torch.isfinite(p.grad).all() for p in first)
    assert not any(p.grad[~inside[p]].any() for p in first)


def test_resumed_from_its_saved_state_it_goes_on_as_before(tmp_path):
    first, second = make(), make()
    train(CompactAdamW(first, masked(first, 0.2).items(), **HOW), first, range(6))
    half = CompactAdamW(second, masked(second, 0.2).items(), **HOW)
    train(half, second, range(3))
    torch.save(half.state_dict(), tmp_path / "state.pt")
    third = copy.deepcopy(second)
    resumed = CompactAdamW(third, masked(third, 0.2).items(), **HOW)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt"))
    train(resumed, third, range(3, 6))
    assert equal(first, third)


def test_another_masks_state_is_refused():
    first, second = make(), make()
    optimiser = CompactAdamW(first, masked(first, 0.2).items(), **HOW)
    train(optimiser, first, range(1))
    other = CompactAdamW(second, masked(second, 0.4).items(), **HOW)
    with pytest.raises(ValueError, match="another mask's"):
        other.load_state_dict(optimiser.state_dict())


def test_the_state_is_as_large_as_the_mask():
    parameters = make()
    inside = masked(parameters, 0.2)
    optimiser = CompactAdamW(parameters, inside.items(), **HOW)
    train(optimiser, parameters, range(1))
    held = sum(s["exp_avg"].numel() + s["exp_avg_sq"].numel() for s in optimiser.state.values())
    assert held == 2 * sum(int(mask.sum()) for mask in inside.values())
    assert all(s["exp_avg"].dtype == torch.float32 for s in optimiser.state.values())

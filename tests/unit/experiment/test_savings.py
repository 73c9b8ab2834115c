"""What a mask saves, against what AdamW within one really keeps."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("pydantic")

import torch

from subnetworks.experiment.savings import parts, rows_needed
from subnetworks.training.engine.adamw import CompactAdamW


def held(optimiser, parameter):
    tensors = [parameter.data, parameter.grad]
    tensors += [optimiser.state[parameter][key] for key in ("exp_avg", "exp_avg_sq")]
    indices = optimiser._indices[parameter]
    tensors += [] if indices is None else [indices]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("trained", [25, 200, None])
def test_memory_is_what_the_optimiser_keeps(trained):
    parameter = torch.nn.Parameter(torch.ones(10, 100))
    mask = None
    if trained is not None:
        mask = (torch.arange(1000) < trained).reshape(10, 100)
    optimiser = CompactAdamW([parameter], [(parameter, mask)])
    parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    density = None if trained is None else trained / 1000
    assert parts(1000, density).sum == held(optimiser, parameter)


def test_rows_without_an_entry_are_counted_by_chance():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(20_000, 10, generator=generator) < 0.1
    assert rows_needed(0.1, 10) == pytest.approx(drawn.any(1).float().mean().item(), abs=0.01)
    assert rows_needed(0.05, 4096) == 1

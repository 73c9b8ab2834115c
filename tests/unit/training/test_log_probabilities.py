"""Log-probabilities in parts are those of verl's function, to the bit, and so are the gradients."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("verl")

import torch
import verl.utils.torch_functional as functional

from subnetworks.training.engine import log_probabilities as ours


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("rows", "vocabulary"), [(37, 61), (9, 49152)])
def test_the_bits_are_those_of_verl(dtype, rows, vocabulary, monkeypatch):
    monkeypatch.setattr(ours, "_AT_ONCE", 4 * vocabulary)
    torch.manual_seed(0)
    logits = (4 * torch.randn(rows, vocabulary)).to(dtype).requires_grad_()
    kept = torch.tensor([row for row in range(rows) if row % 3])
    labels = torch.randint(vocabulary, (len(kept),))
    weights = torch.randn(len(kept))

    expected = functional.logprobs_from_logits_v2(logits.float()[kept], labels)
    (expected * weights).sum().backward()
    gradient, logits.grad = logits.grad, None
    found = ours.log_probabilities(logits, kept, labels)
    (found * weights).sum().backward()

    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert torch.equal(logits.grad, gradient)
    assert torch.equal(
        ours.entropies(logits, kept),
        functional.entropy_from_logits(logits.detach().float())[kept],
    )


def test_padding_has_no_gradient():
    logits = torch.randn(6, 11, requires_grad=True)
    rows = torch.tensor([0, 1, 4])
    ours.log_probabilities(logits, rows, torch.tensor([3, 0, 10])).sum().backward()
    assert logits.grad[[2, 3, 5]].eq(0).all()
    assert logits.grad[rows].abs().sum() > 0

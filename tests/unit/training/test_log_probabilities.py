"""Log-probabilities in parts are those of verl's function, to the bit, and so are the gradients."""

from types import SimpleNamespace

import pytest

pytest.importorskip("torch")
pytest.importorskip("verl")

import torch
import verl.utils.tensordict_utils as tensordict_utils
import verl.utils.torch_functional as functional

from subnetworks.training.engine import log_probabilities as ours
from subnetworks.training.engine import masked


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


@pytest.mark.parametrize("pad", [0, 3])
@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_the_engine_gives_those_of_verls_engine(packed, entropy, pad):
    """Of rows one behind the other, with padding at their end, and of padded rows. Verl's engine
    is given a copy of the logits in float32; ours makes none."""
    theirs = masked.fsdp.FSDPEngineWithLMHead
    ours_too = type("Engine", (masked.MaskedEngineMixin, theirs), {})
    engine = object.__new__(ours_too)
    engine.use_ulysses_sp = False
    engine.engine_config = SimpleNamespace(
        entropy_checkpointing=False, entropy_from_logits_with_chunking=False
    )
    engine.compute_entropy_from_logits = functional.entropy_from_logits
    torch.manual_seed(0)
    lengths, vocabulary = [3, 5, 2], 61
    rows = torch.nested.nested_tensor(
        [torch.randint(vocabulary, (n,)) for n in lengths], layout=torch.jagged
    )
    batch = tensordict_utils.get_tensordict(
        {"input_ids": rows},
        {"use_remove_padding": packed, "calculate_entropy": entropy},
    )
    shape = (1, sum(lengths) + pad) if packed else (len(lengths), max(lengths))
    labels = torch.nn.functional.pad(rows.values().roll(-1), (0, pad if packed else 0))
    logits = (4 * torch.randn(*shape, vocabulary)).bfloat16()
    found = []
    for kind, dtype in ((ours_too, torch.bfloat16), (theirs, torch.float32)):
        given = logits.clone().requires_grad_()
        told = {
            "temperature_is_one": True,
            "temperature": torch.ones(len(lengths)),  # of padded rows
            "temperature_rmpad": torch.ones(shape[1]),
            "input_ids_rmpad_rolled": labels,
            "pad_size": pad,
        }
        output = SimpleNamespace(logits=given.to(dtype))
        with torch.set_grad_enabled(not entropy):
            made = kind.prepare_model_outputs(engine, output, told, batch, None)
        if not entropy:
            made["log_probs"].values().square().sum().backward()
            made["gradient"] = given.grad
        assert output.logits.dtype == dtype
        found.append({n: v.values() if v.is_nested else v for n, v in made.items()})
    assert found[0].keys() == found[1].keys() == {"log_probs", "entropy" if entropy else "gradient"}
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name

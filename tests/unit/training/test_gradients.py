"""Gradients at a run's init through verl's engine, against torch's own on the same rows."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("verl")

import numpy  # noqa: E402
import pyarrow  # noqa: E402
import pyarrow.parquet  # noqa: E402
from tiny import make_init, make_pairs  # noqa: E402

from subnetworks import checkpoints  # noqa: E402
from subnetworks.checkpoints import identity  # noqa: E402
from subnetworks.core.errors import UserError  # noqa: E402
from subnetworks.measuring.gradients import Gradients  # noqa: E402
from subnetworks.training.data import examples  # noqa: E402
from subnetworks.training.data.conversations import epochs, load_tokenizer, tokenise  # noqa: E402
from subnetworks.training.runtime.gradients import measure  # noqa: E402

BATCHES = 3
DPO = {
    "algorithm": "dpo",
    "steps": 50,
    "warmup_steps": 40,
    "batch_size": 4,
    "micro_batch_size": 4,
    "learning_rate": 1.0,  # a single step would be seen
    "max_grad_norm": 1e-3,  # gradients are taken as they are
    "beta": 0.3,
    "max_length": 64,
    "compute_dtype": "float32",
    "seed": 3,
}
GRPO = {"algorithm": "grpo", "steps": 50, "learning_rate": 1.0}
SFT = {
    "algorithm": "sft",
    "steps": 5,
    "batch_size": 12,
    "learning_rate": 1.0,
    "max_length": 64,
    "compute_dtype": "float32",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gradients")
    make_init(folder / "init")
    make_pairs(folder / "data")
    return folder


def found(folder, name, settings, batches, devices=1, data="data"):
    file = folder / f"{name}.safetensors"
    measure(
        settings,
        init=folder / "init",
        data=folder / data,
        output=file,
        batches=batches,
        accelerator={"kind": "cpu", "devices": devices},
    )
    return Gradients(file)


def log_probability(model, ids, learnt):
    logits = model(torch.tensor([ids])).logits[0, :-1]
    each = logits.log_softmax(-1)[range(len(ids) - 1), ids[1:]]
    return (each * torch.tensor(learnt[1:])).sum()


def init(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder / "init", dtype=torch.float32)


def assert_moments(opened, gradients):
    """The file has the sums of these gradients, one dictionary a batch."""
    assert opened.batches == len(gradients)
    assert set(opened.names) == set(gradients[0])
    for name in opened.names:
        each = numpy.stack([batch[name].ravel() for batch in gradients]).astype(numpy.float64)
        size = numpy.abs(each).max()
        assert numpy.abs(opened.mean(name) - each.mean(0)).max() <= 1e-4 * size, name
        assert numpy.abs(opened.square(name) - (each**2).mean(0)).max() <= 1e-4 * size**2, name


@pytest.mark.parametrize("devices", [1, 2])
def test_those_of_dpo_are_those_of_its_closed_form_at_the_init(folder, devices):
    """Where the policy is the reference, the loss of a pair has the slope -β/2 in their margin."""
    opened = found(folder, f"dpo{devices}", DPO, BATCHES, devices)
    model, gradients = init(folder), []
    pairs = examples.read_pairs(
        folder / "data" / "train.parquet", load_tokenizer(folder / "init"), 64
    )
    for rows in epochs(len(pairs), 4, BATCHES, DPO["seed"]):
        model.zero_grad()
        margins = [
            log_probability(model, *pairs[row][0]) - log_probability(model, *pairs[row][1])
            for row in rows
        ]
        (-DPO["beta"] / 2 * torch.stack(margins).mean()).backward()
        gradients.append({n: p.grad.numpy().copy() for n, p in model.named_parameters()})
    assert_moments(opened, gradients)
    with checkpoints.open(folder / "init") as checkpoint:
        assert opened.before == identity.digest(checkpoint)


def test_those_of_sft_are_of_its_mean_loss_a_token(folder):
    rows = [
        [{"role": "user", "content": f"{a}+1="}, {"role": "assistant", "content": str(a + 1)}]
        for a in range(12)
    ]
    (folder / "talks").mkdir()
    table = pyarrow.Table.from_pylist([{"messages": row} for row in rows])
    pyarrow.parquet.write_table(table, folder / "talks" / "train.parquet")
    # Every batch has all rows, so that their order does not matter.
    opened = found(folder, "sft", SFT, 2, data="talks")
    model = init(folder)
    read = tokenise(load_tokenizer(folder / "init"), rows, 64, "rows")
    loss = -torch.stack([log_probability(model, ids, learnt) for ids, learnt in read]).sum()
    (loss / sum(sum(learnt[1:]) for _, learnt in read)).backward()
    assert_moments(opened, [{n: p.grad.numpy() for n, p in model.named_parameters()}] * 2)


def test_what_cannot_be_measured_is_refused_before_anything_starts(folder):
    for settings, batches, words in (
        ({**GRPO, "lora_rank": 2}, 2, r"settings: lora_rank \(2\): .*; leave lora_rank out"),
        ({**DPO, "lora_rank": 2}, 2, r"settings: lora_rank \(2\): .*; leave lora_rank out"),
        (DPO, 1, r"--batches 1: must lie in \[2, 50\]"),
        (DPO, 51, r"--batches 51"),
    ):
        with pytest.raises(UserError, match=words):
            found(folder, "refused", settings, batches)
    assert not (folder / "refused.safetensors").exists()

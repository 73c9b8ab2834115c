"""Every preference algorithm, and supervised finetuning, through the real trainer within a mask."""

import math
import os
import subprocess

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("verl")

import numpy  # noqa: E402
import pyarrow.parquet  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from tiny import launch, log, make_init, make_job, make_pairs, master_weights  # noqa: E402

from subnetworks.measuring import masks  # noqa: E402
from subnetworks.training.algorithms import ALGORITHMS  # noqa: E402
from subnetworks.training.data.conversations import epochs  # noqa: E402
from subnetworks.training.runtime import finish, sft  # noqa: E402
from subnetworks.training.settings import PreferenceSettings  # noqa: E402

STEPS = 3
COMMON = {
    "steps": STEPS,
    "batch_size": 4,
    "learning_rate": 1e-2,
    "weight_decay": 0.5,
    "save_every": 2,
    "seed": 1,
}
PREFERENCE = [
    name for name, settings in ALGORITHMS.items() if issubclass(settings, PreferenceSettings)
]


@pytest.fixture(scope="module")
def mask(trained_folder):
    generator = numpy.random.default_rng(0)
    arrays = {
        name: generator.random(shape) < 0.3
        for name, shape in finish.shapes(trained_folder / "init").items()
    }
    masks.write(trained_folder / "mask.safetensors", arrays, rule="test")
    return trained_folder / "mask.safetensors"


@pytest.fixture(scope="module")
def trained_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("algorithms")
    make_init(folder / "init")
    make_pairs(folder / "data")
    # Held out, for once, is what the second step trains on.
    pairs = pyarrow.parquet.read_table(folder / "data" / "train.parquet")
    second = epochs(len(pairs), COMMON["batch_size"], STEPS, COMMON["seed"])[1]
    pyarrow.parquet.write_table(pairs.take(second), folder / "data" / "validation.parquet")
    return folder


@pytest.fixture(scope="module")
def trained(trained_folder, mask):
    """Each algorithm on one rank: whole, and resumed after its second step."""
    jobs = {}
    for name in PREFERENCE:
        settings = {"algorithm": name, **COMMON}
        measured = settings | {"validate_every": 1}
        jobs[name] = make_job(trained_folder, name, measured, mask=mask)
        again = f"{name}_resumed"
        jobs[again] = make_job(trained_folder, again, settings, mask=mask, resume=2)
    launch(trained_folder, jobs)
    return trained_folder


@pytest.fixture(scope="module")
def shared(trained_folder, mask):
    """Each algorithm on two ranks, in several micro-batches."""
    jobs = {
        name: make_job(
            trained_folder,
            f"{name}_shared",
            {"algorithm": name, **COMMON, "micro_batch_size": 2, "validate_every": 1},
            ranks=2,
            mask=mask,
        )
        for name in PREFERENCE
    }
    launch(trained_folder, jobs)
    return trained_folder


def assert_within(folder, name, mask):
    inside = masks.Mask.open(mask)
    after = master_weights(folder, STEPS, name)
    for tensor, before in load_file(folder / "init" / "model.safetensors").items():
        bits = torch.from_numpy(inside.array(tensor))
        moved = after[tensor].view(torch.int32) != before.float().view(torch.int32)
        assert not moved[~bits].any(), tensor
        if "embed" not in tensor:
            assert moved[bits].float().mean() > 0.9, tensor


@pytest.mark.parametrize("name", PREFERENCE)
def test_nothing_outside_the_mask_moves(trained, mask, name):
    assert_within(trained, name, mask)


@pytest.mark.parametrize("name", PREFERENCE)
def test_a_resumed_run_ends_where_the_uninterrupted_one_does(trained, name):
    whole = master_weights(trained, STEPS, name)
    resumed = master_weights(trained, STEPS, f"{name}_resumed")
    assert all(torch.equal(whole[tensor], resumed[tensor]) for tensor in whole)


@pytest.mark.parametrize("name", PREFERENCE)
def test_ranks_and_micro_batches_leave_losses_and_gradients_as_they_are(trained, shared, name):
    """Apart from the rounding of the model's bf16 passes."""
    for one, two in zip(log(trained, name), log(shared, f"{name}_shared"), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=5e-3)
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=2e-2)


@pytest.mark.parametrize("name", PREFERENCE)
def test_only_an_algorithm_with_a_reference_computes_one(trained, name):
    stored = {path.name for path in (trained / name).glob("*.npy")}
    reference = "reference_of_steps"
    kept = {"dpo": [reference], "kto": [reference, "reference_mismatched"]}.get(name, [])
    assert stored == {f"{file}{rows}.npy" for file in kept for rows in ("", "_validation")}


@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_before_the_first_step_the_policy_is_the_init_exactly(trained, shared, name):
    """In bf16 that holds only of answers scored in the batches that they are trained in."""
    loss = {"dpo": math.log(2), "kto": 0.5}[name]
    for first, *_ in (log(trained, name), log(shared, f"{name}_shared")):
        assert first["loss"] == pytest.approx(loss, abs=1e-7)
        assert (first["margin"], first.get("kl", 0)) == (0, 0)


@pytest.mark.parametrize("name", PREFERENCE)
def test_rows_held_out_are_measured_as_the_step_that_trains_on_them(trained, shared, name):
    """After the first step, the second's rows; of single answers the steps take others. The resumed
    run, which measures none, ends where this one does."""
    first, second, _ = log(trained, name)
    if ALGORITHMS[name].answers == 2:
        assert first["validation/loss"] == pytest.approx(second["loss"], rel=1e-5)
        assert first["validation/accuracy"] == second["accuracy"]
        assert first["validation/examples"] == COMMON["batch_size"]
        assert first["validation/seconds"] > 0
    for one, two in zip(log(trained, name), log(shared, f"{name}_shared"), strict=True):
        assert two["validation/loss"] == pytest.approx(one["validation/loss"], rel=1e-2)
    assert not any("validation" in key for key in log(trained, f"{name}_resumed", 2)[0])


def test_supervised_finetuning_stays_within_its_mask_too(trained_folder, mask):
    import pyarrow
    import pyarrow.parquet

    pairs = pyarrow.parquet.read_table(trained_folder / "data" / "train.parquet").to_pylist()
    rows = [
        {"messages": [*row["prompt"], {"role": "assistant", "content": row["chosen"]}]}
        for row in pairs
    ]
    folder = trained_folder / "sft_data"
    folder.mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train.parquet")
    job = make_job(trained_folder, "sft", {"algorithm": "sft", **COMMON}, mask=mask, data=folder)
    command = sft.command(job)
    done = subprocess.run(
        command.arguments,
        env=os.environ | command.environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert_within(trained_folder, "sft", mask)

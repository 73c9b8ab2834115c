"""Whole SFT runs, within a mask: repeated, and stopped half-way; both end in the same bits."""

import csv
import json
import random
import shutil

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("verl")

import numpy  # noqa: E402
import pyarrow  # noqa: E402
import pyarrow.parquet  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from tiny import make_init  # noqa: E402

from subnetworks import checkpoints  # noqa: E402
from subnetworks.core.errors import UserError  # noqa: E402
from subnetworks.measuring import masks  # noqa: E402
from subnetworks.training.engine import masking  # noqa: E402
from subnetworks.training.runtime import finish, run  # noqa: E402

SETTINGS = {
    "algorithm": "sft",
    "seed": 3,
    "steps": 4,
    "batch_size": 4,
    "learning_rate": 1e-2,
    "schedule": "cosine",
    "weight_decay": 0.5,
    "max_length": 32,
    "trajectory_every": 2,
    "validate_every": 2,
}


def train(folder, name, more=None, **how):
    run.train(
        SETTINGS | (more or {}),
        init=folder / "init",
        data=folder / "data",
        output=folder / "checkpoints" / name,
        run_folder=folder / "runs" / name,
        mask=folder / "mask.safetensors",
        **how,
    )


def rows_of(folder, name):
    with open(folder / "runs" / name / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


def log(folder, name):
    """A run's table, but for the seconds."""
    rows = rows_of(folder, name)
    return [{key: row[key] for key in row if "seconds" not in key} for row in rows]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sft")
    make_init(folder / "init")
    source = random.Random(0)
    rows = []
    for _ in range(12):
        a, b = source.randint(0, 99), source.randint(0, 99)
        question = {"role": "user", "content": f"{a}+{b}="}
        rows.append({"messages": [question, {"role": "assistant", "content": str(a + b)}]})
    (folder / "data").mkdir()
    for name, some in (("train", rows), ("validation", rows[:5])):
        table = pyarrow.Table.from_pylist(some)
        pyarrow.parquet.write_table(table, folder / "data" / f"{name}.parquet")
    generator = numpy.random.default_rng(0)
    masks.write(
        folder / "mask.safetensors",
        {n: generator.random(s) < 0.2 for n, s in finish.shapes(folder / "init").items()},
        before=masking.digest(folder / "init"),
    )
    train(folder, "first", keep_state=True)
    train(folder, "second", {"validate_every": 0})
    # As if stopped when step 2 was saved but not yet in the trajectory, and step 3 had been.
    stopped = folder / "runs" / "stopped"
    shutil.copytree(folder / "runs" / "first", stopped)
    shutil.rmtree(stopped / "state" / "global_step_4")
    trajectory = stopped / "trajectory"
    (trajectory / "step_000002.safetensors").unlink()
    (trajectory / "manifest.json").unlink()
    (trajectory / ".step_000004.safetensors.1.part").write_bytes(b"half")
    train(folder, "stopped")
    return folder


@pytest.mark.parametrize("other", ["second", "stopped"])
def test_it_ends_in_the_same_bits(trained, other):
    ends = [load_file(trained / "checkpoints" / n / "model.safetensors") for n in ("first", other)]
    for name, value in ends[0].items():
        assert torch.equal(value.view(torch.int16), ends[1][name].view(torch.int16)), name
    first, again = log(trained, "first"), log(trained, other)
    measured = {int(row["step"]): row for row in first if row.get("validation_loss")}
    assert list(measured) == [2, 4]
    assert {row["validation_examples"] for row in measured.values()} == {"5"}
    if other == "second":  # which measures no rows held out, and trains as if it did
        assert "validation_loss" not in again[0]
        first = [{name: row[name] for name in again[0]} for row in first]
    assert first == again


def test_what_is_measured_on_rows_held_out_has_its_own_seconds(trained):
    rows = rows_of(trained, "first")
    assert [float(row["validation_seconds"] or 0) > 0 for row in rows] == [False, True] * 2
    record = trained / "checkpoints/first/manifest.json.meta.json"
    spent = json.loads(record.read_text())["seconds"]
    for part, column in (("steps", "seconds"), ("validation", "validation_seconds")):
        logged = sum(float(row[column] or 0) for row in rows)
        assert spent[part] == pytest.approx(logged, abs=0.01)


def test_the_loss_of_rows_held_out_is_that_of_their_answers_tokens(trained):
    from transformers import AutoModelForCausalLM

    from subnetworks.training.data.conversations import load_tokenizer, tokenise

    end = trained / "checkpoints" / "first"
    rows = pyarrow.parquet.read_table(trained / "data/validation.parquet")["messages"].to_pylist()
    model = AutoModelForCausalLM.from_pretrained(end, dtype=torch.float32)
    total = tokens = 0
    with torch.no_grad():
        for ids, learnt in tokenise(load_tokenizer(end), rows, None, "rows"):
            scores = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            scored = [scores[at - 1, ids[at]].item() for at, bit in enumerate(learnt) if bit]
            total, tokens = total - sum(scored), tokens + len(scored)
    (last,) = (row for row in log(trained, "first") if row["step"] == "4")
    assert float(last["validation_loss"]) == pytest.approx(total / tokens, rel=1e-2)


def test_the_stopped_run_went_on(trained):
    meta = json.loads((trained / "runs" / "stopped" / "log.csv.meta.json").read_text())
    assert meta["resumed_from_step"] == 2


@pytest.mark.parametrize("name", ["first", "second", "stopped"])
def test_each_has_its_whole_trajectory(trained, name):
    folder = trained / "runs" / name / "trajectory"
    listed = json.loads((folder / "manifest.json").read_text())
    assert [row["file"] for row in listed["steps"]] == [
        "step_000002.safetensors",
        "step_000004.safetensors",
    ]
    assert {file.name for file in folder.glob("*step*")} == {row["file"] for row in listed["steps"]}
    with (
        checkpoints.open(folder / "step_000004.safetensors") as last,
        checkpoints.open(trained / "checkpoints" / name) as end,
    ):
        for tensor in end.names:
            assert numpy.array_equal(last[tensor].raw(), end[tensor].raw()), tensor
    first = json.loads((trained / "runs" / "first" / "trajectory" / "manifest.json").read_text())
    assert listed == first


def test_a_run_that_explodes_ends_with_its_step_and_leaves_no_checkpoint(trained):
    more = {"learning_rate": 100.0, "schedule": "constant", "max_divergence": 3, "save_every": 1}
    more |= {"trajectory_every": 0, "validate_every": 0}
    for attempt in (1, 2):  # the second begins before the step at which the first diverged
        with pytest.raises(UserError, match=r"the loss of step [23] is .*lower its learning_rate"):
            train(trained, "exploded", more)
        assert not (trained / "checkpoints" / "exploded").exists()
        attempts = list((trained / "runs" / "exploded" / "state").glob("steps-*.jsonl"))
        assert len(attempts) == attempt


def test_a_mask_of_another_base_is_refused_before_training(trained, tmp_path):
    base, init = masking.digest(trained / "checkpoints" / "first"), masking.digest(trained / "init")
    other = tmp_path / "other.safetensors"
    shapes = finish.shapes(trained / "init")
    masks.write(other, {n: numpy.ones(s, bool) for n, s in shapes.items()}, before=base)
    with pytest.raises(UserError) as caught:
        run.train(
            SETTINGS,
            init=trained / "init",
            data=trained / "data",
            output=tmp_path / "out",
            run_folder=tmp_path / "run",
            mask=other,
        )
    for word in ("other.safetensors", base, init):
        assert word in str(caught.value)
    assert not (tmp_path / "run").exists()

"""Trajectories against plain numpy over whole arrays."""

import json

import numpy as np
import pytest

pytest.importorskip("numba")

from calling import run as call
from checkpoints_made import llama, save, updated

from subnetworks import checkpoints
from subnetworks.checkpoints import deltas
from subnetworks.checkpoints.identity import digest
from subnetworks.core.errors import UserError
from subnetworks.measuring import trajectories, updates

STEPS = [2, 4, 6]


@pytest.fixture
def run(tmp_path):
    """A trajectory in which entries come, go back and stay; (folder, init's bits, steps' bits)."""
    rng = np.random.default_rng(0)
    init = llama(rng)
    states = [updated(init, rng, share=share) for share in (0.1, 0.3)]
    # Of the second step's changes half stay, the others go back to the init.
    last = {}
    for name, (dtype, bits) in states[1].items():
        back = rng.random(bits.shape) < 0.5
        last[name] = dtype, np.where(back, init[name][1], bits).astype(bits.dtype)
    states.append(last)
    save(tmp_path / "init.safetensors", init)
    rows = []
    for step, state in zip(STEPS, states, strict=True):
        save(tmp_path / f"{step}.safetensors", state)
        file = tmp_path / "trajectory" / f"step_{step:06d}.safetensors"
        with (
            checkpoints.open(tmp_path / "init.safetensors") as first,
            checkpoints.open(tmp_path / f"{step}.safetensors") as second,
        ):
            deltas.write(file, first, second.tensors, base=digest(first))
        rows.append({"step": step, "file": file.name})
    (tmp_path / "trajectory" / "manifest.json").write_text(json.dumps({"steps": rows}))
    return tmp_path, init, states


def together(tensors):
    return np.concatenate([bits.reshape(-1) for _, bits in tensors.values()])


def test_counts_are_those_of_whole_arrays(run, monkeypatch):
    monkeypatch.setattr(trajectories, "_CHUNK", 1000)
    folder, init, states = run
    found = trajectories.analyse(*trajectories.saved(folder / "trajectory"))
    start, after = together(init), [together(state) for state in states]

    def differ(one, other):
        return (one != other) & ~(((one | other) & 0x7FFF) == 0)

    changed = np.array([differ(start, bits) for bits in after])
    final, ever = changed[-1], changed.any(0)
    assert found.n == start.size
    assert (found.never, found.cancelled, found.final) == (
        (~ever).sum(),
        (ever & ~final).sum(),
        final.sum(),
    )
    assert found.cancelled > 0
    for k, step in enumerate(found.steps):
        assert step.step == STEPS[k]
        assert step.changed == changed[k].sum()
        assert step.moved == differ(after[k - 1] if k else start, after[k]).sum()
        assert step.outside == (changed[k] & ~final).sum()
    assert found.steps[-1].outside == 0


def test_sparsity_is_what_measuring_says(run):
    folder, _, _ = run
    summary = trajectories.summarise(
        trajectories.analyse(*trajectories.saved(folder / "trajectory"))
    )
    before = folder / "init.safetensors"
    for row in summary["steps"]:
        here = folder / f"{row['step']}.safetensors"
        whole = updates.summarise(updates.measure(folder / "init.safetensors", here))
        assert row["sparsity"] == whole["sparsity"]
        assert row["changed"] == whole["changed"]
        consecutive = updates.summarise(updates.measure(before, here))
        assert row["sparsity_consecutive"] == consecutive["sparsity"]
        assert row["moved"] == consecutive["changed"]
        before = here
    assert summary["never"] + summary["cancelled"] + summary["final"] == summary["n"]


def test_the_command_line(run, tmp_path):
    folder, _, _ = run
    output, rows = tmp_path / "t.json", tmp_path / "t.parquet"
    line = call("trajectory", folder / "trajectory", "--json", output, "--table", rows)
    assert "cancelled" in line
    assert [row["step"] for row in json.loads(output.read_text())["steps"]] == STEPS
    assert rows.exists()


def test_what_is_no_trajectory_is_refused(tmp_path):
    with pytest.raises(UserError, match="not the manifest of a trajectory; name the folder"):
        trajectories.saved(tmp_path)
    (tmp_path / "manifest.json").write_text('{"steps": []}')
    with pytest.raises(UserError, match="give the run trajectory_every"):
        trajectories.saved(tmp_path)


def rewrite(folder, change):
    """Change the rows of a trajectory's manifest."""
    path = folder / "trajectory" / "manifest.json"
    rows = json.loads(path.read_text())["steps"]
    path.write_text(json.dumps({"steps": change(rows)}))


@pytest.mark.parametrize("change", [lambda rows: rows[::-1], lambda rows: rows[:1] * 2])
def test_steps_out_of_order_are_refused(run, change):
    folder, _, _ = run
    rewrite(folder, change)
    with pytest.raises(UserError, match=r"step \d comes after step \d"):
        trajectories.analyse(*trajectories.saved(folder / "trajectory"))


def test_a_step_of_another_base_is_refused(run):
    folder, _, _ = run
    rng = np.random.default_rng(5)
    save(folder / "other.safetensors", llama(rng))
    file = folder / "trajectory" / "step_000004.safetensors"
    with (
        checkpoints.open(folder / "other.safetensors") as first,
        checkpoints.open(folder / "4.safetensors") as second,
    ):
        deltas.write(file, first, second.tensors, base=digest(first))
    with pytest.raises(UserError, match=r"step_000004\.safetensors: of a base with digest"):
        trajectories.saved(folder / "trajectory")


def test_a_step_that_lacks_tensors(run):
    folder, init, states = run
    steps = [(step, folder / f"{step}.safetensors") for step in STEPS]
    whole = trajectories.summarise(trajectories.analyse(folder / "init.safetensors", steps))
    assert (whole["compared_share"], whole["excluded"]) == (1, [])
    few = {name: tensor for name, tensor in states[0].items() if "q_proj" not in name}
    save(folder / "2.safetensors", few)
    with pytest.raises(UserError, match=r"q_proj\.weight' and 1 more, only in"):
        trajectories.analyse(folder / "init.safetensors", steps)
    small = {name: tensor for name, tensor in states[-1].items() if name != "model.norm.weight"}
    save(folder / "6.safetensors", small)
    save(folder / "2.safetensors", states[0])
    said = trajectories.summarise(trajectories.analyse(folder / "init.safetensors", steps))
    n = sum(bits.size for _, bits in init.values())
    assert said["compared_share"] == (n - 24) / n
    assert {"name": "model.norm.weight", "reason": "only in before"} in said["excluded"]

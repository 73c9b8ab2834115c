"""Weight synchronisation against plain numpy over whole tensors, and patches that are applied."""

import json
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("numba")
pytest.importorskip("pyarrow")
pytest.importorskip("scipy")

import pyarrow.parquet
from calling import run as call
from checkpoints_made import llama, save, updated

from subnetworks import checkpoints
from subnetworks.checkpoints import deltas
from subnetworks.checkpoints.identity import digest
from subnetworks.core.errors import UserError
from subnetworks.measuring import foresight, synchronisation
from subnetworks.measuring.null_model import Optimiser
from subnetworks.measuring.patches import ENCODINGS
from subnetworks.measuring.updates.pairing import match

STEPS = [2, 4, 6, 10]


@pytest.fixture
def run(tmp_path):
    """A trajectory, and the same steps as checkpoints; (folder, all states from the init on).

    From step 4 to step 6 nothing changes.
    """
    rng = np.random.default_rng(0)
    states = [llama(rng)]
    for share in (0.01, 0.3, 0.0, 0.05):
        states.append(updated(states[-1], rng, share=share))
    save(tmp_path / "init.safetensors", states[0])
    rows = []
    for step, state in zip(STEPS, states[1:], strict=True):
        save(tmp_path / "steps" / f"checkpoint-{step}" / "model.safetensors", state)
        file = tmp_path / "trajectory" / f"step_{step:06d}.safetensors"
        with (
            checkpoints.open(tmp_path / "init.safetensors") as first,
            checkpoints.open(tmp_path / "steps" / f"checkpoint-{step}") as second,
        ):
            deltas.write(file, first, second.tensors, base=digest(first))
        rows.append({"step": step, "file": file.name})
    (tmp_path / "trajectory" / "manifest.json").write_text(json.dumps({"steps": rows}))
    return tmp_path, states


def differing(one, other):
    return sum(int((bits != other[name][1]).sum()) for name, (_, bits) in one.items())


def follow(folder, anchor_every=None, init=None):
    return synchronisation.follow(*synchronisation.saved(folder, init), anchor_every)


def test_shares_are_those_of_whole_arrays(run):
    folder, states = run
    n = sum(bits.size for _, bits in states[0].values())
    found = follow(folder / "trajectory", anchor_every=2)
    since = [0, 0, 2, 2]
    assert [(s.step, s.n, s.is_anchor) for s in found] == [
        (2, n, False), (4, n, True), (6, n, False), (10, n, True),
    ]  # fmt: skip
    for k, step in enumerate(found):
        assert step.patch.since == ([0, *STEPS])[k]
        assert step.patch.changed == differing(states[k], states[k + 1])
        assert step.since_anchor.since == ([0, *STEPS])[since[k]]
        assert step.since_anchor.changed == differing(states[since[k]], states[k + 1])
    assert found[0].patch.changed > 0
    # Where no tensor is larger than a piece, each tensor that changed takes its own patch.
    changed = [name for name in states[0] if (states[0][name][1] != states[1][name][1]).any()]
    sizes = found[0].patch.sizes
    assert sizes["indices"] == 4 * len(changed) + 6 * found[0].patch.changed
    bitmaps = sum((states[0][name][1].size + 7) // 8 for name in changed)
    assert sizes["bitmap"] == bitmaps + 2 * found[0].patch.changed


def test_without_anchors_all_is_since_the_init(run):
    folder, states = run
    found = follow(folder / "trajectory")
    assert not any(step.is_anchor for step in found)
    assert [s.since_anchor.changed for s in found] == [differing(states[0], s) for s in states[1:]]


def test_a_step_that_changes_nothing_costs_nothing(run):
    folder, _ = run
    found = follow(folder / "trajectory")
    assert found[2].patch == synchronisation.Patch(4)
    assert set(found[2].patch.sizes.values()) == {0}


def test_a_run_that_changes_nothing(run):
    folder, states = run
    for step in (1, 2, 3):
        save(folder / "same" / f"step_{step}.safetensors", states[0])
    summary = synchronisation.summarise(follow(folder / "same", anchor_every=2))
    assert summary["changed_share"] == {"mean": 0, "least": 0, "most": 0}
    assert set(summary["bytes"].values()) == {0}
    assert summary["sent"].pop("whole") == 2 * summary["whole_bytes"]
    assert summary["sent"] == dict.fromkeys(ENCODINGS, summary["whole_bytes"])
    call("sync", folder / "same")


@pytest.mark.parametrize("piece", [1001, 1 << 22])
def test_patches_of_pieces_give_every_snapshot(run, monkeypatch, piece):
    """The sampler's weights, patched step by step, have the bits of the trainer's."""
    monkeypatch.setattr(synchronisation, "PIECE", piece)
    folder, states = run
    _, _, steps = synchronisation.saved(folder / "trajectory")
    found = follow(folder / "trajectory")
    for name, encoding in ENCODINGS.items():
        held = {key: bits.reshape(-1).copy() for key, (_, bits) in states[0].items()}
        for number, (_, source) in enumerate(steps):
            sent = 0
            before = folder / "init.safetensors" if number == 0 else steps[number - 1][1]
            with checkpoints.open(before) as first, checkpoints.open(source) as second:
                for pair in match(first, second).values:
                    at = 0
                    for old, new in synchronisation.pieces(pair.before, pair.after):
                        if (old != new).any():
                            code = encoding.encode(old, new)
                            sent += len(code)
                            here = slice(at, at + old.size)
                            held[pair.name][here] = encoding.decode(code, held[pair.name][here])
                        at += old.size
            assert sent == found[number].patch.sizes[name]
            for key, (_, bits) in states[number + 1].items():
                assert np.array_equal(held[key], bits.reshape(-1)), (name, number, key)


def test_checkpoints_of_a_folder_are_taken_in_the_order_of_their_numbers(run):
    folder, _ = run
    of_deltas = follow(folder / "trajectory")
    assert follow(folder / "steps", init=str(folder / "init.safetensors")) == of_deltas
    # By themselves, the first is what the next is compared with.
    alone = follow(folder / "steps")
    assert [(s.step, s.patch) for s in alone] == [(s.step, s.patch) for s in of_deltas[1:]]
    assert alone[0].since_anchor.since == STEPS[0]


def test_float32_is_compared_as_the_bf16_that_is_sent(tmp_path):
    """1 + 2^-8 lies in the middle of two bf16 numbers, and goes to the even one, 1."""
    one = np.array([1, 1 + 2**-8, 1 + 2**-8 + 2**-20, 1 + 3 * 2**-8], np.float32)
    for step, values in ((1, np.ones(4, np.float32)), (2, one)):
        save(tmp_path / f"{step}.safetensors", {"w": ("F32", values.view(np.uint32))})
    (step,) = follow(tmp_path)
    assert (step.n, step.patch.changed) == (4, 2)


def test_what_are_no_steps_is_refused(run):
    folder, states = run
    with pytest.raises(UserError, match="no such folder"):
        synchronisation.saved(folder / "nowhere")
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no steps of a run"):
        synchronisation.saved(folder / "empty")
    save(folder / "one" / "step_4.safetensors", states[0])
    with pytest.raises(UserError, match="at least two checkpoints"):
        synchronisation.saved(folder / "one")
    save(folder / "one" / "again-04" / "model.safetensors", states[0])
    with pytest.raises(UserError, match="both step 4"):
        synchronisation.saved(folder / "one")


def test_an_unfinished_trajectory_is_not_taken_for_checkpoints(run):
    """Its first step would pass for the init; whole checkpoints of such names are what they are,
    and so are deltas of other names."""
    folder, states = run
    place = folder / "trajectory"
    (place / "manifest.json").unlink()
    for init in (None, str(folder / "init.safetensors")):
        with pytest.raises(UserError, match=r"step_000002\.safetensors: .* unfinished trajectory"):
            synchronisation.saved(place, init)
    for step in STEPS:
        (place / f"step_{step:06d}.safetensors").rename(place / f"delta-{step}.safetensors")
    expected = follow(folder / "steps")
    assert follow(place) == expected
    for step, state in zip(STEPS, states[1:], strict=True):
        save(folder / "whole" / f"step_{step:06d}.safetensors", state)
    assert follow(folder / "whole") == expected


def test_steps_out_of_order_are_refused(run):
    folder, _ = run
    path = folder / "trajectory" / "manifest.json"
    rows = json.loads(path.read_text())["steps"]
    path.write_text(json.dumps({"steps": rows[::-1]}))
    with pytest.raises(UserError, match="step 6 comes after step 10"):
        follow(folder / "trajectory")


def test_a_step_of_other_parameters_is_refused(run):
    folder, states = run
    small = {name: tensor for name, tensor in states[-1].items() if name != "model.norm.weight"}
    save(folder / "steps" / "checkpoint-10" / "model.safetensors", small)
    with pytest.raises(UserError, match=r"checkpoint-10: 'model\.norm\.weight': only in before"):
        follow(folder / "steps")


def test_the_null_model_is_asked_of_every_step(run):
    """By whole arrays: the init's magnitudes, and what the step and the one before changed."""
    folder, states = run
    optimiser = Optimiser(learning_rate=1e-5, steps=12)
    init, start, steps = synchronisation.saved(folder / "trajectory")
    found = synchronisation.follow(init, start, steps, optimiser=optimiser)
    whole = [np.concatenate([b.reshape(-1) for _, b in state.values()]) for state in states]
    at = [0, *STEPS]
    for k, step in enumerate(found):
        tally = foresight.Tally()
        tally.add(whole[0], whole[k], whole[k + 1], whole[k - 1] if k else None)
        assert step.foreseen == foresight.judge(tally, optimiser, at[k], at[k + 1])
    assert found[0].foreseen["again_recall"] is None
    assert 0 < found[1].foreseen["again_recall"] < 1
    means = synchronisation.summarise(found)["foreseen"]
    recalls = [step.foreseen["recall"] for step in found]
    assert recalls[2] is None
    assert means["recall"] == pytest.approx(np.mean([recalls[k] for k in (0, 1, 3)]))
    few = Optimiser(learning_rate=1e-5, steps=9)
    with pytest.raises(UserError, match="step 10; with --settings the steps of one run from its"):
        synchronisation.follow(init, start, steps, optimiser=few)
    with pytest.raises(UserError, match="with --settings"):
        synchronisation.follow(*synchronisation.saved(folder / "steps"), optimiser=optimiser)


def test_the_command_line(run, tmp_path):
    folder, states = run
    output, rows = tmp_path / "s.json", tmp_path / "s.parquet"
    settings = {"algorithm": "dpo", "steps": 10, "batch_size": 1, "learning_rate": 1e-5}
    line = ["sync", folder / "trajectory", "--anchor-every", "2"]
    line += ["--settings", json.dumps(settings)]
    said = call(*line, "--json", output, "--table", rows)
    summary = json.loads(output.read_text())
    n = sum(bits.size for _, bits in states[0].values())
    assert (summary["n"], summary["whole_bytes"]) == (n, 2 * n)
    assert [row["step"] for row in summary["steps"]] == STEPS
    changed = [differing(*both) / n for both in pairwise(states)]
    assert summary["changed_share"] == {
        "mean": pytest.approx(sum(changed) / 4), "least": 0, "most": max(changed)
    }  # fmt: skip
    patches = [row["bytes"]["gaps"] for row in summary["steps"]]
    assert summary["bytes"]["gaps"] == sum(patches) / 4
    assert summary["sent"]["gaps"] == patches[0] + patches[2] + 2 * 2 * n
    found = pyarrow.parquet.read_table(rows).to_pylist()
    assert [row["gaps_bytes"] for row in found] == patches
    assert [row["anchor_since"] for row in found] == [0, 0, 4, 4]
    printed = said.splitlines()
    assert any(row.split()[:2] == ["4", f"{changed[1]:.3%}"] for row in printed)
    assert sum(row.endswith("then anchor") for row in printed) == 2
    optimiser = Optimiser(learning_rate=1e-5, steps=10)
    steps = synchronisation.saved(folder / "trajectory")
    same = synchronisation.summarise(synchronisation.follow(*steps, optimiser=optimiser))
    assert summary["foreseen"] == same["foreseen"]
    assert f"foreseen by the null model: {same['foreseen']['recall']:.2%} of" in said

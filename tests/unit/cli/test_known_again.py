"""What this program wrote is known again by its content; what lies among it is the user's."""

import os

import numpy as np
import pytest

pytest.importorskip("numba")

from calling import run

from subnetworks.core.errors import UserError
from subnetworks.core.files import remove_own
from subnetworks.evaluation import definitions
from subnetworks.training.runtime import state

NAME = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def pair(tmp_path):
    from subnetworks.checkpoints.writing import header

    bits = np.arange(64, dtype="<u2") + 15000
    for name, values in (("a", bits), ("b", bits + (bits % 3 == 0).astype("<u2"))):
        (tmp_path / name).mkdir()
        text = header({NAME: ("BF16", (8, 8), 128)}, {})
        (tmp_path / name / "model.safetensors").write_bytes(text + values.tobytes())
    return tmp_path / "a", tmp_path / "b"


@pytest.mark.parametrize("verb", ["mask", "delta"])
@pytest.mark.parametrize("how", ["touched", "copied"])
def test_a_mask_or_delta_that_was_touched_is_ours(pair, tmp_path, verb, how):
    output = tmp_path / "out.safetensors"
    call = ("measure", *pair, "--mask", output)
    call = ("delta", *pair, "--output", output) if verb == "delta" else call
    run(*call)
    content = output.read_bytes()
    if how == "copied":
        output.unlink()
        output.write_bytes(content)
    os.utime(output, (1, 1))
    run(*call)
    assert output.read_bytes() == content


@pytest.mark.parametrize("verb", ["mask", "delta"])
def test_one_that_was_edited_is_not(pair, tmp_path, verb):
    output = tmp_path / "out.safetensors"
    call = ("measure", *pair, "--mask", output)
    call = ("delta", *pair, "--output", output) if verb == "delta" else call
    run(*call)
    edited = bytearray(output.read_bytes())
    edited[-1] ^= 1
    output.write_bytes(edited)
    with pytest.raises(UserError, match="not as it was written"):
        run(*call)
    assert output.read_bytes() == edited


OWN = [
    *("latest_checkpointed_iteration.txt", "steps-000-1.jsonl", "preference.json", "reference.npy"),
    *("hydra/.hydra/config.yaml", "global_step_2/data.pt", "global_step_2/data_0.pt"),
    "global_step_2/huggingface/tokenizer.json",
    "global_step_2/actor/model_world_size_2_rank_1.pt",
    "global_step_2/critic/extra_state_world_size_2_rank_1.pt",
    "global_step_4/fsdp_config.json",
]
THEIRS = ["notes.txt", "global_step_2/notes.txt", "global_step_4/model.pt", "mine/data.pt"]


def put(folder, names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


@pytest.mark.parametrize("theirs", [[], THEIRS])
def test_of_a_state_only_what_trainers_write_is_removed(tmp_path, theirs):
    folder = tmp_path / "state"
    for settings in (1, 2):
        state.prepare(folder, {"settings": settings, "init": "", "data": ""})
        put(folder, [*OWN, *theirs])
        assert state.resume_from(folder, 9) == 0  # no step is whole
    state.clear(folder)
    left = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    assert sorted(left) == sorted(theirs)
    assert folder.exists() == bool(theirs)


def test_of_the_tasks_only_what_was_written_is_removed(tmp_path):
    folder, kept = tmp_path / ".tasks", tmp_path / "kept"
    put(folder, ["mine.yaml", "notes.txt"])
    put(kept, ["a.yaml"])
    (folder / "b.yaml").write_text(f"{definitions._MARK}\ntask: b\n")
    (folder / "inner").mkdir()
    (folder / "link").symlink_to(kept)
    remove_own(folder, lambda name: definitions.is_own(folder / name))
    assert sorted(path.name for path in folder.iterdir()) == ["link", "mine.yaml", "notes.txt"]
    assert (kept / "a.yaml").exists()

"""What trainers save over several processes, read as one: torch and verl are the reference."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("verl")
load_file = pytest.importorskip("safetensors.torch").load_file

import torch.distributed.checkpoint as dcp  # noqa: E402
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save  # noqa: E402

from subnetworks.checkpoints import fetch  # noqa: E402
from subnetworks.checkpoints import open as open_checkpoint  # noqa: E402
from subnetworks.core.errors import UserError  # noqa: E402

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
FSDP = ["fsdp2_2/actor", "fsdp2_4/actor", "hsdp_4/actor", "fsdp1_4/actor"]
DCP = [f"dcp_{kind}_{world}" for kind in ("nested", "threads", "each") for world in (2, 4)]
HF = [f"hf_{world}" for world in (2, 4)] + [f"hf_files_{world}" for world in (2, 4)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """All that `sharded.py` saves; no test changes it."""
    folder = tmp_path_factory.mktemp("sharded")
    script = Path(__file__).with_name("sharded.py")
    subprocess.run([sys.executable, script, folder], check=True, capture_output=True, timeout=900)
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    """Copies one of the saved folders, to be damaged."""

    def copy(name):
        return Path(shutil.copytree(saved / name, tmp_path / name))

    return copy


def as_torch(tensor):
    bits = torch.from_numpy(tensor.raw().view(f"i{tensor.itemsize}").copy())
    return bits.view(DTYPES[tensor.dtype]).reshape(tensor.shape)


def require_equal(folder, expected):
    """Names, dtypes, shapes and bits of all tensors; any part is read as the whole is."""
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.tensors.keys() == expected.keys()
        for name, tensor in expected.items():
            found = as_torch(checkpoint[name])
            assert found.dtype == tensor.dtype, name
            assert torch.equal(found, tensor), name
            stored = checkpoint[name]
            whole = stored.raw()
            for start in range(0, stored.n, 7):
                stop = min(start + 11, stored.n)
                assert (stored.raw(start, stop) == whole[start:stop]).all(), name
        return checkpoint.notes


def refused(folder):
    with pytest.raises(UserError) as error:
        open_checkpoint(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", [*FSDP, *DCP, *HF])
def test_the_parts_are_the_whole(saved, name):
    require_equal(saved / name, load_file(saved / "whole.safetensors"))


@pytest.mark.parametrize("name", ["odd_4", "dcp_odd_4"])
def test_other_layouts_over_processes(saved, name):
    require_equal(saved / name, load_file(saved / "odd.safetensors"))


@pytest.mark.parametrize("name", ["fsdp2_4/actor", "fsdp1_4/actor"])
def test_as_verls_own_merger_reads_them(saved, name):
    from types import SimpleNamespace

    from verl.model_merger.fsdp_model_merger import FSDPModelMerger

    merger = FSDPModelMerger.__new__(FSDPModelMerger)
    merger.config = SimpleNamespace(local_dir=str(saved / name))
    expected = merger._load_and_merge_state_dicts(4, 4, (4,), ("fsdp",))
    with open_checkpoint(saved / name) as checkpoint:
        assert checkpoint.tensors.keys() == expected.keys()
        for key, tensor in expected.items():
            # The merger rounds everything to bfloat16, buffers too.
            assert torch.equal(as_torch(checkpoint[key]).bfloat16(), tensor), key


@pytest.mark.parametrize("name", ["dcp_nested_2", "dcp_nested_4", "dcp_threads_4"])
def test_as_torchs_own_converter_reads_them(saved, name, tmp_path):
    dcp_to_torch_save(saved / name, tmp_path / "model.pt")
    expected = torch.load(tmp_path / "model.pt", weights_only=False)
    require_equal(saved / name, expected.get("model", expected))


@pytest.mark.parametrize("name", HF)
def test_as_torchs_own_reader_reads_them(saved, name):
    whole = load_file(saved / "whole.safetensors")
    expected = {key: torch.zeros_like(tensor) for key, tensor in whole.items()}
    reader = dcp.HuggingFaceStorageReader(str(saved / name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(expected, storage_reader=reader, no_dist=True)
    require_equal(saved / name, expected)


def test_the_models_part_is_read_and_the_rest_named(saved):
    whole = load_file(saved / "whole.safetensors")
    assert "not optimizer" in " ".join(require_equal(saved / "dcp_nested_2", whole))
    assert "rng" in " ".join(require_equal(saved / "dcp_each_2", whole))


def test_two_models_are_not_chosen_between(tmp_path):
    parts = {"actor": {"w": torch.ones(3)}, "critic": {"w": torch.ones(3)}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(parts, checkpoint_id=tmp_path / "two", no_dist=True)
    said = refused(tmp_path / "two")
    assert "actor" in said and "critic" in said


def test_of_a_step_of_verl_the_actor_is_read_or_one_to_be_named(copied):
    actor = copied("fsdp2_2/actor")
    step = actor.parent
    with open_checkpoint(step) as checkpoint:
        assert checkpoint.names and any("read actor" in note for note in checkpoint.notes)
    shutil.copytree(actor, step / "critic")
    assert "actor, critic" in refused(step) and f"name one: {actor}" in refused(step)


def test_config_and_tokenizer_lie_in_verls_own_folder(copied):
    actor = copied("fsdp2_2/actor")
    (actor / "huggingface").mkdir()
    (actor / "huggingface" / "config.json").write_text('{"tie_word_embeddings": true}')
    with open_checkpoint(actor) as checkpoint:
        assert checkpoint.config == {"tie_word_embeddings": True}


@pytest.mark.parametrize("name", ["fsdp2_2/actor", "dcp_nested_2", "hf_2"])
def test_an_experiments_path_may_be_one(saved, tmp_path, name):
    fetch(str(saved / name), tmp_path / "linked")
    require_equal(tmp_path / "linked", load_file(saved / "whole.safetensors"))


def test_a_missing_process_is_named(copied):
    actor = copied("fsdp2_4/actor")
    gone = actor / "model_world_size_4_rank_2.pt"
    gone.unlink()
    assert str(gone) in refused(actor) and "missing" in refused(actor)
    for part, name in (("hf_4", "shard-00002-model-00001-of-00001.safetensors"),
                       ("dcp_threads_4", "__2_1.distcp")):  # fmt: skip
        folder = copied(part)
        (folder / name).unlink()
        assert name in refused(folder) and "missing" in refused(folder)


def test_slices_that_were_to_be_merged_are_found(saved, copied):
    folder = copied("hf_4")
    folder.rename(folder.parent / "sharded")
    (folder.parent / "config.json").write_text('{"vocab_size": 31}')
    require_equal(folder.parent, load_file(saved / "whole.safetensors"))


def test_the_last_processes_slices_are_missed_by_the_vocabulary(copied):
    folder = copied("hf_4")
    (folder / "config.json").write_text('{"vocab_size": 31}')
    with open_checkpoint(folder) as checkpoint:
        assert not checkpoint.notes
    (folder / "shard-00004-model-00001-of-00001.safetensors").unlink()
    assert "24 rows of 31" in refused(folder)
    for rank in (2, 3):
        (folder / f"shard-{rank:05d}-model-00001-of-00001.safetensors").unlink()
    (folder / "config.json").unlink()
    assert "slices of one process" in refused(folder)


def test_processes_of_different_trainings_are_refused(saved, copied):
    actor = copied("fsdp2_2/actor")
    shutil.copy(saved / "fsdp2_4/actor/model_world_size_4_rank_0.pt", actor)
    assert "trainings of 2 and 4 processes" in refused(actor)
    actor = copied("fsdp2_4/actor")
    shutil.copy(
        saved / "odd_4/model_world_size_4_rank_1.pt", actor / "model_world_size_4_rank_1.pt"
    )
    assert "not the same tensors" in refused(actor)
    # A process's file under another's number lies where it does not belong.
    actor = copied("hsdp_4/actor")
    shutil.copy(actor / "model_world_size_4_rank_0.pt", actor / "model_world_size_4_rank_1.pt")
    shutil.copy(actor / "model_world_size_4_rank_0.pt", actor / "model_world_size_4_rank_3.pt")
    assert "entries are there" in refused(actor)


def test_copies_that_differ_are_refused(copied):
    actor = copied("fsdp2_2/actor")
    path = actor / "model_world_size_2_rank_1.pt"
    state = torch.load(path, weights_only=False)
    state["layers.0.inv_freq"] += 1
    torch.save(state, path)
    said = refused(actor)
    assert "layers.0.inv_freq" in said and str(path) in said


@pytest.mark.parametrize(
    "name", ["fsdp2_2/actor/model_world_size_2_rank_0.pt", "dcp_threads_2/__0_0.distcp"]
)
def test_a_cut_file_is_named(copied, name):
    folder = copied(str(Path(name).parent))
    path = folder / Path(name).name
    os.truncate(path, path.stat().st_size - 100)
    assert str(path) in refused(folder) and "cut short" in refused(folder)


def test_one_process_alone_is_refused_with_its_folder(saved):
    for part in ("fsdp2_2/actor/model_world_size_2_rank_0.pt",
                 "hf_2/shard-00001-model-00001-of-00001.safetensors"):  # fmt: skip
        said = refused(saved / part)
        assert "one process" in said and str((saved / part).parent) in said


def test_lora_in_verls_files_is_refused_with_the_adapters_place(copied):
    actor = copied("fsdp2_2/actor")
    for path in actor.glob("model_*.pt"):
        state = torch.load(path, weights_only=False)
        state["base_model.model.layers.0.up_proj.lora_A.default.weight"] = torch.ones(2, 12)
        torch.save(state, path)
    assert "verl.model_merger" in refused(actor)
    (actor / "lora_adapter").mkdir()
    assert f"adapter:{actor / 'lora_adapter'}@BASE" in refused(actor)


def test_other_placements_are_refused_by_name(copied):
    from torch.distributed.tensor.placement_types import Partial

    actor = copied("odd_4")
    for path in actor.glob("model_*.pt"):
        state = torch.load(path, weights_only=False)
        state["replicated"]._spec.placements = (Partial(),)
        torch.save(state, path)
    assert "replicated" in refused(actor) and "Partial" in refused(actor)


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("hostile",)


def test_hostile_metadata_is_refused_and_not_run(copied, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = copied("dcp_nested_2")
    with (folder / ".metadata").open("rb") as file:
        metadata = pickle.load(file)
    metadata.planner_data = Hostile()
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    assert "posix.mkdir" in refused(folder)
    actor = copied("fsdp2_2/actor")
    torch.save({"w": Hostile()}, actor / "model_world_size_2_rank_1.pt")
    assert "posix.mkdir" in refused(actor)
    assert not (tmp_path / "hostile").exists()


def changed(folder, change):
    """Rewrite `.metadata` after a change."""
    with (folder / ".metadata").open("rb") as file:
        metadata = pickle.load(file)
    change(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    return refused(folder)


def test_metadata_that_is_not_true_is_refused(copied):
    def elsewhere(metadata):
        for info in metadata.storage_data.values():
            info.relative_path = "../" + info.relative_path

    def beyond(metadata):
        for info in metadata.storage_data.values():
            info.length += 1 << 40

    def less(metadata):
        metadata.state_dict_metadata["embed_tokens.weight"].chunks.pop()

    def twice(metadata):
        chunks = metadata.state_dict_metadata["embed_tokens.weight"].chunks
        chunks[1].offsets = torch.Size([1, 0])
        for index in list(metadata.storage_data):
            if index.fqn == "embed_tokens.weight" and index.offset[0]:
                metadata.storage_data[type(index)(index.fqn, [1, 0])] = metadata.storage_data[index]

    def packed(metadata):
        for info in metadata.storage_data.values():
            info.transform_descriptors = ["stream.zstd"]

    def nothing(metadata):
        metadata.storage_data = None

    expected = {elsewhere: "outside the folder", beyond: "cut short", less: "entries are there",
                twice: "overlap", packed: "compressed", nothing: "not metadata"}  # fmt: skip
    for number, (change, words) in enumerate(expected.items()):
        folder = copied("dcp_threads_2").rename(f"{copied('dcp_threads_4')}{number}")
        shutil.rmtree(folder.with_name("dcp_threads_4"))
        assert words in changed(folder, change)


def test_a_save_that_did_not_end_is_refused(copied):
    folder = copied("dcp_threads_2")
    (folder / ".metadata").unlink()
    assert "did not come to its end" in refused(folder)


def test_megatrons_own_layout_is_refused_with_its_tool(copied):
    folder = copied("dcp_threads_2")
    (folder / "metadata.json").write_text(json.dumps({"sharded_backend": "torch_dist"}))
    assert "--backend megatron" in refused(folder)

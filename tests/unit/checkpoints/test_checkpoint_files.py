"""Damaged, incomplete and misleading checkpoints: refused in one line, with nothing written."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba")

from calling import status
from checkpoints_made import bf16, llama, save, save_sharded, updated

from subnetworks import checkpoints
from subnetworks.checkpoints import storage
from subnetworks.core.errors import UserError


def header(path: Path, value: object, data: bytes = b"") -> None:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def entry(dtype: str = "BF16", shape: object = (2,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    save(file, llama(np.random.default_rng(0)))
    file.write_bytes(file.read_bytes()[:-10])


def cut_in_header(folder: Path) -> None:
    file = folder / "model.safetensors"
    save(file, llama(np.random.default_rng(0)))
    file.write_bytes(file.read_bytes()[:40])


def longer_than_said(folder: Path) -> None:
    file = folder / "model.safetensors"
    save(file, llama(np.random.default_rng(0)))
    file.write_bytes(file.read_bytes() + b"more")


def empty_file(folder: Path) -> None:
    (folder / "model.safetensors").touch()


def oversized_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")


def header_not_json(folder: Path) -> None:
    header(folder / "model.safetensors", b"{nonsense")


def header_a_list(folder: Path) -> None:
    header(folder / "model.safetensors", [1, 2])


def header_nested_too_deep(folder: Path) -> None:
    header(folder / "model.safetensors", b"[" * 100_000)


def offsets_beyond_the_file(folder: Path) -> None:
    header(folder / "model.safetensors", {"w": entry(shape=[4000], offsets=[0, 8000])}, b"abcd")


def offsets_overlap(folder: Path) -> None:
    both = {"v": entry(shape=[2], offsets=[0, 4]), "w": entry(shape=[2], offsets=[2, 6])}
    header(folder / "model.safetensors", both, b"abcdef")


def offsets_leave_a_gap(folder: Path) -> None:
    both = {"v": entry(shape=[2], offsets=[0, 4]), "w": entry(shape=[2], offsets=[6, 10])}
    header(folder / "model.safetensors", both, b"abcdefghij")


def negative_offsets(folder: Path) -> None:
    header(folder / "model.safetensors", {"w": entry(offsets=[-4, 0])}, b"abcd")


def size_and_shape_disagree(folder: Path) -> None:
    header(folder / "model.safetensors", {"w": entry(shape=[3], offsets=[0, 4])}, b"abcd")


def unknown_dtype(folder: Path) -> None:
    header(folder / "model.safetensors", {"w": entry(dtype="Q4")}, b"abcd")


def no_dtype(folder: Path) -> None:
    header(folder / "model.safetensors", {"w": {"shape": [2]}}, b"abcd")


def missing_shard(folder: Path) -> None:
    tensors = llama(np.random.default_rng(0))
    names = list(tensors)
    save_sharded(folder, tensors, [names[:5], names[5:]])
    (folder / "model-00002-of-00002.safetensors").unlink()


def index_names_an_absent_tensor(folder: Path) -> None:
    save_sharded(folder, {"w": bf16(np.ones(3))}, [["w"]])
    index = folder / "model.safetensors.index.json"
    value = json.loads(index.read_text())
    value["weight_map"]["v"] = "model-00001-of-00001.safetensors"
    index.write_text(json.dumps(value))


def index_points_outside(folder: Path) -> None:
    save(folder.parent / "outside.safetensors", {"w": bf16(np.ones(3))})
    index = {"weight_map": {"w": "../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def index_points_to_the_root(folder: Path) -> None:
    save(folder.parent / "outside.safetensors", {"w": bf16(np.ones(3))})
    index = {"weight_map": {"w": str(folder.parent / "outside.safetensors")}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def index_not_json(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("{")


def index_without_a_map(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": [1]}')


def index_of_nothing(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {}}')


def a_shard_missing_without_an_index(folder: Path) -> None:
    tensors = llama(np.random.default_rng(0))
    names = list(tensors)
    save_sharded(folder, tensors, [names[:5], names[5:9], names[9:]], index=False)
    (folder / "model-00002-of-00003.safetensors").unlink()


def a_model_beside_shards_with_an_index(folder: Path) -> None:
    tensors = llama(np.random.default_rng(0))
    names = list(tensors)
    save_sharded(folder, tensors, [names[:5], names[5:]])
    save(folder / "model.safetensors", tensors)


def an_adapter_beside_the_model(folder: Path) -> None:
    save(folder / "model.safetensors", llama(np.random.default_rng(0)))
    an_adapter(folder)
    (folder / "adapter_config.json").write_text("{}")


def a_pointer_of_lfs(folder: Path) -> None:
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'ab' * 32}\nsize 12345678\n"
    (folder / "model.safetensors").write_text(text)


def a_pointer_of_lfs_for_torch(folder: Path) -> None:
    a_pointer_of_lfs(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def a_web_page(folder: Path) -> None:
    (folder / "model.safetensors").write_text("\n<!doctype html><html><body>no</body></html>")


def an_error_in_json(folder: Path) -> None:
    (folder / "model.safetensors").write_text('{"error": "Repository not found"}')


def a_broken_link(folder: Path) -> None:
    (folder / "model.safetensors").symlink_to("../../blobs/gone")


def gguf(folder: Path) -> None:
    (folder / "m-Q4.gguf").write_bytes(b"GGUF" + bytes(60))


def shards_of_zero(folder: Path) -> None:
    (folder / "zero_to_fp32.py").write_text("#")
    (folder / "global_step1").mkdir()
    (folder / "global_step1" / "zero_pp_rank_0_mp_rank_00_model_states.pt").write_bytes(b"PK")


def several_indices(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / f"{name}.safetensors.index.json").write_text('{"weight_map": {}}')


def the_same_tensor_twice(folder: Path) -> None:
    for name in ("a", "b"):
        save(folder / f"{name}.safetensors", {"w": bf16(np.ones(3))})


def empty_folder(folder: Path) -> None:
    pass


def a_pickle(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def an_adapter(folder: Path) -> None:
    save(folder / "adapter_model.safetensors", {"w.lora_A": bf16(np.ones(3))})


def config_not_json(folder: Path) -> None:
    save(folder / "model.safetensors", llama(np.random.default_rng(0)))
    (folder / "config.json").write_text("{")


def nothing_in_common(folder: Path) -> None:
    save(folder / "model.safetensors", {"other": bf16(np.ones(3))})


BAD: list[Callable[[Path], None]] = [
    truncated, cut_in_header, longer_than_said, empty_file, oversized_header, header_not_json,
    header_a_list, header_nested_too_deep, offsets_beyond_the_file, offsets_overlap,
    offsets_leave_a_gap, negative_offsets, size_and_shape_disagree, unknown_dtype, no_dtype,
    missing_shard, index_names_an_absent_tensor, index_points_outside, index_points_to_the_root,
    index_not_json, index_without_a_map, several_indices, the_same_tensor_twice, empty_folder,
    a_pickle, an_adapter, config_not_json, nothing_in_common,
    index_of_nothing, a_shard_missing_without_an_index, a_model_beside_shards_with_an_index,
    an_adapter_beside_the_model, a_pointer_of_lfs, a_pointer_of_lfs_for_torch, a_web_page,
    an_error_in_json, a_broken_link, gguf, shards_of_zero,
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.__name__)
@pytest.mark.parametrize("side", ["before", "after"])
def test_bad_input_is_one_line_and_leaves_nothing(
    bad: Callable[[Path], None],
    side: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good, broken, out = tmp_path / "good", tmp_path / "broken", tmp_path / "out"
    for folder in (good, broken, out):
        folder.mkdir()
    save(good / "model.safetensors", llama(np.random.default_rng(0)))
    bad(broken)
    pair = (broken, good) if side == "before" else (good, broken)
    outputs = [
        "--json",
        out / "u.json",
        "--table",
        out / "u.parquet",
        "--mask",
        out / "m.safetensors",
    ]
    assert status("measure", *pair, *outputs) == 2
    error = capsys.readouterr().err
    assert error.startswith("subnetworks: error: ")
    assert error.count("\n") == 1
    assert str(broken) in error
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (a_shard_missing_without_an_index, "model-00002-of-00003.safetensors: missing"),
        (a_model_beside_shards_with_an_index, "or name one: "),
        (an_adapter_beside_the_model, "merge it, or move it, or name the model"),
        (an_adapter, "an adapter, not a whole model"),
        (a_pointer_of_lfs, "git lfs pull"),
        (a_pointer_of_lfs_for_torch, "git lfs pull"),
        (a_web_page, "a web page, not weights"),
        (an_error_in_json, "text in JSON, not weights"),
        (empty_file, "empty: fetch it again"),
        (a_broken_link, "a link to ../../blobs/gone, which is not there"),
        (gguf, "a GGUF file"),
        (shards_of_zero, "python zero_to_fp32.py"),
        (index_of_nothing, "names no tensors"),
    ],
)
def test_the_remedy_is_named(bad: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    bad(folder)
    with pytest.raises(UserError) as error:
        checkpoints.open(folder)
    assert words in str(error.value)
    files = [p for p in folder.iterdir() if p.suffix in (".safetensors", ".gguf", ".bin")]
    if len(files) == 1:
        with pytest.raises(UserError):
            checkpoints.open(files[0])


def test_one_file_of_several_can_be_named(tmp_path: Path) -> None:
    a_model_beside_shards_with_an_index(tmp_path)
    every = set(llama(np.random.default_rng(0)))
    for name in ("model.safetensors", "model.safetensors.index.json"):
        with checkpoints.open(tmp_path / name) as checkpoint:
            assert set(checkpoint.names) == every
    (tmp_path / "model.safetensors").unlink()
    save(tmp_path / "consolidated.safetensors", {"w": bf16(np.ones(3))})
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with checkpoints.open(tmp_path) as checkpoint:
        assert set(checkpoint.names) == every
        assert len(checkpoint.notes) == 1
        assert "consolidated.safetensors, pytorch_model.bin beside it" in checkpoint.notes[0]


def test_a_tensor_of_an_unknown_dtype_is_left_out_alone(tmp_path: Path) -> None:
    from subnetworks.measuring import updates

    for name in ("a", "b"):
        tensors = {"v": entry(dtype="F4"), "w": entry(offsets=[4, 8])}
        header(tmp_path / f"{name}.safetensors", tensors, b"1234abcd")
    pair = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    with pytest.raises(UserError, match=r"50.00%.*'v' and 1 more, of a dtype that is not known"):
        updates.measure(*pair)
    found = updates.measure(*pair, allow_partial=True)
    assert [counted.pair.name for counted in found.tensors] == ["w"]
    assert found.compared_share == 0.5
    assert ("v", "of a dtype that is not known ('F4') (before)") in [
        (excluded.name, excluded.reason) for excluded in found.excluded
    ]


def test_names_of_the_hub_and_odd_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("Qwen/Qwen2.5-0.5B", "owner/name@main"):
        with pytest.raises(UserError, match=rf"of the Hub is named hub:{name}$"):
            checkpoints.open(name)
    with pytest.raises(UserError, match=r"no such file or folder$"):
        checkpoints.open("/absent/name")
    rng = np.random.default_rng(0)
    before = llama(rng)
    base, tuned = Path("a@b:c/base@1"), Path("a@b:c/x@y.safetensors")
    save(base / "model.safetensors", before)
    save(tuned, updated(before, rng))
    delta = Path("a@b:c/d@e:f.safetensors")
    assert status("delta", base, tuned, "--output", delta) == 0
    for source in (f"{delta}", f"delta:{delta}", f"delta:{delta}@{base}"):
        with checkpoints.open(source) as found, checkpoints.open(tuned) as wanted:
            assert {n: t.raw().tobytes() for n, t in found.tensors.items()} == {
                n: t.raw().tobytes() for n, t in wanted.tensors.items()
            }


def test_paths_that_are_no_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"\x80")
    (tmp_path / "notes.txt").write_text("hello")
    for name, message in (("weights.pt", "pickle"), ("notes.txt", "not a"), ("absent", "no such")):
        with pytest.raises(UserError, match=message):
            checkpoints.open(tmp_path / name)


def test_a_file_cut_while_it_is_measured_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    before = llama(rng)
    for name, tensors in (("a", before), ("b", updated(before, rng))):
        (tmp_path / name).mkdir()
        save(tmp_path / name / "model.safetensors", tensors)
    checkpoint = checkpoints.open(tmp_path / "b")
    file = tmp_path / "b" / "model.safetensors"
    monkeypatch.setattr(
        "subnetworks.checkpoints.open",
        lambda path: checkpoint if str(path).endswith("b") else original(path),
    )
    original = checkpoints.reading.open
    with open(file, "rb+") as handle:
        handle.truncate(file.stat().st_size // 2)
    out = tmp_path / "out"
    out.mkdir()
    assert status("measure", tmp_path / "a", tmp_path / "b", "--mask", out / "m.safetensors") == 2
    assert list(out.iterdir()) == []


def test_tensors_read_in_pieces_are_the_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        "w": bf16(rng.random((30, 7))),
        "x": ("F32", rng.integers(0, 1 << 32, 11, dtype=np.uint32)),
    }
    save(tmp_path / "m.safetensors", tensors)
    with checkpoints.open(tmp_path / "m.safetensors") as checkpoint:
        assert checkpoint.names == ["w", "x"]
        for name, (dtype, bits) in tensors.items():
            tensor = checkpoint[name]
            assert (tensor.dtype, tensor.shape, tensor.n) == (dtype, bits.shape, bits.size)
            assert np.array_equal(tensor.raw(), bits.ravel())
            assert np.array_equal(tensor.raw(3, 9), bits.ravel()[3:9])
        assert np.array_equal(checkpoint["w"].rows(4, 9).raw(), tensors["w"][1][4:9].ravel())


def test_files_are_read_where_there_is_no_preadv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "model.safetensors", llama(np.random.default_rng(3)))
    monkeypatch.setattr(storage, "_MOST", 1000)
    found = []
    for _ in range(2):
        with checkpoints.open(tmp_path) as checkpoint:
            found.append({name: t.raw().tolist() for name, t in checkpoint.tensors.items()})
        monkeypatch.delattr(os, "preadv", raising=False)
    assert found[0] == found[1]


def test_manifest_lists_every_file(tmp_path: Path) -> None:
    import hashlib

    (tmp_path / "sub").mkdir()
    for name in ("a.txt", "sub/b.txt", ".hidden", "manifest.json", "manifest.json.meta.json"):
        (tmp_path / name).write_text(name)
    path = checkpoints.write_manifest(tmp_path, name="mine", kind="run", step=3)
    value = json.loads(path.read_text())
    assert (value["name"], value["kind"], value["step"]) == ("mine", "run", 3)
    assert value["files"] == {
        name: {"sha256": hashlib.sha256(name.encode()).hexdigest(), "size": len(name)}
        for name in ("a.txt", "sub/b.txt")
    }


def test_a_folder_of_ones_own_is_linked_not_copied(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    save(mine / "model.safetensors", {"w": bf16(np.ones(3))})
    for name in ("config.json", "tokenizer.json", "pytorch_model.bin", "optimizer.pt"):
        (mine / name).write_text("{}")
    manifest = checkpoints.fetch(str(mine), tmp_path / "linked")
    linked = json.loads(manifest.read_text())
    assert (linked["kind"], linked["name"]) == ("path", "linked")
    assert set(linked["files"]) == {"model.safetensors", "config.json", "tokenizer.json"}
    assert (tmp_path / "linked" / "model.safetensors").is_symlink()
    with checkpoints.open(tmp_path / "linked") as checkpoint:
        assert checkpoint.names == ["w"]


def test_only_what_holds_weights_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "pytorch_model.bin").write_text("")
    with pytest.raises(UserError, match=r"pytorch_model\.bin: empty: fetch it again"):
        checkpoints.fetch(str(tmp_path / "mine"), tmp_path / "out")
    (tmp_path / "mine" / "pytorch_model.bin").rename(tmp_path / "mine" / "training_args.bin")
    with pytest.raises(UserError, match=r"no \.safetensors files in it, nor a model of torch"):
        checkpoints.fetch(str(tmp_path / "mine"), tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()
    with pytest.raises(UserError, match="no such folder"):
        checkpoints.fetch(str(tmp_path / "absent"), tmp_path / "out")

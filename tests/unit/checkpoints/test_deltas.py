"""Deltas against plain numpy: lossless in every encoding, read in any piece, refused if wrong."""

import json
import struct

import numpy as np
import pytest

pytest.importorskip("numba")

import torch
from calling import run
from checkpoints_made import bf16, llama, save, save_sharded, updated
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from subnetworks import checkpoints
from subnetworks.checkpoints import deltas
from subnetworks.checkpoints.identity import digest
from subnetworks.checkpoints.storage import Tensor
from subnetworks.core.errors import UserError
from subnetworks.measuring import updates

N = 3 * deltas.BLOCK + 12_345


def write(tmp_path, before, after, name="delta.safetensors"):
    """`after` as a delta on `before`, both as files; gives the delta's path."""
    save(tmp_path / "base" / "model.safetensors", before)
    save(tmp_path / "after" / "model.safetensors", after)
    with (
        checkpoints.open(tmp_path / "base") as first,
        checkpoints.open(tmp_path / "after") as second,
    ):
        deltas.write(tmp_path / name, first, second.tensors, base=digest(first))
    return tmp_path / name


def encodings(path):
    return {name: e for name, (_, _, e) in json.loads(deltas.metadata(path)["tensors"]).items()}


def changed(bits, where):
    after = bits.copy()
    after[where] ^= 0x1234
    return after


PLACES = {
    "none": np.array([], int),
    "first": np.array([0]),
    "last": np.array([N - 1]),
    "one far": np.array([deltas.BLOCK + 1000]),
    "at the blocks' edges": np.array([0, 65535, 65536, 131071, 131072, N - 1]),
    "gaps of 254, 255, 256, 510": np.cumsum([254 + 1, 255 + 1, 256 + 1, 510 + 1, 1, 1]),
    "a share of 1e-4": np.flatnonzero(np.random.default_rng(1).random(N) < 1e-4),
    "a share of 0.03": np.flatnonzero(np.random.default_rng(2).random(N) < 0.03),
    "a share of 0.4": np.flatnonzero(np.random.default_rng(3).random(N) < 0.4),
    "all": np.arange(N),
    "only the second block": np.arange(deltas.BLOCK, 2 * deltas.BLOCK, 7),
}
ENCODING = {
    "none": "same",
    "a share of 1e-4": "offsets",
    "a share of 0.03": "gaps",
    "a share of 0.4": "bitmap",
    "all": "bitmap",
}


@pytest.mark.parametrize("places", PLACES)
def test_any_change_comes_back_whole_and_in_pieces(tmp_path, places):
    bits = np.random.default_rng(0).integers(0, 1 << 16, N).astype(np.uint16)
    after = changed(bits, PLACES[places])
    path = write(tmp_path, {"w": ("BF16", bits)}, {"w": ("BF16", after)})
    assert encodings(path)["w"] == ENCODING.get(places, encodings(path)["w"])
    with checkpoints.open(path) as opened:
        tensor = opened["w"]
        assert (tensor.dtype, tensor.shape) == ("BF16", (N,))
        assert np.array_equal(tensor.raw(), after)
        for start, stop in [(0, 1), (65535, 65537), (65000, 140000), (N - 1, N), (131072, N)]:
            assert np.array_equal(tensor.raw(start, stop), after[start:stop])


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_gap_codes_are_decoded_as_they_were_encoded(data):
    n = 2 * deltas.BLOCK
    positions = np.array(sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1, max_size=40))))
    before, after = np.zeros(n, np.uint16), np.zeros(n, np.uint16)
    after[positions] = 7

    def tensor(bits):
        def read(buffer, offset):
            out = np.frombuffer(buffer, np.uint16)
            out[:] = bits[offset // 2 : offset // 2 + out.size]

        return Tensor("w", "BF16", (n,), read, "here")

    plan = deltas._plan(tensor(before), tensor(after))
    gaps = deltas._Plan(plan.before, plan.after, "gaps", plan.changed, plan.starts)
    codes = gaps._encode(positions, 0)
    starts = np.array([0, *np.cumsum(np.bincount(positions // deltas.BLOCK, minlength=2))])
    found, begin = [], 0
    for block in range(2):
        # As the format's description says, one byte after the other.
        here = starts[block + 1] - starts[block]
        place, emitted = block * deltas.BLOCK, 0
        while emitted < here:
            place += int(codes[begin])
            if codes[begin] != 255:
                found.append(place)
                place, emitted = place + 1, emitted + 1
            begin += 1
    assert found == positions.tolist()
    assert begin == codes.size


def test_other_dtypes_shapes_and_names_are_stored_whole(tmp_path):
    rng = np.random.default_rng(0)
    before = {"a": bf16(rng.random((4, 5))), "b": bf16(rng.random(3)), "gone": bf16(rng.random(2))}
    after = {
        "a": ("F32", rng.random((4, 5)).astype(np.float32).view(np.uint32)),
        "b": bf16(rng.random((3, 1))),
        "new": ("I64", np.arange(6, dtype=np.uint64)),
        "empty": bf16(np.zeros((0, 3))),
        "scalar": ("F64", rng.random(()).view(np.uint64)),
    }
    path = write(tmp_path, before, after)
    assert set(encodings(path).values()) == {"whole"}
    with checkpoints.open(path) as opened:
        assert opened.names == list(after)
        for name, (dtype, bits) in after.items():
            assert (opened[name].dtype, opened[name].shape) == (dtype, bits.shape)
            assert np.array_equal(opened[name].raw(), bits.reshape(-1))


@pytest.mark.parametrize("dtype", ["F32", "F16", "F8_E4M3"])
def test_entries_of_any_width(tmp_path, dtype):
    width = {"F32": 4, "F16": 2, "F8_E4M3": 1}[dtype]
    bits = np.random.default_rng(0).integers(0, 1 << 8 * width, (70, 1001)).astype(f"u{width}")
    after = bits.copy()
    after[::3, 5] ^= 1
    path = write(tmp_path, {"w": (dtype, bits)}, {"w": (dtype, after)})
    with checkpoints.open(path) as opened:
        assert np.array_equal(opened["w"].raw(), after.reshape(-1))


def test_a_delta_is_measured_like_the_checkpoint_it_stands_for(tmp_path):
    rng = np.random.default_rng(0)
    before = llama(rng)
    path = write(tmp_path, before, updated(before, rng))
    whole = updates.measure(tmp_path / "base", tmp_path / "after")
    sparse = updates.measure(tmp_path / "base", path)
    assert sparse.digests == whole.digests
    first, second = updates.summarise(whole), updates.summarise(sparse)
    assert first | {"after": ""} == second | {"after": ""}


def test_a_delta_of_a_delta(tmp_path):
    rng = np.random.default_rng(0)
    one = llama(rng)
    two, three = updated(one, rng), updated(one, rng)
    first = write(tmp_path, one, two)
    save(tmp_path / "third.safetensors", three)
    with checkpoints.open(first) as base, checkpoints.open(tmp_path / "third.safetensors") as last:
        deltas.write(tmp_path / "second.safetensors", base, last.tensors, base=digest(base))
    with checkpoints.open(tmp_path / "second.safetensors") as opened:
        for name, (_, bits) in three.items():
            assert np.array_equal(opened[name].raw(), bits.reshape(-1))


def test_the_base_is_found_where_it_lay_or_where_one_says(tmp_path):
    rng = np.random.default_rng(0)
    before = llama(rng)
    after = updated(before, rng)
    folder = tmp_path / "some"
    write(folder, before, after)
    folder.rename(tmp_path / "moved")
    with checkpoints.open(tmp_path / "moved" / "delta.safetensors") as opened:
        assert opened.names == list(after)
    (tmp_path / "moved" / "base").rename(tmp_path / "elsewhere")
    path = tmp_path / "moved" / "delta.safetensors"
    with pytest.raises(UserError, match="is not there; name it: delta:"):
        checkpoints.open(path)
    with checkpoints.open(f"delta:{path}@{tmp_path / 'elsewhere'}") as opened:
        assert np.array_equal(opened["lm_head.weight"].raw(), after["lm_head.weight"][1].ravel())


def test_a_wrong_base_is_refused_with_both_digests(tmp_path):
    rng = np.random.default_rng(0)
    before = llama(rng)
    path = write(tmp_path, before, updated(before, rng))
    wanted = deltas.metadata(path)["base"]
    name, (dtype, bits) = next(iter(before.items()))
    save(tmp_path / "base" / "model.safetensors", {**before, name: (dtype, bits ^ 1)})
    with checkpoints.open(tmp_path / "base") as other:
        found = digest(other)
    assert wanted != found
    with pytest.raises(UserError) as caught:
        checkpoints.open(path)
    assert wanted in str(caught.value)
    assert found in str(caught.value)
    assert f"delta:{path}@BASE" in str(caught.value)


@pytest.mark.parametrize("where", ["values", "header", "cut"])
def test_a_damaged_file_is_refused(tmp_path, where):
    rng = np.random.default_rng(0)
    before = llama(rng)
    path = write(tmp_path, before, updated(before, rng))
    raw = bytearray(path.read_bytes())
    (size,) = struct.unpack("<Q", raw[:8])
    if where == "values":
        raw[-100] ^= 1
    elif where == "header":
        # Another encoding of the same size, still valid JSON.
        place = raw.index(b"bitmap")
        raw[place : place + 6] = b"bitmaq"
    else:
        raw = raw[:-1]
    assert 8 + size < len(raw)
    path.write_bytes(raw)
    with pytest.raises(UserError, match=r"damaged|cut short"):
        checkpoints.open(path)


def test_a_folder_of_deltas_is_no_checkpoint(tmp_path):
    rng = np.random.default_rng(0)
    before = llama(rng)
    path = write(tmp_path, before, updated(before, rng))
    (tmp_path / "folder").mkdir()
    path.rename(tmp_path / "folder" / "step_000001.safetensors")
    with pytest.raises(UserError, match="a delta, not a part of a checkpoint"):
        checkpoints.open(tmp_path / "folder")


def test_digest_is_the_one_that_measuring_gives(tmp_path):
    rng = np.random.default_rng(0)
    before = llama(rng)
    save(tmp_path / "a.safetensors", before)
    save(tmp_path / "b.safetensors", updated(before, rng))
    measured = updates.measure(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    with checkpoints.open(tmp_path / "b.safetensors") as opened:
        assert digest(opened) == measured.digests["after"]


@pytest.mark.parametrize("files", [1, 3])
def test_applying_gives_the_checkpoint_back(tmp_path, files):
    rng = np.random.default_rng(0)
    before = llama(rng)
    after = updated(before, rng)
    names = list(before)
    cuts = [names] if files == 1 else [names[0::3], names[1::3], names[2::3]]
    save_sharded(tmp_path / "base", before, cuts)
    (tmp_path / "base" / "config.json").write_text('{"tie_word_embeddings": false}')
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    save(tmp_path / "after.safetensors", after)
    delta = tmp_path / "d.safetensors"
    line = run("delta", tmp_path / "base", tmp_path / "after.safetensors", "--output", delta)
    assert "of a whole copy" in line
    output = tmp_path / "whole"
    run("apply", tmp_path / "base", delta, "--output", output)
    measured = updates.measure(tmp_path / "after.safetensors", output)
    assert len(set(measured.digests.values())) == 1
    assert (output / "tokenizer.json").exists()
    manifest = json.loads((output / "manifest.json").read_text())
    assert sum(name.endswith(".safetensors") for name in manifest["files"]) == files
    # As others read it.
    index = output / "model.safetensors.index.json"
    assert index.exists() == (files > 1)
    for file in output.glob("*.safetensors"):
        found = load_file(file)
        for name, value in found.items():
            assert np.array_equal(value.view(torch.int16).numpy().view(np.uint16), after[name][1])


def test_a_delta_under_a_name_that_no_reader_takes_is_refused(tmp_path):
    save(tmp_path / "a.safetensors", llama(np.random.default_rng(0)))
    both = [str(tmp_path / "a.safetensors")] * 2
    with pytest.raises(UserError):
        run("delta", *both, "--output", tmp_path / "d.bin")
    assert list(tmp_path.iterdir()) == [tmp_path / "a.safetensors"]


def test_a_delta_of_little_in_common_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    base = llama(rng)
    after = {f"model.language_{name}": t for name, t in updated(base, rng).items()}
    save(tmp_path / "base.safetensors", base)
    save(tmp_path / "after.safetensors", after)
    both = ["delta", str(tmp_path / "base.safetensors"), str(tmp_path / "after.safetensors")]
    output = tmp_path / "d.safetensors"
    with pytest.raises(UserError, match=r"only 0\.00% of the entries"):
        run(*both, "--output", output)
    assert not output.exists()
    assert "compared share 0.00%" in run(*both, "--output", output, "--allow-partial")
    assert json.loads((tmp_path / "d.safetensors.meta.json").read_text())["compared_share"] == 0

"""What has changed since it was written is refused, wherever it is read, by name and remedy."""

import os

import numpy as np
import pytest

pytest.importorskip("numba")
pytest.importorskip("scipy")

from checkpoints_made import llama, save, save_sharded, updated

from subnetworks import checkpoints
from subnetworks.checkpoints import identity, manifest
from subnetworks.core.errors import UserError
from subnetworks.measuring import masks, overlaps, selections, spectra, updates
from subnetworks.measuring.mask_making import Request
from subnetworks.measuring.mask_sources import complement, magnitude, random, union


def flip(path, at=-3):
    """One bit, in place, without a trace in size or time."""
    content, stat = bytearray(path.read_bytes()), path.stat()
    content[at] ^= 0x10
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.fixture(params=[True, False], ids=["content", "files"])
def pair(request, tmp_path):
    """Two checkpoints with manifests: with a digest of their tensors, and with files' alone."""
    rng = np.random.default_rng(0)
    before = llama(rng)
    names = list(before)
    save(tmp_path / "before" / "model.safetensors", before)
    cuts = [names[:5], names[5:]]
    save_sharded(tmp_path / "after", updated(before, rng), cuts)
    for name in ("before", "after"):
        facts = {"content": identity.of_folder(tmp_path / name)} if request.param else {}
        checkpoints.write_manifest(tmp_path / name, name=name, kind="run", **facts)
    manifest._verified.clear()
    return tmp_path / "before", tmp_path / "after"


READERS = {
    "measure": lambda before, after, out: updates.measure(before, after, mask=out),
    "rank": lambda before, after, out: spectra.ranks(before, after),
    "magnitude": lambda before, after, out: magnitude.magnitude(
        after, out, selections.Share(density=0.5)
    ),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_flipped_bit_is_refused_and_the_shard_named(pair, tmp_path, reader):
    before, after = pair
    out = tmp_path / "out.safetensors"
    READERS[reader](before, after, out)
    out.unlink(missing_ok=True)
    shard = after / "model-00002-of-00002.safetensors"
    flip(shard)
    manifest._verified.clear()  # as in another process
    identity._known.clear()
    with pytest.raises(UserError, match=rf"{shard.name}: its content is not .*remove its folder"):
        READERS[reader](before, after, out)
    assert not out.exists()


def test_the_weights_that_chance_is_matched_by_are_checked(pair, tmp_path):
    before, after = pair
    mask = tmp_path / "mask.safetensors"
    updates.measure(before, after, mask=mask)
    overlaps.compare([mask, mask], magnitude=before)
    flip(before / "model.safetensors")
    manifest._verified.clear()
    identity._known.clear()
    with pytest.raises(UserError, match=r"model.safetensors: its content"):
        overlaps.compare([mask, mask], magnitude=before)


def test_a_shard_cut_short_or_missing_is_named_at_once(pair):
    shard = pair[1] / "model-00001-of-00002.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=f"{shard.name}: {len(whole) - 1} bytes, in manifest.json"):
        checkpoints.open(pair[1])
    shard.unlink()
    with pytest.raises(UserError, match=f"{shard.name}: missing, though manifest.json lists it"):
        checkpoints.open(pair[1])


def test_a_manifest_of_others_says_nothing_a_damaged_one_is_refused(tmp_path):
    save(tmp_path / "model.safetensors", llama(np.random.default_rng(0)))
    for text in ('{"files": ["model.safetensors"]}', '{"kind": "app", "files": {"x": 1}}', "[]"):
        (tmp_path / "manifest.json").write_text(text)
        assert checkpoints.open(tmp_path).content is None
    (tmp_path / "manifest.json").write_text('{"name": "x", "kind": "run", "fil')
    with pytest.raises(UserError, match=r"manifest.json: damaged"):
        checkpoints.open(tmp_path)


@pytest.mark.parametrize(
    "read",
    [
        lambda mask, out: complement.make(Request([mask.path], out)),
        lambda mask, out: union.make(Request([mask.path, mask.path], out)),
        lambda mask, out: random.make(Request([mask.path], out)),
        lambda mask, out: overlaps.compare([mask.path, mask.path]),
        lambda mask, out: overlaps.compare([mask.path] * 3),
    ],
    ids=["complement", "union", "random", "overlap", "consensus"],
)
def test_a_mask_with_a_flipped_bit_is_refused(tmp_path, read):
    path, out = tmp_path / "mask.safetensors", tmp_path / "out.safetensors"
    rng = np.random.default_rng(0)
    masks.write(path, {"a": rng.random((40, 41)) < 0.3, "b": rng.random(9) < 0.3}, rule="equal")
    read(masks.Mask.open(path), out)
    out.unlink(missing_ok=True)
    flip(path, -40)
    with pytest.raises(UserError, match=r"mask.safetensors: \d+ entries are set, its header says"):
        read(masks.Mask.open(path), out)
    assert not out.exists()

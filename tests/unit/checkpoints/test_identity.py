"""The digest of a checkpoint's content, by which masks, deltas and manifests know it again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")
pytest.importorskip("scipy")

from checkpoints_made import WIDTH, Stored, save

from subnetworks import checkpoints
from subnetworks.checkpoints import Checkpoint, Tensor, identity
from subnetworks.core.errors import UserError
from subnetworks.measuring.updates import measure


def noise(dtype: str, shape: tuple[int, ...], seed: int) -> Stored:
    """Bits that depend on nothing but these (multiples of a prime, mixed)."""
    n = int(np.prod(shape, dtype=np.int64))
    mixed = (np.arange(n, dtype=np.uint64) + np.uint64(seed)) * np.uint64(0x9E3779B97F4A7C15)
    wide = (mixed ^ (mixed >> np.uint64(29))) >> np.uint64(64 - 8 * WIDTH[dtype])
    return dtype, wide.astype(f"u{WIDTH[dtype]}").reshape(shape)


MIXED = {
    "none": noise("F32", (0, 4), 0),
    "one": noise("F32", (), 1),
    "bytes": noise("U8", (131_075,), 2),  # a chunk and three bytes
    "halves": noise("F16", (2049, 2100), 3),  # more than a thread takes at a time
    "weights": noise("BF16", (2100, 2049), 4),
    "codes": noise("F8_E4M3", (257, 1021), 5),
    "floats": noise("F32", (3, 70_001), 6),
    "doubles": noise("F64", (11, 13), 7),
    "numbers": noise("I64", (5, 7), 8),
}
# Computed when the digest was part of measuring.
RECORDED = {
    "mixed": "nh64-1:156cdeb2d4a6f470009074f544c58365",
    "weights": "nh64-1:0c4bfb0578b9a26351e8c2fefb8eed36",
    "nothing": "nh64-1:6f740873aaa634f6d168b4deb661f14e",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "mixed" / "model.safetensors", MIXED)
    save(tmp_path / "weights" / "model.safetensors", {"weights": MIXED["weights"]})
    save(tmp_path / "nothing" / "model.safetensors", {"none": MIXED["none"]})
    return tmp_path


@pytest.mark.parametrize("name", RECORDED)
def test_digests_are_those_recorded_before(folder: Path, name: str) -> None:
    assert identity.of_folder(folder / name) == RECORDED[name]


@pytest.mark.parametrize("name", ["mixed", "weights"])
def test_measuring_and_numpy_give_the_same(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for threads in (1, 3):
        found = measure(folder / name, folder / "weights", threads=threads, allow_partial=True)
        assert found.digests == {"before": RECORDED[name], "after": RECORDED["weights"]}
    monkeypatch.setattr(identity.kernels, "_functions", lambda: None)
    identity._known.clear()
    assert identity.of_folder(folder / name) == RECORDED[name]


@pytest.mark.parametrize("change", ["bit", "name", "shape", "dtype", "order of entries"])
def test_every_change_gives_another_digest(tmp_path: Path, change: str) -> None:
    dtype, bits = noise("F16", (3, 50_000), 9)
    name, other = "w", bits.copy()
    match change:
        case "bit":
            other[-1, -1] ^= 1
        case "name":
            name = "v"
        case "shape":
            other = other.reshape(50_000, 3)
        case "dtype":
            dtype = "BF16"
        case _:
            other[:, [0, 1]] = other[:, [1, 0]]
    save(tmp_path / "a" / "model.safetensors", {"w": ("F16", bits)})
    save(tmp_path / "b" / "model.safetensors", {name: (dtype, other)})
    assert identity.of_folder(tmp_path / "a") != identity.of_folder(tmp_path / "b")


def test_each_byte_is_read_once_in_small_pieces() -> None:
    n, read = 2 * identity.TASK + 5, []

    def reader(buffer: Any, offset: int) -> None:
        read.append((offset, len(buffer)))

    checkpoint = Checkpoint("made", {"w": Tensor("w", "F32", (n,), reader, "made")})
    identity.digest(checkpoint)
    position = 0
    for offset, size in sorted(read):
        assert offset == position and size <= 8 * identity.CHUNK
        position += size
    assert position == 4 * n


def test_a_digest_other_than_the_manifests_is_refused(folder: Path) -> None:
    content = f"{identity.NAME}:{'0' * 32}"
    checkpoints.write_manifest(folder / "weights", name="x", kind="run", content=content)
    with checkpoints.open(folder / "weights") as opened:
        for _ in range(2):
            with pytest.raises(UserError, match=rf"digest {RECORDED['weights']}, by its manifest"):
                identity.verify(opened)

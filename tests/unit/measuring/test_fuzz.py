"""Damaged files: whatever a reader is given, it refuses with one line, or reads what is there.

FUZZ_EXAMPLES=20000 tries that many files a reader and test, not 400.
"""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("numba")
hypothesis = pytest.importorskip("hypothesis")

from checkpoints_made import llama, save, updated  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from subnetworks import checkpoints  # noqa: E402
from subnetworks.checkpoints import deltas, identity, storage  # noqa: E402
from subnetworks.core.errors import UserError  # noqa: E402
from subnetworks.measuring import masks  # noqa: E402
from subnetworks.measuring.updates import measure  # noqa: E402

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "400"))
NUMBERS = st.sampled_from([0, 1, -1, 2, 7, 255, 2**31, 2**32, 2**63 - 1, 2**64, 10**30])
VALUES = st.one_of(
    NUMBERS,
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none(),
    st.sampled_from(["", "BF16", "U8", "F64", "I64", "../../etc", "x" * 300, "[]", "{}", "[[0]]"]),
    st.lists(NUMBERS, max_size=4),
    st.dictionaries(st.text(max_size=4), NUMBERS, max_size=2),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A sound file of each kind, and the base."""
    folder = tmp_path_factory.mktemp("whole")
    rng = np.random.default_rng(3)
    before = llama(rng, layers=1, hidden=8, vocabulary=20)
    after = updated(before, rng)
    save(folder / "base" / "model.safetensors", before)
    save(folder / "tuned.safetensors", after)
    base = folder / "base"
    measure(base, folder / "tuned.safetensors", mask=folder / "mask.safetensors")
    with checkpoints.open(base) as first, checkpoints.open(folder / "tuned.safetensors") as second:
        digest = identity.digest(first)
        deltas.write(folder / "delta.safetensors", first, second.tensors, base=digest)
    names = ("tuned", "mask", "delta")
    return {"base": base} | {name: folder / f"{name}.safetensors" for name in names}


def read_checkpoint(path: Path) -> None:
    with checkpoints.open(path) as opened:
        for tensor in opened.tensors.values():
            assert tensor.raw().size == tensor.n


def read_mask(path: Path) -> None:
    opened = masks.Mask.open(path)
    for name in opened.names:
        assert opened.array(name).shape == opened.shape(name)


def read_delta(path: Path) -> None:
    with deltas.open_delta(path, str(path.parent / "base")) as opened:
        for tensor in opened.tensors.values():
            assert tensor.raw().size == tensor.n


READERS: dict[str, Callable[[Path], None]] = {
    "tuned": read_checkpoint,
    "mask": read_mask,
    "delta": read_delta,
}


@st.composite
def damage(draw: st.DrawFn, content: bytes) -> bytes:
    """Bits flipped, a piece cut out or put in, an end cut off, or another header."""
    kinds = ["bits", "cut", "insert", "truncate", "entry", "header", "metadata"]
    kind = draw(st.sampled_from(kinds))
    data = bytearray(content)
    if kind == "bits":
        # Most of them where they can do harm: in the header.
        last = draw(st.sampled_from([16, 400, len(data)])) - 1
        for _ in range(draw(st.integers(1, 8))):
            data[draw(st.integers(0, min(last, len(data) - 1)))] ^= 1 << draw(st.integers(0, 7))
    elif kind == "cut":
        start = draw(st.integers(0, len(data) - 1))
        del data[start : start + draw(st.integers(1, 64))]
    elif kind == "insert":
        start = draw(st.integers(0, len(data)))
        data[start:start] = draw(st.binary(min_size=1, max_size=64))
    elif kind == "truncate":
        del data[draw(st.integers(0, len(data) - 1)) :]
    else:
        (size,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + size])
        entry = header.get("__metadata__")
        if kind == "header" or entry is None:
            entry = header[draw(st.sampled_from(sorted(header)))]
        if kind == "entry":
            entry = header
        key = draw(st.sampled_from(sorted(entry)))
        value = draw(VALUES)
        entry[key] = str(value) if kind == "metadata" else value
        text = json.dumps(header).encode()
        if draw(st.booleans()):  # keeps the data where they were
            text = text.ljust(size)
        data[: 8 + size] = struct.pack("<Q", len(text)) + text
    return bytes(data)


@pytest.mark.parametrize("kind", READERS)
def test_damage_is_refused_or_harmless(
    kind: str, whole: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = whole[kind].read_bytes()
    folder = tmp_path_factory.mktemp(kind)
    (folder / "base").symlink_to(whole["base"])
    path = folder / "damaged.safetensors"
    refused = 0
    lines: set[int] = set()

    @hypothesis.settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
    @hypothesis.given(damage(content))
    def run(damaged: bytes) -> None:
        nonlocal refused
        path.write_bytes(damaged)
        try:
            READERS[kind](path)
        except UserError as error:
            refused += 1
            lines.add(str(error).count("\n") + 1)

    READERS[kind](whole[kind])
    run()
    assert refused > EXAMPLES / 3
    assert lines == {1}


@pytest.mark.parametrize("kind", READERS)
def test_metadata_that_are_no_words_are_refused(
    kind: str, whole: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "base").symlink_to(whole["base"])
    data = whole[kind].read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    for value in ([], None, "text", {"format": 1}, {"format": None}):
        text = json.dumps({**header, "__metadata__": value}).encode()
        path = tmp_path / "damaged.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
        with pytest.raises(UserError):
            READERS[kind](path)


@pytest.mark.parametrize("kind", READERS)
def test_noise_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "noise.safetensors"

    @hypothesis.settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
    @hypothesis.given(st.binary(max_size=200))
    def run(noise: bytes) -> None:
        path.write_bytes(noise)
        with pytest.raises(UserError):
            READERS[kind](path)

    run()


@pytest.mark.parametrize(
    "tensors",
    [
        *("", "[]", "{", "{}x", '{"a": 1}', '{"a": [1, 2, 3]}', None),
        *('{"a": ["BF16", [2], "whole"]}', '{"a": ["XX", [2], "same"]}'),
        *('{"a": ["BF16", [-2], "same"]}', '{"a": ["BF16", [2], "no"]}'),
    ],
)
def test_a_delta_with_a_forged_checksum_is_refused(
    tensors: str | None, whole: dict[str, Path], tmp_path: Path
) -> None:
    data = whole["delta"].read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    facts = header["__metadata__"]
    if tensors is None:
        del facts["base"]
    else:
        facts["tensors"] = tensors
    path = tmp_path / "forged.safetensors"

    def write() -> None:
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])

    write()
    file = storage.File(path)
    facts["content"] = deltas._content(file)
    file.close()
    write()
    with pytest.raises(UserError, match="forged"):
        deltas.open_delta(path, str(whole["base"]))
